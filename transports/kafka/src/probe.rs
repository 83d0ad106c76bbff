//! The part of `setgate check --connect` that names what is missing at a cluster, a topic or a source, with the command
//! that fixes it.
//!
//! Nothing is written, no topic is created, and no group is joined. The right to write cannot be asked for without
//! writing: a topic that may not even be seen may not be written to, and beyond that the first SET shows it.

mod look;
mod remedy;
mod shape;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use look::{Seen, Topic};
use remedy::Commands;
use setgate_delivery::{Finding, Runtime};
use tokio::task::spawn_blocking;

use crate::{
    cluster::Cluster,
    config::{ClusterSection, From, SaslSection, is_loopback},
    tokens::Tokens,
};

/// The most brokers that are dialled at once.
const AT_ONCE: usize = 8;
/// The most advertised brokers that are dialled.
const MOST: usize = 64;
/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The cluster that is looked at.
#[derive(Clone)]
pub(crate) struct Subject {
    /// The name of the cluster.
    name: Arc<str>,
    /// The options of the cluster.
    section: ClusterSection,
    /// The bearer tokens of the cluster, if it uses any.
    tokens: Option<Arc<Tokens>>,
    /// The runtime, for its clock.
    runtime: Runtime,
}

impl Subject {
    /// Creates a subject that looks at the cluster with clients of its own, and leaves those that carry records alone.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            name: cluster.name().into(),
            section: cluster.section().clone(),
            tokens: cluster.tokens().cloned(),
            runtime: cluster.runtime().clone(),
        }
    }

    fn says(&self, what: &str) -> String {
        format!("kafka/{}: {what}", self.name)
    }

    fn commands(&self) -> Commands<'_> {
        Commands::new(&self.section)
    }

    /// Asks for a token before anything else, since without one every broker would only report that it got none;
    /// returns `None` if the cluster uses no tokens.
    async fn token(&self) -> Option<Finding> {
        let tokens = self.tokens.as_ref()?;
        let asked = tokio::select! {
            asked = tokens.ready() => asked.map_err(|cause| cause.text.to_string()),
            () = self.runtime.clock.sleep(PATIENCE * 3) => Err("the token endpoint does not answer".to_owned()),
        };
        Some(match asked {
            Ok(()) => good(self.says("the token endpoint gives a token")),
            Err(why) => wrong(self.says("a token"), why),
        })
    }

    /// Runs a look on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Self) -> Result<T, Finding> + Send + 'static,
    ) -> Result<T, Finding> {
        let subject = self.clone();
        let done = spawn_blocking(move || look(&subject)).await;
        done.unwrap_or_else(|_| Err(wrong(self.says("looking at it"), "the attempt broke off; try again")))
    }
}

fn good(what: String) -> Finding {
    Finding { what, good: true, remedy: String::new() }
}

fn wrong(what: String, remedy: impl Into<String>) -> Finding {
    Finding { what, good: false, remedy: remedy.into() }
}

/// Looks at each broker of `bootstrap`, and at those that the cluster names itself.
pub(crate) async fn cluster(subject: &Subject) -> Vec<Finding> {
    let token = subject.token().await;
    let lost = token.as_ref().is_some_and(|token| !token.good);
    let mut findings: Vec<_> = token.into_iter().collect();
    if lost {
        return findings;
    }
    let mut answers = false;
    let bootstrap = subject.section.bootstrap.clone();
    for (found, one) in reach(subject, bootstrap.clone(), false).await {
        findings.push(found);
        answers |= one;
    }
    if !answers {
        return findings;
    }
    let listed = match subject.blocking(look::brokers).await {
        Ok(listed) => listed,
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    let names: Vec<_> = listed.iter().map(|(id, address)| format!("{id} at {address}")).collect();
    findings.push(good(subject.says(&format!(
        "{} listed: {}",
        shape::count(listed.len(), "broker", "brokers"),
        names.join(", ")
    ))));
    let known: BTreeSet<_> = bootstrap.into_iter().collect();
    let others = listed.into_iter().map(|(_, address)| address).filter(|address| !known.contains(address));
    let (plain, others): (Vec<_>, Vec<_>) = others.take(MOST).partition(|address| subject.exposes(address));
    for address in plain {
        findings.push(wrong(
            subject.says(&format!("the broker {address}, which the cluster names itself")),
            format!(
                "it is elsewhere, and there is no TLS: records go there in clear. Add `[methods.kafka.clusters.{}.tls]`, \
                 or fix `advertised.listeners` of the broker",
                subject.name
            ),
        ));
    }
    findings.extend(reach(subject, others, true).await.into_iter().map(|(found, _)| found));
    findings
}

impl Subject {
    /// Returns whether records would travel in clear to another machine without the operator's permission.
    fn exposes(&self, address: &str) -> bool {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        self.section.tls.is_none() && !self.section.allow_plaintext && !is_loopback(host)
    }
}

async fn reach(subject: &Subject, brokers: Vec<String>, advertised: bool) -> Vec<(Finding, bool)> {
    let one = |broker: String| async move {
        let how = if advertised { ", which the cluster names itself," } else { "" };
        let asked = broker.clone();
        match subject.blocking(move |subject| look::reach(subject, Some(&asked))).await {
            Ok(Seen { took, .. }) => (
                good(subject.says(&format!("{broker}{how} answers in {} ms{}", took.as_millis(), subject.security()))),
                true,
            ),
            Err(found) => (found, false),
        }
    };
    stream::iter(brokers).map(one).buffered(AT_ONCE).collect().await
}

impl Subject {
    fn security(&self) -> String {
        let tls = match &self.section.tls {
            Some(tls) if tls.certificate_pem.is_some() => " over TLS with our certificate",
            Some(_) => " over TLS",
            None => " WITHOUT TLS",
        };
        let sasl = match &self.section.sasl {
            Some(SaslSection::Plain(_)) => ", known by PLAIN",
            Some(SaslSection::ScramSha256(_)) => ", known by SCRAM-SHA-256",
            Some(SaslSection::ScramSha512(_)) => ", known by SCRAM-SHA-512",
            Some(SaslSection::OauthBearer(_)) => ", known by OAUTHBEARER",
            None => "",
        };
        format!("{tls}{sasl}")
    }
}

/// Looks at the topic that a channel writes to.
pub(crate) async fn topic(subject: &Subject, topic: &str) -> Vec<Finding> {
    if let Some(token) = subject.token().await.filter(|token| !token.good) {
        return vec![token];
    }
    let named = topic.to_owned();
    let found = subject.blocking(move |subject| look::topic(&look::reach(subject, None)?, subject, &named)).await;
    let found = match found {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let Topic::There(shape) = &found else { return vec![written(subject, topic, &found)] };
    let mut findings = shape::assess(subject, topic, shape, look::settings(subject, topic).await);
    findings.push(written(subject, topic, &found));
    findings
}

/// Returns the finding about writing to a topic.
fn written(subject: &Subject, topic: &str, found: &Topic) -> Finding {
    let what = subject.says(&format!("writing to {topic}"));
    let commands = subject.commands();
    match found {
        Topic::There(_) => good(format!(
            "{what}: whether `{}` may shows at the first record; to allow it: {}",
            commands.principal(),
            commands.allow_write(topic)
        )),
        Topic::Absent if subject.section.create_topics.is_some() => {
            good(format!("{what}: it is not there yet, and is made for its first record"))
        }
        Topic::Absent => wrong(what, format!("it is not there: {}", commands.create(topic))),
        Topic::Forbidden => wrong(
            what,
            format!("`{}` may not, or it is not there: {}", commands.principal(), commands.allow_write(topic)),
        ),
        Topic::Unhealthy(why) => wrong(what, why.clone()),
    }
}

/// Looks at the group and the topics that a source collects from.
pub(crate) async fn source(subject: &Subject, from: &From) -> Vec<Finding> {
    if let Some(token) = subject.token().await.filter(|token| !token.good) {
        return vec![token];
    }
    let asked = from.clone();
    match subject.blocking(move |subject| look::source(subject, &asked)).await {
        Ok(seen) => sourced(subject, from, &seen),
        Err(finding) => vec![finding],
    }
}

fn sourced(subject: &Subject, from: &From, seen: &look::SourceFindings) -> Vec<Finding> {
    let commands = subject.commands();
    let mut findings = Vec::new();
    let group = subject.says(&format!("group {}", from.group));
    findings.push(match &seen.group {
        look::Group::Readable => good(group),
        look::Group::Forbidden => {
            wrong(group, format!("`{}` may not use it: {}", commands.principal(), commands.allow_group(&from.group)))
        }
        look::Group::Unhealthy(why) => wrong(group, why.clone()),
    });
    for (topic, found, reading) in &seen.topics {
        let what = subject.says(&format!("topic {topic}"));
        findings.push(match (found, reading) {
            (Topic::There(shape), look::Reading::Allowed) => {
                good(format!("{what}: {}, may be read", shape::count(shape.partitions, "partition", "partitions")))
            }
            (Topic::There(_), look::Reading::Untold) => wrong(
                what,
                "the broker neither gave records nor refused to: look at its log, and check again".to_owned(),
            ),
            (Topic::There(_) | Topic::Forbidden, _) => wrong(
                what,
                format!(
                    "`{}` may not read it, or it is not there: {}",
                    commands.principal(),
                    commands.allow_read(topic)
                ),
            ),
            (Topic::Absent, _) => wrong(what, format!("it is not there: {}", commands.create(topic))),
            (Topic::Unhealthy(why), _) => wrong(what, why.clone()),
        });
    }
    if let Some((topic, found)) = &seen.errors {
        findings.push(written(subject, topic, found));
    }
    findings
}

#[cfg(test)]
mod tests;
