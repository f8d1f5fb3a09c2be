//! Every bound of a shard, with the arithmetic that relates them.
//!
//! Beside its machines and the log's images, a shard holds no more than the following for others, whatever clients do,
//! and whatever peers do that keep to these bounds:
//!
//! * commands without an answer: `proposal_bytes_max` (256 MiB unless set), of which a turn takes [`TURN_BYTES_MAX`];
//! * frames: its own connections' [`FRAME_BYTES_MAX`] and one frame, forwarded ones [`FORWARDED_BYTES_MAX`] and one frame
//!   for each other shard, and half a frame for each connection of a peer;
//! * entries that followers may still need: [`TAILS_BYTES_MAX`], and as much again in shares of groups;
//! * bytes that sockets have not taken: each lane's bound (`logdrive_net::Settings`), per peer.
//!
//! One slow peer makes a shard hold no more than its part of that, however many groups send to it. A window
//! ([`INFLIGHT_BYTES_MAX`] per group) counts bytes and keeps none: an append in flight is the index and the size of its end,
//! 16 bytes, 4 KiB for a group at most. Its bytes are where they are counted already: encoded in the peer's lane (64 MiB;
//! what goes beyond is dropped, and its groups wait until the peer is heard), in the tails, and for entries that have left
//! memory in what the reader has read: [`READS_MAX`] tasks ask for [`APPEND_BYTES_MAX`] each and one entry more, and at most
//! 2 * [`READS_MAX`] + 2 answers wait (130 MiB), which the next turn encodes into the lane or drops. With 1,000 groups the
//! peer may so be owed 4 GiB that it has not acknowledged, of which 64 + 256 + 130 MiB are held here.
//!
//! Entries on their way to machines add nothing to that: an entry is handed out as a reference, either to bytes that wait
//! in a tail because the entry was not applied, or to bytes that the reader has read; and the turn that hands the entry
//! out also applies it. Only the lists of such references are new, some 72 bytes for each entry, gone before the turn
//! ends. All groups of a shard together are handed [`TURN_APPLY_MAX`] in a turn, as much as the turn has taken in, and one
//! entry more: at most 4,096 + 8,192 + 16,384 entries, 2 MiB of references for each shard. The entries beyond that wait where
//! they were, in their tails or in the log. Of the reader's answers a turn takes [`reads_max`] and one answer more, which
//! [`fetch_max`] bounds if it is for a machine. Together these are less than the turn's room: none of them stays in memory,
//! and a quarter of the room is left for groups that need not read.
//!
//! Where a shard leads, its entries that are not applied are commands without an answer. Where it follows, they are its
//! leaders' commands without an answer: at most `proposal_bytes_max` for each shard of a peer that keeps to its own
//! bounds. A peer that does not keep to them, and sends entries that it never commits, makes its followers hold as many
//! of these as their disks take.
//!
//! `node_bytes_max`, below, adds up all shards of a node and the connections of its peers. Each peer has an outbound
//! and an inbound connection per lane with each shard that it or this node has, of a bulk lane only while something is sent
//! on it. Beside that:
//!
//! * connections that have not said who they are: `strangers_max`, with one hello each;
//! * clients of the database: 256 MiB of requests and 128 KiB for each connection, 256 MiB of replies and 16 KiB for each
//!   connection, and the replies of requests that were running at the bound (`tools/src/serve/connection.rs`, for the whole
//!   node);
//! * the machines, and the images and the index of each log, which the size of the data and of the segments decides.
//!
//! A turn is bounded by work as well, so that its thread looks at the clock, its sockets and its disk in time: by
//! [`TURN_STEPS_MAX`] for peers, [`TURN_COMMANDS_MAX`] for callers, [`TURN_APPLY_MAX`] for machines. Each turn hands machines
//! as many entries as it has taken in, and [`TURN_APPLY_MAX`] more if so many wait. So as long as entries wait for machines,
//! they become fewer with each turn: a shard never falls behind because of the bound.

use logdrive_raft::ApplyMax;

/// The bounds per group, in one place: the simulator draws smaller ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfGroup {
    pub(crate) inflight_messages_max: usize,
    pub(crate) inflight_bytes_max: usize,
    pub(crate) append_bytes_max: usize,
    pub(crate) uncommitted_bytes_max: usize,
    pub(crate) tail_bytes_max: usize,
}

impl OfGroup {
    pub(crate) const REAL: Self = Self {
        inflight_messages_max: INFLIGHT_MESSAGES_MAX,
        inflight_bytes_max: INFLIGHT_BYTES_MAX,
        append_bytes_max: APPEND_BYTES_MAX,
        uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX,
        tail_bytes_max: TAIL_BYTES_MAX,
    };
}

/// The bounds per shard and per group, for a whole node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) of_group: OfGroup,
    pub(crate) of_shard: OfShard,
}

impl Limits {
    pub(crate) const REAL: Self = Self { of_group: OfGroup::REAL, of_shard: OfShard::REAL };
}

/// Bounds of the queues before one shard. Those of proposals are settings; the simulator draws smaller ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfShard {
    pub(crate) controls_max: usize,
    pub(crate) frames_max: usize,
    pub(crate) frame_bytes_max: usize,
    pub(crate) forwarded_frames_max: usize,
    pub(crate) forwarded_bytes_max: usize,
    pub(crate) reads_max: usize,
    pub(crate) tails_bytes_max: usize,
    pub(crate) turn_steps_max: usize,
    pub(crate) turn_commands_max: usize,
    pub(crate) turn_bytes_max: usize,
    pub(crate) turn_apply_max: ApplyMax,
}

impl OfShard {
    pub(crate) const REAL: Self = Self {
        controls_max: CONTROLS_MAX,
        frames_max: FRAMES_MAX,
        frame_bytes_max: FRAME_BYTES_MAX,
        forwarded_frames_max: FORWARDED_FRAMES_MAX,
        forwarded_bytes_max: FORWARDED_BYTES_MAX,
        reads_max: READS_MAX,
        tails_bytes_max: TAILS_BYTES_MAX,
        turn_steps_max: TURN_STEPS_MAX,
        turn_commands_max: TURN_COMMANDS_MAX,
        turn_bytes_max: TURN_BYTES_MAX,
        turn_apply_max: TURN_APPLY_MAX,
    };
}

/// Events that wait for one follower of a node's events; beyond it the oldest are lost.
pub(crate) const EVENTS_MAX: usize = 4096;
/// Appends in flight to one follower of one group.
pub(crate) const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Bytes in flight to one follower of one group.
pub(crate) const INFLIGHT_BYTES_MAX: usize = 4 << 20;
/// Bytes of entries in one append.
pub(crate) const APPEND_BYTES_MAX: usize = 1 << 20;
/// Bytes of applied entries one group keeps in memory for followers a little behind.
pub(crate) const TAIL_BYTES_MAX: usize = 4 << 20;
/// Bytes of entries that all groups of a shard keep in memory. Beyond it a group keeps a share of this, once it has
/// something to do: all together, then, twice as much, and what is not on disk or not applied yet.
pub(crate) const TAILS_BYTES_MAX: usize = 128 << 20;
/// Bytes of those that a turn copies out of a sealed image of the log, and one group's more.
pub(crate) const OWN_BYTES_MAX: usize = 1 << 20;
/// Bytes of one group's proposals that are not committed yet.
pub(crate) const UNCOMMITTED_BYTES_MAX: usize = 32 << 20;
/// One command's bytes: an append of one command still fits a frame and a log segment.
pub(crate) const COMMAND_BYTES_MAX: usize = 8 << 20;
/// Controls (new groups, tasks) that wait for a shard thread; a further caller waits.
pub(crate) const CONTROLS_MAX: usize = 1024;
/// Frames of its own connections that wait for a shard's turn. The one that reaches this bound, or the next one, is
/// followed by a turn at once, so that none is dropped.
pub(crate) const FRAMES_MAX: usize = 4096;
/// Their bytes, and at most one frame's more.
pub(crate) const FRAME_BYTES_MAX: usize = 4 << 20;
/// Frames forwarded from another shard of this node that wait; more are dropped, and Raft sends
/// their messages again.
pub(crate) const FORWARDED_FRAMES_MAX: usize = 4096;
/// Their bytes, and at most one frame's more for each shard that forwards.
pub(crate) const FORWARDED_BYTES_MAX: usize = 16 << 20;
/// Steps of work that one turn does for messages of peers, and what the last message takes more; further messages wait for
/// the next turn. A message is a step, so are so many of its entries, and so is each group that a peer's word of its log's
/// room is passed on to.
pub(crate) const TURN_STEPS_MAX: usize = 4096;
pub(crate) const ENTRIES_PER_STEP: usize = 2;
/// Commands that one turn takes in: more wait for the next, so that a turn ends well within a heartbeat however many
/// clients come at once.
pub(crate) const TURN_COMMANDS_MAX: usize = 16_384;
/// Their bytes, and at most one submission's more.
pub(crate) const TURN_BYTES_MAX: usize = 16 << 20;
/// Entries of all groups that one turn hands to machines, beside as many as it has taken in, and one entry's bytes more: what
/// else is committed waits for the next turns.
pub(crate) const TURN_APPLY_MAX: ApplyMax = ApplyMax { entries: 4096, bytes: 4 << 20 };
/// Bytes of entries that a shard takes from leaders while its log is behind: four followers' windows. More are not taken,
/// and are sent again once it has caught up. And bytes of commands that it takes from callers meanwhile; more are refused.
pub(crate) const BEHIND_BYTES_MAX: usize = 4 * INFLIGHT_BYTES_MAX;
/// A command is answered within this many election timeouts, and one more: with *unknown* if it is not committed by then.
pub(crate) const ANSWER_ELECTIONS: u64 = 8;
/// Log reads handed to the reader thread at once, per shard; more wait in their groups' order.
pub(crate) const READS_MAX: usize = 64;
/// Gatherings in one turn of the driver: work that makes work is taken up at once, but the ring
/// and the sockets are looked at in between.
pub(crate) const GATHERINGS_MAX: usize = 4;

/// Entries that are read back for a machine at once, of a turn's room for machines.
pub(crate) fn fetch_max(turn: ApplyMax) -> ApplyMax {
    ApplyMax { entries: turn.entries.div_ceil(4), bytes: turn.bytes.div_ceil(4) }
}

/// Entries that were read back, of which a turn takes so many and one answer more.
pub(crate) fn reads_max(turn: ApplyMax) -> ApplyMax {
    ApplyMax { entries: turn.entries.div_ceil(2), bytes: turn.bytes.div_ceil(2) }
}

const _: () = assert!(APPEND_BYTES_MAX <= INFLIGHT_BYTES_MAX);
const _: () = assert!(INFLIGHT_BYTES_MAX <= TAIL_BYTES_MAX);
const _: () = assert!(TAIL_BYTES_MAX < TAILS_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX < UNCOMMITTED_BYTES_MAX);
// The snapshots that a log's store can hold can be sent.
const _: () = {
    use logdrive_net::snapshots as wire;
    use logdrive_wal::parts as store;
    assert!(store::PART_BYTES_MAX <= wire::PART_BYTES_MAX);
    assert!(store::TABLE_BYTES_MAX <= wire::PART_BYTES_MAX as u64);
    let most = store::PART_BYTES_MAX as u64 * store::PARTS_MAX as u64;
    assert!(most <= wire::SNAPSHOT_BYTES_MAX);
};

/// The bytes that a node of so many shards, with so many peers of as many shards, holds for others at most: the sum of the
/// bounds of all shards and connections. The list at the head of this file says what is not among them.
#[cfg(test)]
fn node_bytes_max(shards: usize, peers: usize, proposal_bytes_max: usize) -> usize {
    let net = logdrive_net::Settings::default();
    let frame = net.frame_bytes_max as usize;
    let frames = (FRAME_BYTES_MAX + frame) + FORWARDED_BYTES_MAX + (shards - 1) * frame;
    let answers = (2 * READS_MAX + 2) * APPEND_BYTES_MAX;
    let not_applied = (1 + peers) * proposal_bytes_max;
    let handed_out = TURN_APPLY_MAX.entries + TURN_STEPS_MAX * ENTRIES_PER_STEP + TURN_COMMANDS_MAX;
    let references = handed_out * 72;
    let shard = not_applied + frames + 2 * TAILS_BYTES_MAX + answers + references;
    let lanes = net.append_lane_bytes_max + net.liveness_lane_bytes_max + net.bulk_lane_bytes_max;
    let bulk_frame = net.body_bytes_max(logdrive_net::Lane::Bulk) as usize;
    let inbound = logdrive_net::Lane::ALL.len() * frame + bulk_frame;
    shards * (shard + peers * (lanes + inbound))
}

/// Segments that surely hold a command of so many bytes.
pub(crate) fn least_segment_bytes(command_bytes: u32) -> u64 {
    (u64::from(command_bytes) * 4).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ARCHITECTURE.md states these sums. With commands over the default of 1 MiB an answer of the reader is one command.
    #[test]
    fn the_bounds_of_a_node_come_to_what_is_written_of_them() {
        let mib = |shards, peers| node_bytes_max(shards, peers, 256 << 20) >> 20;
        // References take almost 2 MiB, and a frame of each bulk lane a quarter.
        assert_eq!(mib(1, 2), 3 * 256 + (4 + 16) + 16 + 256 + 130 + 2 + 2 * (64 + 4 + 4 + 2 * 16));
        assert_eq!([mib(1, 2), mib(2, 2), mib(4, 4)], [1_400, 2_832, 8_675]);
    }
}
