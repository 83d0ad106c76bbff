//! The whole suite.
fn main() {}
