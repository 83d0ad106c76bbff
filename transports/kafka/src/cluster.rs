//! A configured cluster: its producer, created at first use and shared by all channels, its window, and what the client
//! library reports of its health.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rdkafka::{ClientConfig, message::OwnedHeaders};
use setgate_delivery::{Cause, Env, Fault, Outcome, Runtime, Verdict, Window};
use tokio::sync::{oneshot, watch};

use engine::Engine;
pub(crate) use engine::{ProducerState, Record};
use reports::Reports;
pub(crate) use reports::{DeliveryContext, PendingRecord};
use topics::Doubts;

use crate::{
    client::{Role, client_config},
    config::{ClusterSection, SaslSection},
    context::Context,
    reported::ReportedHealth,
    tokens::Tokens,
};

mod engine;
mod reporting;
mod reports;
mod topics;

/// The time that a producer has to hang up after its records came back: it may wait for a name server, or for the
/// answer to a look.
const HANG_UP: Duration = Duration::from_secs(1);

/// A cluster of `[methods.kafka.clusters]`.
pub(crate) struct Cluster {
    section: ClusterSection,
    shared: Arc<Shared>,
    main: Arc<Engine>,
    lone: Arc<Engine>,
}

/// The state that both producers of a cluster, their threads and their callbacks share.
pub(crate) struct Shared {
    name: Arc<str>,
    env: Env,
    reported: Arc<ReportedHealth>,
    tokens: Option<Arc<Tokens>>,
    gate: Gate,
    reports: Reports,
    makes_topics: bool,
    doubts: Doubts,
}

impl Cluster {
    /// Creates the cluster after a check of its section; dials nothing.
    pub(crate) fn new(name: &str, section: &ClusterSection, env: &Env) -> Result<Arc<Self>, Fault> {
        let config = producer_config(name, section)?;
        let mut alone = config.clone();
        // Statistics are reported for the main producer only.
        alone.set("batch.num.messages", "1").set("linger.ms", "0").set("statistics.interval.ms", "0");
        let broker: Arc<str> = format!("kafka/{name}").into();
        let timeout = section.timeout;
        let tokens = match &section.sasl {
            Some(SaslSection::OauthBearer(token)) => Some(Tokens::start(env, token)),
            _ => None,
        };
        let shared = Arc::new(Shared {
            name: name.into(),
            reported: ReportedHealth::new(broker, env.report.clone(), env.runtime.clone(), timeout),
            env: env.clone(),
            tokens,
            gate: Gate::new(section.in_flight, section.in_flight_bytes),
            reports: Reports::default(),
            makes_topics: section.create_topics.is_some(),
            doubts: Doubts::default(),
        });
        let lone = Engine::new(shared.clone(), alone, None);
        let main = Engine::new(shared.clone(), config, Some(lone.clone()));
        let drained = shared.clone();
        env.runtime
            .spawn("kafka reports", async move { drained.reports.drain(|| drained.reported.on_success()).await });
        Ok(Arc::new(Self { section: section.clone(), shared, main, lone }))
    }

    /// Returns the name of the cluster.
    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Returns the options of the cluster.
    pub(crate) fn section(&self) -> &ClusterSection {
        &self.section
    }

    /// Returns the bearer tokens of the cluster, if it uses any.
    pub(crate) fn tokens(&self) -> Option<&Arc<Tokens>> {
        self.shared.tokens.as_ref()
    }

    /// Returns `kafka/<cluster>`, the endpoint of the channels and the broker of the reports.
    pub(crate) fn broker(&self) -> &Arc<str> {
        self.shared.reported.broker()
    }

    /// Returns the window that all channels of the cluster share.
    pub(crate) fn window(&self) -> &Window {
        &self.shared.gate.window
    }

    /// Creates a context for a further client of this cluster.
    pub(crate) fn context(&self) -> Context {
        self.shared.context()
    }

    /// Returns the health of the cluster as the client library reports it.
    pub(crate) fn reported(&self) -> &Arc<ReportedHealth> {
        &self.shared.reported
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.shared.env.runtime
    }

    /// Starts the producer if it was not started, and returns its state.
    pub(crate) fn begin(&self) -> watch::Receiver<ProducerState> {
        self.main.begin();
        self.main.producer_state()
    }

    /// Hands a record over without waiting; its outcome comes through `pending`. Returns whether the next one may
    /// follow at once: without a producer, or without room in its queue, that would come straight back.
    pub(crate) fn send(&self, record: Record<'_>, pending: Box<PendingRecord>) -> bool {
        self.main.send(record, pending)
    }

    /// Sends one record and waits for the brokers' acknowledgement; used for the error topics of sources.
    pub(crate) async fn produce(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        headers: OwnedHeaders,
        value: &[u8],
    ) -> Result<(), Cause> {
        let over = || Cause::new("closed", "the gateway is going down");
        self.ready().await.ok_or_else(over)??;
        self.trust(topic).await;
        let (answer, answered) = oneshot::channel();
        let pending = PendingRecord::Single { topic: topic.into(), since: self.shared.reported.now(), answer };
        let _ = self.send(Record { topic, key, headers, value, timestamp: None }, Box::new(pending));
        answered.await.unwrap_or_else(|_| Err(over()))
    }

    /// Waits for the records under way and hangs up, not much later than `within` from now; what is left then is given
    /// back.
    pub(crate) async fn close(&self, within: Duration) {
        let by = self.shared.reported.now() + within;
        let all = async {
            self.main.end(by);
            self.wait_until_over(&self.main).await;
            // Only now has the main engine nothing more to pass on.
            self.lone.end(by);
            self.wait_until_over(&self.lone).await;
            self.shared.reports.settled().await;
        };
        tokio::select! {
            () = all => {}
            () = self.runtime().clock.sleep(within + HANG_UP) => {
                self.lone.end(by);
                tracing::warn!(broker = %self.broker(), "a Kafka producer takes its time to hang up; it is not waited for");
            }
        }
        self.shared.reports.end();
    }

    /// Waits until the producer is ready or cannot be created, and returns the cause in the second case; `None` means
    /// that it has ended.
    async fn ready(&self) -> Option<Result<(), Cause>> {
        let mut producer_state = self.begin();
        let producer_state =
            producer_state.wait_for(|producer_state| !matches!(producer_state, ProducerState::Absent)).await.ok()?;
        match &*producer_state {
            ProducerState::Ready => Some(Ok(())),
            ProducerState::Failing(cause) => Some(Err(cause.clone())),
            ProducerState::Absent | ProducerState::Over => None,
        }
    }

    async fn wait_until_over(&self, engine: &Engine) {
        // The engine itself keeps the sender.
        let _ = engine.producer_state().wait_for(|producer_state| matches!(producer_state, ProducerState::Over)).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.main.end(Duration::ZERO);
        self.lone.end(Duration::ZERO);
        self.shared.reports.end();
    }
}

impl Shared {
    fn context(&self) -> Context {
        Context::new(self.reported.clone(), self.tokens.clone(), self.env.report.clone())
    }

    /// Passes the outcome of a record on to the run or the sender that waits for it.
    fn resolve(&self, pending: PendingRecord, outcome: Outcome) {
        match pending {
            PendingRecord::Set { context, jti, attempt, .. } => self.reports.add(context, jti, attempt, outcome),
            PendingRecord::Single { answer, .. } => {
                if outcome.is_ok() {
                    self.reported.on_success();
                }
                // The sender may be gone.
                let _ = answer.send(match outcome {
                    Ok(_) => Ok(()),
                    Err(Verdict::Retry { cause, .. } | Verdict::Halt { cause, .. }) => Err(cause),
                    Err(Verdict::Refuse(refusal)) => {
                        Err(Cause::new("refused", refusal.description.unwrap_or_else(|| refusal.code.as_str().into())))
                    }
                    Err(_) => Err(Cause::new("returned", "the record was not sent: the producer was replaced")),
                });
            }
        }
    }
}

/// The shared window with one latch for each producer; the window is open while neither producer is being replaced.
struct Gate {
    window: Window,
    sets: usize,
    bytes: usize,
    shut: Mutex<[bool; 2]>,
}

impl Gate {
    fn new(sets: usize, bytes: usize) -> Self {
        Self { window: Window::of(sets, usize::MAX, bytes), sets, bytes, shut: Mutex::default() }
    }

    fn shut(&self, lone: bool) {
        self.turn(lone, true);
    }

    fn open(&self, lone: bool) {
        self.turn(lone, false);
    }

    fn turn(&self, lone: bool, shut: bool) {
        let mut latches = self.shut.lock();
        let before = latches.contains(&true);
        if let Some(latch) = latches.get_mut(usize::from(lone)) {
            *latch = shut;
        }
        let after = latches.contains(&true);
        // This happens under the lock, because two turns must reach the window in their order.
        match (before, after) {
            (false, true) => self.window.limit(0, 0, 0),
            (true, false) => self.window.limit(self.sets, usize::MAX, self.bytes),
            _ => {}
        }
    }
}

/// Returns the configuration of the cluster's producers, with further defaults for properties that the operator did not
/// set.
fn producer_config(name: &str, section: &ClusterSection) -> Result<ClientConfig, Fault> {
    let mut config = client_config(name, section, Role::Producer)?;
    let mut unless_said = |property: &str, value: &str| {
        if !section.properties.contains_key(property) {
            config.set(property, value);
        }
    };
    // The same partitioner as in the Java client, so that records of one key from all producers meet in one partition.
    unless_said("partitioner", "murmur2_random");
    // A broker that comes back is found again long before records time out.
    unless_said("reconnect.backoff.max.ms", "1000");
    // Brokers close idle connections, which is no event.
    unless_said("log.connection.close", "false");
    Ok(config)
}
