//! Benchmarks that need more than criterion: the hardware's floor, and the engine embedded.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "benchmarks read the clock")]

pub mod embedded;
pub mod floor;
pub mod recovery;
