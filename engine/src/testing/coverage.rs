//! How often runs reached the places worth reaching: a place never reached in a long campaign is a hole.
//!
//! In:     the names given to `reached!` in the crates, as a thread counted them.
//! Out:    [`Coverage`], to be added up over seeds.

use std::collections::BTreeMap;

/// Places that a long campaign must reach, and where they are.
pub const PLACES: &[(&str, &str)] = &[
    ("a turn's commands at their bound", "engine/src/inbox.rs"),
    ("a turn's messages at their bound", "engine/src/inbox.rs"),
    ("a turn's entries for machines at their bound", "engine/src/shard/core/machines.rs"),
    ("acknowledged by one that was founded alone", "engine/src/testing/apart.rs"),
    ("acknowledgement merged", "engine/raft/src/follower.rs"),
    ("acknowledgement of an earlier term not counted", "engine/raft/src/raft.rs"),
    ("append refused", "engine/raft/src/follower.rs"),
    ("command overdue", "engine/src/shard/proposals.rs"),
    ("completion after its entry was replaced", "engine/raft/src/log.rs"),
    ("conflict repaired", "engine/src/testing/ghost.rs"),
    ("damaged log refused", "engine/src/testing/sim.rs"),
    ("directory refused", "engine/src/testing/sim.rs"),
    ("durable batch damaged at rest", "engine/src/testing/disks.rs"),
    ("durable sector became unreadable", "engine/src/testing/disks.rs"),
    ("durable sector read from elsewhere", "engine/src/testing/disks.rs"),
    ("end of a log lost, and nothing tells of it", "engine/src/testing/sim.rs"),
    ("entries carried forward", "wal/src/stream/carry.rs"),
    ("entries withdrawn for want of room", "engine/raft/src/raft.rs"),
    ("end of the log written again", "wal/src/recovery.rs"),
    ("entries replaced in the write that saves a term", "engine/src/testing/ghost.rs"),
    ("entry of an earlier term not committed by counting", "engine/raft/src/leader.rs"),
    ("entry put back while its first write is under way", "engine/src/testing/ghost.rs"),
    ("frame of a replaced connection dropped", "engine/src/testing/connections.rs"),
    ("frame of an earlier process dropped", "engine/src/host.rs"),
    ("first leader campaigns at once", "engine/src/shard/core.rs"),
    ("frame refused by a full queue", "engine/src/testing/node.rs"),
    ("forwarded frame dropped", "engine/src/inbox.rs"),
    ("handshake refused", "engine/src/testing/connections.rs"),
    ("lane full", "engine/src/testing/connections.rs"),
    ("process ended by its watchdog", "engine/src/testing/sim.rs"),
    ("shard resigned by the watchdog", "engine/src/testing/node.rs"),
    ("group fenced", "engine/src/testing/sim.rs"),
    ("group stopped by its machine", "engine/src/testing/ghost.rs"),
    ("group has another machine", "engine/src/testing/restarts.rs"),
    ("group fenced while its log runs", "engine/src/testing/sim.rs"),
    ("hard state or membership carried forward", "wal/src/stream/carry.rs"),
    ("impossible message ignored", "engine/raft/src/raft.rs"),
    ("leader lost its majority", "engine/raft/src/leader.rs"),
    ("log carried round for votes", "wal/src/stream/carry.rs"),
    ("log closed", "engine/src/testing/acts.rs"),
    ("log poisoned", "engine/src/testing/sim.rs"),
    ("machine reopened where it had been", "engine/src/testing/ghost.rs"),
    ("machine's write lost with the power", "engine/src/testing/machine_disk.rs"),
    ("old entries could not be read for once", "engine/src/testing/node.rs"),
    ("old entries read back", "engine/src/testing/node.rs"),
    ("opening introduced", "engine/src/testing/connections.rs"),
    ("operation failed", "wal/src/disk/sim/platter.rs"),
    ("outcome unknown", "engine/src/shard/proposals.rs"),
    ("peer told of no room", "engine/src/shard/room.rs"),
    ("loss mended by a later leader", "engine/src/testing/ghost.rs"),
    ("mark lifted", "engine/raft/src/mark.rs"),
    ("marked replica does not stand", "engine/raft/src/candidate.rs"),
    ("no-op for a readmitted replica", "engine/raft/src/leader.rs"),
    ("replica marked", "engine/raft/src/mark.rs"),
    ("peer asked what it was founded with", "engine/src/shard/core.rs"),
    ("pre-vote refused", "engine/raft/src/candidate.rs"),
    ("process ended within a machine's write", "engine/src/testing/machine_disk.rs"),
    ("promise dropped with its term", "engine/raft/src/raft.rs"),
    ("proposal refused by the log's quota", "engine/src/shard/core.rs"),
    ("proposal refused for want of room at its followers", "engine/src/shard/core.rs"),
    ("proposal refused for want of room", "engine/src/shard/core.rs"),
    ("proposal taken while the log is behind", "engine/src/shard/log_room.rs"),
    ("register swapped", "engine/src/testing/machine.rs"),
    ("read refused by a full queue", "engine/src/testing/node.rs"),
    ("sector lost that was said to be durable", "wal/src/disk/sim/platter.rs"),
    ("segment changed", "wal/src/stream.rs"),
    ("votes' segment written again", "wal/src/stream/renew.rs"),
    ("segment given back", "wal/src/stream/carry.rs"),
    ("segment made of one given back", "wal/src/stream.rs"),
    ("several commands proposed at once", "engine/src/testing/clients.rs"),
    ("shorter append after a longer one", "engine/raft/src/follower.rs"),
    ("torn tail cut", "engine/src/testing/log.rs"),
    ("unsynced sector lost with the power", "wal/src/disk/sim/platter.rs"),
    ("vote refused for entries not yet durable", "engine/raft/src/candidate.rs"),
    ("vote refused", "engine/raft/src/candidate.rs"),
    ("vote request ignored, a leader is heard", "engine/raft/src/raft.rs"),
    ("write appended in parts", "engine/src/host.rs"),
    ("write failed after a part of it", "wal/src/disk/sim/platter.rs"),
    ("write failed, and all of it is there", "wal/src/disk/sim/platter.rs"),
    ("write failed, and none of it is there", "wal/src/disk/sim/platter.rs"),
    ("write failed, and reads show it all the same", "wal/src/disk/sim/platter.rs"),
    ("write held for want of room", "engine/src/host.rs"),
    ("write of a dead process landed late", "wal/src/disk/sim/platter.rs"),
    ("write went elsewhere", "wal/src/disk/sim/platter.rs"),
    ("write went nowhere", "wal/src/disk/sim/platter.rs"),
    ("write went on after a short or interrupted one", "wal/src/disk/sim/platter.rs"),
    ("writes finished out of order", "wal/src/stream.rs"),
];

/// Counts by place.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

impl Coverage {
    /// Starts anew in this thread.
    pub(super) fn begin() {
        let _ = logdrive_raft::hooks::take_reached();
    }

    /// The places that this thread has reached since.
    pub(super) fn end() -> Self {
        let reached = logdrive_raft::hooks::take_reached();
        for name in reached.keys() {
            let known = PLACES.iter().any(|(place, _)| place == name);
            assert!(known, "{name:?} is not in PLACES");
        }
        Self(reached)
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// Places never reached.
    #[must_use]
    pub fn holes(&self) -> Vec<&'static str> {
        let is_hole = |name: &&str| !self.0.contains_key(name);
        PLACES.iter().map(|(name, _)| *name).filter(is_hole).collect()
    }
}
