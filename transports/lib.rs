#![doc = include_str!("README.md")]
#[cfg(feature = "kafka")]
pub use setgate_kafka as kafka;
pub use setgate_multipush as multipush;
pub use setgate_poll as poll;
pub use setgate_push as push;
pub use setgate_websocket as websocket;
