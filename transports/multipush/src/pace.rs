//! The size of the next request: it grows while requests are accepted, and is halved when the SETs are too many.

/// The first size of a channel's requests, which the draft of 2025 names as the most that should be sent at once.
const FIRST: usize = 20;
/// The number of requests of full size after which a size that was refused is tried again.
const PATIENCE: u32 = 256;

/// The size of a channel's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    size: usize,
    /// The largest size to try: below the smallest one that was refused recently.
    ceiling: usize,
    most: usize,
    full: u32,
}

impl Pace {
    pub(crate) fn new(most: usize) -> Self {
        Self { size: FIRST.min(most), ceiling: most, most, full: 0 }
    }

    /// Returns the most SETs for the next request.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// Records that a request of `sets` SETs was understood.
    pub(crate) fn understood(&mut self, sets: usize) {
        if sets < self.size {
            // The request was not full, so it says nothing about larger ones.
            return;
        }
        if self.size < self.ceiling {
            self.size = (self.size + self.size / 4 + 1).min(self.ceiling);
        } else if self.ceiling < self.most {
            self.full += 1;
            if self.full >= PATIENCE {
                self.full = 0;
                self.ceiling = (self.ceiling + self.ceiling / 8 + 1).min(self.most);
            }
        }
    }

    /// Records that a request of `sets` SETs was too large for the receiver.
    pub(crate) fn too_many(&mut self, sets: usize) {
        self.halve(sets);
        self.full = 0;
        // The ceiling drops by a sixteenth, so that the search ends after few refusals.
        self.ceiling = self.ceiling.min((sets - (sets / 16).max(1).min(sets)).max(1)).max(self.size);
    }

    /// Halves the size after a request of `sets` SETs was refused, perhaps for one of them.
    pub(crate) fn halve(&mut self, sets: usize) {
        self.size = self.size.min(sets / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends requests to a receiver with a limit, and returns how many of them were refused.
    fn run(pace: &mut Pace, limit: usize, requests: usize) -> usize {
        let mut refused = 0;
        for _ in 0..requests {
            let sets = pace.size();
            if sets > limit {
                pace.too_many(sets);
                refused += 1;
            } else {
                pace.understood(sets);
            }
        }
        refused
    }

    #[test]
    fn grows_to_what_is_allowed_and_no_further() {
        let mut pace = Pace::new(200);
        assert_eq!(pace.size(), 20);
        run(&mut pace, 1000, 12);
        assert_eq!(pace.size(), 200);
        assert_eq!(run(&mut Pace::new(1), 1, 100), 0);
        assert_eq!(Pace::new(5).size(), 5);
    }

    #[test]
    fn settles_just_below_a_receivers_limit_after_few_refusals() {
        for limit in [1, 2, 7, 19, 20, 50, 99, 150, 199] {
            let mut pace = Pace::new(200);
            let refused = run(&mut pace, limit, 200);
            assert!(refused <= 12, "{limit}: {refused} refusals");
            assert!(pace.size() <= limit && pace.size() >= limit - limit / 12, "{limit}: {}", pace.size());
            let again = run(&mut pace, limit, 1000);
            assert!(again <= 12, "{limit}: {again} more refusals in a thousand requests");
        }
    }

    #[test]
    fn a_limit_that_is_lifted_is_found_out() {
        let mut pace = Pace::new(200);
        run(&mut pace, 20, 100);
        run(&mut pace, 1000, 10_000);
        assert_eq!(pace.size(), 200);
    }

    #[test]
    fn requests_that_are_not_full_tell_nothing() {
        let mut pace = Pace::new(200);
        (0..100).for_each(|_| pace.understood(3));
        assert_eq!(pace.size(), 20);
    }

    #[test]
    fn refusals_of_one_volley_halve_once() {
        let mut pace = Pace::new(200);
        run(&mut pace, 1000, 100);
        (0..4).for_each(|_| pace.too_many(200));
        assert_eq!(pace.size(), 100);
        pace.halve(1);
        assert_eq!(pace.size(), 1);
    }
}
