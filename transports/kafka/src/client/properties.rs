//! The rules for the properties of librdkafka that an operator may write under `properties`.
//!
//! A property that is not listed is refused, so that a new version of the library adds none unchecked.

use Rule::{Allowed, OfSource, Ours, Refused, Within};
use Side::{Both, Consumer, Producer};

/// The treatment of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The property is passed on as it is.
    Allowed(Side),
    /// The property is passed on if its value is one of these.
    Within(Side, &'static [&'static str]),
    /// The property is refused, because this option of the cluster sets it.
    Ours(&'static str),
    /// The property is refused, because this option of a source sets it.
    OfSource(&'static str),
    /// The property is refused for this reason, for example because it would break a promise of the gateway.
    Refused(&'static str),
}

/// The clients that know a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Clients of every role.
    Both,
    /// Producers only.
    Producer,
    /// Consumers only.
    Consumer,
}

/// Returns the rule of a property, or `None` if the property is not listed.
pub(super) fn rule(name: &str) -> Option<Rule> {
    let at = PROPERTIES.binary_search_by_key(&name, |(name, _)| name).ok()?;
    PROPERTIES.get(at).map(|(_, rule)| *rule)
}

/// The version of librdkafka whose properties are listed.
pub(super) const OF_VERSION: &str = "2.12.1";

const CODE: &str = "it makes the process load code or run commands that are not the gateway's";
const DEAD: &str = "it has no effect any more";
const KERBEROS: &str = "Kerberos is not built in";
const LOG: &str = "what is logged is said in `[log]`";
const TEXT: &str = "it cannot be set by a text";
const COMMITTED: &str = "an event is committed only after it is durable here";
const DELIVERED: &str = "a SET counts as delivered when all in-sync replicas have it, once and in order";
const OLD: &str = "it speaks an older protocol, without headers or idempotence";
const SHARED: &str = "sources share partitions by the classic protocol, cooperatively";
const TOKENS: &str = "tokens are fetched by the gateway: `[net] ca_files` names further authorities";
const VERIFIED: &str = "who the broker is must be verified";
const WEAK: &str = "it can weaken TLS down to no authentication";

/// The partitioners that put the records of one key into one partition: all of the library's but `random`.
const PARTITIONERS: [&str; 6] =
    ["consistent", "consistent_random", "murmur2", "murmur2_random", "fnv1a", "fnv1a_random"];

/// The rules, sorted by name for the binary search.
const PROPERTIES: &[(&str, Rule)] = &[
    ("acks", Refused(DELIVERED)),
    ("allow.auto.create.topics", Ours("create_topics")),
    ("api.version.fallback.ms", Refused(OLD)),
    ("api.version.request", Refused(OLD)),
    ("api.version.request.timeout.ms", Refused(OLD)),
    ("auto.commit.enable", Refused(COMMITTED)),
    ("auto.commit.interval.ms", Refused(COMMITTED)),
    ("auto.offset.reset", OfSource("start")),
    ("background_event_cb", Refused(TEXT)),
    ("batch.num.messages", Allowed(Producer)),
    ("batch.size", Ours("record_bytes")),
    ("bootstrap.servers", Ours("bootstrap")),
    ("broker.address.family", Allowed(Both)),
    ("broker.address.ttl", Allowed(Both)),
    ("broker.version.fallback", Refused(OLD)),
    ("builtin.features", Refused(TEXT)),
    ("check.crcs", Allowed(Consumer)),
    ("client.dns.lookup", Refused(VERIFIED)),
    ("client.id", Allowed(Both)),
    ("client.rack", Allowed(Both)),
    ("closesocket_cb", Refused(TEXT)),
    ("compression.codec", Ours("compression")),
    ("compression.level", Allowed(Producer)),
    ("compression.type", Ours("compression")),
    ("connect_cb", Refused(TEXT)),
    ("connections.max.idle.ms", Allowed(Both)),
    ("consume.callback.max.messages", Refused(DEAD)),
    ("consume_cb", Refused(TEXT)),
    ("coordinator.query.interval.ms", Allowed(Consumer)),
    ("debug", Refused("what it prints can hold secrets")),
    ("default_topic_conf", Refused(TEXT)),
    ("delivery.report.only.error", Refused(DELIVERED)),
    ("delivery.timeout.ms", Ours("timeout")),
    ("dr_cb", Refused(TEXT)),
    ("dr_msg_cb", Refused(TEXT)),
    ("enable.auto.commit", Refused(COMMITTED)),
    ("enable.auto.offset.store", Refused(COMMITTED)),
    ("enable.gapless.guarantee", Refused(DELIVERED)),
    ("enable.idempotence", Refused(DELIVERED)),
    ("enable.metrics.push", Allowed(Both)),
    ("enable.partition.eof", Refused(COMMITTED)),
    ("enable.random.seed", Allowed(Both)),
    ("enable.sasl.oauthbearer.unsecure.jwt", Refused("a token without a signature is no token")),
    ("enable.ssl.certificate.verification", Refused(VERIFIED)),
    ("enabled_events", Refused(TEXT)),
    ("error_cb", Refused(TEXT)),
    ("fetch.error.backoff.ms", Allowed(Consumer)),
    ("fetch.max.bytes", Allowed(Consumer)),
    ("fetch.message.max.bytes", Allowed(Consumer)),
    ("fetch.min.bytes", Allowed(Consumer)),
    ("fetch.queue.backoff.ms", Allowed(Consumer)),
    ("fetch.wait.max.ms", Allowed(Consumer)),
    ("group.id", OfSource("group")),
    ("group.instance.id", Refused("it names one consumer, and this section is for all")),
    ("group.protocol", Refused(SHARED)),
    ("group.protocol.type", Refused(SHARED)),
    ("group.remote.assignor", Refused(SHARED)),
    ("heartbeat.interval.ms", Allowed(Consumer)),
    ("https.ca.location", Refused(TOKENS)),
    ("https.ca.pem", Refused(TOKENS)),
    ("interceptors", Refused(CODE)),
    ("internal.termination.signal", Refused("the process needs its signals")),
    ("isolation.level", Refused(COMMITTED)),
    ("linger.ms", Ours("linger")),
    ("log.connection.close", Allowed(Both)),
    ("log.queue", Refused(LOG)),
    ("log.thread.name", Allowed(Both)),
    ("log_cb", Refused(TEXT)),
    ("log_level", Refused(LOG)),
    ("max.in.flight", Refused(DELIVERED)),
    ("max.in.flight.requests.per.connection", Refused(DELIVERED)),
    ("max.partition.fetch.bytes", Allowed(Consumer)),
    ("max.poll.interval.ms", Allowed(Consumer)),
    ("message.copy.max.bytes", Allowed(Both)),
    ("message.max.bytes", Ours("record_bytes")),
    ("message.send.max.retries", Refused(DELIVERED)),
    ("message.timeout.ms", Ours("timeout")),
    ("metadata.broker.list", Ours("bootstrap")),
    ("metadata.max.age.ms", Allowed(Both)),
    ("metadata.recovery.rebootstrap.trigger.ms", Allowed(Both)),
    ("metadata.recovery.strategy", Allowed(Both)),
    ("msg_order_cmp", Refused(DELIVERED)),
    ("oauthbearer_token_refresh_cb", Refused(TEXT)),
    ("offset.store.method", Refused(COMMITTED)),
    ("offset.store.path", Refused(COMMITTED)),
    ("offset.store.sync.interval.ms", Refused(COMMITTED)),
    ("offset_commit_cb", Refused(TEXT)),
    ("opaque", Refused(TEXT)),
    ("open_cb", Refused(TEXT)),
    ("partition.assignment.strategy", Refused(SHARED)),
    ("partitioner", Within(Producer, &PARTITIONERS)),
    ("partitioner_cb", Refused(TEXT)),
    ("plugin.library.paths", Refused(CODE)),
    ("produce.offset.report", Refused(DEAD)),
    ("queue.buffering.backpressure.threshold", Allowed(Producer)),
    ("queue.buffering.max.kbytes", Ours("in_flight_bytes")),
    ("queue.buffering.max.messages", Ours("in_flight")),
    ("queue.buffering.max.ms", Ours("linger")),
    ("queued.max.messages.kbytes", Allowed(Consumer)),
    ("queued.min.messages", Allowed(Consumer)),
    ("queuing.strategy", Refused(DELIVERED)),
    ("rebalance_cb", Refused(TEXT)),
    ("receive.message.max.bytes", Allowed(Both)),
    ("reconnect.backoff.jitter.ms", Refused(DEAD)),
    ("reconnect.backoff.max.ms", Allowed(Both)),
    ("reconnect.backoff.ms", Allowed(Both)),
    ("request.required.acks", Refused(DELIVERED)),
    ("request.timeout.ms", Allowed(Producer)),
    ("resolve_cb", Refused(TEXT)),
    ("retries", Refused(DELIVERED)),
    ("retry.backoff.max.ms", Allowed(Both)),
    ("retry.backoff.ms", Allowed(Both)),
    ("sasl.kerberos.keytab", Refused(KERBEROS)),
    ("sasl.kerberos.kinit.cmd", Refused(CODE)),
    ("sasl.kerberos.min.time.before.relogin", Refused(KERBEROS)),
    ("sasl.kerberos.principal", Refused(KERBEROS)),
    ("sasl.kerberos.service.name", Refused(KERBEROS)),
    ("sasl.mechanism", Ours("sasl")),
    ("sasl.mechanisms", Ours("sasl")),
    ("sasl.oauthbearer.assertion.algorithm", Ours("sasl")),
    ("sasl.oauthbearer.assertion.claim.aud", Ours("sasl")),
    ("sasl.oauthbearer.assertion.claim.exp.seconds", Ours("sasl")),
    ("sasl.oauthbearer.assertion.claim.iss", Ours("sasl")),
    ("sasl.oauthbearer.assertion.claim.jti.include", Ours("sasl")),
    ("sasl.oauthbearer.assertion.claim.nbf.seconds", Ours("sasl")),
    ("sasl.oauthbearer.assertion.claim.sub", Ours("sasl")),
    ("sasl.oauthbearer.assertion.file", Ours("sasl")),
    ("sasl.oauthbearer.assertion.jwt.template.file", Ours("sasl")),
    ("sasl.oauthbearer.assertion.private.key.file", Ours("sasl")),
    ("sasl.oauthbearer.assertion.private.key.passphrase", Ours("sasl")),
    ("sasl.oauthbearer.assertion.private.key.pem", Ours("sasl")),
    ("sasl.oauthbearer.client.credentials.client.id", Ours("sasl")),
    ("sasl.oauthbearer.client.credentials.client.secret", Ours("sasl")),
    ("sasl.oauthbearer.client.id", Ours("sasl")),
    ("sasl.oauthbearer.client.secret", Ours("sasl")),
    ("sasl.oauthbearer.config", Ours("sasl")),
    ("sasl.oauthbearer.extensions", Ours("sasl")),
    ("sasl.oauthbearer.grant.type", Ours("sasl")),
    ("sasl.oauthbearer.metadata.authentication.type", Ours("sasl")),
    ("sasl.oauthbearer.method", Ours("sasl")),
    ("sasl.oauthbearer.scope", Ours("sasl")),
    ("sasl.oauthbearer.token.endpoint.url", Ours("sasl")),
    ("sasl.password", Ours("sasl")),
    ("sasl.username", Ours("sasl")),
    ("security.protocol", Ours("tls")),
    ("session.timeout.ms", Allowed(Consumer)),
    ("socket.blocking.max.ms", Refused(DEAD)),
    ("socket.connection.setup.timeout.ms", Allowed(Both)),
    ("socket.keepalive.enable", Allowed(Both)),
    ("socket.max.fails", Allowed(Both)),
    ("socket.nagle.disable", Allowed(Both)),
    ("socket.receive.buffer.bytes", Allowed(Both)),
    ("socket.send.buffer.bytes", Allowed(Both)),
    ("socket.timeout.ms", Allowed(Both)),
    ("socket_cb", Refused(TEXT)),
    ("ssl.ca.certificate.stores", Ours("tls")),
    ("ssl.ca.location", Ours("tls")),
    ("ssl.ca.pem", Ours("tls")),
    ("ssl.certificate.location", Ours("tls")),
    ("ssl.certificate.pem", Ours("tls")),
    ("ssl.certificate.verify_cb", Refused(VERIFIED)),
    ("ssl.cipher.suites", Refused(WEAK)),
    ("ssl.crl.location", Allowed(Both)),
    ("ssl.curves.list", Allowed(Both)),
    ("ssl.endpoint.identification.algorithm", Refused(VERIFIED)),
    ("ssl.engine.id", Refused(CODE)),
    ("ssl.engine.location", Refused(CODE)),
    ("ssl.key.location", Ours("tls")),
    ("ssl.key.password", Ours("tls")),
    ("ssl.key.pem", Ours("tls")),
    ("ssl.keystore.location", Ours("tls")),
    ("ssl.keystore.password", Ours("tls")),
    ("ssl.providers", Refused(CODE)),
    ("ssl.sigalgs.list", Refused(WEAK)),
    ("ssl_ca", Ours("tls")),
    ("ssl_certificate", Ours("tls")),
    ("ssl_engine_callback_data", Refused(CODE)),
    ("ssl_key", Ours("tls")),
    ("statistics.interval.ms", Ours("statistics_interval")),
    ("stats_cb", Refused(TEXT)),
    ("sticky.partitioning.linger.ms", Allowed(Producer)),
    ("throttle_cb", Refused(TEXT)),
    ("topic.blacklist", Refused("a topic that a source names would be silently left out")),
    (
        "topic.metadata.propagation.max.ms",
        Refused("it decides when a topic that is not there is known from a slow one"),
    ),
    ("topic.metadata.refresh.fast.cnt", Refused(DEAD)),
    ("topic.metadata.refresh.fast.interval.ms", Allowed(Both)),
    ("topic.metadata.refresh.interval.ms", Allowed(Both)),
    ("topic.metadata.refresh.sparse", Allowed(Both)),
    ("transaction.timeout.ms", Refused(DELIVERED)),
    ("transactional.id", Refused(DELIVERED)),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names in the library's own list, each with the clients that know it.
    fn listed() -> Vec<(&'static str, &'static str)> {
        let lines = include_str!("../../tests/properties.txt").lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split_once(' ').unwrap()).collect()
    }

    #[test]
    fn each_property_of_the_library_has_exactly_one_rule() {
        let names: Vec<_> = listed().into_iter().map(|(_, name)| name).collect();
        let ours: Vec<_> = PROPERTIES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ours, "both are sorted, so that one look finds a rule");
        assert!(PROPERTIES.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn the_rules_are_those_of_the_linked_library() {
        let (_, version) = rdkafka::util::get_rdkafka_version();
        assert_eq!(
            version, OF_VERSION,
            "check what is new: write the names of its CONFIGURATION.md into tests/properties.txt"
        );
    }

    #[test]
    fn an_allowed_property_goes_to_the_clients_that_know_it() {
        for (side, name) in listed() {
            let (Some(Allowed(ours)) | Some(Within(ours, _))) = rule(name) else { continue };
            let theirs = match side {
                "C" => Consumer,
                "P" => Producer,
                _ => Both,
            };
            assert_eq!(ours, theirs, "{name}");
        }
    }

    #[test]
    fn nothing_allowed_smells_of_secrets_code_or_trust() {
        let suspicious =
            ["sasl", "password", "pem", "key", "engine", "provider", "plugin", "_cb", "verif", "acks", "commit"];
        for (name, _) in PROPERTIES.iter().filter(|(_, rule)| matches!(rule, Allowed(_) | Within(..))) {
            assert!(suspicious.iter().all(|word| !name.contains(word)), "{name}");
        }
    }

    #[test]
    fn names_that_the_library_hides_are_not_validated() {
        for hidden in ["test.mock.num.brokers", "client.software.name", "enable_sasl_queue", "", "ACKS", "acks "] {
            assert_eq!(rule(hidden), None, "{hidden}");
        }
    }
}
