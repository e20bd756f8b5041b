//! See `roost_fuzz::connection_operations`.
#![no_main]
#![allow(unsafe_code, reason = "the macro exports the entry point libFuzzer calls")]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roost_fuzz::connection_operations(input));
