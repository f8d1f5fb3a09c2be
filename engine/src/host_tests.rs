//! Three shards with their logs on simulated disks that stall or fail, and a network that carries everything.
//!
//! In:     which disk answers in a step; commands for the leader.
//! Out:    what each node said, and what its disk holds afterwards.

use super::*;
use crate::{
    Committed, Completions, Config, MachineError, Outcome,
    limits::Limits,
    links::{LaneChange, PeerProcess},
    shard::{Commands, GroupView, Submission, Timing},
};
use bytes::Bytes;
use logdrive_net::stores::Acquaintances;
use logdrive_raft::{
    AppendResult, ApplyMax, Command, Durable, FoundingNotice, HardState, Heartbeat, HeartbeatReply,
    LogId, LogIndex, Role, Status, Term,
};
use logdrive_wal::{Identity, SegmentSeq, disk::sim::SimPlatter};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

#[path = "host_bounds/tests.rs"]
mod bounds;

const GROUP: GroupId = GroupId(7);
/// The one of each node's two shards that runs the group.
const SHARD: usize = 1;
const TIMING: Timing = Timing { election_ticks: 20, heartbeat_ticks: 2 };
const TICK_NS: u64 = 1_000_000;
const RESIGN_TICKS: u64 = 2 * TIMING.election_ticks;
/// Within this time another node leads: a silence is noticed in steps, followers wait one to two election timeouts, and
/// the first to ask for votes may ask too early.
const TAKE_OVER_TICKS: u64 = RESIGN_TICKS + RESIGN_TICKS / 8 + 4 * TIMING.election_ticks + 20;

#[derive(Default)]
struct Said {
    now: Nanos,
    messages: Vec<(NodeId, Message)>,
    reads: Vec<ReadTask>,
}

impl Outside for RefCell<Said> {
    fn send(&self, peer: NodeId, _lane: Lane, messages: &mut Vec<(GroupId, Message)>) -> bool {
        let said = &mut self.borrow_mut().messages;
        said.extend(messages.drain(..).map(|(_, message)| (peer, message)));
        true
    }

    fn read(&self, task: ReadTask) -> Result<(), ReadTask> {
        self.borrow_mut().reads.push(task);
        Ok(())
    }

    fn now(&self) -> Nanos {
        self.borrow().now
    }

    fn take(&self, _: Control) {
        unreachable!("no tasks and no connections here");
    }
}

fn cost(commands: usize, bytes: usize) -> Cost {
    Cost { commands, bytes }
}

struct Forgetful;

impl StateMachine for Forgetful {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        batch.commands().for_each(|_| replies.push(Bytes::new()));
        Ok(())
    }
}

#[derive(Default)]
struct Outcomes(Mutex<Vec<Outcome>>);

impl Completions for Outcomes {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        self.0.lock().unwrap().extend(outcomes.drain(..).map(|(_, outcome)| outcome));
    }
}

struct Trio {
    now: u64,
    nodes: Vec<Node>,
    /// Messages that arrive in the next step.
    under_way: Vec<(NodeId, NodeId, Message)>,
    outcomes: Arc<Outcomes>,
}

struct Node {
    id: NodeId,
    identity: Identity,
    platter: SimPlatter,
    is_stuck: bool,
    /// How many ticks each step of making a segment takes; with 0 the seed decides.
    ticks_per_making_step: u64,
    shared: Arc<Shared>,
    arrivals: Rc<Arrivals>,
    /// `None` once its log has failed.
    host: Option<ShardHost>,
    outside: RefCell<Said>,
    /// All messages that the node ever sent, each with the time.
    said: Vec<(u64, Message)>,
}

impl Node {
    /// A frame of a peer's process arrives, for the next turn.
    fn hear(&self, from: PeerProcess, messages: Vec<Message>) {
        let messages = messages.into_iter().map(|message| (GROUP, message)).collect();
        self.arrivals.frame(from, messages, SHARD, &self.shared.inboxes);
    }
}

impl Trio {
    fn new(seed: u64) -> Self {
        Self::with_quota(seed, None)
    }

    /// Three nodes, each of whose turns takes in at most `turn_steps_max` steps of messages.
    fn with_turns_of(seed: u64, turn_steps_max: usize) -> Self {
        let of_shard = limits::OfShard { turn_steps_max, ..limits::OfShard::REAL };
        Self::with(seed, None, Limits { of_shard, ..Limits::REAL })
    }

    fn with_quota(seed: u64, log_bytes_max: Option<u64>) -> Self {
        Self::with(seed, log_bytes_max, Limits::REAL)
    }

    fn with(seed: u64, log_bytes_max: Option<u64>, limits: Limits) -> Self {
        let ids = [1, 2, 3].map(NodeId);
        let nodes = ids.map(|id| {
            let identity = Identity {
                cluster: "trio".to_owned(),
                node: id,
                store: id.get().into(),
                shards: 2,
                incarnation: 1,
                settings: Default::default(),
            };
            let platter = SimPlatter::new(seed ^ id.get(), &identity, 0);
            let wal = open_with_quota(&platter, &identity, log_bytes_max).0;
            let shared = shared_with(&ids, &identity, limits);
            let arrivals = Rc::new(Arrivals::new(shared.inboxes[SHARD].clone()));
            let mut host = ShardHost::new(shared.clone(), SHARD, arrivals.clone(), wal, seed);
            let founded = founded(GROUP, &ids, id == ids[0]);
            host.add(founded, Box::new(Forgetful)).unwrap();
            for peer in ids.iter().filter(|peer| **peer != id) {
                shared.inbound_opened(*peer, 1);
                for lane in Lane::ALL {
                    arrivals.lane(LaneChange { peer: *peer, lane, up: true });
                }
            }
            Node {
                id,
                identity,
                platter,
                is_stuck: false,
                ticks_per_making_step: 0,
                shared,
                arrivals,
                host: Some(host),
                outside: RefCell::default(),
                said: Vec::new(),
            }
        });
        let outcomes = Arc::default();
        Self { now: 0, nodes: nodes.into(), under_way: Vec::new(), outcomes }
    }

    /// A tick: what is under way arrives, disks that are not stuck do something, everyone takes a turn.
    fn step(&mut self) {
        self.now += 1;
        let arriving = std::mem::take(&mut self.under_way);
        let process = |node: &Node| (node.id, node.identity.incarnation);
        let processes: BTreeMap<NodeId, u64> = self.nodes.iter().map(process).collect();
        for node in &mut self.nodes {
            let Some(host) = &mut node.host else { continue };
            match node.ticks_per_making_step {
                _ if node.is_stuck => {}
                0 => node.platter.complete_some(),
                ticks => {
                    (0..node.platter.writes_in_flight()).for_each(|_| node.platter.complete_nth(0));
                    if self.now.is_multiple_of(ticks) {
                        node.platter.make_step();
                    }
                }
            }
            node.outside.borrow_mut().now = Nanos(self.now * TICK_NS);
            for task in std::mem::take(&mut node.outside.borrow_mut().reads) {
                assert!(
                    node.arrivals.reads().push(task.run()).is_ok(),
                    "as many as were asked for"
                );
            }
            for (from, _, message) in arriving.iter().filter(|(_, to, _)| *to == node.id) {
                let from = PeerProcess { node: *from, incarnation: processes[from] };
                let messages = vec![(GROUP, message.clone())];
                node.arrivals.frame(from, messages, SHARD, &node.shared.inboxes);
            }
            if host.turn(&node.outside).has_stopped {
                node.host = None;
            }
            for (to, message) in node.outside.borrow_mut().messages.drain(..) {
                node.said.push((self.now, message.clone()));
                self.under_way.push((node.id, to, message));
            }
        }
    }

    fn status(&self, at: usize) -> Option<Status> {
        self.nodes[at].host.as_ref().and_then(|host| host.shard.status(GROUP))
    }

    fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| self.status(*at).is_some_and(|s| s.role == Role::Leader);
        (0..3).filter(leads).max_by_key(|at| self.status(*at).map(|status| status.term))
    }

    /// Steps until `so` holds; returns how many steps it took.
    fn until(&mut self, what: &str, steps_max: u64, so: impl Fn(&Self) -> bool) -> u64 {
        for step in 0..=steps_max {
            if so(self) {
                return step;
            }
            self.step();
        }
        panic!("not within {steps_max} steps: {what}");
    }

    fn propose(&mut self, at: usize) {
        self.propose_payload(at, Bytes::from_static(b"command"));
    }

    fn propose_payload(&mut self, at: usize, payload: Bytes) {
        let checksum = logdrive_wal::checksum(&payload);
        let submission = Submission {
            group: GROUP,
            sink: self.outcomes.clone(),
            token: 0,
            commands: Commands::One(Command { checksum, payload }),
            at: Nanos(1),
        };
        let inbox = self.nodes[at].arrivals.inbox();
        inbox.admit(submission.commands.cost()).expect("few wait");
        inbox.submit(submission).expect("few wait");
    }

    fn outcomes(&self) -> Vec<Outcome> {
        std::mem::take(&mut *self.outcomes.0.lock().unwrap())
    }
}

fn founded(group: GroupId, members: &[NodeId], first_leader: bool) -> Founded {
    Founded {
        group,
        members: members.to_vec(),
        membership: Some(Bytes::from_static(b"members")),
        hard_state: HardState::default(),
        base: LogId::ZERO,
        runs: Vec::new(),
        last: LogIndex::ZERO,
        applied: LogIndex::ZERO,
        durable: Durable::of_nothing(group),
        first_leader,
        view: Arc::new(GroupView::default()),
    }
}

/// A node of two shards, of which [`SHARD`] is hosted here.
fn shared(ids: &[NodeId], identity: &Identity) -> Arc<Shared> {
    shared_with(ids, identity, Limits::REAL)
}

fn shared_with(ids: &[NodeId], identity: &Identity, limits: Limits) -> Arc<Shared> {
    let peers = ids.iter().map(|id| (*id, String::new())).collect();
    let mut config = Config::new(Path::new("sim"), peers);
    config.tick = Duration::from_nanos(TICK_NS);
    config.election_timeout = config.tick * u32::try_from(TIMING.election_ticks).unwrap();
    config.heartbeat = config.tick * u32::try_from(TIMING.heartbeat_ticks).unwrap();
    config.proposals_max = 10_000;
    let stores = Arc::new(Acquaintances::forgetful(0, 1, ids));
    Arc::new(Shared::new(&config, identity.clone(), config.founds_command_bytes(), stores, limits))
}

fn open(platter: &SimPlatter, identity: &Identity) -> (Wal, logdrive_wal::Recovered) {
    open_with_quota(platter, identity, None)
}

fn open_with_quota(
    platter: &SimPlatter,
    identity: &Identity,
    log_bytes_max: Option<u64>,
) -> (Wal, logdrive_wal::Recovered) {
    let mut config = logdrive_wal::Config::new(PathBuf::from("sim"), identity.clone(), 0);
    config.segment_bytes = 64 << 10;
    config.log_bytes_max = log_bytes_max;
    let mut id = u128::from(platter.writes()) << 64 | identity.store;
    let ids = move || {
        id = id.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
        id
    };
    Wal::open_on(platter.disk(64 << 10), config, Box::new(ids)).unwrap()
}

/// True for a message that only a leader or a candidate sends.
fn seeks_followers(message: &Message) -> bool {
    use Message as M;
    matches!(message, M::Heartbeat(_) | M::AppendEntries(_) | M::PreVote(_) | M::RequestVote(_))
}

/// RULES.md D3.
#[test]
fn a_leader_whose_disk_is_stuck_gives_way_and_may_lead_again() {
    let mut led_again = 0;
    for seed in 0..20 {
        let mut trio = Trio::new(seed);
        trio.until("a leader", 100, |trio| trio.leader().is_some());
        let old = trio.leader().unwrap();
        trio.propose(old);
        trio.until("an answer", 50, |trio| !trio.outcomes.0.lock().unwrap().is_empty());
        assert!(trio.outcomes()[0].is_ok());

        // The leader has nothing under way to its disk, not even a seal: a stall that cannot be seen harms nobody.
        let is_idle = |trio: &Trio| {
            let node = &trio.nodes[old];
            let wal = node.host.as_ref().and_then(|host| host.wal.as_ref()).expect("it runs");
            wal.is_sealed() && !wal.awaits_disk() && node.platter.writes_in_flight() == 0
        };
        trio.until("a seal", 50, is_idle);
        trio.nodes[old].is_stuck = true;
        for _ in 0..2 * TAKE_OVER_TICKS {
            trio.step();
        }
        assert_eq!(trio.leader(), Some(old), "seed {seed}: an idle disk is not a stuck one");

        trio.propose(old);
        let stuck_at = trio.now;
        trio.until("it gives way", TAKE_OVER_TICKS, |trio| trio.leader() != Some(old));
        let resigned_at = trio.now;
        let resigned_after = resigned_at - stuck_at;
        assert!(resigned_after >= RESIGN_TICKS, "seed {seed}: gave up after {resigned_after}");
        trio.until("another leads", TAKE_OVER_TICKS - resigned_after, |trio| {
            trio.leader().is_some_and(|at| at != old)
        });
        let new = trio.leader().unwrap();
        trio.propose(new);
        trio.until("an answer of the new leader", 50, |trio| {
            trio.outcomes.0.lock().unwrap().iter().any(Result::is_ok)
        });
        for _ in 0..5 * TIMING.election_ticks {
            trio.step();
        }
        let late = |(at, message): &&(u64, Message)| *at > resigned_at && seeks_followers(message);
        assert!(!trio.nodes[old].said.iter().any(|said| late(&said)), "seed {seed}: not silent");
        let promised = trio.nodes[old].said.iter().any(|(at, message)| {
            *at > stuck_at
                && matches!(message, Message::AppendReply(reply)
                    if matches!(reply.result, AppendResult::Accepted { .. }))
        });
        assert!(!promised, "seed {seed}: a promise left a stuck disk");

        // The command that waited for the stuck disk was committed on the others' disks, and is applied late. Its client
        // may have been told by then that the outcome is unknown.
        trio.nodes[old].is_stuck = false;
        trio.until("all agree", 200, |trio| {
            let applied = [0, 1, 2].map(|at| trio.status(at).unwrap().applied);
            applied[0] == applied[1] && applied[1] == applied[2]
        });
        let outcomes = trio.outcomes();
        let unknown = |outcome: &Outcome| matches!(outcome, Err(error) if error.happened() == crate::Happened::Unknown);
        assert!(outcomes.len() == 2 && outcomes[0].is_ok(), "{seed}: {outcomes:?}");
        let is_known = outcomes[1].is_ok() || unknown(&outcomes[1]);
        assert!(is_known, "{seed}: {outcomes:?}");

        // The node that had resigned stands again.
        trio.nodes[new].host = None;
        trio.until("the other two go on", 200, |trio| {
            trio.leader().is_some_and(|leader| leader != new)
        });
        led_again += usize::from(trio.leader() == Some(old));
    }
    assert!(led_again > 0, "no node that had resigned led again");
}

/// RULES.md D3.
#[test]
fn what_only_a_stuck_disk_had_is_unknown_once_its_node_has_resigned() {
    let mut trio = Trio::new(1);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let old = trio.leader().unwrap();
    trio.nodes[old].is_stuck = true;
    trio.nodes[(old + 1) % 3].is_stuck = true;
    trio.propose(old);
    trio.until("an answer", RESIGN_TICKS + RESIGN_TICKS / 8 + 2, |trio| {
        !trio.outcomes.0.lock().unwrap().is_empty()
    });
    let outcomes = trio.outcomes();
    let error = outcomes[0].as_ref().unwrap_err();
    assert_eq!(error.happened(), crate::Happened::Unknown, "{error}");
}

/// RULES.md D3.
#[test]
fn a_segment_that_is_made_slowly_is_no_silence_of_the_disk() {
    let mut trio = Trio::new(4);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let awaits = |trio: &Trio| {
        let host = trio.nodes[leader].host.as_ref().unwrap();
        host.wal.as_ref().unwrap().awaits_disk() || host.awaits_segment()
    };
    // Ten steps make a segment: each takes less than the limit, all together far more.
    trio.nodes[leader].ticks_per_making_step = RESIGN_TICKS / 2;
    let mut longest = 0;
    let mut waited = 0;
    for _ in 0..20 * RESIGN_TICKS {
        trio.propose_payload(leader, Bytes::from(vec![1; 4 << 10]));
        trio.step();
        assert_eq!(trio.leader(), Some(leader), "gave up after {waited} ticks");
        waited = if awaits(&trio) { waited + 1 } else { 0 };
        longest = longest.max(waited);
    }
    assert!(longest > 2 * RESIGN_TICKS, "no write waited longer than {longest} ticks");

    // A step that never ends is a silence of the disk.
    trio.until("a write waits", 20 * RESIGN_TICKS, |trio| awaits(trio));
    trio.nodes[leader].ticks_per_making_step = u64::MAX;
    for _ in 0..2 * TAKE_OVER_TICKS {
        trio.propose_payload(leader, Bytes::from(vec![1; 4 << 10]));
        trio.step();
    }
    assert_ne!(trio.leader(), Some(leader));
}

/// RULES.md D3.
#[test]
fn a_shard_gives_way_for_another_of_its_node_and_new_groups_with_it() {
    let mut trio = Trio::new(2);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let old = trio.leader().unwrap();
    let beside = trio.nodes[old].shared.clone();
    beside.pulses[1 - SHARD].beat(0, true, true);
    trio.until("another leads", TAKE_OVER_TICKS, |trio| {
        trio.leader().is_some_and(|leader| leader != old)
    });
    // A group that is created meanwhile does not stand either, though its first leader is to be this node.
    let group = GroupId(9);
    let ids = [1, 2, 3].map(NodeId);
    let host = trio.nodes[old].host.as_mut().unwrap();
    host.add(founded(group, &ids, true), Box::new(Forgetful)).unwrap();
    for _ in 0..4 * TIMING.election_ticks {
        trio.step();
    }
    let status = |trio: &Trio| trio.nodes[old].host.as_ref().unwrap().shard.status(group).unwrap();
    assert_eq!(status(&trio).role, Role::Follower);
    beside.pulses[1 - SHARD].beat(1, false, false);
    trio.until("it stands", 4 * TIMING.election_ticks, |trio| {
        status(trio).role == Role::PreCandidate
    });
}

/// RULES.md W9.
#[test]
fn a_leader_whose_disk_is_full_gives_way_to_one_with_room() {
    for seed in 0..10 {
        let mut trio = Trio::new(seed);
        trio.until("a leader", 100, |trio| trio.leader().is_some());
        let full = trio.leader().unwrap();
        trio.nodes[full].platter.set_segments_left(Some(0));
        let mut steps = 0;
        while trio.leader() == Some(full) {
            trio.propose_payload(full, Bytes::from(vec![1; 4 << 10]));
            trio.step();
            steps += 1;
            assert!(steps < 500, "seed {seed}: it leads on, though its disk is full");
        }
        let refused = |outcome: &Outcome| matches!(outcome, Err(crate::ProposeError::DiskFull));
        assert!(trio.outcomes().iter().any(refused), "seed {seed}: nothing was refused");
        trio.until("one with room leads", 4 * TIMING.election_ticks, |trio| {
            trio.leader().is_some_and(|leader| leader != full)
        });
        for _ in 0..200 {
            let leader = trio.leader().unwrap();
            assert_ne!(leader, full, "seed {seed}: it took over again");
            trio.propose_payload(leader, Bytes::from(vec![1; 4 << 10]));
            trio.step();
        }
        let served = trio.outcomes().iter().filter(|outcome| outcome.is_ok()).count();
        assert!(served > 100, "seed {seed}: served {served}");
    }
}

/// RULES.md W9.
#[test]
fn a_log_without_room_is_not_looked_at_to_be_sealed() {
    let mut trio = Trio::new(5);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let full = trio.leader().unwrap();
    trio.nodes[full].platter.set_segments_left(Some(0));
    let wal = |trio: &Trio, so: &dyn Fn(&Wal) -> bool| {
        so(trio.nodes[full].host.as_ref().unwrap().wal.as_ref().unwrap())
    };
    for _ in 0..500 {
        trio.propose_payload(full, Bytes::from(vec![1; 4 << 10]));
        trio.step();
    }
    assert!(wal(&trio, &|wal| wal.room() == Room::Reserve && !wal.is_sealed()));
    let seal =
        |trio: &mut Trio, now| trio.nodes[full].host.as_mut().unwrap().seal_when_idle(now).unwrap();
    let now = Nanos(trio.now * TICK_NS);
    assert!(!seal(&mut trio, now), "it cannot be sealed");
    trio.nodes[full].platter.set_segments_left(None);
    trio.until("room", 500, |trio| wal(trio, &|wal| wal.room() == Room::Free && !wal.is_sealed()));
    let now = Nanos(trio.now * TICK_NS);
    assert!(seal(&mut trio, now), "it can be sealed");
}

/// RULES.md W10.
#[test]
fn if_no_disk_has_room_leaders_last_all_the_same() {
    for seed in 0..10 {
        let mut trio = Trio::new(seed);
        trio.nodes.iter().for_each(|node| node.platter.set_segments_left(Some(0)));
        let mut led_by = Vec::new();
        for _ in 0..100 * TIMING.election_ticks {
            if let Some(leader) = trio.leader() {
                trio.propose_payload(leader, Bytes::from(vec![1; 4 << 10]));
                led_by.push(leader);
            }
            trio.step();
        }
        led_by.dedup();
        assert!(led_by.len() <= 4, "seed {seed}: {led_by:?}");
        let last = trio.leader().expect("somebody leads");
        // It heals.
        trio.nodes.iter().for_each(|node| node.platter.set_segments_left(None));
        trio.outcomes();
        for _ in 0..100 {
            trio.propose(last);
            trio.step();
        }
        assert!(trio.outcomes().iter().any(Result::is_ok), "seed {seed}: it does not heal");
        assert_eq!(trio.leader(), Some(last), "seed {seed}");
    }
}

/// RULES.md D1.
#[test]
fn a_follower_whose_disk_is_stuck_holds_up_nobody_and_promises_nothing() {
    let mut trio = Trio::new(3);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let stuck = (leader + 1) % 3;
    trio.nodes[stuck].is_stuck = true;
    let stuck_at = trio.now;
    for _ in 0..200 {
        trio.propose(leader);
        trio.step();
    }
    assert_eq!(trio.leader(), Some(leader));
    assert!(trio.outcomes().iter().filter(|outcome| outcome.is_ok()).count() > 150);
    let commits = trio.status(leader).unwrap().commit;
    assert!(commits > trio.status(stuck).unwrap().durable, "the stuck disk was written");
    let accepted = trio.nodes[stuck].said.iter().any(|(at, message)| {
        *at > stuck_at
            && matches!(message, Message::AppendReply(reply)
                if matches!(reply.result, AppendResult::Accepted { match_index }
                    if match_index > trio.status(stuck).unwrap().durable))
    });
    assert!(!accepted);
}

/// RULES.md M14.
#[test]
fn a_peer_that_was_restarted_is_heard_once_it_has_said_again_what_its_group_was_founded_with() {
    is_heard_once_it_has_said_it_again(|node, peer| {
        for (lane, up) in Lane::ALL.into_iter().flat_map(|lane| [(lane, false), (lane, true)]) {
            node.arrivals.lane(LaneChange { peer, lane, up });
        }
    });
}

/// RULES.md M14.
/// A restarted peer may dial before it is dialled. The bug: until it had answered a dial, its messages were heard as if it
/// had agreed.
#[test]
fn a_peer_that_was_restarted_and_dials_is_heard_once_it_has_said_again_what_its_group_was_founded_with()
 {
    is_heard_once_it_has_said_it_again(|_, _| {});
}

/// RULES.md M14. The history that broke it:
/// 1. A peer's process says what its group was founded with. The frame waits here, read from its connection.
/// 2. The peer's next process, which has created the group again with other members, answers a dial or is heard.
/// 3. The frame is taken in, and what the next process says is heard as if it had agreed.
#[test]
fn an_old_agreement_that_waited_while_its_peer_restarted_agrees_to_nothing() {
    let old_agreement = |node: &Node, peer| {
        let digest = node.said.iter().find_map(|(_, message)| match message {
            Message::Founding(notice) => Some(notice.digest),
            _ => None,
        });
        let agreed = FoundingNotice { digest: digest.expect("it said so"), asks: false };
        (PeerProcess { node: peer, incarnation: 1 }, Message::Founding(agreed))
    };
    is_heard_once_it_has_said_it_again(|node, peer| {
        node.arrivals.lane(LaneChange { peer, lane: Lane::ALL[0], up: true });
        let (earlier, agreed) = old_agreement(node, peer);
        node.hear(earlier, vec![agreed]);
    });
    // In the other history another shard has read that frame, which is taken in after a frame of the new process.
    is_heard_once_it_has_said_it_again(|node, peer| {
        let word = Message::HeartbeatReply(HeartbeatReply { term: Term(0) });
        node.hear(PeerProcess { node: peer, incarnation: 2 }, vec![word]);
        let (earlier, agreed) = old_agreement(node, peer);
        assert!(node.arrivals.inbox().forward((earlier, vec![(GROUP, agreed)]), 50));
    });
}

/// A peer, which leads, is restarted; `restart` tells one node of it. That node does not hear the peer's next process
/// before both have compared what the group was founded with, and does so after it.
fn is_heard_once_it_has_said_it_again(restart: impl FnOnce(&Node, NodeId)) {
    let mut trio = Trio::new(4);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let (peer, other) = (trio.nodes[leader].id, (leader + 1) % 3);
    trio.under_way.retain(|(from, _, _)| *from != peer);
    restart(&trio.nodes[other], peer);
    trio.nodes[leader].identity.incarnation = 2;
    trio.step();
    // A message from that peer may now be of a group that was created again there, with other members.
    let term = trio.status(other).unwrap().term;
    let stranger =
        Heartbeat { term: Term(term.get() + 10), commit: LogIndex::ZERO, matched: LogId::ZERO };
    trio.under_way.push((peer, trio.nodes[other].id, Message::Heartbeat(stranger)));
    trio.step();
    assert_eq!(trio.status(other).unwrap().term, term);
    trio.propose(leader);
    trio.until("the command on the other node", 100, |trio| {
        let commit = trio.status(leader).unwrap().commit;
        commit > LogIndex(1) && trio.status(other).unwrap().commit == commit
    });
    assert_eq!(trio.leader(), Some(leader));
}

/// RULES.md D5. The history that broke it:
/// 1. A peer sends a follower more than a turn takes in, for longer than an election timeout.
/// 2. The leader's heartbeats wait behind that, read and not taken in.
/// 3. At the end of each turn the follower's timers ran out all the same, and it stood against a leader that it had heard.
#[test]
fn a_follower_does_not_stand_while_its_leaders_heartbeats_wait_unread() {
    for seed in 0..20 {
        let mut trio = Trio::with_turns_of(seed, 4);
        trio.until("a leader", 100, |trio| trio.leader().is_some());
        let leader = trio.leader().unwrap();
        let follower = (leader + 1) % 3;
        let idle = (leader + 2) % 3;
        let (peer, term) = (trio.nodes[idle].id, trio.status(leader).unwrap().term);
        let process = PeerProcess { node: peer, incarnation: 1 };
        // Messages that change nothing, for as many turns as a follower waits for its leader at most.
        let word = || Message::HeartbeatReply(HeartbeatReply { term: Term(0) });
        let turns = 2 * TIMING.election_ticks - 6;
        trio.nodes[follower].hear(process, (0..4 * turns).map(|_| word()).collect());
        let stands = |trio: &Trio| trio.status(follower).is_some_and(|s| s.role != Role::Follower);
        for _ in 0..2 * turns {
            trio.step();
            assert!(!stands(&trio), "seed {seed}: it stands at {}", trio.now);
        }
        let status = trio.status(leader).unwrap();
        assert_eq!((status.role, status.term), (Role::Leader, term), "seed {seed}");
        // Once the leader is gone, such messages keep no follower from standing, though they never end.
        trio.nodes[leader].host = None;
        let left_at = trio.now;
        while !stands(&trio) {
            trio.nodes[follower].hear(process, (0..20).map(|_| word()).collect());
            trio.step();
            assert!(trio.now - left_at < 4 * TIMING.election_ticks, "seed {seed}: it never stands");
        }
    }
}

/// RULES.md D1.
/// The bug (the simulator's seed 273): while every write slot was taken, a node gave out what it owed only every 20 ms,
/// whatever its timeouts were. With an election timeout of 20 ms, heartbeats and their answers came too late, and no
/// leader lasted until the disks had caught up.
#[test]
fn followers_whose_write_slots_are_all_taken_answer_heartbeats_in_time() {
    let mut trio = Trio::new(9);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let term = trio.status(leader).unwrap().term;
    for at in (0..3).filter(|at| *at != leader) {
        trio.nodes[at].is_stuck = true;
    }
    for _ in 0..10 * TIMING.election_ticks {
        trio.propose(leader);
        trio.step();
        let status = trio.status(leader).unwrap();
        assert_eq!((status.role, status.term), (Role::Leader, term), "at {}", trio.now);
    }
}

/// RULES.md W6, W7.
/// Invariants 2 and 9 hold at the moment of the failure, and 19 after it: every promise that left the node before its log
/// failed is on its disk, and no promise leaves after that.
#[test]
fn what_was_promised_before_the_first_failed_write_is_on_disk_and_nothing_is_promised_after() {
    let mut failed = 0;
    for seed in 0..150 {
        let mut trio = Trio::new(seed);
        let victim = usize::try_from(seed % 3).unwrap();
        trio.nodes[victim].platter.fail_write(seed / 3 % 25);
        for _ in 0..400 {
            if let Some(leader) = trio.leader() {
                trio.propose(leader);
            }
            trio.step();
        }
        let node = &mut trio.nodes[victim];
        if node.host.is_some() {
            continue; // Its writes were too few.
        }
        failed += 1;
        node.platter.crash();
        let (_, recovered) = open(&node.platter, &node.identity);
        let found = recovered.groups.iter().find(|found| found.group == GROUP);
        let last = found.map_or(LogIndex::ZERO, |found| found.last);
        let state = found.map_or(HardState::default(), |found| found.hard_state);
        for (at, message) in &node.said {
            let (term, upto) = match message {
                Message::AppendReply(m) => match m.result {
                    // A later term may have replaced what was acknowledged in an older one.
                    AppendResult::Accepted { match_index } if m.term == state.term => {
                        (m.term, match_index)
                    }
                    AppendResult::Accepted { .. } => (m.term, LogIndex::ZERO),
                    AppendResult::Taken { .. } | AppendResult::Rejected { .. } => continue,
                },
                Message::RequestVote(m) => (m.term, LogIndex::ZERO),
                Message::VoteReply(m) if m.granted => (m.term, LogIndex::ZERO),
                _ => continue,
            };
            assert!(
                term <= state.term && upto <= last,
                "seed {seed}: at {at} it promised {message:?}, its disk holds {state:?}, {last:?}"
            );
        }
    }
    assert!(failed > 100, "only {failed} logs failed");
}

/// Damages one payload in each segment that is full. Returns the places, so that the damage can be undone.
fn damage_full_segments(platter: &SimPlatter, fill: u8) -> Vec<(SegmentSeq, usize)> {
    let segments = platter.segments();
    let of = |segment: &SegmentSeq| {
        let bytes = platter.segment(*segment);
        let at = bytes.windows(64).position(|window| window.iter().all(|byte| *byte == fill));
        at.map(|at| (*segment, at))
    };
    let places: Vec<_> = segments[..segments.len() - 2].iter().filter_map(of).collect();
    assert!(!places.is_empty(), "{segments:?}");
    places.iter().for_each(|(segment, at)| platter.flip(*segment, *at, 1));
    places
}

/// RULES.md C1, rule 24. The history that broke it:
/// 1. Entries that a slow follower still needs rot in the leader's log.
/// 2. The leader reads them back for it, and takes the damage for a peer that cannot be reached.
/// 3. It leads and votes on with a log that it knows to be damaged, and reads the same entries again whenever the follower
///    answers a heartbeat.
#[test]
fn a_leader_that_finds_its_log_damaged_is_silent_for_good_and_another_leads() {
    let mut trio = Trio::new(6);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let old = trio.leader().unwrap();
    let slow = (old + 1) % 3;
    trio.nodes[slow].is_stuck = true;
    let mut proposed = 0;
    while proposed < 3 * (limits::TAIL_BYTES_MAX >> 14) {
        trio.propose_payload(old, Bytes::from(vec![0xAB; 16 << 10]));
        trio.step();
        proposed += 1;
    }
    assert_eq!(trio.leader(), Some(old));
    let damaged = damage_full_segments(&trio.nodes[old].platter, 0xAB);
    trio.nodes[slow].is_stuck = false;
    let news = |trio: &Trio| trio.nodes[old].shared.groups.fenced();
    while news(&trio).is_empty() {
        trio.propose(old);
        trio.step();
        proposed += 1;
        assert!(trio.now < 5000, "it does not find the damage, or says nothing of it");
    }
    let fenced_at = trio.now;
    let [(GROUP, corrupt)] = &news(&trio)[..] else { panic!("{:?}", news(&trio)) };
    assert!(damaged.iter().any(|(segment, _)| corrupt.file.ends_with(file_name(*segment))));
    assert_eq!(trio.outcomes().len(), proposed, "not all are answered");
    trio.propose(old);
    trio.step();
    let outcomes = trio.outcomes();
    let [Err(crate::ProposeError::NotLeader { hint: Some(hint) })] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_ne!(*hint, trio.nodes[old].id);
    trio.until("another leads", 4 * TIMING.election_ticks, |trio| {
        trio.leader().is_some_and(|leader| leader != old)
    });
    // Commands that come while the slow follower catches up may be told that their outcome is unknown.
    while !trio.outcomes().iter().any(Result::is_ok) {
        trio.propose(trio.leader().unwrap());
        (0..TIMING.election_ticks).for_each(|_| trio.step());
        assert!(trio.now < 10_000, "the new leader does not serve");
    }
    assert!(trio.nodes[old].said.iter().all(|(at, _)| *at < fenced_at), "it is not silent");
    // The fence outlives a restart, though the damaged bytes read well again.
    let node = &mut trio.nodes[old];
    node.platter.kill();
    node.host = None;
    // A damaged segment that has been given up is set aside.
    let left = node.platter.segments();
    let there = damaged.iter().filter(|(segment, _)| left.contains(segment));
    there.for_each(|(segment, at)| node.platter.flip(*segment, *at, 1));
    let (_, recovered) = open(&node.platter, &node.identity);
    assert!(recovered.groups[0].fenced.is_some());
}

fn file_name(segment: SegmentSeq) -> String {
    format!("{:010}.seg", segment.0)
}

/// RULES.md C1, rule 24.
#[test]
fn a_fenced_group_writes_nothing_that_was_held_and_is_not_run_later() {
    for purpose in [FetchFor::Apply, FetchFor::Peer(NodeId(2))] {
        let mut trio = Trio::with_quota(7, Some(8 * (64 << 10)));
        trio.until("a leader", 100, |trio| trio.leader().is_some());
        let full = trio.leader().unwrap();
        let held = |trio: &Trio| !trio.nodes[full].host.as_ref().unwrap().held.is_empty();
        while !held(&trio) {
            trio.propose_payload(full, Bytes::from(vec![1; 30 << 10]));
            trio.step();
            assert!(trio.now < 1000, "nothing is held");
        }
        let shared = trio.nodes[full].shared.clone();
        let host = trio.nodes[full].host.as_mut().unwrap();
        let file = PathBuf::from("sim").join(file_name(SegmentSeq(1)));
        let corrupt = Corrupt { file, offset: 4096, what: "damaged".to_owned() };
        let read = Err(ReadError::Corrupt(corrupt.clone()));
        host.finish_read(ReadDone::Fetch { group: GROUP, purpose, read });
        assert_eq!(shared.groups.fenced(), [(GROUP, corrupt.clone())]);
        // A second read was under way.
        let read = Err(ReadError::Corrupt(corrupt.clone()));
        host.finish_read(ReadDone::Fetch { group: GROUP, purpose, read });
        assert_eq!(shared.groups.fenced().len(), 1);
        // Another group was fenced before it got its machine.
        let group = GroupId(9);
        host.fence(group, corrupt);
        let late = founded(group, &[1, 2, 3].map(NodeId), true);
        let view = late.view.clone();
        host.add(late, Box::new(Forgetful)).unwrap();
        assert!(view.leader().is_some_and(|other| other != trio.nodes[full].id), "it is run");
        let (at, said) = (trio.now, trio.nodes[full].said.len());
        for _ in 0..4 * TIMING.election_ticks {
            trio.step();
        }
        assert_eq!(trio.nodes[full].said.len(), said, "it speaks after {at}");
        assert!(!held(&trio));
    }
}

#[path = "host_room_tests.rs"]
mod room;

#[path = "host_end_tests.rs"]
mod end;

#[path = "host_restart_tests.rs"]
mod restart;
