//! One write-ahead log that many Raft groups share: group commit, written through io_uring.
//!
//! In:     [`Wal::append`] per group, then [`Wal::submit`].
//! Out:    [`Wal::poll`]: what became durable, in log order, and the entries' bytes to borrow.
//! Cost:   one durable write for whatever was appended while the last ones were in flight.
//! Fails:  the first failed write poisons the log; damage found by [`Wal::open`] names file and offset.
//! Source: RULES.md A5.
//!
//! # Begin with
//!
//! * [`Home`]: a node's directory, with its identity and its lock. Each shard of the node opens one log there.
//! * [`Wal`]: one log. [`Wal::append`] takes a group's entries, [`Wal::submit`] writes, [`Wal::poll`] tells what became
//!   durable.
//! * [`Recovered`]: what [`Wal::open`] found of every group, and what it cut after a crash.
//!
//! One entry, made durable and found again:
//!
//! ```
//! use bytes::Bytes;
//! use logdrive_raft::{Entry, EntryKind, GroupId, LogIndex, NodeId, Term, WriteId};
//! use logdrive_wal::{Append, Config, Home, Wal, checksum};
//! use std::collections::BTreeMap;
//!
//! let dir = tempfile::tempdir()?;
//! let home = Home::create(&dir.path().join("n1"), "example", NodeId(1), 1, BTreeMap::new())?;
//! let config = Config::new(home.shard_dir(0), home.identity().clone(), 0);
//! let (mut wal, _) = Wal::open(config.clone())?;
//!
//! let payload = Bytes::from_static(b"set a 1");
//! let checksum = checksum(&payload);
//! let entry =
//!     Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Command, checksum, payload };
//! let (group, write) = (GroupId(7), WriteId(1));
//! wal.append(&Append { group, write, membership: None, hard_state: None, entries: &[entry] })?;
//! wal.submit(0)?;
//! let mut completed = Vec::new();
//! while wal.has_work() {
//!     wal.poll(0, &mut completed)?; // A real host sleeps on `Wal::readiness` in between.
//! }
//! assert!(completed.iter().flat_map(|done| &done.durable).any(|durable| durable.covers(write)));
//!
//! wal.close()?;
//! let (_wal, recovered) = Wal::open(config)?;
//! assert_eq!(recovered.groups[0].last, LogIndex(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The log and the protocol
//!
//! The log knows the protocol's types and none of its rules: entries, hard states (term, vote, commit index), and
//! [`Durable`](logdrive_raft::Durable), the proof that a write is on disk, which only this crate makes. It also takes
//! the simulator's hooks (`bug!`, `reached!`) from `logdrive_raft`; they compile to nothing in a release.
//!
//! Where to go on: [`format_document`] has every byte on disk, `recovery.rs` the table of cases by which a log is opened,
//! `judge.rs` the judgement itself, [`inspect`] the same judgement for a log that is only looked at, and [`disk`] the
//! interface to the drivers.

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
mod judge;
#[cfg(feature = "sim")]
pub mod landed;
mod ledger;
mod metrics;
mod openings;
pub mod parts;
mod read;
mod recovery;
mod rules;
mod sealed;
mod snapshot;
mod stream;

pub use checksum::checksum;
pub use config::{Config, QUOTA_SEGMENTS_MIN, SEGMENT_BYTES_DEFAULT};
pub use disk::{Disk, DriverChoice};
pub use error::{Corrupt, ReadError, WalError};
pub use format::{BLOCK_BYTES, Position, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentSeq};
pub use home::{Home, HomeError, Identity, SHARDS_MAX};
pub use image::{Frozen, Image, ImageWriter};
pub use judge::{Case, CutTail, Decision};
pub use metrics::{Description, Metrics};
pub use openings::PEERS_BYTES_MAX;
pub use read::ReadPlan;
pub use recovery::{Destroyed, Recovered, RecoveredGroup};
pub use snapshot::{
    Install, Installing, Release, Snapshot, SnapshotContent, SnapshotMark, SnapshotPlan,
};
pub use stream::{
    Append, CarryDone, CarryPlan, Completed, FrozenRun, Holder, Holders, Room, Usage, Wal,
};
