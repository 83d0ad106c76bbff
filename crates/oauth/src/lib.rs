#![doc = include_str!("../README.md")]

mod admin;
mod bearer;
mod config;
mod denied;
mod enrol;
mod guard;
mod producer;
mod receiver;
mod section;
mod token;
mod tokens;

pub use admin::{AdminGuard, AdminTokenError, admin_token, create_admin_token, read_admin_token};
pub use bearer::credential;
pub use config::{
    EventsSection, ProducerSection, ReceiverSection, SourceSection, StreamsSection, SubjectsSection, TokenHashSection,
};
pub use denied::Denied;
pub use enrol::{EnrolError, enrol, enrol_sources};
pub use guard::{Admitted, Guard};
pub use producer::{EventsAllowed, Producer, SubjectPolicy, SubjectRules};
pub use receiver::{Receiver, StreamsAllowed};
pub use section::SectionError;
pub use token::{Minted, TokenHash, TokenHashError, TokenKind, mint};
