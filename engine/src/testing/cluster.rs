//! A run: faults first, then peace; and the judge that watches both.

use super::{
    machine::Serial,
    network::{Network, Weather},
    node::{SimNode, World},
    random::Random,
};
use crate::{
    Completions, GroupId, Happened, NodeId, Outcome,
    shard::{Commands, Submission},
};
use bytes::Bytes;
use logdrive_raft::{Command, LogIndex, Role, Term};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

/// What a seed's run came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// A hash over everything that was applied, answered and elected, in order.
    pub trace: u64,
    /// Commands answered with success.
    pub acknowledged: u64,
    /// Commands whose outcome was unknown.
    pub unknown: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Leaders elected, over all groups.
    pub elections: u64,
}

/// Steps with faults, then steps in which everything must heal, then steps without proposals in which
/// everyone must catch up.
const STORM_STEPS: u64 = 700;
const PEACE_STEPS: u64 = 300;
const SILENT_STEPS: u64 = 100;

/// Runs one seed: three nodes, a few groups, a network and disks that fail as the seed draws it.
///
/// # Panics
/// If an invariant is broken; the message names the seed.
#[must_use]
pub fn run_seed(seed: u64) -> Verdict {
    let mut run = Run::new(seed);
    for _ in 0..STORM_STEPS {
        run.storm();
        run.step();
    }
    run.heal();
    for _ in 0..PEACE_STEPS {
        run.step();
    }
    run.propose_once_in = 0;
    for _ in 0..SILENT_STEPS {
        run.step();
    }
    run.last_words();
    run.judge.verdict
}

struct Run {
    seed: u64,
    world: Rc<RefCell<World>>,
    nodes: Vec<SimNode>,
    ids: Vec<NodeId>,
    groups: Vec<GroupId>,
    segment_bytes: u64,
    crash_once_in: u64,
    propose_once_in: u64,
    cut_once_in: u64,
    disk_lazy_once_in: u64,
    answers: Arc<Inbox>,
    judge: Judge,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let weather = Weather {
            lose_once_in: *random.pick(&[0, 50, 20, 8]),
            twice_once_in: *random.pick(&[0, 30, 10]),
            delay_max: *random.pick(&[1, 3, 8]),
        };
        let ids: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let groups = (0..1 + random.below(4)).map(|group| GroupId(7 + group)).collect();
        let nodes = ids.iter().map(|id| SimNode::new(*id, &mut random)).collect();
        let segment_bytes = *random.pick(&[64 << 10, 128 << 10]);
        let crash_once_in = *random.pick(&[0, 150, 60, 30]);
        let propose_once_in = *random.pick(&[1, 2, 6]);
        let cut_once_in = *random.pick(&[0, 120, 40]);
        let disk_lazy_once_in = *random.pick(&[0, 2, 4]);
        let network = Network::new(weather);
        Self {
            seed,
            world: Rc::new(RefCell::new(World { now: 0, random, network })),
            nodes,
            ids,
            groups,
            segment_bytes,
            crash_once_in,
            propose_once_in,
            cut_once_in,
            disk_lazy_once_in,
            answers: Arc::default(),
            judge: Judge::new(seed),
        }
    }

    /// Draws the next misfortunes.
    fn storm(&mut self) {
        for at in 0..self.nodes.len() {
            let (crash, start) = {
                let random = &mut self.world.borrow_mut().random;
                (random.once_in(self.crash_once_in), random.once_in(25))
            };
            match self.nodes[at].running {
                Some(_) if crash => self.crash(at),
                None if start => self.start(at),
                _ => {}
            }
        }
        if self.world.borrow().now == 0 {
            (0..self.nodes.len()).for_each(|at| self.start(at));
        }
        let World { random, network, .. } = &mut *self.world.borrow_mut();
        if random.once_in(self.cut_once_in) {
            network.cut.push((*random.pick(&self.ids), *random.pick(&self.ids)));
        }
        if random.once_in(30) {
            network.cut.clear();
        }
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.running.is_none() {
            node.start(&self.world, &self.ids, &self.groups, self.segment_bytes)
                .unwrap_or_else(|error| panic!("seed {}: {:?}: {error}", self.seed, node.id));
            self.judge.trace(&[3, node.id.get()]);
        }
    }

    fn crash(&mut self, at: usize) {
        let id = self.nodes[at].id;
        {
            self.nodes[at].crash();
            self.world.borrow_mut().network.drop_frames_of(id);
        }
        self.judge.verdict.crashes += 1;
        self.judge.trace(&[4, id.get()]);
        for other in &mut self.nodes {
            if let Some(running) = &mut other.running {
                running.turn.shard.peer_down(id);
            }
        }
        // Whoever proposed there never hears: unknown.
        self.judge.node_died(id);
    }

    /// The network and the disks behave from now on; everyone is up.
    fn heal(&mut self) {
        {
            let mut world = self.world.borrow_mut();
            world.network.weather = Weather::FAIR;
            world.network.cut.clear();
        }
        self.disk_lazy_once_in = 0;
        (0..self.nodes.len()).for_each(|at| self.start(at));
    }

    fn step(&mut self) {
        let arrivals = {
            let mut world = self.world.borrow_mut();
            world.now += 1;
            let now = world.now;
            world.network.arrivals(now)
        };
        let mut by_node: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        for arrival in arrivals {
            by_node.entry(arrival.to).or_default().push((arrival.from, arrival.messages));
        }
        for at in 0..self.nodes.len() {
            let id = self.nodes[at].id;
            let submissions = self.propose(id, at);
            let lazy = self.world.borrow_mut().random.once_in(self.disk_lazy_once_in);
            let node = &mut self.nodes[at];
            let Some(running) = &mut node.running else { continue };
            if !lazy {
                node.platter.complete_some();
            }
            let arrived = by_node.remove(&id).unwrap_or_default();
            running
                .turn(arrived, submissions)
                .unwrap_or_else(|error| panic!("seed {}: log of {id:?}: {error}", self.seed));
            for answer in running.turn.answers.drain(..) {
                answer.sink.complete(&mut vec![(answer.token, answer.outcome)]);
            }
            for (serial, outcome) in self.answers.take() {
                self.judge.answered(serial, &outcome);
            }
            for (group, (ledger, seen)) in &mut running.ledgers {
                for (index, term, serial) in ledger.since(*seen) {
                    *seen += 1;
                    self.judge.applied(
                        id,
                        node.identity.incarnation,
                        *group,
                        (index, term, serial),
                    );
                }
                let status = running.turn.shard.status(*group).expect("it runs");
                if status.role == Role::Leader {
                    self.judge.leads(id, *group, status.term);
                }
            }
        }
    }

    /// Proposals of this step: to whoever believes it leads, and sometimes to one who does not.
    fn propose(&mut self, id: NodeId, at: usize) -> Vec<Submission> {
        let mut submissions = Vec::new();
        for group in &self.groups {
            let leads = self.nodes[at].running.as_ref().is_some_and(|running| {
                running.turn.shard.status(*group).is_some_and(|status| status.role == Role::Leader)
            });
            let random = &mut self.world.borrow_mut().random;
            let chance = if leads { self.propose_once_in } else { 50 * self.propose_once_in };
            if !random.once_in(chance) || self.nodes[at].running.is_none() {
                continue;
            }
            let serial = self.judge.commands.len() as u64;
            let mut payload = serial.to_le_bytes().to_vec();
            payload.resize(8 + usize::try_from(random.below(600)).expect("small"), 0xAB);
            let checksum = logdrive_wal::checksum(&payload);
            let outcome = Known::Waiting;
            self.judge.commands.push(Proposed { node: id, group: *group, outcome });
            submissions.push(Submission {
                group: *group,
                sink: self.answers.clone(),
                token: serial,
                commands: Commands::One(Command { checksum, payload: Bytes::from(payload) }),
                at: 1,
            });
        }
        submissions
    }

    /// After the peace: every group has one leader, everyone has applied the same, and everything
    /// that was acknowledged is there (invariants 10 and 26).
    fn last_words(&self) {
        let seed = self.seed;
        for group in &self.groups {
            let mut commits = BTreeSet::new();
            let mut leaders = 0;
            for node in &self.nodes {
                let running = node.running.as_ref().expect("healed");
                let status = running.turn.shard.status(*group).expect("it runs");
                leaders += usize::from(status.role == Role::Leader);
                commits.insert(status.commit);
                let incarnation = (node.id, node.identity.incarnation, *group);
                let missing = self.judge.missing_in(incarnation);
                assert!(
                    missing.is_empty(),
                    "seed {seed}: {:?} lacks acknowledged {missing:?} of {group:?}",
                    node.id
                );
            }
            assert!(leaders == 1, "seed {seed}: {group:?} has {leaders} leaders in peace");
            assert!(commits.len() == 1, "seed {seed}: commits of {group:?} differ: {commits:?}");
        }
    }
}

/// Where all answers go.
#[derive(Default)]
struct Inbox(Mutex<Vec<(u64, Outcome)>>);

impl Inbox {
    fn take(&self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Completions for Inbox {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(outcomes);
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    Waiting,
    Yes,
    No,
    Unknown,
}

#[derive(Debug)]
struct Proposed {
    node: NodeId,
    group: GroupId,
    outcome: Known,
}

/// Watches from outside: knows everything that was said, forgets nothing.
struct Judge {
    seed: u64,
    verdict: Verdict,
    /// By serial.
    commands: Vec<Proposed>,
    acknowledged: BTreeMap<GroupId, BTreeMap<LogIndex, Serial>>,
    /// What anyone ever applied (invariants 6 and 7).
    committed: BTreeMap<(GroupId, LogIndex), (Term, Serial)>,
    /// Who led in which term (invariant 1).
    leaders: BTreeMap<(GroupId, Term), NodeId>,
    /// How far each incarnation of a machine is (invariant 13: in order, each once).
    progress: BTreeMap<(NodeId, u64, GroupId), LogIndex>,
}

impl Judge {
    fn new(seed: u64) -> Self {
        let verdict = Verdict {
            trace: 0xCBF2_9CE4_8422_2325,
            acknowledged: 0,
            unknown: 0,
            crashes: 0,
            elections: 0,
        };
        Self {
            seed,
            verdict,
            commands: Vec::new(),
            acknowledged: BTreeMap::new(),
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            progress: BTreeMap::new(),
        }
    }

    fn trace(&mut self, words: &[u64]) {
        for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
            self.verdict.trace =
                (self.verdict.trace ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
    }

    fn applied(
        &mut self,
        node: NodeId,
        incarnation: u64,
        group: GroupId,
        (index, term, serial): (LogIndex, Term, Serial),
    ) {
        let seed = self.seed;
        let before = self.progress.insert((node, incarnation, group), index);
        assert!(
            before.is_none_or(|before| before < index),
            "seed {seed}: {node:?} applied {index:?} of {group:?} after {before:?}"
        );
        let known = self.committed.entry((group, index)).or_insert((term, serial));
        assert!(
            *known == (term, serial),
            "seed {seed}: {node:?} applied {serial} of {term:?} at {index:?} of {group:?}, where \
             another applied {known:?}"
        );
        let command = usize::try_from(serial).ok().and_then(|serial| self.commands.get(serial));
        assert!(
            command.is_some_and(|command| command.outcome != Known::No && command.group == group),
            "seed {seed}: {serial} is applied in {group:?}, but it is {command:?}"
        );
        self.trace(&[1, node.get(), group.get(), index.get(), term.get(), serial]);
    }

    fn answered(&mut self, serial: Serial, outcome: &Outcome) {
        let seed = self.seed;
        let known = match outcome {
            Ok(_) => Known::Yes,
            Err(error) if error.happened() == Happened::No => Known::No,
            Err(_) => Known::Unknown,
        };
        let command = &mut self.commands[usize::try_from(serial).expect("a position")];
        let was = std::mem::replace(&mut command.outcome, known);
        let group = command.group;
        assert!(was == Known::Waiting, "seed {seed}: {serial} was {was:?}, is {known:?}");
        match outcome {
            Ok(applied) => {
                self.verdict.acknowledged += 1;
                let known = self.acknowledged.entry(group).or_default();
                let other = known.insert(applied.index, serial);
                assert!(other.is_none(), "seed {seed}: {serial} and {other:?} at one index");
            }
            Err(_) if known == Known::Unknown => self.verdict.unknown += 1,
            Err(_) => {
                let applied = self.committed.values().any(|(_, applied)| *applied == serial);
                assert!(!applied, "seed {seed}: {serial} was refused, but applied before");
            }
        }
        self.trace(&[2, serial, known as u64]);
    }

    /// A process is gone: who proposed there never hears.
    fn node_died(&mut self, node: NodeId) {
        for command in self.commands.iter_mut().filter(|command| command.node == node) {
            if command.outcome == Known::Waiting {
                command.outcome = Known::Unknown;
                self.verdict.unknown += 1;
            }
        }
    }

    /// Acknowledged commands that this incarnation of a machine has not applied.
    fn missing_in(&self, incarnation: (NodeId, u64, GroupId)) -> Vec<Serial> {
        let applied = self.progress.get(&incarnation).copied().unwrap_or(LogIndex::ZERO);
        let acknowledged = self.acknowledged.get(&incarnation.2);
        let missing = acknowledged.into_iter().flatten().filter(|(index, serial)| {
            let committed = self.committed.get(&(incarnation.2, **index));
            **index > applied || committed.is_none_or(|(_, committed)| committed != *serial)
        });
        missing.map(|(_, serial)| *serial).collect()
    }

    fn leads(&mut self, node: NodeId, group: GroupId, term: Term) {
        let seed = self.seed;
        let leader = *self.leaders.entry((group, term)).or_insert_with(|| {
            self.verdict.elections += 1;
            node
        });
        assert!(
            leader == node,
            "seed {seed}: {node:?} and {leader:?} both lead {group:?} in {term:?}"
        );
    }
}
