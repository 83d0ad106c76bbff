//! What only the store can say: whether a commit in doubt took place, and which parked SETs it forgot.

use super::Play;
use crate::{
    compare::{compare, forget_parked, take_back},
    model::Model,
};

impl Play<'_> {
    /// Finds out whether the group in doubt is on the disk, by what the store holds now. `anew` is true after a start,
    /// when lazy ends may have been lost.
    pub(super) fn resolve(&mut self, anew: bool) {
        let Some(store) = self.store() else { return };
        let doubt = self.doubt.take();
        let mut book = self.book.lock();
        let now = book.now();
        let fits = |mut model: Model| -> Result<Model, String> {
            if anew {
                take_back(&store, &mut model);
            }
            forget_parked(&store, &mut model, now)?;
            compare(&store, &model)?;
            Ok(model)
        };
        let absent = fits(book.model.clone());
        let found = match (absent, doubt) {
            (Ok(model), Some(_)) => {
                book.fired("a commit in doubt was not on the disk");
                Ok(model)
            }
            (Ok(model), None) => Ok(model),
            (Err(why), None) => Err(why),
            (Err(why), Some(group)) => {
                let mut model = book.model.clone();
                let units = group.iter().map(|(units, lazy)| (units.as_slice(), *lazy, None));
                let applied = model.group(units, now).and_then(|()| fits(model));
                if applied.is_ok() {
                    book.fired("a commit in doubt was on the disk");
                }
                applied
                    .map_err(|other| format!("law 4: neither with the unit in doubt ({other}) nor without it ({why})"))
            }
        };
        match found {
            Ok(model) => {
                let taken = model.taken_back - book.model.taken_back;
                book.tally.add("an end was taken back by a crash", taken);
                book.model = model;
                book.note_rules();
                if anew {
                    book.model.loose.clear();
                }
            }
            Err(why) => book.broken(why),
        }
    }

    pub(super) fn forget_parked(&self) {
        let Some(store) = self.store() else { return };
        let mut book = self.book.lock();
        let now = book.now();
        if book.model.parked.is_empty() || self.doubt.is_some() {
            return;
        }
        let done = forget_parked(&store, &mut book.model, now).map(drop);
        book.check(done);
    }
}
