//! One turn of a shard with its log and its machines: shared by the driver and the simulator.
//!
//! In:     whatever the shard was told since the last turn; finished writes; old entries read back.
//! Out:    log batches, frames (through [`Outside`]), machines run, answers.
//! Cost:   one log batch and one frame per peer and lane for all groups.
//! Fails:  the log's first error, after which the turn must not be taken again.

use crate::{
    GroupId, MachineError, NodeId, Replies, StateMachine, apply, limits,
    shard::{Answer, FetchJob, Founded, Round, Shard, Stamps},
};
use logdrive_raft::{ConfigError, EntryBatch, FetchFor, Message};
use logdrive_wal::{Append, Completed, ReadError, ReadPlan, Room, Wal, WalError};
use std::collections::VecDeque;

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
}

impl Turn {
    pub(crate) fn new(shard: Shard, wal: Wal) -> Self {
        Self {
            round: shard.round(),
            shard,
            wal: Some(wal),
            answers: Vec::new(),
            machines: Vec::new(),
            completed: Vec::new(),
            replies: Replies::default(),
            reads: VecDeque::new(),
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

    /// The machine of the group in `slot`.
    #[cfg(feature = "testing")]
    pub(crate) fn machines(&self) -> &[Box<dyn StateMachine>] {
        &self.machines
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
        self.shard.set_log_full(wal.room() == Room::Reserve);
        Ok(())
    }

    /// Gives out everything owed.
    pub(crate) fn give_out(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        for _ in 0..limits::GATHERINGS_MAX {
            let now = outside.now();
            self.shard.gather(now, &mut self.round);
            let Some(wal) = &mut self.wal else { return Ok(()) };
            for job in self.round.writes.drain(..) {
                wal.append(&Append {
                    group: job.group,
                    write: job.write.id,
                    membership: job.membership.as_deref(),
                    hard_state: job.write.hard_state,
                    entries: job.write.entries.as_slice(),
                })?;
            }
            // The frames first: a follower's write cannot begin before they arrive.
            for (at, lanes) in self.round.outbox.iter_mut().enumerate() {
                let peer = self.shard.peers()[at];
                for (lane, messages) in lanes.iter_mut().enumerate() {
                    if !messages.is_empty() && !outside.send(peer, lane, messages) {
                        self.shard.undelivered(peer, messages);
                    }
                    messages.clear();
                }
            }
            wal.submit(outside.now())?;
            self.answers.append(&mut self.round.answers);
            self.reads.extend(self.round.fetches.drain(..));
            self.start_reads(outside);
            self.apply(outside);
            if !self.shard.is_dirty() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&mut self, outside: &impl Outside) {
        for job in self.round.applies.drain(..) {
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
        if purpose == FetchFor::Apply {
            let error = MachineError(format!("the log cannot be read back: {error}"));
            self.shard.unreadable(group, &error, &mut self.answers);
        } else {
            self.shard.fetched(group, purpose, None);
        }
    }
}
