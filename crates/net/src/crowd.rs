//! Connections that have shown no credential, and the choice of the one that makes room for the next caller.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The unit that counts as one address: an IPv4 address, also when IPv6 carries it, or the /64 that one IPv6 host has
/// for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Block(IpAddr);

/// A network that one party probably controls: the /24 of an IPv4 address, the /32 of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Network(IpAddr);

impl Block {
    /// Returns the block that an address belongs to.
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => first_bits(ip, 64),
            four => four,
        })
    }

    fn network(self) -> Network {
        Network(match self.0 {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
            IpAddr::V6(ip) => first_bits(ip, 32),
        })
    }
}

fn first_bits(ip: Ipv6Addr, bits: u32) -> IpAddr {
    Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> bits)).into()
}

/// Connections by origin and age.
#[derive(Default)]
pub(crate) struct Crowd {
    blocks: Ranked<Network, Block>,
    networks: Ranked<(), Network>,
}

impl Crowd {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.members.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.members.len()
    }

    /// Adds a connection; numbers grow with each.
    pub(crate) fn insert(&mut self, block: Block, number: u64) {
        let network = block.network();
        self.blocks.change(network, block, |members| members.insert((block, number)), 1);
        self.networks.change((), network, |members| members.insert((network, number)), 1);
    }

    /// Removes a connection that has closed or is no longer unauthenticated.
    pub(crate) fn remove(&mut self, block: Block, number: u64) {
        let network = block.network();
        self.blocks.change(network, block, |members| members.remove(&(block, number)), -1);
        self.networks.change((), network, |members| members.remove(&(network, number)), -1);
    }

    /// Returns the connection that makes room when all places are taken: in the network with the most connections, at
    /// its address with the most, the oldest. A caller that opens many connections displaces its own.
    pub(crate) fn first_to_go(&self) -> Option<u64> {
        let network = self.networks.largest(())?;
        self.oldest_of(self.blocks.largest(network)?)
    }

    /// Returns the oldest connection of the address, which makes room for another of the same address.
    pub(crate) fn oldest_of(&self, block: Block) -> Option<u64> {
        self.blocks.oldest(block)
    }
}

/// Sets of numbers, by key, with direct access to the largest of a group; among equally large ones, to the one with the
/// oldest member.
struct Ranked<G, K> {
    members: BTreeSet<(K, u64)>,
    sizes: HashMap<K, usize>,
    order: HashMap<G, BTreeSet<(usize, Reverse<u64>, K)>>,
}

impl<G, K> Default for Ranked<G, K> {
    fn default() -> Self {
        Self { members: BTreeSet::new(), sizes: HashMap::new(), order: HashMap::new() }
    }
}

impl<G: Copy + Eq + Hash, K: Copy + Ord + Hash> Ranked<G, K> {
    fn change(&mut self, group: G, key: K, change: impl FnOnce(&mut BTreeSet<(K, u64)>) -> bool, by: isize) {
        let before = self.sizes.get(&key).copied().unwrap_or_default();
        let rank = self.oldest(key).map(|oldest| (before, Reverse(oldest), key));
        if !change(&mut self.members) {
            return;
        }
        let order = self.order.entry(group).or_default();
        if let Some(rank) = rank {
            order.remove(&rank);
        }
        let now = before.saturating_add_signed(by);
        let oldest = self.members.range((key, 0)..=(key, u64::MAX)).next().map(|(_, number)| *number);
        match oldest {
            Some(oldest) => {
                order.insert((now, Reverse(oldest), key));
                self.sizes.insert(key, now);
            }
            None => {
                if order.is_empty() {
                    self.order.remove(&group);
                }
                self.sizes.remove(&key);
            }
        }
    }

    fn largest(&self, group: G) -> Option<K> {
        self.order.get(&group)?.last().map(|(_, _, key)| *key)
    }

    fn oldest(&self, key: K) -> Option<u64> {
        self.members.range((key, 0)..=(key, u64::MAX)).next().map(|(_, number)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(ip: &str) -> Block {
        Block::of(ip.parse().unwrap())
    }

    #[test]
    fn an_address_is_what_one_host_has() {
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_eq!(block("::ffff:192.0.2.1"), block("192.0.2.1"));
        assert_ne!(block("::ffff:192.0.2.1"), block("::ffff:192.0.2.2"));
    }

    #[test]
    fn the_oldest_of_the_largest_makes_room() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.first_to_go(), None);
        // One connection of a small network, before all others; then three addresses of a large one.
        let came = ["192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:2::2", "2001:db8:0:3::1"];
        for (number, ip) in came.iter().enumerate() {
            crowd.insert(block(ip), number as u64);
        }
        let mut gone = Vec::new();
        while let Some(number) = crowd.first_to_go() {
            crowd.remove(block(came[number as usize]), number);
            gone.push(number);
        }
        // The address with two connections comes first; then by age; at last, of two networks with one each, the older.
        assert_eq!(gone, [2, 1, 3, 0, 4]);
        assert!(crowd.is_empty() && crowd.blocks.order.is_empty() && crowd.networks.sizes.is_empty());
    }

    #[test]
    fn who_comes_alone_stays_while_others_come_in_crowds() {
        let mut crowd = Crowd::default();
        crowd.insert(block("192.0.2.1"), 0);
        for number in 1..1000 {
            // Ten networks, each with many addresses.
            crowd.insert(block(&format!("2001:{:x}:{number:x}::1", 0xdb0 + number % 10)), number);
            if crowd.len() > 20 {
                let first = crowd.first_to_go().unwrap();
                assert_ne!(first, 0);
                crowd.remove(block(&format!("2001:{:x}:{first:x}::1", 0xdb0 + first % 10)), first);
            }
        }
    }
}
