//! The campaign that every change must pass: `logdrive sim --seeds 1000`. It fails on a failing seed, and on a place that
//! the simulator knows and none of the seeds reached. Only built with the feature `sim`:
//! `cargo test --workspace --features logdrive-tools/sim --test thousand_seeds`.

use std::process::Command;

#[test]
fn the_first_thousand_seeds_pass_and_reach_every_place() {
    let status = Command::new(env!("CARGO_BIN_EXE_logdrive"))
        .args(["sim", "--seeds", "1000"])
        .status()
        .expect("the command was built with this test");
    assert!(status.success(), "logdrive sim --seeds 1000: {status}; its output is above");
}
