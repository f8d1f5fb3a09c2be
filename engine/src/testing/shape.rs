//! What a seed draws before anything happens: sizes, weather, and the faults to come.
//!
//! In:     a seed.
//! Out:    a [`Shape`] and a [`Schedule`]. Each comes from a stream of its own, so that a schedule with
//!         faults left out is the same otherwise.
//! Source: Groce et al. 2012 (swarm testing): a run that leaves kinds of faults out finds what a run with
//!         all of them hides; small sizes find more than large ones.

use super::{
    faults::{self, Fault},
    network::Weather,
    random::Random,
};
use crate::{Config, GroupId, NodeId, limits};
use logdrive_wal::QUOTA_SEGMENTS_MIN;
use std::{path::Path, time::Duration};

/// Sizes and habits of a run.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) nodes: Vec<NodeId>,
    pub(super) groups: Vec<GroupId>,
    pub(super) election_ticks: u64,
    pub(super) heartbeat_ticks: u64,
    pub(super) segment_bytes: u64,
    pub(super) batch_bytes_max: u32,
    pub(super) in_flight_max: usize,
    pub(super) weather: Weather,
    pub(super) propose_once_in: u64,
    pub(super) payload_max: u64,
    pub(super) keys: u64,
    /// A disk rests in one of so many steps; 0 is never.
    pub(super) disk_rests_once_in: u64,
    /// A frame finds no room in its queue once in so many; 0 is never.
    pub(super) refuse_once_in: u64,
    /// Old entries are read by a thread of its own: so many reads wait for it at most.
    pub(super) reads_max: usize,
    /// It does nothing in one of so many steps; 0 is never.
    pub(super) reads_rest_once_in: u64,
    /// A read fails once in so many; 0 is never.
    pub(super) reads_fail_once_in: u64,
    /// Who campaigns at once when the groups are founded.
    pub(super) first_leader: Option<NodeId>,
    /// What the nodes' logs may take while there are faults.
    pub(super) log_bytes_max: Option<u64>,
    /// Per node: its clock's ticks in a thousand steps.
    pub(super) clock_rates: Vec<u64>,
    pub(super) limits: limits::OfGroup,
}

impl Shape {
    pub(super) fn draw(seed: u64, nodes: Option<u64>, groups: Option<u64>) -> Self {
        let mut random = Random::stream(seed, 1);
        let drawn = *random.pick(&[3, 3, 3, 3, 3, 5, 5, 4, 2, 1]);
        let nodes = nodes.unwrap_or(drawn);
        let drawn = random.between(1, 4);
        let groups = groups.unwrap_or(drawn);
        let rates = [1000, 1000, 950, 1050, 800, 1200];
        let mut shape = Self {
            nodes: (1..=nodes).map(NodeId).collect(),
            groups: (0..groups).map(|group| GroupId(7 + group)).collect(),
            election_ticks: *random.pick(&[12, 20, 20, 40]),
            heartbeat_ticks: *random.pick(&[2, 2, 4]),
            segment_bytes: *random.pick(&[64 << 10, 64 << 10, 128 << 10, 256 << 10]),
            batch_bytes_max: *random.pick(&[4 << 10, 8 << 10, 64 << 10, 1 << 20]),
            in_flight_max: *random.pick(&[1, 2, 4, 8]),
            weather: Weather {
                lose_once_in: *random.pick(&[0, 0, 50, 20, 8]),
                twice_once_in: *random.pick(&[0, 30, 10]),
                delay_max: *random.pick(&[1, 3, 8, 15]),
            },
            propose_once_in: *random.pick(&[1, 2, 6, 20]),
            payload_max: *random.pick(&[1, 100, 600, 600, 5000, 20_000]),
            keys: random.between(1, 5),
            disk_rests_once_in: *random.pick(&[0, 2, 3, 4]),
            refuse_once_in: 0,
            reads_max: 1,
            reads_rest_once_in: 0,
            reads_fail_once_in: 0,
            first_leader: None,
            log_bytes_max: None,
            clock_rates: (0..nodes).map(|_| *random.pick(&rates)).collect(),
            limits: limits::OfGroup::REAL,
        };
        let segments = random.between(QUOTA_SEGMENTS_MIN, 2 * QUOTA_SEGMENTS_MIN);
        shape.log_bytes_max = random.once_in(6).then_some(segments * shape.segment_bytes);
        let real = limits::OfGroup::REAL;
        shape.limits = limits::OfGroup {
            inflight_messages_max: *random.pick(&[real.inflight_messages_max, 16, 4, 1]),
            inflight_bytes_max: *random.pick(&[real.inflight_bytes_max, 64 << 10, 4 << 10]),
            uncommitted_bytes_max: *random.pick(&[real.uncommitted_bytes_max, 256 << 10, 64 << 10]),
        };
        shape.refuse_once_in = *random.pick(&[0, 0, 50, 10]);
        shape.reads_max = *random.pick(&[1, 2, 64]);
        shape.reads_rest_once_in = *random.pick(&[0, 2, 3]);
        shape.reads_fail_once_in = *random.pick(&[0, 0, 20, 5]);
        shape.first_leader = (!random.once_in(3)).then(|| *random.pick(&shape.nodes));
        shape
    }

    /// The settings of every node.
    pub(super) fn config(&self) -> Config {
        let peers = self.nodes.iter().map(|node| (*node, String::new())).collect();
        let mut config = Config::new(Path::new("sim"), peers);
        config.tick = Duration::from_millis(1);
        config.election_timeout = Duration::from_millis(self.election_ticks);
        config.heartbeat = Duration::from_millis(self.heartbeat_ticks);
        config.proposals_max = 1 << 10;
        config
    }

    /// A node, by chance.
    pub(super) fn any_node(&self, random: &mut Random) -> u64 {
        random.below(self.nodes.len() as u64)
    }
}

/// A fault at its time.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    /// Its number in the schedule: how a run is told to keep it.
    pub(super) number: usize,
    pub(super) step: u64,
    pub(super) fault: &'static Fault,
    pub(super) args: faults::Args,
}

/// All faults of a run, by time.
pub(super) fn draw_schedule(seed: u64, shape: &Shape, steps: u64) -> Vec<Planned> {
    let mut random = Random::stream(seed, 2);
    let stage = Stage::draw(&mut random, shape, steps);
    let mut planned = stage.planned.clone();
    let impairing = [random.pick(faults::IMPAIRING), random.pick(faults::IMPAIRING)];
    for fault in faults::ALL.iter().chain(impairing) {
        // A half of all runs has no fault of a kind, a quarter more of them than the rest.
        let times = match random.below(4) {
            0 | 1 => 0,
            2 => random.between(1, 1 + fault.often / 2),
            _ => random.between(1, 1 + fault.often),
        };
        for _ in 0..times {
            let step = stage.draw_step(&mut random, steps);
            let args = (fault.draw)(&mut random, shape);
            planned.push(Planned { number: 0, step, fault, args });
        }
    }
    planned.sort_by_key(|planned| planned.step);
    for (number, planned) in planned.iter_mut().enumerate() {
        planned.number = number;
    }
    planned
}

/// Steps in which one fault, that takes several things in a row, is let alone: all else has passed before it, and a
/// leader was found. Most runs have none: what is never disturbed finds less.
struct Stage {
    planned: Vec<Planned>,
    first: u64,
    steps: u64,
}

impl Stage {
    fn draw(random: &mut Random, shape: &Shape, steps: u64) -> Self {
        let staged = faults::staged(shape.nodes.len());
        // Of all runs a quarter.
        if staged.is_empty() || !random.once_in(if shape.nodes.len() == 5 { 2 } else { 4 }) {
            return Self { planned: Vec::new(), first: 0, steps: 0 };
        }
        let staged = random.pick(staged);
        let args = (staged.fault.draw)(random, shape);
        let before = 3 * shape.election_ticks;
        let whole = (before + (staged.steps)(args, shape)).min(2 * steps / 3);
        let first = random.below(steps - whole);
        let planned = vec![
            Planned { number: 0, step: first, fault: &faults::CALM, args: [0; 3] },
            Planned { number: 0, step: first + before, fault: &staged.fault, args },
        ];
        Self { planned, first, steps: whole }
    }

    /// Any step that is not among these.
    fn draw_step(&self, random: &mut Random, steps: u64) -> u64 {
        let step = random.below(steps - self.steps);
        if step < self.first { step } else { step + self.steps }
    }
}
