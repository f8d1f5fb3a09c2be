//! The memory that a shard holds for others is bounded, and is given back. The messages that it sends to a log without
//! room are bounded, too.
//!
//! In:     a follower that is slow, or full; commands that are refused, that are done, or whose outcome is never known.
//! Out:    nothing but failures.

use super::*;
use crate::links::LinkChange;

/// A payload that is counted while it lives.
struct Counted(Vec<u8>, Arc<std::sync::atomic::AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), std::sync::atomic::Ordering::Relaxed);
    }
}

/// Runs the shard until it owes nothing. Peer 2 answers at once; peer 3 acknowledges only its first append, because its
/// disk is slow from then on.
fn settle(shard: &mut Shard, acked: &mut HashSet<(NodeId, GroupId)>) {
    use logdrive_raft::{AppendReply, PreVoteReply, VoteReply};
    let mut round = shard.round();
    while shard.is_dirty() {
        shard.begin_turn(&mut round);
        shard.gather(Nanos(1), &mut round);
        for job in round.writes.drain(..) {
            let stamps = Stamps { submitted: Nanos(1), durable: Nanos(1) };
            shard.durable(Durable::new(job.group, job.write.id), stamps);
        }
        for (peer, lanes) in [NodeId(2), NodeId(3)].into_iter().zip(&mut round.outbox) {
            for (group, message) in lanes.iter_mut().flat_map(|lane| lane.drain(..)) {
                let (term, granted) = (message.term(), true);
                let reply = match message {
                    Message::PreVote(_) => Message::PreVoteReply(PreVoteReply { term, granted }),
                    Message::RequestVote(_) => Message::VoteReply(VoteReply { term, granted }),
                    Message::AppendEntries(m)
                        if acked.insert((peer, group)) || peer == NodeId(2) =>
                    {
                        let match_index = m.entries.last().map_or(m.prev_log.index, |e| e.index);
                        let result = AppendResult::Accepted { match_index };
                        Message::AppendReply(AppendReply { term, result })
                    }
                    // The peer was founded with the same members.
                    Message::Founding(m) => Message::Founding(m),
                    _ => continue,
                };
                shard.receive(peer, group, reply);
            }
        }
        for job in round.applies.drain(..) {
            let replies = &mut std::iter::repeat_n(Bytes::new(), job.entries.len());
            shard.applied(&job, replies, Nanos(1), &mut Vec::new());
        }
        round.answers.clear();
    }
}

/// The bug: 500 groups, each with up to 4 MiB for the slowest peer, held 1 GiB, and all of it was copied at every sealed
/// segment.
#[test]
fn what_a_slow_follower_makes_a_shard_hold_is_bounded_and_copied_in_parts() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const GROUPS: u64 = 150;
    const PAYLOAD: usize = 64 << 10;
    let ids = [1, 2, 3].map(NodeId);
    let live = Arc::new(AtomicUsize::new(0));
    let mut shard = Shard::new(ids[0], &ids, TIMING, 1);
    for group in 1..=GROUPS {
        shard.add(founded(GroupId(group), &ids, true)).unwrap();
    }
    ids.iter().for_each(|peer| shard.link(LinkChange::Up(*peer)));
    let mut acked = HashSet::new();
    settle(&mut shard, &mut acked);
    let (mut most, mut owed) = (0, 0);
    for group in (1..=GROUPS).map(GroupId) {
        let commands = (0..limits::TAIL_BYTES_MAX / PAYLOAD).map(|_| {
            live.fetch_add(PAYLOAD, Ordering::Relaxed);
            let payload = Bytes::from_owner(Counted(vec![3; PAYLOAD], Arc::clone(&live)));
            Command { checksum: 0, payload }
        });
        let commands = Commands::Many(commands.collect());
        let sink: Arc<Outcomes> = Arc::default();
        shard.submit(Submission { group, sink, token: 0, commands, at: Nanos(1) }, &mut Vec::new());
        settle(&mut shard, &mut acked);
        let status = shard.status(group).unwrap();
        assert_eq!((status.role, status.applied), (Role::Leader, status.last_log.index));
        most = most.max(live.load(Ordering::Relaxed));
    }
    let bound = 2 * limits::TAILS_BYTES_MAX;
    assert!((1..=bound).contains(&most), "{} MiB held for one follower", most >> 20);
    // A segment is sealed: what was borrowed from it is copied, and never more than a part of it in a turn.
    shard.image_sealed();
    let mut turns = 0;
    loop {
        let before = live.load(Ordering::Relaxed);
        let more = shard.own_tails();
        let copied = before - live.load(Ordering::Relaxed);
        owed += copied;
        turns += 1;
        let part = limits::OWN_BYTES_MAX + limits::TAIL_BYTES_MAX;
        assert!(copied <= part, "{copied} bytes were copied in one turn");
        if !more {
            break;
        }
    }
    assert!(owed > limits::TAILS_BYTES_MAX / 2, "only {owed} bytes were held");
    assert_eq!(live.load(Ordering::Relaxed), 0, "something is borrowed still");
    assert!(turns > 10, "{turns} turns");
    shard.image_sealed();
    assert!(!shard.own_tails(), "copied once more");
}

/// A command counts as waiting until it has an outcome, whichever that is: otherwise a shard that has refused enough
/// commands would take no more.
#[test]
fn commands_that_were_refused_or_are_unknown_count_no_more() {
    let mut trio = Trio::new(3);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let waiting = |trio: &Trio, at: usize| trio.nodes[at].arrivals.inbox().waiting();
    let all_answered = |trio: &mut Trio, count: usize, what: &str| {
        let mut seen = Vec::new();
        for _ in 0..20_000 {
            seen.append(&mut trio.outcomes());
            if seen.len() >= count {
                break;
            }
            trio.step();
        }
        assert_eq!(seen.len(), count, "{what}");
        seen
    };
    // Commands that a follower refuses, because its callers took it for the leader.
    let follower = (leader + 1) % 3;
    (0..5).for_each(|_| trio.propose(follower));
    assert_eq!(waiting(&trio, follower), cost(5, 35));
    let seen = all_answered(&mut trio, 5, "refused");
    assert!(seen.iter().all(Result::is_err));
    assert_eq!(waiting(&trio, follower), Cost::default());
    // Commands that are applied.
    (0..5).for_each(|_| trio.propose(leader));
    assert!(all_answered(&mut trio, 5, "done").iter().all(Result::is_ok));
    assert_eq!(waiting(&trio, leader), Cost::default());
    // Commands whose outcome is unknown: they entered the log before leadership moved.
    trio.nodes[leader].is_stuck = true;
    (0..10).for_each(|_| trio.propose_payload(leader, Bytes::from(vec![7; 1_000])));
    trio.step();
    assert_eq!((trio.outcomes().len(), waiting(&trio, leader)), (0, cost(10, 10_000)));
    let dead: Vec<_> = (0..3).filter(|at| *at != leader).collect();
    dead.iter().for_each(|at| trio.nodes[*at].host = None);
    let seen = all_answered(&mut trio, 10, "unknown");
    let unknown = |outcome: &Outcome| matches!(outcome, Err(ProposeError::OutcomeUnknown(_)));
    assert!(seen.iter().all(unknown), "{seen:?}");
    assert_eq!(waiting(&trio, leader), Cost::default());
}

/// Three shards that each run the same groups. What they write is durable at once, and what they say arrives a tick later.
struct ManyGroups {
    now: u64,
    shards: Vec<Shard>,
    under_way: Vec<(NodeId, NodeId, GroupId, Message)>,
    /// The shard whose log takes no entries.
    full: Option<usize>,
}

impl ManyGroups {
    const GROUPS: u64 = 100;

    fn new() -> Self {
        let ids = [1, 2, 3].map(NodeId);
        let shard = |me: NodeId| {
            let mut shard = Shard::new(me, &ids, TIMING, me.get());
            for group in (1..=Self::GROUPS).map(GroupId) {
                shard.add(founded(group, &ids, me == ids[0])).unwrap();
            }
            let others = ids.iter().filter(|peer| **peer != me);
            others.for_each(|peer| shard.link(LinkChange::Up(*peer)));
            shard
        };
        Self { now: 0, shards: ids.map(shard).into(), under_way: Vec::new(), full: None }
    }

    fn step(&mut self) {
        self.now += 1;
        let arriving = std::mem::take(&mut self.under_way);
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let me = NodeId(at as u64 + 1);
            shard.set_clock(logdrive_raft::Ticks(self.now));
            let room = if self.full == Some(at) { Room::Reserve } else { Room::Free };
            shard.set_log_room(room, false, std::iter::empty());
            for (from, _, group, message) in arriving.iter().filter(|(_, to, ..)| *to == me) {
                shard.receive(*from, *group, message.clone());
            }
            shard.fire_timers(true);
            let mut round = shard.round();
            while shard.is_dirty() {
                shard.gather(Nanos(1), &mut round);
                for job in round.writes.drain(..) {
                    let stamps = Stamps { submitted: Nanos(1), durable: Nanos(1) };
                    shard.durable(Durable::new(job.group, job.write.id), stamps);
                }
                for job in round.applies.drain(..) {
                    let replies = &mut std::iter::repeat_n(Bytes::new(), job.entries.len());
                    shard.applied(&job, replies, Nanos(1), &mut Vec::new());
                }
            }
            let said = shard.peers().iter().zip(round.outbox);
            let said = said.flat_map(|(to, lanes)| lanes.into_iter().flatten().map(|m| (*to, m)));
            self.under_way.extend(said.map(|(to, (group, message))| (me, to, group, message)));
        }
    }

    fn propose(&mut self, group: u64) {
        let commands = Commands::One(Command { checksum: 0, payload: Bytes::from_static(b"x") });
        let sink: Arc<Outcomes> = Arc::default();
        let submission =
            Submission { group: GroupId(group), sink, token: 0, commands, at: Nanos(1) };
        self.shards[0].submit(submission, &mut Vec::new());
    }

    /// The sum over all groups of a shard.
    fn sum(&self, at: usize, of: impl Fn(Status) -> LogIndex) -> u64 {
        let statuses = (1..=Self::GROUPS).map(|group| self.shards[at].status(GroupId(group)));
        statuses.map(|status| of(status.unwrap()).get()).sum()
    }
}

/// RULES.md W9, B2.
/// Room is a property of a peer's log, not of a group: the leader of a hundred groups asks about it as often as the
/// leader of one group would, and sends no probe for any of the groups.
#[test]
fn a_full_log_is_asked_once_a_heartbeat_however_many_groups_it_has() {
    let mut many = ManyGroups::new();
    (0..TIMING.election_ticks).for_each(|_| many.step());
    let groups = ManyGroups::GROUPS;
    assert_eq!(many.sum(2, |status| status.commit), groups, "1 leads all, and 3 keeps up");
    many.full = Some(2);
    let full = NodeId(3);
    (1..=groups).for_each(|group| many.propose(group));
    (0..4 * TIMING.heartbeat_ticks).for_each(|_| many.step());
    let heartbeats = 20;
    let (mut questions, mut answers, mut appends) = (0, 0, 0);
    for tick in 0..heartbeats * TIMING.heartbeat_ticks {
        // A quarter of the groups has something to send in each tick.
        (1..=groups).filter(|group| (group + tick) % 4 == 0).for_each(|group| many.propose(group));
        many.step();
        for (from, to, _, message) in &many.under_way {
            match message {
                Message::Room(_) if *to == full => questions += 1,
                Message::Room(_) if *from == full => answers += 1,
                Message::AppendEntries(_) if *to == full => appends += 1,
                _ => {}
            }
        }
    }
    (0..4).for_each(|_| many.step());
    assert!((heartbeats - 1..=heartbeats + 1).contains(&questions), "{questions} questions");
    assert!(answers <= questions + 1, "{answers} answers to {questions} questions");
    assert_eq!(appends, 0, "appends to a log that is known to be full");
    let last = many.sum(0, |status| status.last_log.index);
    assert_eq!(many.sum(0, |status| status.commit), last, "the two others serve");
    assert_eq!(many.sum(2, |status| status.last_log.index), groups, "the full one took none");
    // One answer brings all groups up to date.
    many.full = None;
    (0..10 * TIMING.heartbeat_ticks).for_each(|_| many.step());
    assert_eq!(many.sum(2, |status| status.last_log.index), last);
}

/// A shard of groups with one member each, whose writes are durable at once and whose machines do nothing.
struct Alone {
    shard: Shard,
    round: Round,
}

impl Alone {
    fn new(groups: u64, turn_apply_max: ApplyMax) -> Self {
        let of_shard = limits::OfShard { turn_apply_max, ..limits::OfShard::REAL };
        let me = NodeId(1);
        let limits = Limits { of_shard, ..Limits::REAL };
        let mut shard = Shard::new(me, &[me], TIMING, 1).with_limits(&limits);
        for group in (1..=groups).map(GroupId) {
            shard.add(founded(group, &[me], true)).unwrap();
        }
        let mut alone = Self { round: shard.round(), shard };
        while alone.shard.is_dirty() || alone.shard.owes_machines() {
            alone.turn();
        }
        alone
    }

    fn propose(&mut self, group: u64, count: usize, bytes: usize) {
        let command = || Command { checksum: 0, payload: vec![1; bytes].into() };
        let commands = Commands::Many(std::iter::repeat_with(command).take(count).collect());
        let (group, sink) = (GroupId(group), Arc::<Outcomes>::default());
        let submission = Submission { group, sink, token: 0, commands, at: Nanos(1) };
        self.shard.submit(submission, &mut Vec::new());
    }

    /// A turn, and what each group's machine was handed in it.
    fn turn(&mut self) -> BTreeMap<u64, Cost> {
        self.shard.begin_turn(&mut self.round);
        let mut handed = BTreeMap::new();
        for _ in 0..limits::GATHERINGS_MAX {
            self.shard.gather(Nanos(1), &mut self.round);
            for job in self.round.writes.drain(..) {
                let stamps = Stamps { submitted: Nanos(1), durable: Nanos(1) };
                self.shard.durable(Durable::new(job.group, job.write.id), stamps);
            }
            self.apply(&mut handed);
        }
        handed
    }

    /// A turn that may give nothing out.
    fn turn_without_a_slot(&mut self) -> BTreeMap<u64, Cost> {
        let mut handed = BTreeMap::new();
        self.shard.begin_turn(&mut self.round);
        self.shard.hand_out(Nanos(1), &mut self.round);
        self.apply(&mut handed);
        handed
    }

    fn apply(&mut self, handed: &mut BTreeMap<u64, Cost>) {
        for job in self.round.applies.drain(..) {
            let to = handed.entry(job.slot.at() as u64 + 1).or_default();
            *to = *to + cost(job.entries.len(), job.entries.cost_bytes());
            let replies = &mut std::iter::repeat_n(Bytes::new(), job.entries.len());
            self.shard.applied(&job, replies, Nanos(1), &mut Vec::new());
        }
    }

    fn has_applied_all(&self, group: u64) -> bool {
        let status = self.shard.status(GroupId(group)).unwrap();
        status.applied == status.last_log.index
    }
}

/// The bug: a turn handed up to 4 MiB to each group's machine. With a thousand groups, one frame of heartbeats that
/// committed what all of them had waiting made a turn of 280 ms.
#[test]
fn a_turn_hands_all_machines_a_bounded_part_and_a_group_with_little_does_not_wait() {
    let mut alone = Alone::new(20, ApplyMax { entries: 100, bytes: 1 << 20 });
    alone.propose(1, 1_000, 1);
    (2..=20).for_each(|group| alone.propose(group, 1, 1));
    let commands =
        |handed: &BTreeMap<u64, Cost>| handed.values().map(|cost| cost.commands).sum::<usize>();
    let handed = alone.turn();
    assert_eq!(handed.len(), 20, "every group is handed something: {handed:?}");
    assert_eq!((commands(&handed), handed[&1].commands), (100, 81));
    let (mut left, mut late) = (1_000 - 81, 0);
    for turn in 0.. {
        assert_eq!(alone.shard.owes_machines(), left + late > 0, "{left} and {late} are left");
        if left + late == 0 {
            break;
        }
        let handed = if turn % 3 == 2 {
            alone.turn_without_a_slot()
        } else {
            // Committed in the course of the turn, when its room is used up.
            alone.propose(7, 1, 1);
            late += 1;
            alone.turn()
        };
        let of = |group| handed.get(&group).map_or(0, |cost| cost.commands);
        assert!(commands(&handed) == 100 || of(1) == left, "{handed:?}");
        (left, late) = (left - of(1), late - of(7));
        assert!(late <= 1, "a command has waited for two turns: {handed:?}");
    }
    alone.turn();
    assert!((1..=20).all(|group| alone.has_applied_all(group)));
}

#[test]
fn a_turn_hands_machines_one_entry_more_than_the_bytes_it_has_room_for() {
    const PAYLOAD: usize = 30_000;
    let mut alone = Alone::new(3, ApplyMax { entries: 1_000, bytes: 100_000 });
    (1..=3).for_each(|group| alone.propose(group, 50, PAYLOAD));
    let mut turns = 0;
    loop {
        let handed = alone.turn();
        let bytes: usize = handed.values().map(|cost| cost.bytes).sum();
        assert!(bytes < 100_000 + PAYLOAD + 100, "{handed:?}");
        turns += 1;
        if (1..=3).all(|group| alone.has_applied_all(group)) {
            break;
        }
        assert_eq!(handed.len(), 3, "{handed:?}");
    }
    assert_eq!(turns, 150_usize.div_ceil(4));
}

/// Machines need no write slot: a turn that can give nothing out goes on with what is committed, and says that more is
/// left, for which its driver takes the next turn at once.
#[test]
fn machines_go_on_from_turn_to_turn_while_the_disk_is_busy() {
    let turn_apply_max = ApplyMax { entries: 3, bytes: 1 << 20 };
    let of_shard = limits::OfShard { turn_apply_max, ..limits::OfShard::REAL };
    let mut trio = Trio::with(3, None, Limits { of_shard, ..Limits::REAL });
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    (0..40).for_each(|_| trio.propose(leader));
    let owes = |trio: &Trio| trio.nodes[leader].host.as_ref().unwrap().shard.owes_machines();
    trio.until("more is committed than a turn hands out", 100, owes);
    trio.nodes[leader].is_stuck = true;
    let has_slot =
        |trio: &Trio| trio.nodes[leader].host.as_ref().unwrap().wal().unwrap().has_slot();
    while has_slot(&trio) {
        trio.propose(leader);
        let node = &mut trio.nodes[leader];
        node.host.as_mut().unwrap().turn(&node.outside);
    }
    assert!(owes(&trio), "the writes took more turns than the machine");
    let mut applied = trio.status(leader).unwrap().applied.get();
    for turn in 0.. {
        let is_left = owes(&trio);
        let node = &mut trio.nodes[leader];
        let is_woken = node.arrivals.inbox().is_woken();
        assert!(is_woken || !is_left, "turn {turn} leaves work and wakes nobody");
        if !is_left {
            break;
        }
        let turned = node.host.as_mut().unwrap().turn(&node.outside);
        let status = trio.status(leader).unwrap();
        assert!((1..=3).contains(&(status.applied.get() - applied)), "{status:?} after {applied}");
        applied = status.applied.get();
        assert_eq!(turned.leaves_work, owes(&trio));
    }
    let status = trio.status(leader).unwrap();
    assert_eq!(status.applied, status.commit.min(status.durable));
    assert!(trio.outcomes().len() > 20, "the commands were answered");
}
