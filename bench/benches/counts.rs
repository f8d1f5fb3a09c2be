//! Instructions, cache misses and allocations of a committed command, by part: counts do not change with how busy the
//! machine is.
//!
//! Three whole shards of three nodes run in one thread over memory (`engine/src/counts.rs`): the real shard, Raft, log
//! and codec, without sockets and disks. 48, 1,000, 10,000 or 100,000 groups have a leader and a few commands behind
//! them; then 9,600 commands of 128 bytes go to groups chosen at random by a fixed seed, 96 in a round. Callgrind counts
//! instructions and simulates caches of a fixed geometry (its simulation is cachegrind's), DHAT counts allocations.
//! `bench/src/counts.rs` shares both out by part, which gungraun does not do, and compares them with `bench/COUNTS.txt`:
//!
//! ```sh
//! cargo run -p logdrive-bench --bin counts              # 48 and 1,000 groups: fails if a command costs more
//! cargo run -p logdrive-bench --bin counts -- --all     # the larger ones too, some minutes
//! cargo run -p logdrive-bench --bin counts -- --write   # declares what was counted in the file
//! ```
//!
//! It takes valgrind and `cargo install gungraun-runner`, of the version of gungraun in Cargo.lock.
//!
//! The counts are of all three nodes together. The same program in the same environment gives the same counts, to the
//! last instruction: addresses are not randomised (hash tables draw their seeds from them), and time is counted, not
//! read. Another environment or another path of the program moves the stack, and with it those seeds: up to 0.1 % of
//! the instructions, and no allocation. The compiler, the C library and its allocator (in place of mimalloc: DHAT
//! watches no other), and the instructions that valgrind offers (no AVX-512) change more.
//!
//! The counts do not show: time; system calls, the kernel and the copies it makes; tokio, queues between threads and
//! contention; heartbeats and timers, because no tick passes; entries read back from the log; how many commands share a
//! turn, which is fixed here and depends on the load in a real node; all updates of the latency histograms, because the
//! commands of a round have the same timestamps here, so that one update counts them all (in a real node, most of them).
//! An instruction is not a nanosecond: read the misses beside it.

#![allow(missing_docs, reason = "gungraun's macros make undocumented items")]

use gungraun::{Callgrind, Dhat, EntryPoint, LibraryBenchmarkConfig, SanitizeOutput, prelude::*};
use logdrive::counts::Trio;
use logdrive_bench::counts::COMMANDS;

const SEED: u64 = 42;

/// The caches of a common server core: 32 KiB each of the first level, 8 MiB of the last.
const CACHES: [&str; 4] =
    ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=8388608,16,64"];

/// All that is counted happens in here.
const COUNTED: &str = "logdrive::counts::Trio::measure";

fn trio(groups: u64) -> Trio {
    Trio::new(groups, SEED)
}

#[library_benchmark(setup = trio)]
#[bench::groups_48(48)]
#[bench::groups_1000(1_000)]
fn usual(mut trio: Trio) -> Trio {
    trio.measure(COMMANDS);
    trio
}

#[library_benchmark(setup = trio)]
#[bench::groups_10000(10_000)]
#[bench::groups_100000(100_000)]
fn large(mut trio: Trio) -> Trio {
    trio.measure(COMMANDS);
    trio
}

library_benchmark_group!(name = shapes, benchmarks = [usual, large]);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(
            // Callers are kept apart, so that a function's cost is known for each part that calls it.
            Callgrind::with_args(CACHES.iter().chain(&["--separate-callers=40"]))
                .entry_point(EntryPoint::Custom(COUNTED.to_owned()))
        )
        .tool(
            Dhat::with_args(["--num-callers=100"])
                .entry_point(EntryPoint::Custom(COUNTED.to_owned()))
                .sanitize_output(SanitizeOutput::No)
        ),
    library_benchmark_groups = shapes
);
