//! Validation across sections.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use setgate_discovery::IssuerUrl;

use super::{Config, ConfigError, Source, Tls, TlsFiles, error::Place, load::locate};

/// The loopback networks, which dev mode lets through the address guard.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// Validates the configuration as a whole, and applies the changes of dev mode.
///
/// # Errors
/// Returns the first error, with the remedy.
pub(super) fn whole(config: &mut Config, source: &Source, text: &str) -> Result<(), ConfigError> {
    let wrong = |key: &str, what: String| ConfigError::new(place(source, text, key), key, what);
    listeners(config, &wrong)?;
    if config.gateway.dev {
        config.net.allow_networks.extend(LOOPBACK.iter().filter_map(|net| net.parse::<setgate_net::IpNet>().ok()));
        config.net.allow_http = true;
        config.gateway.drain_delay = Duration::ZERO;
    }
    if config.gateway.shutdown_timeout <= config.gateway.drain_delay {
        return Err(wrong("gateway.shutdown_timeout", "it must be longer than `drain_delay`".to_owned()));
    }
    if config.keys.max_age < Duration::from_secs(1) || config.keys.retire_after.is_zero() {
        return Err(wrong("keys.max_age", "key sets that nobody may keep cannot be rotated without a gap".to_owned())
            .remedy("write \"1s\" or more for `max_age`, and more than \"0s\" for `retire_after`"));
    }
    if config.secrets.folder.starts_with(&config.store.path) {
        return Err(wrong(
            "secrets.folder",
            "it lies inside the store: a stolen store would bring its own key".to_owned(),
        )
        .remedy("name a folder outside of it"));
    }
    issuers(config, &wrong)?;
    sources(config, &wrong)?;
    streams(config, &wrong)
}

fn listeners(config: &Config, wrong: &impl Fn(&str, String) -> ConfigError) -> Result<(), ConfigError> {
    let listen = &config.listen;
    for (key, address, files) in
        [("listen.public", listen.public, &listen.public_tls), ("listen.admin", listen.admin, &listen.admin_tls)]
    {
        let TlsFiles { certificate, key: private } = files;
        if certificate.is_some() != private.is_some() {
            return Err(wrong(&format!("{key}_tls"), "a certificate and its key belong together".to_owned())
                .remedy("write both `certificate` and `key`"));
        }
        let plain = certificate.is_none();
        if config.gateway.dev && !is_loopback(address) {
            return Err(wrong(key, format!("dev mode listens on loopback only, and {address} is not"))
                .remedy("write 127.0.0.1, or leave dev mode"));
        }
        if plain && !is_loopback(address) && listen.tls != Tls::TerminatedByProxy {
            return Err(wrong(key, format!("{address} is not loopback and has no certificate")).remedy(format!(
                "name `certificate` and `key` in [{key}_tls], or write `tls = \"terminated-by-proxy\"` in [listen] when a proxy in front speaks TLS"
            )));
        }
    }
    if listen.public == listen.admin && listen.public.port() != 0 {
        return Err(wrong("listen.admin", "both listeners have the same address".to_owned()));
    }
    Ok(())
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn issuers(config: &Config, wrong: &impl Fn(&str, String) -> ConfigError) -> Result<(), ConfigError> {
    if config.issuers.is_empty() {
        return Err(wrong("issuers", "there is no issuer: SETs need an `iss`".to_owned())
            .remedy("add one:  [[issuers]]  url = \"https://idp.example.com\""));
    }
    let mut seen = BTreeSet::new();
    for issuer in &config.issuers {
        let url = IssuerUrl::parse(&issuer.url).map_err(|error| wrong("issuers.url", error.to_string()))?;
        let loopback = issuer.url.parse::<url::Url>().ok().is_some_and(|url| match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        });
        if !(url.is_https() || config.gateway.dev && loopback) {
            return Err(wrong("issuers.url", format!("`{}` is not https", issuer.url)).remedy(
                "write an https URL; for a try on this machine write a loopback URL and `dev = true` in [gateway] (or serve --dev)",
            ));
        }
        if !seen.insert(url.path().to_owned()) {
            return Err(wrong("issuers.url", format!("two issuers have the path of `{}`", issuer.url))
                .remedy("give each issuer a path of its own: requests are told apart by their path"));
        }
        if issuer.algorithms.is_empty() {
            return Err(wrong("issuers.algorithms", "an issuer without an algorithm cannot sign".to_owned())
                .remedy("write `algorithms = [\"RS256\"]`, or leave it out"));
        }
        if setgate_jose::RsaBits::from_bits(issuer.rsa_bits).is_none() {
            return Err(wrong("issuers.rsa_bits", format!("{} is no length of an RSA key here", issuer.rsa_bits))
                .remedy("write 2048, 3072 or 4096"));
        }
    }
    Ok(())
}

fn sources(config: &Config, wrong: &impl Fn(&str, String) -> ConfigError) -> Result<(), ConfigError> {
    // The rules of a source are checked as those of a producer; its method checks the place that it collects from.
    let urls: Vec<&str> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    let checked = setgate_oauth::Guard::check_sources(&config.sources, &config.producers, &urls);
    checked.map_err(|error| {
        let key = match &error {
            setgate_oauth::SectionError::Issuer { .. } => "sources.issuer",
            setgate_oauth::SectionError::Empty { .. } => "sources.events",
            setgate_oauth::SectionError::Domain { .. } => "sources.subjects",
            _ => "sources.name",
        };
        wrong(key, error.to_string())
    })
}

fn streams(config: &mut Config, wrong: &impl Fn(&str, String) -> ConfigError) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for stream in &mut config.streams {
        if !seen.insert(stream.id.as_str().to_owned()) {
            return Err(wrong("streams.id", format!("two streams are called `{}`", stream.id)));
        }
        let Some(issuer) = config.issuers.iter().find(|issuer| issuer.url == stream.issuer) else {
            let known: Vec<_> = config.issuers.iter().map(|issuer| issuer.url.as_str()).collect();
            return Err(wrong(
                "streams.issuer",
                format!("the stream `{}` names an issuer that is not there", stream.id),
            )
            .remedy(format!("these are: {}", known.join(", "))));
        };
        if let Some(name) = &stream.algorithm {
            let algorithm: setgate_jose::Algorithm = name
                .parse()
                .map_err(|error: setgate_jose::UnknownAlgorithm| wrong("streams.algorithm", error.to_string()))?;
            if !issuer.algorithms.contains(&algorithm) {
                return Err(wrong(
                    "streams.algorithm",
                    format!("the issuer of the stream `{}` has no key for {algorithm}", stream.id),
                )
                .remedy(format!("add \"{algorithm}\" to the issuer's `algorithms`")));
            }
        }
    }
    Ok(())
}

/// Returns the line of a key, as far as a text search finds it.
fn place(source: &Source, text: &str, key: &str) -> Place {
    let Source::File(path) = source else { return Place::BuiltIn };
    let mut at = 0;
    let line = text.split_inclusive('\n').find_map(|line| {
        let (number, found) = locate(text, at);
        at += line.len();
        (found == key).then_some(number).flatten()
    });
    Place::File(path.clone(), line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("setgate.toml");
        std::fs::write(&path, text).unwrap();
        super::super::load(Source::File(path), false, Vec::new()).map(|loaded| loaded.config)
    }

    const GOOD: &str = "[[issuers]]\nurl = \"https://a.example\"\n";

    #[test]
    fn a_gateway_without_an_issuer_is_refused() {
        let error = load("").unwrap_err();
        assert_eq!(error.key, "issuers");
        assert!(load(GOOD).is_ok());
    }

    #[test]
    fn plain_http_beyond_loopback_is_said_explicitly() {
        let open = format!("[listen]\npublic = \"0.0.0.0:8080\"\n{GOOD}");
        let error = load(&open).unwrap_err();
        assert_eq!(error.key, "listen.public");
        assert!(matches!(error.place, Place::File(_, Some(2))), "{error}");
        assert!(error.remedy.unwrap().contains("terminated-by-proxy"));
        assert!(load(&format!("[listen]\npublic = \"0.0.0.0:8080\"\ntls = \"terminated-by-proxy\"\n{GOOD}")).is_ok());
    }

    #[test]
    fn an_http_issuer_needs_dev_mode_and_loopback() {
        let issuer = |url: &str, dev: bool| load(&format!("[gateway]\ndev = {dev}\n[[issuers]]\nurl = \"{url}\"\n"));
        assert!(issuer("http://127.0.0.1:8080", true).is_ok());
        assert!(issuer("http://127.0.0.1:8080", false).is_err());
        assert!(issuer("http://a.example", true).is_err());
    }

    #[test]
    fn dev_mode_never_listens_beyond_loopback() {
        let error = load(
            "[gateway]\ndev = true\n[listen]\ntls = \"terminated-by-proxy\"\nadmin = \"0.0.0.0:1\"\n[[issuers]]\nurl = \"http://localhost:1\"\n",
        );
        assert_eq!(error.unwrap_err().key, "listen.admin");
    }

    #[test]
    fn secrets_do_not_lie_inside_the_store() {
        assert_eq!(load(&format!("[secrets]\nfolder = \"store/secrets\"\n{GOOD}")).unwrap_err().key, "secrets.folder");
    }

    #[test]
    fn sources_name_issuers_that_are_there_and_no_producer() {
        let source = |issuer: &str, events: &str| {
            load(&format!(
                "{GOOD}[[producers]]\nname = \"idp\"\ntoken_hashes = []\nissuers = []\nevents = \"all\"\nsubjects = \"any\"\n\
                 [[sources]]\nname = \"{}\"\nkind = \"kafka\"\nissuer = \"{issuer}\"\nevents = {events}\nsubjects = \"any\"\nfrom = {{}}\n",
                if issuer.is_empty() { "idp" } else { "hr" }
            ))
        };
        assert!(source("https://a.example", "\"all\"").is_ok());
        let error = source("https://a.example/", "\"all\"").unwrap_err();
        assert_eq!(error.key, "sources.issuer");
        assert!(matches!(error.place, Place::File(_, Some(12))), "{error}");
        assert_eq!(source("https://a.example", "[]").unwrap_err().key, "sources.events");
        assert_eq!(source("", "\"all\"").unwrap_err().key, "sources.issuer");
        let same = load(&format!(
            "{GOOD}[[producers]]\nname = \"x\"\ntoken_hashes = []\nissuers = []\nevents = \"all\"\nsubjects = \"any\"\n\
             [[sources]]\nname = \"x\"\nkind = \"kafka\"\nissuer = \"https://a.example\"\nevents = \"all\"\nsubjects = \"any\"\nfrom = {{}}\n"
        ));
        assert_eq!(same.unwrap_err().key, "sources.name");
        assert!(
            load(&format!("{GOOD}[[sources]]\nname = \"x\"\nkind = \"kafka\"\n")).is_err(),
            "nothing has a silent default"
        );
    }

    #[test]
    fn streams_name_issuers_and_algorithms_that_are_there() {
        let stream = |extra: &str| {
            load(&format!(
                "{GOOD}[[streams]]\nid = \"s\"\naudience = \"x\"\ndelivery = {{ method = \"push\", endpoint_url = \"https://r.example\" }}\n{extra}"
            ))
        };
        assert!(stream("issuer = \"https://a.example\"").is_ok());
        assert_eq!(stream("issuer = \"https://a.example/\"").unwrap_err().key, "streams.issuer");
        assert_eq!(
            stream("issuer = \"https://a.example\"\nalgorithm = \"ES256\"").unwrap_err().key,
            "streams.algorithm"
        );
    }
}
