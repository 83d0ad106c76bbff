//! The fetched and unsettled SETs of one order key.

/// Positions in the order of the ledger. Most lanes have one at a time, which needs no allocation.
#[derive(Debug, Default)]
pub(super) enum Out {
    #[default]
    None,
    One(u64),
    Many(Vec<u64>),
}

impl Out {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    fn all(&self) -> &[u64] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// Returns the positions behind `seq`.
    pub(super) fn behind(&self, seq: u64) -> &[u64] {
        let all = self.all();
        all.get(all.partition_point(|other| *other <= seq)..).unwrap_or_default()
    }

    pub(super) fn insert(&mut self, seq: u64) {
        match self {
            Self::None => *self = Self::One(seq),
            Self::One(one) if *one == seq => {}
            Self::One(one) => *self = Self::Many(vec![seq.min(*one), seq.max(*one)]),
            Self::Many(many) => {
                if let Err(place) = many.binary_search(&seq) {
                    many.insert(place, seq);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, seq: u64) {
        match self {
            Self::One(one) if *one == seq => *self = Self::None,
            Self::Many(many) => {
                if let Ok(place) = many.binary_search(&seq) {
                    many.remove(place);
                }
                if many.is_empty() {
                    *self = Self::None;
                }
            }
            Self::None | Self::One(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_of_the_ledger() {
        let mut out = Out::default();
        [5, 3, 9, 3].into_iter().for_each(|seq| out.insert(seq));
        assert_eq!(out.all(), [3, 5, 9]);
        assert_eq!((out.behind(3), out.behind(4), out.behind(9)), (&[5, 9][..], &[5, 9][..], &[][..]));
        [5, 7, 3].into_iter().for_each(|seq| out.remove(seq));
        assert_eq!(out.all(), [9]);
        out.remove(9);
        assert!(out.is_empty());
    }
}
