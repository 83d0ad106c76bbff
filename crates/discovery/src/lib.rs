#![doc = include_str!("../README.md")]

mod cache;
mod fetch;
mod issuer;
mod metadata;
mod publish;

pub use fetch::{FetchError, Fetcher, Keys};
pub use issuer::{IssuerUrl, IssuerUrlError, is_plain_path};
pub use metadata::{AuthorizationScheme, DefaultSubjects, Metadata};
pub use publish::{Endpoints, PublishError, PublishedIssuer, routes};
