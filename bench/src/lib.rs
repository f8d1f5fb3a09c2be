//! Benchmarks that need more than criterion: the hardware's floor, the engine embedded, counts by valgrind, recovery.
//!
//! In:     a directory on a real file system; a shape of the load.
//! Out:    tables, or JSON, of the binaries of the same names.
//! Cost:   seconds to minutes, and the whole machine: run nothing beside them.
//! Fails:  with what the disk, the network or the engine says.
//!
//! # Begin with
//!
//! * [`floor`]: the least that a replicated durable write can take on this machine, with no protocol at all.
//! * [`embedded`]: three nodes whose proposals are made in process, so that no client and no RESP is measured.
//! * [`counts`]: instructions, cache misses and allocations of one committed command, compared with `bench/COUNTS.txt`.
//! * [`recovery`]: how long a log takes to open, beside a plain read of its files.
//!
//! ```sh
//! cargo run --release -p logdrive-bench --bin floor
//! ```
//!
//! Where to go on: `bench/NUMBERS.md` has all commands, the figures so far and their conditions; `benches/` the criterion
//! benches of parts; `rivals/` the log beside another one.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "benchmarks read the clock")]

pub mod counts;
pub mod embedded;
pub mod floor;
pub mod recovery;
