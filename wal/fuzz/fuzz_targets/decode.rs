//! Arbitrary bytes as records, headers and a manifest.
//!
//! `cargo fuzz run decode -- -malloc_limit_mb=64` in `wal/`; the oracle is `wal/src/fuzz.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| logdrive_wal::fuzz::decode(bytes));
