//! Tests of a channel against receivers that acknowledge late or out of order.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use setgate_delivery::{
    Closed, ErrorCode,
    testkit::{End, Simulated, with_fast_clock},
};
use tokio::sync::Notify;

use super::{
    sink::{Sink, ack},
    *,
};

/// A subscription with a number of SETs and order keys, and the channel that serves it.
struct Case {
    subscription: Simulated,
    channel: Arc<dyn AnyChannel>,
}

impl Case {
    async fn new(sink: &Sink, section: Json, sets: usize, keys: usize) -> Self {
        Self::of(&clock::system(), sink, section, sets, keys).await
    }

    async fn of(runtime: &Runtime, sink: &Sink, section: Json, sets: usize, keys: usize) -> Self {
        let terms = json!({ "endpoint_url": sink.url(), "authorization_header": "Custom  a b:c==" });
        let channel = channel(&method(runtime, section).await, terms, local());
        Self { subscription: Simulated::new(channel.profile(), sets, keys), channel }
    }

    fn run(&self) -> BoxFuture<'static, Closed> {
        let subscription = self.subscription.subscription();
        let consumer = subscription.consumer();
        self.channel.clone().run(subscription, consumer)
    }

    fn all_acknowledged(&self) {
        assert_eq!(self.subscription.wrongs(), Vec::<String>::new());
        let ends = self.subscription.ends();
        let open = ends.iter().position(|end| *end != Some(End::Acknowledged));
        assert_eq!(open, None, "{:?}", ends[open.unwrap()]);
    }

    /// Checks that all SETs are acknowledged after exactly one counted attempt.
    fn once(&self) {
        self.all_acknowledged();
        assert!(
            self.subscription.attempts().iter().all(|attempts| *attempts == 1),
            "{:?}",
            self.subscription.attempts()
        );
    }
}

#[tokio::test]
async fn a_request_is_exactly_what_the_draft_says() {
    let sink = Sink::new(|_, ids| async move { ack(&ids) }).await;
    let case = Case::new(&sink, json!({}), 3, 1).await;
    assert_eq!(case.run().await, Closed::Idle);
    case.once();
    let came = sink.came();
    assert_eq!(came.len(), 1);
    assert_eq!(came[0].path, "/sets?tenant=7");
    let mut fields: Vec<_> =
        came[0].fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    fields.retain(|field| !field.starts_with("host: ") && !field.starts_with("content-length: "));
    fields.sort();
    assert_eq!(
        fields,
        [
            "accept-language: en",
            "accept: application/json",
            "authorization: Custom  a b:c==",
            "content-type: application/json",
        ]
    );
    assert_eq!(came[0].ids.len(), 3);
}

#[tokio::test]
async fn acknowledgements_come_with_later_answers_and_the_last_with_an_empty_request() {
    let owed = Arc::new(Mutex::new(Vec::new()));
    // Each answer acknowledges the SETs of the request before it.
    let late = owed.clone();
    let sink = Sink::new(move |_, ids| {
        let before = std::mem::replace(&mut *late.lock().unwrap(), ids);
        async move { ack(&before) }
    })
    .await;
    let case = Case::new(&sink, json!({ "requests": 1 }), 60, 60).await;
    assert_eq!(case.run().await, Closed::Idle);
    case.once();
    // A 202 says that the channel works, long before the acknowledgement.
    assert_eq!(case.subscription.reached(), 60);
    // There is not one empty request more than necessary.
    assert_eq!(sink.sizes(), [20, 26, 14, 0]);
}

#[tokio::test]
async fn empty_requests_go_on_until_all_is_acknowledged_and_no_longer() {
    let sink = Sink::new(|number, ids| async move {
        // Two empty requests bring nothing; the third does.
        if number == 3 { (200, json!({ "ack": [id(0)] })) } else { (202, json!({ "more": ids.len() })) }
    })
    .await;
    let case = Case::of(&with_fast_clock(clock::system()), &sink, json!({}), 1, 1).await;
    assert_eq!(case.run().await, Closed::Idle);
    case.once();
    assert_eq!(sink.sizes(), [1, 0, 0, 0]);
}

/// Returns the id of the SET at a position.
fn id(at: u128) -> String {
    setgate_delivery::Jti::from_block(b't', (at + 1).to_be_bytes()).to_string()
}

#[tokio::test]
async fn too_many_sets_halve_the_request_and_count_as_not_sent() {
    for said in [(413, Json::Null), (400, json!({ "err": "too_many_sets" }))] {
        let sink = Sink::new(move |_, ids| {
            let said = said.clone();
            async move { if ids.len() > 7 { said } else { ack(&ids) } }
        })
        .await;
        let case = Case::new(&sink, json!({}), 300, 40).await;
        assert_eq!(case.run().await, Closed::Idle);
        case.once();
        let refused = sink.sizes().iter().filter(|size| **size > 7).count();
        // Up to four requests are refused each time that a size is tried.
        assert!(refused <= 24, "{:?}", sink.sizes());
    }
}

#[tokio::test]
async fn a_single_set_that_is_too_many_is_refused_and_an_empty_request_that_is_ends_the_channel() {
    let sink = Sink::new(|_, _| async { (413, Json::Null) }).await;
    let case = Case::new(&sink, json!({}), 3, 1).await;
    assert_eq!(case.run().await, Closed::Idle);
    for end in case.subscription.ends() {
        let Some(End::Refused(refusal)) = end else { panic!("{end:?}") };
        assert_eq!(refusal.code, ErrorCode::TooLarge);
    }

    let mute = |_, ids: Vec<String>| async move { if ids.is_empty() { (413, Json::Null) } else { ack(&[]) } };
    let sink = Sink::new(mute).await;
    let case = Case::new(&sink, json!({}), 3, 1).await;
    let Closed::Fault(cause) = case.run().await else { panic!() };
    assert_eq!(cause.code, "too_many_sets");
}

#[tokio::test]
async fn an_acknowledgement_counts_before_the_request_that_carried_its_set_is_answered() {
    let first: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Sink::new(move |number, ids| {
        let first = first.clone();
        async move {
            if number == 0 {
                *first.lock().unwrap() = ids;
                return std::future::pending().await;
            }
            let mut all = first.lock().unwrap().clone();
            all.extend(ids);
            ack(&all)
        }
    })
    .await;
    let case = Case::new(&sink, json!({ "timeout": "1s" }), 40, 40).await;
    let mut run = case.run();
    tokio::select! {
        biased;
        end = &mut run => panic!("{end:?}: the first request has no answer yet"),
        () = case.subscription.until_settled() => {}
    }
    // The deadline of the SETs passes without repeating any.
    assert_eq!(run.await, Closed::Idle);
    case.once();
    assert_eq!(sink.sizes().iter().sum::<usize>(), 40);
}

#[tokio::test]
async fn requests_run_at_once_and_never_share_an_order_key() {
    const KEYS: usize = 90;
    let at_once = Arc::new(AtomicUsize::new(0));
    let keys: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let here: Arc<Mutex<Vec<HashSet<usize>>>> = Arc::default();
    let full = Arc::new(tokio::sync::Barrier::new(4));
    let (most, names, now) = (at_once.clone(), keys.clone(), here.clone());
    let sink = Sink::new(move |number, ids| {
        let (most, now, full) = (most.clone(), now.clone(), full.clone());
        let own: HashSet<usize> = ids.iter().map(|id| names.lock().unwrap()[id]).collect();
        async move {
            {
                let mut now = now.lock().unwrap();
                assert!(now.iter().all(|other| other.is_disjoint(&own)), "two requests hold the same key");
                now.push(own.clone());
                most.fetch_max(now.len(), Ordering::SeqCst);
            }
            if number < 4 {
                // The first four requests are answered only when all of them are here.
                full.wait().await;
            }
            now.lock().unwrap().retain(|other| *other != own);
            ack(&ids)
        }
    })
    .await;
    let case = Case::new(&sink, json!({}), 500, KEYS).await;
    keys.lock()
        .unwrap()
        .extend(case.subscription.ids().iter().enumerate().map(|(at, jti)| (jti.to_string(), at % KEYS)));
    assert_eq!(case.run().await, Closed::Idle);
    case.once();
    assert_eq!(at_once.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_set_that_spoils_its_request_is_found_and_the_others_pass() {
    let poison = id(33);
    let bad = poison.clone();
    let sink = Sink::new(move |_, ids| {
        let bad = ids.contains(&bad);
        async move { if bad { (400, json!({ "err": "invalid_request", "description": "d" })) } else { ack(&ids) } }
    })
    .await;
    let case = Case::new(&sink, json!({}), 100, 10).await;
    assert_eq!(case.run().await, Closed::Idle);
    for (at, end) in case.subscription.ends().into_iter().enumerate() {
        match end {
            Some(End::Acknowledged) if at != 33 => {}
            Some(End::Refused(refusal)) if at == 33 => assert_eq!(refusal.code, ErrorCode::InvalidRequest),
            other => panic!("{at}: {other:?}"),
        }
    }
    let spoilt = sink.came().iter().filter(|came| came.ids.contains(&poison)).count();
    assert!(spoilt <= 8, "{spoilt} requests were spoilt");
}

#[tokio::test]
async fn errors_in_any_answer_park_and_unknown_ids_are_ignored() {
    let sink = Sink::new(|_, ids| async move {
        (200, json!({
            "ack": ids[2..].iter().cloned().chain(["nobody".to_owned(), id(999)]).collect::<Vec<_>>(),
            "setErrs": { ids[0].clone(): { "err": "invalid_audience" }, ids[1].clone(): {}, "no one": { "err": "x" } },
        }))
    })
    .await;
    let case = Case::new(&sink, json!({}), 10, 1).await;
    assert_eq!(case.run().await, Closed::Idle);
    let codes: Vec<_> = case
        .subscription
        .ends()
        .into_iter()
        .filter_map(|end| match end {
            Some(End::Refused(refusal)) => Some(refusal.code),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [ErrorCode::InvalidAudience, ErrorCode::InvalidRequest]);
    assert_eq!(sink.sizes(), [10]);
    assert_eq!(case.subscription.unknown(), 1, "of the ids that are none of ours nobody is told");
}

#[tokio::test]
async fn draining_asks_for_what_is_outstanding_and_sends_nothing_new() {
    let (owed, came) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let (late, told) = (owed.clone(), came.clone());
    let sink = Sink::new(move |_, ids| {
        told.notify_one();
        let said = if ids.is_empty() {
            let all: Vec<_> = std::mem::take(&mut *late.lock().unwrap());
            ack(&all)
        } else {
            late.lock().unwrap().extend(ids);
            ack(&[])
        };
        async move { said }
    })
    .await;
    let case = Case::new(&sink, json!({ "requests": 1 }), 100, 1).await;
    let mut run = case.run();
    tokio::select! {
        biased;
        end = &mut run => panic!("{end:?}"),
        () = came.notified() => {}
    }
    case.subscription.end(Closed::Draining);
    assert_eq!(run.await, Closed::Draining);
    assert_eq!((case.subscription.handed(), case.subscription.wrongs()), (0, Vec::<String>::new()));
    assert_eq!(case.subscription.ends().iter().flatten().count(), 20);
    assert_eq!(sink.sizes(), [20, 0]);
}

#[tokio::test]
async fn what_is_not_acknowledged_in_time_is_sent_again_under_its_jti() {
    let sink = Sink::new(|number, ids| async move { if number == 0 { ack(&[]) } else { ack(&ids) } }).await;
    let case = Case::new(&sink, json!({ "ack_probe_after": "5m" }), 5, 1).await;
    let mut run = case.run();
    tokio::select! {
        biased;
        end = &mut run => panic!("{end:?}"),
        () = case.subscription.until(|subscription| subscription.handed() == 5) => {}
    }
    // The answer to the first request acknowledges nothing, whenever it comes.
    case.subscription.redeliver();
    assert_eq!(run.await, Closed::Idle);
    case.all_acknowledged();
    let came = sink.came();
    assert_eq!(came.len(), 2);
    assert_eq!(came[0].ids, came[1].ids);
}
