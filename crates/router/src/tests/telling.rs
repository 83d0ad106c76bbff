//! Tests of the views of streams, and of the pauses that follow from what their receivers answer.

use super::*;

/// Five answers of a kind over ten minutes pause a stream, and its SETs wait.
#[tokio::test(start_paused = true)]
async fn what_waiting_does_not_repair_pauses_the_stream() {
    let codes = [
        (Scope::Channel, "http_415"),
        (Scope::Channel, "http_2xx"),
        (Scope::Channel, "answer_contradicts"),
        (Scope::Channel, "answer_invalid"),
        (Scope::Channel, "http_501"),
        (Scope::Channel, "http_other"),
        (Scope::Channel, "protocol"),
        // No SET was taken at all, so this one is not at fault.
        (Scope::Set, "http_400"),
    ];
    for (scope, code) in codes {
        let bench = Bench::new(Config::default(), &[stream("a")]).await;
        bench.method.answer_with(move |_| misconfigured(scope, code));
        for n in 0..20 {
            bench.emit(n, n).await;
        }
        for _ in 0..240 {
            bench.pass(Duration::from_secs(15)).await;
        }
        let view = bench.router.streams().await.remove(0);
        assert_eq!(view.status, "paused", "{code}: {view:?}");
        assert!(view.reason.unwrap().contains(code));
        // The announcement waits beside them.
        assert_eq!((view.waiting, view.parked, view.dropped), (21, 0, 0), "{code}");
        bench.method.answer_with(|_| ack());
        bench.router.resume("a", false).await.unwrap();
        bench.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_only_unhealthy_is_waited_for() {
    for (scope, code) in [
        (Scope::Channel, "http_503"),
        (Scope::Channel, "http_5xx"),
        (Scope::Channel, "proxy"),
        (Scope::Set, "http_500"),
    ] {
        let bench = Bench::new(Config::default(), &[stream("a")]).await;
        bench.method.answer_with(move |_| retry(scope, code));
        for n in 0..20 {
            bench.emit(n, n).await;
        }
        for _ in 0..240 {
            bench.pass(Duration::from_secs(15)).await;
        }
        let view = bench.router.streams().await.remove(0);
        assert_eq!((view.status, view.waiting, view.parked), ("enabled", 20, 0), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_asks_for_a_year_waits_no_longer_than_it_may() {
    for scope in [Scope::Set, Scope::Channel] {
        let bench = Bench::new(Config::default(), &[stream("a")]).await;
        let year = Some(Duration::from_secs(365 * 24 * 3600));
        bench.method.answer_with(move |_| {
            Err(Verdict::Retry { scope, after: year, cause: Cause::new("http_503", "as scripted") })
        });
        bench.emit(0, 0).await;
        bench.until("tried", async || bench.method.count() == 1).await;
        bench.pass(Config::default().retry_after_max / 2).await;
        assert_eq!(bench.method.count(), 1, "{scope:?}: it is left alone for as long as it may ask for");
        bench.pass(Config::default().retry_after_max).await;
        assert_eq!(bench.method.count(), 2, "{scope:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_receiver_does_that_works_all_the_same_is_shown() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    assert_eq!(bench.router.stream("a").await.unwrap().warning, None);
    *bench.method.remark.lock() = Some("answers 200 instead of 202".into());
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!(view.warning.as_deref(), Some("answers 200 instead of 202"));
    let shown = serde_json::to_value(&view).unwrap();
    assert_eq!(shown["warning"], "answers 200 instead of 202");
}

/// An operator who traces one event finds it by its `txn`, at each step.
#[tokio::test(start_paused = true)]
async fn a_parked_set_tells_its_txn_and_its_issuer_in_every_listing() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|_| refuse(ErrorCode::InvalidRequest));
    let Accepted::New { txn, .. } = bench.emit(1, 1).await else { panic!("accepted") };
    bench.settled().await;
    bench.pass(Duration::from_secs(1)).await;
    let parked = bench.router.parked(None, None, None, 10).await.unwrap().remove(0);
    assert_eq!((parked.txn.as_deref(), parked.issuer.as_deref(), &*parked.stream), (Some(&*txn), Some(ISSUER), "a"));
    let one = bench.router.parked_one(parked.jti.as_str()).await.unwrap().unwrap();
    assert_eq!(one.txn, parked.txn);
    let again = bench.router.reissue(vec![parked.jti.to_string(), "none".into()], true).await.unwrap();
    assert_eq!((again[0].txn.as_deref(), again[0].stream.as_deref()), (Some(&*txn), Some("a")));
    assert_eq!((&again[1].txn, &again[1].stream), (&None, &None));
}
