//! The Raft protocol of one group, as a pure state machine.
//!
//! In:     [`Raft::propose`] (commands), [`Raft::step`] (events), both with the time in ticks.
//! Out:    [`Raft::ready`]: the work owed to the disk, the network and the state machine.
//! Cost:   no I/O, no clock, no thread; memory is the log's tail and a few bytes per leader.
//! Fails:  a proposal is refused with a [`ProposeError`]; what peers send is answered or ignored,
//!         never fatal; a broken invariant of our own panics.
//! Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (the paper);
//!         Ongaro, "Consensus: Bridging Theory and Practice" (the thesis).

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod candidate;
mod config;
mod entry;
mod error;
mod follower;
mod leader;
mod log;
mod message;
mod progress;
mod quorum;
mod raft;
mod ready;
mod replication;
mod types;

pub use config::{Config, ConfigError, Restored};
pub use entry::{BatchError, Command, ENTRY_OVERHEAD_BYTES, Entry, EntryBatch, EntryKind};
pub use error::ProposeError;
pub use message::{
    AppendEntries, AppendReply, AppendResult, Heartbeat, HeartbeatReply, Message, Outgoing,
    PreVote, PreVoteReply, RequestVote, VoteReply,
};
pub use raft::{Event, Raft, Role, Status};
pub use ready::{Durable, Fetch, FetchFor, Promises, Ready, Write};
pub use types::{
    GroupId, HardState, LogId, LogIndex, LogRange, NodeId, Term, TermRun, Ticks, WriteId,
};
