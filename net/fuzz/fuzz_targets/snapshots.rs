//! Snapshots: any bytes as the body of a bulk lane's frame.
#![no_main]
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "each target asks for its part")]
#[path = "../oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::snapshots(input));
