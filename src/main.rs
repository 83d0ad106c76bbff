//! setgate.
fn main() {}
