#![doc = include_str!("../README.md")]

mod decide;
mod lookup;
mod model;
mod roster;
mod status;

pub use decide::{Decision, Why, decide, why_nothing};
pub use lookup::Lookup;
pub use model::{
    Batching, DefaultSubjects, Delivery, EventsWanted, OnRefusal, Owner, Retention, Stream, StreamId, StreamIdError,
};
pub use roster::{Roster, Subjects, matches};
pub use status::{InvalidTransition, Reason, Status};
