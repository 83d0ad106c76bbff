#![doc = include_str!("../README.md")]

mod chain;
mod log;
mod metric;
mod redact;

pub use chain::chain;
pub use log::{LogConfig, LogError, LogFormat, start_log};
pub use metric::Registry;
/// The kinds of metrics: counters, gauges, histograms and families of them.
pub use prometheus_client::metrics;
pub use redact::{clean, clean_json, endpoint_label};
