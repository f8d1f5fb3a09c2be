//! A whole cluster in one thread: nodes, network, clients and their judge, step by step.
//!
//! In:     the acts of faults ([`super::faults`]); commands that clients draw.
//! Out:    every event to the [`Judge`].
//! Cost:   some 10 to 40 ms for a run's steps.
//! Source: RULES.md T1.

use super::{
    answers::Answers,
    connections::{Connections, Effect, Line},
    event::{Event, Known, LogState},
    excuses::{
        DAMAGED_LOG, Excuses, FAILED_WHILE_STARTING, MACHINE_OF_A_LOST_LOG, NO_ROOM_TO_START,
        SPACE_OF_HARMED, VOTE_OF_ONE_UNTOLD,
    },
    ghost::Ghost,
    harm::Losses,
    invariants::Broken,
    judge::Judge,
    machine::Deed,
    machine_disk::End,
    network::Network,
    node::{Process, Seen, SimNode, World},
    random::Random,
    setup::{Call, Setup},
    shape::{SEVERAL_MAX, Shape},
    trace::Trace,
};
use crate::{GroupId, NodeId, host::Turned, links::LaneChange, shard::Cost};
use logdrive_net::Lane;
use logdrive_raft::Message;
use logdrive_wal::{Identity, WalError, disk::sim::PlatterImage};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
    sync::Arc,
};

/// In runs without [`Connections`], a connection that is down comes back in one of so many steps.
const LINKS_ONCE_IN: u64 = 4;

/// A disk that works again completes all waiting writes within so many steps: it rests in some steps, and completes
/// only some of the writes in each of the others.
const SILENCE_ENDS_WITHIN: u64 = 40;

/// A log at its quota makes room for a waiting vote within so many steps, by carrying records forward.
const VOTES_WAIT_MAX: u64 = 250;

/// A cluster under simulation.
pub(super) struct Sim<'a> {
    pub(super) setup: &'a Setup,
    pub(super) shape: Shape,
    pub(super) nodes: Vec<SimNode>,
    pub(super) world: Rc<RefCell<World>>,
    pub(super) judge: Judge,
    pub(super) excuses: Excuses,
    /// All that faults took from disks for good.
    pub(super) losses: Losses,
    pub(super) clients: Random,
    pub(super) calls: Vec<Call>,
    pub(super) proposing: bool,
    /// Replicas whose machine the simulation broke, until their node starts again or they get another machine.
    pub(super) broken: BTreeSet<(NodeId, GroupId)>,
    pub(super) healed_at: Option<usize>,
    /// Until this step every leader is given a command in every step.
    pub(super) eager_until: u64,
    /// In these steps no replica is given a command.
    pub(super) quiet: Range<u64>,
    /// The acts of faults that are still to come, each with its step.
    pub(super) later: Vec<(u64, Later)>,
    pub(super) answers: Arc<Answers>,
    /// Answers of replicas that were founded otherwise than the others.
    pub(super) answers_apart: Arc<Answers>,
    /// By shard: the last step in which no vote waited at its quota, or in which its disk was stalled.
    votes_wait: BTreeMap<(NodeId, usize), u64>,
}

/// An act of a fault that comes later. A variant without a comment names a node and a number of steps.
pub(super) enum Later {
    Pause(usize, u64),
    Crash(usize, u64),
    /// The leader of this group pauses for so many steps.
    PauseLeader(usize, u64),
    /// The leader of this group hears nobody for so many steps.
    DeafenLeader(usize, u64),
    StallDisk(usize, u64),
    /// The node's power fails when so many of its writes have landed whole.
    LandInPart(usize, u64),
    /// The node's disk stops lying.
    Honest(usize),
    /// The writes that dead processes had under way reach the node's disk.
    Land(usize),
    /// The node's disk has no room for further segments for so many steps.
    FillDisk(usize, u64),
    /// The node hears nobody for so many steps.
    Deafen(usize, u64),
    /// The node's power fails, and its disk loses so many batches; the node is down for so many steps.
    LoseEnd(usize, u64, u64),
    /// The group's machine on the node, which has failed, is replaced by another one.
    RestartGroup(usize, GroupId),
    /// The node's directory is replaced by this copy; the node starts after so many steps.
    Restore(usize, Box<Directory>, u64),
}

/// A copy of a node's directory.
pub(super) struct Directory {
    pub(super) identity: Identity,
    /// The record of the peers that it keeps.
    pub(super) peers: Vec<u8>,
    pub(super) line: Line,
    pub(super) logs: Vec<PlatterImage>,
    /// The groups that were fenced on the node when the copy was made: the log may have written that down.
    pub(super) fenced: BTreeSet<GroupId>,
}

impl<'a> Sim<'a> {
    pub(super) fn new(setup: &'a Setup) -> Self {
        let shape = setup.shape();
        let mut random = Random::stream(setup.seed, 3);
        let shards = shape.nodes.iter().zip(&shape.shards);
        let nodes: Vec<SimNode> =
            shards.map(|(id, shards)| SimNode::new(*id, *shards, &mut random)).collect();
        let logs = nodes.iter().flat_map(|node| &node.logs);
        logs.for_each(|log| log.platter.set_page_cache(shape.page_cache));
        let connections =
            shape.connects.then(|| Connections::new(shape.net.clone(), shape.socket_bytes));
        let network = Network::new(shape.weather, shape.refuse_once_in, connections);
        let trace = Trace::new(setup.traced, setup.describe.clone());
        Self {
            setup,
            judge: Judge { ghost: Ghost::new(&shape, setup.describe.clone()), trace },
            excuses: Excuses::new(setup.strict.clone()),
            votes_wait: BTreeMap::new(),
            losses: Losses::default(),
            shape,
            nodes,
            world: Rc::new(RefCell::new(World {
                now: 0,
                random,
                network,
                seen: Vec::new(),
                openings: 0,
            })),
            clients: Random::stream(setup.seed, 4),
            calls: Vec::new(),
            proposing: true,
            broken: BTreeSet::new(),
            healed_at: None,
            eager_until: 0,
            quiet: 0..0,
            later: Vec::new(),
            answers: Arc::default(),
            answers_apart: Arc::default(),
        }
    }

    // --- starting and stopping ---

    pub(super) fn start(&mut self, at: usize) {
        let now = self.now();
        let node = &mut self.nodes[at];
        if node.process.is_some() || node.lost || now < node.starts_at {
            return;
        }
        let id = node.id;
        let harm = node.harm();
        let (refuses, unseen) = (harm.iter().any(|h| h.refuses), harm.iter().any(|h| h.unseen));
        match node.start(&self.world, &self.shape) {
            Ok(found) => {
                self.connect(at);
                self.check_start(at);
                for (group, state) in &found {
                    let group = *group;
                    self.broken.remove(&(id, group));
                    let Some(state) = state else {
                        logdrive_raft::reached!("group fenced");
                        let before = self.judge.ghost.fenced.contains(&(id, group));
                        let own = self.nodes[at].log_of(group);
                        let harmed = before
                            || self.nodes[at].may_be_fenced.contains(&group)
                            || harm[own].explains_fence(group);
                        self.judge.see(&Event::Fenced { node: id, group, harmed });
                        self.losses.replica(id, group);
                        continue;
                    };
                    let node = &self.nodes[at];
                    let has_lost = harm[node.log_of(group)].unseen || node.is_another;
                    self.judge.see(&Event::Recovered { node: id, group, state, has_lost });
                }
                // After an unseen loss the next start counts as one with a loss too: what it is compared with lacks
                // the end.
                let was_another = std::mem::replace(&mut self.nodes[at].is_another, unseen);
                if unseen || was_another && self.nodes[at].has_lost_end {
                    logdrive_raft::reached!("end of a log lost, and nothing tells of it");
                    self.note(|| format!("{id:?} cannot know what its disk has lost"));
                }
            }
            Err(WalError::NoSpace)
                if node.full_until.is_some() && self.excuses.make(NO_ROOM_TO_START) =>
            {
                node.end_disks(true);
                node.starts_at = now + 10;
            }
            Err(_) if node.has_failed() && self.excuses.make(FAILED_WHILE_STARTING) => {
                // After a failed sync a disk may show bytes that are not durable, and the next process believes them
                // (RULES.md W7): so the power fails. With a page cache it need not, as an open writes again what it
                // reads.
                node.end_disks(!self.losses.has(id) && !self.shape.page_cache);
                node.starts_at = now + 10;
            }
            Err(error)
                // A carried record may be lost at its new place, and gone from its old one.
                if (refuses || unseen || node.has_lost_end)
                    && says_what_is_wrong(&error)
                    && self.excuses.make(DAMAGED_LOG) =>
            {
                logdrive_raft::reached!("damaged log refused");
                node.end_disks(true);
                node.lost = true;
                self.lose_node(at);
                self.note(|| format!("{id:?} refuses to start: {error}"));
            }
            Err(error) => Broken {
                invariant: "14 prefix recovery".to_owned(),
                what: format!("{id:?} cannot start on its own log: {error}; done to it: {harm:?}"),
            }
            .throw(),
        }
    }

    /// Checks that the starts of a node take no space for good.
    fn check_start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let is_whole = !node.lied && !self.losses.has(node.id);
        for log in &mut node.logs {
            if let Err(what) = log.check_start(&self.shape, is_whole) {
                let what = format!("a log of {:?} {what}", node.id);
                Broken { invariant: "37 starts".to_owned(), what }.throw();
            }
        }
    }

    /// A process that has started dials and listens.
    fn connect(&mut self, at: usize) {
        let World { now, network, .. } = &mut *self.world.borrow_mut();
        let Some(connections) = &mut network.connections else { return };
        let process = self.nodes[at].process.as_ref().expect("it has started");
        let shards = 0..process.shards.len();
        let hellos: Vec<_> = shards.map(|shard| process.node.hello(shard)).collect();
        let (stores, line) = (&process.node.stores, &self.nodes[at].line);
        connections.begin(*now, &hellos, &self.shape.nodes, stores, line);
    }

    pub(super) fn must_not_start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.start(&self.world, &self.shape).is_ok() {
            node.stop(true);
            let id = node.id;
            self.judge.see(&Event::Impostor { node: id });
        } else {
            node.end_disks(true);
        }
    }

    pub(super) fn stop(&mut self, at: usize, down: u64, power: bool) {
        self.nodes[at].starts_at = self.now() + down;
        if self.nodes[at].stop(power) {
            let id = self.nodes[at].id;
            {
                let World { now, random, network, .. } = &mut *self.world.borrow_mut();
                if let Some(connections) = &mut network.connections {
                    connections.end(*now, random, id, power);
                }
                network.break_all(*now, random, id);
            }
            for other in 0..self.nodes.len() {
                self.tell(other, id);
            }
            self.judge.see(&Event::Down { node: id });
            for (call, command) in self.calls.iter_mut().zip(&self.judge.ghost.commands) {
                call.unknown = command.known == Known::Unknown;
            }
        }
    }

    /// In runs without [`Connections`]: tells the shards of a node that the connections of a peer broke.
    pub(super) fn tell(&mut self, at: usize, lost_peer: NodeId) {
        let Some(Process { node, shards, .. }) = &mut self.nodes[at].process else { return };
        for shard in shards {
            if shard.linked.remove(&lost_peer) {
                node.inbound_closed(lost_peer);
                for lane in Lane::ALL {
                    shard.arrivals.lane(LaneChange { peer: lost_peer, lane, up: false });
                }
            }
        }
    }

    /// In the same runs: connections that are down come back, sooner or later, if the peer's process is up.
    fn link(&mut self, at: usize) {
        if self.shape.connects {
            return;
        }
        let ups = self
            .nodes
            .iter()
            .filter(|node| node.process.is_some())
            .map(|node| (node.id, node.identity.incarnation));
        let peers: Vec<_> = ups.filter(|(id, _)| *id != self.nodes[at].id).collect();
        let Some(Process { node, shards, .. }) = &mut self.nodes[at].process else { return };
        for shard in shards {
            for (peer, incarnation) in &peers {
                let random = &mut self.world.borrow_mut().random;
                if !shard.linked.contains(peer) && random.once_in(LINKS_ONCE_IN) {
                    shard.linked.insert(*peer);
                    node.inbound_opened(*peer, *incarnation);
                    for lane in Lane::ALL {
                        shard.arrivals.lane(LaneChange { peer: *peer, lane, up: true });
                    }
                }
            }
        }
    }

    /// From now on network and disks work without faults, and every node that can start is up.
    pub(super) fn heal(&mut self) {
        self.note(|| "all faults end".to_owned());
        if self.shape.log_bytes_max.take().is_some() {
            // No group releases entries here: a node over its quota needs a process without a quota.
            (0..self.nodes.len()).for_each(|at| self.kill(at, 0));
        }
        let now = self.now();
        self.world.borrow_mut().network.heal(now);
        self.shape.disk_rests_once_in = 0;
        self.shape.reads_rest_once_in = 0;
        self.shape.reads_fail_once_in = 0;
        self.shape.turn_rests_once_in = 0;
        // New commands leave the disks half of their time for the entries that they still lack.
        let round = 2 * self.write_steps(self.shape.groups.len() as u64);
        self.shape.propose_once_in = self.shape.propose_once_in.clamp(4, 6).max(round);
        let without_machine = self.groups_to_restart();
        self.calm();
        for (at, group) in without_machine {
            self.restart_group(at, group);
        }
        self.healed_at = Some(self.calls.len());
    }

    // --- a step ---

    pub(super) fn step(&mut self) {
        let now = {
            let mut world = self.world.borrow_mut();
            world.now += 1;
            world.now
        };
        self.judge.trace.step = now;
        self.judge.ghost.counts.steps = now;
        self.carry_frames(now);
        for at in 0..self.nodes.len() {
            self.start(at);
            self.node_step(at, now);
        }
    }

    /// The network's part of a step: frames that arrive wait at the shards that read their connections.
    fn carry_frames(&mut self, now: u64) {
        let arrivals = self.world.borrow_mut().network.arrivals(now);
        for arrival in arrivals {
            let node = self.nodes.iter_mut().find(|node| node.id == arrival.to);
            let node = node.expect("frames go to nodes");
            if let Some(process) = &mut node.process {
                let shard = arrival.shard as usize % process.shards.len();
                process.shards[shard].unread.push_back((arrival.from, arrival.messages));
            }
        }
        let effects = {
            let World { random, network, .. } = &mut *self.world.borrow_mut();
            let nodes = &self.nodes;
            let reads = |id: NodeId, shard: usize| {
                let node = nodes.iter().find(|node| node.id == id && now >= node.paused_until);
                let process = node.and_then(|node| node.process.as_ref());
                let thread = process.and_then(|process| process.shards.get(shard));
                thread.is_some_and(|thread| now >= thread.stuck_until)
            };
            network.connect(now, random, &reads)
        };
        for effect in effects {
            self.feel(now, effect);
        }
    }

    fn feel(&mut self, now: u64, effect: Effect) {
        let to = match &effect {
            Effect::Lane { node, .. }
            | Effect::Refused { node, .. }
            | Effect::Opened { node, .. }
            | Effect::Closed { node, .. }
            | Effect::Arrived { node, .. } => *node,
        };
        let node = self.nodes.iter_mut().find(|node| node.id == to).expect("a node of ours");
        let Some(process) = &mut node.process else { return };
        match effect {
            Effect::Lane { shard, peer, lane, up, .. } => {
                let arrivals = &process.shards[shard as usize].arrivals;
                arrivals.lane(LaneChange { peer, lane, up });
            }
            Effect::Opened { from, incarnation, .. } => {
                process.node.inbound_opened(from, incarnation);
                let connections = &mut self.world.borrow_mut().network.connections;
                connections.as_mut().expect("they connect").dial_now(now, to, from);
            }
            Effect::Closed { from, .. } => process.node.inbound_closed(from),
            Effect::Refused { by, refusal, .. } => {
                logdrive_raft::reached!("directory refused");
                self.note(|| format!("{to:?} is refused by {by:?} and marked: {refusal}"));
                let at = self.nodes.iter().position(|node| node.id == to).expect("found above");
                self.stop(at, 0, false);
                self.nodes[at].lost = true;
            }
            Effect::Arrived { shard, from, messages, .. } => {
                process.shards[shard].unread.push_back((from, messages));
            }
        }
    }

    fn node_step(&mut self, at: usize, now: u64) {
        let node = &mut self.nodes[at];
        if node.full_until.is_some_and(|until| until <= now) {
            node.logs.iter().for_each(|log| log.platter.set_segments_left(None));
            node.full_until = None;
        }
        if node.process.is_none() {
            return;
        }
        let rests = self.world.borrow_mut().random.once_in(self.shape.disk_rests_once_in);
        if !rests {
            node.complete_some(now);
        }
        self.see_landed(at);
        self.look_at_space(at);
        if now < self.nodes[at].paused_until {
            return;
        }
        self.nodes[at].resume_groups(now, &self.shape, &*self.setup.machine);
        self.link(at);
        self.propose(at);
        let mut has_stopped = false;
        for shard in 0..self.nodes[at].logs.len() {
            let process = self.nodes[at].process.as_ref().expect("it runs");
            let rests = self.world.borrow_mut().random.once_in(self.shape.turn_rests_once_in);
            if rests || now < process.shards[shard].stuck_until {
                continue;
            }
            has_stopped |= self.turn(at, shard, now).has_stopped;
            if self.nodes[at].machine_disks.has_ended() {
                break;
            }
        }
        if let Some(End { down, power }) = self.nodes[at].machine_disks.ended() {
            return self.stop(at, down, power);
        }
        let is_given_up = self.nodes[at].watch(now, &self.shape);
        if is_given_up {
            logdrive_raft::reached!("process ended by its watchdog");
            self.judge_watchdog(at, now);
            return self.kill(at, 20);
        }
        if has_stopped {
            self.end_failed(at, now);
        }
    }

    /// Checks that a watchdog ends a process only for a silent disk or thread, and that the other shards then stop.
    fn judge_watchdog(&mut self, at: usize, now: u64) {
        let node = &self.nodes[at];
        if now > node.silent_until + SILENCE_ENDS_WITHIN {
            let (id, until) = (node.id, node.silent_until);
            let what = format!("{id:?} is ended at {now}, and nothing was silent since {until}");
            Broken { invariant: "30 watchdog".to_owned(), what }.throw();
        }
        for shard in 0..node.logs.len() {
            let process = self.nodes[at].process.as_ref().expect("it was ended");
            if now >= process.shards[shard].stuck_until {
                let turned = self.turn(at, shard, now);
                assert!(turned.has_stopped, "a shard of a node that is given up stops");
            }
        }
    }

    /// A node whose log has failed answers all clients that wait there, and ends.
    fn end_failed(&mut self, at: usize, now: u64) {
        let node = &self.nodes[at];
        let process = node.process.as_ref().expect("it took a turn");
        if !node.has_failed() {
            let error = process.node.failed().expect("nobody closes it");
            let what = format!("the log of {:?} failed by itself: {error}", node.id);
            Broken { invariant: "19 poison".to_owned(), what }.throw();
        }
        logdrive_raft::reached!("log poisoned");
        for shard in 0..node.logs.len() {
            // Shards that took their turn before the failure take one more.
            let turned = self.turn(at, shard, now);
            assert!(turned.has_stopped, "a shard of a failed node stops in its next turn");
        }
        self.check_budgets(at);
        self.see_landed(at);
        self.kill(at, 20);
    }

    /// Takes a shard's turn and shows the judge what it did; takes further turns while more frames wait than one takes.
    pub(super) fn turn(&mut self, at: usize, shard: usize, now: u64) -> Turned {
        loop {
            self.see_failures(at, shard);
            let (turned, goes_on) = self.nodes[at].turn(shard, now, &self.shape);
            {
                let World { random, network, .. } = &mut *self.world.borrow_mut();
                let thread = u32::try_from(shard).expect("a few shards");
                network.flush(now, random, self.nodes[at].id, thread);
            }
            self.look(at, shard, turned);
            if !goes_on || turned.has_stopped || self.nodes[at].machine_disks.has_ended() {
                return turned;
            }
        }
    }

    /// Tells the judge of a failed write: this log promises nothing more, nor does any shard once the node knows.
    fn see_failures(&mut self, at: usize, shard: usize) {
        let node = &self.nodes[at];
        let knows = node.process.as_ref().is_some_and(|process| process.node.has_failed());
        let poisoned = &self.judge.ghost.poisoned;
        if (knows || node.logs[shard].has_failed()) && !poisoned.contains(&(node.id, shard)) {
            self.judge.see(&Event::Poisoned { node: node.id, shard });
        }
    }

    /// Checks that every admitted command is answered: the node holds no budget any more, and no client waits at it.
    /// But a command whose outcome its client was told is unknown counts until it is settled, which may never happen
    /// in a group that is judged no more.
    pub(super) fn check_budgets(&self, at: usize) {
        let node = &self.nodes[at];
        let Some(process) = &node.process else { return };
        let mut unjudged = self.judge.ghost.unjudged.clone();
        unjudged.extend(self.shape.groups.iter().filter(|group| self.is_apart(node.id, **group)));
        let inboxes = process.node.inboxes.iter().zip(&process.shards);
        let held = inboxes.map(|(inbox, thread)| {
            let told = unjudged.iter().map(|group| thread.host.shard().told(*group));
            (inbox.waiting(), told.sum::<Cost>())
        });
        let held: Vec<(Cost, Cost)> = held.collect();
        if held.iter().any(|(held, told)| held != told) {
            let what = format!("{:?} holds these budgets, not those it may: {held:?}", node.id);
            Broken { invariant: "23 bounds".to_owned(), what }.throw();
        }
    }

    /// Checks that a log exceeds its quota by three segments at the most.
    fn check_quota(&mut self, at: usize, shard: usize) {
        let process = self.nodes[at].process.as_ref().expect("it took a turn");
        let Some(wal) = process.shards[shard].host.wal() else { return };
        let (usage, segment) = (wal.usage(), self.shape.segment_bytes);
        let Some(max) = usage.bytes_max.filter(|max| usage.bytes > max + 3 * segment) else {
            return;
        };
        let what = format!(
            "{:?} holds {} bytes of {max}, segments have {segment}",
            self.nodes[at].id, usage.bytes
        );
        Broken { invariant: "23 bounds".to_owned(), what }.throw();
    }

    /// Checks that a turn gave all machines of its shard together no more commands than it may: a few, and as many as it
    /// has taken in.
    fn check_handed(&self, node: NodeId, handed: usize, arrived: usize) {
        let limits = &self.shape.limits.of_shard;
        let several = usize::try_from(SEVERAL_MAX).expect("a few");
        let most = limits.turn_apply_max.entries + arrived + limits.turn_commands_max + several;
        if handed > most {
            let what =
                format!("{node:?} gave its machines {handed} commands in a turn, at most {most}");
            Broken { invariant: "23 bounds".to_owned(), what }.throw();
        }
    }

    /// If a log of the node has given up a segment, shows the judge what a power failure would leave without it.
    fn look_at_space(&mut self, at: usize) {
        let id = self.nodes[at].id;
        let config = self.nodes[at].config(&self.shape);
        for shard in 0..self.nodes[at].logs.len() {
            if !self.nodes[at].logs[shard].has_given_back() {
                continue;
            }
            if self.losses.has(id) && self.excuses.make(SPACE_OF_HARMED) {
                continue;
            }
            let node = &self.nodes[at];
            match node.logs[shard].after_power_loss(&node.identity, &self.shape, &config) {
                Ok(states) => {
                    let found: BTreeMap<_, _> = states.into_iter().collect();
                    let nothing = Some(LogState::default());
                    let own = |group: &&GroupId| node.log_of(**group) == shard;
                    let own: Vec<GroupId> = self.shape.groups.iter().filter(own).copied().collect();
                    for group in own {
                        if self.judge.ghost.fenced.contains(&(id, group)) {
                            continue;
                        }
                        // A group that is not found at all has an empty log.
                        let state = found.get(&group).unwrap_or(&nothing).as_ref();
                        self.judge.see(&Event::GivenBack { node: id, group, state });
                    }
                }
                // After a power failure no log starts without room for a segment, whatever was given up.
                Err(WalError::NoSpace)
                    if node.full_until.is_some() && self.excuses.make(NO_ROOM_TO_START) => {}
                Err(error) => Broken {
                    invariant: "22 GC safety".to_owned(),
                    what: format!("{id:?} has given up a segment and could not start: {error}"),
                }
                .throw(),
            }
        }
    }

    /// Tells the judge of all that has become durable on a node's disk.
    pub(super) fn see_landed(&mut self, at: usize) {
        let node = self.nodes[at].id;
        for shard in 0..self.nodes[at].logs.len() {
            for (group, change) in self.nodes[at].logs[shard].newly_durable() {
                self.judge.see(&Event::Landed { node, group, change: &change });
            }
        }
    }

    /// Shows the judge what a shard did in its turn.
    fn look(&mut self, at: usize, shard: usize, turned: Turned) {
        let node = self.nodes[at].id;
        let process = self.nodes[at].process.as_ref();
        let fenced = process.map_or_else(Vec::new, |process| process.node.groups.fenced());
        for (group, _) in fenced {
            if self.judge.ghost.fenced.contains(&(node, group)) {
                continue;
            }
            logdrive_raft::reached!("group fenced while its log runs");
            let node_at = &self.nodes[at];
            let harmed = node_at.harm()[node_at.log_of(group)].explains_fence(group);
            self.judge.see(&Event::Fenced { node, group, harmed });
            self.losses.replica(node, group);
        }
        let seen = std::mem::take(&mut self.world.borrow_mut().seen);
        let mut arrived = 0;
        for seen in seen {
            match &seen {
                Seen::Arrived { message: Message::AppendEntries(append), .. } => {
                    arrived += append.entries.len();
                }
                Seen::Dropped { entries } => arrived += entries,
                _ => {}
            }
            match seen {
                Seen::Dropped { .. } => {}
                // A group that has no machine yet hears nothing.
                Seen::Arrived { group, .. }
                    if self.is_apart(node, group) && self.nodes[at].status(group).is_none() => {}
                Seen::Arrived { from, group, message } => {
                    self.judge.see(&Event::Arrived { node, from, group, message: &message });
                }
                Seen::Wrote { group, change } => {
                    self.judge.see(&Event::Written { node, group, change: &change });
                }
                Seen::Withdrew { group, from, accepted, last } => {
                    let accepted = accepted.as_ref();
                    self.judge.see(&Event::Withdrawn { node, group, from, accepted, last });
                }
                Seen::Sent { to, group, message } => {
                    if self.judge.ghost.is_untold(node, group, &message)
                        && !self.judge.ghost.unjudged.contains(&group)
                        && self.excuses.make(VOTE_OF_ONE_UNTOLD)
                    {
                        self.note(|| format!("{node:?} votes in {group:?} before it was told"));
                        self.judge.ghost.unjudged.insert(group);
                    }
                    self.judge.see(&Event::Sent { node, to, group, message: &message });
                }
            }
        }
        self.check_quota(at, shard);
        self.check_held(at, shard);
        let now = self.world.borrow().now;
        let is_at_work = now >= self.nodes[at].stalled_until;
        let in_flight = self.nodes[at].logs[shard].platter.writes_in_flight();
        let in_flight_max = if self.shape.page_cache { 1 } else { self.shape.in_flight_max };
        self.judge.see(&Event::Loaded { node, in_flight, in_flight_max });
        if let Some(Process { shards, machines, .. }) = &self.nodes[at].process {
            let host = &shards[shard].host;
            let clock = host.shard().now().0;
            if host.holds_entries() {
                let what = format!("entries wait for room at {node:?}, and votes behind them");
                Broken { invariant: "33 votes".to_owned(), what }.throw();
            }
            let since = self.votes_wait.entry((node, shard)).or_insert(now);
            if !host.holds_votes() || !is_at_work {
                *since = now;
            } else if now - *since > VOTES_WAIT_MAX {
                let what = format!("a vote has waited for room at {node:?} since {since}");
                Broken { invariant: "33 votes".to_owned(), what }.throw();
            }
            if host.shard().has_overdue() {
                let what = format!("a client waits at {node:?} and is not told");
                Broken { invariant: "32 answers".to_owned(), what }.throw();
            }
            let mut handed = 0;
            for (group, (ledger, _)) in machines {
                for deed in ledger.take() {
                    handed += usize::from(matches!(deed, Deed::Applied(_)));
                    if let Deed::Opened { at, .. } = deed
                        && self.judge.ghost.is_at_replaced_entry(node, *group, at)
                        && self.excuses.make(MACHINE_OF_A_LOST_LOG)
                    {
                        self.judge.ghost.unjudged.insert(*group);
                    }
                    self.judge.see(&deed.event(node, *group));
                }
                if ledger.has_failed() && !self.judge.ghost.stopped.contains(&(node, *group)) {
                    self.judge.see(&Event::Stopped { node, group: *group });
                }
            }
            self.check_handed(node, handed, arrived);
            // A shard that has stopped does not do what its groups have decided.
            for group in machines.keys().filter(|_| !turned.has_stopped) {
                let ghost = &self.judge.ghost;
                let replica = (node, *group);
                if ghost.fenced.contains(&replica) || ghost.apart.contains_key(&replica) {
                    continue;
                }
                // The group is another shard's, or the log has failed, and such a turn takes in no group.
                let Some(status) = host.shard().status(*group) else { continue };
                let replica = self.judge.ghost.replicas.get_mut(&(node, *group));
                let replica = replica.expect("recovered");
                replica.clock = clock;
                replica.is_behind = host.shard().is_dirty();
                // If a turn gave nothing out, its decisions are not visible yet.
                let same = replica.status == Some(status) && replica.replaced.is_none();
                if same || host.shard().is_dirty() {
                    continue;
                }
                self.judge.see(&Event::Turned { node, group: *group, status: &status, clock });
            }
        }
        self.take_answers();
        self.take_answers_apart();
    }

    /// The node's disk stops lying.
    pub(super) fn be_honest(&mut self, at: usize) {
        self.nodes[at].logs.iter().for_each(|log| log.platter.set_lying(false));
    }

    /// The writes that dead processes had under way reach the disk.
    pub(super) fn land_now(&mut self, at: usize) {
        self.nodes[at].logs.iter().for_each(|log| log.platter.land_late());
    }

    pub(super) fn now(&self) -> u64 {
        self.world.borrow().now
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        self.judge.trace.note(line);
    }
}

/// True if a log refused to open because of what it found on its disk.
fn says_what_is_wrong(error: &WalError) -> bool {
    use WalError as E;
    matches!(
        error,
        E::Corrupt(_) | E::Foreign { .. } | E::Missing { .. } | E::Version { .. } | E::Io { .. }
    )
}
