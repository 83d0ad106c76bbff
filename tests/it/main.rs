//! Integration tests: one binary, one module per chapter.

mod corpus;
mod docs;
mod house;
