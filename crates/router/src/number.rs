//! The numbers of one stream, each of its own type so that they cannot be confused.

/// The number of a consumer of one stream: a run of a sender, a request, a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConsumerNo(u64);

impl ConsumerNo {
    /// The number of no consumer.
    pub(crate) const NOBODY: Self = Self(0);

    /// Returns the number of the consumer that is opened after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The number of a batch of one stream: the SETs that one consumer leased at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchNo(u64);

impl BatchNo {
    /// Returns the number of the batch after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A lease of one stream; the same SET fetched again is another lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseNo {
    /// The SET's place in the ledger.
    pub(crate) seq: u64,
    /// The batch in which it was fetched.
    pub(crate) batch: BatchNo,
}

/// The number of changes of a stream's method or endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// Returns the generation after a change.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The number of changes of a keyring; a token sealed in another generation must be sealed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyGeneration(u64);

impl KeyGeneration {
    /// Returns the present generation of a keyring.
    pub(crate) fn of(keyring: &setgate_jose::Keyring) -> Self {
        Self(keyring.generation())
    }
}
