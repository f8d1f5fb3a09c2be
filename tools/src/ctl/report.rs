//! The reports that pass between a node and `logdrive ctl`, as JSON; `--json` prints them as they are.
//!
//! In:     a node's figures.
//! Out:    objects whose names stay: a later version may add names, and readers pass over those they do not know.
//! Cost:   one allocation per name and text.
//! Fails:  a report that lacks a name is an error of the reader.

use serde::{Deserialize, Serialize};

/// The state of a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) cluster: String,
    pub(crate) node: u64,
    pub(crate) process_id: u32,
    pub(crate) uptime_seconds: u64,
    /// Where its clients are sent.
    pub(crate) advertise: String,
    pub(crate) clients: usize,
    pub(crate) clients_max: usize,
    pub(crate) shards: usize,
    pub(crate) disk_driver: String,
    pub(crate) direct_io: bool,
    pub(crate) groups: GroupCounts,
    pub(crate) peers: Vec<Peer>,
    /// Over all shards.
    pub(crate) log: Space,
}

/// The groups of a node, each counted in `here` and in every further place that fits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct GroupCounts {
    pub(crate) here: usize,
    /// Led by this node.
    pub(crate) led: usize,
    /// Without a leader, as far as this node knows.
    pub(crate) leaderless: usize,
    /// Taking entries, and neither acknowledging nor voting.
    pub(crate) marked: usize,
    /// Serving no more.
    pub(crate) stopped: usize,
}

/// Another node of the cluster.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Peer {
    pub(crate) node: u64,
    /// True if it has a connection open and answers.
    pub(crate) heard: bool,
}

/// Bytes of a log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Space {
    /// Of its files.
    pub(crate) bytes: u64,
    /// The most they may come to; nothing if there is no bound.
    pub(crate) bytes_max: Option<u64>,
    /// Of records in the segments that hold the log.
    pub(crate) written: u64,
    /// Of these records, those still needed.
    pub(crate) live: u64,
    /// Of the needed ones, snapshots.
    pub(crate) snapshots: u64,
}

/// A group, in a list.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct GroupLine {
    pub(crate) group: u64,
    /// Nothing for a group that was found damaged when the log was opened.
    pub(crate) shard: Option<usize>,
    pub(crate) state: State,
    pub(crate) leader: Option<u64>,
    /// Why it is stopped.
    pub(crate) why: Option<String>,
}

/// The role of a replica, or the reason that it has none.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Leads,
    Follows,
    /// It takes entries, and neither acknowledges nor votes.
    Marked,
    /// It serves no more.
    Stopped,
}

/// One group whole.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct GroupShown {
    #[serde(flatten)]
    pub(crate) line: GroupLine,
    /// Nothing if the replica is stopped.
    pub(crate) replica: Option<Replica>,
}

/// A replica's term and places in its log.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Replica {
    pub(crate) term: u64,
    /// The last entry.
    pub(crate) last: u64,
    /// The last one durable on this node.
    pub(crate) durable: u64,
    /// The last one known committed.
    pub(crate) commit: u64,
    /// The last one that the machine here has applied.
    pub(crate) applied: u64,
}

/// One shard's log.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ShardLog {
    pub(crate) shard: usize,
    #[serde(flatten)]
    pub(crate) space: Space,
    pub(crate) segments: usize,
    /// The next segment to be given up.
    pub(crate) oldest_segment: u64,
    /// Groups in the log.
    pub(crate) groups: usize,
    /// Groups of which the oldest segment holds something that is needed.
    pub(crate) groups_in_oldest: usize,
    /// The groups with the most bytes, most first.
    pub(crate) heaviest: Vec<Holder>,
}

/// A group's part of a log.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Holder {
    pub(crate) group: u64,
    /// Of records of its entries.
    pub(crate) bytes: u64,
    /// The last entry that was released.
    pub(crate) released: u64,
    /// The last entry.
    pub(crate) last: u64,
    pub(crate) in_oldest: bool,
}
