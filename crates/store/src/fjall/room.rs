//! The check whether a file system has enough space for a store.

use std::path::Path;

use crate::{FjallStore, OpenError, Options, StorePlace, fjall::place::space};

/// The disk of a store, before the store is opened or created.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Room {
    /// The size of the file system in bytes.
    pub whole: u64,
    /// The bytes that are free on it.
    pub free: u64,
    /// The bytes that are kept free.
    pub reserve: u64,
    /// The bytes that the store may use.
    pub budget: u64,
}

impl FjallStore {
    /// Measures the disk of a store that exists or is still to be created.
    ///
    /// # Errors
    /// Returns [`OpenError`] where the size of the file system cannot be read.
    pub fn room(place: &StorePlace, options: &Options) -> Result<Room, OpenError> {
        let mut at: &Path = &place.store;
        while !at.exists()
            && let Some(above) = at.parent()
        {
            at = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        }
        let (free, whole) = space(at).map_err(OpenError::io("look at", at))?;
        let budget = match options.budget_bytes {
            0 => place.instance(None).map_or(whole / 2, |instance| instance.budget),
            set => set,
        };
        Ok(Room { whole, free, reserve: options.reserve(whole), budget })
    }
}

impl Room {
    /// Returns what does not fit and the advice which option to set, or `None` where everything fits.
    #[must_use]
    pub fn misfit(&self) -> Option<(String, String)> {
        let Self { whole, free, reserve, budget } = *self;
        if free <= reserve {
            return Some((
                format!(
                    "no event can be accepted: {free} of {whole} bytes are free on the file system of the store, and \
                     `store.reserve_bytes` keeps {reserve} of them free"
                ),
                format!("free some room, or set `store.reserve_bytes` to {} or less", free / 2),
            ));
        }
        // A budget that is switched off is the operator's decision.
        if budget < u64::MAX && budget.saturating_add(reserve) > whole {
            return Some((
                format!(
                    "`store.budget_bytes` ({budget}) and the reserve ({reserve}) are more than the file system has ({whole} bytes): \
                     before the budget could cut streams that do not acknowledge, the reserve closes intake for all"
                ),
                format!("set `store.budget_bytes` to {} or less", whole.saturating_sub(reserve)),
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_does_not_fit_is_said_with_the_number_to_set() {
        let room = Room { whole: 400 * MIB, free: 300 * MIB, reserve: 512 * MIB, budget: 200 * MIB };
        let (what, remedy) = room.misfit().unwrap();
        assert!(
            what.contains("no event can be accepted") && remedy.contains(&(150 * MIB).to_string()),
            "{what} {remedy}"
        );
        let room = Room { reserve: 100 * MIB, budget: 350 * MIB, ..room };
        let (what, remedy) = room.misfit().unwrap();
        assert!(what.contains("budget_bytes") && remedy.contains(&(300 * MIB).to_string()), "{what} {remedy}");
        assert_eq!(Room { budget: 200 * MIB, ..room.clone() }.misfit(), None);
        assert_eq!(Room { budget: u64::MAX, ..room }.misfit(), None);
    }
}
