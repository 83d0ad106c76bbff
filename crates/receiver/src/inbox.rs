//! The detection of duplicates, by issuer and `jti`, in bounded memory.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use parking_lot::Mutex;

/// A memory of the latest SETs that were accepted.
///
/// For each SET it keeps a 128-bit hash of issuer and `jti` and one of its claims, about 64 bytes in all.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Hash, Held>,
    /// The accepted SETs in the order in which they were accepted.
    order: VecDeque<Hash>,
}

type Hash = [u8; 16];

#[derive(Debug)]
struct Held {
    claims: Hash,
    taken: bool,
}

/// The state of a SET in the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The SET is new, and held until [`Inbox::taken`] or [`Inbox::forget`] is called for it.
    New,
    /// The SET is held, and its outcome is open.
    Busy,
    /// The SET was accepted before; it is to be acknowledged again as if it were new (RFC 8935 §2).
    Duplicate {
        /// Whether the claims are those of the first one, as they must be.
        same_claims: bool,
    },
}

impl Inbox {
    /// The number of SETs that are remembered by default.
    pub const CAPACITY: usize = 100_000;

    /// Creates an inbox that remembers `capacity` SETs, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), capacity: capacity.max(1) }
    }

    /// Looks a SET up, and holds it when it is new.
    #[must_use]
    pub fn look(&self, iss: &str, jti: &str, claims: &[u8]) -> Seen {
        let claims = short(blake3::hash(claims));
        match self.state.lock().known.entry(key(iss, jti)) {
            Entry::Vacant(place) => {
                place.insert(Held { claims, taken: false });
                Seen::New
            }
            Entry::Occupied(held) if held.get().taken => Seen::Duplicate { same_claims: held.get().claims == claims },
            Entry::Occupied(_) => Seen::Busy,
        }
    }

    /// Marks a held SET as accepted: from now on it is a duplicate.
    pub fn taken(&self, iss: &str, jti: &str) {
        let mut state = self.state.lock();
        let key = key(iss, jti);
        let Some(held) = state.known.get_mut(&key).filter(|held| !held.taken) else { return };
        held.taken = true;
        state.order.push_back(key);
        while state.order.len() > self.capacity {
            if let Some(oldest) = state.order.pop_front() {
                state.known.remove(&oldest);
            }
        }
    }

    /// Releases a held SET that was not accepted: when it comes again, it is new.
    pub fn forget(&self, iss: &str, jti: &str) {
        let mut state = self.state.lock();
        if let Entry::Occupied(held) = state.known.entry(key(iss, jti))
            && !held.get().taken
        {
            held.remove();
        }
    }
}

fn key(iss: &str, jti: &str) -> Hash {
    let mut hasher = blake3::Hasher::new();
    // The length goes first, so that no two pairs have the same text.
    hasher.update(&u64::try_from(iss.len()).unwrap_or(u64::MAX).to_be_bytes());
    hasher.update(iss.as_bytes()).update(jti.as_bytes());
    short(hasher.finalize())
}

fn short(hash: blake3::Hash) -> Hash {
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_new_once() {
        let inbox = Inbox::new(10);
        assert_eq!(inbox.look("i", "1", b"a"), Seen::New);
        assert_eq!(inbox.look("i", "1", b"a"), Seen::Busy);
        inbox.taken("i", "1");
        assert_eq!(inbox.look("i", "1", b"a"), Seen::Duplicate { same_claims: true });
        assert_eq!(inbox.look("i", "1", b"b"), Seen::Duplicate { same_claims: false });
        inbox.forget("i", "1");
        assert_eq!(inbox.look("i", "1", b"a"), Seen::Duplicate { same_claims: true }, "what was taken stays taken");
    }

    #[test]
    fn what_was_not_taken_is_new_again() {
        let inbox = Inbox::new(10);
        assert_eq!(inbox.look("i", "1", b"a"), Seen::New);
        inbox.forget("i", "1");
        assert_eq!(inbox.look("i", "1", b"a"), Seen::New);
    }

    #[test]
    fn issuers_have_names_of_their_own() {
        let inbox = Inbox::new(10);
        for (iss, jti) in [("i", "1"), ("j", "1"), ("i1", ""), ("", "i1")] {
            assert_eq!(inbox.look(iss, jti, b""), Seen::New, "{iss} {jti}");
            inbox.taken(iss, jti);
        }
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let inbox = Inbox::new(3);
        for n in 0..10 {
            let jti = n.to_string();
            assert_eq!(inbox.look("i", &jti, b""), Seen::New);
            inbox.taken("i", &jti);
            inbox.taken("i", &jti);
        }
        assert_eq!(inbox.state.lock().known.len(), 3);
        assert_eq!(inbox.state.lock().order.len(), 3);
        assert_eq!(inbox.look("i", "9", b""), Seen::Duplicate { same_claims: true });
        assert_eq!(inbox.look("i", "6", b""), Seen::New);
    }
}
