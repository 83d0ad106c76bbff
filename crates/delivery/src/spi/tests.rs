use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn bell() -> (Arc<AtomicUsize>, Arc<dyn Fn() + Send + Sync>) {
    let rung = Arc::new(AtomicUsize::new(0));
    let counter = rung.clone();
    let wake = move || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    (rung, Arc::new(wake))
}

#[test]
fn a_window_gives_room_in_sets_batches_and_bytes() {
    let window = WindowCore::new(10, 2, 100);
    assert!(window.reserve(4, 40));
    assert_eq!(window.room(), 6);
    assert!(!window.reserve(7, 1), "more SETs than there is room for");
    assert!(!window.reserve(1, 61), "more bytes than there is room for");
    assert!(window.reserve(1, 1));
    assert!(!window.reserve(1, 1), "more batches than there is room for");
    assert_eq!(window.room(), 0);
    window.give(1, 1, 1);
    assert_eq!(window.room(), 6);
}

#[test]
fn a_batch_larger_than_the_window_passes_alone() {
    let window = WindowCore::new(10, 2, 100);
    assert!(window.reserve(1, 1));
    assert!(!window.reserve(1, 1000));
    window.give(1, 1, 1);
    assert!(window.reserve(1, 1000));
    assert!(!window.reserve(1, 1));
}

#[test]
fn a_shut_window_lets_nothing_through_and_tells_when_it_opens() {
    let window = WindowCore::new(10, 10, 100);
    window.limit(0, 0, 0);
    assert_eq!((window.room(), window.reserve(1, 1)), (0, false));
    let (rung, wake) = bell();
    window.when_room(wake);
    window.limit(1, 1, 1);
    assert_eq!((rung.load(Ordering::SeqCst), window.reserve(1, 1)), (1, true));
}

#[test]
fn those_who_wait_are_woken_in_turn_and_a_chance_not_taken_is_passed_on() {
    let window = WindowCore::new(1, 1, 100);
    assert!(window.reserve(1, 1));
    let ((first, wake_first), (second, wake_second)) = (bell(), bell());
    let waiter = window.when_room(wake_first);
    window.when_room(wake_second);
    window.give(1, 1, 1);
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (1, 0));
    assert!(!window.withdraw(waiter), "it was woken already");
    window.pass_on();
    assert_eq!(second.load(Ordering::SeqCst), 1);
}

#[test]
fn a_withdrawn_waiter_is_not_woken() {
    let window = WindowCore::new(1, 1, 100);
    assert!(window.reserve(1, 1));
    let (rung, wake) = bell();
    let waiter = window.when_room(wake);
    assert!(window.withdraw(waiter));
    window.give(1, 1, 1);
    assert_eq!(rung.load(Ordering::SeqCst), 0);
}

/// A method that overrides every default.
struct Full(Arc<AtomicUsize>);

struct FullChannel;

impl Channel for FullChannel {
    fn profile(&self) -> Profile {
        unreachable!("nothing is delivered")
    }
}

#[derive(PartialEq, serde::Deserialize)]
struct Secretive {}

impl Options for Secretive {
    const SECRETS: &'static [&'static str] = &["/secret"];
}

impl Method for Full {
    const ENTRY: Entry = Entry { name: "full", uri: "urn:test:full", aliases: &["full-1"] };
    type Section = crate::NoOptions;
    type Grant = Secretive;
    type Terms = Secretive;
    type Channel = FullChannel;

    async fn start(_: crate::NoOptions, _: Env) -> Result<Self, Fault> {
        Ok(Self(Arc::default()))
    }

    fn channel(self: &Arc<Self>, _: &About, _: Secretive, _: Secretive) -> Result<FullChannel, Fault> {
        Ok(FullChannel)
    }

    fn publish(&self, _: &Secretive, at: &str) -> Json {
        at.into()
    }

    fn routes(self: &Arc<Self>) -> Option<axum::Router> {
        Some(axum::Router::new())
    }

    fn receive_routes(self: &Arc<Self>) -> Option<axum::Router> {
        Some(axum::Router::new())
    }

    async fn collect(self: &Arc<Self>, _: Json, _: Arc<dyn Ingest>, _: Stop) -> Result<(), Fault> {
        Ok(())
    }

    fn source(&self, _: Json) -> Result<(), Fault> {
        Ok(())
    }

    fn places(&self, _: &Json) -> Places {
        Places { reads: vec!["a".into()], ..Places::default() }
    }

    fn is_offered(&self) -> bool {
        false
    }

    async fn probe(&self) -> Vec<Finding> {
        vec![Finding { good: true, what: "it".into(), remedy: String::new() }]
    }

    async fn probe_source(&self, _: Json) -> Vec<Finding> {
        vec![Finding { good: true, what: "it".into(), remedy: String::new() }; 2]
    }

    async fn close(&self, _: Duration) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Nobody;

impl Ingest for Nobody {
    fn accept<'a>(&'a self, _: &'a str, _: Vec<crate::Incoming>) -> BoxFuture<'a, Vec<crate::Answer>> {
        Box::pin(async { Vec::new() })
    }
}

#[tokio::test]
async fn a_method_whose_type_is_forgotten_answers_as_before() {
    let closed = Arc::new(AtomicUsize::new(0));
    let method: Arc<dyn AnyMethod> = Arc::new(Erased(Arc::new(Full(closed.clone()))));
    assert_eq!(method.entry(), Full::ENTRY);
    assert_eq!((method.secret_terms(), method.secret_grant()), (&["/secret"][..], &["/secret"][..]));
    assert_eq!(method.publish(serde_json::json!({}), "there").unwrap(), "there");
    assert!(method.routes().is_some() && method.receive_routes().is_some());
    assert!(method.source(Json::Null).is_ok() && !method.is_offered());
    assert_eq!(method.places(&Json::Null).reads, ["a"]);
    let (_sender, stop) = tokio::sync::watch::channel(false);
    assert!(method.collect(Json::Null, Arc::new(Nobody), stop).await.is_ok());
    assert_eq!((method.probe().await.len(), method.probe_source(Json::Null).await.len()), (1, 2));
    method.close(Duration::ZERO).await;
    assert_eq!(closed.load(Ordering::SeqCst), 1);
}
