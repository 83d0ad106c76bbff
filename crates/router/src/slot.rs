//! A SET on its way through the lanes of one stream.

use setgate_set::Timestamp;
use setgate_store::Head;

/// An owed SET that stands in a lane or is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) head: Head,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// Its token may lie in the seal cache.
    pub(crate) sealed_before: bool,
    /// What went wrong with it, if anything: most SETs never need the room.
    troubles: Option<Box<Troubles>>,
}

/// For each SET that failed so many others must have passed until a failure of the channel is taken for that of one SET.
const PASSED_FOR_EACH: u64 = 3;

/// So many failures of one SET tell something of the stream.
const SAYS_SOMETHING: u32 = 2;

/// How a stream has fared so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fared {
    /// SETs that were taken.
    pub(crate) passed: u64,
    /// Failures as if the channel had failed, the first two of each SET.
    pub(crate) failed: u64,
}

/// Failures of one SET.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles {
    /// When the first attempt failed.
    pub(crate) first_failed: Option<Timestamp>,
    /// Failures of this SET alone, each with a success of another SET since the one before.
    pub(crate) lone_failures: u32,
    /// Failures as if the channel had failed.
    channel_failures: u32,
    /// How the stream had fared at the last failure.
    then: Fared,
    /// It failed together with others, and may be the reason: it leaves alone next time.
    pub(crate) apart: bool,
}

impl Troubles {
    /// It failed, and the answer was about it.
    pub(crate) fn failed(&mut self, fared: Fared) {
        if fared.passed > self.then.passed || self.lone_failures == 0 {
            self.lone_failures += 1;
            self.then = fared;
        }
    }

    /// It failed, and the answer was about the channel or what lies behind it. Tells whether it is this SET nevertheless: it left
    /// alone, and since its failure before nearly all others passed.
    ///
    /// What a stream that is unhealthy makes fail must not be taken for poison: there, others fail too.
    pub(crate) fn failed_with_channel(&mut self, fared: &mut Fared, alone: bool) -> bool {
        let (passed, failed) = (fared.passed - self.then.passed, fared.failed - self.then.failed);
        // What fails again and again says nothing more of the stream: two such SETs must not shelter each other.
        fared.failed += u64::from(self.channel_failures < SAYS_SOMETHING);
        self.channel_failures += 1;
        self.then = *fared;
        if self.lone_failures == 0 {
            self.lone_failures = 1;
            return false;
        }
        // Where nothing has happened since it failed in company, what was known then holds still.
        let others_pass = passed > PASSED_FOR_EACH * failed || self.apart && failed == 0;
        self.apart = others_pass;
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

    /// Whether nothing else may leave in one hand-over with it.
    pub(crate) fn is_apart(&self) -> bool {
        self.troubles.as_ref().is_some_and(|troubles| troubles.apart)
    }

    /// When the first attempt failed.
    pub(crate) fn first_failed(&self) -> Option<Timestamp> {
        self.troubles.as_ref().and_then(|troubles| troubles.first_failed)
    }

    /// An attempt failed then, perhaps not the first.
    pub(crate) fn failed_at(&mut self, at: Timestamp) {
        self.troubles().first_failed.get_or_insert(at);
    }

    /// What went wrong, to be added to.
    pub(crate) fn troubles(&mut self) -> &mut Troubles {
        self.troubles.get_or_insert_default()
    }
}
