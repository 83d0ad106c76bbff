use std::sync::Mutex;

use futures_util::future::BoxFuture;
use serde_json::{Value as Json, json};
use setgate_oauth::{EventsSection, SourceSection, SubjectsSection};
use setgate_router::{Accepted, Closed};
use setgate_store::{Position, ProducerNo};

use super::*;
use crate::Accept;

const ISSUER: &str = "https://gateway.example";
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const CHANGED: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";

/// A stand-in for the router, which accepts events and remembers them by `id`; it puts off the event whose `id` is
/// `full`.
#[derive(Default)]
struct Fake {
    seen: Mutex<Vec<(String, [u8; 16])>>,
    closed: Mutex<bool>,
    commits: Mutex<usize>,
}

impl Accept for Fake {
    fn gate(&self) -> Result<(), Closed> {
        if *self.closed.lock().unwrap() { Err(closed()) } else { Ok(()) }
    }

    fn accept(&self, producer: ProducerNo, events: Vec<Event>) -> BoxFuture<'static, Vec<Accepted>> {
        assert_eq!(producer, ProducerNo(7));
        *self.commits.lock().unwrap() += 1;
        let mut seen = self.seen.lock().unwrap();
        let answers = events.iter().map(|event| {
            let (id, digest) = (event.id.as_deref().unwrap().to_owned(), event.digest());
            if id == "full" {
                return Accepted::Unavailable(closed());
            }
            match seen.iter().find(|(known, _)| *known == id) {
                Some((_, first)) if *first == digest => Accepted::Repeat { txn: "t".into() },
                Some(_) => Accepted::Conflict,
                None => {
                    seen.push((id, digest));
                    Accepted::New { at: Position::new(1), txn: "t".into() }
                }
            }
        });
        let answers = answers.collect();
        Box::pin(std::future::ready(answers))
    }
}

fn closed() -> Closed {
    Closed { why: "full".into(), summary: "full", rule: None, retry_after: Duration::from_secs(7), status: 503 }
}

fn ingester(config: &IntakeConfig) -> (Arc<Fake>, Ingester) {
    let section = SourceSection {
        name: "hr".into(),
        kind: "kafka".into(),
        issuer: ISSUER.into(),
        events: EventsSection::Exact(vec![REVOKED.into()]),
        subjects: SubjectsSection::Rules {
            iss: vec!["https://idp.example".into()],
            email_domains: vec![],
            tenants: vec![],
        },
        from: Json::Null,
    };
    let producer = Arc::new(Producer::of_source(ProducerNo(7), &section, &[ISSUER]).unwrap());
    let fake = Arc::new(Fake::default());
    let intake = Intake { issuer: ISSUER.into(), accept: fake.clone() };
    (fake, Ingester::new(intake, producer, config, Observed::default()))
}

fn event(sub: &str) -> Json {
    json!({ "events": { REVOKED: {} }, "sub_id": { "format": "iss_sub", "iss": "https://idp.example", "sub": sub } })
}

fn offered(id: &str, body: impl ToString) -> Offered {
    Offered { known_by: KnownBy::OrElse(id.into()), body: body.to_string().into() }
}

async fn refusal(body: impl ToString) -> (String, String) {
    let (fake, ingester) = ingester(&IntakeConfig::default());
    let answers = ingester.ingest(vec![offered("k/0/1", body)]).await;
    assert!(fake.seen.lock().unwrap().is_empty(), "it was taken");
    match &answers[..] {
        [Answered::Refused { code, text }] => (code.as_str().to_owned(), text.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_event_is_known_by_its_own_id_unless_one_is_given() {
    let (fake, ingester) = ingester(&IntakeConfig::default());
    let mut named = event("a");
    named["id"] = json!("mine");
    let given = Offered { known_by: KnownBy::Given("k/0/3".into()), body: named.to_string().into() };
    let all = vec![offered("k/0/1", event("a")), offered("k/0/2", &named), given];
    assert_eq!(ingester.ingest(all).await, [Answered::Taken, Answered::Taken, Answered::Taken]);
    let known: Vec<_> = fake.seen.lock().unwrap().iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(known, ["k/0/1", "mine", "k/0/3"]);
}

#[tokio::test]
async fn nobody_takes_the_name_of_an_event_that_is_still_to_come() {
    let (fake, ingester) = ingester(&IntakeConfig::default());
    let mut named = event("attacker");
    named["id"] = json!("kafka:main:events/0/8");
    let answers = ingester.ingest(vec![offered("kafka:main:events/0/7", &named)]).await;
    assert!(matches!(&answers[..], [Answered::Refused { text, .. }] if text.starts_with("/id: ")), "{answers:?}");
    assert_eq!(ingester.ingest(vec![offered("kafka:main:events/0/8", event("victim"))]).await, [Answered::Taken]);
    named["id"] = json!("kafka");
    assert_eq!(ingester.ingest(vec![offered("kafka:main:events/0/9", &named)]).await, [Answered::Taken]);
    assert_eq!(fake.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_comes_again_is_taken_and_another_event_of_that_name_is_refused() {
    let (_, ingester) = ingester(&IntakeConfig::default());
    assert_eq!(ingester.ingest(vec![offered("k/0/1", event("a"))]).await, [Answered::Taken]);
    assert_eq!(ingester.ingest(vec![offered("k/0/1", event("a"))]).await, [Answered::Taken]);
    let answers = ingester.ingest(vec![offered("k/0/1", event("b"))]).await;
    assert!(matches!(&answers[..], [Answered::Refused { code, .. }] if code.as_str() == "id_conflict"), "{answers:?}");
}

#[tokio::test]
async fn a_source_brings_only_what_its_section_allows() {
    // H2: an event of another type, a subject of another issuer; H3: framework events, members outside the envelope.
    let mut other = event("a");
    other["events"] = json!({ CHANGED: {} });
    let (code, text) = refusal(other).await;
    assert!(code == "access_denied" && text.contains("(events)"), "{code} {text}");
    let foreign = json!({ "format": "iss_sub", "iss": "https://evil.example", "sub": "canary" });
    let (code, text) = refusal(json!({ "events": { REVOKED: {} }, "sub_id": foreign })).await;
    assert!(code == "access_denied" && text.contains("subjects.iss") && !text.contains("canary"), "{code} {text}");
    for uri in ["verification", "stream-updated"] {
        let uri = format!("https://schemas.openid.net/secevent/ssf/event-type/{uri}");
        let (code, _) = refusal(json!({ "events": { uri: {} }, "sub_id": event("a")["sub_id"] })).await;
        assert_eq!(code, "access_denied");
    }
    for member in ["iss", "aud", "jti", "exp", "scope", "client_id", "sub"] {
        let mut more = event("a");
        more[member] = json!("x");
        assert_eq!(refusal(more).await.0, "invalid_request", "{member}");
    }
}

#[tokio::test]
async fn what_is_no_strict_json_is_refused_without_a_quotation() {
    for text in [
        r#"{"events":{},"events":{}}"#,
        r#"{"sub_id":{"format":"email","canary@example.com":1,"canary@example.com":2}}"#,
        "[]",
        "",
        "\u{feff}{}",
        r#"{"events":{"urn:a":1e999}}"#,
        &"[".repeat(100_000),
    ] {
        let (code, said) = refusal(text).await;
        assert_eq!(code, "invalid_request", "{text:.40}");
        assert!(!said.contains("canary") && said.len() <= 512, "{said}");
    }
    let (_, ingester) = ingester(&IntakeConfig { item_bytes: 100, ..IntakeConfig::default() });
    let answers = ingester.ingest(vec![offered("k/0/1", "x".repeat(101))]).await;
    assert!(matches!(&answers[..], [Answered::Refused { code: ErrorCode::TooLarge, .. }]), "{answers:?}");
}

#[tokio::test]
async fn behind_what_is_put_off_all_is_put_off_and_what_was_refused_before_stays_refused() {
    let (fake, ingester) = ingester(&IntakeConfig::default());
    let busy = Answered::Busy { after: Duration::from_secs(7) };
    let mut all = vec![offered("k/0/0", event("a")), offered("k/0/1", "{}"), offered("full", event("b"))];
    all.extend((3..3000).map(|at| offered(&format!("k/0/{at}"), event("c"))));
    let answers = ingester.ingest(all).await;
    assert_eq!(answers[0], Answered::Taken);
    assert!(matches!(answers[1], Answered::Refused { .. }));
    assert!(answers[2..].iter().all(|answer| *answer == busy), "what came behind must come again");
    assert_eq!((answers.len(), *fake.commits.lock().unwrap()), (3000, 1));
    *fake.closed.lock().unwrap() = true;
    assert_eq!(ingester.ingest(vec![offered("k/0/9", "{")]).await, [busy], "nothing is checked while intake is closed");
}
