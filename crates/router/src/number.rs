//! Numbers of one stream that must not be taken for one another.

/// A consumer of one stream: a run of a sender, a request, a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConsumerNo(u64);

impl ConsumerNo {
    /// No consumer.
    pub(crate) const NOBODY: Self = Self(0);

    /// The consumer that is opened after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A batch of one stream: what one consumer leased at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchNo(u64);

impl BatchNo {
    /// The batch after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A lease of one stream: the same SET fetched again is another lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseNo {
    /// The SET's place in the ledger.
    pub(crate) seq: u64,
    /// The batch in which it was fetched.
    pub(crate) batch: BatchNo,
}

/// Counts changes of a stream's method or endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// The one after a change.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Counts changes of a keyring: what was sealed in another must be sealed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyGeneration(u64);

impl KeyGeneration {
    /// The one of a keyring now.
    pub(crate) fn of(keyring: &setgate_jose::Keyring) -> Self {
        Self(keyring.generation())
    }
}
