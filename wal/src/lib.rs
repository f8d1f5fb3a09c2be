//! One write-ahead log that many Raft groups share: group commit, written through io_uring.
//!
//! In:     [`Wal::append`] per group, then [`Wal::submit`].
//! Out:    [`Wal::poll`]: what became durable, in log order, and the entries' bytes to borrow.
//! Cost:   one durable write for whatever was appended while the last ones were in flight.
//! Fails:  the first failed write poisons the log; damage found by [`Wal::open`] names file and offset.
//! Source: RULES.md A5.
//!
//! A node's directory is a [`Home`]; each of its shards opens one [`Wal`] there.

#![deny(unsafe_code)]

#[doc = include_str!("../FORMAT.md")]
pub mod format_document {}

mod checksum;
mod config;
pub mod disk;
mod error;
mod format;
#[cfg(feature = "sim")]
pub mod fuzz;
mod group;
mod home;
mod image;
mod index;
pub mod inspect;
#[cfg(feature = "sim")]
pub mod landed;
mod ledger;
mod mapped;
mod metrics;
mod openings;
mod read;
mod recovery;
mod stream;

pub use checksum::checksum;
pub use config::{Config, QUOTA_SEGMENTS_MIN};
pub use disk::{Disk, DriverChoice};
pub use error::{Corrupt, ReadError, WalError};
pub use format::{BLOCK_BYTES, Position, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentSeq};
pub use home::{Home, HomeError, Identity};
pub use image::{Frozen, Image, ImageWriter};
pub use metrics::{Description, Metrics};
pub use openings::PEERS_BYTES_MAX;
pub use read::ReadPlan;
pub use recovery::{Case, CutTail, Decision, Recovered, RecoveredGroup};
pub use stream::{Append, CarryDone, CarryPlan, Completed, FrozenRun, Room, Usage, Wal};
