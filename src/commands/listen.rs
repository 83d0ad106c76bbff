//! `setgate listen`: a receiver that prints the SETs that it gets.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use setgate_cli::{Context, Ended, Exit, Failure, args::ListenArgs};
use setgate_clock::Runtime;
use setgate_delivery::{BoxFuture, Env, Json, spi::AnyMethod};
use setgate_discovery::{Fetcher, IssuerUrl};
use setgate_jose::AllowedAlgorithms;
use setgate_net::{Listener, Outbound, OutboundConfig, OwnAddresses, Secret, SecretRef, TlsPolicy};
use setgate_receiver::{Collect, Inbox, Listen, ListenError, ListenIngest, Misbehave, Report, Sink, Trust, Verify};
use tokio::sync::watch;

use super::signals::Signals;
use crate::gateway::absent;

/// Receives SETs until it is stopped or has as many as `--count` says.
pub(crate) async fn run(context: &Context, args: ListenArgs) -> Ended {
    let runtime = context.runtime.clone();
    let issuers = issuers(context, &args.issuer)?;
    if args.count == Some(0) {
        return Err(Failure::usage("--count: write 1 or more"));
    }
    let misbehave = Misbehave::parse(&args.fail, &args.refuse, args.delay.as_deref(), runtime.random.clone())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let authorization = match &args.authorization {
        Some(value) => Some(
            SecretRef::from(value.clone())
                .load()
                .map_err(|error| Failure::usage(format!("--authorization: {error}")))?,
        ),
        None => None,
    };
    let http = way_out(&runtime, args.ca.clone())?;
    let method = method(&args.method, &http, &runtime).await?;
    let trust = Arc::new(Trust::new(&issuers, AllowedAlgorithms::ALL, fetcher(&http, &runtime)));
    let verify = Verify::new(trust.clone(), args.audience.clone(), Verify::SKEW, runtime.clock.clone());
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let sink = sink(context.out.is_json(), args.count, stop.clone());
    let ingest = Arc::new(ListenIngest::new(verify, Inbox::new(Inbox::CAPACITY), misbehave, sink, runtime.clone()));
    let serve: BoxFuture<'_, Result<(), ListenError>> = if method.receive_routes().is_some() {
        waits(&args)?;
        let listener = Listener::bind(args.at).await.map_err(|error| Failure::failed(format!("--at: {error}")))?;
        context.out.note(format!("listening on http://{}/ for SETs of {}", listener.address(), args.issuer.join(", ")));
        Box::pin(
            Listen { method, listener, ingest: ingest.clone(), issuers, trust, authorization, runtime }.serve(stopped),
        )
    } else {
        let (from, endpoint) = asks(context, &args, authorization, method.entry().name)?;
        context.out.note(format!("asking {endpoint} for SETs of {}", args.issuer.join(", ")));
        Box::pin(Collect { method, from, ingest: ingest.clone(), issuers, trust, runtime }.serve(stopped))
    };

    let mut signals = Signals::new()?;
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
    let counts = ingest.counts();
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
        ListenError::NotAListener(_) | ListenError::NotACollector(_) => Failure::usage(error.to_string()),
        ListenError::TurnedAway(_) => Failure::new(Exit::Refused, error.to_string())
            .remedy("the stream, its receiver and the token must belong together: `setgate receivers new` makes one"),
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

/// Refuses the options of collecting for a method that waits for the transmitter.
fn waits(args: &ListenArgs) -> Result<(), Failure> {
    let given = [args.stream.is_some(), args.endpoint.is_some(), args.token_file.is_some()];
    match given.iter().zip(["--stream", "--endpoint", "--token-file"]).find(|(given, _)| **given) {
        None => Ok(()),
        Some((_, option)) => Err(Failure::usage(format!("`{}` waits for the transmitter at --at", args.method))
            .remedy(format!("leave {option} out, or choose a method that asks: poll, websocket, pushpull"))),
    }
}

/// Returns the terms with which a method collects, and the endpoint.
fn asks(
    context: &Context,
    args: &ListenArgs,
    authorization: Option<Secret<String>>,
    method: &str,
) -> Result<(Json, String), Failure> {
    let token = args.token_file.as_deref().map(|file| setgate_cli::read_token(context.out, file)).transpose()?;
    let authorization = match (token, authorization) {
        (Some(_), Some(_)) => return Err(Failure::usage("--token-file and --authorization exclude each other")),
        (Some(token), None) => Some(format!("Bearer {}", token.expose())),
        (None, authorization) => authorization.map(|value| value.expose().clone()),
    };
    let endpoint = match (&args.endpoint, &args.stream, args.issuer.as_slice()) {
        (Some(endpoint), ..) => endpoint.clone(),
        (None, Some(stream), [issuer]) => format!("{}/{method}/{stream}", issuer.trim_end_matches('/')),
        (None, Some(_), _) => {
            return Err(Failure::usage("with several issuers, --stream does not say whose").remedy("give --endpoint"));
        }
        (None, None, _) => {
            return Err(Failure::usage(format!("`{}` asks the transmitter: for which stream?", args.method))
                .remedy("give --stream and --token-file; `setgate receivers new` makes a token"));
        }
    };
    let mut from = serde_json::Map::from_iter([("endpoint_url".to_owned(), endpoint.clone().into())]);
    if let Some(authorization) = authorization {
        from.insert("authorization_header".to_owned(), authorization.into());
    }
    // No more SETs are asked for than are counted: the others stay with the transmitter for other receivers.
    match (method, args.count) {
        ("poll", Some(count)) => from.insert("max_events".to_owned(), count.min(100).into()),
        ("websocket", Some(count)) => from.insert("credit".to_owned(), count.min(256).into()),
        _ => None,
    };
    if args.method == PUSH_PULL {
        from.insert("transport".to_owned(), "http".into());
        from.insert("poll_interval".to_owned(), "1s".into());
    }
    Ok((from.into(), endpoint))
}

/// The name for push-pull over HTTP: the WebSocket method's other binding, on the same URL.
const PUSH_PULL: &str = "pushpull";

/// Returns a sink that prints each report and stops after `count` accepted SETs.
///
/// A further SET is answered with an error, so that it is delivered again to the next consumer.
fn sink(json: bool, count: Option<u64>, stop: Arc<watch::Sender<bool>>) -> Sink {
    let taken = Mutex::new(0);
    Arc::new(move |report: &Report| {
        let line = if json { setgate_receiver::json_line(report) } else { setgate_receiver::line(report) };
        let counts = matches!(report, Report::Taken(_) | Report::Discarded(_));
        let mut taken = taken.lock();
        if counts && count.is_some_and(|count| *taken >= count) {
            return Err(io::Error::other("as many were taken as --count says"));
        }
        // A SET that cannot be printed is not acknowledged: the transmitter sends it again.
        writeln!(io::stdout().lock(), "{line}")?;
        *taken += u64::from(counts);
        if count.is_some_and(|count| *taken >= count) {
            stop.send_replace(true);
        }
        Ok(())
    })
}

/// Creates an outbound client without the address guard: the person at the terminal names the issuer, and nobody else
/// can name another.
///
/// # Errors
/// Returns a failure when a certificate authority cannot be read.
pub(crate) fn way_out(runtime: &Runtime, ca_files: Vec<PathBuf>) -> Result<Outbound, Failure> {
    let everywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok()).collect();
    let config = OutboundConfig { allow_networks: everywhere, allow_http: true, ca_files, ..OutboundConfig::default() };
    Outbound::new(&config, runtime.clone(), OwnAddresses::new()).map_err(|error| Failure::usage(error.to_string()))
}

/// Creates a fetcher of metadata and keys.
pub(crate) fn fetcher(http: &Outbound, runtime: &Runtime) -> Fetcher {
    Fetcher::new(http.client(&TlsPolicy::default()), runtime.clone())
}

/// Starts one method with its defaults.
///
/// # Errors
/// Returns a failure when there is no such method or it cannot be started.
pub(crate) async fn method(name: &str, http: &Outbound, runtime: &Runtime) -> Result<Arc<dyn AnyMethod>, Failure> {
    let linked = setgate_delivery::methods().map_err(|error| Failure::failed(error.to_string()))?;
    let name = if name == PUSH_PULL { "websocket" } else { name };
    let called =
        |entry: &setgate_delivery::Entry| entry.name == name || entry.uri == name || entry.aliases.contains(&name);
    let Some(found) = linked.iter().find(|method| called(&method.entry)) else {
        let known = linked.iter().map(|method| method.entry.name).chain([PUSH_PULL]);
        return Err(
            Failure::usage(format!("`{name}` is no delivery method of this build")).remedy(absent::remedy(name, known))
        );
    };
    let env = Env { http: http.clone(), runtime: runtime.clone(), report: Arc::new(|_| {}) };
    (found.start)(serde_json::json!({}), env).await.map_err(|error| Failure::failed(error.to_string()))
}

/// The interval at which a command polls state of its own process.
pub(crate) const SOON: Duration = Duration::from_millis(20);
