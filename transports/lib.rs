#![doc = include_str!("README.md")]
#[cfg(feature = "kafka")]
pub use kafka;
pub use multipush;
pub use poll;
pub use push;
pub use websocket;
