//! Decompression bombs, long lines, deeply nested texts and slow bodies (hardening H28).

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use tokio::io::AsyncWriteExt as _;

use super::*;

async fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(text).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn zstd(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(Vec::new());
    encoder.write_all(text).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

impl Fixture {
    async fn packed(&self, coding: &str, kind: &str, body: Vec<u8>) -> Answer {
        let mut request = self.request(kind, body);
        request.headers_mut().insert("content-encoding", coding.parse().unwrap());
        self.send(request).await
    }
}

#[tokio::test]
async fn compressed_bodies_are_read() {
    let fixture = fixture();
    let events: Vec<_> = (0..300).map(event).collect();
    let text = ndjson(&events);
    let answer = fixture.packed("gzip", "application/x-ndjson", gzip(text.as_bytes()).await).await;
    assert_eq!(answer.statuses(), vec![202; 300]);
    let answer = fixture.packed("zstd", "application/x-ndjson", zstd(text.as_bytes()).await).await;
    assert_eq!(answer.statuses(), vec![202; 300]);
    assert!(answer.lines().iter().all(|line| line["repeated"] == true));
    let answer = fixture.packed("zstd", "application/json", zstd(event("one").to_string().as_bytes()).await).await;
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn a_bomb_is_refused_by_its_ratio_before_it_grows() {
    let fixture = fixture();
    let white = vec![b' '; 40 << 20];
    for (coding, bomb) in [("gzip", gzip(&white).await), ("zstd", zstd(&white).await)] {
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        for kind in ["application/json", "application/x-ndjson"] {
            let answer = fixture.packed(coding, kind, bomb.clone()).await;
            assert_eq!((answer.status, answer.json()["rule"].as_str()), (413, Some("ratio")), "{coding} {kind}");
        }
    }
    let read: u64 = fixture
        .registry
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("setgate_intake_body_bytes_total "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(read < 16 << 20, "{read} bytes were unpacked of four bombs of 40 MiB");
}

#[tokio::test]
async fn a_body_is_refused_by_its_size_after_decompression() {
    let fixture = fixture_with(IntakeConfig { body_bytes: 100_000, ratio: u64::MAX, ..IntakeConfig::default() });
    let mut text = ndjson(&(0..100).map(event).collect::<Vec<_>>());
    text.push_str(&" ".repeat(200_000));
    let answer = fixture.packed("zstd", "application/x-ndjson", zstd(text.as_bytes()).await).await;
    assert_eq!(answer.statuses(), vec![202; 100]);
    assert_eq!(answer.lines().last().unwrap()["rule"], "body_bytes");
    let answer = fixture.post("application/x-ndjson", text).await;
    assert_eq!((answer.status, answer.json()["rule"].as_str()), (413, Some("body_bytes")));
}

#[tokio::test]
async fn a_zstd_window_beyond_the_limit_is_refused() {
    use async_compression::{Level, zstd::CParameter};
    let fixture = fixture();
    let pack = async |log| {
        let parameters = [CParameter::window_log(log)];
        let mut encoder = ZstdEncoder::with_quality_and_params(Vec::new(), Level::Default, &parameters);
        // When the length is not known, the frame states its window.
        for id in 0..100 {
            encoder.write_all(format!("{}\n", event(id)).as_bytes()).await.unwrap();
            encoder.flush().await.unwrap();
        }
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    };
    let answer = fixture.packed("zstd", "application/x-ndjson", pack(23).await).await;
    assert_eq!(answer.statuses(), vec![202; 100]);
    let answer = fixture.packed("zstd", "application/x-ndjson", pack(24).await).await;
    assert_eq!((answer.status, answer.json()["rule"].as_str()), (413, Some("zstd_window_log")));
}

#[tokio::test]
async fn a_second_frame_is_refused() {
    let fixture = fixture();
    for coding in ["gzip", "zstd"] {
        let pack = async |text: String| {
            if coding == "gzip" { gzip(text.as_bytes()).await } else { zstd(text.as_bytes()).await }
        };
        let mut two = pack(ndjson(&[event("a")])).await;
        two.extend(pack(ndjson(&[event("b")])).await);
        let answer = fixture.packed(coding, "application/x-ndjson", two).await;
        let lines = answer.lines();
        assert_eq!((&lines[0]["id"], lines.last().unwrap()["status"].as_u64()), (&json!("a"), Some(400)), "{coding}");
        assert_eq!(lines.len(), 2);
    }
}

#[tokio::test]
async fn what_is_not_compressed_as_it_says_is_400() {
    let fixture = fixture();
    for coding in ["gzip", "zstd"] {
        let answer = fixture.packed(coding, "application/x-ndjson", ndjson(&[event("a")]).into_bytes()).await;
        assert_eq!(answer.status, 400, "{coding}");
        let whole = if coding == "gzip" { gzip(&[b'x'; 5000]).await } else { zstd(&[b'x'; 5000]).await };
        let answer = fixture.packed(coding, "application/x-ndjson", whole[..whole.len() - 3].to_vec()).await;
        // The readable events are answered, and the last line says that the rest is missing.
        let last = if answer.status == 200 { answer.lines().pop().unwrap() } else { answer.json() };
        assert_eq!(last["status"], 400, "{coding} {answer:?}");
    }
    assert_eq!(fixture.fake.taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn other_codings_and_media_types_are_415_and_named() {
    let fixture = fixture();
    let answer = fixture.packed("br", "application/json", vec![]).await;
    assert_eq!((answer.status, answer.headers["accept-encoding"].to_str().unwrap()), (415, "gzip, zstd"));
    let answer = fixture.post("text/plain", "{}").await;
    assert_eq!(answer.status, 415);
    assert!(answer.headers["accept"].to_str().unwrap().contains("application/x-ndjson"));
}

#[tokio::test]
async fn an_event_beyond_the_limit_is_413_and_the_next_is_taken() {
    let fixture = fixture_with(IntakeConfig { item_bytes: 2000, ..IntakeConfig::default() });
    let mut long = event("long");
    long["events"][REVOKED]["reason"] = "x".repeat(2000).into();
    let answer = fixture.one(&long).await;
    assert_eq!((answer.status, answer.json()["rule"].as_str()), (413, Some("item_bytes")));
    for (kind, text) in [
        ("application/x-ndjson", ndjson(&[event("a"), long.clone(), event("b")])),
        ("application/json", json!([event("c"), long.clone(), event("d")]).to_string()),
    ] {
        let answer = fixture.post(kind, text).await;
        assert_eq!(answer.statuses(), [202, 413, 202], "{kind}");
        assert_eq!(answer.lines()[1]["rule"], "item_bytes");
    }
    assert_eq!(fixture.fake.ids(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn too_many_events_are_not_read() {
    let fixture = fixture_with(IntakeConfig { items: 3, ..IntakeConfig::default() });
    let answer = fixture.many(&(0..5).map(event).collect::<Vec<_>>()).await;
    assert_eq!(answer.statuses(), [202; 3]);
    let lines = answer.lines();
    assert_eq!((&lines[3]["rule"], &lines[3]["answered"]), (&json!("items"), &json!(3)));
    assert_eq!(fixture.fake.ids().len(), 3);
}

#[tokio::test]
async fn after_a_hundred_refused_events_the_rest_is_not_read() {
    let fixture = fixture();
    let drawn = Arc::new(AtomicUsize::new(0));
    let counter = drawn.clone();
    let endless = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>(Bytes::from_static(b"{}\n"))
    });
    let answer = fixture.post("application/x-ndjson", Body::from_stream(endless)).await;
    assert_eq!(answer.statuses(), vec![400; 100]);
    let last = answer.lines().pop().unwrap();
    assert_eq!((&last["rule"], &last["answered"]), (&json!("refused_items"), &json!(100)));
    assert!(drawn.load(Ordering::SeqCst) <= 101, "{drawn:?}");
}

#[tokio::test]
async fn deep_and_wide_texts_are_refused() {
    let fixture = fixture();
    let mut deep = json!({});
    for _ in 0..32 {
        deep = json!({ "a": deep });
    }
    let mut bad = event("deep");
    bad["events"][REVOKED] = deep;
    assert_eq!(fixture.one(&bad).await.status, 400);
    let mut wide = event("wide");
    for n in 0..1001 {
        wide["events"][REVOKED][format!("m{n}")] = 1.into();
    }
    assert_eq!(fixture.one(&wide).await.status, 400);
    let brackets = "[".repeat(100_000);
    let answer = fixture.post("application/json", brackets).await;
    assert_eq!(answer.status, 400, "nothing was taken: the array does not end");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_given_up() {
    let fixture = fixture();
    let still = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    for kind in ["application/json", "application/x-ndjson"] {
        let answer = fixture.post(kind, still()).await;
        assert_eq!((answer.status, answer.json()["rule"].as_str()), (408, Some("minimum_bytes_per_second")), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_keeps_what_was_committed_and_is_given_up() {
    let fixture = fixture();
    // One event of about 200 bytes is followed by a byte of white space every 5 seconds: never idle for long, yet
    // slower than 256 bytes a second.
    let drip = stream::unfold(0u64, |n| async move {
        if n == 0 {
            return Some((Ok::<_, std::io::Error>(Bytes::from(format!("{}\n", event("a")))), 1));
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        Some((Ok(Bytes::from_static(b" ")), n + 1))
    });
    let begun = tokio::time::Instant::now();
    let answer = fixture.post("application/x-ndjson", Body::from_stream(drip)).await;
    let lines = answer.lines();
    assert_eq!((&lines[0]["status"], &lines[1]["status"]), (&json!(202), &json!(408)));
    let took = begun.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(16)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_commit_is_not_held_against_the_caller() {
    let fixture = fixture();
    let gate = Arc::new(Gate::new(0));
    *fixture.fake.gate.lock().unwrap() = Some(gate.clone());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(300)).await;
        gate.add_permits(10);
    });
    let answer = fixture.many(&[event("a"), event("b")]).await;
    assert_eq!(answer.statuses(), [202, 202]);
}

#[tokio::test]
async fn too_many_requests_at_once_are_put_off() {
    let fixture = fixture_with(IntakeConfig { requests: 1, ..IntakeConfig::default() });
    let gate = Arc::new(Gate::new(0));
    *fixture.fake.gate.lock().unwrap() = Some(gate.clone());
    let second = async {
        // The first request holds the one place: it is polled first, and waits for its commit.
        let answer = fixture.one(&event("b")).await;
        gate.add_permits(1);
        answer
    };
    let (first, second) = {
        let first = [event("a")];
        tokio::join!(biased; fixture.many(&first), second)
    };
    assert_eq!((first.status, second.status), (200, 503));
    assert_eq!(second.json()["rule"], "requests");
    gate.add_permits(1);
    assert_eq!(fixture.one(&event("c")).await.status, 202, "the place is free again");
}
