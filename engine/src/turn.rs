//! One turn of a shard with its log and its machines: shared by the driver and the simulator.
//!
//! In:     whatever the shard was told since the last turn; finished writes; old entries read back.
//! Out:    log batches, frames (through [`Outside`]), machines run, answers.
//! Cost:   one log batch and one frame per peer and lane for all groups.
//! Fails:  the log's first error, after which the turn must not be taken again.

use crate::{
    GroupId, MachineError, NodeId, Replies, StateMachine, apply, limits,
    shard::{Answer, FetchJob, Founded, Round, Shard, Stamps, WriteJob},
};
use logdrive_raft::{ConfigError, EntryBatch, FetchFor, Message};
use logdrive_wal::{Append, Completed, ReadError, ReadPlan, Wal, WalError};
use std::collections::VecDeque;

/// However busy the disk, owed work leaves after this long.
const GIVE_OUT_NS_MAX: u64 = 20_000_000;

/// What a turn needs of the world.
pub(crate) trait Outside {
    /// Sends a frame's worth of messages; false if they were dropped. `lane` is 0 for liveness, 1
    /// for appends.
    fn send(&self, peer: NodeId, lane: usize, messages: &mut Vec<(GroupId, Message)>) -> bool;
    /// Reads old entries; gives the task back if there is no room now.
    fn read(&self, task: ReadTask) -> Result<(), ReadTask>;
    /// The clock, ns.
    fn now(&self) -> u64;
}

/// Old entries to be read, away from the shard's thread.
pub(crate) struct ReadTask {
    pub(crate) group: GroupId,
    pub(crate) purpose: FetchFor,
    pub(crate) plan: ReadPlan,
}

/// Old entries that were read.
pub(crate) struct ReadDone {
    pub(crate) group: GroupId,
    pub(crate) purpose: FetchFor,
    pub(crate) read: Result<EntryBatch, ReadError>,
}

impl ReadTask {
    /// Reads; may block on the disk.
    pub(crate) fn run(self) -> ReadDone {
        ReadDone { group: self.group, purpose: self.purpose, read: self.plan.run() }
    }
}

/// A shard, its log and its machines.
pub(crate) struct Turn {
    pub(crate) shard: Shard,
    /// `None` once closed.
    pub(crate) wal: Option<Wal>,
    pub(crate) answers: Vec<Answer>,
    /// By slot.
    machines: Vec<Box<dyn StateMachine>>,
    round: Round,
    completed: Vec<Completed>,
    replies: Replies,
    /// Fetches there was no room for yet, in their order.
    reads: VecDeque<FetchJob>,
    given_out_at: u64,
    /// Writes the log has no room for now; nothing is promised on them before they are durable.
    held: VecDeque<WriteJob>,
}

impl Turn {
    pub(crate) fn new(shard: Shard, wal: Wal) -> Self {
        Self {
            round: shard.round(),
            shard: shard.with_entry_bytes_max(wal.entry_bytes_max()),
            wal: Some(wal),
            answers: Vec::new(),
            machines: Vec::new(),
            completed: Vec::new(),
            replies: Replies::default(),
            reads: VecDeque::new(),
            given_out_at: 0,
            held: VecDeque::new(),
        }
    }

    /// Runs a group from now on.
    ///
    /// # Errors
    /// [`ConfigError`] if what was found of it cannot be.
    pub(crate) fn add(
        &mut self,
        founded: Founded,
        machine: Box<dyn StateMachine>,
    ) -> Result<(), ConfigError> {
        let slot = self.shard.add(founded)?;
        assert!(
            slot as usize == self.machines.len(),
            "slot {slot} after {} machines",
            self.machines.len()
        );
        self.machines.push(machine);
        Ok(())
    }

    /// Takes in the writes that have finished.
    pub(crate) fn take_completions(&mut self, now: u64) -> Result<(), WalError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        wal.poll(now, &mut self.completed)?;
        for completed in self.completed.drain(..) {
            let stamps = Stamps { submitted: completed.stamp, durable: now };
            for durable in completed.durable {
                self.shard.durable(durable, stamps);
            }
            for run in completed.frozen {
                self.shard.rehome(run.group, run.first, &mut run.payloads());
            }
            if completed.sealed {
                self.shard.own_tails();
            }
        }
        self.shard.set_log_room(wal.room());
        Ok(())
    }

    /// Gives out everything owed.
    pub(crate) fn give_out(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        if !self.is_due(outside.now()) {
            return Ok(());
        }
        self.retry_held()?;
        for _ in 0..limits::GATHERINGS_MAX {
            let now = outside.now();
            self.shard.gather(now, &mut self.round);
            // Before anything can fail: who is answered here is known to nobody else any more.
            self.answers.append(&mut self.round.answers);
            let Some(wal) = &mut self.wal else { return Ok(()) };
            for job in self.round.writes.drain(..) {
                // A group's writes keep their order: behind one that is held, all its later ones are.
                let behind = self.held.iter().any(|held| held.group == job.group);
                if behind || !append(wal, &job)? {
                    self.held.push_back(job);
                }
            }
            self.send_and_write(outside)?;
            self.reads.extend(self.round.fetches.drain(..));
            self.start_reads(outside);
            self.apply(outside);
            if !self.shard.is_dirty() {
                break;
            }
        }
        Ok(())
    }

    /// Whether to give out now, or to let more come together: while every write slot is taken, nothing
    /// new could be written, and each turn costs its system calls however little it does. What
    /// frees a slot is followed by a turn. A stuck disk must not silence votes and heartbeats at once.
    fn is_due(&mut self, now: u64) -> bool {
        let due = self.wal.as_ref().is_none_or(Wal::has_slot)
            || now.saturating_sub(self.given_out_at) >= GIVE_OUT_NS_MAX;
        if due {
            self.given_out_at = now;
        }
        due
    }

    /// The first frame, the own write, the other frames: a majority is the fastest follower and this
    /// node's disk, and the other frames need not hold up either.
    fn send_and_write(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        let mut submitted = false;
        for (at, lanes) in self.round.outbox.iter_mut().enumerate() {
            let peer = self.shard.peers()[at];
            for (lane, messages) in lanes.iter_mut().enumerate() {
                if messages.is_empty() {
                    continue;
                }
                if !outside.send(peer, lane, messages) {
                    self.shard.undelivered(peer, messages);
                    messages.clear();
                }
                if !submitted {
                    submitted = true;
                    wal.submit(outside.now())?;
                }
            }
        }
        if submitted { Ok(()) } else { wal.submit(outside.now()) }
    }

    /// Writes the log had no room for: they were in their groups' memory when the disk filled up.
    fn retry_held(&mut self) -> Result<(), WalError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        let mut blocked = Vec::new();
        for _ in 0..self.held.len() {
            let job = self.held.pop_front().expect("counted");
            if blocked.contains(&job.group) || !append(wal, &job)? {
                blocked.push(job.group);
                self.held.push_back(job);
            }
        }
        Ok(())
    }

    fn apply(&mut self, outside: &impl Outside) {
        for job in self.round.applies.drain(..) {
            // One gathering may hold several jobs of a group: after a failure the rest must not be
            // applied, or a machine would remember entries behind a gap.
            if self.shard.is_stopped(job.slot) {
                continue;
            }
            let machine = &mut *self.machines[job.slot as usize];
            match apply::run(machine, &job, &mut self.replies) {
                Ok(()) => {
                    let replies = &mut self.replies.drain();
                    self.shard.applied(&job, replies, outside.now(), &mut self.answers);
                }
                Err(error) => self.shard.machine_failed(job.slot, &error, &mut self.answers),
            }
        }
    }

    fn start_reads(&mut self, outside: &impl Outside) {
        while let Some(FetchJob { group, fetch }) = self.reads.pop_front() {
            let Some(wal) = &self.wal else { return };
            let purpose = fetch.purpose;
            match wal.plan_read(group, fetch.first, fetch.last, fetch.bytes_max) {
                Ok(plan) => {
                    if outside.read(ReadTask { group, purpose, plan }).is_err() {
                        self.reads.push_front(FetchJob { group, fetch });
                        return;
                    }
                }
                Err(error) => self.finish_read(ReadDone { group, purpose, read: Err(error) }),
            }
        }
    }

    /// Takes in old entries that were read.
    pub(crate) fn finish_read(&mut self, done: ReadDone) {
        let ReadDone { group, purpose, read } = done;
        let error = match read {
            Ok(entries) => return self.shard.fetched(group, purpose, Some(entries)),
            Err(error) => error,
        };
        tracing::warn!(group = group.get(), ?purpose, %error, "entries cannot be read back");
        // A file that cannot be opened now may be later; what is damaged stays so.
        if purpose == FetchFor::Apply && !matches!(error, ReadError::Io { .. }) {
            let error = MachineError(format!("the log cannot be read back: {error}"));
            self.shard.unreadable(group, &error, &mut self.answers);
        } else {
            self.shard.fetched(group, purpose, None);
        }
    }
}

/// Appends one group's part; false if there is no room for it now.
fn append(wal: &mut Wal, job: &WriteJob) -> Result<bool, WalError> {
    let appended = wal.append(&Append {
        group: job.group,
        write: job.write.id,
        membership: job.membership.as_deref(),
        hard_state: job.write.hard_state,
        entries: job.write.entries.as_slice(),
    });
    match appended {
        Ok(()) => Ok(true),
        Err(WalError::NoSpace) => Ok(false),
        Err(error) => Err(error),
    }
}
