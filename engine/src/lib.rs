//! Placeholder for the crate's documentation.

#![forbid(unsafe_code)]

mod apply;
mod config;
mod driver;
mod error;
mod group;
mod inbox;
mod limits;
mod machine;
mod membership;
mod node;
mod shard;
mod stages;
mod turn;

pub use config::{Config, Founding};
pub use error::{GroupError, Happened, MachineError, NodeError, OpenError, ProposeError};
pub use group::{Applied, Completions, Group, Outcome, Proposal, ProposalBatch};
pub use logdrive_raft::{GroupId, LogIndex, NodeId, Term};
pub use logdrive_wal::DriverChoice;
pub use machine::{AppliedAt, CommandRef, Committed, Replies, StateMachine};
pub use node::{Bootstrap, Description, Node, StageSummary};
