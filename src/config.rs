//! The configuration: one section for each crate.
//!
//! One TOML file, overridden by `SETGATE__SECTION__KEY` environment variables. Every error names the place, the key and
//! the remedy. References to secrets (`file:`, `env:`) are resolved here and nowhere else (hardening H26).
mod error;
mod load;
mod options;
mod renamed;
mod secrets;
mod validate;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::Value as Json;
use setgate_jose::Algorithm;

pub use error::ConfigError;
pub use load::{Loaded, Source, find, load, parse};
pub use options::{Effective, effective};
pub(crate) use secrets::resolve;

/// The file `config/setgate.toml`, which explains every option and gives its default.
pub const DEFAULTS: &str = include_str!("../config/setgate.toml");
/// The file `config/dev.toml`: the configuration of `setgate serve --dev` where there is no file.
pub const DEV: &str = include_str!("../config/dev.toml");

/// The configuration of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Settings of the gateway as a whole.
    pub gateway: GatewaySection,
    /// The listeners.
    pub listen: ListenSection,
    /// Access to the admin listener.
    pub admin: setgate_control::OperatorConfig,
    /// The location of the gateway's own secrets.
    pub secrets: SecretsSection,
    /// Signing keys.
    pub keys: KeysSection,
    /// The durable store.
    pub store: setgate_store::Options,
    /// The limits of one request to the intake.
    pub intake: setgate_control::IntakeConfig,
    /// Limits on receivers that connect.
    pub sessions: crate::sessions::SessionsConfig,
    /// Retries, back-off and sharing of endpoints.
    pub router: setgate_router::Config,
    /// Outbound requests.
    pub net: setgate_net::OutboundConfig,
    /// The log.
    pub log: setgate_telemetry::LogConfig,
    /// The section of each delivery method, by name, passed to the method unread.
    pub methods: BTreeMap<String, Json>,
    /// The transmitter identities of this gateway.
    pub issuers: Vec<IssuerSection>,
    /// The producers that may put events in.
    pub producers: Vec<setgate_oauth::ProducerSection>,
    /// Places from which events are collected.
    pub sources: Vec<setgate_oauth::SourceSection>,
    /// The receivers that may connect to collect SETs.
    pub receivers: Vec<setgate_oauth::ReceiverSection>,
    /// The streams that the operator declares.
    pub streams: Vec<setgate_router::Declared>,
}

/// `[gateway]`: the gateway as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySection {
    /// Whether the gateway runs in dev mode, as with `serve --dev`: it listens on loopback only, and allows `http`
    /// issuers and receivers on loopback.
    pub dev: bool,
    /// The time between reporting "not ready" and closing the listeners, in which load balancers turn away; zero in dev
    /// mode.
    #[serde(with = "setgate_clock::duration")]
    pub drain_delay: Duration,
    /// The time from the signal in which everything in flight must have ended.
    #[serde(with = "setgate_clock::duration")]
    pub shutdown_timeout: Duration,
}

impl Default for GatewaySection {
    fn default() -> Self {
        Self { dev: false, drain_delay: Duration::from_secs(5), shutdown_timeout: Duration::from_secs(25) }
    }
}

/// `[listen]`: the listeners.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// The address of the public listener: intake, discovery, responders' routes. Port 0 takes a free one.
    pub public: SocketAddr,
    /// The address of the admin listener: health, metrics, the admin API.
    pub admin: SocketAddr,
    /// The party that terminates TLS.
    pub tls: Tls,
    /// The certificate of the public listener.
    pub public_tls: TlsFiles,
    /// The certificate of the admin listener.
    pub admin_tls: TlsFiles,
    /// The limits for callers at each of the listeners.
    pub limits: setgate_net::Limits,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            public: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8081)),
            tls: Tls::Own,
            public_tls: TlsFiles::default(),
            admin_tls: TlsFiles::default(),
            limits: setgate_net::Limits::default(),
        }
    }
}

impl ListenSection {
    /// Returns the configuration of a listener for `setgate_net`.
    #[must_use]
    pub fn listener(&self, files: &TlsFiles) -> setgate_net::ListenConfig {
        setgate_net::ListenConfig {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            limits: self.limits.clone(),
        }
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsFiles {
    /// The PEM file with the certificate chain.
    pub certificate: Option<PathBuf>,
    /// The PEM file with the certificate's key.
    pub key: Option<PathBuf>,
}

/// The party that terminates TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// The listeners, with their own certificates; a listener on loopback may do without.
    #[default]
    Own,
    /// A proxy in front: listeners without a certificate speak plain HTTP even if they are not on loopback.
    TerminatedByProxy,
}

/// `[secrets]`: the location of the gateway's own secrets, outside the store (hardening H36).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsSection {
    /// The folder of `kek`, `admin-token`, `store-names` and `store-owner`; created with mode 0700.
    pub folder: PathBuf,
    /// The key-encryption key as `file:PATH` or `env:NAME`; if empty, it is the file `kek` in the folder.
    pub kek: String,
}

impl Default for SecretsSection {
    fn default() -> Self {
        Self { folder: PathBuf::from("secrets"), kek: String::new() }
    }
}

impl SecretsSection {
    /// Returns the path of the operator's token.
    #[must_use]
    pub fn admin_token(&self) -> PathBuf {
        self.folder.join("admin-token")
    }

    /// Returns the path of the file that tells the store from a copy of it.
    #[must_use]
    pub fn store_owner(&self) -> PathBuf {
        self.folder.join("store-owner")
    }
}

/// `[keys]`: signing keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysSection {
    /// The time for which receivers may cache metadata and key set; a new key signs no sooner than this after its
    /// publication.
    #[serde(with = "setgate_clock::duration")]
    pub max_age: Duration,
    /// The time for which a key that no longer signs stays published.
    #[serde(with = "setgate_clock::duration")]
    pub retire_after: Duration,
}

impl Default for KeysSection {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(15 * 60), retire_after: Duration::from_secs(30 * 24 * 3600) }
    }
}

impl KeysSection {
    /// Returns the rotation settings for `setgate_jose`.
    #[must_use]
    pub const fn rotation(&self) -> setgate_jose::Rotation {
        setgate_jose::Rotation { max_age: self.max_age, retire_after: self.retire_after }
    }
}

/// `[[issuers]]`: a transmitter identity of this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSection {
    /// The issuer's URL, which is the `iss` of its SETs byte for byte.
    pub url: String,
    /// The algorithms that the issuer has keys for; the first one serves streams that name none.
    #[serde(default = "rs256")]
    pub algorithms: Vec<Algorithm>,
    /// The length of new RSA keys in bits: 2048, 3072 or 4096.
    #[serde(default = "rsa_bits")]
    pub rsa_bits: u16,
}

const fn rsa_bits() -> u16 {
    2048
}

fn rs256() -> Vec<Algorithm> {
    vec![Algorithm::Rs256]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Source {
        Source::File("config/setgate.toml".into())
    }

    /// Returns the defaults with the examples uncommented: lines where a letter or `[` follows `#`.
    fn with_examples() -> String {
        let example = |line: &str| {
            line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '['))
        };
        DEFAULTS
            .lines()
            .map(|line| if example(line) { line.trim_start_matches('#') } else { line })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_file_equals_the_defaults() {
        let mut config = parse(DEFAULTS, file(), Vec::new()).unwrap().config;
        let mut methods = std::mem::take(&mut config.methods);
        assert_eq!(config, Config::default());
        section::<setgate_transports::push::Section>(&mut methods, "push");
        section::<setgate_transports::multipush::Section>(&mut methods, "multipush");
        section::<setgate_transports::poll::Section>(&mut methods, "poll");
        section::<setgate_transports::websocket::Section>(&mut methods, "websocket");
        assert!(methods.is_empty(), "{methods:?}");
    }

    /// Checks that the file names every option of a method, each at its default.
    fn section<S>(methods: &mut BTreeMap<String, Json>, name: &str)
    where
        S: Default + PartialEq + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let written = methods.remove(name).unwrap_or_else(|| panic!("config/setgate.toml has no [methods.{name}]"));
        let unknown = serde_json::from_value::<S>(serde_json::json!({ "§": true })).unwrap_err().to_string();
        for option in unknown.split('`').skip(1).step_by(2).skip(1) {
            assert!(written.get(option).is_some(), "config/setgate.toml does not name {option} of [methods.{name}]");
        }
        assert_eq!(serde_json::from_value::<S>(written).unwrap(), S::default(), "[methods.{name}]");
    }

    #[test]
    fn the_file_names_every_option() {
        let table: toml::Table = with_examples().parse().unwrap();
        // A section that contains an unknown member lists the members that it knows.
        let known = |path: &[&str]| {
            let mut wrong = toml::Value::Table(toml::Table::from_iter([("§".to_owned(), toml::Value::Boolean(true))]));
            for name in path.iter().rev() {
                wrong = toml::Value::Table(toml::Table::from_iter([((*name).to_owned(), wrong)]));
            }
            let error = Config::deserialize(wrong).unwrap_err().message().to_owned();
            let names: Vec<String> = error.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect();
            assert!(!names.is_empty(), "{path:?}: {error}");
            names
        };
        let mut seen = 0;
        for path in [
            &[][..],
            &["gateway"],
            &["listen"],
            &["listen", "public_tls"],
            &["listen", "admin_tls"],
            &["listen", "limits"],
            &["admin"],
            &["secrets"],
            &["keys"],
            &["store"],
            &["intake"],
            &["sessions"],
            &["router"],
            &["net"],
            &["log"],
        ] {
            let section = path.iter().fold(&toml::Value::Table(table.clone()), |at, name| &at[*name]).clone();
            for name in known(path) {
                assert!(section.get(&name).is_some(), "config/setgate.toml does not name {path:?} {name}");
                seen += 1;
            }
        }
        assert!(seen > 60, "only {seen} options were seen");
    }

    #[test]
    fn the_examples_of_the_file_are_good() {
        let loaded = parse(&with_examples(), file(), Vec::new()).unwrap();
        assert_eq!(loaded.config.issuers.len(), 1);
        assert_eq!(loaded.config.producers.len(), 1);
        assert_eq!(loaded.config.sources.len(), 1);
        assert_eq!(loaded.config.receivers.len(), 1);
        assert_eq!(loaded.config.streams.len(), 1);
    }

    /// Checks that each option of a cluster is in the examples, and that defaults are given as they are.
    #[cfg(feature = "kafka-system-openssl")]
    #[test]
    fn the_examples_of_kafka_are_whole() {
        use setgate_transports::kafka::{ClusterSection, Password, SaslSection, Section, TlsSection, TokenSection};

        fn all<S: serde::de::DeserializeOwned>(written: &Json) {
            // A missing member is reported only where no unknown one is found first.
            let Err(unknown) = serde_json::from_value::<S>(serde_json::json!({ "§": true })) else {
                panic!("an unknown option is taken")
            };
            for option in unknown.to_string().split('`').skip(1).step_by(2).skip(1) {
                assert!(written.get(option).is_some(), "{option}");
            }
        }

        let config = parse(&with_examples(), file(), Vec::new()).unwrap().config;
        let written = &config.methods["kafka"]["clusters"];
        all::<ClusterSection>(&written["main"]);
        all::<TlsSection>(&written["main"]["tls"]);
        all::<Password>(&written["main"]["sasl"]);
        all::<TokenSection>(&written["other"]["sasl"]);
        let section: Section = serde_json::from_value(config.methods["kafka"].clone()).unwrap();
        let (main, other) = (&section.clusters["main"], &section.clusters["other"]);
        assert!(matches!(other.sasl, Some(SaslSection::OauthBearer(_))));
        let defaults = ClusterSection {
            bootstrap: main.bootstrap.clone(),
            tls: main.tls.clone(),
            sasl: main.sasl.clone(),
            create_topics: main.create_topics,
            properties: main.properties.clone(),
            ..serde_json::from_value(serde_json::json!({ "bootstrap": [] })).unwrap()
        };
        assert_eq!(*main, defaults);
    }

    #[test]
    fn the_file_for_a_first_try_is_good() {
        let loaded = load(Source::Dev, true, Vec::new()).unwrap();
        assert!(loaded.config.listen.public.ip().is_loopback() && loaded.config.net.allow_http);
    }

    #[test]
    #[cfg(feature = "kafka")]
    fn the_file_for_kafka_is_good() {
        let place = concat!(env!("CARGO_MANIFEST_DIR"), "/config/kafka-bridge.toml");
        let text = std::fs::read_to_string(place).unwrap();
        let config = parse(&text, Source::File(place.into()), Vec::new()).unwrap().config;
        assert!(config.gateway.dev && config.listen.public.ip().is_loopback());
        let section: setgate_transports::kafka::Section =
            serde_json::from_value(config.methods["kafka"].clone()).unwrap();
        let topics: Vec<_> = config.streams.iter().filter(|stream| stream.delivery.method == "kafka").collect();
        assert_eq!((config.streams.len(), topics.len(), config.sources.len()), (3, 1, 1));
        let cluster = topics[0].delivery.terms["cluster"].as_str().unwrap();
        assert_eq!(section.clusters[cluster].bootstrap, ["127.0.0.1:9092"]);
    }

    #[test]
    fn options_are_shown_with_their_source() {
        let variables = vec![("SETGATE__LOG__LEVEL".to_owned(), "debug".to_owned())];
        let loaded = parse(
            "[net]\nallow_http = true\n[methods.push]\nx = \"canary\"\n",
            Source::File("a.toml".into()),
            variables,
        )
        .unwrap();
        let all = effective(&loaded);
        let of = |key: &str| {
            all.iter().find(|option| option.key == key).map(|option| (option.value.as_str(), option.source.as_str()))
        };
        assert_eq!(of("log.level"), Some(("\"debug\"", "SETGATE__LOG__LEVEL")));
        assert_eq!(of("net.allow_http"), Some(("true", "a.toml")));
        assert_eq!(of("net.timeout"), Some(("\"30s\"", "default")));
        assert!(!format!("{all:?}").contains("canary"));
    }
}
