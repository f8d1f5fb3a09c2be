//! The faults of a run and their steps, which a seed draws before anything happens.
//!
//! In:     a seed, and the shape it drew.
//! Out:    [`Planned`] faults by step, from a stream of their own: leaving some out changes none of the others.
//! Source: Groce et al. 2012 (swarm testing): a run that leaves kinds of faults out finds what a run with
//!         all of them hides.

use super::{
    faults::{self, Fault, When},
    random::Random,
    shape::Shape,
};

/// A fault at its time.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    /// Its number in the schedule: how a run is told to keep it.
    pub(super) number: usize,
    pub(super) step: u64,
    pub(super) fault: &'static Fault,
    pub(super) args: faults::Args,
}

/// The number of the first added fault: the others have lower ones.
const ADDED_FROM: usize = 1000;

/// All faults of a run, by step. If `only` some are kept, and a staged fault is not, it leaves no others out.
pub(super) fn draw_schedule(
    seed: u64,
    shape: &Shape,
    steps: u64,
    only: Option<&[usize]>,
) -> Vec<Planned> {
    let mut random = Random::stream(seed, 2);
    let stage = Stage::draw(&mut random, shape, steps);
    let mut planned = stage.planned.clone();
    let impairing = [random.pick(faults::IMPAIRING), random.pick(faults::IMPAIRING)];
    for fault in faults::ALL.iter().chain(impairing) {
        // Of each kind of fault, half of all runs have none, and a quarter may have twice as many as the rest.
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
    let is_kept = |number| only.is_none_or(|only| only.contains(&number));
    add(seed, shape, steps, &is_kept, &mut planned);
    planned
}

/// Adds the faults that have a stream of their own ([`faults::ADDED`]).
fn add(
    seed: u64,
    shape: &Shape,
    steps: u64,
    is_kept: &dyn Fn(usize) -> bool,
    planned: &mut Vec<Planned>,
) {
    let mut random = Random::stream(seed, 6);
    let (mut number, mut free_from) = (ADDED_FROM, 0);
    for added in faults::ADDED {
        let strikes = random.once_in(added.once_in) && (added.strikes)(shape);
        let fault = &added.fault;
        let times = random.between(1, fault.often);
        // Each fault has a random source of its own, so that the draws of one change nothing for the next.
        let mut random = Random::new(random.any());
        if !strikes {
            continue;
        }
        let times = if matches!(added.when, When::Anytime) { times } else { 1 };
        for _ in 0..times {
            let args = (fault.draw)(&mut random, shape);
            let step = match added.when {
                When::First => 0,
                When::Anytime => free_from + random.below(steps - free_from),
                When::Staged(_) if free_from > 0 => continue,
                When::Staged(lasts) => {
                    let before = 3 * shape.election_ticks;
                    free_from = (before + lasts(args, shape)).min(2 * steps / 3);
                    planned.retain(|planned| planned.step >= free_from || !is_kept(number));
                    before
                }
            };
            planned.push(Planned { number, step, fault, args });
            number += 1;
        }
    }
    planned.sort_by_key(|planned| planned.step);
}

/// The steps that one staged fault has to itself, because it needs several acts in a row: before it all other trouble
/// has passed and a leader was found. Most runs have none, because a fault that nothing disturbs finds less.
struct Stage {
    planned: Vec<Planned>,
    first: u64,
    steps: u64,
}

impl Stage {
    fn draw(random: &mut Random, shape: &Shape, steps: u64) -> Self {
        let staged = faults::staged(shape.nodes.len());
        // Half of the runs with five nodes, and a quarter of those with three or four.
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

    /// Any step that is not one of the staged fault's.
    fn draw_step(&self, random: &mut Random, steps: u64) -> u64 {
        let step = random.below(steps - self.steps);
        if step < self.first { step } else { step + self.steps }
    }
}
