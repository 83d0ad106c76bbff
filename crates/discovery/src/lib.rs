#![doc = include_str!("../README.md")]

mod cache;
mod document;
mod fetch;
mod issuer;
mod metadata;
mod publish;

pub use document::{FetchError, Keys};
pub use fetch::Fetcher;
pub use issuer::{IssuerUrl, IssuerUrlError, is_plain_path};
pub use metadata::{AuthorizationScheme, DefaultSubjects, Metadata};
pub use publish::{Endpoints, PublishError, PublishedIssuer, routes};
