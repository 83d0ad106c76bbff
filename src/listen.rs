//! `setgate listen`: a receiver for people.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cli::{Context, Ended, Exit, Failure, args::ListenArgs};
use clock::House;
use delivery::{Env, spi::AnyMethod};
use discovery::{Fetcher, IssuerUrl};
use jose::AllowedAlgorithms;
use net::{Listener, Outbound, OutboundConfig, OwnAddresses, SecretRef, TlsPolicy};
use receiver::{Inbox, Listen, ListenError, ListenInlet, Misbehave, Report, Sink, Trust, Verify};
use tokio::sync::watch;

use crate::serve::Signals;

/// Takes SETs until it is told to stop, or has enough.
pub(crate) async fn run(context: &Context, args: ListenArgs) -> Ended {
    let house = context.house.clone();
    let issuers = issuers(context, &args.issuer)?;
    let misbehave = Misbehave::parse(&args.fail, &args.refuse, args.delay.as_deref(), house.random.clone())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let authorization = match &args.authorization {
        Some(value) => Some(
            SecretRef::from(value.clone())
                .load()
                .map_err(|error| Failure::usage(format!("--authorization: {error}")))?,
        ),
        None => None,
    };
    let http = way_out(&house, args.ca.clone())?;
    let method = method(&args.method, &http, &house).await?;
    let trust = Arc::new(Trust::new(&issuers, AllowedAlgorithms::ALL, fetcher(&http, &house)));
    let verify = Verify::new(trust.clone(), args.audience.clone(), Verify::SKEW, house.clock.clone());
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let sink = sink(context.out.is_json(), args.count, stop.clone());
    let inlet = Arc::new(ListenInlet::new(verify, Inbox::new(Inbox::CAPACITY), misbehave, sink, house.clone()));
    let door = Listener::bind(args.at).await.map_err(|error| Failure::failed(format!("--at: {error}")))?;
    context.out.note(format!("listening on http://{}/ for SETs of {}", door.address(), args.issuer.join(", ")));
    let listen = Listen { method, door, inlet: inlet.clone(), issuers, trust, authorization, house };

    let mut signals = Signals::new()?;
    let serve = listen.serve(stopped);
    tokio::pin!(serve);
    let ended = tokio::select! {
        ended = &mut serve => ended,
        () = signals.wait() => {
            stop.send_replace(true);
            match signals.race(&mut serve).await {
                Some(ended) => ended,
                None => return Ok(Exit::Failed),
            }
        }
    };
    let counts = inlet.counts();
    if context.out.is_json() {
        context.out.value(&serde_json::json!({"report": "ended", "counts": counts}));
    } else {
        let refused: u64 = counts.refused.values().sum();
        context.out.note(format!(
            "{} taken, {} duplicates, {} refused, {} refused on purpose, {} failed on purpose, {} put off",
            counts.taken, counts.duplicates, refused, counts.refused_on_purpose, counts.failed, counts.put_off
        ));
    }
    ended.map_err(|error| match error {
        ListenError::NotAListener(_) => Failure::usage(error.to_string()),
        error => Failure::new(Exit::Unreachable, error.to_string()),
    })?;
    Ok(if counts.changed > 0 { Exit::Failed } else { Exit::Done })
}

fn issuers(context: &Context, urls: &[String]) -> Result<Vec<IssuerUrl>, Failure> {
    urls.iter()
        .map(|url| {
            let issuer = IssuerUrl::parse(url).map_err(|error| Failure::usage(format!("--issuer: {error}")))?;
            if !issuer.is_https() {
                context.out.warn(format!("{url} is not https: whoever is on the way can forge its keys"));
            }
            Ok(issuer)
        })
        .collect()
}

/// Prints each report, and stops when `count` SETs were taken.
fn sink(json: bool, count: Option<u64>, stop: Arc<watch::Sender<bool>>) -> Sink {
    let taken = AtomicU64::new(0);
    Arc::new(move |report: &Report| {
        let line = if json { receiver::json_line(report) } else { receiver::line(report) };
        // What cannot be printed was not taken: the transmitter sends it again.
        writeln!(io::stdout().lock(), "{line}")?;
        if matches!(report, Report::Taken(_) | Report::Discarded(_))
            && count.is_some_and(|count| taken.fetch_add(1, Ordering::SeqCst) + 1 >= count)
        {
            stop.send_replace(true);
        }
        Ok(())
    })
}

/// A way out without the address guard: the person at the terminal named the issuer, and no stranger can name another.
///
/// # Errors
/// When a certificate authority cannot be read.
pub(crate) fn way_out(house: &House, ca_files: Vec<PathBuf>) -> Result<Outbound, Failure> {
    let everywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok()).collect();
    let config = OutboundConfig { allow_networks: everywhere, allow_http: true, ca_files, ..OutboundConfig::default() };
    Outbound::new(&config, house.clone(), OwnAddresses::new()).map_err(|error| Failure::usage(error.to_string()))
}

/// A fetcher of metadata and keys.
pub(crate) fn fetcher(http: &Outbound, house: &House) -> Fetcher {
    Fetcher::new(http.client(&TlsPolicy::default()), house.clone())
}

/// Starts one method with its defaults.
///
/// # Errors
/// When there is no such method.
pub(crate) async fn method(name: &str, http: &Outbound, house: &House) -> Result<Arc<dyn AnyMethod>, Failure> {
    let linked = delivery::methods().map_err(|error| Failure::failed(error.to_string()))?;
    let called = |entry: &delivery::Entry| entry.name == name || entry.uri == name || entry.aliases.contains(&name);
    let Some(found) = linked.iter().find(|method| called(&method.entry)) else {
        let known: Vec<_> = linked.iter().map(|method| method.entry.name).collect();
        return Err(Failure::usage(format!("`{name}` is no delivery method of this build"))
            .remedy(format!("these are: {}", known.join(", "))));
    };
    let env = Env { http: http.clone(), house: house.clone(), report: Arc::new(|_| {}) };
    (found.start)(serde_json::json!({}), env).await.map_err(|error| Failure::failed(error.to_string()))
}

/// How long a receiver waits between two looks at something of its own.
pub(crate) const SOON: Duration = Duration::from_millis(20);
