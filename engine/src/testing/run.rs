//! A run: faults first, then peace; the judge watches both.
//!
//! In:     a [`Setup`], the shape and the schedule its seed drew.
//! Out:    what the judge has seen at the end, or an unwinding [`Broken`].
//! Cost:   some 10 to 40 ms.
//! Source: RULES.md T1.

use super::{
    determinism::{self, Commands as Applied},
    event::{Counts, Event},
    invariants::Broken,
    schedule::{Planned, draw_schedule},
    setup::Setup,
    sim::{Later, Sim},
    trace::Trace,
};
use std::collections::BTreeMap;

/// Steps with faults.
const STORM_STEPS: u64 = 600;
/// Steps in which everything must heal, besides some for election timeouts and for the writes that disks still have to
/// do ([`Sim::backlog_steps`]).
const PEACE_STEPS: u64 = 150;
/// Without proposals, some replica must catch up by an entry within so many steps, until all have caught up; and the
/// most steps in all: a burst may be left to write, and windows may be as small as one entry.
const CATCH_UP_STEPS: u64 = 200;
const CATCH_UP_STEPS_MAX: u64 = 30_000;
/// Steps in which nothing may change any more.
const SILENT_STEPS: u64 = 80;

pub(super) struct Run<'a> {
    sim: Sim<'a>,
    schedule: Vec<Planned>,
}

/// The remains of a run, however it ended.
#[derive(Default)]
pub(super) struct Finished {
    pub(super) counts: Counts,
    /// Excuses that were made, and how often.
    pub(super) excuses: BTreeMap<&'static str, u64>,
    pub(super) trace: Trace,
    /// The commands that machines have applied.
    pub(super) commands: Applied,
}

/// The schedule a setup's seed draws, without the faults it leaves out.
pub(super) fn schedule_of(setup: &Setup) -> Vec<Planned> {
    let shape = setup.shape();
    let mut schedule = draw_schedule(setup.seed, &shape, STORM_STEPS, setup.only.as_deref());
    if let Some(only) = &setup.only {
        schedule.retain(|planned| only.contains(&planned.number));
    }
    schedule
}

impl<'a> Run<'a> {
    pub(super) fn new(setup: &'a Setup) -> Self {
        Self { sim: Sim::new(setup), schedule: schedule_of(setup) }
    }

    /// Runs all phases.
    pub(super) fn all(mut self, finished: &mut Finished) {
        let shape = self.sim.shape.clone();
        self.sim.note(|| format!("{shape:?}"));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.phases()));
        // The record of the run until it broke is worth having.
        finished.counts = self.sim.judge.ghost.counts;
        finished.excuses = std::mem::take(&mut self.sim.excuses).made;
        finished.trace = std::mem::take(&mut self.sim.judge.trace);
        if let Err(broken) = result {
            finished.commands = determinism::commands(&self.sim.judge.ghost);
            for node in &mut self.sim.nodes {
                node.stop(true);
            }
            // The assertion of the engine may be about a group that is judged no more.
            if broken.is::<Broken>() || self.sim.judge.ghost.unjudged.is_empty() {
                std::panic::resume_unwind(broken);
            }
        }
    }

    fn phases(&mut self) {
        for _ in 0..STORM_STEPS {
            self.inject();
            self.sim.step();
        }
        self.sim.heal();
        let peace = PEACE_STEPS + 8 * self.sim.shape.election_ticks;
        let backlog = self.sim.backlog_steps();
        self.sim.note(|| format!("disks have {backlog} steps to write"));
        let (mut durable, mut since) = (0, 0);
        for n in 0..peace + backlog + CATCH_UP_STEPS_MAX {
            let all_durable =
                self.sim.alive().values().flatten().map(|(_, s)| s.durable.get()).sum();
            if all_durable > durable {
                (durable, since) = (all_durable, n);
            }
            if n >= peace && self.sim.served().values().all(|served| *served > 0) {
                break;
            }
            // A leader may have no room for new commands until a follower has the old ones, few at a time.
            if n >= peace + backlog && n - since > CATCH_UP_STEPS {
                break;
            }
            self.sim.step();
        }
        self.sim.proposing = false;
        let (mut progress, mut since) = (0, 0);
        for n in 0..CATCH_UP_STEPS_MAX {
            let now = self.sim.progress();
            if now != progress {
                (progress, since) = (now, n);
            }
            if self.sim.is_quiet() || n - since > CATCH_UP_STEPS {
                break;
            }
            self.sim.step();
        }
        let mut end = self.sim.at_end();
        // If a group may halt and serves nobody, its clients are told so in the end: the run does not end before.
        let most = SILENT_STEPS.max(self.sim.answer_steps());
        for n in 0..most {
            if n >= SILENT_STEPS && !self.sim.waits() {
                break;
            }
            self.sim.step();
        }
        end.alive = self.sim.alive();
        end.served = self.sim.served();
        end.apart = self.sim.apart_at_end();
        self.sim.judge.see(&Event::End { at: &end });
        (0..self.sim.nodes.len()).for_each(|at| self.sim.check_budgets(at));
        self.sim.excuse_halted_groups();
        self.sim.scan_durability();
        let unjudged = &self.sim.judge.ghost.unjudged;
        self.sim.calls.retain(|call| !unjudged.contains(&call.group));
        if let Err(what) = (self.sim.setup.check)(&self.sim.calls) {
            Broken { invariant: "17 linearizability".to_owned(), what }.throw();
        }
    }

    fn inject(&mut self) {
        let now = self.sim.now();
        for (_, later) in self.sim.later.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            match later {
                Later::Pause(at, steps) => self.sim.pause(at, steps),
                Later::Crash(at, down) => self.sim.crash(at, down),
                Later::PauseLeader(group, steps) => {
                    let newest = self.sim.newest_leader(group);
                    newest.into_iter().for_each(|at| self.sim.pause(at, steps));
                }
                Later::DeafenLeader(group, steps) => {
                    let newest = self.sim.newest_leader(group);
                    newest.into_iter().for_each(|at| self.sim.deafen(at, steps));
                }
                Later::StallDisk(at, steps) => self.sim.stall_disk(at, steps),
                Later::LandInPart(at, batches) => self.sim.land_in_part(at, batches),
                Later::Honest(at) => self.sim.be_honest(at),
                Later::Land(at) => self.sim.land_now(at),
                Later::FillDisk(at, steps) => self.sim.fill_disk(at, 0, steps),
                Later::Deafen(at, steps) => self.sim.deafen(at, steps),
                Later::LoseEnd(at, batches, down) => self.sim.lose_end(at, batches, down),
                Later::RestartGroup(at, group) => self.sim.restart_group(at, group),
                Later::Restore(at, copy, down) => self.sim.restore(at, &copy, down),
            }
        }
        while self.schedule.first().is_some_and(|planned| planned.step <= now) {
            let planned = self.schedule.remove(0);
            self.sim.judge.ghost.counts.faults += 1;
            self.sim.note(|| {
                format!("FAULT {}: {} {:?}", planned.number, planned.fault.name, planned.args)
            });
            (planned.fault.inject)(&mut self.sim, planned.args);
        }
    }
}
