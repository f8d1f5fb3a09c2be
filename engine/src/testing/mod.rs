//! Whole shards of several nodes in one thread, from one seed (feature `testing`).
//!
//! In:     a seed.
//! Out:    a [`Verdict`]: what happened, and a hash of the whole trace.
//! Cost:   a few milliseconds per seed.
//! Fails:  a broken invariant panics with the seed, which replays it.
//! Source: FAULTS.md §3 (L1) and §4: invariants 1, 4, 6, 7, 10 and 13.
//!
//! The shard, the Raft core, the log and the codec are the ones that run in a real node; only the
//! disk, the network, the clock and the randomness are simulated.

mod cluster;
mod machine;
mod network;
mod node;
mod random;

pub use cluster::{Verdict, run_seed};
