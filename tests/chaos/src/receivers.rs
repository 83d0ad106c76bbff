//! The receivers, and the smallest faithful methods that reach them: a push of single SETs, a push of batches with
//! answers in part, polls whose acknowledgements come with the next request, and sockets.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use setgate_clock::Runtime;
use setgate_delivery::{
    About, Attempt, Batch, Cause, Channel, Closed, Consumer, DeliveryMode, Entry, Fault, Form, Initiator, Limits,
    Order, Outcome, Profile, Receipt, Redelivery, Refusal, Scope, SealedSet, Subscription, Verdict, Want, Window,
    drive,
    spi::{AnyChannel, AnyMethod},
};
use setgate_router::Router;
use setgate_set::{ErrorCode, Jti};

use crate::{
    book::{Mood, Shared},
    dice::Dice,
    process::Timed,
};

/// The way in which SETs travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Single,
    Batch,
    Poll,
    Socket,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Single, Self::Batch, Self::Poll, Self::Socket];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
            Self::Poll => "poll",
            Self::Socket => "socket",
        }
    }

    fn uri(self) -> &'static str {
        match self {
            Self::Single => "urn:example:single",
            Self::Batch => "urn:example:batch",
            Self::Poll => "urn:example:poll",
            Self::Socket => "urn:example:socket",
        }
    }
}

/// The network with the receivers behind it. It lives as long as the history; its tasks end with their process.
pub(crate) struct Scene {
    pub(crate) book: Shared,
    pub(crate) dice: Dice,
    pub(crate) time: Timed,
    /// What each receiver, by stream, will say with its next request.
    to_say: Mutex<BTreeMap<String, Vec<(Jti, Outcome)>>>,
}

/// What becomes of one hand-over.
enum Fate {
    /// It does not arrive.
    Lost,
    /// It arrives and the answer does not.
    Unanswered,
    Answered,
}

fn retry(scope: Scope, code: &'static str, after: Option<Duration>) -> Outcome {
    Err(Verdict::Retry { scope, after, cause: Cause::new(code, "as the simulation has it") })
}

fn refusal(code: ErrorCode) -> Outcome {
    Err(Verdict::Refuse(Refusal { code, description: Some("as the simulation has it".into()), language: None }))
}

impl Scene {
    pub(crate) fn new(book: Shared, dice: Dice, time: Timed) -> Arc<Self> {
        Arc::new(Self { book, dice, time, to_say: Mutex::default() })
    }

    fn fired(&self, what: &'static str) {
        self.book.lock().fired(what);
    }

    async fn pause(&self, least: u64, most: u64) {
        self.time.wait(Duration::from_millis(least + self.dice.under(most))).await;
    }

    async fn latency(&self, mood: Mood) {
        match mood {
            Mood::Slow => {
                self.fired("a slow answer");
                self.pause(2_000, 20_000).await;
            }
            _ => self.pause(1, 20).await,
        }
    }

    fn fate(&self, mood: Mood) -> Fate {
        match (mood, self.dice.under(10)) {
            (Mood::Dead, _) | (Mood::Flaky, 0 | 1) => {
                self.fired("a request is lost");
                Fate::Lost
            }
            (Mood::Flaky, 2 | 3) => {
                self.fired("an answer is lost");
                Fate::Unanswered
            }
            _ => Fate::Answered,
        }
    }

    /// Lets a SET arrive, and returns what the receiver says of it. A SET that it `forgets` is acknowledged by nobody.
    fn receive(&self, mood: Mood, set: &SealedSet, forgets: bool) -> Outcome {
        let mut book = self.book.lock();
        let number = book.arrives(set);
        let dice = self.dice.under(12);
        let outcome = match mood {
            Mood::Refuses if dice < 4 => {
                book.fired("a SET is refused");
                refusal(ErrorCode::InvalidRequest)
            }
            Mood::BadKey => {
                book.fired("a SET is refused for the stream's sake");
                refusal(ErrorCode::InvalidKey)
            }
            Mood::Poisonous if number.is_some_and(|number| number % 3 == 0) => {
                book.fired("a SET fails alone");
                retry(Scope::Set, "http_500", None)
            }
            Mood::Flaky if dice == 0 => {
                book.fired("a receiver asks for patience");
                retry(Scope::Channel, "http_503", Some(Duration::from_secs(dice + 5)))
            }
            Mood::Flaky if dice == 1 => Err(Verdict::Return),
            Mood::Halted => {
                book.fired("a channel is halted");
                let cause = Cause::configuration("tls", "as the simulation has it");
                Err(Verdict::Halt { scope: Scope::Channel, cause })
            }
            _ => Ok(Receipt::Receiver),
        };
        match &outcome {
            Ok(_) if forgets => book.says_nothing(&set.jti),
            Ok(_) => book.acknowledges(&set.jti),
            Err(Verdict::Refuse(_)) => book.refuses(&set.jti),
            Err(_) => book.fails(&set.jti),
        }
        outcome
    }

    fn mood(&self, stream: &str) -> Mood {
        self.book.lock().mood(stream)
    }

    fn failed(&self, sets: &[SealedSet]) {
        let mut book = self.book.lock();
        sets.iter().for_each(|set| book.fails(&set.jti));
    }
}

/// A note that a SET is under way, until it is dropped.
struct UnderWay<'a>(&'a Scene, SealedSet);

impl<'a> UnderWay<'a> {
    fn new(scene: &'a Scene, set: &SealedSet) -> Self {
        scene.book.lock().under_way(set, true);
        Self(scene, set.clone())
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.book.lock().under_way(&self.1, false);
    }
}

/// A method of the simulation.
pub(crate) struct Simulated(pub(crate) Way, pub(crate) Arc<Scene>);

impl AnyMethod for Simulated {
    fn entry(&self) -> Entry {
        Entry { name: self.0.name(), uri: self.0.uri(), aliases: &[] }
    }

    fn channel(&self, about: &About, _: Value, _: Value) -> Result<Arc<dyn AnyChannel>, Fault> {
        Ok(Arc::new(Line {
            way: self.0,
            scene: self.1.clone(),
            stream: about.stream.clone(),
            window: Window::of_sets(6),
        }))
    }

    fn publish(&self, terms: Value, _: &str) -> Result<Value, Fault> {
        Ok(terms)
    }
}

/// A channel of the simulation.
struct Line {
    way: Way,
    scene: Arc<Scene>,
    stream: Arc<str>,
    window: Window,
}

/// The redelivery timeout of the methods that have one.
const AGAIN: Duration = Duration::from_secs(40);

impl Channel for Line {
    fn profile(&self) -> Profile {
        let (initiator, order, redelivery) = match self.way {
            Way::Single => (Initiator::Gateway, Order::PerSet, Redelivery::WhenConsumerEnds),
            Way::Batch => (Initiator::Gateway, Order::PerBatch, Redelivery::After(AGAIN)),
            Way::Poll => (Initiator::Receiver, Order::PerBatch, Redelivery::After(AGAIN)),
            Way::Socket => (Initiator::Receiver, Order::PerConsumer, Redelivery::WhenConsumerEnds),
        };
        Profile {
            initiator,
            order,
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery,
            limits: Limits { sets: 8, bytes: 1 << 20, overhead: 0, set_bytes: 16 << 10 },
            endpoint: None,
            windows: if self.way == Way::Single { vec![self.window.clone()] } else { Vec::new() },
        }
    }

    async fn run(&self, subscription: Subscription, consumer: Consumer) -> Closed {
        match self.way {
            Way::Single => drive::each(&subscription, consumer, |set| self.push(set)).await,
            _ => self.batches(&subscription, consumer).await,
        }
    }
}

impl Line {
    /// Hands over one SET, and returns the outcome.
    async fn push(&self, set: SealedSet) -> Outcome {
        let scene = &*self.scene;
        scene.book.lock().handed(&self.stream, std::slice::from_ref(&set));
        let _under_way = UnderWay::new(scene, &set);
        let mood = scene.mood(&self.stream);
        scene.latency(mood).await;
        let fate = scene.fate(mood);
        if matches!(fate, Fate::Lost) {
            scene.failed(std::slice::from_ref(&set));
            return retry(Scope::Channel, "connect", None);
        }
        let outcome = scene.receive(mood, &set, false);
        scene.latency(mood).await;
        if matches!(fate, Fate::Unanswered) {
            scene.failed(std::slice::from_ref(&set));
            return retry(Scope::Channel, "timeout", None);
        }
        outcome
    }

    /// Hands over batches. What an answer leaves out is acknowledged later, or comes again.
    async fn batches(&self, subscription: &Subscription, mut consumer: Consumer) -> Closed {
        let scene = &*self.scene;
        let mut later: Vec<(Jti, Option<Attempt>, Outcome)> = Vec::new();
        loop {
            let sets = match consumer.next_batch(Want::ALL).await {
                Ok(batch) => batch.hand_over(),
                Err(closed) => {
                    subscription.settle_all(later);
                    return closed;
                }
            };
            scene.book.lock().handed(&self.stream, &sets);
            let mood = scene.mood(&self.stream);
            scene.latency(mood).await;
            let ids: Vec<_> = sets.iter().map(|set| (set.jti, Some(set.attempt))).collect();
            let fate = scene.fate(mood);
            let each = |outcome: Outcome| -> Vec<_> {
                ids.iter().map(|(jti, attempt)| (*jti, *attempt, outcome.clone())).collect()
            };
            if matches!(fate, Fate::Lost) {
                scene.failed(&sets);
                subscription.settle_all(each(retry(Scope::Channel, "connect", None)));
                continue;
            }
            let said: Vec<(Outcome, bool)> = sets
                .iter()
                .map(|set| {
                    let left_out = mood != Mood::Good && scene.dice.once_in(4);
                    (scene.receive(mood, set, left_out), left_out)
                })
                .collect();
            scene.latency(mood).await;
            if matches!(fate, Fate::Unanswered) {
                scene.failed(&sets);
                subscription.settle_all(each(retry(Scope::Channel, "timeout", None)));
                continue;
            }
            let mut settled = Vec::new();
            let mut reached = Vec::new();
            for ((jti, attempt), (outcome, left_out)) in ids.iter().zip(said) {
                if left_out && outcome.is_ok() {
                    scene.fired("an answer in part");
                    reached.extend(attempt.map(|attempt| (*jti, attempt)));
                    if scene.dice.once_in(2) {
                        scene.book.lock().acknowledges(jti);
                        later.push((*jti, *attempt, outcome));
                    }
                } else {
                    settled.push((*jti, *attempt, outcome));
                }
            }
            if !reached.is_empty() {
                subscription.reached(&reached);
            }
            if !later.is_empty() && scene.dice.once_in(2) {
                scene.fired("a late acknowledgement");
                settled.append(&mut later);
            }
            if !settled.is_empty() && scene.dice.once_in(8) {
                scene.fired("an answer that repeats itself");
                subscription.settle_all(settled.clone());
            }
            subscription.settle_all(settled);
        }
    }
}

/// Waits for the next batch, at most so long.
async fn next(scene: &Scene, consumer: &mut Consumer, sets: usize, wait: u64) -> Result<Batch, Closed> {
    let want = Want { sets, bytes: usize::MAX, wait: None };
    let mut sleep = std::pin::pin!(scene.time.wait(Duration::from_millis(wait)));
    let mut over = false;
    poll_fn(|cx| {
        if let Poll::Ready(batch) = consumer.poll_next_batch(&want, cx) {
            return Poll::Ready(batch);
        }
        over = over || sleep.as_mut().poll(cx).is_ready();
        if over && !consumer.is_preparing() { Poll::Ready(Ok(Batch::empty())) } else { Poll::Pending }
    })
    .await
}

/// Starts the receiver of a stream that fetches its SETs, for the life of the process.
pub(crate) fn fetches(runtime: &Runtime, scene: &Arc<Scene>, router: Router, stream: String) {
    let scene = scene.clone();
    runtime.spawn("receiver", async move {
        loop {
            let mood = scene.mood(&stream);
            match mood {
                Mood::Dead | Mood::Halted => {
                    scene.fired("a receiver does not come");
                    scene.pause(5_000, 10_000).await;
                    continue;
                }
                Mood::Slow => scene.pause(3_000, 20_000).await,
                _ => scene.pause(50, 1_500).await,
            }
            let Some(target) = router.session_target(&stream) else { continue };
            target.touch();
            match target.method {
                "poll" => poll(&scene, &stream, mood, &target.subscription).await,
                "socket" => socket(&scene, &stream, mood, &target.subscription).await,
                _ => scene.pause(5_000, 1_000).await,
            }
        }
    });
}

/// One request: it says what the receiver made of earlier answers, and asks for more.
async fn poll(scene: &Scene, stream: &str, mood: Mood, subscription: &Subscription) {
    let fate = scene.fate(mood);
    if matches!(fate, Fate::Lost) {
        return;
    }
    let said = scene.to_say.lock().remove(stream).unwrap_or_default();
    if mood == Mood::Flaky && scene.dice.once_in(4) && !said.is_empty() {
        // It will say so once more, as it does not know whether it was heard.
        scene.fired("acknowledgements come twice");
        scene.to_say.lock().entry(stream.to_owned()).or_default().extend(said.iter().cloned());
    }
    subscription.settle_all(said.into_iter().map(|(jti, outcome)| (jti, None, outcome)).collect());
    let mut consumer = subscription.consumer();
    let Ok(batch) = next(scene, &mut consumer, 1 + scene.dice.index(8), scene.dice.under(3_000)).await else { return };
    if mood == Mood::Flaky && scene.dice.once_in(6) {
        scene.fired("a batch is dropped before it leaves");
        return;
    }
    let sets = batch.hand_over();
    scene.book.lock().handed(stream, &sets);
    drop(consumer);
    scene.latency(mood).await;
    if matches!(fate, Fate::Unanswered) {
        scene.failed(&sets);
        return;
    }
    for set in &sets {
        let forgets = mood != Mood::Good && scene.dice.once_in(8);
        let outcome = scene.receive(mood, set, forgets);
        if forgets {
            scene.fired("a receiver forgets to acknowledge");
        } else if matches!(outcome, Ok(_) | Err(Verdict::Refuse(_))) {
            scene.to_say.lock().entry(stream.to_owned()).or_default().push((set.jti, outcome));
        }
    }
}

/// One connection: SETs arrive in order, up to where it breaks.
async fn socket(scene: &Scene, stream: &str, mood: Mood, subscription: &Subscription) {
    let mode = DeliveryMode { order: Order::PerConsumer, redelivery: Redelivery::WhenConsumerEnds };
    let mut consumer = subscription.consumer_with(mode);
    for _ in 0..1 + scene.dice.under(8) {
        let wait = 500 + scene.dice.under(3_000);
        let Ok(batch) = next(scene, &mut consumer, 1 + scene.dice.index(6), wait).await else { return };
        let mut sets = batch.hand_over();
        scene.book.lock().handed(stream, &sets);
        if sets.len() > 1 && mood == Mood::Flaky && scene.dice.once_in(4) {
            scene.fired("a socket gives back what it had no time to write");
            let back = sets.split_off(sets.len() / 2);
            let back = back.iter().map(|set| (set.jti, Some(set.attempt), Err(Verdict::Return))).collect();
            subscription.settle_all(back);
        }
        let fate = scene.fate(mood);
        let arrive = match fate {
            Fate::Answered => sets.len(),
            Fate::Lost | Fate::Unanswered => scene.dice.index(sets.len() + 1),
        };
        scene.latency(mood).await;
        let mut said = Vec::new();
        for set in sets.iter().take(arrive) {
            let outcome = scene.receive(mood, set, false);
            if matches!(outcome, Ok(_) | Err(Verdict::Refuse(_))) {
                said.push((set.jti, None, outcome));
            }
        }
        scene.latency(mood).await;
        if !matches!(fate, Fate::Answered) {
            scene.failed(&sets);
            scene.fired("a socket breaks");
            return;
        }
        subscription.settle_all(said);
        if mood == Mood::Halted || mood == Mood::Dead {
            return;
        }
    }
}
