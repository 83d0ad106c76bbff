use setgate_clock::manual::{ManualClock, runtime};
use setgate_jose::Key as SigningKey;
use setgate_store::MemoryStore;

use super::*;

const A: &str = "https://a.example";
const B: &str = "https://b.example";
const START: u64 = 1_700_000_000_000;

struct Fixture {
    keys: Keys,
    clock: Arc<ManualClock>,
    store: Arc<MemoryStore>,
    kek: Arc<Kek>,
    rings: Vec<KeysOf>,
    runtime: Runtime,
    rotation: Rotation,
}

fn fixture(issuers: &[&str]) -> Fixture {
    let clock = ManualClock::at(START);
    let runtime = runtime(clock.clone(), 5);
    let store = MemoryStore::new(runtime.clone(), &[7; 32]);
    let kek = Arc::new(Kek::generate().unwrap());
    let rotation = Rotation { max_age: Duration::from_secs(900), retire_after: Duration::from_secs(7200) };
    let now = Moment { wall_millis: START, monotonic: runtime.clock.monotonic() };
    let rings: Vec<_> = issuers
        .iter()
        .zip(1..)
        .map(|(issuer, no)| {
            let ring = [Algorithm::Es256, Algorithm::EdDSA].into_iter().fold(Ring::new(now), |ring, algorithm| {
                ring.generate(algorithm, RsaBits::default(), now, &rotation, false).unwrap()
            });
            KeysOf { issuer: (*issuer).into(), no: IssuerNo(no), keyring: Arc::new(Keyring::new(ring)) }
        })
        .collect();
    let keys = Keys::start(KeysParts {
        runtime: runtime.clone(),
        store: store.clone(),
        kek: kek.clone(),
        rotation,
        issuers: rings.clone(),
    });
    Fixture { keys, clock, store, kek, rings, runtime, rotation }
}

impl Fixture {
    fn kid(&self, issuer: usize, algorithm: Algorithm) -> String {
        self.rings[issuer].keyring.signer(algorithm).unwrap().kid().to_owned()
    }

    /// Advances both clocks, a minute at a time.
    async fn run(&self, minutes: u64) {
        for _ in 0..minutes {
            self.clock.advance(Duration::from_secs(60));
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }

    /// Advances both clocks.
    async fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Returns when the next key signs, as it is listed: a date, or the reason why it is not known.
    fn next(&self) -> (Option<String>, Option<&'static str>) {
        let next = self.keys.list(None).unwrap().into_iter().find(|key| key.state == KeyState::Next).unwrap();
        (next.until, next.waits_because)
    }

    async fn kept(&self, issuer: usize) -> Ring {
        let of = &self.rings[issuer];
        let record = self.store.get(vec![ring_key(of.no)]).await.unwrap().pop().flatten().expect("it was kept");
        Ring::open(&self.kek, &of.issuer, &record.value, Moment::default()).unwrap()
    }
}

fn rotate(algorithm: Option<Algorithm>) -> Change {
    Change::Rotate { algorithm, bits: None, force: false }
}

#[tokio::test(start_paused = true)]
async fn a_rotated_key_signs_when_receivers_can_know_it_and_the_old_one_retires() {
    let fixture = fixture(&[A]);
    let old = fixture.kid(0, Algorithm::Es256);
    let views = fixture.keys.change(None, rotate(Some(Algorithm::Es256))).await.unwrap();
    let next = views.iter().find(|key| key.state == KeyState::Next).unwrap().kid.clone();
    assert!(fixture.kept(0).await.publishes(&next), "durable before it is answered");
    fixture.run(14).await;
    assert_eq!(fixture.kid(0, Algorithm::Es256), old, "too young to sign");
    fixture.run(2).await;
    assert_eq!(fixture.kid(0, Algorithm::Es256), next);
    assert!(fixture.rings[0].keyring.ring().publishes(&old), "published for late verifiers");
    assert_eq!(fixture.kept(0).await.signer(Algorithm::Es256).unwrap().kid(), next);
    fixture.run(121).await;
    assert!(!fixture.rings[0].keyring.ring().publishes(&old));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_ahead_rotates_nothing() {
    let fixture = fixture(&[A]);
    let old = fixture.kid(0, Algorithm::Es256);
    fixture.keys.change(None, rotate(Some(Algorithm::Es256))).await.unwrap();
    fixture.clock.advance(Duration::from_secs(100_000));
    fixture.run(3).await;
    assert_eq!(fixture.kid(0, Algorithm::Es256), old);
}

#[tokio::test(start_paused = true)]
async fn a_next_key_signs_when_its_time_comes_and_not_a_minute_later() {
    let fixture = fixture(&[A]);
    fixture.pass(31).await;
    let old = fixture.kid(0, Algorithm::Es256);
    fixture.keys.change(None, rotate(Some(Algorithm::Es256))).await.unwrap();
    fixture.pass(899).await;
    assert_eq!(fixture.kid(0, Algorithm::Es256), old);
    fixture.pass(2).await;
    assert_ne!(fixture.kid(0, Algorithm::Es256), old);
}

/// A receiver may have read the key set just before it had the key, and keeps it for its maximum age.
#[tokio::test(start_paused = true)]
async fn a_next_key_waits_from_when_it_is_shown_and_not_from_when_it_was_ordered() {
    let fixture = fixture(&[A]);
    let old = fixture.kid(0, Algorithm::Es256);
    let while_it_is_made = async {
        tokio::task::yield_now().await;
        fixture.clock.advance(Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(60)).await;
    };
    let (changed, ()) = tokio::join!(fixture.keys.change(None, rotate(Some(Algorithm::Es256))), while_it_is_made);
    changed.unwrap();
    assert_eq!(fixture.next().0, Some("2023-11-14T22:29:20Z".into()), "a minute and 15 after the start");
    fixture.pass(899).await;
    assert_eq!(fixture.kid(0, Algorithm::Es256), old);
    assert_eq!(fixture.kept(0).await.signer(Algorithm::Es256).unwrap().kid(), old);
    fixture.pass(2).await;
    assert_ne!(fixture.kid(0, Algorithm::Es256), old);
}

#[tokio::test(start_paused = true)]
async fn a_start_looks_at_once_whether_a_key_s_time_has_come() {
    let fixture = fixture(&[A]);
    let old = fixture.kid(0, Algorithm::Es256);
    fixture.keys.change(None, rotate(Some(Algorithm::Es256))).await.unwrap();
    let Fixture { keys, clock, store, kek, rings, runtime, rotation } = fixture;
    drop(keys);
    tokio::task::yield_now().await;
    clock.advance(Duration::from_secs(901));
    tokio::time::sleep(Duration::from_secs(901)).await;
    let keys = Keys::start(KeysParts {
        runtime: runtime.clone(),
        store: store.clone(),
        kek: kek.clone(),
        rotation,
        issuers: rings.clone(),
    });
    let fixture = Fixture { keys, clock, store, kek, rings, runtime, rotation };
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_ne!(fixture.kid(0, Algorithm::Es256), old);
}

#[tokio::test(start_paused = true)]
async fn no_past_date_is_shown_of_a_key_that_waits_still() {
    let fixture = fixture(&[A]);
    fixture.keys.change(None, rotate(Some(Algorithm::Es256))).await.unwrap();
    assert_eq!(fixture.next(), (Some("2023-11-14T22:28:20Z".into()), None));
    // The wall clock is corrected by half an hour; the running time still says that the key waits.
    fixture.clock.advance(Duration::from_secs(1800));
    assert_eq!(fixture.next(), (Some("2023-11-14T22:58:20Z".into()), None));
    fixture.clock.advance(Duration::from_secs(100_000));
    assert_eq!(fixture.next(), (None, Some("the wall clock is not believed")));
}

#[tokio::test(start_paused = true)]
async fn two_rotations_within_max_age_are_refused_without_force() {
    let fixture = fixture(&[A]);
    fixture.keys.change(None, rotate(None)).await.unwrap();
    let error = fixture.keys.change(None, rotate(None)).await.unwrap_err();
    assert!(matches!(error, KeysError::Jose(JoseError::TooSoon { .. })), "{error}");
    let forced = Change::Rotate { algorithm: Some(Algorithm::EdDSA), bits: None, force: true };
    let views = fixture.keys.change(None, forced).await.unwrap();
    assert_eq!(views.iter().filter(|key| key.state == KeyState::Next).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_is_gone_at_once_and_another_signs() {
    let fixture = fixture(&[A, B]);
    let (old, other) = (fixture.kid(1, Algorithm::EdDSA), fixture.kid(0, Algorithm::EdDSA));
    // No issuer is named, since a key belongs to one.
    fixture.keys.change(None, Change::Revoke { kid: old.clone() }).await.unwrap();
    assert!(fixture.rings[1].keyring.withdrawn(&old));
    assert_ne!(fixture.kid(1, Algorithm::EdDSA), old);
    assert_eq!(fixture.kid(0, Algorithm::EdDSA), other);
    assert!(!fixture.kept(1).await.publishes(&old), "also after a restart");
    let error = fixture.keys.change(None, Change::Revoke { kid: old }).await.unwrap_err();
    assert!(matches!(error, KeysError::Jose(JoseError::UnknownKid(_))), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_imported_key_becomes_the_next_one() {
    let fixture = fixture(&[A]);
    let pem = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2\n\
        OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r\n\
        1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G\n\
        -----END PRIVATE KEY-----\n";
    let kid = SigningKey::import_pem(pem, None).unwrap().kid().to_owned();
    let import = || Change::Import { pem: Secret::new(pem.to_owned()), algorithm: None, force: false };
    let views = fixture.keys.change(None, import()).await.unwrap();
    let imported = views.iter().find(|key| key.kid == kid).unwrap();
    assert_eq!((imported.state, imported.until.as_deref()), (KeyState::Next, Some("2023-11-14T22:28:20Z")));
    let error = fixture.keys.change(None, import()).await.unwrap_err();
    assert!(matches!(error, KeysError::Jose(JoseError::Known(_))), "{error}");
    let garbage = Change::Import { pem: Secret::new("canary".into()), algorithm: None, force: false };
    let error = fixture.keys.change(None, garbage).await.unwrap_err().to_string();
    assert!(!error.contains("canary"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn which_issuer_must_be_clear() {
    let fixture = fixture(&[A, B]);
    assert!(matches!(fixture.keys.change(None, rotate(None)).await, Err(KeysError::WhichIssuer)));
    assert!(matches!(
        fixture.keys.change(Some("https://c.example".into()), rotate(None)).await,
        Err(KeysError::UnknownIssuer(_))
    ));
    assert!(matches!(fixture.keys.list(Some("https://c.example")), Err(KeysError::UnknownIssuer(_))));
    fixture.keys.change(Some(B.into()), rotate(None)).await.unwrap();
    assert_eq!(fixture.keys.list(Some(A)).unwrap().len(), 2);
    assert_eq!(fixture.keys.list(Some(B)).unwrap().len(), 4);
    assert_eq!(fixture.keys.list(None).unwrap().len(), 6);
    let error =
        fixture.keys.change(Some(B.into()), Change::Rotate { algorithm: None, bits: Some(1024), force: false }).await;
    assert!(matches!(error, Err(KeysError::Bits)));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_take_it_changes_nothing() {
    let fixture = fixture(&[A]);
    let old = fixture.kid(0, Algorithm::Es256);
    fixture.store.close().await.unwrap();
    let error = fixture.keys.change(None, Change::Revoke { kid: old.clone() }).await.unwrap_err();
    assert!(matches!(error, KeysError::Store(_)), "{error}");
    assert_eq!(fixture.kid(0, Algorithm::Es256), old, "not in force, since it is not durable");
}
