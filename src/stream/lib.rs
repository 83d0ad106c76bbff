#![doc = include_str!("README.md")]

mod decide;
mod model;
mod roster;
mod status;

pub use decide::{Decision, Why, decide};
pub use model::{DefaultSubjects, Delivery, EventsWanted, OnRefusal, Owner, Retention, Stream, StreamId, StreamIdError};
pub use roster::{Roster, matches};
pub use status::{InvalidTransition, Reason, Status};
