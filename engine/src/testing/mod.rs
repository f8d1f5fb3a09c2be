//! Whole shards of several nodes in one thread, from one seed (feature `testing`).
//!
//! In:     a [`Cluster`]: a seed, and if wanted the embedder's state machine, operations and check.
//! Out:    a [`Report`], or a [`Failure`] that the seed replays; [`shrink`] finds the faults that the failure needs.
//! Cost:   some 20 ms per seed.
//! Fails:  a broken invariant, and any panic, is a [`Failure`] with the invariant's name.
//! Source: RULES.md T1, T2.
//!
//! The shard, the Raft core, the log and the codec are the ones that run in a real node; only the
//! disk, the network, the clocks and the randomness are simulated. `faults/` has a file for each thing
//! that goes wrong, `invariants/` one for each thing that must hold all the same.

mod acts;
mod answers;
mod apart;
mod arriving;
#[cfg(feature = "bug-bank")]
pub mod bugs;
mod caught;
mod clients;
mod cluster;
mod connections;
mod coverage;
mod describe;
mod determinism;
mod disks;
mod event;
mod excuses;
mod faults;
mod ghost;
#[cfg(test)]
mod ghost_tests;
mod harm;
mod held;
mod invariants;
mod judge;
mod linearizable;
mod log;
mod machine;
mod machine_disk;
mod network;
mod node;
mod peace;
#[cfg(test)]
mod power_tests;
mod random;
mod restarts;
mod run;
mod schedule;
mod setup;
mod shape;
mod shrink;
mod sim;
mod trace;

pub use cluster::{Cluster, Failure, Report};
pub use coverage::{Coverage, PLACES};
pub use event::Counts;
pub use excuses::{EXCUSES, Excuse};
pub use machine_disk::MachineDisk;
pub use random::Random;
pub use setup::Call;
pub use shrink::{Shrunk, shrink};
