//! The end of a run: how long peace may take, which replicas must serve by then, and what must be on the disks.
//!
//! In:     a simulation whose faults are over.
//! Out:    the replicas that must serve; when all is quiet; the last look at every disk.
//! Fails:  invariants 10 and 26.
//! Source: RULES.md T1.

use super::{
    event::{AtEnd, Known},
    excuses::NO_MAJORITY_WHOLE,
    invariants::Broken,
    node::SimNode,
    shape::Shape,
    sim::Sim,
};
use crate::{GroupId, NodeId, limits};
use logdrive_raft::{Role, Status};
use std::collections::{BTreeMap, BTreeSet};

/// About so many bytes of an entry on disk are not padding of its payload: headers, the serial, a register's
/// operation.
const ENTRY_BYTES_MORE: u64 = 128;

impl Sim<'_> {
    /// The most steps that the slowest disk writes until its node has every entry that any node has. A vote waits
    /// behind these writes, and a candidate whose own vote waits for longer than an election timeout has moved on
    /// before the vote is durable. In peace at most half of a disk's time goes to new commands, so it takes twice as
    /// long as the writes alone.
    pub(super) fn backlog_steps(&self) -> u64 {
        let missing_on = |node: &SimNode| {
            let missing = |group: &GroupId| {
                let logs = self.judge.ghost.replicas.iter().filter(|((_, of), _)| of == group);
                let longest = logs.map(|(_, replica)| replica.state.log.len()).max().unwrap_or(0);
                let own = self.judge.ghost.replicas.get(&(node.id, *group));
                longest.saturating_sub(own.map_or(0, |replica| replica.durable.log.len())) as u64
            };
            self.shape.groups.iter().map(missing).sum()
        };
        let missing = self.nodes.iter().filter(|node| !node.lost).map(missing_on).max();
        2 * self.write_steps(missing.unwrap_or(0))
    }

    /// The most steps that a disk takes in peace for so many entries: it finishes a write in every step, and making a
    /// segment takes one more.
    pub(super) fn write_steps(&self, entries: u64) -> u64 {
        let entry_bytes = self.shape.payload_max + ENTRY_BYTES_MORE;
        let per_batch = (u64::from(self.shape.batch_bytes_max) / entry_bytes).max(1);
        entries.div_ceil(per_batch) + (entries * entry_bytes).div_ceil(self.shape.segment_bytes)
    }

    /// The commands of each group acknowledged since the healing began, or applied although their client was told that
    /// the outcome is unknown: with small windows, and disks that lack many entries, eight election timeouts are
    /// short.
    pub(super) fn served(&self) -> BTreeMap<GroupId, u64> {
        let healed_at = self.healed_at.expect("it was healed");
        let mut served: BTreeMap<GroupId, u64> =
            self.alive().into_keys().map(|group| (group, 0)).collect();
        let ghost = &self.judge.ghost;
        let calls = self.calls.iter().zip(&ghost.commands).enumerate().skip(healed_at);
        for (place, (call, command)) in calls {
            let is_applied = || ghost.applied_serials.contains(&(place as u64));
            if let Some(served) = served.get_mut(&call.group) {
                let is_served = match command.known {
                    Known::Yes => true,
                    Known::Unknown => *served == 0 && is_applied(),
                    _ => false,
                };
                *served += u64::from(is_served);
            }
        }
        served
    }

    /// Replicas that must serve: their node is up, they have lost nothing, and they are not marked beside another one
    /// that does not serve. Only groups with a majority of such replicas are listed: the others must halt.
    pub(super) fn alive(&self) -> BTreeMap<GroupId, Vec<(NodeId, Status)>> {
        let mut alive = self.replicas();
        let ghost = &self.judge.ghost;
        alive.retain(|group, replicas| {
            replicas.len() >= ghost.majority() && !ghost.unjudged.contains(group)
        });
        alive
    }

    fn replicas(&self) -> BTreeMap<GroupId, Vec<(NodeId, Status)>> {
        let mut alive: BTreeMap<GroupId, Vec<(NodeId, Status)>> = BTreeMap::new();
        for group in &self.shape.groups {
            let replicas = alive.entry(*group).or_default();
            for node in self.nodes.iter().filter(|node| !node.lost) {
                let replica = (node.id, *group);
                let ghost = &self.judge.ghost;
                if self.broken.contains(&replica)
                    || ghost.fenced.contains(&replica)
                    || ghost.apart.contains_key(&replica)
                {
                    continue;
                }
                // A node that has just started gives its groups their machines one after the other.
                replicas.extend(node.status(*group).map(|status| (node.id, status)));
            }
            // A marked replica neither votes nor acknowledges until every other one has stated its term (C3).
            if replicas.len() < self.nodes.len() {
                let ghost = &self.judge.ghost;
                replicas.retain(|(node, _)| ghost.replica(*node, *group).mark.is_none());
            }
        }
        alive
    }

    /// After the last answer the power of all nodes fails at once: what was acknowledged is on a majority of disks.
    pub(super) fn scan_durability(&mut self) {
        for at in 0..self.nodes.len() {
            self.see_landed(at);
            self.crash(at, 0);
        }
        for at in 0..self.nodes.len() {
            self.start(at);
        }
        let ghost = &self.judge.ghost;
        let acknowledged = ghost.acknowledged.iter();
        for ((group, index), serial) in
            acknowledged.filter(|((group, _), _)| !ghost.unjudged.contains(group))
        {
            let has = |node: &&SimNode| {
                let replica = ghost.replicas.get(&(node.id, *group));
                let log = replica.map(|replica| &replica.durable.log);
                log.is_some_and(|log| log.len() as u64 >= index.get())
            };
            let harmed = self.losses.harmed_of(*group);
            let whole = self.nodes.iter().filter(|node| !harmed.contains(&node.id));
            let (all, having) = (whole.clone().count(), whole.filter(has).count());
            if all >= ghost.majority() && having + harmed.len() < ghost.majority() {
                let what = format!(
                    "command {serial}, acknowledged at {index:?} of {group:?}, is on {having} of {all} whole disks"
                );
                Broken { invariant: "10 client durability".to_owned(), what }.throw();
            }
        }
    }

    /// Excuses each group that had to halt, once, and checks that every replica that has lost nothing runs.
    pub(super) fn excuse_halted_groups(&mut self) {
        let unjudged = self.judge.ghost.unjudged.clone();
        for group in self.shape.groups.iter().filter(|group| !unjudged.contains(group)) {
            let ghost = &self.judge.ghost;
            let must_run = |node: &&SimNode| {
                let replica = (node.id, *group);
                let is_excused = self.broken.contains(&replica)
                    || ghost.fenced.contains(&replica)
                    || ghost.apart.contains_key(&replica);
                !node.lost && !is_excused && !node.has_refused.contains(group)
            };
            let missing = self.nodes.iter().filter(must_run);
            let missing = missing.map(|node| (node.id, node.status(*group)));
            if let Some((id, _)) = missing.into_iter().find(|(_, status)| status.is_none()) {
                let what = format!("{group:?} does not run on {id:?} in peace");
                Broken { invariant: "26 liveness".to_owned(), what }.throw();
            }
        }
        for (group, replicas) in self.replicas() {
            if unjudged.contains(&group) {
                continue;
            }
            if replicas.len() < self.judge.ghost.majority() && !self.excuses.make(NO_MAJORITY_WHOLE)
            {
                let what = format!("{group:?} has no majority of whole replicas: {replicas:?}");
                Broken { invariant: "26 liveness".to_owned(), what }.throw();
            }
        }
    }

    /// The entries that all replicas that must serve have made durable and have applied, counted together: while this
    /// number changes, the run goes on.
    pub(super) fn progress(&self) -> u64 {
        let alive = self.alive();
        let replicas = alive.values().flatten();
        replicas.map(|(_, status)| status.durable.get() + status.applied.get()).sum()
    }

    /// True if a client waits for its answer.
    pub(super) fn waits(&self) -> bool {
        self.judge.ghost.commands.iter().any(|command| command.known == Known::Waiting)
    }

    /// The steps within which a client is answered whose group serves nobody, by the slowest clock: the bound that
    /// every turn checks ("32 answers"), and one turn more.
    pub(super) fn answer_steps(&self) -> u64 {
        let Shape { election_ticks, heartbeat_ticks, clock_rates, .. } = &self.shape;
        let ticks = (limits::ANSWER_ELECTIONS + 1) * election_ticks + heartbeat_ticks + 1;
        let slowest = clock_rates.iter().min().expect("some nodes");
        (ticks * 1000).div_ceil(*slowest) + 1
    }

    /// True if all replicas that must serve have applied all entries, and none of them stands for election.
    pub(super) fn is_quiet(&self) -> bool {
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

    pub(super) fn terms(&self) -> BTreeMap<GroupId, logdrive_raft::Term> {
        let highest = |replicas: &[(NodeId, Status)]| replicas.iter().map(|r| r.1.term).max();
        self.alive().iter().filter_map(|(group, r)| Some((*group, highest(r)?))).collect()
    }

    /// The facts that the run knows when the last proposal has been made.
    pub(super) fn at_end(&self) -> AtEnd {
        let fenced_before = self.judge.ghost.fenced.clone();
        AtEnd { terms_before: self.terms(), fenced_before, ..AtEnd::default() }
    }
}
