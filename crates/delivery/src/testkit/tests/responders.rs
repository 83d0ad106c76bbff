//! Responders in memory: one that answers polls, one that keeps a socket, and one for each way to break the contract.

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;

/// The behaviour of a responder in the tests.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Habit {
    Polls,
    KeepsASocket,
    /// Acknowledges SETs that it has not shown to the peer.
    AcknowledgesUnseen,
    /// Acknowledges a whole batch, though the peer did not take all of it.
    AcknowledgesTheRest,
    /// Treats a response that broke off as one that arrived.
    TakesLossForSuccess,
    /// Shows every SET twice.
    Doubles,
    /// Shows a batch in reverse order.
    Reverses,
    /// Fetches more than it was asked for.
    WantsTooMuch,
    /// Fetches with a new consumer after every interruption.
    StartsAnew,
    /// Keeps the consumer of a caller that hung up.
    Lingers,
    /// Ignores the end of a consumer.
    IsDeaf,
    /// Ends the session of a paused stream.
    IsImpatient,
    /// Lets one caller in at a time.
    Queues,
    /// Drops the consumer, and hands over afterwards.
    DropsItsConsumer,
    /// Forgets the answers to what it handed over when it drains.
    ForgetsAnswers,
    /// Has room for 64 KiB only, and waits for more of it without end.
    LocksUp,
    /// Reports outcomes of SETs that no consumer has fetched.
    Guesses,
}

struct InMemory(Habit);

impl Channel for InMemory {
    fn profile(&self) -> Profile {
        let socket = self.0 == Habit::KeepsASocket;
        Profile {
            initiator: Initiator::Receiver,
            order: if socket { Order::PerConsumer } else { Order::PerBatch },
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery: if socket { Redelivery::WhenConsumerEnds } else { Redelivery::After(Duration::from_secs(60)) },
            limits: Limits { sets: 1000, bytes: usize::MAX, overhead: 0, set_bytes: 100 << 10 },
            endpoint: None,
            windows: Vec::new(),
        }
    }
}

/// A connection in memory, which may be cut at once or after a number of bytes.
#[derive(Clone)]
struct Wire {
    cuts: Arc<watch::Sender<u64>>,
    left: Arc<Mutex<usize>>,
}

impl Wire {
    fn cut(&self) {
        *self.left.lock() = usize::MAX;
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Returns whether this many bytes pass.
    fn passes(&self, bytes: usize) -> bool {
        let whole = {
            let mut left = self.left.lock();
            let whole = *left == usize::MAX || bytes < *left;
            *left = if *left == usize::MAX { *left } else { left.saturating_sub(bytes) };
            whole
        };
        if !whole {
            self.cut();
        }
        whole
    }
}

struct ServedSession {
    habit: Habit,
    subscription: Subscription,
    ingest: Arc<dyn Ingest>,
    wire: Wire,
    queue: Arc<tokio::sync::Mutex<()>>,
    lingering: Mutex<Vec<Consumer>>,
}

impl ServedSession {
    fn want(&self) -> Want {
        Want { sets: if self.habit == Habit::WantsTooMuch { 21 } else { 20 }, ..Want::ALL }
    }

    /// Runs the collector: one connection after the other until it is told that the stream does not exist.
    async fn sessions(self) {
        loop {
            let queue = (self.habit == Habit::Queues).then(|| self.queue.clone().lock_owned());
            let _inside = match queue {
                Some(queue) => Some(queue.await),
                None => None,
            };
            let gone = if self.habit == Habit::KeepsASocket { self.socket().await } else { self.polls().await };
            if gone == Some(Closed::Deleted) {
                return;
            }
            // A collector does not call again at once, and under a paused clock that costs nothing.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn next(&self, consumer: &mut Consumer) -> Option<Result<crate::Batch, Closed>> {
        let mut cut = self.wire.cuts.subscribe();
        if self.habit == Habit::StartsAnew {
            return Some(self.next_of_a_new_consumer_each_time(consumer).await);
        }
        tokio::select! {
            biased;
            _ = cut.changed() => None,
            next = consumer.next_batch(self.want()) => Some(next),
        }
    }

    /// Fetches with a new consumer each time, as a responder would that starts anew whenever something else happens to
    /// its connection.
    async fn next_of_a_new_consumer_each_time(&self, consumer: &mut Consumer) -> Result<crate::Batch, Closed> {
        loop {
            if let Some(next) = consumer.next_batch(self.want()).now_or_never() {
                return next;
            }
            *consumer = self.subscription.consumer();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Answers one poll.
    async fn polls(&self) -> Option<Closed> {
        let mut consumer = self.subscription.consumer();
        if self.habit == Habit::IsImpatient && self.subscription.waiting() > 0 {
            return match consumer.next_batch(self.want()).now_or_never() {
                Some(Ok(batch)) => self.answer(batch, consumer).await,
                Some(Err(closed)) => Some(closed),
                None => Some(Closed::Deleted),
            };
        }
        match self.next(&mut consumer).await {
            None if self.habit == Habit::Lingers => {
                self.lingering.lock().push(consumer);
                None
            }
            None => None,
            Some(Err(_)) if self.habit == Habit::IsDeaf => {
                // The consumer never leaves.
                std::future::pending::<()>().await;
                None
            }
            Some(Err(closed)) => Some(closed),
            Some(Ok(batch)) => self.answer(batch, consumer).await,
        }
    }

    async fn answer(&self, batch: crate::Batch, consumer: Consumer) -> Option<Closed> {
        let mut consumer = Some(consumer);
        if self.habit == Habit::DropsItsConsumer {
            consumer = None;
        }
        let bytes = batch.sets.iter().map(|set| set.body.len()).sum();
        let arrives = self.wire.passes(bytes);
        let sets = batch.hand_over();
        let ids: Vec<_> = sets.iter().map(|set| set.jti).collect();
        let acknowledge = |jti| (jti, None, Ok(Receipt::Receiver));
        if !arrives {
            if self.habit == Habit::TakesLossForSuccess {
                self.subscription.settle_all(ids.into_iter().map(acknowledge).collect());
            }
            return None;
        }
        if self.habit == Habit::LocksUp && bytes > 64 << 10 {
            std::future::pending::<()>().await;
        }
        let answers = self.show(sets).await;
        let mut outcomes = Vec::new();
        for (jti, answer) in ids.into_iter().zip(answers) {
            match answer {
                _ if self.habit == Habit::AcknowledgesTheRest => outcomes.push(acknowledge(jti)),
                Answer::Taken => outcomes.push(acknowledge(jti)),
                Answer::Refused(refusal) => outcomes.push((jti, None, Err(Verdict::Refuse(refusal)))),
                Answer::Busy { .. } | Answer::Status(_) => {}
            }
        }
        if self.habit == Habit::Guesses {
            outcomes.push(acknowledge(setgate_set::Jti::from_block(b't', 300u128.to_be_bytes())));
        }
        if self.habit == Habit::ForgetsAnswers {
            // The next poll carries the answers, and is itself answered before they are read.
            let mut next = self.subscription.consumer();
            let mut end = std::pin::pin!(next.next_batch(Want { sets: 0, ..Want::ALL }));
            if let Some(Err(closed)) = (&mut end).now_or_never() {
                return Some(closed);
            }
        }
        self.subscription.settle_all(outcomes);
        drop(consumer);
        None
    }

    async fn show(&self, mut sets: Vec<SealedSet>) -> Vec<Answer> {
        if self.habit == Habit::AcknowledgesUnseen {
            return sets.iter().map(|_| Answer::Taken).collect();
        }
        let reverse = self.habit == Habit::Reverses;
        if reverse {
            sets.reverse();
        }
        let what: Vec<_> = sets.into_iter().map(|set| Incoming::Set { named: None, token: set.body }).collect();
        if self.habit == Habit::Doubles {
            self.ingest.accept("test", what.clone()).await;
        }
        let mut answers = self.ingest.accept("test", what).await;
        if reverse {
            answers.reverse();
        }
        answers
    }

    /// Serves one socket with room for twenty SETs, whose peer asks its ingest again where that was busy.
    async fn socket(&self) -> Option<Closed> {
        let mut consumer = self.subscription.consumer();
        let mut cut = self.wire.cuts.subscribe();
        loop {
            let mut left = match self.next(&mut consumer).await? {
                Ok(batch) => batch.hand_over(),
                Err(closed) => return Some(closed),
            };
            if !self.wire.passes(left.iter().map(|set| set.body.len()).sum()) {
                return None;
            }
            while !left.is_empty() {
                let answers = tokio::select! {
                    answers = self.show(left.clone()) => answers,
                    // An ingest is never interrupted; its answers may then have nowhere to go.
                    () = std::future::pending() => return None,
                };
                if cut.has_changed().unwrap_or(true) {
                    return None;
                }
                cut.mark_unchanged();
                let mut again = Vec::new();
                for (set, answer) in left.into_iter().zip(answers) {
                    match answer {
                        Answer::Taken => self.subscription.settle(set.jti, None, Ok(Receipt::Receiver)),
                        Answer::Refused(refusal) => {
                            self.subscription.settle(set.jti, None, Err(Verdict::Refuse(refusal)))
                        }
                        Answer::Busy { .. } | Answer::Status(_) => again.push(set),
                    }
                }
                left = again;
            }
        }
    }
}

struct ResponderFixture(Habit);

impl Fixture for ResponderFixture {
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened> {
        let habit = self.0;
        let wire = Wire { cuts: Arc::new(watch::Sender::new(0)), left: Arc::new(Mutex::new(usize::MAX)) };
        let (cutter, breaker) = (wire.clone(), wire.clone());
        let queue = Arc::default();
        let sessions = move |subscription: Subscription| -> BoxFuture<'static, ()> {
            let (ingest, wire, queue) = (ingest.clone(), wire.clone(), Arc::clone(&queue));
            Box::pin(ServedSession { habit, subscription, ingest, wire, queue, lingering: Mutex::default() }.sessions())
        };
        let cut_after = move |bytes| -> BoxFuture<'static, ()> {
            let mut cut = breaker.cuts.subscribe();
            *breaker.left.lock() = bytes;
            Box::pin(async move {
                let _ = cut.changed().await;
            })
        };
        let opened = Opened {
            channel: Arc::new(InMemory(habit)),
            cut: Arc::new(move || cutter.cut()),
            cut_after: Some(Arc::new(cut_after)),
            parallel: false,
            most: Some(20),
            sessions: Some(Arc::new(sessions)),
            keep: Box::new(()),
        };
        Box::pin(async move { opened })
    }
}

#[tokio::test(start_paused = true)]
async fn honest_responders_pass() {
    conform(&ResponderFixture(Habit::Polls)).await;
    conform(&ResponderFixture(Habit::KeepsASocket)).await;
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_lying_responder_is_found_out() {
    for (habit, case) in [
        (Habit::AcknowledgesUnseen, "it delivers every SET once"),
        (Habit::AcknowledgesTheRest, "an unhealthy peer is tried again"),
        (Habit::AcknowledgesTheRest, "a connection lost before reading loses nothing"),
        (Habit::TakesLossForSuccess, "a connection lost in the middle loses nothing"),
        (Habit::Doubles, "it delivers every SET once"),
        (Habit::Reverses, "SETs of few order keys arrive in order"),
        (Habit::WantsTooMuch, "it delivers every SET once"),
        (Habit::StartsAnew, "a fetch can be interrupted at every poll"),
        (Habit::Lingers, "who hangs up while waiting costs nothing"),
        (Habit::IsDeaf, "an end answers who waits"),
        (Habit::IsImpatient, "a paused stream is waited for"),
        (Habit::Queues, "two consumers share a stream"),
        (Habit::DropsItsConsumer, "it delivers every SET once"),
        (Habit::ForgetsAnswers, "a drain hears what is answered"),
        (Habit::LocksUp, "a flood does not lock up"),
        (Habit::Guesses, "it delivers every SET once"),
    ] {
        let failed: Vec<_> = examine(&ResponderFixture(habit), Duration::from_secs(1)).await;
        let failed: Vec<_> = failed.into_iter().map(|failure| failure.case).collect();
        assert!(failed.contains(&case), "{habit:?} failed only {failed:?}");
    }
}
