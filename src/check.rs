//! `setgate check`: is the configuration sound, and what is in force?

#[path = "check_connect.rs"]
mod connect;

use std::sync::Arc;

use cli::{Align, Cell, Context, Ended, Exit, Failure, Table, args::CheckArgs};
use delivery::{
    About, Voice,
    spi::{AnyLine, AnyMethod},
};
use serde::Serialize;

use crate::{
    assemble, certificates,
    config::{self, Config, Effective},
    opening, serve, sources,
};

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: String,
    good: bool,
    remedy: String,
}

impl From<delivery::Finding> for Finding {
    fn from(delivery::Finding { what, good, remedy }: delivery::Finding) -> Self {
        Self { what, good, remedy }
    }
}

/// A stream that a method is ready to serve.
struct Served<'a> {
    stream: &'a router::Declared,
    line: Arc<dyn AnyLine>,
}

impl Served<'_> {
    /// Whether its receiver has to come.
    fn is_visited(&self) -> bool {
        self.line.profile().voice == Voice::Responder
    }
}

#[derive(Serialize)]
struct Report<'a> {
    good: bool,
    findings: &'a [Finding],
    options: &'a [Effective],
}

/// Validates without starting.
pub(crate) async fn run(context: &Context, args: CheckArgs) -> Ended {
    let loaded = serve::load(context, false)?;
    let mut findings = Vec::new();
    let (methods, outbound) = assemble::methods_of(&loaded.config, &context.house).await?;
    // Before streams: none may write where a source takes from.
    let sources = sources::judge(&loaded.config, &methods)?;
    let served = streams(&loaded.config, &methods, &mut findings)?;
    for source in &sources {
        let what = format!("source {} ({})", source.name(), source.method().entry().name);
        findings.push(Finding { what, good: true, remedy: String::new() });
    }
    producers(&loaded.config, &mut findings)?;
    door_certificates(&loaded.config, context.house.clock.wall_millis() / 1000, &mut findings);
    egress(&outbound, &mut findings);
    disk(&loaded.config, &mut findings);
    receivers(&loaded.config, &served, &mut findings)?;
    if args.connect {
        connect::all(context, &methods, &served, &sources, &outbound, &mut findings).await;
    }
    let options = config::effective(&loaded);
    let good = findings.iter().all(|finding| finding.good);
    context.out.value(&Report { good, findings: &findings, options: &options });
    print(context, &findings, &options);
    Ok(if good { Exit::Done } else { Exit::Failed })
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
    for Finding { what, good, remedy } in findings {
        if *good {
            context.out.line(format!("good   {what}"));
        } else {
            context.out.line(format!("WRONG  {what}\n       {remedy}"));
        }
    }
}

fn anstyle_dim() -> cli::Style {
    cli::Style::new().dimmed()
}

/// Asks each method about its streams; tells which of them it serves.
fn streams<'a>(
    config: &'a Config,
    methods: &[Arc<dyn AnyMethod>],
    findings: &mut Vec<Finding>,
) -> Result<Vec<Served<'a>>, Failure> {
    let mut served = Vec::new();
    for stream in &config.streams {
        let what = format!("stream {} ({})", stream.id, stream.delivery.method);
        let Some(method) = delivery::find(methods, &stream.delivery.method) else {
            let known: Vec<_> = methods.iter().map(|method| method.entry().name).collect();
            findings.push(Finding {
                what,
                good: false,
                remedy: format!("there is no such method; these are: {}", known.join(", ")),
            });
            continue;
        };
        let (mut terms, mut grant) = (stream.delivery.terms.clone(), stream.grant.clone());
        config::resolve(&mut terms, &format!("streams.{}.delivery", stream.id))?;
        config::resolve(&mut grant, &format!("streams.{}.grant", stream.id))?;
        let about = About { stream: stream.id.shared(), issuer: stream.issuer.as_str().into(), operator_owned: true };
        match method.line(&about, terms, grant) {
            Ok(line) => {
                served.push(Served { stream, line });
                findings.push(Finding { what, good: true, remedy: String::new() });
            }
            Err(fault) => findings.push(Finding { what, good: false, remedy: fault.to_string() }),
        }
    }
    Ok(served)
}

/// Looks when the doors' certificates end.
fn door_certificates(config: &Config, now: u64, findings: &mut Vec<Finding>) {
    let doors = [("world", &config.listen.world_tls), ("operator", &config.listen.operator_tls)];
    for (door, file) in doors.into_iter().filter_map(|(door, files)| Some((door, files.certificate.as_deref()?))) {
        findings.push(match net::chain_ends(file) {
            Ok(end) => {
                let days = certificates::days_left(end, now);
                let what = if end > now {
                    format!("certificate of the {door} door: {days} days left")
                } else {
                    format!("certificate of the {door} door: it has ended")
                };
                let remedy = format!("replace {}; it is read again when it changes", file.display());
                Finding { what, good: days >= certificates::DAYS_AHEAD, remedy }
            }
            Err(error) => {
                Finding { what: format!("certificate of the {door} door"), good: false, remedy: error.to_string() }
            }
        });
    }
}

/// Says through which proxy everything leaves, and what that means for the address guard.
fn egress(outbound: &net::Outbound, findings: &mut Vec<Finding>) {
    let Some(egress) = outbound.egress() else { return };
    let guard = if egress.resolves() {
        "it resolves names: ITS RULES ARE THE ONLY GUARD against names that lead inside"
    } else {
        "names are resolved and judged here"
    };
    findings.push(Finding { what: format!("egress proxy {egress}; {guard}"), good: true, remedy: String::new() });
}

/// Looks whether the limits of the store fit the disk that it lies on.
fn disk(config: &Config, findings: &mut Vec<Finding>) {
    findings.push(match opening::misfit(config) {
        Some((what, remedy)) => Finding { what, good: false, remedy },
        None => Finding {
            what: format!("room for the store in {}", config.store.path.display()),
            good: true,
            remedy: String::new(),
        },
    });
}

fn producers(config: &Config, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let issuers: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    oauth::Guard::check(&config.producers, &issuers).map_err(|error| Failure::usage(error.to_string()))?;
    for producer in &config.producers {
        findings.push(Finding { what: format!("producer {}", producer.name), good: true, remedy: String::new() });
    }
    if config.producers.is_empty() && config.sources.is_empty() {
        findings.push(Finding {
            what: "producers".to_owned(),
            good: false,
            remedy: "there is none: nobody can put events in; `setgate producers new` makes one".to_owned(),
        });
    }
    Ok(())
}

/// Receivers, and streams that nobody may visit.
fn receivers(config: &Config, served: &[Served<'_>], findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let issuers: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    let receivers =
        oauth::Receiver::all(&config.receivers, &issuers).map_err(|error| Failure::usage(error.to_string()))?;
    for receiver in &receivers {
        let what = match receiver.streams() {
            oauth::StreamsAllowed::All => format!("receiver {} (all streams)", receiver.name),
            oauth::StreamsAllowed::Exact(ids) => {
                let ids: Vec<_> = ids.iter().map(AsRef::as_ref).collect();
                format!("receiver {} ({})", receiver.name, ids.join(", "))
            }
        };
        findings.push(Finding { what, good: true, remedy: String::new() });
    }
    for stream in served.iter().filter(|served| served.is_visited()).map(|served| served.stream) {
        if !receivers.iter().any(|receiver| receiver.may_visit(&stream.issuer, stream.id.as_str())) {
            findings.push(Finding {
                what: format!("receivers of the stream {}", stream.id),
                good: false,
                remedy: format!(
                    "there is none: its SETs wait for somebody who cannot come; `setgate receivers new NAME --issuer {} --stream {}` makes one",
                    stream.issuer, stream.id
                ),
            });
        }
    }
    Ok(())
}
