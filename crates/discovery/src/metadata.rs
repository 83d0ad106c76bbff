//! Transmitter configuration metadata (SSF 1.0 §7.1).

use serde::{Deserialize, Serialize};

/// The metadata of a transmitter. Absent members and empty arrays are left out when it is written (SSF 1.0 §7.2.3);
/// unknown members are ignored when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The version of the specification: `1_0`. An absent version means `1_0-ID1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_version: Option<String>,
    /// The issuer, identical to the URL that the metadata was requested for and to `iss` of its SETs (SSF 1.0 §7.2.4).
    pub issuer: String,
    /// The URL of the issuer's key set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// The URIs of the delivery methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delivery_methods_supported: Vec<String>,
    /// The endpoint at which streams are created, read, updated and deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_endpoint: Option<String>,
    /// The endpoint at which the status of a stream is read and changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_endpoint: Option<String>,
    /// The endpoint at which subjects are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_subject_endpoint: Option<String>,
    /// The endpoint at which subjects are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_subject_endpoint: Option<String>,
    /// The endpoint at which verification is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification_endpoint: Option<String>,
    /// The members of complex subjects that a receiver must be able to interpret (SSF 1.0 §3.6).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critical_subject_members: Vec<String>,
    /// The authorisation schemes of the management API (SSF 1.0 §7.1.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorization_schemes: Vec<AuthorizationScheme>,
    /// The default for subjects that were neither added nor removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_subjects: Option<DefaultSubjects>,
}

/// An authorisation scheme. Further members are allowed and not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationScheme {
    /// The scheme's URN, for example `urn:ietf:rfc:6749`.
    pub spec_urn: String,
}

/// The default for subjects that were neither added nor removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultSubjects {
    /// Events about such subjects are sent.
    #[serde(rename = "ALL")]
    All,
    /// Events about such subjects are not sent.
    #[serde(rename = "NONE")]
    None,
}
