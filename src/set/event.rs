//! An event as producers put it in.
