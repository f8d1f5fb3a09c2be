//! Three shards in one thread, over memory: what one committed command costs, part by part (feature `counts`).
//!
//! In:     a number of groups, a seed.
//! Out:    commands committed and applied on all three nodes. Nothing is measured here: each part is a function that
//!         is never inlined, so that a profiler can tell it from the others by its name.
//! Cost:   what is counted is the shard's, the log's and the codec's; the disk keeps nothing, the wire is a copy.
//! Fails:  a command that is refused, or that is not answered within its round, panics.
//! Source: ARCHITECTURE.md, "A proposal's path".
//!
//! A round takes commands through four turns of every node. One kind of input arrives in each, because the disks
//! answer in the third turn only:
//!
//! | turn | what arrives | its part |
//! |---|---|---|
//! | 1 | commands | propose: checksums, the Raft append, frames with entries encoded |
//! | 2 | frames with entries | receive: frames decoded, the followers' Raft appends |
//! | 3 | answers of the disks | acknowledge: the own vote; promises released, frames with replies encoded |
//! | 4 | frames with replies | commit: frames decoded, acknowledgements counted |
//!
//! Within each turn the log's own work is the part *append*, and machines, replies and answers are the part *apply*.
//! A follower learns what is committed from the group's next append, so it applies a command in a later round.

use crate::{
    Committed, Completions, Config, GroupId, MachineError, NodeId, Outcome, Replies, StateMachine,
    clock::Nanos,
    host::{Outside, ShardHost},
    inbox::{Arrivals, Control},
    limits::{self, Limits, OfShard},
    links::{LaneChange, PeerProcess},
    reads::ReadTask,
    shard::{Commands, Founded, GroupView, Submission},
    shared::Shared,
};
use bytes::{Bytes, BytesMut};
use logdrive_net::{
    ClusterId, Lane, codec,
    frame::{FrameOrigin, FrameReader, FrameWriter},
    stores::Acquaintances,
};
use logdrive_raft::{ApplyMax, Command, Durable, HardState, LogId, LogIndex, Message};
use logdrive_wal::{
    Identity, Wal,
    disk::forgetful::{Answers, ForgetfulDisk},
};
use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const NODES: usize = 3;
/// Bytes of a command.
const COMMAND_BYTES: usize = 128;
/// Commands of a round that is counted; each node leads the groups of about a third of them.
const COMMANDS_PER_ROUND: u64 = 96;
/// Commands of a round that warms up.
const WARM_COMMANDS_PER_ROUND: u64 = 3_000;
/// Commands every group has had before anything is counted: its lists have their memory, and its followers' appends
/// carry an earlier command's commit.
const WARM_COMMANDS_PER_GROUP: u64 = 2;
/// Lanes to each peer.
const LANES: usize = Lane::ALL.len();
/// A tick of a real node. None passes here.
const TICK_NS: u64 = 20_000_000;
const TURN_NS: u64 = 100;
const CLUSTER: ClusterId = ClusterId(7);
/// As `logdrive-net` reads from a socket; an append lane's.
const READ_BYTES: usize = 256 << 10;
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// Three nodes of one shard each; every node leads a third of the groups.
pub struct Trio {
    nodes: Vec<Node>,
    groups: u64,
    random: u64,
    /// When the round began, ns.
    began: u64,
    answers: Answers,
    outcomes: Arc<Outcomes>,
    proposed: u64,
}

struct Node {
    shared: Arc<Shared>,
    arrivals: Rc<Arrivals>,
    host: ShardHost,
    outside: MemoryNetwork,
    /// Commands for the groups this node leads.
    submissions: Vec<Submission>,
    /// By the sender's place among the three, and lane.
    readers: [[FrameReader; LANES]; NODES],
    /// Bytes that arrived, in the same order.
    arrived: [[Vec<u8>; LANES]; NODES],
}

impl Trio {
    /// Three nodes whose groups have leaders, each of which has committed a few commands.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new(groups: u64, seed: u64) -> Self {
        let answers = Answers::new(Cell::new(true));
        let nodes = (0..NODES).map(|at| Node::new(at, groups, seed, &answers)).collect();
        let outcomes = Arc::default();
        let mut trio =
            Self { nodes, groups, random: seed, began: TICK_NS, answers, outcomes, proposed: 0 };
        trio.elect();
        trio.warm_up();
        trio
    }

    /// Commits commands to groups chosen at random. All that is counted happens in here.
    #[inline(never)]
    pub fn measure(&mut self, commands: u64) {
        for nth in 1..=commands {
            let group = self.random_group();
            self.submit(group);
            if nth % COMMANDS_PER_ROUND == 0 || nth == commands {
                self.round();
            }
        }
    }

    fn warm_up(&mut self) {
        for _ in 0..WARM_COMMANDS_PER_GROUP {
            for group in 0..self.groups {
                self.submit(GroupId(group));
                if group % WARM_COMMANDS_PER_ROUND == 0 {
                    self.round();
                }
            }
            self.round();
        }
    }

    fn round(&mut self) {
        self.propose();
        self.carry();
        self.receive();
        self.answers.set(true);
        self.acknowledge();
        self.answers.set(false);
        self.carry();
        self.commit();
        self.began += TURN_NS * 4;
        let answered = self.outcomes.0.load(Ordering::Relaxed);
        assert!(answered == self.proposed, "{answered} of {} commands answered", self.proposed);
    }

    // The parts. Each has a time of its own, or the compiler would make one function of equal ones.

    #[inline(never)]
    fn propose(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.turn(self.began + TURN_NS));
    }

    #[inline(never)]
    fn receive(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.turn(self.began + TURN_NS * 2));
    }

    #[inline(never)]
    fn acknowledge(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.turn(self.began + TURN_NS * 3));
    }

    #[inline(never)]
    fn commit(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.turn(self.began + TURN_NS * 4));
    }

    /// The messages that the nodes have sent arrive.
    fn carry(&mut self) {
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                for lane in 0..LANES {
                    let mut arrived = std::mem::take(&mut self.nodes[to].arrived[from][lane]);
                    self.nodes[from].outside.carry(to, lane, &mut arrived);
                    self.nodes[to].arrived[from][lane] = arrived;
                }
            }
        }
    }

    /// Turns until every group has a leader and nothing is under way.
    fn elect(&mut self) {
        let ids = ids();
        for node in &mut self.nodes {
            for peer in ids.iter().filter(|peer| **peer != node.shared.me) {
                node.shared.inbound_opened(*peer, 1);
                for lane in Lane::ALL {
                    node.arrivals.lane(LaneChange { peer: *peer, lane, up: true });
                }
            }
        }
        loop {
            self.commit();
            self.carry();
            let is_busy = |node: &Node| {
                node.host.shard().is_dirty()
                    || node.host.wal().is_some_and(Wal::has_work)
                    || node.arrived.iter().flatten().any(|bytes| !bytes.is_empty())
            };
            if !self.nodes.iter().any(is_busy) {
                break;
            }
        }
        self.answers.set(false);
    }

    fn submit(&mut self, group: GroupId) {
        let submission = Submission {
            group,
            sink: self.outcomes.clone(),
            token: self.proposed,
            commands: Commands::One(Command {
                checksum: 0,
                payload: Bytes::from(vec![self.proposed.to_le_bytes()[0]; COMMAND_BYTES]),
            }),
            at: Nanos(self.began),
        };
        self.proposed += 1;
        self.nodes[leader_of(group)].submissions.push(submission);
    }

    fn random_group(&mut self) -> GroupId {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        GroupId((mixed ^ mixed >> 31) % self.groups)
    }
}

impl Node {
    fn new(at: usize, groups: u64, seed: u64, answers: &Answers) -> Self {
        let ids = ids();
        let id = ids[at];
        let identity = Identity {
            cluster: "counts".to_owned(),
            node: id,
            store: id.get().into(),
            shards: 1,
            incarnation: 1,
            settings: Default::default(),
        };
        let peers = ids.iter().map(|id| (*id, String::new())).collect();
        let settings = Config::new(Path::new("forgetful"), peers);
        // Every answer that a node waits for here comes at once.
        let all = usize::try_from(groups).expect("they fit memory");
        let of_shard = OfShard {
            controls_max: all,
            frames_max: usize::MAX,
            frame_bytes_max: usize::MAX,
            turn_steps_max: usize::MAX,
            turn_commands_max: usize::MAX,
            turn_bytes_max: usize::MAX,
            turn_apply_max: ApplyMax { entries: usize::MAX, bytes: usize::MAX },
            ..OfShard::REAL
        };
        let limits = Limits { of_shard, ..Limits::REAL };
        let stores = Arc::new(Acquaintances::forgetful(0, 1, &ids));
        let shared = Arc::new(Shared::new(
            &settings,
            identity.clone(),
            settings.founds_command_bytes(),
            stores,
            limits,
        ));
        let config = settings.log(PathBuf::from("forgetful"), &identity, 0);
        let segment_bytes = usize::try_from(config.segment_bytes).expect("it fits memory");
        let disk = ForgetfulDisk::new(&identity, segment_bytes, answers.clone());
        let mut drawn = 0;
        let entropy = move || {
            drawn += 1;
            drawn
        };
        let opened = Wal::open_on(Box::new(disk), config, Box::new(entropy));
        let (wal, _) = opened.expect("an empty log opens");
        let arrivals = Rc::new(Arrivals::new(shared.inboxes[0].clone()));
        let host = ShardHost::new(shared.clone(), 0, arrivals.clone(), wal, seed);
        for group in (0..groups).map(GroupId) {
            let founded = Founded {
                group,
                members: ids.to_vec(),
                membership: Some(Bytes::from_static(b"members")),
                hard_state: HardState::default(),
                base: LogId::ZERO,
                runs: Vec::new(),
                last: LogIndex::ZERO,
                applied: LogIndex::ZERO,
                durable: Durable::of_nothing(group),
                first_leader: leader_of(group) == at,
                view: Arc::new(GroupView::default()),
            };
            let run = Control::Run(Box::new(founded), Box::new(Counter(0)));
            assert!(arrivals.inbox().try_control(run).is_ok(), "there is room for every group");
        }
        let reader = |source: NodeId| {
            Lane::ALL.map(|lane| {
                let origin = FrameOrigin { cluster: CLUSTER, source, lane };
                FrameReader::new(origin, FRAME_BYTES_MAX, READ_BYTES)
            })
        };
        Self {
            shared,
            arrivals,
            host,
            outside: MemoryNetwork::new(id),
            submissions: Vec::new(),
            readers: ids.map(reader),
            arrived: Default::default(),
        }
    }

    /// One turn, as the driver takes it.
    fn turn(&mut self, now: u64) {
        self.outside.now.set(Nanos(now));
        for mut submission in self.submissions.drain(..) {
            // As `Group::submit` does on a thread that is not the shard's.
            if let Commands::One(command) = &mut submission.commands {
                command.checksum = logdrive_wal::checksum(&command.payload);
            }
            let inbox = self.arrivals.inbox();
            inbox.admit(submission.commands.cost()).expect("a round's commands");
            inbox.submit(submission).expect("as many as were admitted");
        }
        self.read_frames();
        assert!(!self.host.turn(&self.outside).has_stopped, "this disk never fails");
    }

    /// All frames that arrived go into the shard, as a connection's reader takes them in.
    fn read_frames(&mut self) {
        let connections = self.readers.iter_mut().zip(&mut self.arrived);
        for (from, (readers, arrived)) in ids().into_iter().zip(connections) {
            for (reader, arrived) in readers.iter_mut().zip(arrived) {
                let mut left = &arrived[..];
                while !left.is_empty() {
                    let room = reader.room();
                    let (bytes, rest) = left.split_at(left.len().min(room.capacity() - room.len()));
                    room.extend_from_slice(bytes);
                    left = rest;
                    while let Some(body) = reader.next_body().expect("what the writer made") {
                        let messages = codec::decode(body).expect("what encode made");
                        let from = PeerProcess { node: from, incarnation: 1 };
                        self.arrivals.frame(from, messages, 0, &self.shared.inboxes);
                    }
                }
                arrived.clear();
            }
        }
    }
}

/// The messages that a shard sends, framed as `logdrive-net` frames it.
struct MemoryNetwork {
    now: Cell<Nanos>,
    /// By the receiver's place among the three, and lane.
    lanes: RefCell<[[(FrameWriter, BytesMut); LANES]; NODES]>,
}

impl MemoryNetwork {
    fn new(source: NodeId) -> Self {
        let lane = |lane| {
            let origin = FrameOrigin { cluster: CLUSTER, source, lane };
            (FrameWriter::new(origin), BytesMut::new())
        };
        let lanes = RefCell::new([(); NODES].map(|()| Lane::ALL.map(lane)));
        Self { now: Cell::new(Nanos::ZERO), lanes }
    }

    fn carry(&mut self, to: usize, lane: usize, arrived: &mut Vec<u8>) {
        let (_, buffer) = &mut self.lanes.get_mut()[to][lane];
        arrived.extend_from_slice(buffer);
        buffer.clear();
    }
}

impl Outside for MemoryNetwork {
    fn send(&self, peer: NodeId, lane: Lane, messages: &mut Vec<(GroupId, Message)>) -> bool {
        let lanes = &mut *self.lanes.borrow_mut();
        let at = Lane::ALL.iter().position(|known| *known == lane).expect("one of them");
        let (writer, buffer) = &mut lanes[place(peer)][at];
        let frame = writer.begin(buffer);
        for (group, message) in messages.drain(..) {
            buffer.reserve(codec::encoded_bytes(&message));
            codec::encode(buffer, group, &message);
        }
        writer.finish(buffer, frame);
        true
    }

    fn read(&self, _task: ReadTask) -> Result<(), ReadTask> {
        panic!("every entry is in memory")
    }

    fn now(&self) -> Nanos {
        self.now.get()
    }

    fn take(&self, _: Control) {
        unreachable!("no tasks and no connections here");
    }
}

/// Counts its commands.
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for _ in batch.commands() {
            self.0 += 1;
            replies.push(Bytes::new());
        }
        Ok(())
    }
}

/// How many commands were answered.
#[derive(Default)]
struct Outcomes(AtomicU64);

impl Completions for Outcomes {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        for (token, outcome) in outcomes.drain(..) {
            assert!(outcome.is_ok(), "command {token}: {outcome:?}");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn ids() -> [NodeId; NODES] {
    [1, 2, 3].map(NodeId)
}

fn place(node: NodeId) -> usize {
    usize::try_from(node.get() - 1).expect("one of three")
}

fn leader_of(group: GroupId) -> usize {
    usize::try_from(group.get() % NODES as u64).expect("one of three")
}

const _: () = assert!(COMMAND_BYTES <= limits::COMMAND_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_committed_in_its_round_and_applied_by_all() {
        let mut trio = Trio::new(48, 1);
        let warm = WARM_COMMANDS_PER_GROUP * 48;
        assert_eq!(trio.outcomes.0.load(Ordering::Relaxed), warm, "answered while warming up");
        trio.measure(1_000);
        assert_eq!(trio.outcomes.0.load(Ordering::Relaxed), warm + 1_000, "answered at all");
        // The next command of a group tells its followers of the one before.
        trio.warm_up();
        for group in (0..48).map(GroupId) {
            let status = |node: &Node| node.host.shard().status(group).expect("it runs there");
            let last = status(&trio.nodes[leader_of(group)]).last_log.index;
            for node in &trio.nodes {
                let status = status(node);
                assert!(status.last_log.index == last, "{group:?}: {status:?} beside {last:?}");
                assert!(status.applied.next() >= last, "{group:?}: {status:?} beside {last:?}");
            }
        }
    }

    #[test]
    fn two_trios_of_a_seed_choose_the_same_groups() {
        let groups = |seed| {
            let mut trio = Trio::new(48, seed);
            (0..100).map(|_| trio.random_group()).collect::<Vec<_>>()
        };
        assert_eq!(groups(1), groups(1));
        assert_ne!(groups(1), groups(2));
    }
}
