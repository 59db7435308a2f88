#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offtake::fuzzing::run("filter", data));
