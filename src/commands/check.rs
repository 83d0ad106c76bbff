//! `setgate check`: validates the configuration and shows the options in force.
mod connect;

use std::{net::SocketAddr, path::Path, sync::Arc};

use serde::Serialize;
use setgate_cli::{Align, Cell, Context, Ended, Exit, Failure, Table, args::CheckArgs};
use setgate_delivery::{
    About, Initiator,
    spi::{AnyChannel, AnyMethod},
};

use super::configuration;
use crate::{
    config::{self, Config, Effective},
    gateway::{absent, assemble, certificates, holder::Holder, listeners, sources},
    state::{self, Looked},
};

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: String,
    good: bool,
    remedy: String,
    /// The exit with which a start fails because of this finding; `None` if a start would go on.
    #[serde(skip)]
    ends: Option<Exit>,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { what: what.into(), good: true, remedy: String::new(), ends: None }
    }

    /// Creates a finding that does not prevent a start.
    fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), good: false, remedy: remedy.into(), ends: None }
    }
}

/// Converts a failure that would end a start into a finding.
impl From<Failure> for Finding {
    fn from(Failure { exit, message, remedy }: Failure) -> Self {
        Self { what: message, good: false, remedy: remedy.unwrap_or_default(), ends: Some(exit) }
    }
}

impl From<setgate_delivery::Finding> for Finding {
    fn from(setgate_delivery::Finding { what, good, remedy }: setgate_delivery::Finding) -> Self {
        Self { what, good, remedy, ends: None }
    }
}

/// A stream that a method is ready to serve.
struct Served<'a> {
    stream: &'a setgate_router::Declared,
    channel: Arc<dyn AnyChannel>,
}

impl Served<'_> {
    /// Returns whether the stream waits for its receiver to connect.
    fn waits_for_receivers(&self) -> bool {
        self.channel.profile().initiator == Initiator::Receiver
    }
}

#[derive(Serialize)]
struct Report<'a> {
    good: bool,
    findings: &'a [Finding],
    options: &'a [Effective],
}

/// Validates the configuration without starting; a fault that would end a start ends this command with the same exit
/// code.
pub(crate) async fn run(context: &Context, args: CheckArgs) -> Ended {
    let loaded = configuration::load(context, false)?;
    let mut findings = Vec::new();
    // The checks run in the order of a start, so that of several faults the same one decides the exit code.
    kept(&loaded.config, &mut findings);
    listeners(&loaded.config, context.runtime.clock.wall_millis() / 1000, &mut findings);
    match rooms(context, &args, &loaded.config, &mut findings).await {
        Ok(()) => {}
        Err(failure) if findings.iter().all(|finding| finding.ends.is_none()) => return Err(failure),
        Err(failure) => findings.push(failure.into()),
    }
    let options = config::effective(&loaded);
    let good = findings.iter().all(|finding| finding.good);
    context.out.value(&Report { good, findings: &findings, options: &options });
    print(context, &findings, &options);
    let ends = findings.iter().find_map(|finding| finding.ends);
    Ok(ends.unwrap_or(if good { Exit::Done } else { Exit::Failed }))
}

/// Checks the sections of methods, sources, streams, producers and receivers.
async fn rooms(
    context: &Context,
    args: &CheckArgs,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let (methods, outbound) = assemble::methods_of(config, &context.runtime).await?;
    // Sources come before streams: no stream may write where a source reads.
    let sources = sources::validate(config, &methods)?;
    let served = streams(config, &methods, findings)?;
    for source in &sources {
        findings.push(Finding::good(format!("source {} ({})", source.name(), source.method().entry().name)));
    }
    producers(config, findings)?;
    egress(&outbound, findings);
    disk(config, findings);
    receivers(config, &served, findings)?;
    if args.connect {
        connect::all(context, &methods, &served, &sources, &outbound, findings).await;
    }
    Ok(())
}

/// Checks keys, tokens and the modes of folders.
fn kept(config: &Config, findings: &mut Vec<Finding>) {
    findings.push(match state::look(config) {
        Ok(Looked::Made(_)) => Finding::good("keys and tokens"),
        Ok(Looked::Nothing) => Finding::good("store and keys: not made yet; `setgate init` makes them"),
        Ok(Looked::Unfinished) => state::not_made("was not finished").into(),
        Err(failure) => failure.into(),
    });
    findings.extend(state::exposed(config).into_iter().map(|exposed| Finding::wrong(exposed.what, exposed.remedy)));
}

fn print(context: &Context, findings: &[Finding], options: &[Effective]) {
    let mut table = Table::new(&[("option", Align::Left), ("value", Align::Left), ("from", Align::Left)]);
    for Effective { key, value, source } in options {
        let style = if source == "default" { anstyle_dim() } else { Default::default() };
        table.row([
            Cell::styled(key.clone(), style),
            Cell::styled(value.clone(), style),
            Cell::styled(source.clone(), style),
        ]);
    }
    context.out.line(table.render());
    context.out.line("");
    for Finding { what, good, remedy, .. } in findings {
        if *good {
            context.out.line(format!("good   {what}"));
        } else {
            context.out.line(format!("WRONG  {what}\n       {remedy}"));
        }
    }
}

fn anstyle_dim() -> setgate_cli::Style {
    setgate_cli::Style::new().dimmed()
}

/// Checks each stream with its method, and returns the streams that are served.
fn streams<'a>(
    config: &'a Config,
    methods: &[Arc<dyn AnyMethod>],
    findings: &mut Vec<Finding>,
) -> Result<Vec<Served<'a>>, Failure> {
    let mut served = Vec::new();
    for stream in &config.streams {
        let what = format!("stream {} ({})", stream.id, stream.delivery.method);
        let Some(method) = setgate_delivery::find(methods, &stream.delivery.method) else {
            let known = methods.iter().map(|method| method.entry().name);
            let remedy = format!("there is no such method; {}", absent::remedy(&stream.delivery.method, known));
            findings.push(Finding { ends: Some(Exit::Usage), ..Finding::wrong(what, remedy) });
            continue;
        };
        let (mut terms, mut grant) = (stream.delivery.terms.clone(), stream.grant.clone());
        config::resolve(&mut terms, &format!("streams.{}.delivery", stream.id))?;
        config::resolve(&mut grant, &format!("streams.{}.grant", stream.id))?;
        let about = About { stream: stream.id.shared(), issuer: stream.issuer.as_str().into(), operator_owned: true };
        match method.channel(&about, terms, grant) {
            Ok(channel) => {
                served.push(Served { stream, channel });
                findings.push(Finding::good(what));
            }
            Err(fault) => {
                findings.push(Finding { ends: Some(Exit::Usage), ..Finding::wrong(what, fault.to_string()) });
            }
        }
    }
    Ok(served)
}

/// Checks whether the listeners can be opened, and when their certificates expire.
fn listeners(config: &Config, now: u64, findings: &mut Vec<Finding>) {
    for (key, address, files) in listeners::of(&config.listen) {
        let listener = key.rsplit('.').next().unwrap_or(key);
        match config.listen.listener(files).certificate() {
            Ok(None) => {}
            Ok(Some(_)) => findings.extend(files.certificate.as_deref().map(|file| certificate(listener, file, now))),
            Err(error) => findings.push(listeners::refused(key, error).into()),
        }
        findings.push(match std::net::TcpListener::bind(address) {
            Ok(_) => Finding::good(format!("the {listener} listener can be opened at {address}")),
            Err(source) => address_taken(listener, key, address, source),
        });
    }
}

/// Reports an address that is in use.
///
/// An address in use by a process of the same name, or by one that cannot be identified, is no fault: a gateway that
/// runs with this configuration holds its own addresses.
fn address_taken(listener: &str, key: &str, address: SocketAddr, source: std::io::Error) -> Finding {
    if source.kind() == std::io::ErrorKind::AddrInUse {
        let holder = Holder::of(address);
        if holder.as_ref().is_none_or(Holder::is_alike) {
            let who = holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
            return Finding::good(format!(
                "the {listener} listener at {address}: {who} has it, fine if it is this gateway"
            ));
        }
    }
    listeners::refused(key, setgate_net::NetError::Listen { address, source }).into()
}

fn certificate(listener: &str, file: &Path, now: u64) -> Finding {
    match setgate_net::chain_ends(file) {
        Ok(end) => {
            let days = certificates::days_left(end, now);
            let what = if end > now {
                format!("certificate of the {listener} listener: {days} days left")
            } else {
                format!("certificate of the {listener} listener: it has ended")
            };
            let remedy = format!("replace {}; it is read again when it changes", file.display());
            Finding { what, good: days >= certificates::DAYS_AHEAD, remedy, ends: None }
        }
        Err(error) => Finding::wrong(format!("certificate of the {listener} listener"), error.to_string()),
    }
}

/// Reports the egress proxy, if there is one, and whether the address guard or the proxy checks names.
fn egress(outbound: &setgate_net::Outbound, findings: &mut Vec<Finding>) {
    let Some(egress) = outbound.egress() else { return };
    let guard = if egress.resolves() {
        "it resolves names: ITS RULES ARE THE ONLY GUARD against names that lead inside"
    } else {
        "names are resolved and checked here"
    };
    findings.push(Finding::good(format!("egress proxy {egress}; {guard}")));
}

/// Checks whether the limits of the store fit the disk that it lies on.
fn disk(config: &Config, findings: &mut Vec<Finding>) {
    findings.push(match state::misfit(config) {
        Some((what, remedy)) => Finding::wrong(what, remedy),
        None => Finding::good(format!("room for the store in {}", config.store.path.display())),
    });
}

fn producers(config: &Config, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let issuers: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    setgate_oauth::Guard::check(&config.producers, &issuers).map_err(|error| Failure::usage(error.to_string()))?;
    for producer in &config.producers {
        findings.push(Finding::good(format!("producer {}", producer.name)));
    }
    if config.producers.is_empty() && config.sources.is_empty() {
        let remedy = "there is none: nobody can put events in; `setgate producers new` makes one";
        findings.push(Finding::wrong("producers", remedy));
    }
    Ok(())
}

/// Checks receivers, and reports streams that no receiver may open.
fn receivers(config: &Config, served: &[Served<'_>], findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let issuers: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    let receivers =
        setgate_oauth::Receiver::all(&config.receivers, &issuers).map_err(|error| Failure::usage(error.to_string()))?;
    for receiver in &receivers {
        let what = match receiver.streams() {
            setgate_oauth::StreamsAllowed::All => format!("receiver {} (all streams)", receiver.name),
            setgate_oauth::StreamsAllowed::Exact(ids) => {
                let ids: Vec<_> = ids.iter().map(AsRef::as_ref).collect();
                format!("receiver {} ({})", receiver.name, ids.join(", "))
            }
        };
        findings.push(Finding::good(what));
    }
    for stream in served.iter().filter(|served| served.waits_for_receivers()).map(|served| served.stream) {
        if !receivers.iter().any(|receiver| receiver.may_open(&stream.issuer, stream.id.as_str())) {
            findings.push(Finding::wrong(
                format!("receivers of the stream {}", stream.id),
                format!(
                    "there is none: its SETs wait for somebody who cannot come; `setgate receivers new NAME --issuer {} --stream {}` makes one",
                    stream.issuer, stream.id
                ),
            ));
        }
    }
    Ok(())
}
