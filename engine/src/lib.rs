//! Placeholder for the crate's documentation.

#![forbid(unsafe_code)]

mod config;
mod error;
mod group;
mod machine;
mod node;

pub use config::{Config, Founding};
pub use error::{GroupError, Happened, MachineError, NodeError, OpenError, ProposeError};
pub use group::{Applied, Completions, Group, Outcome, Proposal, ProposalBatch};
pub use logdrive_raft::{GroupId, LogIndex, NodeId, Term};
pub use logdrive_wal::DriverChoice;
pub use machine::{AppliedAt, CommandRef, Committed, Replies, StateMachine};
pub use node::{Bootstrap, Description, Node, StageSummary};
