//! Assembly of the gateway: configuration in, running services out.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use setgate_cli::{Exit, Failure};
use setgate_clock::Runtime;
use setgate_delivery::{BrokerEvent, Env, Initiator, spi::AnyMethod};
use setgate_net::{Outbound, OwnAddresses};
use setgate_oauth::{Guard, Receiver};
use setgate_router::{Issuer, Router};

use super::{
    absent,
    brokers::Brokers,
    certificates,
    listeners::{Listeners, Routes, Running, serve},
    sources, tasks,
};
use crate::{
    config::{Config, resolve},
    sessions::{self, Sessions},
    state::{self, OpenState, issuers},
};

/// The parts of a gateway.
pub(crate) struct Parts {
    pub(crate) runtime: Runtime,
    pub(crate) config: Config,
    pub(crate) kept: OpenState,
    pub(crate) listeners: Listeners,
    /// Whether more than a tenth of the streams, or an issuer, may be missing from the configuration.
    pub(crate) force: bool,
}

/// A running gateway.
pub struct Gateway {
    runtime: Runtime,
    router: Router,
    kept: OpenState,
    issuers: Vec<Issuer>,
    world: Running,
    operator: Running,
    sessions: Sessions,
    sources: sources::Running,
    ready: Arc<AtomicBool>,
}

impl Gateway {
    /// Opens the state, or creates it with `init`, and runs on listeners that are open already, as `setgate serve` does
    /// without signals.
    ///
    /// # Errors
    /// Returns a failure when the store cannot be opened or a section is not acceptable.
    pub async fn start(runtime: Runtime, config: Config, listeners: Listeners, init: bool) -> Result<Self, Failure> {
        let kept = state::open(&runtime, &config, init).await?;
        Self::assemble(Parts { runtime, config, kept, listeners, force: false }).await
    }

    /// Puts the crates together and serves the listeners.
    ///
    /// # Errors
    /// Returns a failure when a section is not acceptable or the store fails.
    pub(crate) async fn assemble(parts: Parts) -> Result<Self, Failure> {
        let Parts { runtime, config, kept, listeners, force } = parts;
        let own = OwnAddresses::new();
        own.add(listeners.world.address());
        own.add(listeners.operator.address());
        let outbound = outbound(&config, &runtime, own)?;
        let rotation = config.keys.rotation();
        issuers::none_is_missing(&*kept.store, &config.issuers, force).await?;
        let issuers = issuers::load_or_create(&*kept.store, &kept.kek, &config.issuers, &rotation).await?;
        let urls: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
        let producers =
            setgate_oauth::enrol(&*kept.store, &config.producers, &urls).await.map_err(|error| match error {
                setgate_oauth::EnrolError::Section(error) => Failure::usage(error.to_string()),
                error => Failure::new(Exit::Store, error.to_string()),
            })?;
        if producers.is_empty() && config.sources.is_empty() {
            tracing::warn!("no producer is configured: nobody can put events in; `setgate producers new` makes one");
        }
        kept.registry.lend(tasks::register);
        let brokers = kept.registry.lend(Brokers::register);
        let reported = brokers.clone();
        let report = Arc::new(move |event| reported.report(event));
        let methods = start_methods(&config, &outbound, &runtime, report).await?;
        // Sources are validated before anything is changed: a source that cannot run ends the start.
        sources::validate(&config, &methods)?;
        let router = Router::start(setgate_router::Parts {
            runtime: runtime.clone(),
            store: kept.store.clone(),
            kek: kept.kek.clone(),
            issuers: issuers.clone(),
            methods: methods.clone(),
            config: config.router.clone(),
            observed: kept.registry.lend(setgate_router::Observed::register),
        })
        .await
        .map_err(|error| Failure::new(Exit::Store, error.to_string()))?;
        declare(&router, &config, force).await?;
        issuers::note(&*kept.store, &config.issuers).await?;

        let receivers = Receiver::all(&config.receivers, &urls).map_err(|error| Failure::usage(error.to_string()))?;
        warn_without_receivers(&router, &config, &receivers);
        let guard = Arc::new(Guard::new(producers, runtime.clock.clone()).with_receivers(receivers));
        let sessions = Sessions::new(sessions::Parts {
            runtime: runtime.clone(),
            guard: guard.clone(),
            find: sessions::finder(&router),
            issuers: urls,
            methods: &methods,
            config: config.sessions.clone(),
            observed: sessions::Observed::register(&kept.registry),
        })
        .map_err(|error| Failure::usage(error.to_string()))?;
        let ready = Arc::new(AtomicBool::new(true));
        let observed = setgate_control::Observed::register(&kept.registry);
        let sources = sources::prepare(sources::Parts {
            runtime: &runtime,
            config: &config,
            methods: &methods,
            intakes: setgate_control::Intake::of(&router),
            observed: observed.clone(),
            store: kept.store.clone(),
            registry: &kept.registry,
            brokers,
        })
        .await?;
        let routes = Routes {
            config: &config,
            router: &router,
            guard,
            sessions: sessions.clone(),
            sources: sources.shown.clone(),
            observed,
            kept: &kept,
            runtime: &runtime,
        };
        let (world, operator) = (routes.world()?, routes.operator(&listeners.operator, &ready));
        let observed = kept.registry.lend(certificates::Observed::register);
        certificates::watch("public", &listeners.world, &config.listen.public_tls, &runtime, &observed);
        certificates::watch("admin", &listeners.operator, &config.listen.admin_tls, &runtime, &observed);
        let connections = setgate_net::Observed::register(&kept.registry);
        let world = serve(listeners.world.observed(connections.clone(), "public"), world, &runtime, "public");
        let operator = serve(listeners.operator.observed(connections, "admin"), operator, &runtime, "admin");
        let sources = sources.start(&runtime);
        Ok(Self { runtime, router, kept, issuers, world, operator, sessions, sources, ready })
    }

    /// Returns the address of the public listener.
    #[must_use]
    pub fn world(&self) -> SocketAddr {
        self.world.address
    }

    /// Returns the address of the admin listener.
    #[must_use]
    pub fn operator(&self) -> SocketAddr {
        self.operator.address
    }

    /// Returns the router, for tests, demo and benchmarks.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Returns the issuers with their keys.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Waits for a permanent failure of the store and returns its reason; without one, the future never completes.
    pub fn fatal(&self) -> impl Future<Output = String> + Send + use<> {
        let engine = self.kept.engine.clone();
        async move {
            let Some(engine) = engine else { return std::future::pending().await };
            let mut fatal = engine.fatal();
            loop {
                if let Some(why) = fatal.borrow_and_update().clone() {
                    return why;
                }
                if fatal.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Shuts down in order: not ready, intake closed, what is in flight finished or handed back, everything written
    /// out.
    ///
    /// `delay` lies between "not ready" and the closed listener; `within` bounds the whole.
    pub async fn shutdown(self, delay: Duration, within: Duration) {
        let clock = self.runtime.clock.clone();
        let by = clock.monotonic() + within;
        let left = |part: u32| by.saturating_sub(clock.monotonic()) / part;
        self.ready.store(false, Ordering::SeqCst);
        clock.sleep(delay.min(within)).await;
        // Requests under way are answered while the router still accepts and delivers. Polls and sockets may wait
        // without end: the drain notifies their consumers, and their answers leave before the listener is closed.
        self.sessions.close();
        // Sources end together with the intake: their last events are accepted and their offsets committed while the
        // router still accepts events.
        tokio::join!(self.world.shut(&self.runtime, left(2)), self.sources.end(&self.runtime, left(2)));
        self.router.drain(left(1).saturating_sub(Duration::from_secs(1)).max(Duration::from_millis(500))).await;
        self.world.close(&self.runtime, left(2).min(Duration::from_secs(2))).await;
        self.operator.close(&self.runtime, left(2).min(Duration::from_secs(1))).await;
        if let Err(error) = self.kept.store.close().await {
            tracing::warn!(
                error = setgate_telemetry::chain(&error),
                "the store was not closed in order; the next start replays"
            );
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gateway({}, {})", self.world(), self.operator())
    }
}

fn outbound(config: &Config, runtime: &Runtime, own: OwnAddresses) -> Result<Outbound, Failure> {
    Outbound::new(&config.net, runtime.clone(), own).map_err(|error| Failure::usage(error.to_string()))
}

/// Starts the methods of a gateway that does not run, to check streams and to probe endpoints.
///
/// # Errors
/// Returns a failure when a section is not acceptable.
pub(crate) async fn methods_of(
    config: &Config,
    runtime: &Runtime,
) -> Result<(Vec<Arc<dyn AnyMethod>>, Outbound), Failure> {
    let own = OwnAddresses::new();
    own.add(config.listen.public);
    own.add(config.listen.admin);
    let outbound = outbound(config, runtime, own)?;
    Ok((start_methods(config, &outbound, runtime, Arc::new(|_| {})).await?, outbound))
}

/// Starts the methods that are linked and not switched off.
///
/// # Errors
/// Returns a failure when two methods claim one URI, the configuration names a method that is not linked, or a method
/// refuses its section.
async fn start_methods(
    config: &Config,
    outbound: &Outbound,
    runtime: &Runtime,
    report: Arc<dyn Fn(BrokerEvent) + Send + Sync>,
) -> Result<Vec<Arc<dyn AnyMethod>>, Failure> {
    let linked = setgate_delivery::methods().map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(unknown) =
        config.methods.keys().find(|name| linked.iter().all(|method| method.entry.name != name.as_str()))
    {
        let known = linked.iter().map(|method| method.entry.name);
        return Err(Failure::usage(format!("[methods.{unknown}]: this gateway has no such method"))
            .remedy(absent::remedy(unknown, known)));
    }
    let mut started = Vec::new();
    for method in linked {
        let name = method.entry.name;
        let mut section = config.methods.get(name).cloned().unwrap_or_else(|| serde_json::json!({}));
        let enabled = section.as_object_mut().and_then(|members| members.remove("enabled"));
        match enabled {
            None | Some(serde_json::Value::Bool(true)) => {}
            Some(serde_json::Value::Bool(false)) => {
                tracing::info!(method = name, "the method is switched off");
                continue;
            }
            Some(_) => return Err(Failure::usage(format!("[methods.{name}]: `enabled` is true or false"))),
        }
        resolve(&mut section, &format!("methods.{name}"))?;
        let env = Env { http: outbound.clone(), runtime: runtime.clone(), report: report.clone() };
        let method = (method.start)(section, env).await.map_err(|error| Failure::usage(error.to_string()))?;
        tracing::info!(method = name, uri = method.entry().uri, "the method is ready");
        started.push(method);
    }
    if started.is_empty() {
        return Err(Failure::usage("every delivery method is switched off: nothing could be delivered"));
    }
    Ok(started)
}

/// Puts the declared streams in force.
///
/// # Errors
/// Returns a failure when one of them is not acceptable; then none of them is changed.
async fn declare(router: &Router, config: &Config, force: bool) -> Result<(), Failure> {
    let mut declared = config.streams.clone();
    for stream in &mut declared {
        resolve(&mut stream.delivery.terms, &format!("streams.{}.delivery", stream.id))?;
        resolve(&mut stream.grant, &format!("streams.{}.grant", stream.id))?;
    }
    let done = router.reconcile(declared, force).await.map_err(|error| match error {
        setgate_router::ReconcileError::Store(error) => Failure::new(Exit::Store, error.to_string()),
        error @ setgate_router::ReconcileError::TooManyAbsent { .. } => Failure::usage(error.to_string()).remedy(
            "declare them again; or start once with `setgate serve --force`: they are disabled then, and keep their places and what they are owed",
        ),
        error => Failure::usage(error.to_string()),
    })?;
    tracing::info!(
        created = done.created.len(),
        changed = done.changed.len(),
        absent = done.absent.len(),
        unchanged = done.unchanged,
        "the declared streams are in force"
    );
    for id in &done.absent {
        tracing::warn!(
            stream = id,
            "the stream is declared no more: it is disabled; `setgate streams delete` removes it"
        );
    }
    Ok(())
}

/// Warns of streams that wait for a receiver where no receiver may open them.
fn warn_without_receivers(router: &Router, config: &Config, receivers: &[Receiver]) {
    for stream in &config.streams {
        let waits =
            router.session_target(stream.id.as_str()).is_some_and(|target| target.initiator == Initiator::Receiver);
        if waits && !receivers.iter().any(|receiver| receiver.may_open(&stream.issuer, stream.id.as_str())) {
            tracing::warn!(stream = %stream.id, "no receiver may connect to the stream: `setgate receivers new` makes one");
        }
    }
}

#[cfg(test)]
mod tests {
    use setgate_net::{HttpRequest, TlsPolicy};

    use super::*;
    use crate::{
        commands::listen,
        config::{Source, load},
    };

    fn config(folder: &std::path::Path, extra: &str) -> Config {
        let file = folder.join("setgate.toml");
        let text = format!(
            "{extra}\n[gateway]\ndev = true\n[listen]\npublic = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
             [store]\nreserve_bytes = 1048576\n[[issuers]]\nurl = \"http://127.0.0.1:1/a\"\nalgorithms = [\"ES256\"]\n\
             [[issuers]]\nurl = \"http://127.0.0.1:1/b\"\nalgorithms = [\"EdDSA\"]\n"
        );
        std::fs::write(&file, text).unwrap();
        load(Source::File(file), false, Vec::new()).unwrap().config
    }

    async fn get(runtime: &Runtime, at: SocketAddr, path: &str) -> (u16, String) {
        let client = listen::way_out(runtime, Vec::new()).unwrap().client(&TlsPolicy::default());
        let request = HttpRequest {
            method: axum::http::Method::GET,
            url: format!("http://{at}{path}").parse().unwrap(),
            headers: axum::http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            keep_body: 65_536,
            timeout: None,
        };
        let answer = client.send(request).await.unwrap();
        (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn both_listeners_serve_what_is_theirs_and_close_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (runtime, config) = (setgate_clock::system(), config(folder.path(), ""));
        let listeners = Listeners::open(&config).await.unwrap();
        let gateway = Gateway::start(runtime.clone(), config.clone(), listeners, true).await.unwrap();
        let (world, operator) = (gateway.world(), gateway.operator());
        assert_eq!(get(&runtime, operator, "/readyz").await.0, 200);
        assert!(get(&runtime, operator, "/metrics").await.1.contains("setgate_events_accepted"));
        assert_eq!(get(&runtime, operator, "/admin/v1/streams").await.0, 401);
        assert_eq!(get(&runtime, world, "/admin/v1/streams").await.0, 404, "the world has no admin listener");
        assert_eq!(get(&runtime, world, "/readyz").await.0, 404);
        for issuer in ["a", "b"] {
            let (status, body) = get(&runtime, world, &format!("/.well-known/ssf-configuration/{issuer}")).await;
            let metadata: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (status, metadata["issuer"].as_str()),
                (200, Some(format!("http://127.0.0.1:1/{issuer}").as_str()))
            );
            let methods: Vec<&str> = metadata["delivery_methods_supported"]
                .as_array()
                .unwrap()
                .iter()
                .map(|uri| uri.as_str().unwrap())
                .collect();
            for method in ["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"] {
                assert!(methods.contains(&method), "{methods:?}");
            }
            let (_, keys) = get(&runtime, world, &format!("/{issuer}/jwks.json")).await;
            assert!(keys.contains(if issuer == "a" { "ES256" } else { "EdDSA" }), "{keys}");
        }
        gateway.shutdown(Duration::ZERO, Duration::from_secs(5)).await;

        let kept = state::open(&runtime, &config, false).await.unwrap();
        kept.store.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_method_that_is_not_linked_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "[methods.pigeon]\nloft = 1");
        let error = methods_of(&config, &setgate_clock::system()).await.err().unwrap();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains("methods.pigeon") && error.remedy.unwrap().contains("push"));
    }

    #[tokio::test]
    async fn a_gateway_without_any_method_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let off = |name: &str| format!("[methods.{name}]\nenabled = false\n");
        let all: String = setgate_delivery::methods().unwrap().iter().map(|method| off(method.entry.name)).collect();
        let config = config(folder.path(), &all);
        assert_eq!(methods_of(&config, &setgate_clock::system()).await.err().unwrap().exit, Exit::Usage);
    }
}
