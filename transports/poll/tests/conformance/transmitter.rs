//! A transmitter.
