//! Tests of a stream that is moved to another method at the moment when its channel is started.

use setgate_clock::{BoxFuture, Tasks, TokioTasks};

use super::{responder::*, *};

/// Tasks of which those that run a channel do not begin while they are held.
#[derive(Default)]
struct Held {
    channels: Mutex<Option<Vec<BoxFuture<()>>>>,
}

impl Held {
    fn hold(&self) {
        *self.channels.lock() = Some(Vec::new());
    }

    fn count(&self) -> usize {
        self.channels.lock().as_ref().map_or(0, Vec::len)
    }

    fn release(&self) {
        let held = self.channels.lock().take();
        held.into_iter().flatten().for_each(|work| TokioTasks.spawn("channel", work));
    }
}

impl Tasks for Held {
    fn spawn(&self, name: &'static str, work: BoxFuture<()>) {
        match &mut *self.channels.lock() {
            Some(held) if name == "channel" => held.push(work),
            _ => TokioTasks.spawn(name, work),
        }
    }
}

/// Makes a bench with two streams, `a` on a sender's method and `b` on a responder's, whose channels can be held.
async fn bench() -> (Bench, Arc<Held>) {
    let clock = ManualClock::at(1_800_000_000_000);
    let held = Arc::new(Held::default());
    let runtime = Runtime { tasks: held.clone(), ..setgate_clock::manual::runtime(clock.clone(), 7) };
    let store = MemoryStore::new(runtime.clone(), &[9; 32]);
    let bench = Bench::over(store, clock, runtime, Config::default()).await;
    bench.declare(&[stream("a"), asked("b")]).await;
    (bench, held)
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_started_when_its_stream_moves_gets_nothing_of_the_new_delivery() {
    let (bench, held) = bench().await;
    held.hold();
    for n in 0..3 {
        bench.emit(0, n).await;
    }
    bench.until("the channel is about to run", async || held.count() == 1).await;
    bench.declare(&[asked("a"), asked("b")]).await;
    held.release();
    bench.pass(Duration::from_secs(5)).await;
    assert_eq!(bench.method.count(), 0, "the former receiver got what is the new one's");
    let mut consumer = bench.router.session_target("a").unwrap().subscription.consumer();
    assert_eq!(numbers(&take(&mut consumer, 10).await), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_began_before_its_stream_moved_gets_nothing_of_the_new_delivery() {
    let (bench, held) = bench().await;
    let before = bench.router.session_target("b").unwrap();
    held.hold();
    bench.declare(&[stream("a"), stream("b")]).await;
    for n in 0..3 {
        bench.emit(0, n).await;
    }
    bench.until("both have something", async || held.count() == 2).await;
    let mut consumer = before.subscription.consumer();
    let end = consumer.next_batch(soon(10)).await;
    assert!(matches!(end, Err(Ended::Reconfigured)), "{:?}", end.map(|batch| batch.sets.len()));
    held.release();
    bench.delivered().await;
}
