//! The configuration of a librdkafka client for each role, made of the operator's options.

mod properties;

use properties::{OF_VERSION, Rule, Side};
use rdkafka::{ClientConfig, error::KafkaError};
use setgate_delivery::Fault;

use crate::config::{ClusterSection, Compression, SaslSection, in_cluster};

/// The most requests to one broker that may be under way; an idempotent producer keeps the order up to this number.
const REQUESTS: usize = 5;
/// The most milliseconds for which a topic may be unknown before its records are given back.
const PROPAGATION_MS: u128 = 5000;
/// The KiB of records that a consumer holds ahead, unless the operator sets another number.
const AHEAD_KIB: u32 = 16 << 10;
/// The most bytes of one answer to a consumer, unless the operator sets another number.
const FETCH_BYTES: u32 = 8 << 20;

/// The role of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// A producer, which sends records.
    Producer,
    /// A consumer, which takes records as a member of a group.
    Consumer {
        /// The consumer group.
        group: &'a str,
    },
    /// A client that looks at the cluster and changes nothing.
    Look,
}

impl Role<'_> {
    fn knows(self, side: Side) -> bool {
        match side {
            Side::Both => true,
            Side::Producer => self == Role::Producer,
            Side::Consumer => matches!(self, Role::Consumer { .. }),
        }
    }
}

/// Returns the configuration of one client. It holds secrets, and its `Debug` shows some of them: never print it.
///
/// # Errors
/// [`Fault::Start`] names the property that is not acceptable, and what to write instead.
pub(crate) fn client_config(name: &str, section: &ClusterSection, role: Role<'_>) -> Result<ClientConfig, Fault> {
    let mut config = ClientConfig::new();
    // These may be overridden; everything else is set after the operator's properties, and wins even if a rule is
    // missing.
    config.set("client.id", "setgate").set("socket.keepalive.enable", "true").set("enable.metrics.push", "false");
    config.set("reconnect.backoff.max.ms", "2000");
    if let Role::Consumer { .. } = role {
        config.set("queued.max.messages.kbytes", AHEAD_KIB.to_string());
        config.set("fetch.max.bytes", FETCH_BYTES.to_string());
        // The partitions of a killed gateway go to its successor after this time; the library's own 45 s are for
        // clients that pause.
        config.set("session.timeout.ms", "10000").set("heartbeat.interval.ms", "2000");
    }
    own(name, section, role, &mut config)?;
    config.set("bootstrap.servers", section.bootstrap.join(","));
    // A producer asks for missing topics to be created unless this is off.
    config.set("allow.auto.create.topics", "false");
    security(section, &mut config);
    match role {
        Role::Producer => producer(section, &mut config),
        Role::Consumer { group } => consumer(group, &mut config),
        Role::Look => {}
    }
    if role != Role::Look && !section.statistics_interval.is_zero() {
        config.set("statistics.interval.ms", section.statistics_interval.as_millis().to_string());
    }
    Ok(config)
}

/// Lets librdkafka itself check the values, without creating a client.
///
/// # Errors
/// [`Fault::Start`] with the library's words, which are withheld for options of the gateway's own, since they may
/// repeat a secret.
pub(crate) fn validate(name: &str, section: &ClusterSection) -> Result<(), Fault> {
    for role in [Role::Producer, Role::Consumer { group: "any" }, Role::Look] {
        let native = client_config(name, section, role)?.create_native_config();
        native.map_err(|error| match error {
            KafkaError::ClientConfig(_, why, property, _) if section.properties.contains_key(&property) => {
                in_cluster(name, "properties", &format!("`{property}`: {}", setgate_delivery::clean(&why, 300)))
            }
            KafkaError::ClientConfig(_, _, property, _) => {
                in_cluster(name, "properties", &format!("the Kafka library takes no such value as `{property}`"))
            }
            _ => in_cluster(name, "properties", "a value has a NUL character in it"),
        })?;
    }
    Ok(())
}

/// Sets the operator's own properties, as far as this role knows them, and refuses those that the rules forbid.
fn own(name: &str, section: &ClusterSection, role: Role<'_>, config: &mut ClientConfig) -> Result<(), Fault> {
    for (property, value) in &section.properties {
        let shown = setgate_delivery::clean(property, 80);
        let refused = |why: &str| in_cluster(name, "properties", &format!("`{shown}`: {why}; remove it"));
        let side = match properties::rule(property) {
            Some(Rule::Allowed(side)) => side,
            Some(Rule::Within(side, values)) if values.contains(&value.as_str()) => side,
            Some(Rule::Within(_, values)) => {
                let why = format!("`{shown}`: write one of {}", values.join(", "));
                return Err(in_cluster(name, "properties", &why));
            }
            Some(Rule::Ours(option)) => return Err(refused(&format!("the cluster's option `{option}` says it"))),
            Some(Rule::OfSource(option)) => return Err(refused(&format!("a source says it with `from.{option}`"))),
            Some(Rule::Refused(why)) => return Err(refused(why)),
            None => return Err(refused(&format!("librdkafka {OF_VERSION} documents no such property"))),
        };
        if role.knows(side) {
            config.set(property, value);
        }
    }
    Ok(())
}

fn security(section: &ClusterSection, config: &mut ClientConfig) {
    let protocol = match (&section.tls, &section.sasl) {
        (None, None) => "plaintext",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), None) => "ssl",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(tls) = &section.tls {
        config.set("enable.ssl.certificate.verification", "true");
        config.set("ssl.endpoint.identification.algorithm", "https");
        match &tls.ca_pem {
            Some(pem) => config.set("ssl.ca.pem", pem),
            // The system's bundle, wherever it lies: the OpenSSL that is linked in does not know the place.
            None => config.set("ssl.ca.location", "probe"),
        };
        if let (Some(certificate), Some(key)) = (&tls.certificate_pem, &tls.key_pem) {
            config.set("ssl.certificate.pem", certificate).set("ssl.key.pem", key.expose());
        }
    }
    let (mechanism, password) = match &section.sasl {
        None => return,
        Some(SaslSection::Plain(password)) => ("PLAIN", Some(password)),
        Some(SaslSection::ScramSha256(password)) => ("SCRAM-SHA-256", Some(password)),
        Some(SaslSection::ScramSha512(password)) => ("SCRAM-SHA-512", Some(password)),
        // The token comes through the client's context.
        Some(SaslSection::OauthBearer(_)) => ("OAUTHBEARER", None),
    };
    config.set("sasl.mechanism", mechanism);
    if let Some(password) = password {
        config.set("sasl.username", &password.username).set("sasl.password", password.password.expose());
    }
}

fn producer(section: &ClusterSection, config: &mut ClientConfig) {
    let timeout_ms = section.timeout.as_millis();
    let compression = match section.compression {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    };
    config.set("acks", "all").set("enable.idempotence", "true").set("compression.type", compression);
    config.set("max.in.flight.requests.per.connection", REQUESTS.to_string());
    config.set("message.timeout.ms", timeout_ms.to_string());
    config.set("linger.ms", section.linger.as_millis().to_string());
    // A broker's limit applies to a whole batch, so a batch is no larger than one record may be.
    config.set("batch.size", section.record_bytes.to_string());
    config.set("message.max.bytes", section.record_bytes.to_string());
    // The cluster's window bounds what is under way; these limits only stop what would escape it.
    config.set("queue.buffering.max.messages", section.in_flight.saturating_mul(2).saturating_add(1000).to_string());
    config.set("queue.buffering.max.kbytes", (section.in_flight_bytes / 512).saturating_add(1024).to_string());
    // This is shorter than the message timeout: otherwise an unknown topic would look like a time-out.
    config.set("topic.metadata.propagation.max.ms", PROPAGATION_MS.min(timeout_ms / 2).to_string());
}

fn consumer(group: &str, config: &mut ClientConfig) {
    // This does not depend on `start`: with `latest`, the library would also skip to the end when an offset is gone
    // from the topic.
    config.set("group.id", group).set("auto.offset.reset", "earliest");
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("partition.assignment.strategy", "cooperative-sticky").set("isolation.level", "read_committed");
}

#[cfg(test)]
mod tests;
