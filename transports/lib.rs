#![doc = include_str!("README.md")]
pub use multipush;
pub use poll;
pub use push;
pub use websocket;
