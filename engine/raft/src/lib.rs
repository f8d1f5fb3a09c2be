//! The Raft protocol of one group, as a pure state machine.
//!
//! In:     [`Raft::propose`] (commands), [`Raft::step`] (events), both with the time in ticks.
//! Out:    [`Raft::ready`]: the work owed to the disk, the network and the state machine.
//! Cost:   no I/O, no clock, no thread; memory is the log's tail and a few bytes per leader.
//! Fails:  a proposal is refused with a [`ProposeError`]; what peers send is answered or ignored,
//!         never fatal; a broken invariant of our own panics.
//! Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (the paper);
//!         Ongaro, "Consensus: Bridging Theory and Practice" (the thesis).
//!
//! # Begin with
//!
//! * [`Raft`]: one replica of one group. [`Raft::propose`] and [`Raft::step`] put work in, [`Raft::ready`] takes it out.
//! * [`Ready`]: the work owed. Its messages may leave at once, its write goes to the disk, its entries to the state machine.
//! * [`Promises`]: votes, vote requests and acknowledgements, which may leave only once a [`Durable`] covers the write
//!   under them. The log (`logdrive-wal`) makes that proof.
//!
//! A group of one, with a host that only pretends to have a disk:
//!
//! ```
//! use bytes::Bytes;
//! use logdrive_raft::{
//!     Command, Config, Durable, Event, GroupId, LogIndex, NodeId, Raft, Restored, Ticks,
//! };
//!
//! /// Carries out all that the replica owes.
//! fn settle(raft: &mut Raft, group: GroupId, now: Ticks) {
//!     while let Some(ready) = raft.ready() {
//!         // With peers, `ready.messages` would be sent here, before the write.
//!         if let Some(write) = ready.write {
//!             // A real host writes and syncs here, and then releases the promises that wait.
//!             raft.step(now, Event::Durable(Durable::new(group, write.id)));
//!         }
//!         if let Some(last) = ready.apply.last() {
//!             // The state machine applies `ready.apply`.
//!             raft.step(now, Event::Applied(last.index));
//!         }
//!     }
//! }
//!
//! let (group, now) = (GroupId(7), Ticks(1));
//! let config = Config {
//!     group,
//!     id: NodeId(1),
//!     voters: vec![NodeId(1)],
//!     election_ticks: 10,
//!     heartbeat_ticks: 3,
//!     seed: 1,
//!     inflight_messages_max: 256,
//!     inflight_bytes_max: 1 << 20,
//!     append_bytes_max: 1 << 20,
//!     tail_bytes_max: 1 << 20,
//!     uncommitted_bytes_max: 1 << 20,
//! };
//! let mut raft = Raft::new(config, Restored::default(), now)?;
//! raft.step(now, Event::Campaign);
//! settle(&mut raft, group, now);
//! assert!(raft.is_leader());
//!
//! let mut commands = vec![Command { checksum: 0, payload: Bytes::from_static(b"set a 1") }];
//! let range = raft.propose(&mut commands)?;
//! settle(&mut raft, group, now);
//! // Entry 1 is the no-op with which the leader began its term.
//! assert_eq!((range.last, raft.status().applied), (LogIndex(2), LogIndex(2)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where to go on: `raft.rs` settles an event's term and hands it to the role; `follower.rs`, `candidate.rs` and `leader.rs`
//! are the roles; `log.rs` draws the cursors; `snapshot.rs` says how the log lets go of its beginning. `tests/paper.rs` and
//! `tests/snapshots.rs` have a test for each sentence of the paper.
//!
//! # What is durable when
//!
//! A replica works ahead of its disk. Its log, term and vote in memory decide every question; what
//! it *says* waits in [`Promises`] for the write that holds what it decided by. Any number of writes
//! may be in flight. A leader's appends leave beside its own write, which counts as one vote among
//! the others when it is durable (thesis §10.2.1).
//!
//! # Time
//!
//! A replica learns the time by events only ([`Raft::step`]) and says when it wants the next tick
//! ([`Raft::deadline`]). A late tick is one tick: nothing is caught up.
//!
//! # Departures from the paper
//!
//! * A pre-vote comes before every election (thesis §9.6). A refusal carries the refuser's term, and
//!   raises the asker's if it is higher: else logs and terms that are mixed up could refuse each other
//!   for ever.
//! * A vote request waits until the candidate's own term and vote are durable, and its own vote counts
//!   from then on. The paper lets both be immediate and the disk be part of the step.
//! * A leader that has not heard from a majority for `election_ticks` steps down (thesis §6.2), and a replica that
//!   has heard from a leader within that time answers no pre-vote and takes no term from a vote
//!   request (thesis §4.2.3).
//! * A refused append carries a hint of index *and* term; each side skips what the other cannot have,
//!   so repair costs at most a round for each term in which the logs differ.
//! * Appends are pipelined within a window once a probe has found where the logs meet. A heartbeat is
//!   a message of its own: it needs no disk on either side, acknowledges nothing, and is sent only to
//!   a peer that was told nothing else. A commit alone is no reason for a message: the next append or
//!   heartbeat carries it.
//! * An entry is applied here only when it is durable here, though it may be committed before.
//! * A replica that a leader knows to have acknowledged more than it has is marked, durably: it takes entries,
//!   and neither acknowledges, votes nor stands until it is readmitted. `mark.rs` has the rule, why it is safe,
//!   and what it does not cover.
//! * The state of a snapshot travels outside the protocol (paper figure 13 sends it in calls of its own). The leader says
//!   which peer needs one, and the peer's acknowledgement of an installed one is that of an append.
//! * A follower that is probed before its log's base acknowledges its base: all up to there is committed, so it is in the
//!   log of every leader.
//! * A message no correct peer could send is ignored as a whole, before its term counts: among others
//!   a term more than 2^40 ahead or past 2^63 - 1, whatever contradicts a commit, a second leader
//!   of a term.
//!
//! Membership is the list of voters in [`Config`]: it does not change.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod candidate;
mod config;
mod entry;
mod error;
mod follower;
#[doc(hidden)]
pub mod hooks;
mod leader;
mod log;
mod mark;
mod message;
mod progress;
mod quorum;
mod raft;
mod ready;
mod replication;
mod rules;
mod snapshot;
mod types;

pub use config::{Config, ConfigError, Restored};
pub use entry::{BatchError, Command, ENTRY_OVERHEAD_BYTES, Entry, EntryBatch, EntryKind};
pub use error::ProposeError;
pub use message::{
    AppendEntries, AppendReply, AppendResult, FoundingNotice, Heartbeat, HeartbeatReply, Marked,
    Message, Outgoing, PreVote, PreVoteReply, RequestVote, RoomNotice, RoomSays, TermStated,
    VoteReply,
};
pub use raft::{Event, Raft, Role, Status};
pub use ready::{ApplyMax, Durable, Fetch, FetchFor, Offer, Promises, Ready, Release, Write};
pub use snapshot::{InstallError, Installed, Snapshot};
pub use types::{
    GroupId, HardState, LogId, LogIndex, LogRange, NoTerm, NodeId, Term, TermRun, Ticks, WriteId,
};
