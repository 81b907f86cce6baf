#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tcptop::linux::properties::names(data));
