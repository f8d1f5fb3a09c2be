//! Frames, connections and lanes: moves batches of Raft messages of many groups between nodes.
//!
//! In:     [`Outbound::send`], a batch of messages for one peer; [`Listener`], the peers that dial.
//! Out:    [`Inbound::deliver`], the messages of one frame at a time.
//! Cost:   one frame, one checksum pass and usually one `send` call per batch, whatever the number of
//!         groups; no task switch on the way out.
//! Fails:  a lane that is down or full drops what it is given and says so at once ([`Sent`]); a lane
//!         that breaks is told of ([`Inbound::down`]). Nothing is sent again from here.
//! Source: RULES.md rows N and I.
//!
//! # Begin with
//!
//! * [`Outbound`]: a shard's connections to all peers. [`Outbound::send`] gives a batch of messages to a lane, or drops it
//!   and says so.
//! * [`BulkOutbound`]: a thread's connections to all peers for snapshots, each open as long as something is sent on it.
//! * [`Listener`]: accepts the peers that dial this node, and hands each connection, once it is [`Accepted`], to a shard.
//! * [`Inbound`]: the shard's side, which the messages of a frame are delivered to, and lanes that go up or down.
//!
//! The bytes of a frame's body, without any connection:
//!
//! ```
//! use bytes::BytesMut;
//! use logdrive_net::codec;
//! use logdrive_raft::{GroupId, Heartbeat, LogId, LogIndex, Message, Term};
//!
//! let heartbeat = Heartbeat { term: Term(3), commit: LogIndex(0), matched: LogId::ZERO };
//! let messages = vec![
//!     (GroupId(7), Message::Heartbeat(heartbeat.clone())),
//!     (GroupId(8), Message::Heartbeat(heartbeat)),
//! ];
//! let mut body = BytesMut::new();
//! for (group, message) in &messages {
//!     codec::encode(&mut body, *group, message);
//! }
//! assert_eq!(codec::decode(body.freeze())?, messages);
//! # Ok::<(), logdrive_net::codec::CodecError>(())
//! ```
//!
//! Where to go on: `tests/loopback.rs` has two nodes with sockets, `tests/pure.rs` two without; [`format_document`] draws the
//! bytes; [`stores`] has the rule by which nodes know each other's directories.
//!
//! # What it promises
//!
//! Every shard of a node dials every peer for its own outbound traffic, one TCP connection per
//! [`Lane`]; a bulk lane is dialled only when something is to be sent on it. Frames flow from the dialer to the acceptor only. Within one connection, messages arrive
//! in the order they were sent, each once, and without a hole from the first frame on; after the first
//! one lost, none arrives. Nothing is promised between lanes, between shards, or across a reconnect,
//! except that a frame of an older connection of the same shard and lane is never delivered after one
//! of a newer connection to the same thread, nor any frame of a peer's earlier life once its next life
//! has been accepted. Messages may be lost whenever a connection breaks; [`Inbound::down`] tells the
//! sender, and the groups with something in flight must then ask again.
//!
//! # What decides, and what acts
//!
//! The parts that decide need neither socket, clock nor runtime: [`LaneQueue`] (frames, bounds, drops), [`Door`]
//! (which dialers are let in, and which connections end for that), [`Receiver`] (from bytes to the messages that may
//! be delivered), [`Backoff`], [`handshake`], [`stores`], [`frame`] and [`codec`]. A simulator drives them directly;
//! [`Outbound`], [`Listener`] and [`receive`] drive the same parts with sockets.
//!
//! All that acts runs on tokio current-thread runtimes that can `spawn_local` (`LocalRuntime`); nothing
//! here starts a thread. Only [`Accepted`] crosses between threads.

#![forbid(unsafe_code)]

#[doc = include_str!("../FORMAT.md")]
pub mod format_document {}

mod abort;
mod acquaintances;
mod backoff;
mod bulk;
pub mod codec;
mod door;
mod error;
pub mod frame;
pub mod handshake;
mod inbound;
mod lane;
mod listener;
mod metrics;
mod outbound;
mod peer;
mod peer_log;
mod queue;
mod receiver;
mod saving;
pub mod snapshots;
pub mod stores;
mod turnstile;

pub use abort::AbortOnPanic;
pub use backoff::Backoff;
pub use bulk::BulkOutbound;
pub use door::{Door, Greeted, LeaseId, Turned, Welcome};
pub use error::NetError;
pub use handshake::{ClusterId, Hello, Refusal};
pub use inbound::{Accepted, Inbound, receive};
pub use lane::{Lane, LaneMessage, Sent};
pub use listener::Listener;
pub use metrics::{InboundMeter, InboundStats, LaneStats};
pub use outbound::Outbound;
pub use queue::LaneQueue;
pub use receiver::Receiver;
pub use turnstile::Turnstile;

use std::time::Duration;

/// Bounds and patience of the network layer. The same everywhere in a cluster, or the larger frame
/// bound of a sender is refused by the smaller one of a receiver.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A frame's body, at most. Must hold the largest single message: an append's own bound plus the
    /// largest entry that may go over it alone.
    pub frame_bytes_max: u32,
    /// A batch is cut into frames of about this many bytes of body, so that the receiver can begin
    /// before all has come.
    pub frame_bytes_soft: usize,
    /// Bytes waiting on an append lane that the socket has not taken. More is dropped.
    pub append_lane_bytes_max: usize,
    /// The same for a liveness lane.
    pub liveness_lane_bytes_max: usize,
    /// The same for a bulk lane; at least two of its longest frames.
    pub bulk_lane_bytes_max: usize,
    /// A bulk lane on which nothing was sent for so long is closed, before twice as much has passed.
    pub bulk_idle_timeout: Duration,
    /// From connecting, or being accepted, to the end of the handshake.
    pub handshake_timeout: Duration,
    /// The first pause before a lost connection is dialled again.
    pub backoff_min: Duration,
    /// The longest such pause, and the only one after a refusal.
    pub backoff_max: Duration,
    /// Seeds the jitter of those pauses.
    pub seed: u64,
    /// A lane whose socket takes nothing for so long, or a frame of which nothing more comes for so
    /// long, is given up.
    pub progress_timeout: Duration,
    /// Data sent and not acknowledged by the peer's kernel for so long ends the connection
    /// (`TCP_USER_TIMEOUT`); idle connections are probed at half of it.
    pub unacknowledged_timeout: Duration,
    /// Connections that have not said who they are, at most. The oldest makes room for a new one.
    pub strangers_max: usize,
    /// The same, per remote address.
    pub strangers_per_address_max: usize,
}

impl Settings {
    /// Bytes of a frame's body on `lane`, at most.
    #[must_use]
    pub fn body_bytes_max(&self, lane: Lane) -> u32 {
        match lane {
            Lane::Liveness | Lane::Append => self.frame_bytes_max,
            Lane::Bulk => snapshots::BULK_BODY_BYTES_MAX,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 << 20,
            frame_bytes_soft: 1 << 20,
            append_lane_bytes_max: 64 << 20,
            liveness_lane_bytes_max: 4 << 20,
            bulk_lane_bytes_max: 4 << 20,
            bulk_idle_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            seed: 0,
            progress_timeout: Duration::from_secs(10),
            unacknowledged_timeout: Duration::from_secs(10),
            strangers_max: 128,
            strangers_per_address_max: 32,
        }
    }
}
