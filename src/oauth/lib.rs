#![doc = include_str!("README.md")]

mod admin;
mod bearer;
mod config;
mod denied;
mod enrol;
mod guard;
mod producer;
mod token;

pub use admin::{AdminGuard, AdminTokenError, admin_token, create_admin_token, read_admin_token};
pub use bearer::credential;
pub use config::{EventsSection, ProducerSection, SubjectsSection, TokenHashSection};
pub use denied::Denied;
pub use enrol::{EnrolError, enrol};
pub use guard::Guard;
pub use producer::{EventsAllowed, Producer, ProducerError, SubjectPolicy, SubjectRules};
pub use token::{Minted, TokenHash, TokenHashError, TokenKind, mint};
