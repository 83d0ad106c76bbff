use setgate_clock::manual::{ManualClock, runtime};
use setgate_store::MemoryStore;

use super::*;

async fn open(store: &Arc<dyn Store>, clock: &Arc<ManualClock>) -> (Arc<Sources>, Arc<Collected>) {
    let about = About { name: "hr".into(), kind: "kafka".into(), issuer: "https://a.example".into() };
    let sources = Sources::open(store.clone(), runtime(clock.clone(), 1), vec![about], &Registry::new()).await.unwrap();
    let source = sources.get("hr").unwrap().clone();
    (sources, source)
}

fn fixture() -> (Arc<dyn Store>, Arc<ManualClock>) {
    let clock = ManualClock::at(1_700_000_000_000);
    (MemoryStore::new(runtime(clock.clone(), 1), &[7; 32]), clock)
}

fn bad(at: impl std::fmt::Display, body: impl Into<Bytes>) -> Bad {
    let text = "no event".to_owned();
    Bad { at: format!("t/0/{at}"), key: None, body: body.into(), code: ErrorCode::InvalidRequest, text }
}

async fn places(sources: &Sources, source: &Collected) -> Vec<String> {
    let all = sources.parked(source, None, 5000).await.unwrap();
    all.iter().map(|one| one["at"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn parked_records_outlive_the_gateway_and_are_dropped_by_name() {
    let (store, clock) = fixture();
    let (sources, source) = open(&store, &clock).await;
    sources.park(&source, vec![bad(9, "late"), bad(10, &b"\xff\x00"[..])]).await.unwrap();
    sources.park(&source, vec![bad(11, "x")]).await.unwrap();
    let (sources, source) = open(&store, &clock).await;
    let all = sources.parked(&source, None, 10).await.unwrap();
    assert_eq!(all.len(), 3);
    let one = all.iter().find(|one| one["at"] == "t/0/10").unwrap();
    assert_eq!((one["value"].as_str(), one["value_hex"].as_str()), (None, Some("ff00")));
    assert_eq!(sources.discard(&source, Some(&["t/0/10".into(), "t/0/77".into()])).await.unwrap(), 1);
    assert!(!places(&sources, &source).await.contains(&"t/0/10".to_owned()));
    assert_eq!(sources.discard(&source, None).await.unwrap(), 2);
    assert!(store.range(Key("source/".into())).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_oldest_make_room_and_what_comes_again_takes_none() {
    let (store, clock) = fixture();
    let (sources, source) = open(&store, &clock).await;
    for at in 0..MOST {
        sources.park(&source, vec![bad(at, "x")]).await.unwrap();
    }
    sources.park(&source, vec![bad(5, "x"), bad(MOST, "x")]).await.unwrap();
    let places = places(&sources, &source).await;
    assert_eq!(places.len(), MOST);
    assert!(!places.contains(&"t/0/0".to_owned()), "the oldest is gone");
    assert!(places.contains(&"t/0/1".to_owned()) && places.contains(&"t/0/5".to_owned()));
    assert_eq!(store.range(Key("source/hr/".into())).await.unwrap().len(), MOST);
}

#[tokio::test]
async fn huge_records_are_cut_and_all_together_are_bounded() {
    let (store, clock) = fixture();
    let (sources, source) = open(&store, &clock).await;
    let huge = Bytes::from("é".repeat(1 << 20));
    for at in 0..300 {
        sources.park(&source, vec![bad(at, huge.clone())]).await.unwrap();
    }
    let kept: usize = store.range(Key("source/".into())).await.unwrap().iter().map(|one| one.value.len()).sum();
    assert!(kept <= MOST_BYTES, "{kept}");
    let last = sources.parked(&source, None, 1000).await.unwrap().pop().unwrap();
    assert_eq!((last["at"].as_str(), last["bytes"].as_u64()), (Some("t/0/299"), Some(2 << 20)));
    assert!(last["value"].as_str().unwrap().len() <= LONGEST);
}

#[tokio::test]
async fn the_list_tells_how_a_source_is_doing() {
    let (store, clock) = fixture();
    let (sources, source) = open(&store, &clock).await;
    assert_eq!(sources.list().await[0]["state"], "starting");
    source.failed(sources.now(), "grant Read on the group\u{1b}[2J");
    let view = sources.list().await.remove(0);
    assert_eq!((view["state"].as_str(), view["lag"].as_f64()), (Some("failing"), None));
    assert!(!view["last_error"].as_str().unwrap().contains('\u{1b}'));
    source.on_success();
    source.figures(&[("lag_records", 3.0)]);
    let view = sources.list().await.remove(0);
    assert_eq!((view["state"].as_str(), view["lag"].as_f64()), (Some("collecting"), Some(3.0)));
}
