//! Tests that the suite passes an honest channel and finds every kind of dishonest one.

mod responders;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{
    Answer, Attempt, Cause, Channel, Closed, Consumer, ErrorCode, Form, Incoming, Limits, Order, Outcome, Profile,
    Receipt, Redelivery, Refusal, Scope, SealedSet, Subscription, Verdict, Want, Window, drive,
};

/// The behaviour of a channel in the tests.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behaviour {
    Honest,
    HonestInBatches,
    /// Reports an acknowledgement before it has asked the peer.
    AcknowledgesUnseen,
    /// Treats a lost connection as an acknowledgement.
    TakesLossForSuccess,
    /// Reports nothing when the connection is lost.
    Forgets,
    /// Leaves at once when a drain begins.
    Leaves,
    /// Reports every refusal as the same one.
    Rewords,
    /// Sends everything twice at once.
    Doubles,
    /// Declares `PerConsumer` and hands over in reverse.
    Reverses,
    /// Reports a receipt other than the declared one.
    MistakesReceipt,
    /// Changes the SETs that it was given.
    Rewrites,
}

/// A channel whose connection is a function call; a cut loses the answers of all calls under way.
struct InMemory {
    behaviour: Behaviour,
    ingest: Arc<dyn Ingest>,
    cuts: Arc<AtomicUsize>,
    window: Window,
}

impl InMemory {
    async fn send(&self, set: SealedSet) -> Outcome {
        let before = self.cuts.load(Ordering::SeqCst);
        let token =
            if self.behaviour == Behaviour::Rewrites { [&set.body[..], b" "].concat().into() } else { set.body };
        let incoming = Incoming::Set { named: None, token };
        if self.behaviour == Behaviour::AcknowledgesUnseen {
            return Ok(Receipt::Receiver);
        }
        if self.behaviour == Behaviour::Doubles {
            let (_, _) = tokio::join!(
                self.ingest.accept("test", vec![incoming.clone()]),
                self.ingest.accept("test", vec![incoming.clone()])
            );
        }
        let answer = self.ingest.accept("test", vec![incoming]).await.pop().unwrap();
        let retry = |code| Err(Verdict::Retry { scope: Scope::Channel, after: None, cause: Cause::new(code, "test") });
        if self.cuts.load(Ordering::SeqCst) != before {
            return match self.behaviour {
                Behaviour::TakesLossForSuccess => Ok(Receipt::Receiver),
                Behaviour::Forgets => std::future::pending().await,
                _ => retry("closed"),
            };
        }
        match answer {
            Answer::Taken if self.behaviour == Behaviour::MistakesReceipt => Ok(Receipt::Broker),
            Answer::Taken => Ok(Receipt::Receiver),
            Answer::Refused(_) if self.behaviour == Behaviour::Rewords => {
                Err(Verdict::Refuse(Refusal { code: ErrorCode::InvalidRequest, description: None, language: None }))
            }
            Answer::Refused(refusal) => Err(Verdict::Refuse(refusal)),
            Answer::Busy { .. } | Answer::Status(_) => retry("busy"),
        }
    }
}

impl Channel for InMemory {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Gateway,
            order: if self.behaviour == Behaviour::Reverses { Order::PerConsumer } else { Order::PerSet },
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits { sets: 16, bytes: usize::MAX, overhead: 0, set_bytes: usize::MAX },
            endpoint: None,
            windows: vec![self.window.clone()],
        }
    }

    async fn run(&self, subscription: Subscription, mut consumer: Consumer) -> Closed {
        match self.behaviour {
            Behaviour::HonestInBatches => {
                drive::batches(&subscription, consumer, async |sets| {
                    let mut outcomes = Vec::new();
                    for set in sets {
                        outcomes.push(self.send(set).await);
                    }
                    outcomes
                })
                .await
            }
            Behaviour::Leaves => {
                let work = drive::each(&subscription, subscription.consumer(), |set| self.send(set));
                let end = async {
                    loop {
                        if let Err(end) = consumer.next_batch(Want { sets: 0, ..Want::ALL }).await {
                            return end;
                        }
                    }
                };
                tokio::select! {
                    biased;
                    end = end => end,
                    end = work => end,
                }
            }
            Behaviour::Reverses => loop {
                match consumer.next_batch(Want::ALL).await {
                    Ok(batch) => {
                        for set in batch.hand_over().into_iter().rev() {
                            let (jti, attempt): (_, Attempt) = (set.jti, set.attempt);
                            subscription.settle(jti, Some(attempt), self.send(set).await);
                        }
                    }
                    Err(end) => return end,
                }
            },
            _ => drive::each(&subscription, consumer, |set| self.send(set)).await,
        }
    }
}

struct InMemoryFixture(Behaviour);

impl Fixture for InMemoryFixture {
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened> {
        let cuts = Arc::new(AtomicUsize::new(0));
        let channel = Arc::new(InMemory { behaviour: self.0, ingest, cuts: cuts.clone(), window: Window::of_sets(8) });
        let cut = Arc::new(move || {
            cuts.fetch_add(1, Ordering::SeqCst);
        });
        let parallel = self.0 != Behaviour::HonestInBatches;
        Box::pin(async move {
            Opened { channel, cut, cut_after: None, parallel, most: None, sessions: None, keep: Box::new(()) }
        })
    }
}

async fn failures(behaviour: Behaviour) -> Vec<&'static str> {
    examine(&InMemoryFixture(behaviour), Duration::from_secs(1)).await.into_iter().map(|failure| failure.case).collect()
}

#[tokio::test(start_paused = true)]
async fn an_honest_channel_passes() {
    conform(&InMemoryFixture(Behaviour::Honest)).await;
    conform(&InMemoryFixture(Behaviour::HonestInBatches)).await;
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_liar_is_found_out() {
    for (behaviour, case) in [
        (Behaviour::AcknowledgesUnseen, "it delivers every SET once"),
        (Behaviour::TakesLossForSuccess, "a connection lost before reading loses nothing"),
        (Behaviour::Forgets, "a connection lost after reading repeats"),
        (Behaviour::Leaves, "draining finishes what was handed over"),
        (Behaviour::Rewords, "refusals are reported as the peer words them"),
        (Behaviour::Doubles, "it delivers every SET once"),
        (Behaviour::Reverses, "SETs of few order keys arrive in order"),
        (Behaviour::MistakesReceipt, "it delivers every SET once"),
        (Behaviour::Rewrites, "it delivers every SET once"),
    ] {
        let failed = failures(behaviour).await;
        assert!(failed.contains(&case), "{behaviour:?} failed only {failed:?}");
    }
}
