//! The methods of a binary, which depend on the features that it was built with.

use std::collections::BTreeSet;

use crate::boxed::Plan;

#[test]
fn the_methods_are_those_that_were_built_in() {
    let gateway = Plan::new().stream_by("acme", "{ method = \"pigeon\" }").prepare();
    let output = gateway.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, known) = said.split_once("there is no such method; these are: ").unwrap_or_else(|| panic!("{said}"));
    let known: BTreeSet<_> = known.lines().next().unwrap().split(", ").collect();
    let mut expected = BTreeSet::from(["multipush", "poll", "push", "websocket"]);
    if cfg!(feature = "kafka-system-openssl") {
        expected.insert("kafka");
    }
    assert_eq!(known, expected);
}

#[cfg(not(feature = "kafka-system-openssl"))]
#[test]
fn a_cluster_is_refused_by_a_binary_without_kafka() {
    let cluster = "[methods.kafka.clusters.main]\nbootstrap = [\"127.0.0.1:9092\"]\n";
    let output = Plan::new().options(cluster).prepare().run(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("this program was built without Kafka"), "{said}");
}

#[cfg(feature = "kafka-system-openssl")]
mod with_kafka {
    use super::Plan;

    /// Returns the configuration of a cluster.
    fn cluster(more: &str) -> String {
        format!("[methods.kafka.clusters.main]\n{more}\n")
    }

    #[test]
    fn a_cluster_is_validated_before_it_is_dialled() {
        for (more, says) in [
            ("bootstrap = [\"kafka.example:9092\"]", "`allow_plaintext = true`"),
            ("bootstrap = [\"127.0.0.1:9092\"]\nproperties = { acks = \"1\" }", "`acks`"),
            ("bootstrap = [\"127.0.0.1:9092\"]\nlinger = \"1001ms\"", "`linger`"),
            ("bootstrap = [\"127.0.0.1\"]", "HOST:PORT"),
        ] {
            let output = Plan::new().options(&cluster(more)).prepare().run(&["check"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{more}");
            assert!(said.contains(says) && said.contains("[methods.kafka.clusters.main]"), "{said}");
        }
    }

    #[test]
    fn a_cluster_that_nobody_listens_for_is_good_until_it_is_looked_at() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let deaf = listener.local_addr().unwrap();
        drop(listener);
        let gateway = Plan::new()
            .stream_by("acme", "{ method = \"kafka\", cluster = \"main\", topic = \"sets.acme\" }")
            .options(&cluster(&format!("bootstrap = [\"{deaf}\"]")))
            .prepare();
        let output = gateway.run(&["check"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let output = gateway.run(&["check", "--connect", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let wrong = |what: &str| {
            let found = findings.iter().find(|found| found["what"].as_str().unwrap().starts_with(what));
            let found = found.unwrap_or_else(|| panic!("nothing about {what} in {report}"));
            assert_eq!(found["good"], false, "{found}");
            assert!(found["remedy"].as_str().unwrap().contains("nothing listens there"), "{found}");
        };
        wrong(&format!("kafka/main: {deaf}"));
        wrong("stream acme: kafka/main: its brokers");
    }
}
