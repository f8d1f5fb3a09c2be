//! One turn of a shard with its log and its machines: shared by the driver and the simulator.
//!
//! In:     whatever the shard was told since the last turn; finished writes; old entries read back.
//! Out:    log batches, frames (through [`Outside`]), machines run, answers.
//! Cost:   one log batch and one frame per peer and lane for all groups.
//! Fails:  the log's first error, after which the turn must not be taken again.

use crate::{
    GroupId, MachineError, NodeId, Replies, StateMachine, apply, limits,
    pulse::{Pulse, Silence},
    shard::{Answer, FetchJob, Founded, Round, Shard, Stamps, WriteJob},
};
use hashbrown::{HashMap, HashSet};
use logdrive_raft::{ConfigError, EntryBatch, FetchFor, Message};
use logdrive_wal::{
    Append, CarryDone, CarryPlan, Completed, Corrupt, Position, ReadError, ReadPlan, Room, Wal,
    WalError,
};
use std::collections::VecDeque;

/// However busy the disk, owed work leaves after this long, or after a heartbeat's time if that is less: what is held
/// up for an election timeout by a leader or its followers costs the leadership.
const GIVE_OUT_NS_MAX: u64 = 20_000_000;

/// A log with nothing to write for one to two of these is sealed (FAULTS' rule 22).
pub(crate) const SEAL_LOOK_NS: u64 = 5_000_000;

/// What a turn needs of the world.
pub(crate) trait Outside {
    /// Sends a frame's worth of messages; false if they were dropped. `lane` is 0 for liveness, 1
    /// for appends.
    fn send(&self, peer: NodeId, lane: usize, messages: &mut Vec<(GroupId, Message)>) -> bool;
    /// Reads old entries; gives the task back if there is no room now.
    fn read(&self, task: ReadTask) -> Result<(), ReadTask>;
    /// The clock, ns.
    fn now(&self) -> u64;
    /// A write that goes to the log now, or as soon as there is room. For those who watch.
    fn wrote(&self, _job: &WriteJob) {}
}

/// Old entries to be read, away from the shard's thread.
pub(crate) enum ReadTask {
    /// For a group that asked for them.
    Fetch { group: GroupId, purpose: FetchFor, plan: ReadPlan },
    /// For the log, which gives up the segment they are in.
    Carry(CarryPlan),
}

/// Old entries that were read.
pub(crate) enum ReadDone {
    /// For a group.
    Fetch { group: GroupId, purpose: FetchFor, read: Result<EntryBatch, ReadError> },
    /// For the log.
    Carry(CarryDone),
}

impl ReadTask {
    /// Reads; may block on the disk.
    pub(crate) fn run(self) -> ReadDone {
        match self {
            Self::Fetch { group, purpose, plan } => {
                ReadDone::Fetch { group, purpose, read: plan.run() }
            }
            Self::Carry(plan) => ReadDone::Carry(plan.run()),
        }
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
    /// What the log wants read, if there was no room for it yet.
    carry: Option<ReadTask>,
    given_out_at: u64,
    /// How long owed work may wait for a write slot.
    give_out_ns: u64,
    /// Where the unsealed log ended when it was last looked at, and when that was.
    idle: (Position, u64),
    disk_silence: Silence,
    /// A silence of the disk after which the groups here lead nothing.
    resign_ns: u64,
    /// Another shard of this node has had such a silence: the disk is the same.
    pub(crate) stalled_elsewhere: bool,
    /// Writes the log has no room for now; nothing is promised on them before they are durable.
    held: VecDeque<WriteJob>,
    /// What there was no room for when one was last held.
    held_for: Room,
    /// Their groups.
    held_groups: HashSet<GroupId>,
    /// Groups that lost something while the log ran, and where.
    fenced: HashMap<GroupId, Corrupt>,
    /// Those that the node has not been told of.
    pub(crate) newly_fenced: Vec<(GroupId, Corrupt)>,
}

impl Turn {
    pub(crate) fn new(shard: Shard, wal: Wal, heartbeat_ns: u64, resign_ns: u64) -> Self {
        Self {
            round: shard.round(),
            shard: shard.with_entry_bytes_max(wal.entry_bytes_max()),
            wal: Some(wal),
            answers: Vec::new(),
            machines: Vec::new(),
            completed: Vec::new(),
            replies: Replies::default(),
            reads: VecDeque::new(),
            carry: None,
            given_out_at: 0,
            give_out_ns: GIVE_OUT_NS_MAX.min(heartbeat_ns),
            idle: (Position::ZERO, 0),
            disk_silence: Silence::new(resign_ns),
            resign_ns,
            stalled_elsewhere: false,
            held: VecDeque::new(),
            held_for: Room::Free,
            held_groups: HashSet::new(),
            fenced: HashMap::new(),
            newly_fenced: Vec::new(),
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
        let group = founded.group;
        let slot = self.shard.add(founded)?;
        assert!(
            slot as usize == self.machines.len(),
            "slot {slot} after {} machines",
            self.machines.len()
        );
        self.machines.push(machine);
        if let Some(corrupt) = self.fenced.get(&group) {
            // Carrying found it while the group waited for its machine.
            let corrupt = corrupt.clone();
            self.fence(group, corrupt);
        }
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
        let room = match wal.room() {
            // For smaller writes than one that is held: they must not go on until there is none for any.
            Room::Free if !self.held.is_empty() => self.held_for,
            room => room,
        };
        if self.shard.set_log_room(room) {
            for job in &self.held {
                self.shard.abandon(job.group, &mut self.answers);
            }
        }
        self.disk_silence.look(now, wal.awaits_disk(), wal.disk_answers());
        self.shard.set_stands(!self.is_stalled() && !self.stalled_elsewhere);
        Ok(())
    }

    /// The disk of this shard's log has been silent for too long to lead anything.
    pub(crate) fn is_stalled(&self) -> bool {
        self.disk_silence.ns() >= self.resign_ns
    }

    /// Tells the watchdog that a turn is over.
    pub(crate) fn beat(&self, pulse: &Pulse) {
        let (answers, owed) =
            self.wal.as_ref().map_or((0, false), |wal| (wal.disk_answers(), wal.awaits_disk()));
        pulse.beat(answers, owed, self.is_stalled());
    }

    /// Gives out everything owed.
    pub(crate) fn give_out(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        if !self.is_due(outside.now()) {
            return Ok(());
        }
        self.retry_held()?;
        self.maintain(outside)?;
        for _ in 0..limits::GATHERINGS_MAX {
            let now = outside.now();
            self.shard.gather(now, &mut self.round);
            // Before anything can fail: who is answered here is known to nobody else any more.
            self.answers.append(&mut self.round.answers);
            let Some(wal) = &mut self.wal else { return Ok(()) };
            for job in self.round.writes.drain(..) {
                outside.wrote(&job);
                // A group's writes keep their order: behind one that is held, all its later ones are.
                let behind = !logdrive_raft::bug!("held_write_overtaken")
                    && self.held_groups.contains(&job.group);
                if behind || !append(wal, &job, &mut self.held_for)? {
                    logdrive_raft::reached!("write held for want of room");
                    self.held_groups.insert(job.group);
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

    /// Seals the log once nothing was written for a while, so that damage to its last batch is not taken for a
    /// torn tail. True while there is something to seal, and room for it: look again after [`SEAL_LOOK_NS`].
    pub(crate) fn seal_when_idle(&mut self, now: u64) -> Result<bool, WalError> {
        let Some(wal) = &mut self.wal else { return Ok(false) };
        if wal.is_sealed() {
            return Ok(false);
        }
        if now.saturating_sub(self.idle.1) >= SEAL_LOOK_NS {
            if wal.durable() == self.idle.0 {
                wal.seal(now)?;
            }
            self.idle = (wal.durable(), now);
        }
        // What makes room is followed by a turn.
        Ok(wal.room() == Room::Free)
    }

    /// Whether to give out now, or to let more come together: while every write slot is taken, nothing
    /// new could be written, and each turn costs its system calls however little it does. What
    /// frees a slot is followed by a turn. A stuck disk must not silence votes and heartbeats at once.
    fn is_due(&mut self, now: u64) -> bool {
        let due = self.wal.as_ref().is_none_or(Wal::has_slot)
            || now.saturating_sub(self.given_out_at) >= self.give_out_ns;
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
        self.held_groups.clear();
        for _ in 0..self.held.len() {
            let job = self.held.pop_front().expect("counted");
            if self.shard.has_stopped(job.group) {
                continue; // Nothing was promised on it, and nothing will be.
            }
            let behind = self.held_groups.contains(&job.group);
            if behind || !append(wal, &job, &mut self.held_for)? {
                self.held_groups.insert(job.group);
                self.held.push_back(job);
            }
        }
        Ok(())
    }

    /// Lets the log give space back: what it writes for that goes with this turn's batch.
    fn maintain(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        if self.carry.is_none() {
            self.carry = wal.maintain()?.map(ReadTask::Carry);
        }
        if let Some(task) = self.carry.take() {
            self.carry = outside.read(task).err();
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
                Err(_) if logdrive_raft::bug!("failed_machine_passed_over") => {
                    let none = &mut std::iter::empty();
                    self.shard.applied(&job, none, outside.now(), &mut self.answers);
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
                    if outside.read(ReadTask::Fetch { group, purpose, plan }).is_err() {
                        self.reads.push_front(FetchJob { group, fetch });
                        return;
                    }
                }
                Err(error) => self.finish_fetch(group, purpose, Err(error)),
            }
        }
    }

    /// Takes in old entries that were read.
    pub(crate) fn finish_read(&mut self, done: ReadDone) {
        match done {
            ReadDone::Fetch { group, purpose, read } => self.finish_fetch(group, purpose, read),
            ReadDone::Carry(done) => {
                let Some(wal) = &mut self.wal else { return };
                match wal.carried(done) {
                    Ok(fenced) => {
                        fenced.into_iter().for_each(|(group, corrupt)| self.fence(group, corrupt));
                    }
                    // The log is poisoned, and says so to whoever uses it next.
                    Err(error) => tracing::error!(%error, "entries cannot be carried forward"),
                }
            }
        }
    }

    /// The log has fenced a group: it says and writes nothing more here.
    fn fence(&mut self, group: GroupId, corrupt: Corrupt) {
        self.shard.fence(group, &mut self.answers);
        self.held.retain(|job| job.group != group);
        self.reads.retain(|job| job.group != group);
        self.fenced.insert(group, corrupt.clone());
        self.newly_fenced.push((group, corrupt));
    }

    fn finish_fetch(
        &mut self,
        group: GroupId,
        purpose: FetchFor,
        read: Result<EntryBatch, ReadError>,
    ) {
        let error = match read {
            Ok(entries) => return self.shard.fetched(group, purpose, Some(entries)),
            Err(error) => error,
        };
        tracing::warn!(group = group.get(), ?purpose, %error, "entries cannot be read back");
        match error {
            // Whoever needed it: a log with damage in it neither votes nor leads.
            ReadError::Corrupt(corrupt) => self.on_damage(group, purpose, corrupt),
            // A file that cannot be opened now may be later.
            ReadError::Io { .. } => self.shard.fetched(group, purpose, None),
            error if purpose == FetchFor::Apply => {
                let error = MachineError(format!("the log cannot be read back: {error}"));
                self.shard.unreadable(group, &error, &mut self.answers);
            }
            _ => self.shard.fetched(group, purpose, None),
        }
    }

    fn on_damage(&mut self, group: GroupId, purpose: FetchFor, corrupt: Corrupt) {
        let Some(wal) = &mut self.wal else { return };
        match wal.fence(group, &corrupt) {
            Ok(true) => self.fence(group, corrupt),
            // It has been written again elsewhere, whole.
            Ok(false) => self.shard.fetched(group, purpose, None),
            Err(error) => tracing::error!(%error, "a fence cannot be written"),
        }
    }
}

/// Appends one group's part; false if there is no room for it now, and `why`.
fn append(wal: &mut Wal, job: &WriteJob, why: &mut Room) -> Result<bool, WalError> {
    let appended = wal.append(&Append {
        group: job.group,
        write: job.write.id,
        membership: job.membership.as_deref(),
        hard_state: job.write.hard_state,
        entries: job.write.entries.as_slice(),
    });
    match appended {
        Ok(()) => Ok(true),
        Err(WalError::NoSpace) => {
            *why = Room::Reserve;
            Ok(false)
        }
        Err(WalError::OverQuota) => {
            *why = Room::Quota;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(all(test, feature = "testing"))]
#[path = "turn_tests.rs"]
mod tests;
