use std::net::Ipv6Addr;

use setgate_clock::MockClock;

use super::*;
use crate::observe::Observed;

fn floor(limits: Limits) -> Arc<Floor> {
    Floor::new(&limits, MockClock::at(0), Observed::default().of("world"))
}

fn come(floor: &Arc<Floor>, ip: impl Into<IpAddr>) -> Result<Sitting, Limit> {
    floor.try_seat(ip.into(), mpsc::channel(1).0)
}

fn standing(floor: &Floor) -> (usize, usize) {
    let places = floor.places();
    (places.crowd.len(), places.taken - places.crowd.len())
}

#[test]
fn all_addresses_of_one_host_are_one() {
    let floor = floor(Limits { connections_per_address: 100, ..Limits::default() });
    let mut all = Vec::new();
    for host in 0..1000u128 {
        // Another address of the same /64 each time, and each time a credential.
        let ip = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + host);
        if let Ok(sitting) = come(&floor, ip) {
            sitting.seat().vouch("a");
            all.push(sitting);
        }
    }
    assert_eq!(all.len(), 100);
    assert_eq!(standing(&floor), (0, 100));
    // The /64 beside it has its own share; an IPv4 address is the same however it is written.
    assert!(come(&floor, Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + (1 << 64))).is_ok());
    let four = [192, 0, 2, 1];
    for number in 0..100 {
        let ip: IpAddr =
            if number % 2 == 0 { four.into() } else { std::net::Ipv4Addr::from(four).to_ipv6_mapped().into() };
        all.push(come(&floor, ip).unwrap());
        all.last().unwrap().seat().vouch("b");
    }
    assert_eq!(come(&floor, four).err(), Some(Limit::PerAddress));
}

#[test]
fn ten_hostile_networks_take_no_place_of_those_who_are_known_and_stop_nobody_from_coming() {
    let floor = floor(Limits { connections: 1000, unauthenticated_connections: 500, ..Limits::default() });
    let known: Vec<Sitting> = (0..10).map(|host| come(&floor, [192, 0, 2, host]).unwrap()).collect();
    known.iter().for_each(|sitting| sitting.seat().vouch("a"));
    let quiet = come(&floor, [198, 51, 100, 1]).unwrap();
    let hostile = |number: u128| Ipv6Addr::from_bits(((0x2001_0db0 + number % 10) << 96) + (number << 64));
    let mut attack: Vec<Sitting> = (0..5000).map(|number| come(&floor, hostile(number)).unwrap()).collect();
    assert_eq!(standing(&floor), (500, 10));
    // Somebody who comes in the middle of it has a place, keeps it, and is known at once.
    let late = come(&floor, [203, 0, 113, 1]).unwrap();
    attack.extend((5000..9000).map(|number| come(&floor, hostile(number)).unwrap()));
    late.seat().vouch("b");
    assert_eq!(standing(&floor), (499, 11));
    for sitting in known.iter().chain([&quiet, &late]) {
        assert!(!sitting.seat().is_cut());
    }
    assert_eq!(attack.iter().filter(|sitting| !sitting.seat().is_cut()).count(), 498);
    drop((known, quiet, late, attack));
    assert_eq!(standing(&floor), (0, 0));
    assert!(floor.places().of_blocks.is_empty() && floor.places().of_clients.is_empty());
}

#[test]
fn a_client_has_no_more_than_its_share_of_places_that_it_keeps() {
    let limits = Limits { connections: 20, connections_per_client: 5, ..Limits::default() };
    let floor = floor(limits);
    let greedy: Vec<Sitting> = (0..20).map(|host| come(&floor, [192, 0, 2, host]).unwrap()).collect();
    greedy.iter().for_each(|sitting| sitting.seat().vouch("greedy"));
    assert_eq!(standing(&floor), (15, 5));
    let mut others = Vec::new();
    for host in 0..15 {
        others.push(come(&floor, [198, 51, 100, host]).unwrap());
        others.last().unwrap().seat().vouch(&format!("modest {}", host % 3));
    }
    assert_eq!(standing(&floor), (0, 20));
    assert_eq!(come(&floor, [203, 0, 113, 1]).err(), Some(Limit::Connections));
}

#[test]
fn who_is_known_comes_back_to_the_place_of_somebody_who_is_not() {
    let floor = floor(Limits { connections: 2, ..Limits::default() });
    let sittings = [1, 2].map(|host| come(&floor, [192, 0, 2, host]).unwrap());
    sittings[0].seat().vouch("a");
    let away = sittings.each_ref().map(|sitting| sitting.seat().leave());
    assert_eq!(standing(&floor), (0, 0));
    let strangers = [3, 4].map(|host| come(&floor, [192, 0, 2, host]).unwrap());
    drop(away);
    assert_eq!(standing(&floor), (1, 1));
    assert!(strangers[0].seat().is_cut() && !strangers[1].seat().is_cut());
    assert!(floor.places().seats.values().any(|entry| entry.standing == Standing::Authenticated));
}

#[test]
fn a_process_without_descriptors_ends_a_connection_that_is_not_known() {
    let floor = floor(Limits::default());
    let sittings = [1, 2].map(|host| come(&floor, [192, 0, 2, host]).unwrap());
    sittings[0].seat().vouch("a");
    floor.make_room();
    floor.make_room();
    assert!(!sittings[0].seat().is_cut() && sittings[1].seat().is_cut());
}
