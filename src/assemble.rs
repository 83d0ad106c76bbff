//! The gateway assembled: configuration in, running services out.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cli::{Exit, Failure};
use clock::House;
use control::{Intake, Keys, KeysOf, KeysParts, OperatorParts, WorldParts};
use delivery::{CarrierEvent, Env, spi::AnyMethod};
use discovery::{IssuerUrl, PublishedIssuer};
use net::{Listener, Outbound, OwnAddresses};
use oauth::{AdminGuard, Guard};
use router::{Issuer, Router};
use tokio::sync::watch;

use crate::{
    config::{Config, resolve},
    issuers,
    opening::Kept,
};

/// Both doors, open and not yet served.
#[derive(Debug)]
pub struct Doors {
    /// For the world.
    pub world: Listener,
    /// For operators.
    pub operator: Listener,
}

impl Doors {
    /// Opens both doors as configured.
    ///
    /// # Errors
    /// When an address is taken or a certificate cannot be used.
    pub async fn open(config: &Config) -> Result<Self, Failure> {
        let listen = &config.listen;
        let open = async |address, files, key: &str| {
            Listener::open(address, &listen.door(files))
                .await
                .map_err(|error| Failure::failed(format!("{key}: {error}")))
        };
        Ok(Self {
            world: open(listen.world, &listen.world_tls, "listen.world").await?,
            operator: open(listen.operator, &listen.operator_tls, "listen.operator").await?,
        })
    }
}

/// What a gateway is made of.
pub(crate) struct Parts {
    pub(crate) house: House,
    pub(crate) config: Config,
    pub(crate) kept: Kept,
    pub(crate) doors: Doors,
    /// Whether more than a tenth of the streams may be switched off.
    pub(crate) force: bool,
}

/// A running gateway.
pub struct Gateway {
    house: House,
    router: Router,
    kept: Kept,
    issuers: Vec<Issuer>,
    world: Running,
    operator: Running,
    ready: Arc<AtomicBool>,
}

/// A door that is served.
struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl Gateway {
    /// Opens what is kept, or makes it with `init`, and runs on doors that are open already: what `setgate serve` does
    /// without signals.
    ///
    /// # Errors
    /// When the store cannot be opened or a section is not acceptable.
    pub async fn start(house: House, config: Config, doors: Doors, init: bool) -> Result<Self, Failure> {
        let kept = crate::opening::open(&house, &config, init).await?;
        Self::assemble(Parts { house, config, kept, doors, force: false }).await
    }

    /// Puts the rooms together and opens the doors.
    ///
    /// # Errors
    /// When a section is not acceptable or the store does not do it.
    pub(crate) async fn assemble(parts: Parts) -> Result<Self, Failure> {
        let Parts { house, config, kept, doors, force } = parts;
        let own = OwnAddresses::new();
        own.add(doors.world.address());
        own.add(doors.operator.address());
        let outbound = outbound(&config, &house, own)?;
        let rotation = config.keys.rotation();
        let issuers = issuers::take_up(&house, &*kept.store, &kept.kek, &config.issuers, &rotation).await?;
        let urls: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
        let producers = oauth::enrol(&*kept.store, &config.producers, &urls).await.map_err(|error| match error {
            oauth::EnrolError::Section(error) => Failure::usage(error.to_string()),
            error => Failure::new(Exit::Store, error.to_string()),
        })?;
        if producers.is_empty() {
            tracing::warn!("no producer is configured: nobody can put events in; `setgate producers new` makes one");
        }
        let methods = start_methods(&config, &outbound, &house).await?;
        let router = Router::start(router::Parts {
            house: house.clone(),
            store: kept.store.clone(),
            kek: kept.kek.clone(),
            issuers: issuers.clone(),
            methods,
            config: config.router.clone(),
            observed: kept.registry.lend(router::Observed::register),
        })
        .await
        .map_err(|error| Failure::new(Exit::Store, error.to_string()))?;
        declare(&router, &config, force).await?;

        let guard = Arc::new(Guard::new(producers, house.clock.clone()));
        let ready = Arc::new(AtomicBool::new(true));
        let routes = Routes { config: &config, router: &router, guard, kept: &kept, house: &house };
        let (world, operator) = (routes.world()?, routes.operator(&doors.operator, &ready));
        let world = serve(doors.world, world, &house, "world");
        let operator = serve(doors.operator, operator, &house, "operator");
        Ok(Self { house, router, kept, issuers, world, operator, ready })
    }

    /// Where the door for the world listens.
    #[must_use]
    pub fn world(&self) -> SocketAddr {
        self.world.address
    }

    /// Where the door for operators listens.
    #[must_use]
    pub fn operator(&self) -> SocketAddr {
        self.operator.address
    }

    /// The router, for those who look inside: tests, demo, bench.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The issuers with their keys.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Ends with the reason when the store has failed for good; otherwise never.
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

    /// Ends in order: not ready, intake closed, what is in flight finished or handed back, everything written out.
    ///
    /// `delay` lies between "not ready" and the closed door; `within` bounds the whole.
    pub async fn shutdown(self, delay: Duration, within: Duration) {
        let clock = self.house.clock.clone();
        let by = clock.monotonic() + within;
        let left = |part: u32| by.saturating_sub(clock.monotonic()) / part;
        self.ready.store(false, Ordering::SeqCst);
        clock.sleep(delay.min(within)).await;
        // Requests under way get their answers while the router still takes and delivers.
        self.world.close(&self.house, left(2)).await;
        self.router.drain(left(1).saturating_sub(Duration::from_secs(1)).max(Duration::from_millis(500))).await;
        self.operator.close(&self.house, left(2).min(Duration::from_secs(1))).await;
        if let Err(error) = self.kept.store.close().await {
            tracing::warn!(%error, "the store was not closed in order; the next start replays");
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gateway({}, {})", self.world(), self.operator())
    }
}

impl Running {
    async fn close(&self, house: &House, within: Duration) {
        self.stop.send_replace(true);
        let mut ended = self.ended.clone();
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            () = house.clock.sleep(within) => tracing::debug!(door = %self.address, "requests under way were cut"),
        }
    }
}

fn serve(listener: Listener, app: axum::Router, house: &House, name: &'static str) -> Running {
    let address = listener.address();
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let work = listener.serve(app, stopped, house.clone());
    house.spawn(name, async move {
        work.await;
        end.send_replace(true);
    });
    Running { address, stop, ended }
}

fn outbound(config: &Config, house: &House, own: OwnAddresses) -> Result<Outbound, Failure> {
    Outbound::new(&config.net, house.clone(), own).map_err(|error| Failure::usage(error.to_string()))
}

/// The methods of a gateway that does not run, to judge streams and to look around.
///
/// # Errors
/// When a section is not acceptable.
pub(crate) async fn methods_of(config: &Config, house: &House) -> Result<(Vec<Arc<dyn AnyMethod>>, Outbound), Failure> {
    let own = OwnAddresses::new();
    own.add(config.listen.world);
    own.add(config.listen.operator);
    let outbound = outbound(config, house, own)?;
    Ok((start_methods(config, &outbound, house).await?, outbound))
}

/// Starts the methods that are linked and not switched off.
///
/// # Errors
/// When two claim one URI, the configuration names one that is not linked, or one refuses its section.
async fn start_methods(
    config: &Config,
    outbound: &Outbound,
    house: &House,
) -> Result<Vec<Arc<dyn AnyMethod>>, Failure> {
    let linked = delivery::methods().map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(unknown) =
        config.methods.keys().find(|name| linked.iter().all(|method| method.entry.name != name.as_str()))
    {
        let known: Vec<_> = linked.iter().map(|method| method.entry.name).collect();
        return Err(Failure::usage(format!("[methods.{unknown}]: this gateway has no such method"))
            .remedy(format!("these are linked: {}", known.join(", "))));
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
        let env = Env { http: outbound.clone(), house: house.clone(), report: Arc::new(report) };
        let method = (method.start)(section, env).await.map_err(|error| Failure::usage(error.to_string()))?;
        tracing::info!(method = name, uri = method.entry().uri, "the method is ready");
        started.push(method);
    }
    if started.is_empty() {
        return Err(Failure::usage("every delivery method is switched off: nothing could be delivered"));
    }
    Ok(started)
}

fn report(event: CarrierEvent) {
    match event {
        CarrierEvent::Up { carrier } => tracing::info!(%carrier, "the carrier is there"),
        CarrierEvent::Down { carrier, cause } => {
            tracing::warn!(%carrier, code = cause.code, "the carrier is not there")
        }
    }
}

/// Puts the declared streams in force.
///
/// # Errors
/// When one of them is not acceptable; then none of them is changed.
async fn declare(router: &Router, config: &Config, force: bool) -> Result<(), Failure> {
    let mut declared = config.streams.clone();
    for stream in &mut declared {
        resolve(&mut stream.delivery.terms, &format!("streams.{}.delivery", stream.id))?;
        resolve(&mut stream.grant, &format!("streams.{}.grant", stream.id))?;
    }
    let done = router.reconcile(declared, force).await.map_err(|error| match error {
        router::ReconcileError::Store(error) => Failure::new(Exit::Store, error.to_string()),
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

/// What both doors are made from.
struct Routes<'a> {
    config: &'a Config,
    router: &'a Router,
    guard: Arc<Guard>,
    kept: &'a Kept,
    house: &'a House,
}

impl Routes<'_> {
    /// The routes of the operator door. Its keys live as long as the door.
    fn operator(&self, listener: &Listener, ready: &Arc<AtomicBool>) -> axum::Router {
        let Routes { config, router, guard, kept, house } = self;
        let of =
            |issuer: &Issuer| KeysOf { issuer: issuer.url.clone(), no: issuer.no, keyring: issuer.keyring.clone() };
        let keys = Keys::start(KeysParts {
            house: (*house).clone(),
            store: kept.store.clone(),
            kek: kept.kek.clone(),
            rotation: config.keys.rotation(),
            issuers: router.issuers().iter().map(of).collect(),
        });
        let (ready, registry) = (ready.clone(), kept.registry.clone());
        control::operator(OperatorParts {
            operate: Arc::new((*router).clone()),
            keys,
            guard: Arc::new(AdminGuard::new(&kept.admin)),
            producers: guard.clone(),
            config: config.operator.clone(),
            address: listener.address(),
            // Store and keys are there whenever a door is; what receivers do is no matter of readiness (hardening H33).
            ready: Arc::new(
                move || if ready.load(Ordering::SeqCst) { Ok(()) } else { Err("it is closing".to_owned()) },
            ),
            metrics: Arc::new(move || registry.text()),
        })
    }

    /// The routes of the door for the world.
    ///
    /// # Errors
    /// When an issuer's URL cannot be served.
    fn world(&self) -> Result<axum::Router, Failure> {
        let Routes { config, router, guard, kept, house } = self;
        let methods: Vec<String> = router.methods().iter().map(|method| method.uri.to_owned()).collect();
        let max_age = config.keys.rotation().max_age;
        let published = router
            .issuers()
            .iter()
            .map(|issuer| {
                let url = IssuerUrl::parse(&issuer.url).map_err(|error| Failure::usage(error.to_string()))?;
                Ok(PublishedIssuer::new(url, issuer.keyring.clone(), max_age, methods.clone()))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let discovery = discovery::routes(published).map_err(|error| Failure::usage(error.to_string()))?;
        let intake = control::world(WorldParts {
            issuers: Intake::of(router),
            guard: guard.clone(),
            config: config.intake.clone(),
            house: (*house).clone(),
            observed: control::Observed::register(&kept.registry),
        })
        .map_err(|error| Failure::usage(error.to_string()))?;
        Ok(discovery.merge(intake))
    }
}
