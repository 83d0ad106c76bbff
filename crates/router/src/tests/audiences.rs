//! Tests that the SETs of a stream are made for it alone.

use std::collections::BTreeSet;

use super::*;

#[tokio::test(start_paused = true)]
async fn each_stream_has_its_own_audience_and_its_own_jti() {
    let ids = ["a", "b", "c"];
    let own = |id: &str| {
        let delivery = json!({ "method": "scripted" });
        json!({ "id": id, "issuer": ISSUER, "audience": format!("https://{id}.example"), "delivery": delivery })
    };
    let bench = Bench::new(Config::default(), &ids.map(own)).await;
    // Every SET leaves twice, so repeats are looked at too.
    let refused = Mutex::new(BTreeSet::new());
    bench.method.answer_with(move |set| {
        if refused.lock().insert(set.jti.to_string()) { retry(Scope::Set, "http_500") } else { ack() }
    });
    for n in 0..20 {
        bench.emit(n, n).await;
    }
    bench.delivered().await;
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut transactions = BTreeSet::new();
    for set in bench.method.seen.lock().iter() {
        let claims = claims(&set.body);
        assert_eq!(claims["jti"].as_str(), Some(set.jti.as_str()));
        names.entry(claims["aud"].as_str().unwrap().to_owned()).or_default().insert(set.jti.to_string());
        transactions.insert(claims["txn"].as_str().unwrap().to_owned());
    }
    let audiences = ids.map(|id| format!("https://{id}.example"));
    assert_eq!(names.keys().cloned().collect::<Vec<_>>(), audiences);
    assert!(names.values().all(|own| own.len() == 20), "{names:?}");
    assert_eq!(names.values().flatten().collect::<BTreeSet<_>>().len(), 60, "two streams share a jti");
    assert_eq!(transactions.len(), 20);
}
