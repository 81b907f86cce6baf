#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tcptop::properties::arguments(data));
