//! Benchmarks that need more than criterion: the hardware's floor, the engine embedded, counts by valgrind.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "benchmarks read the clock")]

pub mod counts;
pub mod embedded;
pub mod floor;
pub mod recovery;
