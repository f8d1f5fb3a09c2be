//! The acts of faults upon a simulation.
//!
//! In:     a simulation, and the arguments that a fault was drawn with.
//! Out:    the simulation with its future changed; what faults do to disks is in `disks.rs`.
//! Source: RULES.md, the rows of faults.

use super::{
    connections::Line,
    excuses::UNMET_DIRECTORY,
    log::SimLog,
    machine_disk::{End, MachineDisks},
    node::{SimNode, World},
    shape::Weather,
    sim::{Directory, Later, Sim},
};
use crate::{GroupId, NodeId, shared::lock};
use logdrive_wal::Identity;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

/// Two nodes, by their places in `Sim::nodes`.
struct Pair {
    leader: usize,
    follower: usize,
}

/// After its last append a leader pauses for so many steps longer than the follower's disk is slow.
const LAST_WORD_STEPS: u64 = 20;

/// An election, the time in which its winner hears nobody, and another election take so many election timeouts.
const NEWS_TIMEOUTS: u64 = 8;

/// A node that is back takes a turn within so many steps, most of the time.
const NEWS_STEPS: u64 = 2;

/// A replica that has lost something is told, and readmitted, within so many election timeouts.
const TOLD_TIMEOUTS: u64 = 8;

/// A node that is back hears a leader within so many steps.
const TOLD_STEPS: u64 = 30;

/// A node whose power fails again and again lives for so many steps: no clock makes an election timeout of them.
const LIFE_STEPS: u64 = 4;

/// This number of segments left stands for a disk without room for even one block.
const FULL_TO_THE_LAST_BLOCK: u64 = 2;

impl Sim<'_> {
    /// The power of a node fails; it starts again after `down` steps.
    pub(super) fn crash(&mut self, at: usize, down: u64) {
        self.stop(at, down, true);
    }

    /// The process of a node ends; it starts again after `down` steps.
    pub(super) fn kill(&mut self, at: usize, down: u64) {
        self.stop(at, down, false);
    }

    /// A node is closed, cleanly unless its disk fails; it starts again after `down` steps.
    pub(super) fn close(&mut self, at: usize, down: u64) {
        let now = self.now();
        if let Some(process) = &self.nodes[at].process {
            process.node.inboxes.iter().for_each(|inbox| inbox.ask_to_stop());
            for shard in 0..self.nodes[at].logs.len() {
                let turned = self.turn(at, shard, now);
                assert!(turned.has_stopped, "a shard that is asked to stop does");
            }
            self.check_budgets(at);
            if !self.nodes[at].has_failed() {
                logdrive_raft::reached!("log closed");
            }
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

    /// All connections of a node break; both ends are told, and the connections come back.
    pub(super) fn break_connections(&mut self, at: usize) {
        let id = self.nodes[at].id;
        {
            let World { now, random, network, .. } = &mut *self.world.borrow_mut();
            network.break_all(*now, random, id);
        }
        for other in 0..self.nodes.len() {
            let other_id = self.nodes[other].id;
            if other != at {
                self.tell(other, id);
                self.tell(at, other_id);
            }
        }
    }

    /// Every node that leads a group pauses.
    pub(super) fn pause_leaders(&mut self, steps: u64) {
        for at in 0..self.nodes.len() {
            let id = self.nodes[at].id;
            let leads = |group: &GroupId| {
                self.judge.ghost.replicas.get(&(id, *group)).is_some_and(|r| r.leads().is_some())
            };
            if self.shape.groups.iter().any(leads) {
                self.pause(at, steps);
            }
        }
    }

    /// The node that came to lead a group last.
    pub(super) fn newest_leader(&self, group: usize) -> Option<usize> {
        let group = self.shape.groups[group];
        let led = self.judge.ghost.leaders.iter().rfind(|((of, _), _)| *of == group);
        let newest = led.map(|(_, leader)| *leader);
        self.nodes.iter().position(|node| Some(node.id) == newest)
    }

    /// A node hears nobody for so many steps.
    pub(super) fn deafen(&mut self, at: usize, steps: u64) {
        for other in 0..self.nodes.len() {
            self.cut(self.nodes[other].id, self.nodes[at].id, steps);
        }
    }

    /// Ends every trouble that would pass by itself: every node that can is up and heard, and its disk works.
    pub(super) fn calm(&mut self) {
        let now = self.now();
        self.world.borrow_mut().network.calm(now);
        self.later.clear();
        (self.eager_until, self.quiet) = (now, now..now);
        for node in &mut self.nodes {
            for log in &node.logs {
                log.platter.set_segments_left(None);
                log.platter.clear_failures();
                log.platter.set_lying(false);
            }
            if let Some(process) = &mut node.process {
                process.shards.iter_mut().for_each(|shard| shard.stuck_until = 0);
            }
            node.full_until = None;
            node.paused_until = 0;
            node.stalled_until = 0;
            node.clock_stands = 0..0;
            node.starts_at = 0;
            node.machine_disks.calm();
        }
    }

    /// Appends reach only one node, whose disk is stuck, while leaders of a group come and go: each leader pauses for
    /// so many steps.
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

    /// A group's leader sends its last entries to one follower only, whose disk is slow, and is then silent for a
    /// while. The leader hears only that follower, so it does not learn of a later term before the follower's answer.
    pub(super) fn last_word(&mut self, group: usize, to: u64, after: u64, stall: u64) {
        let Some(Pair { leader, follower }) = self.leader_and_follower(group, to) else { return };
        let (now, id) = (self.now(), self.nodes[follower].id);
        self.world.borrow_mut().network.appends_only_to(now, id, after);
        self.stall_disk(follower, after + stall);
        self.eager_until = now + after;
        let silence = stall + LAST_WORD_STEPS;
        // The follower hears no leader any more: its clock stops before the follower would ask for votes itself.
        let timeout =
            1000 * self.shape.election_ticks / self.nodes[follower].clock_rate(&self.shape);
        let deaf = now + after + self.shape.weather.delay_max + timeout;
        self.nodes[follower].clock_stands = deaf..now + after + silence;
        for other in (0..self.nodes.len()).filter(|other| *other != follower) {
            self.cut(self.nodes[other].id, self.nodes[leader].id, after + silence + 5);
        }
        self.in_a_while(after, Later::Pause(leader, silence));
    }

    /// The power of a group's leader, whose disk is slow, fails when its last entries are on one follower only; that
    /// follower is then silent for a while. If the leader leads again, acknowledgements of its earlier term arrive
    /// again.
    pub(super) fn forget(&mut self, group: usize, to: u64, after: u64) {
        let Some(Pair { leader, follower }) = self.leader_and_follower(group, to) else { return };
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

    /// The power of a group's leader, whose disk is slow, fails when one follower alone has its last entries. That
    /// follower is paused while the others elect two leaders in a row. Of the messages to it only the appends arrive,
    /// all in the turn in which it is back. Its power fails when `batches` writes of that turn have landed.
    pub(super) fn late_news(&mut self, group: usize, to: u64, after: u64, batches: u64) {
        let Some(Pair { leader, follower }) = self.leader_and_follower(group, to) else { return };
        let (now, id, timeout) = (self.now(), self.nodes[follower].id, self.shape.election_ticks);
        let back = after + NEWS_TIMEOUTS * timeout;
        {
            let network = &mut self.world.borrow_mut().network;
            network.appends_only_to(now, id, after);
            network.nothing_but_appends_to(id, now + after..now + back);
            // In fair weather no frame is doubled: each leader's first append arrives once.
            network.gust(now, Weather::FAIR, back);
        }
        self.stall_disk(leader, after);
        self.eager_until = now + after;
        // Without commands the first leader appends one entry, which the second leader's first append follows.
        self.quiet = now + after..now + back;
        self.in_a_while(after, Later::Crash(leader, 1));
        self.in_a_while(after, Later::Pause(follower, back - after));
        // A deaf leader steps down. A paused leader would lead on, as its clock leaves the pause out; if its process
        // ended, messages of it that were not read yet would be lost.
        self.in_a_while(after + 4 * timeout, Later::DeafenLeader(group, 3 * timeout / 2));
        self.in_a_while(back - 1, Later::StallDisk(follower, 1 + NEWS_STEPS));
        self.in_a_while(back + NEWS_STEPS, Later::LandInPart(follower, batches));
    }

    /// The power of a node fails when, on each of its disks, so many of the writes under way have landed whole, the
    /// oldest first, and nothing of the others has.
    pub(super) fn land_in_part(&mut self, at: usize, batches: u64) {
        for log in &self.nodes[at].logs {
            for _ in 0..batches {
                if log.platter.writes_in_flight() > 0 {
                    log.platter.complete_nth(0);
                }
            }
            log.platter.crash_choosing(|_| false);
        }
        self.see_landed(at);
        self.crash(at, 1);
    }

    /// After a while a follower's power fails, its disk loses its last batches, and the follower is back at once;
    /// clients propose nothing from then on. Way 1: one of the others is paused and cannot state its term, and once
    /// the follower was told of its loss it hears nobody. Way 2: appends reach the follower alone, and clients propose
    /// a while longer.
    pub(super) fn lose_and_tell(
        &mut self,
        group: usize,
        to: u64,
        after: u64,
        batches: u64,
        way: u64,
    ) {
        let Some(Pair { leader, follower }) = self.leader_and_follower(group, to) else { return };
        let (now, timeout, id) = (self.now(), self.shape.election_ticks, self.nodes[follower].id);
        let end = after + TOLD_TIMEOUTS * timeout;
        self.world.borrow_mut().network.gust(now, Weather::FAIR, end);
        // The number is made odd: after an even number of batches `lose_end` makes a leader pause.
        self.in_a_while(after, Later::LoseEnd(follower, batches | 1, 1));
        let mut last = after;
        if way == 2 {
            self.world.borrow_mut().network.appends_only_to(now, id, end);
            last += TOLD_STEPS;
        }
        (self.eager_until, self.quiet) = (now + last, now + last..now + end);
        let other = (0..self.nodes.len()).find(|at| ![leader, follower].contains(at));
        if let Some(other) = other.filter(|_| way == 1) {
            self.in_a_while(after, Later::Pause(other, 5 * timeout));
            self.in_a_while(after + TOLD_STEPS, Later::Deafen(follower, 3 * timeout));
        }
    }

    /// Leaders get a command in every step for `eager` steps. Then the power of a node fails so many times, each time
    /// before the node would stand for election; the node hears nobody meanwhile.
    pub(super) fn crash_again(&mut self, at: usize, eager: u64, times: u64) {
        self.eager_until = self.now() + eager;
        self.in_a_while(eager, Later::Deafen(at, times * LIFE_STEPS));
        for n in 0..times {
            self.in_a_while(eager + n * LIFE_STEPS, Later::Crash(at, 1));
        }
    }

    /// Something happens after so many steps, unless all faults have ended by then.
    pub(super) fn in_a_while(&mut self, after: u64, what: Later) {
        self.later.push((self.now() + after, what));
    }

    /// The node that leads a group, as far as is known, and one of the others.
    fn leader_and_follower(&self, group: usize, other: u64) -> Option<Pair> {
        let group = self.shape.groups[group];
        let leads = |node: &SimNode| {
            let replica = self.judge.ghost.replicas.get(&(node.id, group));
            node.process.is_some() && replica.is_some_and(|replica| replica.leads().is_some())
        };
        let leader = self.nodes.iter().position(leads)?;
        let others = self.nodes.len() as u64 - 1;
        let other = (others > 0).then(|| 1 + other % others)?;
        let follower = (leader + usize::try_from(other).ok()?) % self.nodes.len();
        Some(Pair { leader, follower })
    }

    pub(super) fn stall_disk(&mut self, at: usize, steps: u64) {
        let until = self.now() + steps;
        self.nodes[at].stalled_until = until;
        self.nodes[at].silent_until = self.nodes[at].silent_until.max(until);
    }

    pub(super) fn fill_disk(&mut self, at: usize, segments_left: u64, steps: u64) {
        for log in &self.nodes[at].logs {
            match segments_left {
                FULL_TO_THE_LAST_BLOCK => log.platter.set_files_left(Some(0)),
                left => log.platter.set_segments_left(Some(u32::try_from(left).expect("a few"))),
            }
        }
        self.nodes[at].full_until = Some(self.now() + steps);
    }

    /// Destroys the content of a node's disk, or parts of it. The node must not start again.
    pub(super) fn wipe(&mut self, at: usize, kind: u64) {
        if !self.may_lose_node(at) || !self.nodes[at].was_started {
            return;
        }
        self.crash(at, 5);
        for log in &self.nodes[at].logs {
            if kind != 1 {
                log.platter.set_manifest(None);
            }
            if kind != 2 {
                for segment in log.platter.segments() {
                    log.platter.set_segment(segment, None);
                }
            }
        }
        self.must_not_start(at);
        self.nodes[at].lost = true;
        self.lose_node(at);
    }

    /// A node loses its directory, and starts after `down` steps on one that was made anew under its id.
    pub(super) fn make_anew(&mut self, at: usize, down: u64) {
        if !self.may_lose_node(at) || !self.nodes[at].was_started {
            return;
        }
        if !self.is_known_apart(at, &Line::default()) {
            return;
        }
        self.crash(at, down);
        let store = u128::from(self.world.borrow_mut().random.any());
        let identity = Identity { store, incarnation: 0, ..self.nodes[at].identity.clone() };
        let logs = self.nodes[at].logs.iter().zip(0..);
        logs.for_each(|(log, shard)| log.platter.wipe(&identity, shard));
        let nothing = Directory {
            identity,
            peers: Vec::new(),
            line: Line::default(),
            logs: Vec::new(),
            fenced: BTreeSet::new(),
        };
        self.take_directory(at, &nothing);
    }

    /// True if every peer has met the node's present directory, and so would refuse one of this line.
    fn is_known_apart(&mut self, at: usize, line: &Line) -> bool {
        let id = self.nodes[at].id;
        let others = self.nodes.iter().filter(|node| node.id != id && !node.lost);
        let others: Vec<NodeId> = others.map(|node| node.id).collect();
        let network = &self.world.borrow().network;
        let Some(connections) = &network.connections else { return false };
        !others.is_empty()
            && (connections.would_refuse(&others, id, line) || !self.excuses.make(UNMET_DIRECTORY))
    }

    /// A node's directory is copied now, and the copy is put back after a while; it starts `down` steps later.
    pub(super) fn restore_later(&mut self, at: usize, after: u64, down: u64) {
        if !self.may_lose_node(at) || !self.nodes[at].was_started {
            return;
        }
        let node = &self.nodes[at];
        let logs = node.logs.iter().map(|log| log.platter.image()).collect();
        let (identity, line) = (node.identity.clone(), node.line.clone());
        let peers = lock(&node.peers).clone();
        let fenced = self.judge.ghost.fenced.iter().filter(|(of, _)| *of == node.id);
        let fenced = fenced.map(|(_, group)| *group).collect();
        let copy = Box::new(Directory { identity, peers, line, logs, fenced });
        self.lose_node(at);
        self.in_a_while(after, Later::Restore(at, copy, down));
    }

    pub(super) fn restore(&mut self, at: usize, copy: &Directory, down: u64) {
        if !self.is_known_apart(at, &copy.line) {
            return;
        }
        self.crash(at, down);
        let logs = self.nodes[at].logs.iter().zip(&copy.logs);
        logs.for_each(|(log, image)| log.platter.restore(image));
        self.take_directory(at, copy);
    }

    /// A node has another directory: all that was known of the old one is forgotten.
    fn take_directory(&mut self, at: usize, directory: &Directory) {
        let seed = self.world.borrow_mut().random.any();
        let node = &mut self.nodes[at];
        node.machine_disks = MachineDisks::new(seed, node.id);
        (node.identity, node.is_another) = (directory.identity.clone(), true);
        (node.peers, node.line) =
            (Arc::new(Mutex::new(directory.peers.clone())), directory.line.clone());
        let id = node.id;
        if let Some(connections) = &mut self.world.borrow_mut().network.connections {
            connections.forget(id);
        }
        self.judge.ghost.fenced.retain(|(fenced, _)| *fenced != id);
        let node = &mut self.nodes[at];
        node.logs.iter_mut().for_each(SimLog::forget);
        node.fenced_in_copy.clone_from(&directory.fenced);
        self.lose_node(at);
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
            let shards = self.nodes[a].logs.len().min(self.nodes[b].logs.len());
            for shard in 0..shards {
                let other = self.nodes[a].logs[shard].platter.clone();
                let own = std::mem::replace(&mut self.nodes[b].logs[shard].platter, other);
                self.nodes[a].logs[shard].platter = own;
            }
            if attempt {
                self.must_not_start(a);
                self.must_not_start(b);
            }
        }
    }

    /// One shard's thread takes no turns for so many steps; the others do.
    pub(super) fn stick_thread(&mut self, at: usize, shard: usize, steps: u64) {
        let until = self.now() + steps;
        if let Some(process) = &mut self.nodes[at].process {
            let shard = shard % process.shards.len();
            process.shards[shard].stuck_until = until;
            self.nodes[at].silent_until = self.nodes[at].silent_until.max(until);
        }
    }

    /// The next batch of a group's machine on a node fails, in some way ([`super::machine::Broken`]). False if the
    /// machine must not fail.
    pub(super) fn break_machine(&mut self, at: usize, group: GroupId, way: u64) -> bool {
        let id = self.nodes[at].id;
        if self.is_apart(id, group) {
            return false;
        }
        if !self.may_lose_replica(at, group) || self.broken.contains(&(id, group)) {
            return false;
        }
        let process = self.nodes[at].process.as_ref();
        let Some((_, broken)) = process.and_then(|process| process.machines.get(&group)) else {
            return false;
        };
        broken.set(way);
        self.broken.insert((id, group))
    }

    /// The process of a node ends within an operation of a machine, after so many other operations; it starts again
    /// after `down` steps.
    pub(super) fn end_within_machine(&self, at: usize, down: u64, after: u64, power: bool) {
        self.nodes[at].machine_disks.end_within(End { down, power }, after);
    }
}
