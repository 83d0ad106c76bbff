use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use setgate_delivery::Bytes;

use super::*;
use crate::testing::{AUDIENCE, Transmitter};

struct Bench {
    transmitter: Transmitter,
    ingest: Arc<ListenIngest>,
    reports: Arc<Mutex<Vec<Report>>>,
    broken: Arc<AtomicBool>,
}

async fn bench(fail: &[&str], refuse: &[&str]) -> Bench {
    let transmitter = Transmitter::start().await;
    let (reports, broken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let sink: Sink = {
        let (reports, broken) = (reports.clone(), broken.clone());
        Arc::new(move |report| {
            if broken.load(Ordering::SeqCst) {
                return Err(io::Error::other("the pipe is closed"));
            }
            reports.lock().push(report.clone());
            Ok(())
        })
    };
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let random = transmitter.runtime.random.clone();
    let misbehave = Misbehave::parse(&own(fail), &own(refuse), None, random).unwrap();
    let ingest = ListenIngest::new(
        transmitter.verify(&[AUDIENCE]),
        Inbox::new(100),
        misbehave,
        sink,
        transmitter.runtime.clone(),
    );
    Bench { transmitter, ingest: Arc::new(ingest), reports, broken }
}

impl Bench {
    fn token(&self, jti: &str) -> Incoming {
        self.set(None, &self.transmitter.claims(jti))
    }

    fn set(&self, named: Option<&str>, claims: &Value) -> Incoming {
        Incoming::Set { named: named.map(Into::into), token: Bytes::from(self.transmitter.sign(claims)) }
    }

    async fn ingest(&self, what: Vec<Incoming>) -> Vec<Answer> {
        self.ingest.accept("127.0.0.1:1", what).await
    }

    fn last(&self) -> Report {
        self.reports.lock().last().cloned().unwrap()
    }
}

#[tokio::test]
async fn a_duplicate_is_acknowledged_again_and_handed_over_once() {
    let bench = bench(&[], &[]).await;
    assert_eq!(bench.ingest(vec![bench.token("1")]).await, [Answer::Taken]);
    assert!(matches!(bench.last(), Report::Taken(received) if received.taken.jti == "1"));
    assert_eq!(bench.ingest(vec![bench.token("1"), bench.token("2")]).await, [Answer::Taken, Answer::Taken]);
    let counts = bench.ingest.counts();
    assert_eq!((counts.taken, counts.duplicates, counts.changed), (2, 1, 0));
    let mut other = bench.transmitter.claims("1");
    other["txn"] = "another".into();
    assert_eq!(bench.ingest(vec![bench.set(None, &other)]).await, [Answer::Taken]);
    assert!(matches!(bench.last(), Report::Duplicate { same_claims: false, .. }));
    assert_eq!(bench.ingest.counts().changed, 1);
}

#[tokio::test]
async fn a_batch_has_one_answer_each_in_order() {
    let bench = bench(&[], &[]).await;
    let broken = Incoming::Set { named: None, token: Bytes::from_static(b"x") };
    let event = Incoming::Event { id: setgate_delivery::Identity::Given("1".into()), body: Bytes::from_static(b"{}") };
    let misnamed = bench.set(Some("other"), &bench.transmitter.claims("3"));
    let named = bench.set(Some("4"), &bench.transmitter.claims("4"));
    let answers = bench.ingest(vec![bench.token("1"), broken, event, misnamed, named]).await;
    let refused =
        |answer: &Answer| matches!(answer, Answer::Refused(refusal) if refusal.code == ErrorCode::InvalidRequest);
    assert_eq!(answers.len(), 5);
    assert!(answers[0] == Answer::Taken && answers[4] == Answer::Taken);
    assert!(answers[1..4].iter().all(refused), "{answers:?}");
    assert_eq!(bench.ingest.counts().refused, BTreeMap::from([("invalid_request".to_owned(), 3)]));
}

#[tokio::test]
async fn what_the_sink_did_not_take_is_not_acknowledged_and_is_new_again() {
    let bench = bench(&[], &[]).await;
    bench.broken.store(true, Ordering::SeqCst);
    assert!(matches!(bench.ingest(vec![bench.token("1")]).await[..], [Answer::Busy { .. }]));
    bench.broken.store(false, Ordering::SeqCst);
    assert_eq!(bench.ingest(vec![bench.token("1")]).await, [Answer::Taken]);
    let counts = bench.ingest.counts();
    assert_eq!((counts.taken, counts.duplicates, counts.put_off), (1, 0, 1));
}

#[tokio::test]
async fn failing_on_purpose_takes_nothing() {
    let bench = bench(&["503"], &[]).await;
    assert_eq!(bench.ingest(vec![bench.token("1")]).await, [Answer::Status(503)]);
    assert_eq!(bench.ingest.counts(), Counts { failed: 1, ..Counts::default() });
    assert!(matches!(bench.last(), Report::Failed { status: 503, .. }));
}

#[tokio::test]
async fn refusing_on_purpose_concerns_valid_sets_alone_and_forgets_them() {
    let bench = bench(&[], &["invalid_audience"]).await;
    for _ in 0..2 {
        let answers = bench.ingest(vec![bench.token("1")]).await;
        assert!(matches!(&answers[..], [Answer::Refused(refusal)] if refusal.code == ErrorCode::InvalidAudience));
    }
    let answers = bench.ingest(vec![Incoming::Set { named: None, token: Bytes::from_static(b"x") }]).await;
    assert!(matches!(&answers[..], [Answer::Refused(refusal)] if refusal.code == ErrorCode::InvalidRequest));
    let counts = bench.ingest.counts();
    assert_eq!((counts.taken, counts.duplicates, counts.refused_on_purpose), (0, 0, 2));
}

#[tokio::test]
async fn a_set_before_the_keys_is_put_off() {
    let transmitter = Transmitter::start_unknown().await;
    let (verify, runtime) = (transmitter.verify(&[]), transmitter.runtime.clone());
    let misbehave = Misbehave::not_at_all(runtime.random.clone());
    let ingest = ListenIngest::new(verify, Inbox::new(10), misbehave, Arc::new(|_| Ok(())), runtime);
    let token = Bytes::from(transmitter.sign(&transmitter.claims("1")));
    let answers = ingest.accept("p", vec![Incoming::Set { named: None, token }]).await;
    assert!(matches!(answers[..], [Answer::Busy { .. }]));
    assert_eq!(ingest.counts().put_off, 1);
}
