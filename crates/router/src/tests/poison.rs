//! Tests that a SET which always fails while others pass is given up, however it fails, and that an unhealthy stream
//! gives up none.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{endpoints::clustered, later::later, responder::*, *};

const BAD: u64 = 3;

/// Returns the kinds of failure, most of which do not name the SET as the one at fault.
fn kinds() -> Vec<(&'static str, Outcome)> {
    let channel = |code| (code, retry(Scope::Channel, code));
    let wrong = |code| (code, misconfigured(Scope::Channel, code));
    let rest = Err(Verdict::Retry {
        scope: Scope::Channel,
        after: Some(Duration::from_secs(2)),
        cause: Cause::new("http_429", "as scripted"),
    });
    vec![
        ("http_500", retry(Scope::Set, "http_500")),
        wrong("http_401"),
        wrong("http_403"),
        wrong("http_404"),
        channel("http_503"),
        channel("timeout"),
        ("http_429", rest),
        ("invalid_key", refuse(ErrorCode::InvalidKey)),
        ("authentication_failed", refuse(ErrorCode::AuthenticationFailed)),
        ("access_denied", refuse(ErrorCode::AccessDenied)),
    ]
}

/// Emits one event a second; returns the number of these seconds in which a good one had to wait.
async fn one_a_second(bench: &Bench, count: usize) -> usize {
    let mut waited = 0;
    for n in 0..count {
        bench.emit(n, n).await;
        for _ in 0..10 {
            bench.pass(Duration::from_millis(100)).await;
        }
        waited += usize::from(bench.router.stream("a").await.unwrap().waiting > 1);
    }
    waited
}

async fn assert_poison(bench: &Bench, of: &str, events: u64) {
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.parked, view.waiting, view.acknowledged), (1, 0, events - 1), "{of}: {view:?}");
    let parked = bench.router.parked(Some("a"), None, None, 10).await.unwrap();
    assert_eq!(parked[0].code, ErrorCode::Poison, "{of}");
}

#[tokio::test(start_paused = true)]
async fn one_set_that_always_fails_is_parked_whatever_its_receiver_says() {
    for (of, outcome) in kinds() {
        let bench = Bench::new(Config::default(), &[stream("a")]).await;
        let said = outcome.clone();
        bench.method.answer_with(move |set| if number(set) == BAD { said.clone() } else { ack() });
        let waited = one_a_second(&bench, 900).await;
        assert!(waited <= 8, "{of}: good ones waited in {waited} of 900 seconds");
        assert_poison(&bench, of, 900).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_set_that_an_endpoint_never_takes_is_parked_and_its_channels_go_on() {
    let bench = Bench::new(Config::default(), &[clustered("a")]).await;
    let cluster = bench.method.cluster.clone();
    for n in 0..900 {
        bench.emit(n, n).await;
        for _ in 0..10 {
            bench.pass(Duration::from_millis(100)).await;
            cluster.settle_each(|set| {
                if number(set) == BAD { retry(Scope::Endpoint, "kafka_transport") } else { Ok(Receipt::Broker) }
            });
        }
    }
    assert_poison(&bench, "endpoint", 900).await;
}

#[tokio::test(start_paused = true)]
async fn one_set_that_a_receiver_who_comes_never_takes_is_parked() {
    let bench = Bench::new(Config::default(), &[asked("a")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    for n in 0..610 {
        if n < 600 {
            bench.emit(n, n).await;
        }
        let all = take(&mut subscription.consumer(), 50).await;
        let said = |set: &SealedSet| if number(set) == BAD { retry(Scope::Channel, "http_503") } else { ack() };
        subscription.settle_all(all.iter().map(|set| (set.jti, Some(set.attempt), said(set))).collect());
        bench.pass(Duration::from_secs(1)).await;
    }
    assert_poison(&bench, "responder", 600).await;
}

#[tokio::test(start_paused = true)]
async fn one_set_for_which_whole_requests_fail_is_found_out_and_costs_none_of_the_others() {
    let bench = Bench::new(Config::default(), &[later("a")]).await;
    let requests = bench.method.requests.clone();
    requests.answer_with(|sets| {
        let cause = Cause::configuration("http_403", "as scripted");
        let bad = sets.iter().any(|set| number(set) == BAD);
        bad.then_some(Verdict::Retry { scope: Scope::Channel, after: None, cause })
    });
    for n in 0..900 {
        for m in 0..5 {
            bench.emit(5 * n + m, 5 * n + m).await;
        }
        for _ in 0..4 {
            bench.pass(Duration::from_millis(250)).await;
            requests.acknowledge_all();
        }
    }
    assert_poison(&bench, "request", 4500).await;
}

#[tokio::test(start_paused = true)]
async fn two_such_sets_do_not_shelter_each_other() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench
        .method
        .answer_with(|set| if [7, 9].contains(&number(set)) { retry(Scope::Channel, "http_503") } else { ack() });
    one_a_second(&bench, 900).await;
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.parked, view.waiting), (2, 0), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_unhealthy_makes_no_poison() {
    // This many of ten answers are failures; with 0 the receiver is away every other half minute instead.
    for failing in [3, 5, 8, 9, 0] {
        let bench =
            Bench::new(Config { pause_after: Duration::from_secs(1_000_000), ..Config::default() }, &[stream("a")])
                .await;
        let (dice, away) = (SeededRandom::new(11 + failing), Arc::new(AtomicBool::new(false)));
        let is_away = away.clone();
        bench.method.answer_with(move |_| {
            let fails = is_away.load(Ordering::Relaxed) || dice.below(10) < failing;
            if fails { retry(Scope::Channel, "http_503") } else { ack() }
        });
        for n in 0..400 {
            bench.emit(n % 60, n).await;
            away.store(failing == 0 && n / 30 % 2 == 1, Ordering::Relaxed);
            bench.pass(Duration::from_secs(1)).await;
        }
        away.store(false, Ordering::Relaxed);
        bench.pass(Duration::from_secs(600)).await;
        let view = bench.router.stream("a").await.unwrap();
        assert_eq!(view.parked_total, 0, "{failing} of ten: {view:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_goes_away_makes_no_poison_of_the_only_set_that_waits() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let away = Arc::new(AtomicBool::new(false));
    let is_away = away.clone();
    bench.method.answer_with(move |set| {
        let fails = is_away.load(Ordering::Relaxed) || number(set) == BAD;
        if fails { retry(Scope::Channel, "http_503") } else { ack() }
    });
    // It fails alone, again and again, while others pass; before it is given up the receiver goes away, and nobody passes.
    one_a_second(&bench, 20).await;
    away.store(true, Ordering::Relaxed);
    for _ in 0..360 {
        bench.pass(Duration::from_secs(10)).await;
    }
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.parked, view.waiting, view.acknowledged), (0, 1, 19), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_is_not_the_last() {
    let bench = Bench::new(Config { poison_after: 2, ..Config::default() }, &[stream("a")]).await;
    let subscription = bench.router.0.subscription(setgate_store::StreamNo(1)).unwrap();
    let far = |set: &SealedSet| -> Outcome {
        let after = Duration::from_secs(if number(set) == 0 { 5 } else { 3000 });
        Err(Verdict::Retry { scope: Scope::Set, after: Some(after), cause: Cause::new("http_500", "as scripted") })
    };
    bench.method.answer_with(move |set| if number(set) == 1 || number(set) > 6 { ack() } else { far(set) });
    bench.emit(0, 0).await;
    bench.until("it failed", async || subscription.state.lock().shown.last_error.is_some()).await;
    bench.emit(1, 1).await;
    bench.until("another passed", async || bench.router.stream("a").await.unwrap().acknowledged == 1).await;
    // Enough SETs fail alone for the channel to be taken as unhealthy. The next to leave is the first SET, for the last
    // time.
    for n in 2..7 {
        bench.emit(n, n).await;
    }
    bench.until("given up", async || bench.router.stream("a").await.unwrap().parked == 1).await;
    bench.emit(7, 7).await;
    for _ in 0..60 {
        bench.pass(Duration::from_secs(1)).await;
    }
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!(view.acknowledged, 2, "nothing leaves any more; {}", bench.clocks());
}
