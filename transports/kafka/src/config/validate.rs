//! The rules for acceptable options; each fault names the place, the key and the remedy.

use std::{net::IpAddr, time::Duration};

use setgate_delivery::{Cause, ClientIdentity, Fault, Roots, Url, duration};

use super::{ClusterSection, From, Grant, Password, SaslSection, Section, Terms, TlsSection, TokenSection};
use crate::client;

/// The longest name of a topic in bytes (Kafka's own limit).
const LONGEST_TOPIC: usize = 249;
/// The longest name of a host or a group, in bytes.
const LONGEST_NAME: usize = 255;
/// The most bootstrap brokers of a cluster, topics of a source, and bytes of a cluster's name.
const MOST: usize = 64;

/// Returns a fault of one cluster's section.
pub(crate) fn in_cluster(name: &str, key: &str, why: &str) -> Fault {
    let name = setgate_delivery::clean(name, 64);
    Fault::Start(Cause::configuration("configuration", format!("[methods.kafka.clusters.{name}]: `{key}`: {why}")))
}

fn terms(pointer: &str, why: impl Into<Box<str>>) -> Fault {
    Fault::Terms { pointer: pointer.to_owned(), cause: Cause::configuration("invalid", why) }
}

impl Section {
    /// Checks all clusters, without I/O.
    ///
    /// # Errors
    /// [`Fault::Start`] names the cluster, the key and the remedy.
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        for (name, cluster) in &self.clusters {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if name.is_empty() || name.len() > MOST || !name.bytes().all(plain) {
                return Err(in_cluster(name, "clusters", "name it with 1 to 64 of a-z, A-Z, 0-9, - and _"));
            }
            cluster.validate(name)?;
        }
        Ok(())
    }

    /// Returns the name of the first cluster that has a broker in common with this one, since sections may differ in
    /// credentials only.
    pub(crate) fn same<'a>(&'a self, name: &'a str) -> &'a str {
        let Some(this) = self.clusters.get(name) else { return name };
        let common = |other: &ClusterSection| {
            this.bootstrap.iter().any(|broker| other.bootstrap.iter().any(|other| broker.eq_ignore_ascii_case(other)))
        };
        self.clusters.iter().find(|(_, other)| common(other)).map_or(name, |(name, _)| name)
    }

    /// Returns the cluster of that name.
    ///
    /// # Errors
    /// [`Fault::Terms`] if there is none; it lists those that there are.
    fn cluster(&self, name: &str) -> Result<&ClusterSection, Fault> {
        self.clusters.get(name).ok_or_else(|| {
            let known: Vec<_> = self.clusters.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there is none".to_owned() } else { known.join(", ") };
            terms("/cluster", format!("`{}` is no cluster; known: {known}", setgate_delivery::clean(name, 64)))
        })
    }
}

impl ClusterSection {
    fn validate(&self, name: &str) -> Result<(), Fault> {
        let fault = |key: &str, why: &str| Err(in_cluster(name, key, why));
        let ranges = [
            ("in_flight", self.in_flight as u64, 1, 1_000_000),
            ("in_flight_bytes", self.in_flight_bytes as u64, 1 << 20, 1 << 30),
            ("record_bytes", self.record_bytes as u64, 1 << 10, 64 << 20),
        ];
        if let Some((key, _, least, most)) =
            ranges.into_iter().find(|(_, value, least, most)| value < least || value > most)
        {
            return fault(key, &format!("write {least} to {most}"));
        }
        let durations = [
            ("linger", self.linger, 0, 1),
            ("timeout", self.timeout, 5, 600),
            ("statistics_interval", self.statistics_interval, 0, 3600),
        ];
        let seconds = Duration::from_secs;
        let wrong = durations.into_iter().find_map(|(key, value, least, most)| {
            duration::outside(value, seconds(least), seconds(most)).map(|why| (key, why))
        });
        if let Some((key, why)) = wrong {
            return fault(key, &why);
        }
        if self.record_bytes > self.in_flight_bytes {
            return fault("record_bytes", "not more than `in_flight_bytes`, or the largest record never travels");
        }
        if let Some(shape) = &self.create_topics {
            if !(1..=10_000).contains(&shape.partitions) {
                return fault("create_topics.partitions", "write 1 to 10000");
            }
            if !(1..=15).contains(&shape.replication) {
                return fault("create_topics.replication", "write 1 to 15");
            }
        }
        self.validate_brokers(name)?;
        if let Some(tls) = &self.tls {
            tls.validate(name)?;
        }
        match &self.sasl {
            Some(SaslSection::Plain(password)) => {
                self.within_tls(name, "PLAIN")?;
                password.validate(name)?;
            }
            Some(SaslSection::ScramSha256(password) | SaslSection::ScramSha512(password)) => password.validate(name)?,
            Some(SaslSection::OauthBearer(token)) => {
                self.within_tls(name, "OAUTHBEARER")?;
                token.validate(name)?;
                // The binding's administrative client never serves the library's request for a token.
                if self.create_topics.is_some() {
                    return fault(
                        "create_topics",
                        "topics cannot be made with bearer tokens yet; make them, and remove it",
                    );
                }
            }
            None => {}
        }
        client::validate(name, self)
    }

    fn validate_brokers(&self, name: &str) -> Result<(), Fault> {
        if self.bootstrap.is_empty() || self.bootstrap.len() > MOST {
            return Err(in_cluster(name, "bootstrap", "name 1 to 64 brokers, `HOST:PORT` each"));
        }
        for broker in &self.bootstrap {
            let Some((host, _)) = broker_of(broker) else {
                let why =
                    format!("`{}`: write `HOST:PORT`, of IPv6 `[ADDRESS]:PORT`", setgate_delivery::clean(broker, 80));
                return Err(in_cluster(name, "bootstrap", &why));
            };
            if self.tls.is_none() && !self.allow_plaintext && !is_loopback(host) {
                let why = format!(
                    "without it everything that goes to {host} can be read and changed on its way: add \
                     `[methods.kafka.clusters.{name}.tls]`, or write `allow_plaintext = true` if that network is trusted"
                );
                return Err(in_cluster(name, "tls", &why));
            }
        }
        Ok(())
    }

    /// Requires TLS for a mechanism whose credential can be read on the way (RFC 4616 §4, RFC 7628 §5).
    fn within_tls(&self, name: &str, mechanism: &str) -> Result<(), Fault> {
        if self.tls.is_some() {
            return Ok(());
        }
        let why = format!(
            "{mechanism} sends a credential that whoever reads along can use: add `[methods.kafka.clusters.{name}.tls]`, \
             `allow_plaintext` is not enough"
        );
        Err(in_cluster(name, "sasl", &why))
    }
}

/// Splits `HOST:PORT` into host and port, and removes the brackets of an IPv6 address.
fn broker_of(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0)?;
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']')?;
        return address.parse::<std::net::Ipv6Addr>().is_ok().then_some((address, port));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!host.is_empty() && host.len() <= LONGEST_NAME && host.bytes().all(plain)).then_some((host, port))
}

/// Returns whether a host is this machine, by its name or address alone (RFC 6761 §6.3).
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl TlsSection {
    fn validate(&self, name: &str) -> Result<(), Fault> {
        if let Some(pem) = &self.ca_pem {
            Roots::from_pem(pem.as_bytes()).map_err(|error| in_cluster(name, "tls.ca_pem", &error.to_string()))?;
        }
        match (&self.certificate_pem, &self.key_pem) {
            (None, None) => Ok(()),
            (Some(_), None) => {
                Err(in_cluster(name, "tls.key_pem", "the certificate needs its key: write both or none"))
            }
            (None, Some(_)) => {
                Err(in_cluster(name, "tls.certificate_pem", "the key needs its certificate: write both or none"))
            }
            (Some(chain), Some(key)) => ClientIdentity::from_pem(chain.as_bytes(), key.expose().as_bytes())
                .map(|_| ())
                .map_err(|error| in_cluster(name, "tls.certificate_pem", &error.to_string())),
        }
    }
}

impl Password {
    fn validate(&self, name: &str) -> Result<(), Fault> {
        let fits = |text: &str| !text.is_empty() && text.len() <= 1024 && !text.contains(char::is_control);
        if !fits(&self.username) {
            return Err(in_cluster(name, "sasl.username", "write 1 to 1024 bytes without control characters"));
        }
        if !fits(self.password.expose()) {
            let why =
                "write 1 to 1024 bytes without control characters; of a file, the line break at its end is left out";
            return Err(in_cluster(name, "sasl.password", why));
        }
        Ok(())
    }
}

impl TokenSection {
    fn validate(&self, name: &str) -> Result<(), Fault> {
        let fault = |key: &str, why: &str| Err(in_cluster(name, &format!("sasl.{key}"), why));
        let visible = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let url = match Url::parse(&self.token_endpoint) {
            Ok(url) if url.host_str().is_some() => url,
            _ => return fault("token_endpoint", "it is no absolute URL"),
        };
        // RFC 6749 §3.2: no fragment, and TLS.
        if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return fault("token_endpoint", "write it without fragment, user and password");
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(host) => {}
            _ => return fault("token_endpoint", "write an `https` URL: the client's secret goes there"),
        }
        // RFC 6749 appendix A.1 and A.2.
        if self.client_id.is_empty() || self.client_id.len() > 1024 || !visible(&self.client_id) {
            return fault("client_id", "write 1 to 1024 visible ASCII characters");
        }
        let secret = self.client_secret.expose();
        if secret.is_empty() || secret.len() > 4096 || !visible(secret) {
            return fault("client_secret", "write 1 to 4096 visible ASCII characters");
        }
        // RFC 6749 §3.3.
        let token = |byte: u8| (b'!'..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\');
        let is_scope = |scope: &String| {
            scope.len() <= 4096 && scope.split(' ').all(|one| !one.is_empty() && one.bytes().all(token))
        };
        if self.scope.as_ref().is_some_and(|scope| !is_scope(scope)) {
            return fault("scope", "write scopes with one space between them, or leave it out");
        }
        if self
            .audience
            .as_ref()
            .is_some_and(|text| text.is_empty() || text.len() > 4096 || text.contains(char::is_control))
        {
            return fault("audience", "write 1 to 4096 bytes without control characters, or leave it out");
        }
        Ok(())
    }
}

/// Checks the name of a topic against Kafka's rule and the gateway's own: Kafka's internal topics, which begin with two
/// underscores, are refused.
fn validate_topic(pointer: &str, topic: &str) -> Result<(), Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if topic.is_empty() || topic.len() > LONGEST_TOPIC || !topic.bytes().all(plain) || matches!(topic, "." | "..") {
        return Err(terms(pointer, "a topic has 1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`, and is not `.` or `..`"));
    }
    if topic.starts_with("__") {
        return Err(terms(pointer, "topics that begin with `__` are Kafka's own"));
    }
    Ok(())
}

impl Terms {
    /// Checks the terms of a stream, without I/O.
    ///
    /// A stream of the operator's may name any topic unless its grant lists some; a receiver's own stream may name only
    /// what its grant lists.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member and the remedy.
    pub(crate) fn validate(&self, section: &Section, grant: &Grant, operator_owned: bool) -> Result<(), Fault> {
        section.cluster(&self.cluster)?;
        validate_topic("/topic", &self.topic)?;
        grant.validate(operator_owned)?;
        let prefixes = match grant.topics.get(&self.cluster) {
            Some(prefixes) => prefixes.as_slice(),
            None if operator_owned && grant.topics.is_empty() => return Ok(()),
            None => &[],
        };
        if prefixes.iter().any(|prefix| self.topic.starts_with(prefix.as_str())) {
            return Ok(());
        }
        if prefixes.is_empty() {
            return Err(terms(
                "/topic",
                format!("no topic of `{}` is granted: the operator grants prefixes", self.cluster),
            ));
        }
        Err(terms("/topic", format!("it must begin with one of: {}", prefixes.join(", "))))
    }
}

impl Grant {
    fn validate(&self, operator_owned: bool) -> Result<(), Fault> {
        for (cluster, prefixes) in &self.topics {
            let pointer = format!("/grant/topics/{}", setgate_delivery::clean(cluster, 64));
            for prefix in prefixes {
                if prefix.is_empty() && !operator_owned {
                    return Err(terms(
                        &pointer,
                        "an empty prefix means all topics: only the operator's own streams may have it",
                    ));
                }
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
                if prefix.len() > LONGEST_TOPIC || !prefix.bytes().all(plain) {
                    return Err(terms(
                        &pointer,
                        "a prefix has a-z, A-Z, 0-9, `.`, `_` and `-`; there are no wildcards",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl From {
    /// Checks the `from` of a source, without I/O.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member and the remedy.
    pub(crate) fn validate(&self, section: &Section) -> Result<(), Fault> {
        section.cluster(&self.cluster)?;
        if self.topics.is_empty() || self.topics.len() > MOST {
            return Err(terms("/topics", "name 1 to 64 topics"));
        }
        for (at, topic) in self.topics.iter().enumerate() {
            validate_topic(&format!("/topics/{at}"), topic)?;
            if self.topics.iter().take(at).any(|earlier| earlier == topic) {
                return Err(terms(&format!("/topics/{at}"), "it is named twice"));
            }
        }
        if self.group.is_empty() || self.group.len() > LONGEST_NAME || self.group.contains(char::is_control) {
            return Err(terms("/group", "name a consumer group, 1 to 255 bytes without control characters"));
        }
        if let Some(topic) = &self.error_topic {
            validate_topic("/error_topic", topic)?;
            if self.topics.contains(topic) {
                return Err(terms("/error_topic", "it is one of `topics`: what is refused would come back for ever"));
            }
        }
        if !(1..=10_000).contains(&self.batch) {
            return Err(terms("/batch", "write 1 to 10000"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
