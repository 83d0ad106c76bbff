//! `setgate demo`: sends the examples of the standards through a gateway on this machine.

mod receiver;

use std::{
    collections::BTreeMap,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value as Json, json};
use setgate_cli::{Align, Context, Ended, Exit, Failure, Style, Table, args::DemoArgs};
use setgate_clock::Runtime;
use setgate_discovery::IssuerUrl;
use setgate_net::{HttpRequest, Listener, Secret, TlsPolicy};

use super::{listen, signals::Signals};
use crate::{
    config::{self, Source},
    gateway::{Gateway, Listeners, Parts},
    state,
};

use receiver::{Arrived, DemoReceiver};

/// The test vectors with the examples of the standards.
const VECTORS: [&str; 2] =
    [include_str!("../../tests/vectors/caep.json"), include_str!("../../tests/vectors/risc.json")];
/// The number of requests that the second receiver answers with 503.
const FAILING: u32 = 4;
/// A stream of the demo and its receiver.
struct Staged {
    id: &'static str,
    audience: &'static str,
    algorithm: &'static str,
    method: &'static str,
    /// Whether only RISC events go to this stream.
    risc_only: bool,
    /// The number of requests that its receiver answers with 503 at first.
    failing: u32,
    what: &'static str,
}

/// The streams of the demo: a receiver for each way of delivery, to reachable and unreachable receivers.
const STREAMS: [Staged; 4] = [
    Staged {
        id: "mail",
        audience: "https://mail.example",
        algorithm: "RS256",
        method: "push",
        risc_only: false,
        failing: 0,
        what: "takes everything",
    },
    Staged {
        id: "payroll",
        audience: "https://payroll.example",
        algorithm: "ES256",
        method: "push",
        risc_only: true,
        failing: FAILING,
        what: "takes RISC only, and answers 503 at first",
    },
    Staged {
        id: "audit",
        audience: "https://audit.example",
        algorithm: "EdDSA",
        method: "poll",
        risc_only: false,
        failing: 0,
        what: "polls: nobody could reach it",
    },
    Staged {
        id: "desk",
        audience: "https://desk.example",
        algorithm: "ES256",
        method: "websocket",
        risc_only: false,
        failing: 0,
        what: "subscribes over a WebSocket",
    },
];

/// An event of the demo.
#[derive(Clone, Debug)]
struct Told {
    id: String,
    kind: String,
    subject: String,
    risc: bool,
    body: Json,
}

/// The delivery of one SET.
#[derive(Clone, Debug, Serialize)]
struct Fate {
    event: String,
    subject: String,
    stream: &'static str,
    method: &'static str,
    attempts: u32,
    jti: String,
    txn: String,
    algorithm: &'static str,
    kid: Option<String>,
    acknowledged_after_ms: u64,
}

/// Runs the demo.
pub(crate) async fn run(context: &Context, args: DemoArgs) -> Ended {
    // Only errors are logged: everything else is in the table.
    let log = setgate_telemetry::LogConfig { level: "error".to_owned(), ..setgate_telemetry::LogConfig::default() };
    setgate_telemetry::start_log(&log).map_err(|error| Failure::failed(error.to_string()))?;
    let mut signals = Signals::new()?;
    let folder = folder(&context.runtime)?;
    let ended = match signals.race(demonstrate(context, &folder, args.clone())).await {
        Some(Ok((gateway, receivers, exit))) => {
            if args.keep {
                how_to_go_on(context, &folder, &gateway);
                signals.wait().await;
            }
            receivers.iter().for_each(DemoReceiver::stop);
            gateway.shutdown(Duration::ZERO, Duration::from_secs(5)).await;
            Ok(exit)
        }
        Some(Err(failure)) => Err(failure),
        None => Err(Failure::failed("interrupted")),
    };
    let removed = std::fs::remove_dir_all(&folder);
    if let Err(error) = removed {
        context.out.warn(format!("{} cannot be removed: {error}", folder.display()));
    }
    ended
}

async fn demonstrate(
    context: &Context,
    folder: &Path,
    args: DemoArgs,
) -> Result<(Gateway, Vec<DemoReceiver>, Exit), Failure> {
    let runtime = context.runtime.clone();
    let bind = || Listener::bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    let open = |error: setgate_net::NetError| Failure::failed(error.to_string());
    let listeners = Listeners { world: bind().await.map_err(open)?, operator: bind().await.map_err(open)? };
    let issuer_url = format!("http://{}", listeners.world.address());
    let issuer = IssuerUrl::parse(&issuer_url).map_err(|error| Failure::failed(error.to_string()))?;

    let http = listen::way_out(&runtime, Vec::new())?;
    let token = setgate_oauth::mint(setgate_oauth::TokenKind::Receiver, &*runtime.random);
    let mut receivers = Vec::new();
    for staged in &STREAMS {
        let method = listen::method(staged.method, &http, &runtime).await?;
        let fetcher = listen::fetcher(&http, &runtime);
        let receiver = DemoReceiver::new(&runtime, fetcher, &issuer, staged.audience, staged.failing);
        receivers.push(match method.receive_routes() {
            Some(routes) => receiver.behind_a_listener(routes).await?,
            None => receiver.that_asks(method, &format!("{issuer_url}/{}/{}", staged.method, staged.id), &token.token),
        });
    }

    let minted = setgate_oauth::mint(setgate_oauth::TokenKind::Producer, &*runtime.random);
    let file = folder.join("setgate.toml");
    let hashes = [minted.hash.to_string(), token.hash.to_string()];
    let text = configuration(&listeners, &issuer_url, &hashes, &receivers);
    let failed =
        |path: &Path, error: std::io::Error| Failure::failed(format!("{} cannot be written: {error}", path.display()));
    std::fs::write(&file, text).map_err(|error| failed(&file, error))?;
    for (name, token) in [("producer.token", &minted.token), ("receiver.token", &token.token)] {
        let file = folder.join(name);
        std::fs::write(&file, token.expose()).map_err(|error| failed(&file, error))?;
    }
    let config = config::load(Source::File(file), false, Vec::new())?.config;
    let kept = state::open(&runtime, &config, true).await?;
    let gateway = Gateway::assemble(Parts { runtime: runtime.clone(), config, kept, listeners, force: false }).await?;
    for receiver in &mut receivers {
        receiver.learn(&runtime, &issuer).await?;
    }
    context.out.note(format!("A gateway at {issuer_url}, its store in {}, and four receivers:", folder.display()));
    for (staged, receiver) in STREAMS.iter().zip(&receivers) {
        let Staged { id, audience, algorithm, method, what, .. } = staged;
        let way = receiver.at.map_or_else(|| format!("by {method}"), |at| format!("pushed to http://{at}/"));
        context.out.note(format!("  {id:<8} {audience}, {algorithm}, {way}: {what}"));
    }

    let events = examples()?;
    let began = runtime.clock.wall_millis();
    let txns = emit(&http, &issuer_url, &minted.token, &events).await?;
    context
        .out
        .note(format!("{} example events of CAEP 1.0 and RISC 1.0 are accepted, durable and owed.\n", events.len()));

    let owed: usize =
        STREAMS.iter().map(|staged| events.iter().filter(|event| event.risc || !staged.risc_only).count()).sum();
    let within = runtime.clock.monotonic() + args.within;
    let whole = loop {
        let streams = gateway.router().streams().await;
        let settled: u64 =
            streams.iter().map(|stream| stream.acknowledged + stream.parked_total + stream.dropped).sum();
        if settled >= owed as u64 {
            break true;
        }
        if runtime.clock.monotonic() > within {
            break false;
        }
        runtime.clock.sleep(listen::SOON).await;
    };
    let fates = fates(&events, &txns, &receivers, began);
    let exit = report(context, &gateway, &fates, &receivers, owed, whole).await;
    Ok((gateway, receivers, exit))
}

/// Creates a folder with mode 0700.
fn folder(runtime: &Runtime) -> Result<PathBuf, Failure> {
    let mut bytes = [0u8; 6];
    runtime.random.fill(&mut bytes);
    let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = std::env::temp_dir().join(format!("setgate-demo-{name}"));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|error| Failure::failed(format!("{} cannot be made: {error}", folder.display())))?;
    Ok(folder)
}

/// Returns a complete configuration, so that every other command works on the demo while it is kept.
fn configuration(listeners: &Listeners, issuer: &str, hashes: &[String; 2], receivers: &[DemoReceiver]) -> String {
    let [producer, receiver] = hashes;
    let mut text = format!(
        "[gateway]\ndev = true\n\n[listen]\npublic = \"{}\"\nadmin = \"{}\"\n\n\
         [store]\npath = \"store\"\nreserve_bytes = 16777216\n\n[secrets]\nfolder = \"secrets\"\n\n\
         [router]\nbackoff_initial = \"200ms\"\n\n\
         [[issuers]]\nurl = \"{issuer}\"\nalgorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\n\n\
         [[producers]]\nname = \"demo\"\ntoken_hashes = [\"{producer}\"]\nissuers = [\"{issuer}\"]\nevents = \"all\"\nsubjects = \"any\"\n\n\
         [[receivers]]\nname = \"demo\"\ntoken_hashes = [\"{receiver}\"]\nissuers = [\"{issuer}\"]\nstreams = \"all\"\n",
        listeners.world.address(),
        listeners.operator.address(),
    );
    for (Staged { id, audience, algorithm, method, risc_only, .. }, receiver) in STREAMS.iter().zip(receivers) {
        let endpoint = receiver.at.map(|at| format!(", endpoint_url = \"http://{at}/\"")).unwrap_or_default();
        text.push_str(&format!(
            "\n[[streams]]\nid = \"{id}\"\nissuer = \"{issuer}\"\naudience = \"{audience}\"\nalgorithm = \"{algorithm}\"\n\
             delivery = {{ method = \"{method}\"{endpoint} }}\n",
        ));
        if *risc_only {
            text.push_str(&format!("events = {}\n", json!(risc_types())));
        }
    }
    text
}

/// Returns the RISC event types of the examples.
fn risc_types() -> Vec<String> {
    let mut types: Vec<String> =
        examples().unwrap_or_default().into_iter().filter(|event| event.risc).map(|event| event.kind).collect();
    types.sort();
    types.dedup();
    types
}

/// Returns the examples of the standards as events, without the claims that the gateway adds.
fn examples() -> Result<Vec<Told>, Failure> {
    let mut all = Vec::new();
    for text in VECTORS {
        let vectors: Vec<Json> = serde_json::from_str(text).map_err(|error| Failure::failed(error.to_string()))?;
        for vector in vectors.iter().filter(|vector| vector.get("kind").and_then(Json::as_str) == Some("set-claims")) {
            let id = vector.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
            let claims = vector.get("value").cloned().unwrap_or_default();
            let (Some(events), Some(sub_id)) = (claims.get("events").and_then(Json::as_object), claims.get("sub_id"))
            else {
                continue;
            };
            let kind = events.keys().next().cloned().unwrap_or_default();
            all.push(Told {
                risc: kind.contains("/risc/"),
                subject: subject(sub_id),
                body: json!({"id": id, "events": events, "sub_id": sub_id}),
                kind,
                id,
            });
        }
    }
    Ok(all)
}

/// Returns a short form of a subject for the table.
fn subject(sub_id: &Json) -> String {
    let Some(members) = sub_id.as_object() else { return String::new() };
    let text = |name: &str| members.get(name).and_then(Json::as_str);
    let short = match text("format").unwrap_or_default() {
        "complex" => {
            let names: Vec<_> = members.keys().filter(|name| *name != "format").map(String::as_str).collect();
            format!("complex: {}", names.join(", "))
        }
        "iss_sub" => text("sub").unwrap_or_default().to_owned(),
        "aliases" => "aliases".to_owned(),
        _ => members
            .iter()
            .filter(|(name, _)| *name != "format")
            .find_map(|(_, value)| value.as_str())
            .unwrap_or_default()
            .to_owned(),
    };
    setgate_telemetry::clean(&short, 36)
}

/// Puts events in over HTTP, and returns the `txn` of each by its id.
async fn emit(
    http: &setgate_net::Outbound,
    issuer: &str,
    token: &Secret<String>,
    events: &[Told],
) -> Result<BTreeMap<String, String>, Failure> {
    use axum::http::{HeaderMap, HeaderValue, Method, header};
    let body: String = events.iter().map(|event| format!("{}\n", event.body)).collect();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    let authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|error| Failure::failed(error.to_string()))?;
    headers.insert(header::AUTHORIZATION, authorization);
    let url =
        format!("{issuer}/events").parse().map_err(|error: url::ParseError| Failure::failed(error.to_string()))?;
    let request =
        HttpRequest { method: Method::POST, url, headers, body: Bytes::from(body), keep_body: 1 << 20, timeout: None };
    let answer =
        http.client(&TlsPolicy::default()).send(request).await.map_err(|error| Failure::failed(error.to_string()))?;
    let mut txns = BTreeMap::new();
    for line in answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let said: Json = serde_json::from_slice(line).unwrap_or_default();
        let text = |name: &str| said.get(name).and_then(Json::as_str).map(str::to_owned);
        match (text("id"), text("txn")) {
            (Some(id), Some(txn)) => {
                txns.insert(id, txn);
            }
            _ => {
                return Err(Failure::failed(format!(
                    "the intake refused an example: {}",
                    String::from_utf8_lossy(line)
                )));
            }
        }
    }
    if txns.len() != events.len() {
        return Err(Failure::failed(format!(
            "{} of {} examples were answered ({})",
            txns.len(),
            events.len(),
            answer.status
        )));
    }
    Ok(txns)
}

/// Returns the delivery of each SET that arrived, in the order of the events.
fn fates(events: &[Told], txns: &BTreeMap<String, String>, receivers: &[DemoReceiver], began: u64) -> Vec<Fate> {
    let arrived: Vec<BTreeMap<String, Arrived>> = receivers.iter().map(DemoReceiver::arrived).collect();
    let mut fates = Vec::new();
    for event in events {
        let Some(txn) = txns.get(&event.id) else { continue };
        for (Staged { id: stream, method, .. }, arrived) in STREAMS.iter().zip(&arrived) {
            let Some(Arrived { received, attempts }) = arrived.get(txn) else { continue };
            let taken = &received.taken;
            // A SET counts only if its events and subject are those that were put in.
            if taken.claims.get("events") != event.body.get("events")
                || taken.claims.get("sub_id") != event.body.get("sub_id")
            {
                continue;
            }
            fates.push(Fate {
                event: event.kind.rsplit('/').next().unwrap_or_default().to_owned(),
                subject: event.subject.clone(),
                stream,
                method,
                attempts: *attempts,
                jti: taken.jti.clone(),
                txn: txn.clone(),
                algorithm: taken.algorithm.name(),
                kid: taken.kid.clone(),
                acknowledged_after_ms: received.at_millis.saturating_sub(began),
            });
        }
    }
    fates
}

async fn report(
    context: &Context,
    gateway: &Gateway,
    fates: &[Fate],
    receivers: &[DemoReceiver],
    owed: usize,
    whole: bool,
) -> Exit {
    let streams = gateway.router().streams().await;
    let refused: Vec<String> = receivers.iter().flat_map(DemoReceiver::refused).collect();
    let good = whole
        && fates.len() == owed
        && refused.is_empty()
        && streams.iter().all(|stream| stream.acknowledged == stream.owed);
    context.out.value(&json!({"good": good, "owed": owed, "sets": fates, "refused": refused, "streams": streams}));

    let mut table = Table::new(&[
        ("event", Align::Left),
        ("subject", Align::Left),
        ("stream", Align::Left),
        ("by", Align::Left),
        ("attempts", Align::Right),
        ("jti", Align::Left),
        ("alg", Align::Left),
        ("acknowledged", Align::Right),
    ]);
    for fate in fates {
        table.row([
            fate.event.clone().into(),
            fate.subject.clone().into(),
            fate.stream.into(),
            fate.method.into(),
            fate.attempts.to_string().into(),
            fate.jti.clone().into(),
            fate.algorithm.into(),
            format!("after {} ms", fate.acknowledged_after_ms).into(),
        ]);
    }
    context.out.line(table.render());
    context.out.line("");
    for stream in &streams {
        context.out.line(format!(
            "{:<8} {} owed = {} acknowledged + {} parked + {} dropped + {} waiting",
            stream.id, stream.owed, stream.acknowledged, stream.parked_total, stream.dropped, stream.waiting
        ));
    }
    for why in &refused {
        context.out.error(setgate_telemetry::clean(why, 512));
    }
    let bold = Style::new().bold();
    if good {
        context.out.line(format!(
            "\n{bold}Every SET was verified by its receiver against the published keys, and acknowledged.{bold:#} Repeats kept their jti."
        ));
        Exit::Done
    } else {
        context.out.error(format!(
            "{} of {owed} SETs arrived as they were sent{}",
            fates.len(),
            if whole { "" } else { " in time" }
        ));
        Exit::Failed
    }
}

fn how_to_go_on(context: &Context, folder: &Path, gateway: &Gateway) {
    let config = folder.join("setgate.toml");
    let issuer = gateway.issuers().first().map(|issuer| issuer.url.to_string()).unwrap_or_default();
    context.out.note(format!(
        "\nThe gateway keeps running until Ctrl-C. In another terminal:\n\n  \
         setgate streams list --config {config}\n  \
         setgate keys list --config {config}\n  \
         setgate emit --issuer {issuer} --token-file {token} --count 1000\n  \
         setgate listen --issuer {issuer} --method websocket --stream desk --token-file {receiver}\n  \
         curl -s {issuer}/.well-known/ssf-configuration\n  \
         curl -s http://{operator}/metrics",
        config = config.display(),
        token = folder.join("producer.token").display(),
        receiver = folder.join("receiver.token").display(),
        operator = gateway.operator(),
    ));
}
