//! Requests: any bytes from a client.
#![no_main]
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "each target asks for its part")]
#[path = "../oracle.rs"]
mod oracle;
#[allow(dead_code, reason = "the product's own file")]
#[path = "../../src/resp.rs"]
mod resp;

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::requests(input));
