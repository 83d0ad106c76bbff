//! Integration tests: one binary, with one module per topic.
//!
//! `cfg(test)` on each module tells the lints that all of it is test code.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod boxed;
#[cfg(test)]
mod canaries;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod described;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod earlier_store;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod issuers;
#[cfg(test)]
mod listening;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod multipush;
#[cfg(test)]
mod own_method;
#[cfg(test)]
mod polling;
#[cfg(test)]
mod rekey;
#[cfg(test)]
mod repairing;
#[cfg(test)]
mod repeats;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod sink;
#[cfg(test)]
mod starting;
#[cfg(test)]
mod status;
#[cfg(test)]
mod stopping;
#[cfg(test)]
mod store_folder;
#[cfg(test)]
mod sums;
#[cfg(test)]
mod variants;
#[cfg(test)]
mod wall_clock;
