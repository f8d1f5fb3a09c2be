//! The seam's proof: real shards, Raft, log and codec on simulated disks and networks, from seeds.
//!
//! `LOGDRIVE_SEEDS=FIRST..END` runs other seeds, or more of them.

#![forbid(unsafe_code)]

use logdrive::testing::{Verdict, run_seed};
use std::ops::Range;

fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("LOGDRIVE_SEEDS") else { return default };
    let (first, end) = text.split_once("..").expect("LOGDRIVE_SEEDS is FIRST..END");
    first.parse().expect("a number")..end.parse().expect("a number")
}

#[test]
fn w1_p4_committed_prefixes_agree_and_what_was_acknowledged_survives() {
    let seeds = seeds(0..300);
    let count = seeds.end - seeds.start;
    let mut sum = Verdict { trace: 0, acknowledged: 0, unknown: 0, crashes: 0, elections: 0 };
    for seed in seeds {
        let verdict = run_seed(seed);
        sum.acknowledged += verdict.acknowledged;
        sum.unknown += verdict.unknown;
        sum.crashes += verdict.crashes;
        sum.elections += verdict.elections;
    }
    println!("{count} seeds: {sum:?}");
    // A storm in which nothing happens proves nothing.
    assert!(sum.acknowledged > 100 * count, "{sum:?}");
    assert!(sum.crashes > count && sum.elections > 2 * count && sum.unknown > count, "{sum:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 1000..1020 {
        let verdict = run_seed(seed);
        assert_eq!(verdict, run_seed(seed), "seed {seed}");
        traces.insert(verdict.trace);
    }
    assert_eq!(traces.len(), 20, "different seeds give different traces");
}
