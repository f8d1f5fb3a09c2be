//! One simulated node: the real shard and log on a simulated disk.

use super::{
    machine::{Ledger, Recorder},
    network::Network,
    random::Random,
};
use crate::{
    GroupId, NodeId, StateMachine,
    shard::{Founded, GroupView, Shard, Submission, Timing},
    turn::{Outside, ReadDone, ReadTask, Turn},
};
use bytes::Bytes;
use logdrive_raft::{Durable, HardState, LogIndex, Message, Ticks};
use logdrive_wal::{Config, Identity, RecoveredGroup, Wal, WalError, disk::sim::SimPlatter};
use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc, sync::Arc};

/// Ticks of the simulated cluster: a step of the simulation is a tick.
const TIMING: Timing = Timing { election_ticks: 20, heartbeat_ticks: 2 };

/// A step, in the nanoseconds of the simulated clock.
const STEP_NS: u64 = 1_000_000;

/// What all nodes share.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) network: Network,
}

/// A node that may be up or down; its disk outlives it.
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) platter: SimPlatter,
    pub(super) running: Option<Running>,
    pub(super) identity: Identity,
}

/// A node's process.
pub(super) struct Running {
    pub(super) turn: Turn,
    pub(super) ledgers: BTreeMap<GroupId, (Ledger, usize)>,
    outside: SimOutside,
}

struct SimOutside {
    id: NodeId,
    world: Rc<RefCell<World>>,
    reads: RefCell<Vec<ReadTask>>,
}

impl Outside for SimOutside {
    fn send(&self, peer: NodeId, _lane: usize, messages: &mut Vec<(GroupId, Message)>) -> bool {
        let World { now, random, network } = &mut *self.world.borrow_mut();
        network.send(*now, random, self.id, peer, messages);
        true
    }

    fn read(&self, task: ReadTask) -> Result<(), ReadTask> {
        self.reads.borrow_mut().push(task);
        Ok(())
    }

    fn now(&self) -> u64 {
        self.world.borrow().now * STEP_NS
    }
}

impl SimNode {
    /// A node that was never started, on an empty disk.
    pub(super) fn new(id: NodeId, random: &mut Random) -> Self {
        let identity = Identity {
            cluster: "simulated".to_owned(),
            node: id,
            store: u128::from(random.next()),
            shards: 1,
            incarnation: 0,
            settings: BTreeMap::new(),
        };
        Self { id, platter: SimPlatter::new(random.next(), &identity, 0), running: None, identity }
    }

    /// Starts the node's process: recovers its log, runs its groups.
    pub(super) fn start(
        &mut self,
        world: &Rc<RefCell<World>>,
        nodes: &[NodeId],
        groups: &[GroupId],
        segment_bytes: u64,
    ) -> Result<(), WalError> {
        self.identity.incarnation += 1;
        let mut entropy = Random::new(world.borrow_mut().random.next());
        let seed = entropy.next();
        let mut config = Config::new(PathBuf::from("sim"), self.identity.clone(), 0);
        config.segment_bytes = segment_bytes;
        let ids = move || u128::from(entropy.next()) << 64 | u128::from(entropy.next());
        let (wal, recovered) =
            Wal::open_on(self.platter.disk(segment_bytes), config, Box::new(ids))?;
        let mut turn = Turn::new(Shard::new(self.id, nodes, TIMING, seed), wal);
        let mut found: BTreeMap<GroupId, RecoveredGroup> =
            recovered.groups.into_iter().map(|group| (group.group, group)).collect();
        let mut ledgers = BTreeMap::new();
        for group in groups {
            let ledger = Ledger::default();
            let machine: Box<dyn StateMachine> = Box::new(Recorder(ledger.clone()));
            let founded = found
                .remove(group)
                .map_or_else(|| new_group(*group, nodes), |found| resumed_group(found, nodes));
            turn.add(founded, machine).expect("what was recovered fits together");
            ledgers.insert(*group, (ledger, 0));
        }
        let outside = SimOutside { id: self.id, world: world.clone(), reads: RefCell::default() };
        self.running = Some(Running { turn, ledgers, outside });
        Ok(())
    }

    /// The process ends at once; what the disk had not made durable may be gone.
    pub(super) fn crash(&mut self) {
        if self.running.take().is_some() {
            self.platter.crash();
        }
    }
}

impl Running {
    /// One turn, as the driver takes it.
    pub(super) fn turn(
        &mut self,
        arrivals: Vec<(NodeId, Vec<(GroupId, Message)>)>,
        submissions: Vec<Submission>,
    ) -> Result<(), WalError> {
        let now = self.outside.world.borrow().now;
        let Self { turn, outside, .. } = self;
        turn.shard.advance(Ticks(now));
        for submission in submissions {
            turn.shard.submit(submission, &mut turn.answers);
        }
        for (from, messages) in arrivals {
            for (group, message) in messages {
                turn.shard.receive(from, group, message);
            }
        }
        let reads: Vec<ReadDone> = outside.reads.take().into_iter().map(ReadTask::run).collect();
        reads.into_iter().for_each(|read| turn.finish_read(read));
        turn.take_completions(now * STEP_NS)?;
        turn.give_out(outside)
    }
}

fn new_group(group: GroupId, nodes: &[NodeId]) -> Founded {
    Founded {
        group,
        members: nodes.to_vec(),
        membership: Some(Bytes::from_static(b"members")),
        hard_state: HardState::default(),
        runs: Vec::new(),
        last: LogIndex::ZERO,
        applied: LogIndex::ZERO,
        durable: Durable::of_nothing(group),
        first_leader: false,
        view: Arc::new(GroupView::default()),
    }
}

fn resumed_group(found: RecoveredGroup, nodes: &[NodeId]) -> Founded {
    assert_eq!(&found.membership[..], b"members", "the membership came back");
    Founded {
        membership: None,
        hard_state: found.hard_state,
        runs: found.runs,
        last: found.last,
        durable: found.durable,
        ..new_group(found.group, nodes)
    }
}
