//! The whole run, as an observer would know it that sees every event and forgets none.
//!
//! In:     [`Event`]s, in the order they happen.
//! Out:    the first invariant that an event breaks; else the state after it.
//! Cost:   a few map entries an event; memory for every entry of every log.
//! Source: RULES.md T2.

use super::{
    describe::Describe,
    event::{Applied, Change, Counts, Event, Known, LogState, Mark, Proposed, known, serial_place},
    shape::Shape,
};
use crate::{GroupId, LogIndex, NodeId, Term, inbox::shard_of, limits};
use logdrive_raft::{
    AppendEntries, AppendResult, HardState, LogId, Message, Role, RoomSays, Status,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Appends that a leader has sent to one peer in one term, and whose acknowledgement it has not heard.
#[derive(Debug, Default)]
pub(super) struct Window {
    term: Term,
    /// The last entry and the bytes of each append, oldest first.
    sent: VecDeque<(LogIndex, usize)>,
    acknowledged: LogIndex,
}

/// Appends that are in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InFlight {
    pub(super) appends: usize,
    pub(super) bytes: usize,
}

impl Window {
    /// The appends in flight when `append` leaves. A leader that goes back to earlier entries no longer counts the
    /// appends that it sent before.
    pub(super) fn before(&self, append: &AppendEntries) -> InFlight {
        let goes_on = self.sent.back().is_none_or(|(last, _)| append.prev_log.index >= *last);
        if self.term != append.term || !goes_on {
            return InFlight::default();
        }
        let bytes = self.sent.iter().map(|(_, bytes)| bytes).sum();
        InFlight { appends: self.sent.len(), bytes }
    }

    fn send(&mut self, append: &AppendEntries) {
        if self.term != append.term {
            *self = Self { term: append.term, ..Self::default() };
        }
        if self.before(append).appends == 0 {
            self.sent.clear();
        }
        // While a disk is busy an append may wait for so long that the peer has all its entries before it leaves.
        let last = append.entries.last().filter(|last| last.index > self.acknowledged);
        if let Some(last) = last {
            self.sent.push_back((last.index, append.entries.cost_bytes()));
        }
    }

    /// The log of the marked peer agrees with the leader's up to `meeting`: no append up to there is in flight any
    /// more, and the leader goes on behind it.
    fn meet(&mut self, meeting: LogIndex) {
        self.sent.retain(|(last, _)| *last > meeting);
    }

    fn acknowledge(&mut self, term: Term, match_index: LogIndex) {
        if self.term == term {
            self.acknowledged = self.acknowledged.max(match_index);
            self.sent.retain(|(last, _)| *last > match_index);
        }
    }
}

/// The state that a disk had claimed to hold, and has lost.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) said: LogState,
    /// Its replica was marked since.
    is_told: bool,
}

/// The history of a mark since it was handed out.
#[derive(Debug, Default)]
pub(super) struct SinceMark {
    /// The log's end at that time: entries behind it had not been acknowledged.
    pub(super) last: LogIndex,
    /// The voters that have stated a term since.
    pub(super) stated: BTreeSet<NodeId>,
}

/// A replica that was founded with other members than the others.
#[derive(Debug)]
pub(super) struct Apart {
    pub(super) members: Vec<NodeId>,
    /// The nodes that have told this incarnation what they were founded with.
    pub(super) told: BTreeSet<NodeId>,
}

/// One replica, as seen from outside.
#[derive(Debug, Default)]
pub(super) struct Replica {
    /// Its log and hard state as it handed them out to be written.
    pub(super) state: LogState,
    /// The bytes that its entries count for; 0 for the entries that it found on its disk.
    pub(super) cost_bytes: Vec<usize>,
    /// The appends in flight to each peer, while it leads.
    pub(super) windows: BTreeMap<NodeId, Window>,
    /// Its log and hard state on the platter.
    pub(super) durable: LogState,
    /// The state that its disk has lost, until the replica is readmitted.
    pub(super) lost: Option<Lost>,
    /// Set while the replica is marked: from the write of the mark to the write that lifts it.
    pub(super) mark: Option<SinceMark>,
    /// Every vote that was ever on the platter.
    pub(super) durable_votes: BTreeMap<Term, Option<NodeId>>,
    /// Every entry that was ever on the platter.
    pub(super) ever_durable: BTreeSet<(LogIndex, Term)>,
    /// The log state that this incarnation found, and the changes that it wrote since.
    pub(super) found: LogState,
    pub(super) changes: Vec<Change>,
    /// The candidate that it voted for in each term, by the votes that have left it.
    pub(super) granted: BTreeMap<Term, NodeId>,
    /// Its status after its last turn in this incarnation.
    pub(super) status: Option<Status>,
    /// The lowest entry it replaced since that turn.
    pub(super) replaced: Option<LogIndex>,
    /// Where the machine was when this incarnation began.
    pub(super) opened: LogIndex,
    /// The last command applied in this incarnation, or where the machine was before.
    pub(super) applied: Option<LogIndex>,
    /// The end of the last batch that any incarnation's machine was given.
    pub(super) given: LogIndex,
    /// The furthest that any incarnation's machine said it is durable.
    pub(super) machine_durable: LogIndex,
    /// The replica's own clock when it last heard each peer answer in its term.
    pub(super) heard: BTreeMap<NodeId, u64>,
    /// The step in which it last heard the leader that it followed, in which term, and whom.
    pub(super) heard_leader: Option<(u64, Term, NodeId)>,
    /// Its last turn gave nothing out: the decisions of that turn leave later.
    pub(super) is_behind: bool,
    /// The replica's own clock when it began to lead its term.
    pub(super) leads_since: u64,
    /// The replica's own clock, in ticks.
    pub(super) clock: u64,
}

impl Replica {
    /// True if `change` brings back an entry that was replaced before its own write was done (RULES.md W14).
    fn puts_back(&self, change: &Change) -> bool {
        let mut index = change.first;
        change.entries.iter().any(|mark| {
            let at = index;
            index = index.next();
            let had = |before: &Change| {
                let place = at.get().checked_sub(before.first.get());
                let place = place.and_then(|place| usize::try_from(place).ok());
                place.and_then(|place| before.entries.get(place)) == Some(mark)
            };
            self.state.log.get(place(at)) != Some(mark)
                && !self.ever_durable.contains(&(at, mark.term))
                && self.changes.iter().any(had)
        })
    }

    pub(super) fn leads(&self) -> Option<Term> {
        self.status.filter(|status| status.role == Role::Leader).map(|status| status.term)
    }
}

/// All that has happened in a run.
pub(super) struct Ghost {
    pub(super) nodes: Vec<NodeId>,
    /// Shards of each node, in the order of the nodes.
    shards: Vec<u32>,
    pub(super) election_ticks: u64,
    pub(super) limits: limits::OfGroup,
    pub(super) replicas: BTreeMap<(NodeId, GroupId), Replica>,
    pub(super) leaders: BTreeMap<(GroupId, Term), NodeId>,
    /// Every entry that some replica has called committed, as it was the first time, in log order.
    pub(super) committed: BTreeMap<GroupId, Vec<Mark>>,
    /// The term in which each of them was first called committed.
    pub(super) committed_in: BTreeMap<GroupId, Vec<Term>>,
    /// Every entry any log ever held: its checksum, and the term of the entry before it.
    pub(super) entries: BTreeMap<(GroupId, LogIndex, Term), (u32, Term)>,
    /// The results that machines made of commands.
    pub(super) applied: BTreeMap<(GroupId, LogIndex), Applied>,
    /// Up to this index all commands of the group are known: some machine has applied each and reported it.
    pub(super) reached: BTreeMap<GroupId, LogIndex>,
    /// The digests that machines told of their states: at each place the first one, and the machine's node.
    pub(super) digests: BTreeMap<(GroupId, LogIndex), (NodeId, u64)>,
    /// All commands, by serial number.
    pub(super) commands: Vec<Proposed>,
    pub(super) acknowledged: BTreeMap<(GroupId, LogIndex), u64>,
    /// Commands some machine has applied.
    pub(super) applied_serials: BTreeSet<u64>,
    /// Shards whose log has had a write fail.
    pub(super) poisoned: BTreeSet<(NodeId, usize)>,
    pub(super) fenced: BTreeSet<(NodeId, GroupId)>,
    /// Replicas whose machine failed and that have not started since.
    pub(super) stopped: BTreeSet<(NodeId, GroupId)>,
    /// Logs that said they take no entries: the node that heard it, its shard, the node whose log it is, and that shard.
    pub(super) full: BTreeSet<(NodeId, usize, NodeId, u32)>,
    /// Replicas that were founded otherwise than the others: they are judged by invariant 36 alone.
    pub(super) apart: BTreeMap<(NodeId, GroupId), Apart>,
    /// Groups that are judged no more, as nobody can say what must hold for them: see [`super::excuses`].
    pub(super) unjudged: BTreeSet<GroupId>,
    pub(super) counts: Counts,
    /// How commands and replies look in a failure.
    pub(super) describe: Describe,
}

impl Ghost {
    pub(super) fn new(shape: &Shape, describe: Describe) -> Self {
        Self {
            nodes: shape.nodes.clone(),
            shards: shape.shards.clone(),
            election_ticks: shape.election_ticks,
            limits: shape.limits.of_group,
            describe,
            replicas: BTreeMap::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            committed_in: BTreeMap::new(),
            entries: BTreeMap::new(),
            applied: BTreeMap::new(),
            reached: BTreeMap::new(),
            digests: BTreeMap::new(),
            commands: Vec::new(),
            acknowledged: BTreeMap::new(),
            applied_serials: BTreeSet::new(),
            poisoned: BTreeSet::new(),
            fenced: BTreeSet::new(),
            stopped: BTreeSet::new(),
            full: BTreeSet::new(),
            apart: BTreeMap::new(),
            unjudged: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// The shard of a node that runs a group.
    /// True if the replica may have taken entries that it has not handed out: its machine has failed in a turn that had no
    /// slot for a write. Another machine finds them there.
    pub(super) fn is_cut_short(&self, node: NodeId, group: GroupId) -> bool {
        self.stopped.contains(&(node, group))
    }

    pub(super) fn shard_of(&self, node: NodeId, group: GroupId) -> usize {
        let at = self.nodes.iter().position(|known| *known == node).expect("a node of ours");
        shard_of(group, self.shards[at] as usize)
    }

    /// True if `message` is a vote, and the replica has lost what it acknowledged and could not know: it has heard no
    /// leader that knows.
    pub(super) fn is_untold(&self, node: NodeId, group: GroupId, message: &Message) -> bool {
        let votes = match message {
            Message::VoteReply(m) => m.granted,
            Message::RequestVote(_) => true,
            _ => false,
        };
        let replica = self.replicas.get(&(node, group)).filter(|_| votes);
        replica.and_then(|replica| replica.lost.as_ref()).is_some_and(|lost| !lost.is_told)
    }

    /// True if the replica's disk has lost what it had said to be durable, and the loss is not made good yet.
    pub(super) fn has_lost(&self, node: NodeId, group: GroupId) -> bool {
        self.replicas.get(&(node, group)).is_some_and(|replica| replica.lost.is_some())
    }

    /// True if the replica has lost what it acknowledged, and its machine is at an index where an older entry, which
    /// the lost end had replaced, stands in the log again. A machine says its place without a term, so the log cannot
    /// tell.
    pub(super) fn is_at_replaced_entry(&self, node: NodeId, group: GroupId, at: LogIndex) -> bool {
        let Some(place) = at.get().checked_sub(1) else { return false };
        let place = usize::try_from(place).expect("logs fit memory");
        let replica = self.replicas.get(&(node, group)).filter(|replica| replica.lost.is_some());
        let committed = self.committed.get(&group).and_then(|marks| marks.get(place));
        replica
            .is_some_and(|replica| committed.is_some() && replica.state.log.get(place) != committed)
    }

    pub(super) fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// The index up to which all commands are known once a machine has applied up to `at`. A process may end while its
    /// machine saves a batch: the machine then never reports that batch, and opens behind it.
    pub(super) fn known_to(&self, node: NodeId, group: GroupId, at: LogIndex) -> LogIndex {
        let known = self.reached.get(&group).copied().unwrap_or_default();
        if self.replica(node, group).opened <= known { known.max(at) } else { known }
    }

    /// A digest of the state at `at` that differs from `digest`, if a machine gave one. Between two commands the state
    /// stays the same; all commands up to `known` are known.
    pub(super) fn other_digest(
        &self,
        group: GroupId,
        at: LogIndex,
        known: LogIndex,
        digest: u64,
    ) -> Option<(NodeId, LogIndex, u64)> {
        let commands = |from, to| self.applied.range((group, from)..=(group, to));
        let first = commands(LogIndex::ZERO, at).next_back().map_or(LogIndex::ZERO, |a| a.0.1);
        let after = commands(at.next(), LogIndex(u64::MAX)).next().map(|(at, _)| at.1.prev());
        let first = if at > known { at } else { first };
        let last = after.map_or(known.max(at), |after| after.min(known.max(at)));
        let same = self.digests.range((group, first)..=(group, last));
        let mut others = same.filter(|(_, (_, other))| *other != digest);
        others.next().map(|((_, at), (node, other))| (*node, *at, *other))
    }

    pub(super) fn replica(&self, node: NodeId, group: GroupId) -> &Replica {
        &self.replicas[&(node, group)]
    }

    /// Remembers the events of a replica that was founded otherwise which still matter: notices of room, which speak
    /// for a peer's log, whether the replica is fenced, and the nodes that told it of their founding.
    pub(super) fn remember_apart(&mut self, event: &Event<'_>) {
        match *event {
            Event::Arrived { message: Message::Room(_), .. } | Event::Fenced { .. } => {
                self.remember(event);
            }
            Event::Arrived { node, from, group, message: Message::Founding(_) } => {
                let apart = self.apart.get_mut(&(node, group)).expect("one of them");
                apart.told.insert(from);
            }
            _ => {}
        }
    }

    /// Remembers what happened.
    pub(super) fn remember(&mut self, event: &Event<'_>) {
        match *event {
            Event::Recovered { node, group, state, has_lost } => {
                let replica = self.replicas.entry((node, group)).or_default();
                let before = std::mem::take(&mut replica.durable);
                let has_less = before.log != state.log || votes(&before) != votes(state);
                if has_lost && has_less {
                    replica.lost = Some(Lost { said: before, is_told: false });
                }
                let last = LogIndex(state.log.len() as u64);
                let marked = state.hard_state.marked;
                replica.mark = marked.then(|| SinceMark { last, stated: BTreeSet::new() });
                if let Some(lost) = &mut replica.lost {
                    lost.is_told |= marked;
                }
                replica.state = state.clone();
                replica.cost_bytes = vec![0; state.log.len()];
                replica.windows.clear();
                replica.durable = state.clone();
                replica.found = state.clone();
                replica.changes.clear();
                replica.status = None;
                replica.replaced = None;
                replica.opened = LogIndex::ZERO;
                if has_lost {
                    // With its directory a machine may have lost what it said is durable.
                    replica.machine_durable = LogIndex::ZERO;
                    replica.durable_votes.clear();
                    replica.ever_durable.clear();
                }
                // This must follow the clearing above: what was found is on the disk, whatever the disk has lost.
                note_durable(replica, state.hard_state, LogIndex(1), &state.log);
                replica.applied = None;
                replica.heard.clear();
                replica.heard_leader = None;
                self.poisoned.retain(|(poisoned, _)| *poisoned != node);
            }
            Event::Fenced { node, group, .. } => {
                self.fenced.insert((node, group));
                self.replicas.entry((node, group)).or_default().status = None;
                self.poisoned.retain(|(poisoned, _)| *poisoned != node);
            }
            Event::Written { node, group, change } => {
                self.note_entries(node, group, change);
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                if !change.entries.is_empty() && place(change.first) < replica.state.log.len() {
                    logdrive_raft::reached!("conflict repaired");
                    let lower =
                        replica.replaced.map_or(change.first, |index| index.min(change.first));
                    replica.replaced = Some(lower);
                    if change.hard_state.is_some() {
                        logdrive_raft::reached!("entries replaced in the write that saves a term");
                    }
                    if replica.puts_back(change) {
                        logdrive_raft::reached!(
                            "entry put back while its first write is under way"
                        );
                    }
                }
                apply(&mut replica.state, change);
                note_mark(replica);
                if !change.entries.is_empty() {
                    replica.cost_bytes.truncate(place(change.first));
                    replica.cost_bytes.extend_from_slice(&change.cost_bytes);
                }
                replica.changes.push(change.clone());
            }
            Event::Withdrawn { node, group, from, accepted, last } => {
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                replica.changes.retain(|change| change.write < from);
                // The number of this write will be given again; the part of it that the log accepted stays.
                let kept = accepted.cloned();
                replica.changes.extend(kept.map(|kept| Change { write: from.prev(), ..kept }));
                replica.state = replica.found.clone();
                for change in &replica.changes {
                    apply(&mut replica.state, change);
                }
                // Behind `last` the disk may still have the entries to be replaced: the replica does not count on them.
                replica.state.log.truncate(count(last));
                replica.cost_bytes.truncate(count(last));
                replica.replaced = None;
                // The replica may have known entries as committed that it does not have any more, as after a crash.
                if let Some(status) = &mut replica.status {
                    status.commit = status.commit.min(last);
                }
            }
            Event::Landed { node, group, change } => {
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                apply(&mut replica.durable, change);
                let hard_state = replica.durable.hard_state;
                note_durable(replica, hard_state, change.first, &change.entries);
            }
            Event::Sent { node, to, group, message } => {
                let grant = match message {
                    Message::VoteReply(m) if m.granted => Some((m.term, to)),
                    Message::RequestVote(m) => Some((m.term, node)),
                    _ => None,
                };
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                if let Some((term, candidate)) = grant {
                    replica.granted.insert(term, candidate);
                }
                if let Message::AppendEntries(append) = message {
                    replica.windows.entry(to).or_default().send(append);
                }
            }
            Event::Arrived { node, from, group, message: Message::Room(notice) } => {
                let key = (node, self.shard_of(node, group), from, notice.shard);
                match notice.says {
                    RoomSays::Full => drop(self.full.insert(key)),
                    RoomSays::Free => drop(self.full.remove(&key)),
                    RoomSays::Asked | RoomSays::TooLarge => {}
                }
            }
            Event::Arrived { node, from, group, message } => {
                let Some(replica) = self.replicas.get_mut(&(node, group)) else { return };
                if let (Message::TermStated(_), Some(mark)) = (message, &mut replica.mark) {
                    mark.stated.insert(from);
                }
                if let Message::Marked(question) = message
                    && replica.leads().is_some()
                    && let Some(window) = replica.windows.get_mut(&from)
                {
                    let LogId { index, term } = question.last_log;
                    let end = replica.state.log.partition_point(|mark| mark.term <= term);
                    window.meet(index.min(LogIndex(end as u64)));
                }
                if let Message::AppendReply(reply) = message
                    && let AppendResult::Accepted { match_index }
                    | AppendResult::Taken { match_index } = reply.result
                    && let Some(window) = replica.windows.get_mut(&from)
                {
                    window.acknowledge(reply.term, match_index);
                }
                let leads = matches!(message, Message::Heartbeat(_) | Message::AppendEntries(_));
                let follows = |status: &Status| {
                    status.leader == Some(from)
                        && status.term == message.term()
                        && status.role == Role::Follower
                };
                if leads && replica.status.as_ref().is_some_and(follows) {
                    replica.heard_leader = Some((self.counts.steps, message.term(), from));
                }
                let answers =
                    matches!(message, Message::AppendReply(_) | Message::HeartbeatReply(_));
                if answers && replica.leads() == Some(message.term()) {
                    replica.heard.insert(from, replica.clock);
                }
            }
            Event::Turned { node, group, status, clock } => {
                self.note_commit(node, group, status);
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                replica.clock = clock;
                if status.role == Role::Leader && replica.leads() != Some(status.term) {
                    replica.leads_since = clock;
                    replica.heard.clear();
                    if self.leaders.insert((group, status.term), node).is_none() {
                        self.counts.elections += 1;
                    }
                }
                // Entries that the replica has not handed out are judged when it has.
                let written = LogIndex(replica.state.log.len() as u64);
                replica.status = Some(Status { commit: status.commit.min(written), ..*status });
                replica.replaced = None;
                forget_loss(replica, status);
            }
            Event::Applied { node, group, applied } => {
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                replica.applied = Some(applied.index);
                let known = self.applied.entry((group, applied.index));
                known.or_insert_with(|| applied.clone());
                self.applied_serials.insert(applied.serial);
            }
            Event::Opened { node, group, at, digest } => {
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                replica.opened = at;
                if at > LogIndex::ZERO {
                    logdrive_raft::reached!("machine reopened where it had been");
                    replica.applied = Some(at);
                }
                self.note_digest(node, group, at, digest);
            }
            Event::Given { node, group, last } => {
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                replica.given = replica.given.max(last);
            }
            Event::Reached { node, group, at, digest, durable } => {
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                replica.machine_durable = replica.machine_durable.max(durable);
                self.reached.insert(group, self.known_to(node, group, at));
                self.note_digest(node, group, at, digest);
            }
            Event::Answered { serial, outcome } => {
                let known = known(outcome);
                let command = &mut self.commands[serial_place(serial)];
                command.known = known;
                match (outcome, known) {
                    (Ok(applied), _) => {
                        self.counts.acknowledged += 1;
                        self.acknowledged.insert((command.group, applied.index), serial);
                    }
                    (Err(_), Known::No) => self.counts.refused += 1,
                    (Err(_), _) => self.counts.unknown += 1,
                }
            }
            Event::Stopped { node, group } => {
                logdrive_raft::reached!("group stopped by its machine");
                self.stopped.insert((node, group));
            }
            Event::Restarted { node, group } => {
                self.stopped.remove(&(node, group));
                let replica = self.replicas.get_mut(&(node, group)).expect("recovered");
                (replica.opened, replica.applied) = (LogIndex::ZERO, None);
                // The commands behind the place where the new machine opens are handed out once more.
                if let Some(status) = &mut replica.status {
                    (status.applying, status.applied) = (LogIndex::ZERO, LogIndex::ZERO);
                }
            }
            Event::Poisoned { node, shard } => {
                self.poisoned.insert((node, shard));
            }
            Event::Down { node } => {
                self.counts.crashes += 1;
                self.stopped.retain(|(of, _)| *of != node);
                self.full.retain(|(of, ..)| *of != node);
                let own = self.apart.iter_mut().filter(|((of, _), _)| *of == node);
                own.for_each(|(_, apart)| apart.told.clear());
                // A client that proposed to this process never hears an answer.
                let commands = self.commands.iter_mut();
                for command in commands.filter(|c| c.node == node && c.known == Known::Waiting) {
                    command.known = Known::Unknown;
                    self.counts.unknown += 1;
                }
            }
            Event::Loaded { .. }
            | Event::AnsweredApart { .. }
            | Event::GivenBack { .. }
            | Event::Impostor { .. }
            | Event::End { .. } => {}
        }
    }

    fn note_entries(&mut self, node: NodeId, group: GroupId, change: &Change) {
        if change.entries.is_empty() {
            return;
        }
        let log = &self.replicas[&(node, group)].state.log;
        let mut before = match place(change.first) {
            0 => Term::ZERO,
            at => log.get(at - 1).map_or(Term::ZERO, |mark| mark.term),
        };
        let mut index = change.first;
        for mark in &change.entries {
            self.entries.insert((group, index, mark.term), (mark.checksum, before));
            before = mark.term;
            index = index.next();
        }
    }

    fn note_digest(&mut self, node: NodeId, group: GroupId, at: LogIndex, digest: Option<u64>) {
        if let Some(digest) = digest {
            self.digests.entry((group, at)).or_insert((node, digest));
        }
    }

    fn note_commit(&mut self, node: NodeId, group: GroupId, status: &Status) {
        let log = &self.replicas[&(node, group)].state.log;
        let committed = self.committed.entry(group).or_default();
        let known = committed.len();
        if let Some(news) = log.get(known..count(status.commit)) {
            committed.extend_from_slice(news);
            let terms = self.committed_in.entry(group).or_default();
            terms.extend(std::iter::repeat_n(status.term, news.len()));
        }
    }
}

/// Notes that the replica has handed out its mark, or the end of the mark.
fn note_mark(replica: &mut Replica) {
    let last = LogIndex(replica.state.log.len() as u64);
    match (replica.state.hard_state.marked, &replica.mark) {
        (true, None) => {
            replica.mark = Some(SinceMark { last, stated: BTreeSet::new() });
            if let Some(lost) = &mut replica.lost {
                lost.is_told = true;
            }
        }
        (false, Some(_)) => (replica.mark, replica.lost) = (None, None),
        _ => {}
    }
}

/// Forgets a loss that is mended: a leader of a later term than any that the replica has lost, elected without the
/// replica's vote since the loss, has given it all that was committed before.
fn forget_loss(replica: &mut Replica, status: &Status) {
    let Some(lost) = replica.lost.as_ref().filter(|lost| !lost.is_told) else { return };
    let of_commit = status
        .commit
        .get()
        .checked_sub(1)
        .and_then(|_| replica.state.log.get(place(status.commit)));
    let is_later = status.term > lost.said.hard_state.term;
    let is_current = of_commit.is_some_and(|mark| mark.term == status.term);
    if is_later && is_current && status.commit <= status.durable && status.leader.is_some() {
        logdrive_raft::reached!("loss mended by a later leader");
        replica.lost = None;
    }
}

fn votes(state: &LogState) -> (Term, Option<NodeId>) {
    (state.hard_state.term, state.hard_state.voted_for)
}

/// Applies a whole write to a log.
pub(super) fn apply(state: &mut LogState, change: &Change) {
    if let Some(hard_state) = change.hard_state {
        state.hard_state = hard_state;
    }
    if !change.entries.is_empty() {
        state.log.truncate(place(change.first));
        state.log.extend_from_slice(&change.entries);
    }
}

fn note_durable(replica: &mut Replica, state: HardState, first: LogIndex, entries: &[Mark]) {
    replica.durable_votes.insert(state.term, state.voted_for);
    let mut index = first;
    for mark in entries {
        replica.ever_durable.insert((index, mark.term));
        index = index.next();
    }
}

/// Where an entry stands in a list of marks.
pub(super) fn place(index: LogIndex) -> usize {
    count(index).checked_sub(1).expect("entries begin at 1")
}

/// How many entries there are up to `index`.
pub(super) fn count(index: LogIndex) -> usize {
    usize::try_from(index.get()).expect("simulated logs are short")
}
