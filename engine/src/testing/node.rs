//! One simulated node: real shards, logs and all that its threads share, on simulated disks, with a clock of its own.
//!
//! In:     what arrived for its shards, the time.
//! Out:    what each shard wrote, said, applied and answered, in [`World::seen`] and its turn.
//! Fails:  as the log does; a log that does not open is an error.

use super::{
    arriving::{check_forwarded, check_frames, check_turn, forwarded_bytes},
    connections::Line,
    event::{Change, LogState},
    harm::Harm,
    invariants::Broken,
    log::{SimLog, mark, read_back},
    machine::{Broken as BrokenMachine, Ledger, Watched},
    machine_disk::MachineDisks,
    network::Network,
    random::Random,
    setup::MachineFactory,
    shape::Shape,
};
use crate::{
    Bootstrap, Config, GroupError, GroupId, NodeId, StateMachine,
    clock::Nanos,
    here,
    host::{Outside, ShardHost, Turned},
    inbox::{Arrivals, Control, Frame, shard_of},
    links::PeerProcess,
    reads::{ReadDone, ReadTask},
    shard::{Shard, WriteJob},
    shared::{Shared, lock},
    watchdog::Watchdog,
};
use logdrive_net::{
    Lane,
    codec::encoded_bytes,
    stores::{Acquaintances, PeerStores},
};
use logdrive_raft::{Entry, LogIndex, Message, Status, WriteId};
use logdrive_wal::{Identity, ReadError, WalError};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    ops::Range,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
};

/// A step, in the nanoseconds of the simulated clock.
const STEP_NS: u64 = 1_000_000;

/// The world that all nodes share.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) network: Network,
    /// The deeds of the shard whose turn it is.
    pub(super) seen: Vec<Seen>,
    /// How often any directory was opened.
    pub(super) openings: u64,
}

/// Something a shard did in its turn.
pub(super) enum Seen {
    Arrived {
        from: NodeId,
        group: GroupId,
        message: Message,
    },
    Wrote {
        group: GroupId,
        change: Change,
    },
    Withdrew {
        group: GroupId,
        from: WriteId,
        accepted: Option<Change>,
        last: LogIndex,
    },
    Sent {
        to: NodeId,
        group: GroupId,
        message: Message,
    },
    /// An append came with so many entries, and the shard did not look at it.
    Dropped {
        entries: usize,
    },
}

/// A node that may be up or down; its disks outlive it.
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) identity: Identity,
    /// One for each shard, all on one disk: it stalls, fills up and lies for all of them.
    pub(super) logs: Vec<SimLog>,
    pub(super) machine_disks: MachineDisks,
    pub(super) process: Option<Process>,
    /// When its process starts again, if it is down.
    pub(super) starts_at: u64,
    pub(super) paused_until: u64,
    pub(super) stalled_until: u64,
    /// Its disk or one of its threads may have been silent until this step.
    pub(super) silent_until: u64,
    /// In these steps its clock stands still.
    pub(super) clock_stands: Range<u64>,
    pub(super) full_until: Option<u64>,
    pub(super) was_started: bool,
    /// Its log was taken from it, or it refuses to start on it: it never comes back.
    pub(super) lost: bool,
    /// Its disk has said of names and sizes that they are durable when they were not.
    pub(super) lied: bool,
    /// A process has started while the disk lied, and took what it read for durable.
    trusted_a_lie: bool,
    /// A fault took the end of its logs.
    pub(super) has_lost_end: bool,
    /// Its directory is not the one that its last process had: it was replaced, or its logs have lost their end, which
    /// nothing on the disk may tell.
    pub(super) is_another: bool,
    /// Groups whose fence may stand in the log though nothing else that is known here explains one: they were fenced when
    /// the present directory was copied, or before the log lost its end.
    pub(super) may_be_fenced: BTreeSet<GroupId>,
    /// Groups that did not start because the log has lost records that they need.
    pub(super) has_refused: BTreeSet<GroupId>,
    /// Groups that are created otherwise here than elsewhere.
    pub(super) founded: BTreeMap<GroupId, Bootstrap>,
    /// The record of the node's peers that the directory keeps.
    pub(super) peers: Arc<Mutex<Vec<u8>>>,
    /// The openings of its directory, and of the directory that this one is a copy of.
    pub(super) line: Line,
    /// The bytes of the largest frame that has come to it.
    frame_bytes_max: usize,
}

/// A node's process.
pub(super) struct Process {
    /// The state that all its threads share.
    pub(super) node: Arc<Shared>,
    pub(super) shards: Vec<SimShard>,
    pub(super) machines: BTreeMap<GroupId, (Ledger, BrokenMachine)>,
    /// Groups that have no machine yet, and when they get one.
    to_resume: Vec<(u64, GroupId)>,
    watchdog: Watchdog,
}

/// A shard's thread.
pub(super) struct SimShard {
    pub(super) arrivals: Rc<Arrivals>,
    pub(super) host: ShardHost,
    /// The peers that it can talk to, in runs without connections.
    pub(super) linked: BTreeSet<NodeId>,
    /// It takes no turns until then.
    pub(super) stuck_until: u64,
    /// Frames that its connections have brought and that it has not read.
    pub(super) unread: VecDeque<Frame>,
    outside: SimOutside,
}

struct SimOutside {
    me: PeerProcess,
    shard: u32,
    world: Rc<RefCell<World>>,
    reads: RefCell<VecDeque<ReadTask>>,
    reads_max: usize,
    /// The node's own clock, in ticks.
    clock: Cell<u64>,
    /// The latest process of each peer of which the shard has taken something in.
    heard: RefCell<BTreeMap<NodeId, u64>>,
    /// The messages that the present turn has taken in.
    taken: Cell<usize>,
}

impl Outside for SimOutside {
    fn send(&self, peer: NodeId, lane: Lane, messages: &mut Vec<(GroupId, Message)>) -> bool {
        let World { now, random, network, seen, .. } = &mut *self.world.borrow_mut();
        let said = |(group, message): &(GroupId, Message)| Seen::Sent {
            to: peer,
            group: *group,
            message: message.clone(),
        };
        let all: Vec<Seen> = messages.iter().map(said).collect();
        match network.send(*now, random, (self.me, self.shard), peer, lane, messages) {
            Ok(()) => {
                seen.extend(all);
                true
            }
            Err(left) => {
                logdrive_raft::reached!("frame refused by a full queue");
                // Some messages of the batch left, and are on their way all the same.
                seen.extend(messages[..left].iter().map(said));
                false
            }
        }
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

    fn now(&self) -> Nanos {
        Nanos(self.clock.get() * STEP_NS)
    }

    fn take(&self, _: Control) {
        unreachable!("no tasks here, and connections are the world's");
    }

    fn wrote(&self, job: &WriteJob) {
        let change = change(job, job.write.entries.as_slice());
        self.world.borrow_mut().seen.push(Seen::Wrote { group: job.group, change });
    }

    fn withdrew(&self, job: &WriteJob, last: LogIndex) {
        let accepted = &job.write.entries.as_slice()[..job.accepted];
        let accepted = (!accepted.is_empty()).then(|| change(job, accepted));
        let (group, from) = (job.group, job.write.id);
        self.world.borrow_mut().seen.push(Seen::Withdrew { group, from, accepted, last });
    }

    fn received(&self, shard: &Shard, from: PeerProcess, group: GroupId, message: &Message) {
        self.taken.update(|before| before + 1);
        let PeerProcess { node: from, incarnation } = from;
        let before = self.heard.borrow_mut().insert(from, incarnation);
        if before > Some(incarnation) {
            let me = self.me.node;
            let what = format!(
                "{me:?} takes in a message of life {incarnation} of {from:?}, after one of life {before:?}"
            );
            Broken { invariant: "28 connection order".to_owned(), what }.throw();
        }
        if !shard.takes_in(from, group, message) {
            // The turn's room for machines counts its entries all the same.
            if let Message::AppendEntries(append) = message {
                let entries = append.entries.len();
                self.world.borrow_mut().seen.push(Seen::Dropped { entries });
            }
            return;
        }
        let message = message.clone();
        self.world.borrow_mut().seen.push(Seen::Arrived { from, group, message });
    }
}

/// Wraps a machine so that the run can watch it and make it fail.
fn watched(machine: Box<dyn StateMachine>) -> (Box<dyn StateMachine>, (Ledger, BrokenMachine)) {
    let (ledger, broken) = (Ledger::default(), BrokenMachine::default());
    let watch = (ledger.clone(), broken.clone());
    (Box::new(Watched { machine, ledger, broken }), watch)
}

/// A write with only `entries` of its entries.
fn change(job: &WriteJob, entries: &[Entry]) -> Change {
    Change {
        write: job.write.id,
        hard_state: job.write.hard_state,
        first: entries.first().map_or(LogIndex::ZERO, |entry| entry.index),
        entries: entries.iter().map(mark).collect(),
        cost_bytes: entries.iter().map(Entry::cost_bytes).collect(),
    }
}

impl SimOutside {
    /// The reads that the reading thread has done since the last turn: all that were asked for, or none. Some may have
    /// failed with an error that does not last.
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

/// The state that a node found of one group when the node started: none of a fenced group.
pub(super) type Found = (GroupId, Option<LogState>);

impl SimNode {
    /// A node that was never started, on empty disks.
    pub(super) fn new(id: NodeId, shards: u32, random: &mut Random) -> Self {
        let identity = Identity {
            cluster: "simulated".to_owned(),
            node: id,
            store: u128::from(random.any()),
            shards,
            incarnation: 0,
            settings: BTreeMap::new(),
        };
        let logs = (0..shards).map(|shard| SimLog::new(random.any(), &identity, shard)).collect();
        Self {
            id,
            identity,
            logs,
            machine_disks: MachineDisks::new(random.any(), id),
            process: None,
            starts_at: 0,
            paused_until: 0,
            stalled_until: 0,
            silent_until: 0,
            clock_stands: 0..0,
            full_until: None,
            was_started: false,
            lost: false,
            lied: false,
            trusted_a_lie: false,
            has_lost_end: false,
            is_another: false,
            may_be_fenced: BTreeSet::new(),
            has_refused: BTreeSet::new(),
            founded: BTreeMap::new(),
            peers: Arc::default(),
            line: Line::default(),
            frame_bytes_max: 0,
        }
    }

    /// The record of the peers that the directory keeps, with this opening added. The segments hold commands of `held`
    /// bytes.
    fn open_peers(
        &mut self,
        shape: &Shape,
        number: u64,
        held: u32,
        entropy: &mut Random,
    ) -> Acquaintances {
        Rc::make_mut(&mut self.line).insert(number);
        let saved = PeerStores::decode(&lock(&self.peers));
        let mut stores = saved.expect("its own bytes");
        let others = shape.nodes.iter().copied().filter(|node| *node != self.id);
        let Identity { store, incarnation, .. } = self.identity;
        stores.open(store, incarnation, others, &mut || entropy.any());
        *lock(&self.peers) = stores.encode();
        let on_disk = self.peers.clone();
        let save = move |peers: &[u8]| {
            *lock(&on_disk) = peers.to_vec();
            Ok(())
        };
        let too_large = |peer, bytes| panic!("{peer:?} takes commands of {bytes} bytes");
        Acquaintances::new(stores, Box::new(save)).holding(held, Box::new(too_large))
    }

    /// Starts the node's process: recovers its logs; its groups get their machines by [`Self::resume_groups`].
    /// Gives what was found of each group.
    pub(super) fn start(
        &mut self,
        world: &Rc<RefCell<World>>,
        shape: &Shape,
    ) -> Result<Vec<Found>, WalError> {
        self.identity.incarnation += 1;
        let mut config = shape.config(self.identity.shards);
        let mut entropy = Random::new(world.borrow_mut().random.any());
        let seed = entropy.any();
        config.segment_bytes = *entropy.pick(&shape.segment_sizes);
        let mut opened = Vec::new();
        self.logs.iter_mut().for_each(SimLog::forget_failures);
        for log in &mut self.logs {
            let entropy = Random::new(entropy.any());
            opened.push(log.open(&self.identity, shape, &config, entropy)?);
        }
        self.was_started = true;
        self.trusted_a_lie |= self.logs.iter().any(|log| log.platter.is_lying());
        let number = {
            let mut world = world.borrow_mut();
            world.openings += 1;
            world.openings
        };
        let held = config.command_bytes_held(&config.log(PathBuf::new(), &self.identity, 0));
        let stores = Arc::new(self.open_peers(shape, number, held, &mut entropy));
        let node = Arc::new(Shared::new(
            &config,
            self.identity.clone(),
            config.founds_command_bytes(),
            stores,
            shape.limits,
        ));
        let now = world.borrow().now;
        let mut found = BTreeMap::new();
        let mut shards = Vec::new();
        for (index, (wal, recovered)) in opened.into_iter().enumerate() {
            for group in &recovered.groups {
                let state = group.fenced.is_none().then(|| read_back(&wal, group));
                found.insert(group.group, state);
            }
            node.groups.recovered(recovered);
            let arrivals = Rc::new(Arrivals::new(node.inboxes[index].clone()));
            let seed = seed.wrapping_add(index as u64);
            let host = ShardHost::new(node.clone(), index, arrivals.clone(), wal, seed);
            let outside = SimOutside {
                me: PeerProcess { node: self.id, incarnation: self.identity.incarnation },
                shard: u32::try_from(index).expect("a few shards"),
                world: world.clone(),
                reads: RefCell::default(),
                reads_max: shape.reads_max,
                clock: Cell::new(self.clock(now, shape)),
                heard: RefCell::default(),
                taken: Cell::new(0),
            };
            shards.push(SimShard {
                arrivals,
                host,
                linked: BTreeSet::new(),
                stuck_until: 0,
                unread: VecDeque::new(),
                outside,
            });
        }
        let states = shape.groups.iter().map(|group| {
            (*group, found.remove(group).unwrap_or_else(|| Some(LogState::default())))
        });
        let states: Vec<Found> = states.collect();
        let random = &mut world.borrow_mut().random;
        let whole = states.iter().filter(|(_, state)| state.is_some()).map(|(group, _)| *group);
        let to_resume = whole.map(|group| (now + random.below(shape.resume_steps_max + 1), group));
        let to_resume = to_resume.collect();
        let watchdog = Watchdog::new(&node);
        let machines = BTreeMap::new();
        self.process = Some(Process { node, shards, machines, to_resume, watchdog });
        Ok(states)
    }

    /// Gives groups whose time has come their machines, as an embedder does.
    pub(super) fn resume_groups(&mut self, now: u64, shape: &Shape, factory: &MachineFactory) {
        let Some(process) = &mut self.process else { return };
        let is_due = |(at, _): &mut (u64, GroupId)| *at <= now;
        let due: Vec<_> = process.to_resume.extract_if(.., is_due).collect();
        for (_, group) in due {
            let machine = factory(self.id, group, self.machine_disks.open(group));
            let (machine, watch) = watched(machine);
            let waits = process.node.groups.waiting().contains(&group);
            let started = if waits {
                process.node.resume(group, machine)
            } else {
                let of_all = || Bootstrap::New {
                    members: shape.nodes.clone(),
                    first_leader: shape.first_leader,
                };
                let founded = self.founded.get(&group).cloned().unwrap_or_else(of_all);
                process.node.create(group, founded, machine)
            };
            match started {
                Ok(_) => {
                    self.machine_disks.opened(group);
                    process.machines.insert(group, watch);
                }
                // The log has found the group damaged since, or the node has failed.
                Err(GroupError::Fenced { .. } | GroupError::Stopped(_)) => {}
                // A machine that is further than its log has found out what was lost.
                Err(GroupError::Machine { .. })
                    if self.lied || self.has_lost_end || self.is_another =>
                {
                    self.has_refused.insert(group);
                }
                // A carried record may be lost at its new place, and gone from its old one.
                Err(GroupError::Members { .. }) if self.has_lost_end => {
                    self.has_refused.insert(group);
                }
                Err(error) => {
                    let what = format!("{group:?} of {:?} does not start: {error}", self.id);
                    Broken { invariant: "27 reopened machine".to_owned(), what }.throw()
                }
            }
        }
    }

    /// Gives a group whose machine has failed another one, as an embedder does.
    ///
    /// # Errors
    /// The group is as it was.
    pub(super) fn restart_group(
        &mut self,
        group: GroupId,
        factory: &MachineFactory,
    ) -> Result<(), GroupError> {
        let process = self.process.as_mut().expect("it runs");
        let machine = factory(self.id, group, self.machine_disks.open(group));
        let (machine, watch) = watched(machine);
        process.node.restart(group, machine)?;
        process.machines.insert(group, watch);
        Ok(())
    }

    /// The settings of its processes.
    pub(super) fn config(&self, shape: &Shape) -> Config {
        shape.config(self.identity.shards)
    }

    /// The log that holds a group.
    pub(super) fn log_of(&self, group: GroupId) -> usize {
        shard_of(group, self.logs.len())
    }

    /// The process ends at once. `power` says whether the node's power fails, too. False if no process ran.
    pub(super) fn stop(&mut self, power: bool) -> bool {
        let Some(process) = self.process.take() else {
            if power {
                self.end_disks(power);
            }
            return false;
        };
        // First the platters: a log that is dropped waits for its writes.
        self.end_disks(power);
        drop(process);
        self.paused_until = 0;
        true
    }

    /// The disks see the end of their process, by a loss of `power` or by a kill.
    pub(super) fn end_disks(&mut self, power: bool) {
        for log in &self.logs {
            if power {
                log.platter.crash();
            } else {
                log.platter.kill();
            }
        }
        self.machine_disks.end(power);
    }

    /// The disk completes some of its writes under way.
    pub(super) fn complete_some(&mut self, now: u64) {
        if now >= self.stalled_until && self.process.is_some() {
            self.logs.iter().for_each(|log| log.platter.complete_some());
        }
    }

    /// True if a write has failed since the process began.
    pub(super) fn has_failed(&self) -> bool {
        self.logs.iter().any(SimLog::has_failed)
    }

    /// The losses of its disks, by log.
    pub(super) fn harm(&self) -> Vec<Harm> {
        let of = |log: &SimLog| {
            let mut harm = log.harm(self.lied);
            harm.unseen |= self.trusted_a_lie;
            harm
        };
        self.logs.iter().map(of).collect()
    }

    /// A group's role and cursors, if it runs.
    pub(super) fn status(&self, group: GroupId) -> Option<Status> {
        let shards = &self.process.as_ref()?.shards;
        shards[shard_of(group, shards.len())].host.shard().status(group)
    }

    /// True if the group's replica, which runs, has said that a peer was founded otherwise.
    pub(super) fn says_otherwise(&self, group: GroupId) -> bool {
        let Some(Process { shards, .. }) = &self.process else { return false };
        shards[shard_of(group, shards.len())].host.shard().says_otherwise(group)
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

    /// The watchdog looks at the shards. True if it has given up the node.
    pub(super) fn watch(&mut self, now: u64, shape: &Shape) -> bool {
        let clock = self.clock(now, shape);
        let Some(process) = &mut self.process else { return false };
        for (_, finding) in process.watchdog.look(Nanos(clock * STEP_NS), &process.node) {
            if finding.is_resignation() {
                logdrive_raft::reached!("shard resigned by the watchdog");
            }
        }
        process.node.is_given_up()
    }

    /// One turn of a shard, as the driver takes it; true if another follows at once, because more frames wait than one
    /// turn may take.
    pub(super) fn turn(&mut self, shard: usize, now: u64, shape: &Shape) -> (Turned, bool) {
        let clock = self.clock(now, shape);
        let Some(process) = &mut self.process else { return (Turned::default(), false) };
        let Process { node, shards, .. } = process;
        let SimShard { arrivals, host, unread, outside, .. } = &mut shards[shard];
        outside.clock.set(clock);
        for read in outside.finished_reads(shape) {
            assert!(arrivals.reads().push(read).is_ok(), "as many as were asked for");
        }
        // The driver reads sockets between turns, and takes one when enough frames wait.
        while !arrivals.has_many_frames()
            && let Some((from, messages)) = unread.pop_front()
        {
            let bytes = messages.iter().map(|(_, message)| encoded_bytes(message)).sum();
            self.frame_bytes_max = self.frame_bytes_max.max(bytes);
            let before = forwarded_bytes(&node.inboxes);
            arrivals.frame(from, messages, shard, &node.inboxes);
            check_forwarded(self.id, &before, &node.inboxes);
        }
        check_frames(self.id, arrivals, self.frame_bytes_max);
        here::set(Some(arrivals.clone()));
        outside.taken.set(0);
        let turned = host.turn(outside);
        here::set(None);
        check_turn(self.id, outside.taken.get(), &shape.limits.of_shard);
        (turned, !unread.is_empty() || arrivals.has_many_frames())
    }
}
