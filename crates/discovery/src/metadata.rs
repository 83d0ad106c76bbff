//! Transmitter configuration metadata (SSF 1.0 §7.1).

use serde::{Deserialize, Serialize};

/// What a transmitter says of itself. Members that are absent, and arrays that are empty, are left out when it is written
/// (SSF 1.0 §7.2.3); unknown members are ignored when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The version of the specification: `1_0`. Absent means `1_0-ID1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_version: Option<String>,
    /// The issuer: identical with the URL that the metadata was asked of, and with `iss` of its SETs (SSF 1.0 §7.2.4).
    pub issuer: String,
    /// Where its key set is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// URIs of its delivery methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delivery_methods_supported: Vec<String>,
    /// Where streams are created, read, updated and deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_endpoint: Option<String>,
    /// Where the status of a stream is read and changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_endpoint: Option<String>,
    /// Where subjects are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_subject_endpoint: Option<String>,
    /// Where subjects are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_subject_endpoint: Option<String>,
    /// Where verification is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification_endpoint: Option<String>,
    /// Members of complex subjects that a receiver must be able to interpret (SSF 1.0 §3.6).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critical_subject_members: Vec<String>,
    /// How its API wants callers to be authorised (SSF 1.0 §7.1.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorization_schemes: Vec<AuthorizationScheme>,
    /// What is sent about subjects that nobody added or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_subjects: Option<DefaultSubjects>,
}

/// One authorisation scheme. Further members are allowed and not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationScheme {
    /// Its URN, for example `urn:ietf:rfc:6749`.
    pub spec_urn: String,
}

/// What is sent about subjects that nobody added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultSubjects {
    /// Everything.
    #[serde(rename = "ALL")]
    All,
    /// Nothing.
    #[serde(rename = "NONE")]
    None,
}
