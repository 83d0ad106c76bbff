//! A method whose receivers come and ask, for tests that draw by hand.

use delivery::{Batch, Want};

use super::*;

pub(super) struct Asked;

pub(super) struct AskedLine {
    order: Order,
    lapse: Lapse,
}

impl delivery::Line for AskedLine {
    fn profile(&self) -> Profile {
        Profile {
            voice: Voice::Responder,
            order: self.order,
            receipt: Receipt::Receiver,
            form: Form::Token,
            lapse: self.lapse,
            limits: Limits { sets: 100, bytes: 1 << 20, overhead: 0, set_bytes: 16 << 10 },
            endpoint: None,
            windows: vec![],
        }
    }
}

impl AnyMethod for Asked {
    fn entry(&self) -> Entry {
        Entry { name: "asked", uri: "urn:example:asked", aliases: &[] }
    }
    fn line(&self, _: &About, terms: Value, _: Value) -> Result<Arc<dyn AnyLine>, Fault> {
        let lapse = terms.get("after").and_then(Value::as_u64);
        Ok(Arc::new(AskedLine {
            order: if terms["order"] == "tap" { Order::PerTap } else { Order::PerBatch },
            lapse: lapse.map_or(Lapse::WithTap, |after| Lapse::After(Duration::from_secs(after))),
        }))
    }
    fn publish(&self, _: Value, at: &str) -> Result<Value, Fault> {
        Ok(json!({ "method": "urn:example:asked", "endpoint_url": at }))
    }
    fn secret_terms(&self) -> &'static [&'static str] {
        &[]
    }
    fn routes(&self) -> Option<delivery::axum::Router> {
        None
    }
    fn receive_routes(&self) -> Option<delivery::axum::Router> {
        None
    }
    fn collect(&self, _: Value, _: Arc<dyn Inlet>, _: Stop) -> BoxFuture<'static, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    fn probe(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { vec![] })
    }
    fn close(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A stream on [`Asked`]: `PerBatch`, due again after a minute.
pub(super) fn asked(id: &str) -> Value {
    json!({ "id": id, "issuer": ISSUER, "audience": "https://receiver.example", "delivery": { "method": "asked", "after": 60 } })
}

/// What poll draws when it does not wait long.
pub(super) fn soon(sets: usize) -> Want {
    Want { sets, bytes: usize::MAX, wait: Some(Duration::from_millis(100)) }
}

/// Draws and hands over.
pub(super) async fn take(tap: &mut Tap, sets: usize) -> Vec<SealedSet> {
    tap.next(soon(sets)).await.map(Batch::hand_over).unwrap()
}

pub(super) fn numbers(sets: &[SealedSet]) -> Vec<u64> {
    sets.iter().map(number).collect()
}

mod visit {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_door_learns_of_a_stream_all_that_a_visit_needs() {
        let bench = Bench::new(Config::default(), &[asked("a"), stream("b")]).await;
        assert!(bench.router.visit("c").is_none());
        let visited = bench.router.visit("a").unwrap();
        assert_eq!((visited.method, &*visited.issuer, &*visited.stream), ("asked", ISSUER, "a"));
        assert_eq!((visited.voice, &visited.owner), (Voice::Responder, &::stream::Owner::Operator));
        assert!(visited.line.as_any().downcast_ref::<AskedLine>().is_some());
        bench.emit(0, 0).await;
        let mut tap = visited.feed.tap();
        assert_eq!(numbers(&take(&mut tap, 10).await), [0]);
        let view = bench.router.stream("a").await.unwrap();
        assert_eq!(view.endpoint.as_deref(), Some("https://idp.example/asked/a"));
        assert_eq!(view.last_visit_seconds_ago, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_outlives_a_pause_and_not_a_change_of_its_terms() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let line = bench.router.visit("a").unwrap().line;
        bench.router.pause("a", "test".into()).await.unwrap();
        assert!(Arc::ptr_eq(&line, &bench.router.visit("a").unwrap().line), "what its method keeps there is lost");
        let mut changed = asked("a");
        changed["delivery"]["after"] = 30.into();
        bench.declare(&[changed]).await;
        assert!(!Arc::ptr_eq(&line, &bench.router.visit("a").unwrap().line));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_shown_when_the_receiver_was_here_last() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let last = async || bench.router.stream("a").await.unwrap().last_visit_seconds_ago;
        assert_eq!(last().await, None);
        bench.router.visit("a").unwrap().touch();
        bench.pass(Duration::from_secs(9)).await;
        assert_eq!(last().await, Some(9));
        let tap = bench.router.visit("a").unwrap().feed.tap();
        bench.pass(Duration::from_secs(9)).await;
        assert_eq!(last().await, Some(0), "it is here still");
        drop(tap);
        bench.pass(Duration::from_secs(2)).await;
        assert_eq!(last().await, Some(2));
    }
}
