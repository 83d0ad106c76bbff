//! Tests of parked SETs: the subjects that they stop, what a re-issue may overtake, and what becomes of them with their
//! stream.

use std::sync::atomic::Ordering;

use setgate_store::{Durability, ParkedFilter, Unit};

use super::{faulty::*, responder::*, *};

fn stopping() -> Value {
    let mut stopping = stream("a");
    stopping["on_refusal"] = "stop_key".into();
    stopping
}

/// Makes a stream on which subject 0 stands still since its first SET was refused; the second SET waits behind it.
async fn stopped() -> (Bench, Arc<Faulty>, String) {
    let (bench, store) = faulty(Config::default(), &[stopping()]).await;
    bench.method.answer_with(|set| {
        if is_event(set) && number(set) == 0 && set.attempt.0 == 1 { refuse(ErrorCode::InvalidRequest) } else { ack() }
    });
    bench.emit(0, 0).await;
    bench.emit(0, 1).await;
    bench.until("parked", async || bench.router.stream("a").await.unwrap().parked == 1).await;
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.router.stream("a").await.unwrap().waiting, 1, "the subject stands still");
    let jti = bench.router.parked(Some("a"), None, None, 9).await.unwrap()[0].jti.to_string();
    (bench, store, jti)
}

async fn assert_goes_on(bench: &Bench, what: &str) {
    for _ in 0..130 {
        bench.pass(Duration::from_secs(1)).await;
    }
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!(view.waiting, 0, "{what}: the subject stands still; {}", bench.clocks());
}

#[tokio::test(start_paused = true)]
async fn a_subject_goes_on_when_what_stopped_it_is_forgotten() {
    let (bench, store, _) = stopped().await;
    // The store does the same with what is beyond its limits.
    let parked = store.parked(ParkedFilter { stream: None, code: None, from: None, most: 9 }).await.unwrap();
    let what = parked.iter().map(|parked| (parked.stream, parked.at)).collect();
    store.commit(vec![Unit::Discard { fence: store.fence(), what }], Durability::Sync).await.unwrap();
    assert_goes_on(&bench, "forgotten").await;
}

#[tokio::test(start_paused = true)]
async fn a_subject_goes_on_when_refusals_stop_none_any_more() {
    let (bench, _, _) = stopped().await;
    bench.declare(&[stream("a")]).await;
    assert_goes_on(&bench, "on_refusal = continue").await;
}

#[tokio::test(start_paused = true)]
async fn a_subject_stops_when_refusals_stop_it_from_now_on_and_after_a_restart() {
    let (mut bench, _, _) = stopped().await;
    bench.declare(&[stream("a")]).await;
    assert_goes_on(&bench, "on_refusal = continue").await;
    bench.declare(&[stopping()]).await;
    bench.emit(0, 2).await;
    bench.emit(1, 3).await;
    bench.pass(Duration::from_secs(70)).await;
    let waiting = async |bench: &Bench| bench.router.stream("a").await.unwrap().waiting;
    assert_eq!(waiting(&bench).await, 1, "what is parked stops its subject, whenever that was asked for");
    bench.restart(Config::default()).await;
    bench.pass(Duration::from_secs(70)).await;
    assert_eq!(waiting(&bench).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_subject_goes_on_after_a_re_issue_that_broke_off_behind_its_commit() {
    let (bench, store, jti) = stopped().await;
    store.heads_fail.store(true, Ordering::Relaxed);
    bench.router.reissue(vec![jti], true).await.unwrap_err();
    store.heads_fail.store(false, Ordering::Relaxed);
    assert_goes_on(&bench, "a re-issue broke off").await;
}

#[tokio::test(start_paused = true)]
async fn a_subject_goes_on_after_a_re_issue_that_could_read_nothing_any_more() {
    let (bench, store, jti) = stopped().await;
    // Nothing can be read from the moment at which it was issued.
    store.fail_after_reissue.store(true, Ordering::Relaxed);
    bench.router.reissue(vec![jti], true).await.unwrap_err();
    bench.pass(Duration::from_secs(1)).await;
    store.fail_after_reissue.store(false, Ordering::Relaxed);
    store.heads_fail.store(false, Ordering::Relaxed);
    store.parked_fail.store(false, Ordering::Relaxed);
    assert_goes_on(&bench, "nothing could be read").await;
}

#[tokio::test(start_paused = true)]
async fn a_re_issue_does_not_overtake_what_was_acknowledged_in_the_same_message() {
    for acknowledged_first in [true, false] {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let subscription = bench.router.session_target("a").unwrap().subscription;
        bench.emit(0, 0).await;
        bench.emit(0, 1).await;
        let all = take(&mut subscription.consumer(), 9).await;
        let mut said = vec![(all[1].jti, None, ack()), (all[0].jti, None, refuse(ErrorCode::InvalidRequest))];
        if !acknowledged_first {
            said.reverse();
        }
        subscription.settle_all(said);
        bench.settled().await;
        let answer = bench.router.reissue(vec![all[0].jti.to_string()], false).await.unwrap();
        assert!(answer[0].error.as_deref().is_some_and(|why| why.contains("--out-of-order")), "{answer:?}");
        assert!(bench.router.reissue(vec![all[0].jti.to_string()], true).await.unwrap()[0].new_jti.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_re_issue_is_told_of_no_acknowledgement_that_never_was() {
    let mut bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|set| if number(set) < 2 { refuse(ErrorCode::InvalidRequest) } else { ack() });
    bench.emit(0, 0).await;
    bench.emit(1, 1).await;
    bench.emit(1, 2).await;
    bench.settled().await;
    let parked = bench.router.parked(Some("a"), None, None, 9).await.unwrap();
    let [first, second] = &parked[..] else { panic!("{parked:?}") };
    bench.restart(Config::default()).await;
    bench.method.answer_with(|_| ack());
    let jtis = vec![first.jti.to_string(), second.jti.to_string()];
    let answers = bench.router.reissue(jtis, false).await.unwrap();
    assert!(answers[0].error.is_none(), "no later SET of its subject ever was: {answers:?}");
    assert!(answers[1].error.as_deref().is_some_and(|why| why.contains("--out-of-order")), "{answers:?}");
    // The first SET, issued anew, is no reason against itself, and the SET that it repeats is no later one.
    bench.settled().await;
    assert_eq!(bench.method.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_of_a_stream_goes_with_it_though_the_delete_broke_off() {
    for restarts in [false, true] {
        let (mut bench, store) = faulty(Config::default(), &[stream("a"), stream("b")]).await;
        bench.method.answer_with(|_| refuse(ErrorCode::InvalidRequest));
        for n in 0..3 {
            bench.emit(n, n).await;
        }
        bench.settled().await;
        store.parked_fail.store(true, Ordering::Relaxed);
        let _ = bench.router.delete("a").await;
        if restarts {
            bench.restart(Config::default()).await;
        }
        store.parked_fail.store(false, Ordering::Relaxed);
        for _ in 0..20 {
            bench.pass(Duration::from_millis(100)).await;
        }
        let parked = store.parked(ParkedFilter { stream: None, code: None, from: None, most: 99 }).await.unwrap();
        let of: Vec<_> = parked.iter().map(|parked| parked.stream.0).collect();
        assert_eq!(of, [2, 2, 2], "what is parked of the other stream stays, restarts: {restarts}");
    }
}
