//! The fuzz target of `exchanges::multipush`.
#![no_main]

extern crate setgate_multipush as multipush;
extern crate setgate_poll as poll;
extern crate setgate_websocket as websocket;

#[path = "../exchanges.rs"]
#[expect(dead_code, reason = "each target runs one of the checks")]
mod exchanges;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    exchanges::multipush(data);
});
