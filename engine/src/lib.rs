//! Many Raft groups over one shared, synced log and one shared network: the replication layer of a
//! sharded database.
//!
//! In:     a directory, the addresses of all nodes, a state machine per group, commands.
//! Out:    replies to commands that are durable on a majority and applied here.
//! Cost:   per shard one thread, one log stream, two connections to each peer; groups are cheap.
//! Fails:  every error says first whether the command may have happened ([`ProposeError::happened`]).
//! Source: Ongaro's thesis; ARCHITECTURE.md draws the whole.
//!
//! Start at [`Node::open`]. A state machine implements [`StateMachine`]; a group is created with
//! [`Node::create`] where it is new and given its machine again with [`Node::resume`] where the log
//! holds it; [`Group::propose`] is the way in. `examples/counter.rs` is a whole program.

#![forbid(unsafe_code)]

mod apply;
mod clock;
mod config;
#[cfg(feature = "counts")]
pub mod counts;
mod driver;
mod error;
mod group;
mod here;
mod host;
mod inbox;
mod later;
mod life;
mod limits;
mod links;
mod machine;
mod membership;
mod node;
mod outcome;
mod panics;
mod pulse;
mod reads;
mod shard;
mod shared;
mod silence;
mod stages;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod watchdog;

/// The bytes of commands and replies: cheap to clone, and to cut into parts.
pub use bytes::Bytes;
pub use config::{Config, Founding};
pub use error::{
    GroupError, Happened, MachineError, NodeError, OpenError, ProposeError, SpawnError, StopCause,
};
pub use group::{Group, GroupState, Proposal, ProposalBatch};
pub use later::{Gone, Later};
pub use life::Bootstrap;
/// The counts that [`ShardCounters`] has of connections and of the log.
pub use logdrive_net::{InboundStats, Lane, LaneStats};
/// The network's error that an [`OpenError`] may carry, and the reason that a [`NodeError::Refused`] gives.
pub use logdrive_net::{NetError, Refusal};
pub use logdrive_raft::{GroupId, LogIndex, NodeId, Term};
pub use logdrive_wal::{Corrupt, DriverChoice, HomeError, WalError};
/// The counts of a log, and the space it takes.
pub use logdrive_wal::{Metrics as LogMetrics, Usage as LogUsage};
pub use machine::{AppliedAt, CommandRef, Committed, CommittedBuf, Replies, StateMachine};
pub use node::{Description, Node};
pub use outcome::{Applied, Completions, Outcome};
pub use stages::StageSummary;
pub use status::{GroupStatus, ShardCounters};

/// The README's program is compiled and run with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
