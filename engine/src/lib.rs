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
//! * [`Node`]: one process of the cluster. [`Node::open_or_init`] makes its directory if there is none, and starts it. A group
//!   that is new is created with [`Node::create`]; one that the log holds gets its machine again with [`Node::resume`];
//!   [`Node::create_or_resume`] does either.
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
//! # Ways in
//!
//! | call | outcome | what it costs | example |
//! |---|---|---|---|
//! | [`Group::propose`], [`Proposal::wait`] | blocks for it | a queue, two wake-ups and, one at a time, the disk's latency for every command | `counter.rs` |
//! | [`Group::propose`], `.await` | a future, in any runtime | a queue and two allocations; many may be under way | `futures.rs` |
//! | [`Proposal::on_done`] | a callback on the shard's thread | the same, and a box for the callback | `callbacks.rs` |
//! | [`Group::propose_batch`] | all at once, in order | once for the batch | `futures.rs` |
//! | [`Group::submit`] with a [`Completions`] | into a sink, many with one call | a queue; no allocation per command | `completions.rs` |
//! | the same from a task of [`Node::spawn_on`] | the same | no queue, no lock, no wake-up | `on_shard.rs` |
//!
//! The last is the way for servers that want all of a machine: `cargo run --release -p logdrive --example on_shard`
//! prints how many commands a second it makes, and how many the first makes with one at a time (hundreds of times fewer).
//! `engine/examples` has them all, and `on_disk.rs` there is a machine that is durable by itself.
//!
//! # What the library logs
//!
//! Events of [`tracing`](https://docs.rs/tracing), and no spans. None is written per command. Of events that may come in
//! numbers (refused connections, lanes that go down) the listener writes at most one line a second and each lane one in five
//! seconds, with the number of those left out as `more`. A program that installs no subscriber sees nothing of it, but for
//! the watchdog's lines before it ends the process, which then go to stderr.
//!
//! | target | level | says | fields |
//! |---|---|---|---|
//! | `logdrive` | error | a group stops here; a shard stops, and why; replicas were founded with different members; a disk has lost what it had acknowledged; a disk or thread does not answer | `group`, `cause`, `shard`, `failure` |
//! | `logdrive` | warn | a full log gives its leaderships up; entries cannot be read back | `group`, `error` |
//! | `logdrive` | info | a torn tail was cut at open; a marked replica is readmitted | `shard`, `cut`, `group` |
//! | `logdrive_net` | warn, error | a lane is down; a connection was refused; a peer sent a bad frame | `peer`, `lane`, `address`, `error`, `more` |
//! | `logdrive_net` | info | a lane is up | `peer`, `lane`, `address` |
//! | `logdrive_wal` | error | the log is poisoned; groups are fenced, and the damage that did it | `error`, `group`, `corrupt` |
//! | `logdrive_wal` | warn | no room for a segment; a read was repeated; plain writes instead of io_uring | `segment`, `corrupt`, `error` |
//! | all | debug | the ends of connections, segments given up, hints that the kernel did not take | |
//!
//! The texts may change with any version; the fields are meant for people too. A program acts on [`Node::failure`] and
//! [`Group::state`], or follows [`Node::events`].
//!
//! # Where to go on
//!
//! [`Config`] has every setting of a run. [`Retry`] follows hints and keeps unknown outcomes apart. With the feature `testing`, `testing::Cluster` runs your state machine in the simulator. ARCHITECTURE.md explains threads, queues
//! and failures, and the words used here; engine/RULES.md has what is kept, and the tests that show it.

#![forbid(unsafe_code)]

mod apply;
mod blocking;
mod clock;
mod config;
#[cfg(feature = "counts")]
pub mod counts;
mod driver;
mod error;
mod events;
mod group;
mod here;
mod host;
mod inbox;
mod introductions;
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
mod retry;
mod shard;
mod shared;
mod silence;
mod stages;
mod status;
mod stretch;
#[cfg(feature = "testing")]
pub mod testing;
mod watchdog;

/// The bytes of commands and replies: cheap to clone, and to cut into parts.
pub use bytes::Bytes;
pub use config::{Config, Founding};
pub use error::{
    GroupError, Happened, MachineError, NodeError, OpenError, ProposeError, SpawnError, StopCause,
};
pub use events::{Events, NodeEvent};
pub use group::{Group, GroupState, Proposal, ProposalBatch};
pub use later::{Gone, Later};
pub use life::Bootstrap;
/// The most bytes that [`Config::client_address`] may have.
pub use logdrive_net::handshake::CLIENT_ADDRESS_BYTES_MAX;
/// The counts that [`ShardCounters`] has of connections and of the log.
pub use logdrive_net::{InboundStats, Lane, LaneStats};
/// The network's error that an [`OpenError`] may carry, and the reason that a [`NodeError::Refused`] gives.
pub use logdrive_net::{NetError, Refusal};
pub use logdrive_raft::{GroupId, LogIndex, NodeId, Term};
/// The bounds of [`Config::segment_bytes`], its unit and its usual value; of [`Config::log_bytes_max`], in segments per
/// shard; and of a node's number of shards.
pub use logdrive_wal::{
    BLOCK_BYTES, QUOTA_SEGMENTS_MIN, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    SHARDS_MAX,
};
pub use logdrive_wal::{Corrupt, DriverChoice, HomeError, WalError};
/// The counts of a log, the space it takes, and the groups that this space belongs to.
pub use logdrive_wal::{
    Holder as LogHolder, Holders as LogHolders, Metrics as LogMetrics, Usage as LogUsage,
};
pub use machine::{AppliedAt, CommandRef, Committed, CommittedBuf, Replies, StateMachine};
pub use node::{Description, Node};
pub use outcome::{Applied, Completions, Outcome};
pub use retry::Retry;
pub use stages::StageSummary;
pub use status::{GroupStatus, ShardCounters, ShardLog};
pub use stretch::StretchMeter;

/// The README's program is compiled and run with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
