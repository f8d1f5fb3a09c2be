//! One simulated node: the real shard and log on a simulated disk, with a clock of its own.
//!
//! In:     messages that arrived, commands, the time.
//! Out:    what it wrote, said, applied and answered, in [`World::seen`] and its turn.
//! Fails:  as the log does; a log that does not open is an error.

use super::{
    cluster::MachineFactory,
    ghost::{Change, LogState, Mark},
    harm::{Harm, Stored},
    machine::{Ledger, Watched},
    machine_disk::MachineDisks,
    network::Network,
    random::Random,
    shape::Shape,
};
use crate::{
    GroupId, NodeId,
    shard::{Founded, GroupView, Shard, Submission, Timing, WriteJob},
    turn::{Outside, ReadDone, ReadTask, Turn},
};
use bytes::Bytes;
use logdrive_raft::{Durable, Entry, HardState, LogIndex, Message, Ticks};
use logdrive_wal::{
    BLOCK_BYTES, Config, Identity, ReadError, RecoveredGroup, SegmentSeq, Wal, WalError,
    disk::sim::SimPlatter,
    landed::{LandedBatch, LandedRecord, landed},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    ops::Range,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
};

/// A step, in the nanoseconds of the simulated clock.
const STEP_NS: u64 = 1_000_000;

/// What all nodes share.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) network: Network,
    /// What the node whose turn it is has done.
    pub(super) seen: Vec<Seen>,
}

/// Something a node did in its turn.
pub(super) enum Seen {
    Wrote { group: GroupId, change: Change },
    Sent { to: NodeId, group: GroupId, message: Message },
}

/// A node that may be up or down; its disk outlives it.
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) platter: SimPlatter,
    pub(super) identity: Identity,
    pub(super) machine_disks: MachineDisks,
    pub(super) running: Option<Running>,
    /// Frames that arrived while it took no turns.
    pub(super) inbox: Vec<(NodeId, Vec<(GroupId, Message)>)>,
    /// When its process starts again, if it is down.
    pub(super) starts_at: u64,
    pub(super) paused_until: u64,
    pub(super) stalled_until: u64,
    /// Its clock stands still meanwhile.
    pub(super) clock_stands: Range<u64>,
    pub(super) full_until: Option<u64>,
    pub(super) was_started: bool,
    /// Its log was taken from it, or it refuses to start on it: it never comes back.
    pub(super) lost: bool,
    /// Its disk has said of names and sizes that they are durable when they were not.
    pub(super) lied: bool,
    /// A process took for durable what the disk had while it lied.
    trusted_a_lie: bool,
    /// Batches that were whole on its platter, or that it said were.
    batches: Vec<Stored>,
    failures: u64,
    /// Of its log, when it was last looked at.
    first_segment: Option<SegmentSeq>,
    next_batch: u64,
    /// Batches behind one that has not landed.
    early: BTreeMap<u64, LandedBatch>,
    heads: BTreeMap<SegmentSeq, Vec<u8>>,
}

/// A node's process.
pub(super) struct Running {
    pub(super) turn: Turn,
    pub(super) machines: BTreeMap<GroupId, (Ledger, Arc<AtomicBool>)>,
    /// Peers it can talk to.
    pub(super) linked: BTreeSet<NodeId>,
    outside: SimOutside,
    /// Its own clock, and what its shard counts: a turn counts for at most one heartbeat.
    clock: u64,
    pub(super) counted: u64,
}

struct SimOutside {
    id: NodeId,
    world: Rc<RefCell<World>>,
    reads: RefCell<VecDeque<ReadTask>>,
    reads_max: usize,
}

impl Outside for SimOutside {
    fn send(&self, peer: NodeId, _lane: usize, messages: &mut Vec<(GroupId, Message)>) -> bool {
        let World { now, random, network, seen } = &mut *self.world.borrow_mut();
        if network.refuses(random) {
            logdrive_raft::reached!("frame refused by a full queue");
            return false;
        }
        seen.extend(messages.iter().map(|(group, message)| Seen::Sent {
            to: peer,
            group: *group,
            message: message.clone(),
        }));
        network.send(*now, random, self.id, peer, messages);
        true
    }

    fn read(&self, task: ReadTask) -> Result<(), ReadTask> {
        let mut reads = self.reads.borrow_mut();
        if reads.len() == self.reads_max {
            logdrive_raft::reached!("read refused by a full queue");
            return Err(task);
        }
        logdrive_raft::reached!("old entries read back");
        reads.push_back(task);
        Ok(())
    }

    fn now(&self) -> u64 {
        self.world.borrow().now * STEP_NS
    }

    fn wrote(&self, job: &WriteJob) {
        let entries = job.write.entries.as_slice();
        let change = Change {
            hard_state: job.write.hard_state,
            first: entries.first().map_or(LogIndex::ZERO, |entry| entry.index),
            entries: entries.iter().map(mark).collect(),
            cost_bytes: entries.iter().map(Entry::cost_bytes).collect(),
        };
        self.world.borrow_mut().seen.push(Seen::Wrote { group: job.group, change });
    }
}

impl SimOutside {
    /// What the thread that reads has done since the last turn: all that was asked for, or nothing; perhaps with errors
    /// that pass.
    fn finished_reads(&self, shape: &Shape) -> Vec<ReadDone> {
        let random = &mut self.world.borrow_mut().random;
        if random.once_in(shape.reads_rest_once_in) {
            return Vec::new();
        }
        let finish = |task| match task {
            ReadTask::Fetch { group, purpose, .. } if random.once_in(shape.reads_fail_once_in) => {
                logdrive_raft::reached!("old entries could not be read for once");
                let (file, source) = (PathBuf::from("sim"), io::ErrorKind::Other.into());
                ReadDone::Fetch { group, purpose, read: Err(ReadError::Io { file, source }) }
            }
            task => task.run(),
        };
        self.reads.borrow_mut().drain(..).map(finish).collect()
    }
}

impl SimNode {
    /// A node that was never started, on an empty disk.
    pub(super) fn new(id: NodeId, random: &mut Random) -> Self {
        let store = random.any();
        let identity = Identity {
            cluster: "simulated".to_owned(),
            node: id,
            store: u128::from(store),
            shards: 1,
            incarnation: 0,
            settings: BTreeMap::new(),
        };
        Self {
            id,
            platter: SimPlatter::new(random.any(), &identity, 0),
            machine_disks: MachineDisks::new(store, id),
            identity,
            running: None,
            inbox: Vec::new(),
            starts_at: 0,
            paused_until: 0,
            stalled_until: 0,
            clock_stands: 0..0,
            full_until: None,
            was_started: false,
            lost: false,
            lied: false,
            trusted_a_lie: false,
            batches: Vec::new(),
            failures: 0,
            first_segment: None,
            next_batch: 0,
            early: BTreeMap::new(),
            heads: BTreeMap::new(),
        }
    }

    /// Starts the node's process: recovers its log, runs its groups. Gives what was found of each; nothing of one
    /// that is fenced.
    pub(super) fn start(
        &mut self,
        world: &Rc<RefCell<World>>,
        shape: &Shape,
        factory: &MachineFactory,
    ) -> Result<Vec<(GroupId, Option<LogState>)>, WalError> {
        self.identity.incarnation += 1;
        self.failures = self.platter.failures();
        self.first_segment = None;
        let mut entropy = Random::new(world.borrow_mut().random.any());
        let seed = entropy.any();
        let config = self.config(shape);
        let ids = move || u128::from(entropy.any()) << 64 | u128::from(entropy.any());
        let _ = self.platter.take_landed();
        let disk = self.platter.disk(shape.segment_bytes);
        let (wal, recovered) = Wal::open_on(disk, config, Box::new(ids))?;
        if recovered.cut.is_some() {
            logdrive_raft::reached!("torn tail cut");
        }
        self.was_started = true;
        self.trusted_a_lie |= self.platter.is_lying();
        self.heads.clear();
        // A segment that was lost may have its number again.
        let begun = wal.durable().segment();
        self.batches.retain(|batch| batch.position.segment() < begun);
        self.early.clear();
        self.next_batch = 0;
        for batch in self.landed() {
            self.next_batch = self.next_batch.max(batch.number + 1);
        }
        let timing =
            Timing { election_ticks: shape.election_ticks, heartbeat_ticks: shape.heartbeat_ticks };
        // Two election timeouts, as in a real node.
        let resign_ns = 2 * shape.election_ticks * STEP_NS;
        let shard = Shard::new(self.id, &shape.nodes, timing, seed).with_limits(shape.limits);
        let mut turn = Turn::new(shard, wal, shape.heartbeat_ticks * STEP_NS, resign_ns);
        let mut found: BTreeMap<GroupId, RecoveredGroup> =
            recovered.groups.into_iter().map(|group| (group.group, group)).collect();
        let mut states = Vec::new();
        let mut machines = BTreeMap::new();
        for group in &shape.groups {
            let found = found.remove(group);
            if found.as_ref().is_some_and(|found| found.fenced.is_some()) {
                states.push((*group, None));
                continue;
            }
            let (ledger, broken) = (Ledger::default(), Arc::default());
            let mut watched = Watched {
                machine: factory(self.id, *group, self.machine_disks.open(*group)),
                ledger: ledger.clone(),
                broken: Arc::clone(&broken),
            };
            let state = found.as_ref().map_or_else(LogState::default, |found| LogState {
                hard_state: found.hard_state,
                log: read_back(turn.wal.as_ref().expect("it is open"), found),
            });
            states.push((*group, Some(state)));
            let mut founded = found.map_or_else(
                || new_group(*group, &shape.nodes, shape.first_leader == Some(self.id)),
                |found| resumed_group(found, &shape.nodes, shape.nodes[0] == self.id),
            );
            founded.applied = watched.start(self.id, *group, founded.last);
            turn.add(founded, Box::new(watched)).expect("what was recovered fits together");
            machines.insert(*group, (ledger, broken));
        }
        self.machine_disks.opened();
        let (id, reads_max) = (self.id, shape.reads_max);
        let outside = SimOutside { id, world: world.clone(), reads: RefCell::default(), reads_max };
        let clock = self.clock(world.borrow().now, shape);
        let linked = BTreeSet::new();
        self.running = Some(Running { turn, machines, linked, outside, clock, counted: 1 });
        Ok(states)
    }

    fn config(&self, shape: &Shape) -> Config {
        let mut config = Config::new(PathBuf::from("sim"), self.identity.clone(), 0);
        config.segment_bytes = shape.segment_bytes;
        config.batch_bytes_max = shape.batch_bytes_max;
        config.in_flight_max = shape.in_flight_max;
        config.log_bytes_max = shape.log_bytes_max;
        config
    }

    /// True if the log has given up a segment since the last look.
    pub(super) fn has_given_back(&mut self) -> bool {
        let first = self.platter.segments().first().copied();
        let before = std::mem::replace(&mut self.first_segment, first);
        before.is_some() && before < first
    }

    /// What would be found of each group if the power failed now, and took all that is not durable.
    pub(super) fn after_power_loss(
        &self,
        shape: &Shape,
    ) -> Result<Vec<(GroupId, Option<LogState>)>, WalError> {
        let platter = self.platter.twin();
        platter.crash_choosing(|_| false);
        let disk = platter.disk(shape.segment_bytes);
        let (wal, recovered) = Wal::open_on(disk, self.config(shape), Box::new(|| 1))?;
        let state = |found: RecoveredGroup| {
            let state = found
                .fenced
                .is_none()
                .then(|| LogState { hard_state: found.hard_state, log: read_back(&wal, &found) });
            (found.group, state)
        };
        Ok(recovered.groups.into_iter().map(state).collect())
    }

    /// The process ends at once. `power` says whether the machine does too.
    pub(super) fn stop(&mut self, power: bool) -> bool {
        self.machine_disks.end(power);
        let Some(running) = self.running.take() else {
            if power {
                self.platter.crash();
            }
            return false;
        };
        // First the platter: a log that is dropped waits for its writes.
        if power {
            self.platter.crash();
        } else {
            self.platter.kill();
        }
        drop(running);
        self.inbox.clear();
        self.paused_until = 0;
        true
    }

    /// The disk works on, a little.
    pub(super) fn complete_some(&mut self, now: u64) {
        if now >= self.stalled_until && self.running.is_some() {
            self.platter.complete_some();
        }
    }

    /// What is durable now with all before it, in the stream's order.
    pub(super) fn newly_durable(&mut self) -> Vec<(GroupId, Change)> {
        for batch in self.landed() {
            self.early.insert(batch.number, batch);
        }
        let mut changes = Vec::new();
        while let Some(batch) = self.early.remove(&self.next_batch) {
            self.next_batch += 1;
            changes.extend(batch.records.into_iter().map(change));
        }
        changes
    }

    /// True if a write has failed that had not when the process began.
    pub(super) fn has_failed(&self) -> bool {
        self.platter.failures() > self.failures
    }

    /// Batches that later ones know durable, of segments that are there.
    pub(super) fn vouched_batches(&self) -> Vec<&Stored> {
        let known = self.batches.iter().map(|batch| batch.durable).max();
        let segments = self.platter.segments();
        let is_vouched = |batch: &&Stored| {
            Some(batch.position) < known && segments.contains(&batch.position.segment())
        };
        self.batches.iter().filter(is_vouched).collect()
    }

    /// What its disk has lost.
    pub(super) fn harm(&self) -> Harm {
        let (segments, damage) = (self.platter.segments(), self.platter.damage());
        let mut harm = Harm::of(&self.batches, &segments, &damage, self.lied);
        harm.unseen |= self.trusted_a_lie;
        harm
    }

    fn landed(&mut self) -> Vec<LandedBatch> {
        let mut batches = Vec::new();
        for write in self.platter.take_landed() {
            let head = self
                .heads
                .entry(write.segment)
                .or_insert_with(|| self.platter.segment_head(write.segment, BLOCK_BYTES));
            let batch = landed(write.segment, head, write.offset, &write.bytes);
            let batch = batch.expect("a batch that landed holds");
            self.batches.push(Stored::new(&batch, write.bytes.len() as u64));
            batches.push(batch);
        }
        batches
    }

    /// Its own clock, in ticks.
    fn clock(&self, now: u64, shape: &Shape) -> u64 {
        let now = if self.clock_stands.contains(&now) { self.clock_stands.start } else { now };
        now * self.clock_rate(shape) / 1000
    }

    /// Ticks of its clock in a thousand steps.
    pub(super) fn clock_rate(&self, shape: &Shape) -> u64 {
        shape.clock_rates[usize::try_from(self.id.get() - 1).expect("a few nodes")]
    }

    /// One turn, as the driver takes it.
    pub(super) fn turn(
        &mut self,
        now: u64,
        shape: &Shape,
        submissions: Vec<Submission>,
        answers: &mut Vec<crate::shard::Answer>,
    ) -> Result<(), WalError> {
        let clock = self.clock(now, shape);
        let Some(running) = &mut self.running else { return Ok(()) };
        let Running { turn, outside, .. } = running;
        let elapsed = clock - running.clock;
        running.counted += elapsed.min(shape.heartbeat_ticks);
        running.clock = clock;
        turn.shard.advance(Ticks(clock));
        for submission in submissions {
            turn.shard.submit(submission, &mut turn.answers);
        }
        for (from, messages) in self.inbox.drain(..) {
            for (group, message) in messages {
                turn.shard.receive(from, group, message);
            }
        }
        let reads = outside.finished_reads(shape);
        reads.into_iter().for_each(|read| turn.finish_read(read));
        let result = turn
            .take_completions(now * STEP_NS)
            .and_then(|()| turn.give_out(outside))
            .and_then(|()| turn.seal_when_idle(now * STEP_NS).map(drop));
        answers.append(&mut turn.answers);
        result
    }
}

/// Every entry of a recovered group, read from its disk.
fn read_back(wal: &Wal, found: &RecoveredGroup) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    while (marks.len() as u64) < found.last.get() {
        let first = LogIndex(marks.len() as u64 + 1);
        let plan = wal.plan_read(found.group, first, found.last, usize::MAX / 2);
        let entries = plan.and_then(|plan| plan.run());
        let entries = entries.unwrap_or_else(|error| {
            super::invariants::Broken {
                invariant: "14 prefix recovery".to_owned(),
                what: format!(
                    "{first:?} of {:?} was recovered and is not there: {error}",
                    found.group
                ),
            }
            .throw()
        });
        assert!(!entries.is_empty(), "a read of {first:?} gave nothing");
        marks.extend(entries.as_slice().iter().map(mark));
    }
    marks
}

fn mark(entry: &Entry) -> Mark {
    Mark { term: entry.term, checksum: entry.checksum }
}

fn change(record: LandedRecord) -> (GroupId, Change) {
    match record {
        LandedRecord::HardState { group, state } => {
            let (first, entries) = (LogIndex::ZERO, Vec::new());
            let hard_state = Some(state);
            (group, Change { hard_state, first, entries, cost_bytes: Vec::new() })
        }
        LandedRecord::Entries { group, first, term, checksums } => {
            let entries = checksums.into_iter().map(|checksum| Mark { term, checksum }).collect();
            (group, Change { hard_state: None, first, entries, cost_bytes: Vec::new() })
        }
    }
}

fn new_group(group: GroupId, nodes: &[NodeId], first_leader: bool) -> Founded {
    Founded {
        group,
        members: nodes.to_vec(),
        membership: Some(Bytes::from_static(b"members")),
        hard_state: HardState::default(),
        runs: Vec::new(),
        last: LogIndex::ZERO,
        applied: LogIndex::ZERO,
        durable: Durable::of_nothing(group),
        first_leader,
        view: Arc::new(GroupView::default()),
    }
}

fn resumed_group(found: RecoveredGroup, nodes: &[NodeId], first_leader: bool) -> Founded {
    assert_eq!(&found.membership[..], b"members", "the membership came back: {found:?}");
    Founded {
        membership: None,
        hard_state: found.hard_state,
        runs: found.runs,
        last: found.last,
        durable: found.durable,
        ..new_group(found.group, nodes, first_leader)
    }
}
