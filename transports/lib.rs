#![doc = include_str!("README.md")]
pub use multipush;
pub use push;
