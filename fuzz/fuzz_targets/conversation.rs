#![no_main]

#[path = "../targets.rs"]
#[expect(dead_code, reason = "the bodies of the other targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::conversation(data));
