//! The fuzz target of `checks::answer`.
#![no_main]

extern crate setgate_push as push;

#[path = "../checks.rs"]
#[expect(dead_code, reason = "each target runs one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::answer(data);
});
