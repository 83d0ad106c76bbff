//! The contract suite of delivery methods.
