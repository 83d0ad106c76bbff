//! Integration tests: one binary, one module per chapter.

mod bad_input;
mod boxed;
mod corpus;
mod docs;
mod hostile;
mod house;
mod http;
mod issuers;
mod repeats;
mod sink;
mod stopping;
mod store_folder;
mod wall_clock;
