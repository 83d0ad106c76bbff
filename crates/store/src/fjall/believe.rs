//! The renewed belief in the wall clock. Records that were accepted while it was suspect must not count as older than
//! they are, and records that were accepted under a clock that was ahead must not hold time still for years.

use setgate_set::Timestamp;

use crate::{
    Confirmed,
    codec::{In, Out, damaged},
    fjall::{
        batch::{Failure, Filling},
        bucket::{row_key, write_row},
        engine::{Engine, engine_error, read_row as read_parked, write_row as write_parked},
        replay::Fold,
        writer::Writer,
    },
    sanity::Strayed,
    time::HeldBack,
};

/// The key of the runs of records whose times were held back.
pub(crate) const HELD_BACK: &str = "held-back";

pub(crate) fn write_held_back(runs: &[HeldBack]) -> Vec<u8> {
    let mut out = Out::new(32);
    for run in runs {
        let times = [run.times.0, run.times.1, run.until].map(Timestamp::as_millis);
        for number in [run.first, run.last].into_iter().chain(times) {
            out.number(number);
        }
    }
    out.sealed()
}

pub(crate) fn read_held_back(value: &[u8]) -> Result<Vec<HeldBack>, crate::StoreError> {
    let read = || {
        let mut from = In::sealed(value)?;
        let mut runs = Vec::new();
        while !from.is_empty() {
            let (first, last) = (from.number()?, from.number()?);
            let [began, ended, until] = [from.number()?, from.number()?, from.number()?].map(Timestamp::from_millis);
            runs.push(HeldBack { first, last, times: (began, ended), until });
        }
        Some(runs)
    };
    read().ok_or_else(|| damaged("what is noted of times that were held back"))
}

/// The number of parked SETs that are written in one commit.
const SOME: usize = 1024;

impl Writer {
    /// Checks the clock before anything is planned, and believes it when it has run steadily for long enough.
    pub(crate) fn watch_clock(&mut self) -> Result<(), Failure> {
        let (last, accepted) = {
            let state = self.shared.state.read();
            (state.last, state.last_accepted)
        };
        match self.shared.sanity.watch(&self.shared.runtime, last, accepted).suspect {
            Some(strayed) if strayed.left.is_zero() => {
                tracing::warn!(
                    seconds_ahead = strayed.seconds(),
                    "the wall clock has gone on evenly for long enough after its jump: it is believed from now on"
                );
                self.believe(Some(strayed), false).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Believes the wall clock because an operator confirmed it.
    pub(crate) fn confirm_clock(&mut self) -> Result<Confirmed, Failure> {
        let last = self.shared.state.read().last;
        let strayed = self.shared.sanity.look(&self.shared.runtime, Some(last)).suspect;
        self.believe(strayed, true)
    }

    /// Believes the wall clock. Its changes are durable before they are visible.
    ///
    /// With `back`, the next times of acceptance go back to the clock where they are ahead of it. Segments are then no
    /// younger than the clock either, since everything in them was accepted before.
    fn believe(&mut self, strayed: Option<Strayed>, back: bool) -> Result<Confirmed, Failure> {
        let Some(engine) = self.engine.clone() else { return Ok(Confirmed::default()) };
        let now = match strayed {
            Some(strayed) => strayed.wall,
            None => self.shared.sanity.now(&self.shared.runtime),
        };
        let (last, first, ahead, mut runs) = {
            let state = self.shared.state.read();
            (state.last, state.first, state.last_accepted.since(now), state.held_back.clone())
        };
        let back = back && !ahead.is_zero();
        self.date_parked(&engine, now)?;
        if back {
            // No head may be left to a replay: the last one would set the time.
            self.fold()?;
        }
        let offset = strayed.map_or(0, |strayed| strayed.offset);
        if let Some(strayed) = strayed.filter(|_| offset > 0) {
            let from = strayed.last.unwrap_or(last);
            let longest = self.shared.options.parked_age;
            let times = (strayed.began, self.shared.sanity.now(&self.shared.runtime));
            HeldBack { first: from + 1, last, times, until: now }.add(&mut runs, first, longest);
        }
        if offset < 0 || back {
            runs.iter_mut().for_each(|run| run.until = run.until.min(now));
        }
        let fold = Fold { accepted: if back { now } else { self.fold.accepted }, ..self.fold };
        let mut segments = engine.segments.read().clone();
        let buckets = {
            // Keys that were collected meanwhile are no older than this, and none is younger.
            let moved = |until: Timestamp| if offset > 0 { until.max(now) } else { until.min(now) };
            let once = engine.once.read();
            let all = once.iter().filter_map(|(number, bucket)| Some((*number, bucket.slot, bucket.until?)));
            let all = all.filter(|_| offset != 0 || back);
            all.filter(|(.., until)| moved(*until) != *until)
                .map(|(number, slot, until)| (number, slot, moved(until)))
                .collect::<Vec<_>>()
        };
        let mut filling = Filling::new(&engine, segments.len() + 8);
        filling.batch.insert(&engine.meta, HELD_BACK, write_held_back(&runs));
        if back {
            filling.batch.insert(&engine.meta, Fold::KEY, fold.write());
            for segment in segments.values_mut().filter(|segment| segment.accepted_last.is_some_and(|at| at > now)) {
                segment.accepted_last = Some(now);
                filling.segment(segment);
            }
        }
        for (number, slot, until) in &buckets {
            filling.batch.insert(&engine.meta, row_key(*number), write_row(*number, *slot, *until));
        }
        self.commit_aside(&engine, filling)?;
        self.fold = fold;
        {
            // The buckets change before the clock is believed: until then nothing is forgotten.
            let mut once = engine.once.write();
            for (number, _, until) in buckets {
                if let Some(bucket) = once.get_mut(&number) {
                    bucket.until = Some(until);
                }
            }
        }
        *engine.segments.write() = segments;
        {
            let mut state = self.shared.state.write();
            state.held_back = runs;
            if back {
                state.last_accepted = now;
            }
        }
        self.shared.sanity.believe(&self.shared.runtime);
        self.mark(None, None)?;
        Ok(Confirmed {
            offset_seconds: strayed.map_or(0, |strayed| strayed.seconds()),
            went_back_seconds: if back { ahead.as_secs() } else { 0 },
        })
    }

    /// Dates parked SETs no later than now. A later time comes from a clock that was ahead, and the SET would be kept
    /// until that time and longer. An interrupted run is repeated, which may date some of them twice.
    fn date_parked(&mut self, engine: &Engine, now: Timestamp) -> Result<(), Failure> {
        let mut from = Vec::new();
        loop {
            let mut filling = Filling::new(engine, SOME + 1);
            let mut some = 0;
            for item in engine.parked.range(from.clone()..) {
                let (key, value) = item.into_inner().map_err(engine_error).map_err(Failure::Write)?;
                // An unreadable row stays as it is.
                let Some(mut row) = read_parked(&value).ok().filter(|row| row.parked.parked_at > now) else { continue };
                row.parked.parked_at = now;
                filling.batch.insert(&engine.parked, &*key, write_parked(&row).map_err(Failure::Write)?);
                from = [&*key, &[0]].concat();
                some += 1;
                if some == SOME {
                    break;
                }
            }
            if some > 0 {
                filling.touch(&engine.parked);
                self.commit_aside(engine, filling)?;
            }
            if some < SOME {
                return Ok(());
            }
        }
    }
}
