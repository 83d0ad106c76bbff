//! The assessment of whether a topic is fit to carry SETs: pure.

use std::collections::HashMap;

use setgate_delivery::Finding;

use super::{Subject, good, look::Shape, wrong};

/// The retention in milliseconds below which a remark is added.
const SHORT_MS: i64 = 24 * 3_600_000;

/// The settings of a topic, or the reason why they are not known.
pub(super) enum Settings {
    /// The settings by name.
    Are(HashMap<String, String>),
    /// The right to see the settings is missing.
    Forbidden,
    /// Settings cannot be asked for with bearer tokens: the binding's administrative client never gets one.
    NotWithTokens,
    /// The brokers did not report the settings, for this reason.
    Untold(String),
}

/// Returns the findings about a topic that exists.
pub(super) fn assess(subject: &Subject, topic: &str, shape: &Shape, settings: Settings) -> Vec<Finding> {
    let what = subject.says(&format!("topic {topic}"));
    let mut text = format!(
        "{what}: {}, {}",
        count(shape.partitions, "partition", "partitions"),
        count(shape.copies, "copy", "copies")
    );
    if shape.copies == 1 {
        text += " (lost with its broker)";
    }
    let mut findings = Vec::new();
    if shape.leaderless > 0 {
        findings.push(wrong(
            what.clone(),
            format!(
                "{} no leader: brokers are down; what goes there waits",
                count(shape.leaderless, "partition has", "partitions have")
            ),
        ));
    }
    let settings = match settings {
        Settings::Are(settings) => settings,
        unread => {
            findings.insert(0, good(format!("{text}; {}", why_unread(unread, subject, topic))));
            return findings;
        }
    };
    if let Some(least) = number(&settings, "min.insync.replicas") {
        text += &acknowledged_by(least, shape);
        // Kafka caps it at the number of copies.
        let needed = usize::try_from(least).unwrap_or_default().min(shape.copies);
        if shape.fewest_in_sync < needed {
            findings.push(wrong(
                what.clone(),
                format!(
                    "a partition has {} in sync, and {needed} must acknowledge: nothing is taken until its brokers are back",
                    shape.fewest_in_sync
                ),
            ));
        }
    }
    if let Some(kept) = number(&settings, "retention.ms") {
        text += &kept_for(kept);
    }
    findings.extend(loses(subject, topic, what, &settings));
    findings.insert(0, good(text));
    findings
}

/// Returns the settings of a topic by which records are lost or refused.
fn loses(subject: &Subject, topic: &str, what: String, settings: &HashMap<String, String>) -> Vec<Finding> {
    let commands = subject.commands();
    let mut findings = Vec::new();
    if settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        findings.push(wrong(
            what.clone(),
            format!(
                "it is compacted: of the SETs with one key all but the last are thrown away. {}",
                commands.alter(topic, "cleanup.policy=delete")
            ),
        ));
    }
    let record_bytes = i64::try_from(subject.section.record_bytes).unwrap_or(i64::MAX);
    if let Some(most) = number(settings, "max.message.bytes").filter(|most| *most < record_bytes) {
        findings.push(wrong(
            what,
            format!(
                "it takes batches of {most} bytes, and `record_bytes` is {record_bytes}: write `record_bytes = {most}` in \
                 [methods.kafka.clusters.{}], or {}",
                subject.name,
                commands.alter(topic, &format!("max.message.bytes={record_bytes}"))
            ),
        ));
    }
    findings
}

fn number(settings: &HashMap<String, String>, name: &str) -> Option<i64> {
    settings.get(name)?.parse().ok()
}

/// Returns why the settings of the topic are not known.
fn why_unread(settings: Settings, subject: &Subject, topic: &str) -> String {
    match settings {
        Settings::Are(_) => String::new(),
        Settings::Forbidden => {
            let allow = subject.commands().allow_describe_configs(topic);
            format!("its settings are not shown, the right DescribeConfigs is missing: {allow}")
        }
        Settings::NotWithTokens => {
            "its settings cannot be asked for with bearer tokens: see that cleanup.policy=delete".to_owned()
        }
        Settings::Untold(why) => format!("its settings are not known: {why}"),
    }
}

fn acknowledged_by(least: i64, shape: &Shape) -> String {
    let mut text = format!(", acknowledged by {least}");
    if shape.copies > 1 && least == 1 {
        text += " (one is enough, and may be the one that is lost: min.insync.replicas=2 is safer)";
    }
    text
}

/// Describes a retention of `kept` milliseconds; a negative one means for ever.
fn kept_for(kept: i64) -> String {
    let mut text = match kept {
        ..0 => ", kept for ever".to_owned(),
        0..3_600_000 => format!(", kept {} s", kept / 1000),
        _ => format!(", kept {} h", kept / 3_600_000),
    };
    if (0..SHORT_MS).contains(&kept) {
        text += " (whoever reads later misses some)";
    }
    text
}

/// Returns a number with the noun that it counts.
pub(super) fn count(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subject() -> Subject {
        let section = json!({ "bootstrap": ["localhost:9092"], "record_bytes": 100_000 });
        let runtime = setgate_delivery::testkit::clock::system();
        Subject { name: "main".into(), section: serde_json::from_value(section).unwrap(), tokens: None, runtime }
    }

    fn shape() -> Shape {
        Shape { partitions: 6, copies: 3, fewest_in_sync: 3, leaderless: 0 }
    }

    fn assessed(shape: &Shape, settings: &[(&str, &str)]) -> Vec<Finding> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assess(&subject(), "sets.acme", shape, Settings::Are(settings))
    }

    #[test]
    fn a_topic_in_order_is_one_good_finding() {
        let found = assessed(
            &shape(),
            &[
                ("min.insync.replicas", "2"),
                ("retention.ms", "604800000"),
                ("cleanup.policy", "delete"),
                ("max.message.bytes", "100000"),
            ],
        );
        assert_eq!(found.len(), 1);
        let says = "kafka/main: topic sets.acme: 6 partitions, 3 copies, acknowledged by 2, kept 168 h";
        assert_eq!((found[0].good, found[0].what.as_str()), (true, says));
    }

    #[test]
    fn a_weak_topic_is_good_with_a_remark() {
        let one = Shape { partitions: 1, copies: 1, fewest_in_sync: 1, leaderless: 0 };
        let found = assessed(&one, &[("min.insync.replicas", "2"), ("retention.ms", "-1")]);
        assert_eq!(found.len(), 1, "what must acknowledge is capped at the copies there are");
        assert!(
            found[0].good && found[0].what.contains("1 partition, 1 copy (lost with its broker)"),
            "{}",
            found[0].what
        );
        assert!(found[0].what.ends_with("kept for ever"), "{}", found[0].what);
        let found = assessed(&shape(), &[("min.insync.replicas", "1"), ("retention.ms", "60000")]);
        assert!(found[0].good && found[0].what.contains("min.insync.replicas=2 is safer"), "{}", found[0].what);
        assert!(found[0].what.contains("kept 60 s (whoever reads later misses some)"), "{}", found[0].what);
    }

    #[test]
    fn what_would_lose_or_refuse_sets_is_wrong_and_says_how_to_repair_it() {
        let hurt = Shape { fewest_in_sync: 1, leaderless: 2, ..shape() };
        for (shape, settings, says) in [
            (shape(), ("cleanup.policy", "compact"), "--add-config cleanup.policy=delete"),
            (shape(), ("cleanup.policy", "compact,delete"), "thrown away"),
            (shape(), ("max.message.bytes", "99999"), "`record_bytes = 99999`"),
            (hurt.clone(), ("min.insync.replicas", "2"), "1 in sync"),
            (hurt, ("retention.ms", "-1"), "2 partitions have no leader"),
        ] {
            let found = assessed(&shape, &[settings]);
            assert!(found[0].good, "what it is like comes first");
            assert!(found.iter().any(|found| !found.good && found.remedy.contains(says)), "{says}: {found:?}");
        }
    }

    #[test]
    fn settings_that_are_not_shown_are_no_fault() {
        for (settings, says) in [
            (Settings::Forbidden, "--operation DescribeConfigs --topic sets.acme"),
            (Settings::NotWithTokens, "bearer tokens"),
            (Settings::Untold("late".to_owned()), "late"),
        ] {
            let found = assess(&subject(), "sets.acme", &shape(), settings);
            assert!(found.len() == 1 && found[0].good && found[0].what.contains(says), "{found:?}");
        }
    }
}
