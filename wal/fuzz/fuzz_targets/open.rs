//! Changed golden streams, and arbitrary bytes in the place of a segment, opened on the simulated disk.
//!
//! `cargo fuzz run open -- -malloc_limit_mb=64` in `wal/`; the oracle is `wal/tests/common/mutate.rs`.

#![no_main]

#[path = "../../tests/common/golden.rs"]
mod golden;
#[path = "../../tests/common/mutate.rs"]
mod mutate;

use std::sync::LazyLock;

static BASES: LazyLock<Vec<mutate::Base>> = LazyLock::new(mutate::Base::all);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(input) = mutate::Input::parse(bytes) {
        input.run(&BASES);
    }
});
