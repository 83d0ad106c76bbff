//! See `exchanges::exchange`.
#![no_main]

extern crate multipush;
extern crate poll;
extern crate websocket;

#[path = "../exchanges.rs"]
#[expect(dead_code, reason = "each target runs one of the checks")]
mod exchanges;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    exchanges::exchange(data);
});
