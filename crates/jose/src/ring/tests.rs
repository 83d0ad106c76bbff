use super::*;
use crate::{AllowedAlgorithms, Jwks, Kek, SealError, VerifyError, verify};

const ROTATION: Rotation =
    Rotation { max_age: Duration::from_secs(900), retire_after: Duration::from_secs(30 * 24 * 3600) };
const START: u64 = 1_800_000_000_000;
const ALG: Algorithm = Algorithm::EdDSA;

/// Returns the moment `seconds` after the start, by both clocks.
fn at(seconds: u64) -> Moment {
    clocks(seconds, seconds)
}

fn clocks(wall: u64, monotonic: u64) -> Moment {
    Moment { wall_millis: START + wall * 1000, monotonic: Duration::from_secs(monotonic) }
}

fn ring() -> Ring {
    Ring::new(at(0)).generate(ALG, RsaBits::default(), at(0), &ROTATION, false).unwrap()
}

fn kid(ring: &Ring, state: KeyState) -> Option<String> {
    ring.describe().into_iter().find(|info| info.state == state).map(|info| info.kid)
}

fn states(ring: &Ring) -> Vec<KeyState> {
    ring.describe().into_iter().map(|info| info.state).collect()
}

fn served(ring: &Ring) -> Jwks {
    Jwks::parse(&ring.jwks().json).unwrap()
}

fn signed(ring: &Ring) -> Vec<u8> {
    ring.signer(ALG).unwrap().sign(b"{}").unwrap()
}

fn verifies(token: &[u8], keys: &Jwks) -> bool {
    verify(token, keys, AllowedAlgorithms::ALL).is_ok()
}

#[test]
fn the_first_key_of_an_algorithm_signs_at_once() {
    let ring = ring();
    assert_eq!(states(&ring), [KeyState::Current]);
    assert!(verifies(&signed(&ring), &served(&ring)));
    let both = ring.generate(Algorithm::Es256, RsaBits::default(), at(1), &ROTATION, false).unwrap();
    assert_eq!(states(&both), [KeyState::Current, KeyState::Current]);
    assert_eq!(both.signer(Algorithm::Es256).unwrap().algorithm(), Algorithm::Es256);
    assert!(both.signer(Algorithm::Rs256).is_none());
}

#[test]
fn a_receiver_with_any_key_set_it_may_hold_verifies_every_set_during_a_rotation() {
    let mut ring = ring().rotate(ALG, at(100), &ROTATION, false).unwrap();
    let mut history = vec![(100, served(&ring))];
    for now in (100..3000).step_by(50) {
        if let Some(next) = ring.advance(at(now), &ROTATION) {
            ring = next;
        }
        history.push((now, served(&ring)));
        let token = signed(&ring);
        // The check covers the oldest set that Cache-Control still allows, and all younger ones.
        for (fetched, keys) in history.iter().filter(|(fetched, _)| fetched + 900 > now) {
            assert!(verifies(&token, keys), "signed at {now}, keys of {fetched}");
        }
    }
    assert_eq!(states(&ring), [KeyState::Current, KeyState::Retiring], "and it was rotated");
}

#[test]
fn a_rotation_goes_through_next_current_and_retiring() {
    let old = ring();
    let first = kid(&old, KeyState::Current).unwrap();
    let rotating = old.rotate(ALG, at(10), &ROTATION, false).unwrap();
    let second = kid(&rotating, KeyState::Next).unwrap();
    assert_eq!(rotating.signer(ALG).unwrap().kid(), first);
    assert!(rotating.publishes(&second));
    assert!(rotating.advance(at(909), &ROTATION).is_none(), "one second early");
    assert_eq!(rotating.due(at(10), &ROTATION), Some(Duration::from_secs(900)));

    let rotated = rotating.advance(at(910), &ROTATION).unwrap();
    assert_eq!(rotated.signer(ALG).unwrap().kid(), second);
    assert_eq!(kid(&rotated, KeyState::Retiring), Some(first.clone()));
    let end = 910 + 30 * 24 * 3600;
    assert!(rotated.advance(at(end - 1), &ROTATION).is_none(), "published for late verifiers");
    let done = rotated.advance(at(end), &ROTATION).unwrap();
    assert!(!done.publishes(&first));
    assert_eq!(states(&done), [KeyState::Current]);
    assert_eq!(done.due(at(end), &ROTATION), None);
}

#[test]
fn a_key_waits_for_both_clocks() {
    let ring = ring().rotate(ALG, at(0), &ROTATION, false).unwrap();
    let cases = [
        ("both early", clocks(899, 899), false),
        ("the wall clock jumped ahead", clocks(1_000_000, 10), false),
        ("the wall clock went back", clocks(10, 10_000), false),
        ("both say so", clocks(900, 900), true),
        ("long after", clocks(100_000, 100_000), true),
    ];
    for (name, now, moves) in cases {
        assert_eq!(ring.advance(now, &ROTATION).is_some(), moves, "{name}");
    }
}

#[test]
fn a_wall_clock_that_jumps_ahead_withdraws_no_retiring_key() {
    let rotated = ring().rotate(ALG, at(0), &ROTATION, false).unwrap().advance(at(900), &ROTATION).unwrap();
    assert_eq!(states(&rotated), [KeyState::Current, KeyState::Retiring]);
    assert!(rotated.advance(clocks(10 * 365 * 24 * 3600, 2000), &ROTATION).is_none());
}

#[test]
fn a_machine_that_slept_does_not_hold_up_later_rotations() {
    // During sleep the wall clock goes on and the monotonic one may not.
    let hours = 8 * 3600;
    let ring = ring().rotate(ALG, clocks(hours, 10), &ROTATION, false).unwrap();
    assert!(ring.advance(clocks(hours + 899, 909), &ROTATION).is_none());
    let rotated = ring.advance(clocks(hours + 900, 910), &ROTATION).unwrap();
    assert_eq!(states(&rotated), [KeyState::Current, KeyState::Retiring]);
    let end = 910 + 30 * 24 * 3600;
    assert!(rotated.advance(clocks(hours + end - 1, end - 1), &ROTATION).is_none());
    assert!(rotated.advance(clocks(hours + end, end), &ROTATION).is_some());
}

#[test]
fn a_retiring_key_ages_over_restarts() {
    let kek = Kek::generate().unwrap();
    let rotated = ring().rotate(ALG, at(0), &ROTATION, false).unwrap().advance(at(900), &ROTATION).unwrap();
    let sealed = rotated.seal(&kek, "i").unwrap();
    let days = |days: u64| days * 24 * 3600;
    // Twenty more days are missing ten days later, in another process.
    let opened = Ring::open(&kek, "i", &sealed, clocks(900 + days(10), 907)).unwrap();
    assert!(opened.advance(clocks(900 + days(30) - 1, 907 + days(20) - 1), &ROTATION).is_none());
    assert!(opened.advance(clocks(900 + days(40), 907 + days(20) - 1), &ROTATION).is_none(), "the wall clock alone");
    assert_eq!(
        states(&opened.advance(clocks(900 + days(30), 907 + days(20)), &ROTATION).unwrap()),
        [KeyState::Current]
    );
}

#[test]
fn a_key_made_under_an_advanced_clock_does_not_sign_early_after_a_restart() {
    let kek = Kek::generate().unwrap();
    let rotating = ring().rotate(ALG, at(10), &ROTATION, false).unwrap();
    let sealed = rotating.seal(&kek, "https://tr.example.com").unwrap();
    // The process starts again with a wall clock that is a year ahead: the key waits by the gateway's running time.
    let year = 365 * 24 * 3600;
    let opened = Ring::open(&kek, "https://tr.example.com", &sealed, clocks(year, 15)).unwrap();
    assert!(opened.advance(clocks(year + 894, 909), &ROTATION).is_none());
    assert!(opened.advance(clocks(year + 895, 910), &ROTATION).is_some());
}

#[test]
fn a_rotation_comes_to_its_end_however_often_the_gateway_is_restarted() {
    let kek = Kek::generate().unwrap();
    let mut sealed = ring().rotate(ALG, at(0), &ROTATION, false).unwrap().seal(&kek, "i").unwrap();
    // The process runs for 50 seconds each time and is off for an hour in between, which only the wall clock shows.
    for round in 0..18 {
        let opened = Ring::open(&kek, "i", &sealed, clocks(round * 3650, round * 50)).unwrap();
        assert!(opened.dated().is_none());
        let end = clocks(round * 3650 + 49, round * 50 + 49);
        assert!(opened.advance(end, &ROTATION).is_none(), "round {round}");
        sealed = opened.seal(&kek, "i").unwrap();
    }
    let opened = Ring::open(&kek, "i", &sealed, clocks(18 * 3650, 900)).unwrap();
    let rotated = opened.advance(clocks(18 * 3650, 900), &ROTATION).unwrap();
    assert_eq!(states(&rotated), [KeyState::Current, KeyState::Retiring]);
    // A wall clock that was set back since delays it.
    assert!(opened.advance(clocks(899, 5000), &ROTATION).is_none());
}

#[test]
fn a_key_of_an_earlier_version_waits_once_more_and_then_goes_on() {
    let kek = Kek::generate().unwrap();
    let mut rotating = ring().rotate(ALG, at(0), &ROTATION, false).unwrap();
    rotating.entries.iter_mut().for_each(|entry| entry.since = None);
    let sealed = rotating.seal(&kek, "i").unwrap();
    let opened = Ring::open(&kek, "i", &sealed, clocks(5000, 70)).unwrap();
    assert!(opened.advance(clocks(5899, 969), &ROTATION).is_none());
    assert!(opened.advance(clocks(5900, 970), &ROTATION).is_some());
    let dated = opened.dated().expect("it was not dated");
    let again = Ring::open(&kek, "i", &dated.seal(&kek, "i").unwrap(), clocks(5500, 570)).unwrap();
    assert!(again.dated().is_none());
    assert!(again.advance(clocks(5899, 969), &ROTATION).is_none());
    assert!(again.advance(clocks(5900, 970), &ROTATION).is_some());
}

#[test]
fn how_long_a_key_waits_is_told_by_both_clocks() {
    let rotating = ring().rotate(ALG, at(0), &ROTATION, false).unwrap();
    let (current, next) = (kid(&rotating, KeyState::Current).unwrap(), kid(&rotating, KeyState::Next).unwrap());
    let wait = |now| rotating.wait(&next, now, &ROTATION).unwrap().as_secs();
    assert_eq!((wait(at(0)), wait(clocks(800, 100)), wait(clocks(100, 800)), wait(at(1000))), (900, 800, 800, 0));
    assert_eq!(rotating.wait(&current, at(0), &ROTATION), None);
}

#[test]
fn a_second_rotation_too_soon_is_refused_and_tells_how_long() {
    let rotating = ring().rotate(ALG, at(0), &ROTATION, false).unwrap();
    let waiting = kid(&rotating, KeyState::Next).unwrap();
    let error = rotating.rotate(ALG, at(300), &ROTATION, false).unwrap_err();
    assert_eq!(error, JoseError::TooSoon { kid: waiting.into(), wait: Duration::from_secs(600) });
    // The waiting key signs when its time has come, and the rotation goes on.
    let again = rotating.rotate(ALG, at(900), &ROTATION, false).unwrap();
    assert_eq!(states(&again), [KeyState::Current, KeyState::Next, KeyState::Retiring]);
}

#[test]
fn force_replaces_the_waiting_key_and_hurries_nothing() {
    let rotating = ring().rotate(ALG, at(0), &ROTATION, false).unwrap();
    let (current, waiting) = (kid(&rotating, KeyState::Current).unwrap(), kid(&rotating, KeyState::Next).unwrap());
    let forced = rotating.rotate(ALG, at(300), &ROTATION, true).unwrap();
    assert_eq!(forced.signer(ALG).unwrap().kid(), current);
    assert!(!forced.publishes(&waiting));
    assert_eq!(states(&forced), [KeyState::Current, KeyState::Next]);
    assert!(forced.advance(at(1199), &ROTATION).is_none(), "the new key waits from its own start");
    assert!(forced.advance(at(1200), &ROTATION).is_some());
}

#[test]
fn rotating_one_algorithm_leaves_the_others_alone() {
    let ring = ring().generate(Algorithm::Es256, RsaBits::default(), at(0), &ROTATION, false).unwrap();
    let es256 = ring.signer(Algorithm::Es256).unwrap().kid().to_owned();
    let rotated = ring.rotate(ALG, at(0), &ROTATION, false).unwrap().advance(at(900), &ROTATION).unwrap();
    assert_eq!(rotated.signer(Algorithm::Es256).unwrap().kid(), es256);
    assert_eq!(
        rotated.rotate(Algorithm::Rs256, at(900), &ROTATION, false).unwrap_err(),
        JoseError::NoKey(Algorithm::Rs256)
    );
}

#[test]
fn a_revoked_current_key_leaves_at_once_and_a_new_one_signs() {
    let old = ring();
    let gone = kid(&old, KeyState::Current).unwrap();
    let token = signed(&old);
    let new = old.revoke(&gone, at(5)).unwrap();
    assert!(!new.publishes(&gone));
    assert_eq!(verify(&token, &served(&new), AllowedAlgorithms::ALL), Err(VerifyError::UnknownKey));
    assert!(verifies(&signed(&new), &served(&new)));
    assert_ne!(old.jwks().etag, new.jwks().etag);
    assert_eq!(states(&new), [KeyState::Current, KeyState::Revoked]);
}

#[test]
fn a_revoked_current_key_is_followed_by_the_one_that_waits() {
    let rotating = ring().rotate(ALG, at(0), &ROTATION, false).unwrap();
    let (current, waiting) = (kid(&rotating, KeyState::Current).unwrap(), kid(&rotating, KeyState::Next).unwrap());
    let new = rotating.revoke(&current, at(5)).unwrap();
    assert_eq!(new.signer(ALG).unwrap().kid(), waiting);
    assert_eq!(states(&new), [KeyState::Current, KeyState::Revoked]);
}

#[test]
fn next_and_retiring_keys_can_be_revoked_while_the_current_one_signs_on() {
    let rotated = ring().rotate(ALG, at(0), &ROTATION, false).unwrap().advance(at(900), &ROTATION).unwrap();
    let rotating = rotated.rotate(ALG, at(1000), &ROTATION, false).unwrap();
    let current = kid(&rotating, KeyState::Current).unwrap();
    for state in [KeyState::Next, KeyState::Retiring] {
        let gone = kid(&rotating, state).unwrap();
        let new = rotating.revoke(&gone, at(1001)).unwrap();
        assert!(!new.publishes(&gone));
        assert_eq!(new.signer(ALG).unwrap().kid(), current);
    }
    assert_eq!(rotating.revoke("unknown", at(1)).unwrap_err(), JoseError::UnknownKid("unknown".into()));
}

#[test]
fn a_key_comes_into_the_ring_once_and_never_again_after_revocation() {
    let key = || Key::generate(ALG, RsaBits::default()).unwrap();
    let first = key();
    let der = first.pkcs8().to_vec();
    let again = || Key::from_pkcs8(&der, None).unwrap();
    let ring = Ring::new(at(0)).add(first, at(0), &ROTATION, false).unwrap();
    let kid = ring.signer(ALG).unwrap().kid().to_owned();
    assert_eq!(ring.add(again(), at(1), &ROTATION, true).unwrap_err(), JoseError::Known(kid.clone().into()));
    let revoked = ring.revoke(&kid, at(2)).unwrap();
    assert_eq!(revoked.add(again(), at(3), &ROTATION, true).unwrap_err(), JoseError::Revoked(kid.into()));
}

#[test]
fn the_published_set_holds_public_members_alone() {
    let mut ring = Ring::new(at(0));
    for algorithm in Algorithm::ALL {
        ring = ring.generate(algorithm, RsaBits::default(), at(0), &ROTATION, false).unwrap();
    }
    let set: serde_json::Value = serde_json::from_slice(&ring.jwks().json).unwrap();
    let keys = set["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4);
    for key in keys {
        let members: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
        let own: &[&str] = match key["kty"].as_str().unwrap() {
            "RSA" => &["alg", "e", "kid", "kty", "n", "use"],
            "EC" => &["alg", "crv", "kid", "kty", "use", "x", "y"],
            _ => &["alg", "crv", "kid", "kty", "use", "x"],
        };
        assert!(members.len() == own.len() && own.iter().all(|name| members.contains(name)), "{members:?}");
        assert_eq!(key["use"], "sig");
    }
    assert_eq!(served(&ring).usable(), 4);
}

#[test]
fn the_entity_tag_changes_with_the_set_and_only_then() {
    let ring = ring();
    let same = Ring::of(ring.entries.clone(), Vec::new(), at(99));
    assert_eq!(ring.jwks(), same.jwks());
    let rotating = ring.rotate(ALG, at(0), &ROTATION, false).unwrap();
    assert_ne!(ring.jwks().etag, rotating.jwks().etag);
    assert!(rotating.jwks().etag.starts_with('"') && rotating.jwks().etag.ends_with('"'));
}

#[test]
fn a_sealed_ring_opens_as_it_was() {
    let kek = Kek::generate().unwrap();
    let mut ring = ring().rotate(ALG, at(0), &ROTATION, false).unwrap().advance(at(900), &ROTATION).unwrap();
    ring = ring.rotate(ALG, at(950), &ROTATION, false).unwrap();
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256] {
        ring = ring.generate(algorithm, RsaBits::default(), at(960), &ROTATION, false).unwrap();
    }
    let es256 = ring.signer(Algorithm::Es256).unwrap().kid().to_owned();
    ring = ring.revoke(&es256, at(970)).unwrap();
    let token = signed(&ring);
    let sealed = ring.seal(&kek, "https://tr.example.com").unwrap();
    let opened = Ring::open(&kek, "https://tr.example.com", &sealed, at(1000)).unwrap();
    assert_eq!(opened.describe(), ring.describe());
    assert_eq!(opened.jwks(), ring.jwks());
    assert_eq!(signed(&opened), token, "Ed25519 signs the same bytes the same way");
}

#[test]
fn a_sealed_ring_belongs_to_its_issuer_and_key() {
    let [kek, other] = [(); 2].map(|()| Kek::generate().unwrap());
    let sealed = ring().seal(&kek, "https://tr.example.com/a").unwrap();
    let open = |kek: &Kek, issuer: &str, sealed: &[u8]| Ring::open(kek, issuer, sealed, at(0)).map(|_| ());
    assert_eq!(open(&kek, "https://tr.example.com/a", &sealed), Ok(()));
    assert_eq!(open(&kek, "https://tr.example.com/b", &sealed), Err(SealError::Tampered));
    assert_eq!(
        open(&other, "https://tr.example.com/a", &sealed),
        Err(SealError::WrongKek { needs: kek.id(), given: other.id() })
    );
    let secret = kek.seal_secret("https://tr.example.com/a", b"{}").unwrap();
    assert_eq!(open(&kek, "https://tr.example.com/a", &secret), Err(SealError::Tampered), "a credential is no ring");
    for at in (0..sealed.len()).step_by(7) {
        let mut changed = sealed.clone();
        changed[at] ^= 0x40;
        assert!(open(&kek, "https://tr.example.com/a", &changed).is_err(), "byte {at}");
    }
}

#[test]
fn a_sealed_ring_holds_no_private_key_in_clear() {
    let kek = Kek::generate().unwrap();
    let ring = ring();
    let sealed = ring.seal(&kek, "https://tr.example.com").unwrap();
    let private = ring.entries[0].key.pkcs8();
    let base64 = base64::engine::general_purpose::STANDARD.encode(private);
    assert!(!sealed.windows(8).any(|window| private.windows(8).any(|part| part == window)));
    assert!(!sealed.windows(8).any(|window| base64.as_bytes().windows(8).any(|part| part == window)));
    assert!(!format!("{ring:?}").contains(&base64));
}

#[test]
fn an_opened_ring_with_contradictions_is_refused() {
    let kek = Kek::generate().unwrap();
    let ring = ring().rotate(ALG, at(0), &ROTATION, false).unwrap();
    let mut two_current = ring.entries.clone();
    for entry in &mut two_current {
        entry.state = KeyState::Current;
    }
    let mut a_revoked_one = ring.entries.clone();
    a_revoked_one[1].state = KeyState::Revoked;
    let same_twice = vec![ring.entries[0].clone(), ring.entries[0].clone()];
    for entries in [two_current, a_revoked_one, same_twice] {
        let sealed = Ring::of(entries, Vec::new(), at(0)).seal(&kek, "i").unwrap();
        assert_eq!(Ring::open(&kek, "i", &sealed, at(0)).map(|_| ()), Err(SealError::Malformed));
    }
}

#[test]
fn only_so_many_revocations_are_remembered() {
    let mut ring = ring();
    let model = KeyInfo { kid: String::new(), state: KeyState::Revoked, ..ring.describe().remove(0) };
    ring.revoked = (0..Ring::REVOKED_KEPT).map(|n| KeyInfo { kid: n.to_string(), ..model.clone() }).collect();
    let kid = kid(&ring, KeyState::Current).unwrap();
    let after = ring.revoke(&kid, at(1)).unwrap();
    assert_eq!(after.revoked.len(), Ring::REVOKED_KEPT);
    assert_eq!(after.revoked.first().map(|info| info.kid.as_str()), Some("1"));
    assert_eq!(after.revoked.last().map(|info| info.kid.clone()), Some(kid));
}
