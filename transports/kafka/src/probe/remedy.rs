//! The commands that fix what was found, ready to be copied to a shell.

use crate::config::{ClusterSection, SaslSection};

/// The commands for one cluster.
pub(super) struct Commands<'a> {
    section: &'a ClusterSection,
}

impl<'a> Commands<'a> {
    pub(super) fn new(section: &'a ClusterSection) -> Self {
        Self { section }
    }

    /// Returns the principal that the cluster knows the gateway as, as far as that can be told from here.
    pub(super) fn principal(&self) -> String {
        match (&self.section.sasl, &self.section.tls) {
            (Some(SaslSection::Plain(who) | SaslSection::ScramSha256(who) | SaslSection::ScramSha512(who)), _) => {
                format!("User:{}", setgate_delivery::clean(&who.username, 80))
            }
            (Some(SaslSection::OauthBearer(_)), _) => "User:SUB_OF_THE_TOKEN".to_owned(),
            (None, Some(tls)) if tls.certificate_pem.is_some() => "User:NAME_OF_THE_CERTIFICATE".to_owned(),
            _ => "User:ANONYMOUS".to_owned(),
        }
    }

    pub(super) fn create(&self, topic: &str) -> String {
        format!(
            "{} --create --topic {topic} --partitions 6 --replication-factor 3 --config min.insync.replicas=2, or write \
             `create_topics` in its section",
            self.tool("kafka-topics.sh")
        )
    }

    pub(super) fn alter(&self, topic: &str, setting: &str) -> String {
        let tool = self.tool("kafka-configs.sh");
        format!("{tool} --alter --entity-type topics --entity-name {topic} --add-config {setting}")
    }

    pub(super) fn allow_write(&self, topic: &str) -> String {
        self.allow("--operation Write", &format!("--topic {topic}"))
    }

    pub(super) fn allow_read(&self, topic: &str) -> String {
        self.allow("--operation Read", &format!("--topic {topic}"))
    }

    pub(super) fn allow_describe_configs(&self, topic: &str) -> String {
        self.allow("--operation DescribeConfigs", &format!("--topic {topic}"))
    }

    pub(super) fn allow_group(&self, group: &str) -> String {
        self.allow("--operation Read", &format!("--group {}", quote(&setgate_delivery::clean(group, 255))))
    }

    fn allow(&self, operation: &str, resource: &str) -> String {
        let principal = quote(&self.principal());
        format!("{} --add --allow-principal {principal} {operation} {resource}", self.tool("kafka-acls.sh"))
    }

    fn tool(&self, name: &str) -> String {
        let broker = self.section.bootstrap.first().map_or("HOST:PORT", String::as_str);
        // The credentials of the administrator are theirs to fill in.
        let secured = self.section.tls.is_some() || self.section.sasl.is_some();
        let file = if secured { " --command-config admin.properties" } else { "" };
        format!("{name} --bootstrap-server {broker}{file}")
    }
}

/// Quotes a text as one word for a shell.
fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'_' | b'-' | b'@');
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn section(sasl: &serde_json::Value) -> ClusterSection {
        serde_json::from_value(json!({ "bootstrap": ["k.example:9093"], "tls": {}, "sasl": sasl })).unwrap()
    }

    #[test]
    fn a_command_is_ready_to_be_run() {
        let scram = section(&json!({ "mechanism": "SCRAM-SHA-512", "username": "gw", "password": "canary" }));
        assert_eq!(
            Commands::new(&scram).allow_write("sets.acme"),
            "kafka-acls.sh --bootstrap-server k.example:9093 --command-config admin.properties --add --allow-principal \
             User:gw --operation Write --topic sets.acme"
        );
        let plain: ClusterSection = serde_json::from_value(json!({ "bootstrap": ["localhost:1"] })).unwrap();
        let create = Commands::new(&plain).create("t");
        assert!(create.starts_with("kafka-topics.sh --bootstrap-server localhost:1 --create --topic t "), "{create}");
        assert_eq!(Commands::new(&plain).principal(), "User:ANONYMOUS");
    }

    #[test]
    fn a_name_cannot_break_out_of_a_command() {
        let evil = section(&json!({ "mechanism": "PLAIN", "username": "a'; rm -rf $HOME #", "password": "p" }));
        let command = Commands::new(&evil).allow_group("g`id`\u{202e}");
        assert!(command.contains(r"'User:a'\''; rm -rf $HOME #'"), "{command}");
        assert!(command.contains("'g`id`") && !command.contains('\u{202e}'), "{command}");
    }
}
