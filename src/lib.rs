//! The gateway assembled.
