//! A SET on its way through the lanes of one stream.

use setgate_set::Timestamp;
use setgate_store::Head;

/// An owed SET that stands in a lane or is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) head: Head,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// True when its token may be in the seal cache.
    pub(crate) sealed_before: bool,
    /// The failures of the SET, if it has any; most SETs never need the room.
    troubles: Option<Box<Troubles>>,
}

/// The number of other SETs that must have passed for each one that failed, until a failure of the channel is taken for
/// that of one SET.
const PASSED_FOR_EACH: u64 = 3;

/// The number of failures of one SET that say something about the stream.
const SAYS_SOMETHING: u32 = 2;

/// The deliveries of a stream so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fared {
    /// SETs that were acknowledged.
    pub(crate) passed: u64,
    /// Failures that looked like the channel's, the first two of each SET.
    pub(crate) failed: u64,
}

/// The failures of one SET.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles {
    /// The time at which the first attempt failed.
    pub(crate) first_failed: Option<Timestamp>,
    /// Failures of this SET alone, each with a success of another SET since the one before.
    pub(crate) lone_failures: u32,
    /// Failures that looked like the channel's.
    channel_failures: u32,
    /// The deliveries of the stream up to the last failure.
    then: Fared,
    /// True when it failed while others passed and may be the reason: it leaves alone next time.
    pub(crate) apart: bool,
    /// True when the last such failure was in company: it counts as soon as the SET fails alone.
    in_company: bool,
}

impl Troubles {
    /// Notes a failure whose answer was about this SET.
    pub(crate) fn failed(&mut self, fared: Fared) {
        if fared.passed > self.then.passed || self.lone_failures == 0 {
            self.lone_failures += 1;
            self.then = fared;
        }
    }

    /// Notes a failure whose answer was about the channel or what lies behind it. Returns whether this SET is the
    /// reason nevertheless: it left alone, and nearly all others have passed since its last failure.
    ///
    /// Failures that an unhealthy stream causes must not be taken for poison: there, others fail too.
    pub(crate) fn failed_with_channel(&mut self, fared: &mut Fared, alone: bool) -> bool {
        let (passed, failed) = (fared.passed - self.then.passed, fared.failed - self.then.failed);
        // A SET that fails again and again says nothing more about the stream: two such SETs must not shelter each
        // other.
        fared.failed += u64::from(self.channel_failures < SAYS_SOMETHING);
        self.channel_failures += 1;
        self.then = *fared;
        if self.lone_failures == 0 {
            self.lone_failures = 1;
            return false;
        }
        // Where nothing has happened since it failed in company, what was known then still holds.
        // That is said once: where nobody passes any more, the receiver may have gone away.
        let others_pass = passed > PASSED_FOR_EACH * failed || self.in_company && failed == 0;
        self.apart = others_pass;
        self.in_company = others_pass && !alone;
        self.lone_failures += u32::from(others_pass && alone);
        others_pass && alone
    }
}

impl Slot {
    pub(crate) fn new(head: Head) -> Self {
        Self { head, attempts: 0, sealed_before: false, troubles: None }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.head.at.seq
    }

    /// Returns whether no other SET may leave in one hand-over with it.
    pub(crate) fn is_apart(&self) -> bool {
        self.troubles.as_ref().is_some_and(|troubles| troubles.apart)
    }

    /// Returns the time at which the first attempt failed.
    pub(crate) fn first_failed(&self) -> Option<Timestamp> {
        self.troubles.as_ref().and_then(|troubles| troubles.first_failed)
    }

    /// Notes that an attempt failed at this time; only the first time is kept.
    pub(crate) fn failed_at(&mut self, at: Timestamp) {
        self.troubles().first_failed.get_or_insert(at);
    }

    /// Returns its failures, to be added to.
    pub(crate) fn troubles(&mut self) -> &mut Troubles {
        self.troubles.get_or_insert_default()
    }
}
