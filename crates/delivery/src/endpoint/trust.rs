//! The options of methods over HTTP about the addresses that a channel may connect to and the certificates it trusts.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::{Map, Value as Json};
use setgate_net::{ClientIdentity, GuardPolicy, IpNet, Roots, Secret, TlsPolicy};

use crate::{Cause, Fault, Options};

/// The options that say which addresses a channel may connect to and which certificates it trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Networks that the endpoint may lie in although they are not global; any port of them.
    pub allow_networks: Vec<IpNet>,
    /// True when the endpoint may be an `http` URL, provided that it lies in an allowed network.
    pub allow_http: bool,
    /// Ports that the endpoint may have beside 443 and 8443.
    pub allow_ports: Vec<u16>,
    /// Further certificate authorities for this endpoint, as PEM.
    pub ca_pem: Option<String>,
    /// The client certificate to show, with its chain, as PEM.
    pub client_certificate_pem: Option<String>,
    /// The client certificate's key, as PEM.
    pub client_key_pem: Option<Secret<String>>,
}

impl Options for Trust {
    const SECRETS: &'static [&'static str] = &["/client_key_pem"];
}

impl Trust {
    const MEMBERS: [&'static str; 6] =
        ["allow_networks", "allow_http", "allow_ports", "ca_pem", "client_certificate_pem", "client_key_pem"];

    /// Returns the pool key: a channel shares connections only with channels that are alike in all of this (hardening
    /// H20).
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member of the grant that is not acceptable.
    pub fn policy(&self, issuer: &str) -> Result<TlsPolicy, Fault> {
        let fault = |member: &str, why: String| Fault::Terms {
            pointer: format!("/grant/{member}"),
            cause: Cause::configuration("invalid", why),
        };
        let identity = match (&self.client_certificate_pem, &self.client_key_pem) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some(
                ClientIdentity::from_pem(chain.as_bytes(), key.expose().as_bytes())
                    .map_err(|error| fault("client_certificate_pem", error.to_string()))?,
            ),
            (Some(_), None) => return Err(fault("client_key_pem", "`client_certificate_pem` needs it".to_owned())),
            (None, Some(_)) => return Err(fault("client_certificate_pem", "`client_key_pem` needs it".to_owned())),
        };
        let extra_roots = self.ca_pem.as_ref().map(|pem| Roots::from_pem(pem.as_bytes())).transpose();
        Ok(TlsPolicy {
            issuer: issuer.into(),
            identity,
            extra_roots: extra_roots.map_err(|error| fault("ca_pem", error.to_string()))?,
            guard: GuardPolicy {
                allow_networks: self.allow_networks.clone(),
                allow_http: self.allow_http,
                allow_ports: self.allow_ports.clone(),
            },
        })
    }
}

/// A method's own options with the members of [`Trust`] beside them, in one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusting<T> {
    /// The options of the method itself.
    pub own: T,
    /// The options that every method over HTTP has.
    pub trust: Trust,
}

impl<T: Options> Options for Trusting<T> {
    const SECRETS: &'static [&'static str] = {
        assert!(T::SECRETS.is_empty(), "its secrets would be kept in the clear");
        Trust::SECRETS
    };
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Trusting<T> {
    /// Reads both parts strictly: a member that belongs to neither is refused.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Json::Object(mut own) = Json::deserialize(from)? else {
            return Err(D::Error::custom("an object is expected"));
        };
        let trust: Map<_, _> = Trust::MEMBERS.iter().filter_map(|member| own.remove_entry(*member)).collect();
        let own = serde_json::from_value(Json::Object(own)).map_err(D::Error::custom)?;
        let trust = serde_json::from_value(Json::Object(trust)).map_err(D::Error::custom)?;
        Ok(Self { own, trust })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Own {
        window: usize,
    }

    impl Default for Own {
        fn default() -> Self {
            Self { window: 7 }
        }
    }

    impl Options for Own {}

    fn read(json: Json) -> Result<Trusting<Own>, String> {
        serde_json::from_value(json).map_err(|error| error.to_string())
    }

    #[test]
    fn every_member_finds_its_part() {
        let all = json!({
            "window": 3, "allow_networks": ["10.0.0.0/8"], "allow_http": true, "allow_ports": [8080], "ca_pem": "ca",
            "client_certificate_pem": "chain", "client_key_pem": "canary",
        });
        let read_all = read(all).unwrap();
        assert!(!format!("{read_all:?}").contains("canary"));
        let trust = Trust {
            allow_networks: vec!["10.0.0.0/8".parse().unwrap()],
            allow_http: true,
            allow_ports: vec![8080],
            ca_pem: Some("ca".to_owned()),
            client_certificate_pem: Some("chain".to_owned()),
            client_key_pem: Some("canary".to_owned().into()),
        };
        assert_eq!(read_all, Trusting { own: Own { window: 3 }, trust });
        assert_eq!(read(json!({})).unwrap(), Trusting { own: Own::default(), trust: Trust::default() });
        assert_eq!(Trusting::<Own>::SECRETS, ["/client_key_pem"]);
    }

    #[test]
    fn what_neither_part_knows_is_refused() {
        for (json, says) in [
            (json!({ "windows": 3 }), "unknown field `windows`"),
            (json!({ "allow_ports": "8080" }), "invalid type: string"),
            (json!({ "allow_networks": ["10.0.0.0/40"] }), "invalid"),
            (json!([]), "an object is expected"),
            (json!(null), "an object is expected"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_grant_names_the_member_that_is_wrong() {
        let pointer = |json: Json| match read(json).unwrap().trust.policy("i").unwrap_err() {
            Fault::Terms { pointer, .. } => pointer,
            other => other.to_string(),
        };
        assert_eq!(pointer(json!({ "ca_pem": "no" })), "/grant/ca_pem");
        assert_eq!(pointer(json!({ "client_key_pem": "no" })), "/grant/client_certificate_pem");
        assert_eq!(pointer(json!({ "client_certificate_pem": "no" })), "/grant/client_key_pem");
        let both = json!({ "client_certificate_pem": "no", "client_key_pem": "no" });
        assert_eq!(pointer(both), "/grant/client_certificate_pem");
        assert!(Trust::default().policy("i").is_ok());
    }
}
