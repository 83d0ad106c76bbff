//! Test that a record which cannot be read from the store holds up nothing but its own subject.

use std::collections::BTreeSet;

use super::{faulty::faulty, *};

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_read_holds_up_its_own_subject_alone() {
    let (bench, store) = faulty(Config::default(), &[stream("a")]).await;
    bench.router.pause("a", "test".into()).await.unwrap();
    for n in 0..20 {
        // Each subject has two of them.
        let Accepted::New { at, .. } = bench.emit(n % 10, n).await else { panic!("it is not accepted") };
        if n == 3 {
            store.rotten.lock().insert(at.seq);
        }
    }
    bench.router.resume("a", false).await.unwrap();
    let events = || bench.method.seen.lock().iter().filter(|set| is_event(set)).cloned().collect::<Vec<_>>();
    let numbers = || events().iter().map(number).collect::<BTreeSet<_>>();
    bench.until("the others come", async || numbers().len() == 18).await;
    // Later events arrive at once, however often the corrupt one is tried.
    for n in 20..120 {
        bench.emit(10 + n % 10, n).await;
        bench.pass(Duration::from_secs(15)).await;
        assert!(numbers().contains(&(n as u64)), "{n} waits; {}", bench.clocks());
    }
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.waiting, view.dropped), (2, 0), "it waits, for who repairs the store");
    assert!(view.last_error.unwrap().contains("does not read"));
    // The disk was repaired.
    store.rotten.lock().clear();
    bench.settled().await;
    assert_eq!(assert_order_and_identity(&events()), 120);
}
