//! Integration tests: one binary, one module per chapter.

mod house;
