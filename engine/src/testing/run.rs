//! A run: faults first, then peace; the ghost watches both.
//!
//! In:     a [`Cluster`], the shape and the schedule its seed drew.
//! Out:    the ghost at the end, or an unwinding [`Broken`].
//! Cost:   some 10 to 30 ms.
//! Source: FAULTS.md §3 (L1).

use super::{
    cluster::{Call, Cluster},
    determinism::{self, Commands as Applied},
    ghost::{AtEnd, Counts, Event, Ghost, Known, Proposed, known},
    invariants::Broken,
    machine::SERIAL_BYTES,
    machine_disk::End,
    network::{Network, Weather},
    node::{Running, Seen, SimNode, World},
    random::Random,
    shape::{Planned, Shape, draw_schedule},
    trace::Trace,
};
use crate::{
    Completions, GroupId, NodeId, Outcome,
    inbox::LaneChange,
    shard::{Commands, Submission},
};
use bytes::{Bytes, BytesMut};
use logdrive_net::Lane;
use logdrive_raft::{Command, Role, Status};
use logdrive_wal::WalError;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

/// Steps with faults.
pub(super) const STORM_STEPS: u64 = 600;
/// Steps in which everything must heal, besides some for the election timeout, and what disks have to write
/// ([`Run::backlog_steps`]).
const PEACE_STEPS: u64 = 150;
/// Steps without proposals in which everyone must have caught up: a burst may be left to write.
const CATCH_UP_STEPS: u64 = 600;
/// A connection that is down comes back in one of so many steps.
const LINKS_ONCE_IN: u64 = 4;
/// Commands are proposed several at once, one time in so many, and so many at most.
const SEVERAL_ONCE_IN: u64 = 8;
const SEVERAL_MAX: u64 = 4;
/// A leader that has said its last word pauses for so much longer than the disk it said it to.
const LAST_WORD_STEPS: u64 = 20;
/// Of an entry on disk besides its payload's padding, about: headers, the serial, a register's operation.
const ENTRY_BYTES_MORE: u64 = 128;
/// Steps in which nothing may change any more.
const SILENT_STEPS: u64 = 80;

pub(super) struct Run<'a> {
    cluster: &'a Cluster,
    pub(super) shape: Shape,
    pub(super) nodes: Vec<SimNode>,
    world: Rc<RefCell<World>>,
    schedule: Vec<Planned>,
    ghost: Ghost,
    clients: Random,
    calls: Vec<Call>,
    proposing: bool,
    /// Nodes that something was taken from for good; a majority never is.
    pub(super) impaired: BTreeSet<NodeId>,
    /// Replicas that stopped because the simulation broke their machine: until their node starts again.
    pub(super) broken: BTreeSet<(NodeId, GroupId)>,
    healed_at: Option<usize>,
    /// Whoever leads is given a command in every step until then.
    eager_until: u64,
    /// What faults have still to do, and when.
    later: Vec<(u64, Later)>,
    answers: Arc<Answers>,
}

/// Something that a fault does after a while: to a node, for so many steps.
pub(super) enum Later {
    Pause(usize, u64),
    Crash(usize, u64),
    /// Of a group.
    PauseLeader(usize, u64),
    /// Its disk lies no more.
    Honest(usize),
    /// What dead processes had under way reaches its disk.
    Land(usize),
}

/// What is left of a run, however it ended.
#[derive(Default)]
pub(super) struct Finished {
    pub(super) counts: Counts,
    pub(super) trace: Trace,
    /// What machines have applied.
    pub(super) commands: Applied,
}

/// The schedule a cluster's seed draws, without the faults it leaves out.
pub(super) fn schedule_of(cluster: &Cluster) -> Vec<Planned> {
    let shape = cluster.shape();
    let mut schedule = draw_schedule(cluster.seed, &shape, STORM_STEPS);
    if let Some(only) = &cluster.only {
        schedule.retain(|planned| only.contains(&planned.number));
    }
    schedule
}

impl<'a> Run<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let shape = cluster.shape();
        let mut random = Random::stream(cluster.seed, 3);
        let nodes: Vec<SimNode> =
            shape.nodes.iter().map(|id| SimNode::new(*id, &mut random)).collect();
        let network = Network::new(shape.weather, shape.refuse_once_in);
        let trace = Trace::new(cluster.traced, cluster.describe.clone());
        Self {
            cluster,
            ghost: Ghost::new(&shape, trace),
            schedule: schedule_of(cluster),
            shape,
            nodes,
            world: Rc::new(RefCell::new(World { now: 0, random, network, seen: Vec::new() })),
            clients: Random::stream(cluster.seed, 4),
            calls: Vec::new(),
            proposing: true,
            impaired: BTreeSet::new(),
            broken: BTreeSet::new(),
            healed_at: None,
            eager_until: 0,
            later: Vec::new(),
            answers: Arc::default(),
        }
    }

    /// All of it.
    pub(super) fn all(mut self, finished: &mut Finished) {
        let shape = self.shape.clone();
        self.note(|| format!("{shape:?}"));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.phases()));
        // What had happened until it broke is worth having.
        finished.counts = self.ghost.counts;
        finished.trace = std::mem::take(&mut self.ghost.trace);
        if let Err(broken) = result {
            finished.commands = determinism::commands(&self.ghost);
            for node in &mut self.nodes {
                node.stop(true);
            }
            std::panic::resume_unwind(broken);
        }
    }

    fn phases(&mut self) {
        for _ in 0..STORM_STEPS {
            self.inject();
            self.step();
        }
        self.heal();
        let peace = PEACE_STEPS + 8 * self.shape.election_ticks;
        let backlog = self.backlog_steps();
        self.note(|| format!("disks have {backlog} steps to write"));
        for n in 0..peace + backlog {
            if n >= peace && self.served().values().all(|served| *served > 0) {
                break;
            }
            self.step();
        }
        self.proposing = false;
        for _ in 0..CATCH_UP_STEPS {
            if self.is_quiet() {
                break;
            }
            self.step();
        }
        let mut end = AtEnd { terms_before: self.terms(), ..AtEnd::default() };
        for _ in 0..SILENT_STEPS {
            self.step();
        }
        end.alive = self.alive();
        end.served = self.served();
        self.ghost.see(&Event::End { at: &end });
        if let Err(what) = (self.cluster.check)(&self.calls) {
            Broken { invariant: "17 linearizability".to_owned(), what }.throw();
        }
    }

    // --- what faults do ---

    /// The power of a node fails; it starts again after `down` steps.
    pub(super) fn crash(&mut self, at: usize, down: u64) {
        self.stop(at, down, true);
    }

    /// The process of a node ends; it starts again after `down` steps.
    pub(super) fn kill(&mut self, at: usize, down: u64) {
        self.stop(at, down, false);
    }

    /// A node is stopped cleanly, if its disk lets it; it starts again after `down` steps.
    pub(super) fn close(&mut self, at: usize, down: u64) {
        let wal = self.nodes[at].running.as_mut().and_then(|running| running.host.wal.take());
        if wal.is_some_and(|wal| wal.close().is_ok()) {
            logdrive_raft::reached!("log closed");
        }
        self.see_landed(at);
        self.kill(at, down);
    }

    pub(super) fn pause(&mut self, at: usize, steps: u64) {
        self.nodes[at].paused_until = self.now() + steps;
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId, steps: u64) {
        let now = self.now();
        self.world.borrow_mut().network.cut(now, from, to, steps);
    }

    pub(super) fn clog(&mut self, from: usize, to: usize, steps: u64) {
        let (now, from, to) = (self.now(), self.nodes[from].id, self.nodes[to].id);
        self.world.borrow_mut().network.clog(now, from, to, steps);
    }

    pub(super) fn gust(&mut self, weather: Weather, steps: u64) {
        let now = self.now();
        self.world.borrow_mut().network.gust(now, weather, steps);
    }

    pub(super) fn repeat_frames(&mut self, frames: u64) {
        let World { now, random, network, .. } = &mut *self.world.borrow_mut();
        network.repeat(*now, random, frames);
    }

    /// All connections of a node break; everybody is told, and they come back.
    pub(super) fn break_connections(&mut self, at: usize) {
        let id = self.nodes[at].id;
        self.world.borrow_mut().network.drop_frames_of(id);
        for other in 0..self.nodes.len() {
            let other_id = self.nodes[other].id;
            if other != at {
                self.tell(other, id);
                self.tell(at, other_id);
            }
        }
    }

    /// Whoever leads anything pauses.
    pub(super) fn pause_leaders(&mut self, steps: u64) {
        for at in 0..self.nodes.len() {
            let id = self.nodes[at].id;
            let leads = |group: &GroupId| {
                self.ghost.replicas.get(&(id, *group)).is_some_and(|r| r.leads().is_some())
            };
            if self.shape.groups.iter().any(leads) {
                self.pause(at, steps);
            }
        }
    }

    /// Whoever came to lead a group last pauses.
    fn pause_newest_leader(&mut self, group: usize, steps: u64) {
        let group = self.shape.groups[group];
        let led = self.ghost.leaders.iter().rfind(|((of, _), _)| *of == group);
        let newest = led.map(|(_, leader)| *leader);
        if let Some(at) = self.nodes.iter().position(|node| Some(node.id) == newest) {
            self.pause(at, steps);
        }
    }

    /// Whatever passes by itself has passed: everyone who can is up, heard and served.
    pub(super) fn calm(&mut self) {
        let now = self.now();
        self.world.borrow_mut().network.calm(now);
        self.later.clear();
        self.eager_until = now;
        for node in &mut self.nodes {
            node.platter.set_segments_left(None);
            node.platter.clear_failures();
            node.platter.set_lying(false);
            node.full_until = None;
            node.paused_until = 0;
            node.stalled_until = 0;
            node.clock_stands = 0..0;
            node.starts_at = 0;
            node.machine_disks.calm();
        }
    }

    /// Appends reach only one node, whose disk is slow, while leaders of a group come and go: each pauses for so many
    /// steps.
    pub(super) fn shuffle(&mut self, at: usize, group: usize, steps: u64) {
        let (now, id) = (self.now(), self.nodes[at].id);
        let first = self.shape.election_ticks / 2;
        self.world.borrow_mut().network.appends_only_to(now, id, first + 3 * steps);
        self.stall_disk(at, first + 3 * steps);
        self.eager_until = now + first;
        for round in 0..3 {
            self.in_a_while(first + round * steps, Later::PauseLeader(group, steps));
        }
    }

    /// A group's leader says its last things to one node only, whose disk is slow, and is not heard for a while. It
    /// hears nobody else either: not of a later term before that node's answer.
    pub(super) fn last_word(&mut self, group: usize, to: u64, after: u64, stall: u64) {
        let Some((leader, follower)) = self.leader_and_follower(group, to) else { return };
        let (now, id) = (self.now(), self.nodes[follower].id);
        self.world.borrow_mut().network.appends_only_to(now, id, after);
        self.stall_disk(follower, after + stall);
        self.eager_until = now + after;
        let silence = stall + LAST_WORD_STEPS;
        // By then it hears a leader no more; nor does its clock go on to where it would ask for votes itself.
        let timeout =
            1000 * self.shape.election_ticks / self.nodes[follower].clock_rate(&self.shape);
        let deaf = now + after + self.shape.weather.delay_max + timeout;
        self.nodes[follower].clock_stands = deaf..now + after + silence;
        for other in (0..self.nodes.len()).filter(|other| *other != follower) {
            self.cut(self.nodes[other].id, self.nodes[leader].id, after + silence + 5);
        }
        self.in_a_while(after, Later::Pause(leader, silence));
    }

    /// A group's leader, whose disk is slow, has its entries on one other node only when its power fails; that node is
    /// not heard for a while. What it has acknowledged arrives at whoever leads then.
    pub(super) fn forget(&mut self, group: usize, to: u64, after: u64) {
        let Some((leader, follower)) = self.leader_and_follower(group, to) else { return };
        let (now, id) = (self.now(), self.nodes[follower].id);
        let timeout = self.shape.election_ticks;
        {
            let network = &mut self.world.borrow_mut().network;
            network.appends_only_to(now, id, after);
            network.echo(now, after + 8 * timeout);
        }
        self.stall_disk(leader, after);
        self.eager_until = now + after;
        self.in_a_while(after, Later::Crash(leader, 1));
        self.in_a_while(after, Later::Pause(follower, 4 * timeout));
    }

    /// Something happens after so many steps, unless all faults have ended by then.
    pub(super) fn in_a_while(&mut self, after: u64, what: Later) {
        self.later.push((self.now() + after, what));
    }

    /// Who leads a group, as far as is known, and one of the others.
    fn leader_and_follower(&self, group: usize, other: u64) -> Option<(usize, usize)> {
        let group = self.shape.groups[group];
        let leads = |node: &SimNode| {
            let replica = self.ghost.replicas.get(&(node.id, group));
            node.running.is_some() && replica.is_some_and(|replica| replica.leads().is_some())
        };
        let leader = self.nodes.iter().position(leads)?;
        let others = self.nodes.len() as u64 - 1;
        let other = (others > 0).then(|| 1 + other % others)?;
        Some((leader, (leader + usize::try_from(other).ok()?) % self.nodes.len()))
    }

    pub(super) fn stall_disk(&mut self, at: usize, steps: u64) {
        self.nodes[at].stalled_until = self.now() + steps;
    }

    pub(super) fn fill_disk(&mut self, at: usize, segments_left: u64, steps: u64) {
        let left = u32::try_from(segments_left).expect("a few");
        self.nodes[at].platter.set_segments_left(Some(left));
        self.nodes[at].full_until = Some(self.now() + steps);
    }

    /// Takes a node's disk, or parts of it. It must not start again.
    pub(super) fn wipe(&mut self, at: usize, kind: u64) {
        if !self.may_impair(at) || !self.nodes[at].was_started {
            return;
        }
        self.crash(at, 5);
        let node = &mut self.nodes[at];
        if kind != 1 {
            node.platter.set_manifest(None);
        }
        if kind != 2 {
            for segment in node.platter.segments() {
                node.platter.set_segment(segment, None);
            }
        }
        self.must_not_start(at);
        self.nodes[at].lost = true;
        self.impair(at);
    }

    /// Two nodes try to start on each other's disks, and get their own back.
    pub(super) fn swap_disks(&mut self, a: usize, b: usize) {
        if a == b || !self.nodes[a].was_started || !self.nodes[b].was_started {
            return;
        }
        if self.nodes[a].lost || self.nodes[b].lost {
            return;
        }
        self.crash(a, 5);
        self.crash(b, 5);
        for attempt in [true, false] {
            let other = self.nodes[a].platter.clone();
            let own = std::mem::replace(&mut self.nodes[b].platter, other);
            self.nodes[a].platter = own;
            if attempt {
                self.must_not_start(a);
                self.must_not_start(b);
            }
        }
    }

    /// The next command of a group's machine on a node fails.
    pub(super) fn break_machine(&mut self, at: usize, group: usize) {
        if !self.may_impair(at) {
            return;
        }
        let (id, group) = (self.nodes[at].id, self.shape.groups[group]);
        if let Some(running) = &self.nodes[at].running {
            let Some((_, broken)) = running.machines.get(&group) else { return };
            broken.store(true, Ordering::Relaxed);
            self.broken.insert((id, group));
        }
    }

    /// The process of a node ends within an operation of a machine, after so many others; it starts again after
    /// `down` steps.
    pub(super) fn end_within_machine(&self, at: usize, down: u64, after: u64, power: bool) {
        self.nodes[at].machine_disks.end_within(End { down, power }, after);
    }

    // --- starting and stopping ---

    fn start(&mut self, at: usize) {
        let factory = &*self.cluster.machine;
        let now = self.now();
        let node = &mut self.nodes[at];
        if node.running.is_some() || node.lost || now < node.starts_at {
            return;
        }
        let id = node.id;
        let harm = node.harm();
        if harm.unseen {
            logdrive_raft::reached!("end of a log lost, and nothing tells of it");
            node.platter.crash();
            node.lost = true;
            self.note(|| format!("{id:?} cannot know what its disk has lost"));
            return;
        }
        match node.start(&self.world, &self.shape, factory) {
            Ok(states) => {
                for (group, state) in &states {
                    let group = *group;
                    self.broken.remove(&(id, group));
                    let Some(state) = state else {
                        logdrive_raft::reached!("group fenced");
                        let before = self.ghost.fenced.contains(&(id, group));
                        let harmed = before || harm.explains_fence(group);
                        self.ghost.see(&Event::Fenced { node: id, group, harmed });
                        continue;
                    };
                    self.ghost.see(&Event::Recovered { node: id, group, state });
                }
            }
            Err(WalError::NoSpace) if node.full_until.is_some() => {
                node.platter.crash();
                node.starts_at = now + 10;
            }
            Err(_) if node.has_failed() => {
                // A sync that failed may have said yes to nothing; the next process believes it (FAULTS.md W7).
                if self.impaired.contains(&id) {
                    node.platter.kill();
                } else {
                    node.platter.crash();
                }
                node.starts_at = now + 10;
            }
            Err(error) if harm.refuses => {
                logdrive_raft::reached!("damaged log refused");
                node.platter.crash();
                node.lost = true;
                self.note(|| format!("{id:?} refuses to start: {error}"));
            }
            Err(error) => Broken {
                invariant: "14 prefix recovery".to_owned(),
                what: format!("{id:?} cannot start on its own log: {error}; done to it: {harm:?}"),
            }
            .throw(),
        }
    }

    pub(super) fn must_not_start(&mut self, at: usize) {
        let factory = &*self.cluster.machine;
        let node = &mut self.nodes[at];
        let started = node.start(&self.world, &self.shape, factory).is_ok();
        let node = &mut self.nodes[at];
        if started {
            node.stop(true);
            let id = node.id;
            self.ghost.see(&Event::Impostor { node: id });
        } else {
            node.platter.crash();
        }
    }

    fn stop(&mut self, at: usize, down: u64, power: bool) {
        self.nodes[at].starts_at = self.now() + down;
        if self.nodes[at].stop(power) {
            let id = self.nodes[at].id;
            self.break_connections(at);
            self.ghost.see(&Event::Down { node: id });
            for (call, command) in self.calls.iter_mut().zip(&self.ghost.commands) {
                call.unknown = command.known == Known::Unknown;
            }
        }
    }

    fn tell(&mut self, at: usize, lost_peer: NodeId) {
        if let Some(running) = &mut self.nodes[at].running {
            running.linked.remove(&lost_peer);
            running.node.inbound_closed(lost_peer);
            for lane in Lane::ALL {
                running.arrivals.lane(LaneChange { peer: lost_peer, lane, is_up: false });
            }
        }
    }

    /// Connections that are down come back, sooner or later, if there is somebody at the other end.
    fn link(&mut self, at: usize) {
        let ups = self.nodes.iter().filter(|node| node.running.is_some()).map(|node| node.id);
        let peers: Vec<NodeId> = ups.filter(|id| *id != self.nodes[at].id).collect();
        let Some(running) = &mut self.nodes[at].running else { return };
        for peer in peers {
            if !running.linked.contains(&peer)
                && self.world.borrow_mut().random.once_in(LINKS_ONCE_IN)
            {
                running.linked.insert(peer);
                running.node.inbound_opened(peer);
                for lane in Lane::ALL {
                    running.arrivals.lane(LaneChange { peer, lane, is_up: true });
                }
            }
        }
    }

    /// Network and disks behave from now on; everyone who can is up.
    fn heal(&mut self) {
        self.note(|| "all faults end".to_owned());
        if self.shape.log_bytes_max.take().is_some() {
            // Nothing is ever released here: who is over its quota needs another.
            (0..self.nodes.len()).for_each(|at| self.kill(at, 0));
        }
        let now = self.now();
        self.world.borrow_mut().network.heal(now);
        self.shape.disk_rests_once_in = 0;
        self.shape.reads_rest_once_in = 0;
        self.shape.reads_fail_once_in = 0;
        // New commands leave disks half of their time for what they are behind.
        let round = 2 * self.write_steps(self.shape.groups.len() as u64);
        self.shape.propose_once_in = self.shape.propose_once_in.clamp(4, 6).max(round);
        self.calm();
        self.healed_at = Some(self.calls.len());
    }

    /// How long the slowest disk writes, at most, until its node has what any node has: a vote waits behind all that,
    /// and a candidate whose own vote waits for longer than an election's timeout has moved on when it is there. In
    /// peace at most half of a disk's time goes to new commands, so it takes twice as long as the writes alone.
    fn backlog_steps(&self) -> u64 {
        let missing_on = |node: &SimNode| {
            let missing = |group: &GroupId| {
                let logs = self.ghost.replicas.iter().filter(|((_, of), _)| of == group);
                let longest = logs.map(|(_, replica)| replica.state.log.len()).max().unwrap_or(0);
                let own = self.ghost.replicas.get(&(node.id, *group));
                longest.saturating_sub(own.map_or(0, |replica| replica.durable.log.len())) as u64
            };
            self.shape.groups.iter().map(missing).sum()
        };
        let missing = self.nodes.iter().filter(|node| !node.lost).map(missing_on).max();
        2 * self.write_steps(missing.unwrap_or(0))
    }

    /// How long a disk takes in peace for so many entries, at most: it finishes a write in every step, and a segment's
    /// making takes another.
    fn write_steps(&self, entries: u64) -> u64 {
        let entry_bytes = self.shape.payload_max + ENTRY_BYTES_MORE;
        let per_batch = (u64::from(self.shape.batch_bytes_max) / entry_bytes).max(1);
        entries.div_ceil(per_batch) + (entries * entry_bytes).div_ceil(self.shape.segment_bytes)
    }

    /// Commands of each group acknowledged since the healing began.
    fn served(&self) -> BTreeMap<GroupId, u64> {
        let healed_at = self.healed_at.expect("it was healed");
        let mut served: BTreeMap<GroupId, u64> =
            self.shape.groups.iter().map(|group| (*group, 0)).collect();
        for (call, command) in self.calls.iter().zip(&self.ghost.commands).skip(healed_at) {
            *served.entry(call.group).or_default() += u64::from(command.known == Known::Yes);
        }
        served
    }

    // --- a step ---

    fn inject(&mut self) {
        let now = self.now();
        for (_, later) in self.later.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            match later {
                Later::Pause(at, steps) => self.pause(at, steps),
                Later::Crash(at, down) => self.crash(at, down),
                Later::PauseLeader(group, steps) => self.pause_newest_leader(group, steps),
                Later::Honest(at) => self.nodes[at].platter.set_lying(false),
                Later::Land(at) => self.nodes[at].platter.land_late(),
            }
        }
        while self.schedule.first().is_some_and(|planned| planned.step <= now) {
            let planned = self.schedule.remove(0);
            self.ghost.counts.faults += 1;
            self.note(|| {
                format!("FAULT {}: {} {:?}", planned.number, planned.fault.name, planned.args)
            });
            (planned.fault.inject)(self, planned.args);
        }
    }

    fn step(&mut self) {
        let now = {
            let mut world = self.world.borrow_mut();
            world.now += 1;
            world.now
        };
        self.ghost.trace.step = now;
        self.ghost.counts.steps = now;
        let arrivals = self.world.borrow_mut().network.arrivals(now);
        for arrival in arrivals {
            let place = self.nodes.iter_mut().find(|node| node.id == arrival.to);
            let node = place.expect("frames go to nodes");
            if node.running.is_some() {
                node.inbox.push((arrival.from, arrival.messages));
            }
        }
        for at in 0..self.nodes.len() {
            self.start(at);
            self.node_step(at, now);
        }
    }

    fn node_step(&mut self, at: usize, now: u64) {
        let node = &mut self.nodes[at];
        if node.full_until.is_some_and(|until| until <= now) {
            node.platter.set_segments_left(None);
            node.full_until = None;
        }
        if node.running.is_none() {
            return;
        }
        let rests = self.world.borrow_mut().random.once_in(self.shape.disk_rests_once_in);
        if !rests {
            node.complete_some(now);
        }
        let id = node.id;
        self.see_landed(at);
        self.look_at_space(at);
        if now < self.nodes[at].paused_until {
            return;
        }
        if self.nodes[at].has_failed() && !self.ghost.poisoned.contains(&id) {
            self.ghost.see(&Event::Poisoned { node: id });
        }
        self.link(at);
        let submissions = self.propose(at);
        for (from, messages) in &self.nodes[at].inbox {
            for (group, message) in messages {
                let (from, group) = (*from, *group);
                self.ghost.see(&Event::Arrived { node: id, from, group, message });
            }
        }
        let has_stopped = self.nodes[at].turn(now, &self.shape, submissions);
        self.look(at);
        if has_stopped {
            if !self.nodes[at].has_failed() {
                let running = self.nodes[at].running.as_ref().expect("it took a turn");
                let error = running.node.failed().expect("nobody closes it");
                let what = format!("the log of {id:?} failed by itself: {error}");
                Broken { invariant: "19 poison".to_owned(), what }.throw();
            }
            logdrive_raft::reached!("log poisoned");
            self.kill(at, 20);
        }
        if let Some(End { down, power }) = self.nodes[at].machine_disks.ended() {
            self.stop(at, down, power);
        }
    }

    /// Whenever a node's log has given up a segment: what is durable without it.
    fn look_at_space(&mut self, at: usize) {
        let node = self.nodes[at].id;
        if !self.nodes[at].has_given_back() || self.impaired.contains(&node) {
            return;
        }
        match self.nodes[at].after_power_loss(&self.shape) {
            Ok(states) => {
                for (group, state) in &states {
                    let (group, state) = (*group, state.as_ref());
                    self.ghost.see(&Event::GivenBack { node, group, state });
                }
            }
            // Without power and without room for a segment no log starts, whatever was given up.
            Err(WalError::NoSpace) if self.nodes[at].full_until.is_some() => {}
            Err(error) => Broken {
                invariant: "22 GC safety".to_owned(),
                what: format!("{node:?} has given up a segment and could not start: {error}"),
            }
            .throw(),
        }
    }

    /// What has become durable on a node's disk.
    fn see_landed(&mut self, at: usize) {
        let node = self.nodes[at].id;
        for (group, change) in self.nodes[at].newly_durable() {
            self.ghost.see(&Event::Landed { node, group, change: &change });
        }
    }

    /// What a node has done in its turn.
    fn look(&mut self, at: usize) {
        let node = self.nodes[at].id;
        let running = self.nodes[at].running.as_ref();
        let fenced = running.map_or_else(Vec::new, |running| running.node.groups.fenced());
        for (group, _) in fenced {
            if self.ghost.fenced.contains(&(node, group)) {
                continue;
            }
            logdrive_raft::reached!("group fenced while its log runs");
            let harmed = self.nodes[at].harm().explains_fence(group);
            self.ghost.see(&Event::Fenced { node, group, harmed });
        }
        let seen = std::mem::take(&mut self.world.borrow_mut().seen);
        for seen in seen {
            match seen {
                Seen::Wrote { group, change } => {
                    self.ghost.see(&Event::Written { node, group, change: &change });
                }
                Seen::Sent { to, group, message } => {
                    self.ghost.see(&Event::Sent { node, to, group, message: &message });
                }
            }
        }
        let in_flight = self.nodes[at].platter.writes_in_flight();
        let in_flight_max = self.shape.in_flight_max;
        self.ghost.see(&Event::Loaded { node, in_flight, in_flight_max });
        let Some(Running { host, machines, .. }) = &self.nodes[at].running else { return };
        let clock = host.shard.now().0;
        for (group, (ledger, _)) in machines {
            for deed in ledger.take() {
                self.ghost.see(&deed.event(node, *group));
            }
            if ledger.has_failed() && !self.ghost.stopped.contains(&(node, *group)) {
                self.ghost.see(&Event::Stopped { node, group: *group });
            }
        }
        for group in machines.keys() {
            if self.ghost.fenced.contains(&(node, *group)) {
                continue;
            }
            // A turn whose log has failed takes no group in.
            let Some(status) = host.shard.status(*group) else { continue };
            let replica = self.ghost.replicas.get_mut(&(node, *group)).expect("recovered");
            replica.clock = clock;
            // A turn that gave nothing out keeps what it decided to itself.
            let same = replica.status == Some(status) && replica.replaced.is_none();
            if same || host.shard.is_dirty() {
                continue;
            }
            self.ghost.see(&Event::Turned { node, group: *group, status: &status, clock });
        }
        let answers = std::mem::take(&mut *self.answers.lock());
        for (token, outcome) in answers {
            self.answered(token, &outcome);
        }
    }

    fn answered(&mut self, serial: u64, outcome: &Outcome) {
        self.ghost.see(&Event::Answered { serial, outcome });
        let now = self.now();
        let call = &mut self.calls[usize::try_from(serial).expect("a position")];
        match outcome {
            Ok(applied) => call.reply = Some((now, applied.reply.clone())),
            Err(_) => {
                call.refused = known(outcome) == Known::No;
                call.unknown = !call.refused;
            }
        }
    }

    /// Proposals of this step: to whoever believes it leads, and sometimes to one who does not.
    fn propose(&mut self, at: usize) -> Vec<Submission> {
        let mut submissions = Vec::new();
        let node = &self.nodes[at];
        let Some(running) = node.running.as_ref().filter(|_| self.proposing) else {
            return submissions;
        };
        for group in &self.shape.groups {
            let leads = (running.host.shard.status(*group))
                .is_some_and(|status: Status| status.role == Role::Leader);
            let chance = match leads {
                true if self.world.borrow().now < self.eager_until => 1,
                true => self.shape.propose_once_in,
                false => 50 * self.shape.propose_once_in,
            };
            if !self.clients.once_in(chance) {
                continue;
            }
            // In peace disks are given no more than they can write.
            let several = self.healed_at.is_none() && self.clients.once_in(SEVERAL_ONCE_IN);
            let count = if several { self.clients.between(2, SEVERAL_MAX) } else { 1 };
            let (token, called) = (self.ghost.commands.len() as u64, self.world.borrow().now);
            let mut commands = Vec::new();
            for serial in token..token + count {
                let command =
                    (self.cluster.operations)(&mut self.clients, *group, &self.shape, &self.calls);
                let mut payload = BytesMut::with_capacity(SERIAL_BYTES + command.len());
                payload.extend_from_slice(&serial.to_le_bytes());
                payload.extend_from_slice(&command);
                let payload: Bytes = payload.freeze();
                let checksum = logdrive_wal::checksum(&payload);
                commands.push(Command { checksum, payload });
                let known = Known::Waiting;
                let (group, node, reply) = (*group, node.id, None);
                self.ghost.trace.propose(node, group, serial, &command);
                self.ghost.commands.push(Proposed { node, group, command: command.clone(), known });
                let (refused, unknown) = (false, false);
                self.calls.push(Call { group, command, called, reply, refused, unknown });
            }
            let commands = if several {
                logdrive_raft::reached!("several commands proposed at once");
                Commands::Many(commands)
            } else {
                Commands::One(commands.pop().expect("one"))
            };
            let sink = self.answers.clone();
            submissions.push(Submission { group: *group, sink, token, commands, at: 1 });
        }
        submissions
    }

    // --- looking ---

    fn alive(&self) -> BTreeMap<GroupId, Vec<(NodeId, Status)>> {
        let mut alive: BTreeMap<GroupId, Vec<(NodeId, Status)>> = BTreeMap::new();
        for group in &self.shape.groups {
            let replicas = alive.entry(*group).or_default();
            for node in self.nodes.iter().filter(|node| !node.lost) {
                let replica = (node.id, *group);
                if self.broken.contains(&replica) || self.ghost.fenced.contains(&replica) {
                    continue;
                }
                let running = node.running.as_ref().expect("healed");
                replicas.push((node.id, running.host.shard.status(*group).expect("it runs")));
            }
        }
        alive
    }

    /// True if all replicas that can have applied all there is.
    fn is_quiet(&self) -> bool {
        let has_all = |(_, s): &(NodeId, Status)| {
            s.applied == s.last_log.index
                && s.role != Role::Candidate
                && s.role != Role::PreCandidate
        };
        self.alive().values().all(|replicas| {
            let ends: BTreeSet<_> = replicas.iter().map(|(_, status)| status.applied).collect();
            ends.len() == 1 && replicas.iter().all(has_all)
        })
    }

    fn terms(&self) -> BTreeMap<GroupId, logdrive_raft::Term> {
        let highest = |replicas: &[(NodeId, Status)]| replicas.iter().map(|r| r.1.term).max();
        self.alive().iter().filter_map(|(group, r)| Some((*group, highest(r)?))).collect()
    }

    fn now(&self) -> u64 {
        self.world.borrow().now
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        self.ghost.trace.note(line);
    }
}

/// What clients were told and have not looked at.
#[derive(Default)]
struct Answers(Mutex<Vec<(u64, Outcome)>>);

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Outcome)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Completions for Answers {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        self.lock().append(outcomes);
    }
}
