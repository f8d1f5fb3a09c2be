//! One thread's worth of groups, as a pure state machine over all of them.
//!
//! In:     submissions, messages, durable writes, fetched entries, ticks, links coming and going.
//! Out:    a [`Round`]: one log batch, one message batch per peer and lane, one apply batch, the
//!         answers that are due.
//! Cost:   touches only groups something happened to. Watched by bench `raft_step` and the
//!         embedded run.
//! Fails:  a group whose machine failed is stopped alone; broken invariants panic.
//! Source: RULES.md A1, A4; thesis §10.2 (pipelining, batching, writing beside sending).

mod machines;
mod stops;

use super::{
    founding::FoundingNotices,
    log_room::{LogRoom, RETRY_AFTER},
    proposals::{Answer, Stamps, Submission},
    replica::{Change, GroupView, Replica},
    room::{Rooms, ShardOf},
    round::{ApplyJob, FetchJob, LANES, Notice, Round, WriteJob},
    slot::Slot,
    timers::Wheel,
};
use crate::{ProposeError, StopCause, clock::Nanos, limits, links::LinkChange};
use bytes::Bytes;
use hashbrown::HashMap;
use logdrive_raft::{
    ApplyMax, Config, ConfigError, Durable, Entry, EntryBatch, Event, FetchFor, GroupId, HardState,
    LogId, LogIndex, Message, NodeId, Outgoing, Raft, Restored, RoomNotice, RoomSays, Term,
    TermRun, Ticks,
};
use logdrive_wal::Room;
use std::{collections::VecDeque, sync::Arc};

/// Ticks of the protocol's timeouts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) election_ticks: u64,
    pub(crate) heartbeat_ticks: u64,
}

/// A group to be run here: new, or as recovery found it.
pub(crate) struct Founded {
    pub(crate) group: GroupId,
    pub(crate) members: Vec<NodeId>,
    /// To be written with the first write; `None` if the log has it.
    pub(crate) membership: Option<Bytes>,
    pub(crate) hard_state: HardState,
    pub(crate) base: LogId,
    pub(crate) runs: Vec<TermRun>,
    pub(crate) last: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) durable: Durable,
    pub(crate) first_leader: bool,
    pub(crate) view: Arc<GroupView>,
}

/// Many groups, one owner.
pub(crate) struct Shard {
    me: NodeId,
    peers: Vec<NodeId>,
    linked: Vec<bool>,
    timing: Timing,
    seed: u64,
    now: Ticks,
    /// The clock at the last [`Self::set_clock`]. `now` is behind it by the parts of pauses that do not count.
    clock: Ticks,
    replicas: Vec<Replica>,
    slots: HashMap<GroupId, Slot>,
    dirty: Vec<Slot>,
    due: Vec<Slot>,
    wheel: Wheel,
    log_room: LogRoom,
    rooms: Rooms,
    founding_notices: FoundingNotices,
    /// The next time at which the shard looks for clients that have waited too long.
    overdue_at: Ticks,
    /// The groups here lead and stand: their log's disk answers.
    stands: bool,
    limits: limits::OfGroup,
    /// See [`limits::TAILS_BYTES_MAX`].
    tails_bytes_max: usize,
    /// Bytes of entries that all groups hold in memory, as of their last gathering.
    tail_bytes: usize,
    /// Groups in slots below this one borrow nothing from a sealed image.
    owned: usize,
    /// The most entries of all groups that a turn hands to machines.
    turn_apply_max: ApplyMax,
    /// The groups that have something to apply, in their order.
    appliers: VecDeque<Slot>,
    /// The groups whose entries to apply were read back in this turn.
    read_back: Vec<Slot>,
}

impl Shard {
    /// A shard of `me` among `nodes`. `seed` draws the election timeouts.
    pub(crate) fn new(me: NodeId, nodes: &[NodeId], timing: Timing, seed: u64) -> Self {
        let peers: Vec<NodeId> = nodes.iter().copied().filter(|node| *node != me).collect();
        let now = Ticks(1);
        Self {
            me,
            linked: vec![false; peers.len()],
            peers,
            timing,
            seed,
            now,
            clock: Ticks(0),
            replicas: Vec::new(),
            slots: HashMap::new(),
            dirty: Vec::new(),
            due: Vec::new(),
            wheel: Wheel::new(now),
            log_room: LogRoom::new(usize::MAX),
            rooms: Rooms::new(ShardOf::ALONE),
            founding_notices: FoundingNotices::default(),
            overdue_at: now,
            stands: true,
            limits: limits::OfGroup::REAL,
            tails_bytes_max: limits::TAILS_BYTES_MAX,
            tail_bytes: 0,
            owned: 0,
            turn_apply_max: limits::TURN_APPLY_MAX,
            appliers: VecDeque::new(),
            read_back: Vec::new(),
        }
    }

    /// Says which shard of its node this one is; without this call it is the only one.
    pub(crate) fn at(mut self, own: ShardOf) -> Self {
        self.rooms = Rooms::new(own);
        self
    }

    /// The largest payload the log takes.
    pub(crate) fn with_entry_bytes_max(mut self, bytes: usize) -> Self {
        self.log_room = LogRoom::new(bytes);
        self
    }

    /// Other bounds for the groups that are added from now on.
    pub(crate) fn with_limits(mut self, limits: &limits::Limits) -> Self {
        self.limits = limits.of_group;
        self.tails_bytes_max = limits.of_shard.tails_bytes_max;
        self.turn_apply_max = limits.of_shard.turn_apply_max;
        self
    }

    /// The other nodes, in the order of [`Round::outbox`].
    pub(crate) fn peers(&self) -> &[NodeId] {
        &self.peers
    }

    /// An empty round of this shard's shape.
    pub(crate) fn round(&self) -> Round {
        Round {
            room: self.turn_apply_max,
            writes: Vec::new(),
            outbox: self.peers.iter().map(|_| Default::default()).collect(),
            applies: Vec::new(),
            fetches: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Runs a group from now on; gives the slot its apply jobs will name.
    ///
    /// # Errors
    /// [`ConfigError`] if its members or what was found of it cannot be.
    pub(crate) fn add(&mut self, founded: Founded) -> Result<Slot, ConfigError> {
        let Founded { group, members, membership, hard_state, base, runs, last, applied, .. } =
            founded;
        assert!(!self.slots.contains_key(&group), "{group:?} runs already");
        let config = Config {
            group,
            id: self.me,
            voters: members,
            election_ticks: self.timing.election_ticks,
            heartbeat_ticks: self.timing.heartbeat_ticks,
            seed: self.seed ^ group.get().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ self.me.get() << 56,
            inflight_messages_max: self.limits.inflight_messages_max,
            inflight_bytes_max: self.limits.inflight_bytes_max,
            append_bytes_max: self.limits.append_bytes_max,
            tail_bytes_max: self.limits.tail_bytes_max,
            uncommitted_bytes_max: self.limits.uncommitted_bytes_max,
        };
        let restored = Restored { hard_state, base, runs, last, applied, applied_term: None };
        let raft = Raft::new(config, restored, self.now)?;
        let slot = Slot::behind(self.replicas.len());
        let Founded { durable, first_leader, view, .. } = founded;
        self.replicas.push(Replica::new(group, raft, durable, membership, first_leader, view));
        self.slots.insert(group, slot);
        if !self.stands {
            self.step(slot, Event::Resign);
        }
        for peer in self.rooms.without_room(group).collect::<Vec<_>>() {
            self.step(slot, Event::Room { peer, has_room: false });
        }
        for peer in self.peers.clone() {
            self.tell_founding(slot, peer);
        }
        self.mark(slot);
        self.campaign_if_linked(slot);
        Ok(slot)
    }

    /// Before anything of a group counts with a member, the two compare what they were founded with.
    fn tell_founding(&mut self, slot: Slot, peer: NodeId) {
        let replica = &self.replicas[slot.at()];
        // A node that is no member by this list may be a member by the list of another replica.
        if peer != self.me {
            self.founding_notices.ask(peer, replica.group, &replica.founding);
        }
    }

    /// The time the shard counts, of which pauses are left out.
    #[cfg(feature = "testing")]
    pub(crate) fn now(&self) -> Ticks {
        self.now
    }

    /// True if somebody has waited for longer than [`Self::tell_overdue`] says.
    #[cfg(feature = "testing")]
    pub(crate) fn has_overdue(&self) -> bool {
        let Timing { election_ticks, heartbeat_ticks } = self.timing;
        let most = election_ticks * (limits::ANSWER_ELECTIONS + 1) + heartbeat_ticks;
        let oldest = self.replicas.iter().filter_map(|replica| replica.proposals.oldest()).min();
        oldest.is_some_and(|at| self.now.since(at) > most)
    }

    /// Commands and bytes of a group that were told of by [`Self::tell_overdue`] and are not settled.
    #[cfg(feature = "testing")]
    pub(crate) fn told(&self, group: GroupId) -> super::Cost {
        let slot = self.slots.get(&group);
        slot.map(|slot| self.replicas[slot.at()].proposals.told()).unwrap_or_default()
    }

    /// The bytes of entries that a group holds in memory, and its cursors; `None` if it does not run.
    #[cfg(feature = "testing")]
    pub(crate) fn held(&self, group: GroupId) -> Option<(usize, logdrive_raft::Status)> {
        let replica = &self.replicas[self.slots.get(&group)?.at()];
        (!replica.stopped).then(|| (replica.raft.tail_bytes(), replica.raft.status()))
    }

    /// True if a group has logged that a peer was founded with other members.
    #[cfg(feature = "testing")]
    pub(crate) fn says_otherwise(&self, group: GroupId) -> bool {
        let slot = self.slots.get(&group);
        slot.is_some_and(|slot| self.replicas[slot.at()].founding.says_otherwise())
    }

    /// A group's role and cursors.
    pub(crate) fn status(&self, group: GroupId) -> Option<logdrive_raft::Status> {
        self.slots.get(&group).map(|slot| self.replicas[slot.at()].raft.status())
    }

    /// True if something waits for [`Self::gather`].
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.rooms.has_news() || !self.founding_notices.is_empty()
    }

    /// True if the group in `slot` serves no more.
    pub(crate) fn is_stopped(&self, slot: Slot) -> bool {
        self.replicas[slot.at()].stopped
    }

    /// Takes in what the log says of its room ([`LogRoom::look`]), and acts on it.
    pub(crate) fn set_log_room(
        &mut self,
        room: Room,
        is_near_quota: bool,
        waiting: impl Iterator<Item = Room>,
    ) {
        self.log_room.look(room, is_near_quota, waiting, self.now);
        if self.log_room.takes_entries() {
            self.rooms.tell_of_room();
        }
        if self.log_room.gives_way(self.now, self.timing.election_ticks) {
            self.give_way();
        }
    }

    /// True if the group will never serve again here: nobody needs what it has given to the log.
    pub(crate) fn has_ended(&self, group: GroupId) -> bool {
        self.slots.get(&group).is_some_and(|slot| {
            let replica = &self.replicas[slot.at()];
            replica.stopped && !replica.awaits_machine
        })
    }

    /// The log has no room for the rest of a write, so the rest and the group's later writes are taken back. Returns
    /// the last entry that the group's log still has.
    pub(crate) fn withdraw(&mut self, job: &mut WriteJob) -> LogIndex {
        let slot = self.slots[&job.group];
        let replica = &mut self.replicas[slot.at()];
        if job.accepted == 0 && job.membership.is_some() {
            replica.membership = job.membership.take();
        }
        replica.promises.retain(|promises| promises.after() < job.write.id);
        let leader = replica.raft.status().leader.filter(|leader| *leader != self.me);
        self.step(slot, Event::Withdrawn(job.write.id));
        if let Some(leader) = leader {
            self.rooms.tell(leader, job.group, RoomSays::Full);
        }
        self.replicas[slot.at()].raft.status().last_log.index
    }

    /// A client that has waited for [`limits::ANSWER_ELECTIONS`] election timeouts is told that the outcome is unknown:
    /// its entry reaches no majority, though the leader is heard.
    pub(crate) fn tell_overdue(&mut self, answers: &mut Vec<Answer>) {
        if self.now < self.overdue_at {
            return;
        }
        let election_ticks = self.timing.election_ticks;
        self.overdue_at = self.now.after(election_ticks);
        let patience = election_ticks.saturating_mul(limits::ANSWER_ELECTIONS);
        let Some(before) = self.now.get().checked_sub(patience) else { return };
        for replica in &mut self.replicas {
            replica.proposals.tell_overdue(Ticks(before), answers);
        }
    }

    fn give_way(&mut self) {
        tracing::warn!("the log has no room: this node leaves its leaderships to others");
        for slot in Slot::all(self.replicas.len()) {
            if self.replicas[slot.at()].raft.is_leader() {
                self.step(slot, Event::GiveWay);
            }
        }
    }

    /// Lets the groups here lead and stand for election, or not. They may not while this node's disk does not answer,
    /// so that the other nodes elect leaders whose disks do (RULES.md D3).
    pub(crate) fn set_stands(&mut self, stands: bool) {
        if self.stands == stands {
            return;
        }
        self.stands = stands;
        for slot in Slot::all(self.replicas.len()) {
            let event = if stands { Event::Stand } else { Event::Resign };
            self.step(slot, event);
        }
    }

    /// Commands for a group.
    pub(crate) fn submit(&mut self, submission: Submission, answers: &mut Vec<Answer>) {
        let slot = self.slots.get(&submission.group).copied();
        let refusal = match slot.map(|slot| &self.replicas[slot.at()]) {
            None => Some(ProposeError::Stopped(StopCause::Absent)),
            Some(replica) if replica.stopped => Some(replica.refusal()),
            Some(_) => self.log_room.propose(submission.commands.cost().bytes).err(),
        };
        match (slot, refusal) {
            (Some(slot), None) => {
                self.replicas[slot.at()].proposals.push(submission);
                self.mark(slot);
            }
            (_, refusal) => {
                let error = refusal.expect("no slot, no service");
                let mut refused = super::proposals::Proposals::default();
                refused.push(submission);
                refused.refuse(&error, answers);
            }
        }
    }

    /// A message from a peer. For a group that does not run here it is dropped: messages never
    /// make groups (RULES.md I14). Gives the steps of work that it was, at least one.
    pub(crate) fn receive(&mut self, from: NodeId, group: GroupId, message: Message) -> usize {
        if let Message::Room(notice) = message {
            return 1 + self.on_room(from, group, notice);
        }
        let entries = match &message {
            Message::AppendEntries(append) => append.entries.len(),
            _ => 0,
        };
        self.receive_for_one(from, group, message);
        1 + entries / limits::ENTRIES_PER_STEP
    }

    /// A message that concerns its group alone.
    fn receive_for_one(&mut self, from: NodeId, group: GroupId, message: Message) {
        let Some(slot) = self.slots.get(&group).copied() else { return };
        if self.is_stopped(slot) && !self.replicas[slot.at()].differs() {
            return;
        }
        if matches!(message, Message::Founding(_)) || !self.replicas[slot.at()].founding.hears(from)
        {
            return self.compare_founding(slot, from, &message);
        }
        if self.is_stopped(slot) {
            return;
        }
        let message = match message {
            Message::AppendEntries(mut append) => {
                // The leader is heard and answered all the same, and told to send the entries when there is room.
                if let Err(says) = self.take(slot, append.entries.as_slice()) {
                    append.entries = EntryBatch::new();
                    self.rooms.tell(from, group, says);
                }
                Message::AppendEntries(append)
            }
            message => message,
        };
        self.step(slot, Event::Message { from, message });
    }

    /// True unless [`Self::receive`] drops the message because the peer has not said what its group was founded with.
    #[cfg(feature = "testing")]
    pub(crate) fn takes_in(&self, from: NodeId, group: GroupId, message: &Message) -> bool {
        let Some(slot) = self.slots.get(&group) else { return true };
        matches!(message, Message::Room(_) | Message::Founding(_))
            || self.replicas[slot.at()].founding.hears(from)
    }

    /// Takes in the members that a peer was founded with, or asks for them: before that, no other message counts.
    #[cold]
    fn compare_founding(&mut self, slot: Slot, from: NodeId, message: &Message) {
        if !self.peers.contains(&from) {
            return;
        }
        let Replica { group, founding, .. } = &mut self.replicas[slot.at()];
        if let Message::Founding(notice) = message {
            return self.founding_notices.on_notice(from, *group, founding, *notice);
        }
        logdrive_raft::reached!("peer asked what it was founded with");
        self.founding_notices.ask(from, *group, founding);
    }

    /// Whether the log takes these entries now, or why not.
    fn take(&mut self, slot: Slot, entries: &[Entry]) -> Result<(), RoomSays> {
        let taken = self.log_room.take(entries);
        if taken == Err(RoomSays::TooLarge) {
            let replica = &mut self.replicas[slot.at()];
            if !std::mem::replace(&mut replica.has_met_too_large, true) {
                let (group, max) = (replica.group.get(), self.log_room.entry_bytes_max());
                tracing::error!(
                    group,
                    max,
                    "the leader's entry fits no segment here: the group stands still until this node has larger ones"
                );
            }
        }
        taken
    }

    /// A peer says whether its log has room, or asks whether this one has. The group only tells which shard's log is
    /// meant. The answer is about that log, and so is given even if the group has stopped or does not run here. Gives the groups that
    /// are to be looked at for it.
    fn on_room(&mut self, from: NodeId, group: GroupId, notice: RoomNotice) -> usize {
        if !self.peers.contains(&from) {
            return 0;
        }
        let is_news = match notice.says {
            RoomSays::Asked => {
                self.rooms.answer(from, group, self.log_room.takes_entries());
                false
            }
            RoomSays::Full => self.rooms.fill(from, group, notice),
            RoomSays::Free => self.rooms.drain(from, group),
            RoomSays::TooLarge => {
                let Some(slot) = self.slots.get(&group).copied() else { return 0 };
                let too_large_for = &mut self.replicas[slot.at()].too_large_for;
                if !too_large_for.contains(&from) {
                    too_large_for.push(from);
                    self.step(slot, Event::Room { peer: from, has_room: false });
                }
                false
            }
        };
        if is_news { self.replicas.len() } else { 0 }
    }

    /// Groups hear of the room of the peers' logs that hold their entries.
    fn spread_room(&mut self) {
        for change in self.rooms.take_changes() {
            let peer = change.peer();
            for slot in Slot::all(self.replicas.len()) {
                let replica = &self.replicas[slot.at()];
                let group = replica.group;
                if !change.is_of(group) || replica.too_large_for.contains(&peer) {
                    continue;
                }
                if change.has_filled {
                    self.step(slot, Event::Room { peer, has_room: false });
                }
                if !self.rooms.without_room(group).any(|full| full == peer) {
                    self.step(slot, Event::Room { peer, has_room: true });
                }
            }
        }
    }

    /// Writes of a group are on disk; `stamps` are their moments.
    pub(crate) fn durable(&mut self, durable: Durable, stamps: Stamps) {
        let Some(slot) = self.slots.get(&durable.group()).copied() else { return };
        let replica = &mut self.replicas[slot.at()];
        assert!(
            replica.durable.covers(logdrive_raft::WriteId::ZERO)
                && durable.upto() >= replica.durable.upto(),
            "durable goes back from {:?} to {durable:?}",
            replica.durable
        );
        replica.durable = durable;
        replica.proposals.durable(durable.upto(), stamps);
        self.step(slot, Event::Durable(durable));
    }

    /// Replaces payloads that a group holds in memory with equal bytes in the log's image, so that there is one copy.
    pub(crate) fn rehome(
        &mut self,
        group: GroupId,
        first: LogIndex,
        payloads: impl Iterator<Item = (Term, u32, Bytes)>,
    ) {
        if let Some(slot) = self.slots.get(&group) {
            self.replicas[slot.at()].raft.rehome(first, payloads);
        }
    }

    /// An image of the log is sealed and will be used again: entries that borrow from it must be copied, by
    /// [`Self::own_tails`].
    pub(crate) fn image_sealed(&mut self) {
        self.owned = 0;
    }

    /// Copies what is borrowed from the log's images, a bounded part of it at a time. True if there is more.
    pub(crate) fn own_tails(&mut self) -> bool {
        let mut copied = 0;
        while let Some(replica) = self.replicas.get_mut(self.owned) {
            if copied >= limits::OWN_BYTES_MAX {
                return true;
            }
            copied += replica.raft.own_tail();
            self.owned += 1;
        }
        false
    }

    /// Keeps what all groups hold in memory within its bound: beyond it the group that was just gathered keeps no more
    /// than its share.
    fn bound_tails(&mut self, slot: Slot) {
        let groups = self.replicas.len();
        let replica = &mut self.replicas[slot.at()];
        let others = self.tail_bytes - replica.tail_bytes;
        replica.tail_bytes = replica.raft.tail_bytes();
        if others + replica.tail_bytes > self.tails_bytes_max
            && !logdrive_raft::bug!("tails_of_all_groups_unbounded")
        {
            replica.raft.trim_tail(self.tails_bytes_max / groups);
            replica.tail_bytes = replica.raft.tail_bytes();
        }
        self.tail_bytes = others + replica.tail_bytes;
    }

    /// A [`FetchJob`] is answered; `None` if it could not be.
    pub(crate) fn fetched(
        &mut self,
        group: GroupId,
        purpose: FetchFor,
        entries: Option<EntryBatch>,
    ) {
        let Some(slot) = self.slots.get(&group).copied() else { return };
        if purpose == FetchFor::Apply {
            self.read_back.push(slot);
        }
        let event = match entries {
            Some(entries) => Event::Fetched { purpose, entries },
            None => Event::FetchFailed { purpose },
        };
        self.step(slot, event);
    }

    /// Time has passed. At most one heartbeat interval counts per call, so that the silence of a thread that was
    /// paused is not taken for that of its peers (RULES.md D5).
    pub(crate) fn set_clock(&mut self, clock: Ticks) {
        let elapsed = clock.since(self.clock).min(self.timing.heartbeat_ticks);
        self.clock = clock;
        self.now = self.now.after(elapsed);
    }

    /// Lets the groups act whose timers have run out. To be called once the messages that arrived were taken in,
    /// because a leader that was heard just now is not silent. If `has_read_all` is false, some messages are left for
    /// the next turn, perhaps a leader's heartbeat among them.
    pub(crate) fn fire_timers(&mut self, has_read_all: bool) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(self.now, &mut due);
        for slot in due.drain(..) {
            let replica = &mut self.replicas[slot.at()];
            if replica.stopped || replica.wake_at > self.now {
                continue; // The group has asked for a later time since the wheel was set.
            }
            replica.wake_at = Ticks(u64::MAX);
            if replica.raft.deadline() <= self.now {
                self.step(slot, if has_read_all { Event::Tick } else { Event::TickUnread });
            } else {
                self.mark(slot);
            }
        }
        self.due = due;
        self.rooms.ask(self.now, self.timing.heartbeat_ticks);
    }

    /// A peer came or went.
    pub(crate) fn link(&mut self, change: LinkChange) {
        match change {
            LinkChange::Up(peer) => self.peer_up(peer),
            LinkChange::Down(peer) => self.peer_down(peer),
            // A group that the peer's log did not hold yet may be created there again, with other members.
            LinkChange::Restarted(peer) => {
                self.replicas.iter_mut().for_each(|replica| replica.founding.forget(peer));
            }
        }
    }

    /// A peer can be talked to, both ways.
    fn peer_up(&mut self, peer: NodeId) {
        let Some(at) = self.peers.iter().position(|node| *node == peer) else { return };
        self.linked[at] = true;
        for slot in Slot::all(self.replicas.len()) {
            self.tell_founding(slot, peer);
            self.campaign_if_linked(slot);
        }
    }

    /// A connection to `peer` broke: every group with something in flight on it must know.
    fn peer_down(&mut self, peer: NodeId) {
        let Some(at) = self.peers.iter().position(|node| *node == peer) else { return };
        self.linked[at] = false;
        for slot in Slot::all(self.replicas.len()) {
            let replica = &mut self.replicas[slot.at()];
            let group = replica.group;
            let was_too_large = replica.too_large_for.contains(&peer);
            replica.too_large_for.retain(|other| *other != peer);
            if was_too_large && !self.rooms.without_room(group).any(|other| other == peer) {
                // It may come back with larger segments.
                self.step(slot, Event::Room { peer, has_room: true });
            }
            self.step(slot, Event::Unreachable(peer));
        }
    }

    /// Messages to `peer` that could not be sent: their groups must know.
    pub(crate) fn undelivered(&mut self, peer: NodeId, messages: &[(GroupId, Message)]) {
        for (group, message) in messages {
            if let (Some(slot), Message::AppendEntries(_)) =
                (self.slots.get(group).copied(), message)
            {
                self.step(slot, Event::Unreachable(peer));
            }
        }
    }

    /// An [`ApplyJob`] is done: `replies` has one reply per command if they were wanted.
    #[cfg_attr(feature = "counts", inline(never))]
    pub(crate) fn applied(
        &mut self,
        job: &ApplyJob,
        replies: &mut dyn Iterator<Item = Bytes>,
        applied: Nanos,
        answers: &mut Vec<Answer>,
    ) {
        let last = job.entries.last().expect("an apply job has entries").index;
        let replica = &mut self.replicas[job.slot.at()];
        if replica.stopped {
            return;
        }
        let entries = job.entries.as_slice();
        replica.proposals.applied(entries, replies, job.committed, applied, answers);
        self.step(job.slot, Event::Applied(last));
    }

    /// Collects what all touched groups owe. `now` is the clock.
    pub(crate) fn gather(&mut self, now: Nanos, round: &mut Round) {
        for (group, peer) in self.founding_notices.take_refused() {
            self.refuse_founding(group, peer, &mut round.answers);
        }
        self.spread_room();
        // First, because a peer ignores a group's other messages until it knows what the group was founded with.
        for Notice { peer, group, message } in self.founding_notices.take() {
            let replica = &self.replicas[self.slots[&group].at()];
            if replica.stopped && !replica.differs() {
                continue;
            }
            post(&self.peers, &mut round.outbox, group, peer, message);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.gather_one(slot, now, round);
        }
        // Groups marked meanwhile wait for the next gathering; keep the list with the memory.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        self.hand_out(now, round);
        for Notice { peer, group, message } in self.rooms.take_notices() {
            post(&self.peers, &mut round.outbox, group, peer, message);
        }
    }

    fn gather_one(&mut self, slot: Slot, now: Nanos, round: &mut Round) {
        let replica = &mut self.replicas[slot.at()];
        replica.dirty = false;
        if replica.stopped {
            return;
        }
        let proposals = &mut replica.proposals;
        if !proposals.pending.is_empty() {
            if replica.raft.lacks_room() {
                logdrive_raft::reached!("proposal refused for want of room at its followers");
                proposals.refuse(&ProposeError::DiskFull, &mut round.answers);
            } else {
                match replica.raft.propose(&mut proposals.pending) {
                    Ok(range) => proposals.entered(range, now, self.now),
                    Err(error) => proposals.refuse(&refusal(error), &mut round.answers),
                }
            }
        }
        if let Some(mut ready) = replica.raft.ready_but_apply() {
            for Outgoing { to, message } in ready.messages.drain(..) {
                post(&self.peers, &mut round.outbox, replica.group, to, message);
            }
            replica.raft.reuse_messages(ready.messages);
            if let Some(write) = ready.write {
                if !write.entries.is_empty() {
                    replica.proposals.written_by(write.id);
                }
                let membership = replica.membership.take();
                let group = replica.group;
                round.writes.push(WriteJob {
                    group,
                    membership,
                    write,
                    accepted: 0,
                    waits_for: Room::Free,
                });
            }
            if let Some(promises) = ready.promises {
                replica.promises.push_back(promises);
            }
            for fetch in ready.fetch {
                round.fetches.push(FetchJob { group: replica.group, fetch });
            }
        }
        while replica.promises.front().is_some_and(|p| replica.durable.covers(p.after())) {
            let promises = replica.promises.pop_front().expect("checked above");
            let mut messages = promises.release(&replica.durable);
            for Outgoing { to, message } in messages.drain(..) {
                post(&self.peers, &mut round.outbox, replica.group, to, message);
            }
            replica.raft.reuse_promises(messages);
        }
        if let Change::LostLeadership { commit } = replica.look() {
            let term_at = |index| replica.raft.term_at(index).ok();
            replica.proposals.leadership_lost(commit, term_at, &mut round.answers);
        }
        let deadline = replica.raft.deadline();
        if deadline < replica.wake_at {
            replica.wake_at = self.wheel.schedule(slot, deadline);
        }
        machines::queue_applier(&mut self.appliers, slot, replica);
        self.bound_tails(slot);
    }

    fn step(&mut self, slot: Slot, event: Event) {
        let replica = &mut self.replicas[slot.at()];
        if !replica.stopped {
            replica.raft.step(self.now, event);
            self.mark(slot);
        } else if replica.awaits_machine {
            stops::step_at_rest(replica, self.now, event);
        }
    }

    fn mark(&mut self, slot: Slot) {
        let replica = &mut self.replicas[slot.at()];
        if !replica.dirty {
            replica.dirty = true;
            self.dirty.push(slot);
        }
    }

    fn campaign_if_linked(&mut self, slot: Slot) {
        let replica = &self.replicas[slot.at()];
        let voters = replica.raft.voters();
        let linked = self.peers.iter().zip(&self.linked).filter(|(_, linked)| **linked);
        let reachable = 1 + linked.filter(|(peer, _)| voters.contains(peer)).count();
        if replica.first_leader && reachable > voters.len() / 2 {
            logdrive_raft::reached!("first leader campaigns at once");
            self.step(slot, Event::Campaign);
        }
    }
}

fn post(
    peers: &[NodeId],
    outbox: &mut [[Vec<(GroupId, Message)>; LANES]],
    group: GroupId,
    to: NodeId,
    message: Message,
) {
    let peer = peers.iter().position(|node| *node == to).expect("members are nodes");
    outbox[peer][usize::from(!message.is_liveness())].push((group, message));
}

fn refusal(error: logdrive_raft::ProposeError) -> ProposeError {
    match error {
        logdrive_raft::ProposeError::NotLeader { leader } => {
            ProposeError::NotLeader { hint: leader }
        }
        logdrive_raft::ProposeError::Full => ProposeError::Overloaded { retry_after: RETRY_AFTER },
    }
}
