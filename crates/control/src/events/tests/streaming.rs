//! Answers while the body is still being sent, in constant memory (hardening H28, H29).

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::*;

fn channel() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, receiver) = mpsc::channel(64);
    let stream = stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    (sender, Body::from_stream(stream))
}

fn line(id: impl std::fmt::Display) -> Bytes {
    format!("{}\n", event(id)).into()
}

#[tokio::test]
async fn a_line_is_answered_when_its_commit_is_done_and_not_before() {
    let fixture = fixture();
    let gate = Arc::new(Gate::new(0));
    *fixture.fake.gate.lock().unwrap() = Some(gate.clone());
    let (sender, body) = channel();
    sender.send(Ok(line("a"))).await.unwrap();
    let mut response = Box::pin(fixture.app.clone().oneshot(fixture.request("application/x-ndjson", body)));
    assert!((&mut response).now_or_never().is_none(), "nothing is committed yet");
    gate.add_permits(1);
    let mut lines = response.await.unwrap().into_body().into_data_stream();
    let first = lines.next().await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Json>(&first).unwrap()["id"], "a");

    sender.send(Ok(line("b"))).await.unwrap();
    let mut next = Box::pin(lines.next());
    assert!((&mut next).now_or_never().is_none(), "the second waits for its own commit");
    gate.add_permits(1);
    let second = next.await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Json>(&second).unwrap()["id"], "b");
    drop(sender);
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_body_that_ends_early_keeps_what_was_committed_and_says_so() {
    let fixture = fixture();
    let (sender, body) = channel();
    sender.send(Ok(line("a"))).await.unwrap();
    let half = line("b");
    sender.send(Ok(half.slice(..half.len() / 2))).await.unwrap();
    sender.send(Err(std::io::Error::other("reset"))).await.unwrap();
    let answer = fixture.post("application/x-ndjson", body).await;
    let lines = answer.lines();
    assert_eq!((&lines[0]["id"], &lines[0]["status"]), (&json!("a"), &json!(202)));
    assert_eq!((&lines[1]["status"], &lines[1]["answered"]), (&json!(400), &json!(1)));
    assert!(lines[1]["error"].as_str().unwrap().contains("inside an event"), "{lines:?}");
    assert_eq!(fixture.fake.ids(), ["a"]);
}

#[tokio::test]
async fn what_comes_together_is_committed_together() {
    let fixture = fixture();
    let events: Vec<_> = (0..300).map(event).collect();
    let answer = fixture.many(&events).await;
    assert_eq!(answer.statuses(), vec![202; 300]);
    let sizes: Vec<_> = fixture.fake.batches.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [128, 128, 44]);
    let ids: Vec<_> = (0..300).map(|id| id.to_string()).collect();
    assert_eq!(fixture.fake.ids(), ids, "in the order in which they came");
}

#[tokio::test]
async fn while_one_batch_is_committed_at_most_one_more_is_read() {
    let fixture = fixture();
    let gate = Arc::new(Gate::new(0));
    *fixture.fake.gate.lock().unwrap() = Some(gate.clone());
    let drawn = Arc::new(AtomicUsize::new(0));
    let counter = drawn.clone();
    let endless = stream::repeat_with(move || {
        let id = counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>(line(id))
    });
    let request = fixture.request("application/x-ndjson", Body::from_stream(endless));
    let mut response = Box::pin(fixture.app.clone().oneshot(request));
    assert!((&mut response).now_or_never().is_none());
    assert!(drawn.load(Ordering::SeqCst) <= 2 * 128 + 1, "{drawn:?}");
    gate.add_permits(1);
    let mut lines = response.await.unwrap().into_body().into_data_stream();
    lines.next().await.unwrap().unwrap();
    // The caller does not read its answers, so the body is not read on.
    let read = drawn.load(Ordering::SeqCst);
    assert!(read <= 2 * 128 + 1, "{read}");
    gate.add_permits(1000);
    tokio::task::yield_now().await;
    assert_eq!(drawn.load(Ordering::SeqCst), read);
    for _ in 0..20 {
        lines.next().await.unwrap().unwrap();
    }
    assert!(drawn.load(Ordering::SeqCst) <= 23 * 128, "{drawn:?}");
}

#[tokio::test]
async fn an_array_is_read_and_answered_piece_by_piece() {
    let fixture = fixture();
    let (sender, body) = channel();
    sender.send(Ok(Bytes::from(format!("[{},", event("a"))))).await.unwrap();
    let response = fixture.app.clone().oneshot(fixture.request("application/json", body)).await.unwrap();
    let mut lines = response.into_body().into_data_stream();
    let first = lines.next().await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Json>(&first).unwrap()["id"], "a", "answered before the array ends");
    sender.send(Ok(Bytes::from(format!("{}]", event("b"))))).await.unwrap();
    drop(sender);
    let second = lines.next().await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Json>(&second).unwrap()["id"], "b");
    assert!(lines.next().await.is_none());
}
