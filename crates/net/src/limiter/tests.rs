use std::net::Ipv6Addr;

use setgate_clock::MockClock;

use tokio::sync::mpsc;

use super::*;
use crate::{observe::Observed, permit::HeldPermit};

fn limiter(limits: Limits) -> Arc<ConnectionLimiter> {
    ConnectionLimiter::new(&limits, MockClock::at(0), Observed::default().of("public"))
}

fn come(limiter: &Arc<ConnectionLimiter>, ip: impl Into<IpAddr>) -> Result<HeldPermit, Limit> {
    let (number, connection) = limiter.try_admit(ip.into())?;
    Ok(HeldPermit::new(limiter.clone(), number, connection, mpsc::channel(1).0))
}

fn permit_state(limiter: &ConnectionLimiter) -> (usize, usize) {
    let places = limiter.places();
    (places.crowd.len(), places.taken - places.crowd.len())
}

#[test]
fn all_addresses_of_one_host_are_one() {
    let limiter = limiter(Limits { connections_per_address: 100, ..Limits::default() });
    let mut all = Vec::new();
    for host in 0..1000u128 {
        // Each connection has a new address of the same /64, and shows a credential.
        let ip = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + host);
        if let Ok(held) = come(&limiter, ip) {
            held.permit().vouch("a");
            all.push(held);
        }
    }
    assert_eq!(all.len(), 100);
    assert_eq!(permit_state(&limiter), (0, 100));
    // The neighbouring /64 has its own share; an IPv4 address counts as the same in both notations.
    assert!(come(&limiter, Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + (1 << 64))).is_ok());
    let four = [192, 0, 2, 1];
    for number in 0..100 {
        let ip: IpAddr =
            if number % 2 == 0 { four.into() } else { std::net::Ipv4Addr::from(four).to_ipv6_mapped().into() };
        all.push(come(&limiter, ip).unwrap());
        all.last().unwrap().permit().vouch("b");
    }
    assert_eq!(come(&limiter, four).err(), Some(Limit::PerAddress));
}

#[test]
fn ten_hostile_networks_take_no_place_of_those_who_are_known_and_stop_nobody_from_coming() {
    let limiter = limiter(Limits { connections: 1000, unauthenticated_connections: 500, ..Limits::default() });
    let known: Vec<HeldPermit> = (0..10).map(|host| come(&limiter, [192, 0, 2, host]).unwrap()).collect();
    known.iter().for_each(|held| held.permit().vouch("a"));
    let quiet = come(&limiter, [198, 51, 100, 1]).unwrap();
    let hostile = |number: u128| Ipv6Addr::from_bits(((0x2001_0db0 + number % 10) << 96) + (number << 64));
    let mut attack: Vec<HeldPermit> = (0..5000).map(|number| come(&limiter, hostile(number)).unwrap()).collect();
    assert_eq!(permit_state(&limiter), (500, 10));
    // A caller that arrives in the middle of it has a place, keeps it, and is known at once.
    let late = come(&limiter, [203, 0, 113, 1]).unwrap();
    attack.extend((5000..9000).map(|number| come(&limiter, hostile(number)).unwrap()));
    late.permit().vouch("b");
    assert_eq!(permit_state(&limiter), (499, 11));
    for held in known.iter().chain([&quiet, &late]) {
        assert!(!held.permit().connection().is_cut());
    }
    assert_eq!(attack.iter().filter(|held| !held.permit().connection().is_cut()).count(), 498);
    drop((known, quiet, late, attack));
    assert_eq!(permit_state(&limiter), (0, 0));
    assert!(limiter.places().of_blocks.is_empty() && limiter.places().of_clients.is_empty());
}

#[test]
fn a_client_has_no_more_than_its_share_of_places_that_it_keeps() {
    let limits = Limits { connections: 20, connections_per_client: 5, ..Limits::default() };
    let limiter = limiter(limits);
    let greedy: Vec<HeldPermit> = (0..20).map(|host| come(&limiter, [192, 0, 2, host]).unwrap()).collect();
    greedy.iter().for_each(|held| held.permit().vouch("greedy"));
    assert_eq!(permit_state(&limiter), (15, 5));
    let mut others = Vec::new();
    for host in 0..15 {
        others.push(come(&limiter, [198, 51, 100, host]).unwrap());
        others.last().unwrap().permit().vouch(&format!("modest {}", host % 3));
    }
    assert_eq!(permit_state(&limiter), (0, 20));
    assert_eq!(come(&limiter, [203, 0, 113, 1]).err(), Some(Limit::Connections));
}

#[test]
fn who_is_known_comes_back_to_the_place_of_somebody_who_is_not() {
    let limiter = limiter(Limits { connections: 2, ..Limits::default() });
    let all_held = [1, 2].map(|host| come(&limiter, [192, 0, 2, host]).unwrap());
    all_held[0].permit().vouch("a");
    let away = all_held.each_ref().map(|held| held.permit().leave());
    assert_eq!(permit_state(&limiter), (0, 0));
    let strangers = [3, 4].map(|host| come(&limiter, [192, 0, 2, host]).unwrap());
    drop(away);
    assert_eq!(permit_state(&limiter), (1, 1));
    assert!(strangers[0].permit().connection().is_cut() && !strangers[1].permit().connection().is_cut());
    assert!(limiter.places().permits.values().any(|entry| entry.permit_state == PermitState::Authenticated));
}

#[test]
fn a_process_without_descriptors_ends_a_connection_that_is_not_known() {
    let limiter = limiter(Limits::default());
    let all_held = [1, 2].map(|host| come(&limiter, [192, 0, 2, host]).unwrap());
    all_held[0].permit().vouch("a");
    limiter.make_room();
    limiter.make_room();
    assert!(!all_held[0].permit().connection().is_cut() && all_held[1].permit().connection().is_cut());
}
