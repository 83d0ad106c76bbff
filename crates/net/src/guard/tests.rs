use serde::Deserialize;

use super::*;

/// A line of `tests/vectors/guard.json`: a target, the options that concern it, and the verdict.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    ip: Option<IpAddr>,
    url: Option<String>,
    name: Option<String>,
    resolves: Option<IpAddr>,
    #[serde(default)]
    allow_networks: Vec<IpNet>,
    #[serde(default)]
    deny_networks: Vec<IpNet>,
    #[serde(default)]
    allow_http: bool,
    #[serde(default)]
    allow_ports: Vec<u16>,
    own: Option<SocketAddr>,
    verdict: String,
    note: String,
}

impl Vector {
    fn guards(&self) -> [AddressGuard; 2] {
        let own = OwnAddresses::new();
        if let Some(listener) = self.own {
            own.add(listener);
        }
        let deny = OutboundConfig { deny_networks: self.deny_networks.clone(), ..OutboundConfig::default() };
        let everywhere = OutboundConfig {
            allow_networks: self.allow_networks.clone(),
            allow_http: self.allow_http,
            allow_ports: self.allow_ports.clone(),
            ..deny.clone()
        };
        let here = GuardPolicy {
            allow_networks: self.allow_networks.clone(),
            allow_http: self.allow_http,
            allow_ports: self.allow_ports.clone(),
        };
        // It makes no difference whether `[net]` or the stream's grant allows it.
        [AddressGuard::new(&everywhere, &GuardPolicy::default(), own.clone()), AddressGuard::new(&deny, &here, own)]
    }

    fn check(&self, guard: &AddressGuard) -> Result<(), Refused> {
        match (&self.url, &self.name, self.resolves.or(self.ip)) {
            (Some(url), None, None) => guard.url(&Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))),
            (None, Some(name), Some(ip)) => {
                guard.url(&Url::parse(&format!("https://{name}/")).unwrap()).and_then(|()| guard.address(true, ip, 443))
            }
            (None, None, Some(ip)) => {
                let literal = match ip {
                    IpAddr::V4(ip) => format!("https://{ip}/"),
                    IpAddr::V6(ip) => format!("https://[{ip}]/"),
                };
                let as_url = guard.url(&Url::parse(&literal).unwrap());
                let as_address = guard.address(true, ip, 443);
                assert_eq!(as_url, as_address, "{ip}: written in a URL and resolved are checked alike");
                as_address
            }
            _ => panic!("a vector has a url, an ip, or a name that resolves: {self:?}"),
        }
    }
}

#[test]
fn the_corpus_of_encodings_and_ranges_is_validated_as_it_says() {
    let corpus: Vec<Vector> = serde_json::from_str(include_str!("../../../../tests/vectors/guard.json")).unwrap();
    assert!(corpus.len() > 250, "the corpus has {} lines", corpus.len());
    let mut wrong = Vec::new();
    for vector in &corpus {
        for guard in vector.guards() {
            let verdict = vector.check(&guard);
            let said = if verdict.is_ok() { "allowed" } else { "refused" };
            if said != vector.verdict {
                wrong.push(format!("{said}: {}: {vector:?} {verdict:?}", vector.note));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_refusal_names_the_option_and_the_line_to_add() {
    let guard = AddressGuard::new(&OutboundConfig::default(), &GuardPolicy::default(), OwnAddresses::new());
    let refusal = |url: &str| guard.url(&Url::parse(url).unwrap()).unwrap_err().0;
    assert!(refusal("https://127.0.0.1/").contains(r#"allow_networks = ["127.0.0.1/32"]"#));
    assert!(refusal("https://[fd00::1]/").contains(r#"allow_networks = ["fd00::1/128"]"#));
    assert!(refusal("https://a.example:9000/").contains("allow_ports = [9000]"));
    assert!(refusal("http://a.example/").contains("allow_http = true"));
}

#[test]
fn what_a_refusal_says_to_write_is_enough() {
    for ip in ["127.0.0.1", "169.254.169.254", "168.63.129.16", "::1", "fd00:ec2::254", "10.0.0.1", "::ffff:10.0.0.1"] {
        let ip: IpAddr = ip.parse().unwrap();
        let closed = AddressGuard::new(&OutboundConfig::default(), &GuardPolicy::default(), OwnAddresses::new());
        let text = closed.address(true, ip, 443).unwrap_err().0;
        let (_, after) = text.split_once("[\"").unwrap();
        let net: IpNet = after.split_once('"').unwrap().0.parse().unwrap();
        let policy = GuardPolicy { allow_networks: vec![net], ..GuardPolicy::default() };
        let open = AddressGuard::new(&OutboundConfig::default(), &policy, OwnAddresses::new());
        assert_eq!(open.address(true, ip, 443), Ok(()), "{text}");
    }
}

#[test]
fn a_listener_added_later_is_refused_too() {
    let own = OwnAddresses::new();
    let policy = GuardPolicy { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..GuardPolicy::default() };
    let guard = AddressGuard::new(&OutboundConfig::default(), &policy, own.clone());
    let target = (IpAddr::from([127, 0, 0, 1]), 8080);
    assert!(guard.address(true, target.0, target.1).is_ok());
    own.add(SocketAddr::from(target));
    assert!(guard.address(true, target.0, target.1).is_err());
}
