//! `[[sources]]`: places from which methods collect events. Each has a task that starts it again when it ends.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use serde_json::Value as Json;
use setgate_cli::{Exit, Failure};
use setgate_clock::{Backoff, Jitter, Runtime};
use setgate_control::{About, Answered, Bad, Collected, Ingester, Intake, KnownBy, Offered, Sources};
use setgate_delivery::{
    Answer, BrokerEvent, Cause, Fault, Identity, Incoming, Ingest, Places, Refusal, Rejected, Stop, raised,
    spi::AnyMethod,
};
use setgate_oauth::Producer;
use setgate_set::ErrorCode;
use tokio::sync::watch;

use super::{absent, brokers::Brokers};
use crate::config::{Config, resolve};

/// The back-off before a source that has ended is started again.
const REST: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The time without a fault after which the back-off begins anew.
const GOOD: Duration = Duration::from_secs(300);

/// A source that was validated.
pub(crate) struct ValidatedSource {
    name: String,
    issuer: String,
    kind: Arc<dyn AnyMethod>,
    pub(crate) from: Json,
}

impl ValidatedSource {
    /// Returns the name of the source.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the method that collects.
    pub(crate) fn method(&self) -> &dyn AnyMethod {
        &*self.kind
    }
}

/// Validates the sources of the configuration: names, rules, and `from` by the method.
///
/// # Errors
/// Returns a failure that names the first source that is not acceptable, and its key.
pub(crate) fn validate(config: &Config, methods: &[Arc<dyn AnyMethod>]) -> Result<Vec<ValidatedSource>, Failure> {
    let issuers: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    setgate_oauth::Guard::check_sources(&config.sources, &config.producers, &issuers)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let (mut all, mut seen) = (Vec::new(), Vec::new());
    for source in &config.sources {
        let name = &source.name;
        let Some(method) = setgate_delivery::find(methods, &source.kind) else {
            let known = methods.iter().map(|method| method.entry().name);
            return Err(Failure::usage(format!("sources.{name}.kind: there is no method `{}`", source.kind))
                .remedy(absent::remedy(&source.kind, known)));
        };
        let mut from = source.from.clone();
        resolve(&mut from, &format!("sources.{name}.from"))?;
        method.source(from.clone()).map_err(|fault| match fault {
            Fault::Terms { pointer, cause } => {
                Failure::usage(format!("sources.{name}.from{}: {}", pointer.replace('/', "."), cause.text))
            }
            Fault::Unsupported(_) => {
                let known: Vec<_> = methods
                    .iter()
                    .filter(|method| !matches!(method.source(Json::Null), Err(Fault::Unsupported(_))))
                    .map(|method| method.entry().name)
                    .collect();
                let what = format!("sources.{name}.kind: the method `{}` does not collect events", source.kind);
                Failure::usage(what).remedy(if known.is_empty() {
                    "no method of this gateway does; remove the source".to_owned()
                } else {
                    format!("these do: {}", known.join(", "))
                })
            }
            fault => Failure::usage(format!("sources.{name}.from: {fault}")),
        })?;
        let places = method.places(&from);
        apart(&seen, name, &places)?;
        seen.push((name, places));
        all.push(ValidatedSource { name: name.clone(), issuer: source.issuer.clone(), kind: method.clone(), from });
    }
    Ok(all)
}

/// Checks that a source shares no group with another one, and that neither reads what the other writes.
fn apart(others: &[(&String, Places)], name: &str, this: &Places) -> Result<(), Failure> {
    for (other, theirs) in others {
        if let Some(group) = this.joins.as_ref().filter(|joins| theirs.joins.as_ref() == Some(joins)) {
            let what = format!("sources.{name}.from: the source `{other}` is in {group} as well");
            return Err(Failure::usage(what).remedy(
                "give each a group of its own: what one has taken and not committed yet the other would take again, as another's event",
            ));
        }
        for (from, to, writes, reads) in
            [(name, other.as_str(), &this.writes, &theirs.reads), (other.as_str(), name, &theirs.writes, &this.reads)]
        {
            if let Some(place) = writes.iter().find(|place| reads.contains(place)) {
                let what =
                    format!("sources.{name}.from: `{from}` puts what it refuses into {place}, from which `{to}` takes");
                return Err(
                    Failure::usage(what).remedy("name another error topic: refused records could go round for ever")
                );
            }
        }
    }
    Ok(())
}

/// The parts of the gateway that sources need.
pub(crate) struct Parts<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) config: &'a Config,
    pub(crate) methods: &'a [Arc<dyn AnyMethod>],
    pub(crate) intakes: Vec<Intake>,
    pub(crate) observed: setgate_control::Observed,
    pub(crate) store: Arc<dyn setgate_store::Store>,
    pub(crate) registry: &'a setgate_telemetry::Registry,
    pub(crate) brokers: Brokers,
}

/// The sources that are prepared and not started yet.
pub(crate) struct Ready {
    pub(crate) shown: Arc<Sources>,
    runs: Vec<Run>,
}

/// A source and its ingest.
struct Run {
    source: Arc<Collected>,
    method: Arc<dyn AnyMethod>,
    from: Json,
    ingest: Arc<SourceIngest>,
}

/// Validates the sources, assigns their numbers and creates their ingests.
///
/// # Errors
/// Returns a failure when a source is not acceptable or the store fails.
pub(crate) async fn prepare(parts: Parts<'_>) -> Result<Ready, Failure> {
    let Parts { runtime, config, methods, intakes, observed, store, registry, brokers } = parts;
    let validated = validate(config, methods)?;
    let issuers: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    let producers = setgate_oauth::enrol_sources(&*store, &config.sources, &config.producers, &issuers)
        .await
        .map_err(|error| Failure::new(Exit::Store, error.to_string()))?;
    let about = |validated: &ValidatedSource| About {
        name: validated.name.as_str().into(),
        kind: validated.kind.entry().name.into(),
        issuer: validated.issuer.as_str().into(),
    };
    let all = validated.iter().map(about).collect();
    let shown = Sources::open(store, runtime.clone(), all, registry)
        .await
        .map_err(|error| Failure::new(Exit::Store, error.to_string()))?;
    let mut runs = Vec::new();
    for (validated, producer) in validated.into_iter().zip(producers) {
        let intake = intakes.iter().find(|intake| *intake.issuer == *validated.issuer);
        // The intake and the source come from the same list: both are there.
        let (Some(intake), Some(source)) = (intake, shown.get(&validated.name)) else { continue };
        let ingest = SourceIngest::new(config, intake.clone(), producer, &observed, &shown, source, brokers.clone());
        runs.push(Run {
            source: source.clone(),
            method: validated.kind,
            from: validated.from,
            ingest: Arc::new(ingest),
        });
    }
    Ok(Ready { shown, runs })
}

impl Ready {
    /// Starts to collect.
    pub(crate) fn start(self, runtime: &Runtime) -> Running {
        let (stop, stopped) = watch::channel(false);
        let mut ended = Vec::new();
        for run in self.runs {
            let (end, over) = watch::channel(false);
            ended.push(over);
            let (runtime, mut stopped) = (runtime.clone(), stopped.clone());
            runtime.clone().spawn("source", async move {
                tracing::info!(source = run.source.name(), "the source is started");
                run.keep(&runtime, &mut stopped).await;
                end.send_replace(true);
            });
        }
        Running { stop, ended }
    }
}

/// The sources that are running.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    ended: Vec<watch::Receiver<bool>>,
}

impl Running {
    /// Asks the sources to end and waits for them: they finish what is in hand and commit their offsets.
    pub(crate) async fn end(&self, runtime: &Runtime, within: Duration) {
        self.stop.send_replace(true);
        let all = futures_util::future::join_all(self.ended.iter().cloned().map(|mut over| async move {
            let _ = over.wait_for(|over| *over).await;
        }));
        tokio::select! {
            _ = all => {}
            () = runtime.clock.sleep(within) => {
                tracing::warn!("a source did not end in time: what it had in hand comes again at the next start");
            }
        }
    }
}

impl Run {
    /// Collects until it is asked to stop, and starts again after each end.
    async fn keep(&self, runtime: &Runtime, stop: &mut Stop) {
        let mut faults = 0_u32;
        loop {
            let since = runtime.clock.monotonic();
            let ended = self.method.collect(self.from.clone(), self.ingest.clone(), stop.clone()).await;
            if *stop.borrow() {
                return;
            }
            if runtime.clock.monotonic().saturating_sub(since) >= GOOD {
                faults = 0;
            }
            faults = faults.saturating_add(1);
            let rest = REST.wait(faults, Jitter::None);
            let cause = match ended {
                Ok(()) => Cause::new("ended", "it ended by itself"),
                Err(Fault::Start(cause) | Fault::Terms { cause, .. }) => cause,
                Err(fault) => Cause::new("fault", fault.to_string()),
            };
            let (source, again_in) = (self.source.name(), rest.as_secs());
            tracing::error!(source, code = cause.code, cause = %cause.text, again_in, "a source has ended; it is started again");
            self.ingest.report(BrokerEvent::Down { broker: self.ingest.broker.clone(), cause });
            tokio::select! {
                () = raised(stop) => return,
                () = runtime.clock.sleep(rest) => {}
            }
        }
    }
}

/// The ingest of a source, with the same checks as the intake endpoint.
struct SourceIngest {
    ingester: Ingester,
    shown: Arc<Sources>,
    source: Arc<Collected>,
    brokers: Brokers,
    /// The name under which the source is reported: `source/NAME`.
    broker: Arc<str>,
}

impl SourceIngest {
    fn new(
        config: &Config,
        intake: Intake,
        producer: Arc<Producer>,
        observed: &setgate_control::Observed,
        shown: &Arc<Sources>,
        source: &Arc<Collected>,
        brokers: Brokers,
    ) -> Self {
        let broker = format!("source/{}", source.name()).into();
        let ingester = Ingester::new(intake, producer, &config.intake, observed.clone());
        Self { ingester, shown: shown.clone(), source: source.clone(), brokers, broker }
    }
}

impl Ingest for SourceIngest {
    fn accept<'a>(&'a self, _peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        Box::pin(async move {
            let mut slots = Vec::with_capacity(what.len());
            let mut events = Vec::with_capacity(what.len());
            for one in what {
                slots.push(matches!(one, Incoming::Event { .. }));
                if let Incoming::Event { id, body } = one {
                    let known_by = match id {
                        Identity::Given(id) => KnownBy::Given(id),
                        Identity::OrElse(id) => KnownBy::OrElse(id),
                    };
                    events.push(Offered { known_by, body });
                }
            }
            let mut answered = self.ingester.ingest(events).await.into_iter();
            let answer = |is_event| match if is_event { answered.next() } else { None } {
                Some(Answered::Taken) => Answer::Taken,
                Some(Answered::Refused { code, text }) => refused(code, &text),
                Some(Answered::Busy { after }) => Answer::Busy { after },
                None => refused(ErrorCode::InvalidRequest, "a source takes events; SETs are for receivers to take"),
            };
            slots.into_iter().map(answer).collect()
        })
    }

    fn park(&self, what: Vec<Rejected>) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let bad = |one: Rejected| Bad {
                at: one.at,
                key: one.key,
                body: one.body,
                text: one.refusal.description.as_deref().unwrap_or_default().to_owned(),
                code: one.refusal.code,
            };
            match self.shown.park(&self.source, what.into_iter().map(bad).collect()).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(
                        source = self.source.name(),
                        error = setgate_telemetry::chain(&error),
                        "records of a source could not be parked"
                    );
                    false
                }
            }
        })
    }

    fn report(&self, event: BrokerEvent) {
        let broker = self.broker.clone();
        self.brokers.report(match event {
            BrokerEvent::Up { .. } => {
                self.source.on_success();
                BrokerEvent::Up { broker }
            }
            BrokerEvent::Down { cause, .. } => {
                self.source.failed(self.shown.now(), &cause.to_string());
                BrokerEvent::Down { broker, cause }
            }
            BrokerEvent::Figures { figures, .. } => {
                self.source.figures(&figures);
                BrokerEvent::Figures { broker, figures }
            }
        });
    }
}

fn refused(code: ErrorCode, text: &str) -> Answer {
    Answer::Refused(Refusal { code, description: Some(text.into()), language: None })
}

#[cfg(test)]
mod tests;
