//! The listeners: opened, given their routes, served and closed.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use setgate_cli::{Exit, Failure};
use setgate_clock::Runtime;
use setgate_control::{Intake, Keys, KeysOf, KeysParts, OperatorParts, Sources, WorldParts};
use setgate_discovery::{IssuerUrl, PublishedIssuer};
use setgate_jose::KeyState;
use setgate_net::{Listener, NetError};
use setgate_oauth::{AdminGuard, Guard};
use setgate_router::{Issuer, Router};
use tokio::sync::watch;

use super::holder::Holder;
use crate::{
    config::{Config, ListenSection, TlsFiles},
    sessions::Sessions,
    state::OpenState,
};

/// Both listeners, open and not yet served.
#[derive(Debug)]
pub struct Listeners {
    /// The public listener.
    pub world: Listener,
    /// The admin listener.
    pub operator: Listener,
}

impl Listeners {
    /// Opens both listeners as configured.
    ///
    /// # Errors
    /// Returns a failure when an address is taken or a certificate cannot be used.
    pub async fn open(config: &Config) -> Result<Self, Failure> {
        let listen = &config.listen;
        let [world, operator] = of(listen).map(|(key, address, files)| async move {
            Listener::open(address, &listen.listener(files)).await.map_err(|error| refused(key, error))
        });
        Ok(Self { world: world.await?, operator: operator.await? })
    }
}

/// Returns option, address and certificate of both listeners.
pub(crate) fn of(listen: &ListenSection) -> [(&'static str, SocketAddr, &TlsFiles); 2] {
    [("listen.public", listen.public, &listen.public_tls), ("listen.admin", listen.admin, &listen.admin_tls)]
}

/// Describes why a listener does not open, with the remedy.
pub(crate) fn refused(key: &str, error: NetError) -> Failure {
    let failure = |exit| Failure::new(exit, format!("{key}: {error}"));
    match &error {
        NetError::Listen { address, source } => {
            let remedy = match source.kind() {
                ErrorKind::AddrInUse => match Holder::of(*address) {
                    Some(holder) => format!("{holder} listens there: stop it, or write another address as `{key}`"),
                    None => format!("another process listens there: stop it, or write another address as `{key}`"),
                },
                ErrorKind::PermissionDenied => {
                    format!("ports below 1024 need the right CAP_NET_BIND_SERVICE: grant it, or write another port as `{key}`")
                }
                _ => format!("write an address of this machine as `{key}`; 0.0.0.0 and [::] are all of them"),
            };
            failure(Exit::Address).remedy(remedy)
        }
        NetError::Option { .. } => failure(Exit::Usage).remedy(format!("see [{key}_tls]: both files, or none")),
        _ => failure(Exit::Secrets).remedy(format!(
            "[{key}_tls] names two PEM files that the user that runs setgate may read: the chain, and the key that belongs to it"
        )),
    }
}

/// A listener that is served.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    quiet: watch::Receiver<bool>,
    ended: watch::Receiver<bool>,
}

impl Running {
    /// Stops accepting connections, and waits for requests under way except those of sessions.
    pub(crate) async fn shut(&self, runtime: &Runtime, within: Duration) {
        self.stop.send_replace(true);
        self.wait(self.quiet.clone(), runtime, within).await;
    }

    /// Stops accepting connections, and waits until all of them are closed.
    pub(crate) async fn close(&self, runtime: &Runtime, within: Duration) {
        self.stop.send_replace(true);
        self.wait(self.ended.clone(), runtime, within).await;
    }

    async fn wait(&self, mut what: watch::Receiver<bool>, runtime: &Runtime, within: Duration) {
        tokio::select! {
            _ = what.wait_for(|so| *so) => {}
            () = runtime.clock.sleep(within) => tracing::debug!(listener = %self.address, "requests under way were cut"),
        }
    }
}

/// Serves a listener until it is closed.
pub(crate) fn serve(listener: Listener, app: axum::Router, runtime: &Runtime, name: &'static str) -> Running {
    let (address, quiet) = (listener.address(), listener.quiet());
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let work = listener.serve(app, stopped, runtime.clone());
    runtime.spawn(name, async move {
        work.await;
        end.send_replace(true);
    });
    Running { address, stop, quiet, ended }
}

/// The parts that the routes of both listeners are made from.
pub(crate) struct Routes<'a> {
    pub(crate) config: &'a Config,
    pub(crate) router: &'a Router,
    pub(crate) guard: Arc<Guard>,
    pub(crate) sessions: Sessions,
    pub(crate) sources: Arc<Sources>,
    pub(crate) observed: setgate_control::Observed,
    pub(crate) kept: &'a OpenState,
    pub(crate) runtime: &'a Runtime,
}

impl Routes<'_> {
    /// Returns the routes of the admin listener. Its keys live as long as the listener.
    pub(crate) fn operator(&self, listener: &Listener, ready: &Arc<AtomicBool>) -> axum::Router {
        let Routes { config, router, guard, sources, kept, runtime, .. } = self;
        let of =
            |issuer: &Issuer| KeysOf { issuer: issuer.url.clone(), no: issuer.no, keyring: issuer.keyring.clone() };
        let keys = Keys::start(KeysParts {
            runtime: (*runtime).clone(),
            store: kept.store.clone(),
            kek: kept.kek.clone(),
            rotation: config.keys.rotation(),
            issuers: router.issuers().iter().map(of).collect(),
        });
        let (ready, registry) = (ready.clone(), kept.registry.clone());
        let issuers = router.issuers().to_vec();
        setgate_control::operator(OperatorParts {
            operate: Arc::new((*router).clone()),
            keys,
            guard: Arc::new(AdminGuard::new(&kept.admin)),
            producers: guard.clone(),
            sources: sources.clone(),
            config: config.admin.clone(),
            address: listener.address(),
            // Receivers do not affect readiness; the listener itself asks the store (hardening H33).
            ready: Arc::new(move || {
                if !ready.load(Ordering::SeqCst) {
                    return Err("it is closing".to_owned());
                }
                let signs =
                    |issuer: &Issuer| issuer.keyring.ring().describe().iter().any(|key| key.state == KeyState::Current);
                if issuers.iter().any(signs) {
                    return Ok(());
                }
                Err("no issuer has a key that signs; `setgate keys import` brings one".to_owned())
            }),
            metrics: Arc::new(move || registry.text()),
        })
    }

    /// Returns the routes of the public listener.
    ///
    /// # Errors
    /// Returns a failure when an issuer's URL cannot be served.
    pub(crate) fn world(&self) -> Result<axum::Router, Failure> {
        let Routes { config, router, guard, sessions, observed, runtime, .. } = self;
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
        let discovery = setgate_discovery::routes(published).map_err(|error| Failure::usage(error.to_string()))?;
        let intake = setgate_control::world(WorldParts {
            issuers: Intake::of(router),
            guard: guard.clone(),
            config: config.intake.clone(),
            runtime: (*runtime).clone(),
            observed: observed.clone(),
        })
        .map_err(|error| Failure::usage(error.to_string()))?;
        Ok(sessions.mount(discovery.merge(intake)))
    }
}
