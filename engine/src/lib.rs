//! Many Raft groups over one shared, synced log and one shared network: the replication layer of a
//! sharded database.
//!
//! In:     a directory, the addresses of all nodes, a state machine per group, commands.
//! Out:    replies to commands that are durable on a majority and applied here.
//! Cost:   per shard one thread, one log stream, two connections to each peer; groups are cheap.
//! Fails:  every error says first whether the command may have happened ([`ProposeError::happened`]).
//! Source: Ongaro's thesis; ARCHITECTURE.md draws the whole.
//!
//! # Begin with
//!
//! * [`Node`]: one process of the cluster. [`Node::init`] makes its directory, [`Node::open`] starts it. A group that is new
//!   is created with [`Node::create`]; one that the log holds gets its machine again with [`Node::resume`].
//! * [`StateMachine`]: your data. It applies committed commands in order, and answers them.
//! * [`Group`]: one replicated state machine. [`Group::propose`] is the way in, and gives the reply, or an error that says
//!   whether the command may have happened.
//!
//! The program `examples/counter.rs`, whole:
//!
//! ```no_run
#![doc = include_str!("../examples/counter.rs")]
//! ```
//!
//! # Where to go on
//!
//! [`Config`] has every setting of a run. [`Group::submit`] and [`Node::spawn_on`] are for many commands at once. With the
//! feature `testing`, `testing::Cluster` runs your state machine in the simulator. ARCHITECTURE.md explains threads, queues
//! and failures, and the words used here; engine/RULES.md has what is kept, and the tests that show it.

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
mod stretch;
#[cfg(feature = "testing")]
pub mod testing;
mod watchdog;

pub use config::{Config, Founding};
pub use error::{GroupError, Happened, MachineError, NodeError, OpenError, ProposeError};
pub use group::{Group, Proposal, ProposalBatch};
pub use life::Bootstrap;
/// The network's error that an [`OpenError`] may carry.
pub use logdrive_net::NetError;
pub use logdrive_raft::{GroupId, LogIndex, NodeId, Term};
pub use logdrive_wal::{Corrupt, DriverChoice, HomeError, WalError};
pub use machine::{AppliedAt, CommandRef, Committed, Replies, StateMachine};
pub use node::{Description, Node};
pub use outcome::{Applied, Completions, Outcome};
pub use stages::StageSummary;
pub use stretch::StretchMeter;

/// The README's program is compiled and run with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
