//! A shard with its log and its machines, and the one turn they take together.
//!
//! In:     what arrived for the shard ([`Arrivals`]); finished writes; the clock; what the node's other threads say
//!         ([`Shared`]).
//! Out:    log batches, frames and reads (through [`Outside`]); machines run; answers delivered.
//! Cost:   for all groups together one log batch, and one frame per peer and lane, each time that work is gathered: once
//!         in a turn, or a few times. Watched by bench `counts`.
//! Fails:  an error of the log fails the node when the log is next used, at the latest; the turn that meets it ends the
//!         turns and answers all who wait.
//! Source: RULES.md A1, A4; thesis §10.2 (pipelining, batching, writing beside sending).
//!
//! [`ShardHost::turn`] is the only way into a shard. The driver of a real node, the simulator and the tests fill
//! [`Arrivals`], call it, and carry out what it asks of [`Outside`]: the sequence is the same for all three. `bug!`
//! switches in a deliberate fault for tests, and is false otherwise; `reached!` marks places that tests must come to.

use crate::{
    GroupId, NodeError, NodeId, Outcome, ProposeError, Replies, StateMachine, apply,
    clock::Nanos,
    inbox::{Arrivals, Control},
    limits,
    links::{LinkChange, Links, PeerProcess},
    panics,
    pulse::Silence,
    reads::{ReadDone, ReadTask},
    shard::{
        Answer, Cost, FetchJob, Founded, Round, Shard, ShardOf, Stamps, WriteJob, is_withdrawn,
    },
    shared::{Shared, lock},
    status::{Question, ShardCounters, ShardLog},
};
use hashbrown::{HashMap, HashSet};
use logdrive_net::{Lane, LaneStats};
use logdrive_raft::{ConfigError, EntryBatch, EntryKind, FetchFor, LogIndex, Message, WriteId};
use logdrive_wal::{Append, Completed, Corrupt, Position, ReadError, Room, Wal, WalError};
use std::{cmp::Ordering, collections::VecDeque, rc::Rc, sync::Arc};

/// However busy the disk, owed work leaves after this long, or after a heartbeat's time if that is less. If it were held up
/// for an election timeout, a leader would lose its leadership.
const GIVE_OUT_MAX: Nanos = Nanos::from_millis(20);

/// A log with nothing to write for one to two of these is sealed: it gets an end mark (RULES.md rule 22).
pub(crate) const SEAL_LOOK: Nanos = Nanos::from_millis(5);

/// The services that a turn needs of the world.
pub(crate) trait Outside {
    /// Sends a frame's worth of messages and empties the list; false if they were dropped.
    fn send(&self, peer: NodeId, lane: Lane, messages: &mut Vec<(GroupId, Message)>) -> bool;
    /// Reads old entries; gives the task back if there is no room now.
    fn read(&self, task: ReadTask) -> Result<(), ReadTask>;
    /// The clock.
    fn now(&self) -> Nanos;
    /// Takes a task or a connection that is for this thread, not for its groups.
    fn take(&self, control: Control);
    /// The counts of the connections to peers.
    fn lanes(&self) -> Vec<(NodeId, Lane, LaneStats)> {
        Vec::new()
    }
    /// Tells the simulator's checkers of a write that goes to the log now, or as soon as there is room.
    fn wrote(&self, _job: &WriteJob) {}
    /// Tells the simulator's checkers that the log had no room for the rest of a write: the group's log ends at `last`
    /// again.
    fn withdrew(&self, _job: &WriteJob, _last: LogIndex) {}
    /// Tells the simulator's checkers of a message that has come; `shard` says whether its group takes it in.
    fn received(&self, _shard: &Shard, _from: PeerProcess, _group: GroupId, _message: &Message) {}
    /// Drops the machine of a group that has ended or has another one. Dropping runs the embedder's code, and may take
    /// long.
    fn drop_machine(&self, machine: Box<dyn StateMachine>) {
        panics::drop_machine(machine);
    }
}

/// The duties of the thread after a turn.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Turned {
    /// Another turn is due after [`SEAL_LOOK`], whatever arrives: the log is not sealed yet, and may be idle by then.
    pub(crate) looks_again: bool,
    /// The turn ended at its bound of work. Another one is due, after whatever else the thread has to do.
    pub(crate) leaves_work: bool,
    /// That was the last one: nothing is promised any more, and everyone has been answered.
    pub(crate) has_stopped: bool,
}

/// A shard, its log and its machines.
pub(crate) struct ShardHost {
    /// Which of the node's shards this is.
    index: usize,
    node: Arc<Shared>,
    arrivals: Rc<Arrivals>,
    links: Links,
    has_stopped: bool,
    shard: Shard,
    /// `None` once closed.
    wal: Option<Wal>,
    answers: Vec<Answer>,
    /// By slot.
    machines: Vec<Box<dyn StateMachine>>,
    round: Round,
    completed: Vec<Completed>,
    replies: Replies,
    /// Fetches there was no room for yet, in their order.
    reads: VecDeque<FetchJob>,
    /// The read of live entries that the log wants to carry forward, so that their segment can be given up; here while
    /// there is no room for it.
    carry: Option<ReadTask>,
    given_out_at: Nanos,
    /// How long owed work may wait for a write slot.
    give_out_after: Nanos,
    idle: IdleLook,
    disk_silence: Silence,
    /// A silence of the disk after which the groups here lead nothing.
    resign_after: Nanos,
    /// Writes that wait, in order within each group: any write while a segment is being made, and hard states without
    /// entries while there is no room. Nothing is promised on them before they are durable.
    held: VecDeque<WriteJob>,
    /// Groups whose entries were withdrawn in this gathering: their later writes are void.
    withdrawn: HashSet<GroupId>,
    /// Each group of a write that waits, and what its last one waits for: a turn has many writes, and many may wait.
    held_groups: HashMap<GroupId, Room>,
    /// Groups whose entries were found damaged while the log ran, and where.
    fenced: HashMap<GroupId, Corrupt>,
}

/// A look at the log that was to find out whether the log is idle.
struct IdleLook {
    /// Where the unsealed log ended.
    end: Position,
    at: Nanos,
}

impl ShardHost {
    /// Hosts shard `index` of a node over its log. `seed` draws the election timeouts.
    pub(crate) fn new(
        node: Arc<Shared>,
        index: usize,
        arrivals: Rc<Arrivals>,
        wal: Wal,
        seed: u64,
    ) -> Self {
        let own = ShardOf {
            shard: u32::try_from(index).expect("shards are counted in u32"),
            shards: u32::try_from(node.inboxes.len()).expect("shards are counted in u32"),
        };
        let shard = Shard::new(node.me, &node.nodes(), node.timing, seed)
            .with_limits(&node.limits)
            .at(own)
            .with_entry_bytes_max(wal.entry_bytes_max());
        let (heartbeat, resign_after) = (node.heartbeat, node.stall_limits.resign);
        Self {
            index,
            node,
            arrivals,
            links: Links::default(),
            has_stopped: false,
            round: shard.round(),
            shard,
            wal: Some(wal),
            answers: Vec::new(),
            machines: Vec::new(),
            completed: Vec::new(),
            replies: Replies::default(),
            reads: VecDeque::new(),
            carry: None,
            given_out_at: Nanos::ZERO,
            give_out_after: GIVE_OUT_MAX.min(heartbeat),
            idle: IdleLook { end: Position::ZERO, at: Nanos::ZERO },
            disk_silence: Silence::new(resign_after, Nanos::ZERO),
            resign_after,
            held: VecDeque::new(),
            withdrawn: HashSet::new(),
            held_groups: HashMap::new(),
            fenced: HashMap::new(),
        }
    }

    /// The groups, to be looked at.
    #[cfg(any(feature = "testing", feature = "counts"))]
    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// True if entries wait for room, and votes behind them.
    #[cfg(feature = "testing")]
    pub(crate) fn holds_entries(&self) -> bool {
        let waits = |job: &WriteJob| job.waits_for != Room::Behind && !job.write.entries.is_empty();
        self.held.iter().any(waits)
    }

    /// True if a vote waits for room within the quota, or on a full disk.
    #[cfg(feature = "testing")]
    pub(crate) fn holds_votes(&self) -> bool {
        self.held.iter().any(|job| job.waits_for != Room::Behind)
    }

    /// The log, to be looked at; `None` once it is closed.
    pub(crate) fn wal(&self) -> Option<&Wal> {
        self.wal.as_ref()
    }

    /// One turn: everything that arrived goes in, everything owed goes out.
    ///
    /// The sequence, which is defined only here:
    /// 1. finished writes are taken in, so that what comes next is judged by the room there is now;
    /// 2. new groups, peers that went, frames, peers that came, commands, old entries that were read;
    /// 3. timers that have run out: after the frames, because a leader that has just been heard is not silent; replicas
    ///    are more patient while frames are left for the next turn;
    /// 4. what is owed leaves: the first frame, the own write, the other frames; machines are run, and what is committed
    ///    beyond their bound waits for the next turn;
    /// 5. an idle log is sealed;
    /// 6. if the node has failed or is closed, whoever waits gets an answer now: there is no later turn;
    /// 7. everyone whose outcome is known is answered.
    pub(crate) fn turn(&mut self, outside: &impl Outside) -> Turned {
        self.arrivals.inbox().look();
        if self.has_stopped {
            return self.turn_after_the_end();
        }
        self.shard.begin_turn(&mut self.round);
        let mut leaves_work = false;
        let worked = self.take_in(outside).and_then(|has_taken_all| {
            leaves_work = !has_taken_all;
            if self.node.has_failed() {
                return Ok(false); // Another shard's log has failed: the node promises nothing more (invariant 19).
            }
            self.give_out(outside)?;
            self.seal_when_idle(outside.now())
        });
        let looks_again = worked.unwrap_or_else(|error| {
            self.fail(&error);
            false
        });
        if logdrive_raft::bug!("answers_before_the_end") {
            self.deliver(outside);
        }
        self.stop_if_told();
        if logdrive_raft::bug!("answers_before_the_end") {
            self.answers.clear();
        }
        self.beat();
        let is_behind = self.shard.is_dirty() && self.wal.as_ref().is_some_and(Wal::has_slot);
        let owes_machines = self.shard.owes_machines();
        self.deliver(outside);
        if self.has_stopped && !self.node.is_given_up() {
            // After the answers: it waits for the disk.
            self.close_log();
        } else if is_behind || owes_machines {
            self.arrivals.inbox().wake();
        }
        leaves_work |= owes_machines;
        Turned { looks_again, leaves_work, has_stopped: self.has_stopped }
    }

    /// A shard that has stopped does nothing more: what arrives is dropped, and commands among it are answered.
    fn turn_after_the_end(&mut self) -> Turned {
        let arrivals = self.arrivals.clone();
        arrivals.drop_frames();
        arrivals.inbox().drop_controls();
        while arrivals.next_read().is_some() {}
        arrivals.take_submissions(|late| {
            arrivals.inbox().answered(late.commands.cost());
            late.refuse(&ProposeError::Stopped(self.node.stop_cause()));
        });
        Turned { has_stopped: true, ..Turned::default() }
    }

    /// Takes in what has arrived; false if some is left for the next turn.
    fn take_in(&mut self, outside: &impl Outside) -> Result<bool, WalError> {
        let now = outside.now();
        self.shard.set_clock(self.node.ticks_at(now));
        if logdrive_raft::bug!("timers_before_frames") {
            self.shard.fire_timers(true);
        }
        self.take_completions(now)?;
        let arrivals = self.arrivals.clone();
        while let Some(control) = arrivals.inbox().next_control() {
            match control {
                Control::Run(founded, machine) => {
                    self.add(*founded, machine).expect("checked before it was sent here");
                }
                Control::Restart(group, applied, machine) => {
                    self.restart(group, applied, machine, outside);
                }
                Control::Ask(question) => self.answer(question, outside),
                control => outside.take(control),
            }
        }
        let mut changes = Vec::new();
        arrivals.take_lanes(|lane| self.links.change_within_turn(lane, &mut changes));
        changes.into_iter().for_each(|change| self.shard.link(change));
        let mut heard = None;
        let has_read_all = arrivals.take_turns_frames(|from, group, message| {
            // The answer can change only with a message of another process, so there is one look-up for each frame.
            let is_heard = match heard {
                Some((last, is_heard)) if last == from => is_heard,
                _ => self.hears(from),
            };
            heard = Some((from, is_heard));
            if !is_heard {
                return 1;
            }
            outside.received(&self.shard, from, group, &message);
            if let Message::AppendEntries(append) = &message {
                self.round.took_in(append.entries.len(), append.entries.cost_bytes());
            }
            self.shard.receive(from.node, group, message)
        });
        // After the frames: a peer that comes up may start an election, but not where a leader was just heard.
        let risen = self.links.risen(|peer| self.node.hears(peer));
        risen.into_iter().for_each(|change| self.shard.link(change));
        let has_taken_all = arrivals.take_turns_submissions(|submission| {
            let Cost { commands, bytes } = submission.commands.cost();
            self.round.took_in(commands, bytes);
            self.shard.submit(submission, &mut self.answers);
        });
        let has_all_reads = arrivals.take_turns_reads(|read| self.finish_read(read));
        self.shard.fire_timers(has_read_all);
        self.shard.tell_overdue(&mut self.answers);
        Ok(has_read_all && has_taken_all && has_all_reads)
    }

    /// True unless something of a later process of the peer was taken in before (RULES.md M14). The first message of such a
    /// process tells of the peer's restart.
    fn hears(&mut self, process: PeerProcess) -> bool {
        match self.links.meet(process) {
            Ordering::Equal => true,
            Ordering::Greater => {
                self.shard.link(LinkChange::Restarted(process.node));
                true
            }
            Ordering::Less => {
                logdrive_raft::reached!("frame of an earlier process dropped");
                logdrive_raft::bug!("earlier_processes_frames_heard")
            }
        }
    }

    /// Runs a group from now on.
    ///
    /// # Errors
    /// [`ConfigError`] if its recovered state is invalid.
    fn add(&mut self, founded: Founded, machine: Box<dyn StateMachine>) -> Result<(), ConfigError> {
        let group = founded.group;
        let slot = self.shard.add(founded)?;
        assert!(
            slot.at() == self.machines.len(),
            "{slot:?} after {} machines",
            self.machines.len()
        );
        self.machines.push(machine);
        if let Some(corrupt) = self.fenced.get(&group) {
            // The log found damage to the group's entries while the group waited for its machine.
            let corrupt = corrupt.clone();
            self.fence(group, corrupt);
        }
        Ok(())
    }

    /// Another machine for a group whose machine has failed.
    fn restart(
        &mut self,
        group: GroupId,
        applied: LogIndex,
        machine: Box<dyn StateMachine>,
        outside: &impl Outside,
    ) {
        match self.shard.restart(group, applied) {
            Ok(slot) => {
                let failed = std::mem::replace(&mut self.machines[slot.at()], machine);
                outside.drop_machine(failed);
            }
            Err(error) => {
                outside.drop_machine(machine);
                tracing::error!(group = group.get(), %error, "the group cannot be restarted");
                self.shard.end_restart(group);
            }
        }
    }

    #[cold]
    fn answer(&self, question: Question, outside: &impl Outside) {
        match question {
            Question::Group(group, giver) => {
                if let Some(status) = self.shard.status(group) {
                    giver.give(status.into());
                }
            }
            Question::Counters(giver) => {
                let Some(wal) = &self.wal else { return };
                let waiting = self.arrivals.inbox().waiting();
                giver.give(ShardCounters {
                    log: wal.metrics(),
                    log_usage: wal.usage(),
                    lanes: outside.lanes(),
                    inbound: self.node.inbound_stats(),
                    waiting_commands: waiting.commands,
                    waiting_bytes: waiting.bytes,
                });
            }
            Question::Log(count, giver) => {
                let Some(wal) = &self.wal else { return };
                giver.give(ShardLog {
                    usage: wal.usage(),
                    segments: wal.metrics().segments,
                    holders: wal.holders(count),
                });
            }
        }
    }

    /// Takes in the writes that have finished.
    fn take_completions(&mut self, now: Nanos) -> Result<(), WalError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        wal.poll(now.get(), &mut self.completed)?;
        for completed in self.completed.drain(..) {
            let stamps = Stamps { submitted: Nanos(completed.stamp), durable: now };
            for durable in completed.durable {
                self.shard.durable(durable, stamps);
            }
            for run in completed.frozen {
                self.shard.rehome(run.group, run.first, run.payloads());
            }
            if completed.sealed {
                self.shard.image_sealed();
            }
        }
        if self.shard.own_tails() {
            self.arrivals.inbox().wake();
        }
        let waiting = self.held.iter().map(|job| job.waits_for);
        self.shard.set_log_room(wal.room(), wal.is_near_quota(), waiting);
        let (awaits_disk, answers) = (wal.awaits_disk(), wal.disk_answers());
        self.disk_silence.look(now, awaits_disk || self.awaits_segment(), answers);
        let is_stalled_beside = self.node.is_stalled_beside(self.index);
        self.shard.set_stands(!self.is_stalled() && !is_stalled_beside);
        Ok(())
    }

    /// The node has failed, or somebody closes it: nothing is promised any more, and whoever waits is told so.
    fn stop_if_told(&mut self) {
        let inbox = self.arrivals.inbox();
        if !self.has_stopped {
            if self.node.has_failed()
                && let Some(failure) = self.node.failed()
            {
                tracing::error!(shard = self.index, %failure, "the node has failed: this shard stops");
                inbox.stop(&failure.to_string());
                self.has_stopped = true;
            } else if inbox.is_asked_to_stop() {
                inbox.stop("the node was closed");
                self.has_stopped = true;
            }
        }
        if self.has_stopped {
            inbox.drop_controls();
            let arrivals = self.arrivals.clone();
            arrivals.take_submissions(|late| self.shard.submit(late, &mut self.answers));
            self.shard.abandon_all(&self.node.stop_cause(), "the node stopped", &mut self.answers);
        }
    }

    /// Tells whoever waits, one wake-up for each run of answers with the same sink.
    #[cfg_attr(feature = "counts", inline(never))]
    fn deliver(&mut self, outside: &impl Outside) {
        if self.answers.is_empty() {
            return;
        }
        let replied = outside.now();
        let mut answers = std::mem::take(&mut self.answers);
        let told = answers.iter().filter(|answer| answer.sink.is_some());
        let moments = told.filter_map(|answer| answer.moments.as_ref());
        lock(&self.node.stages[self.index]).record(moments, replied);
        let cost: Cost = answers.iter().map(|answer| answer.cost).sum();
        self.arrivals.inbox().answered(cost);
        let mut run: Vec<(u64, Outcome)> = Vec::with_capacity(cost.commands);
        let mut left = answers.drain(..).peekable();
        while let Some(Answer { sink, token, outcome, .. }) = left.next() {
            let Some(sink) = sink else { continue };
            run.push((token, outcome));
            let same =
                |next: &Answer| next.sink.as_ref().is_some_and(|other| Arc::ptr_eq(other, &sink));
            while let Some(next) = left.next_if(same) {
                run.push((next.token, next.outcome));
            }
            sink.complete(&mut run);
            run.clear();
        }
        drop(left);
        self.answers = answers;
    }

    fn close_log(&mut self) {
        if let Some(wal) = self.wal.take()
            && let Err(error) = wal.close()
        {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &WalError) {
        let shard = u32::try_from(self.index).expect("shards are counted in u32");
        self.node.fail(NodeError::Log { shard, what: error.to_string() });
    }

    /// The disk of this shard's log has been silent for too long to lead anything.
    fn is_stalled(&self) -> bool {
        self.disk_silence.time() >= self.resign_after
    }

    /// Writes wait for a segment that is being made: the disk owes it.
    fn awaits_segment(&self) -> bool {
        self.held.iter().any(|job| job.waits_for == Room::Behind)
    }

    /// Tells the watchdog that a turn is over.
    fn beat(&self) {
        let (answers, owed) = self.wal.as_ref().map_or((0, false), |wal| {
            (wal.disk_answers(), wal.awaits_disk() || self.awaits_segment())
        });
        self.node.pulses[self.index].beat(answers, owed, self.is_stalled());
    }

    /// Gives out everything owed. Machines do not wait for a write slot: if there is none, they go on with the entries
    /// that earlier turns had no room for.
    fn give_out(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        if !self.is_due(outside.now()) {
            self.shard.hand_out(outside.now(), &mut self.round);
            self.apply(outside);
            return Ok(());
        }
        self.retry_held(outside)?;
        self.maintain(outside)?;
        for _ in 0..limits::GATHERINGS_MAX {
            let now = outside.now();
            self.shard.gather(now, &mut self.round);
            // The answers are kept before anything can fail: nothing else remembers whose proposals they settle.
            self.answers.append(&mut self.round.answers);
            self.withdrawn.clear();
            let mut writes = std::mem::take(&mut self.round.writes);
            for job in writes.drain(..) {
                if !self.withdrawn.contains(&job.group) {
                    outside.wrote(&job);
                    self.write(job, outside)?;
                }
            }
            self.round.writes = writes;
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
    /// torn tail. True while there is something to seal, and room for it: look again after [`SEAL_LOOK`].
    fn seal_when_idle(&mut self, now: Nanos) -> Result<bool, WalError> {
        let Some(wal) = &mut self.wal else { return Ok(false) };
        if wal.is_sealed() {
            return Ok(false);
        }
        if now.since(self.idle.at) >= SEAL_LOOK {
            if wal.durable() == self.idle.end {
                wal.seal(now.get())?;
            }
            self.idle = IdleLook { end: wal.durable(), at: now };
        }
        // Every event that makes room is followed by a turn.
        Ok(wal.room() == Room::Free)
    }

    /// Whether to give out now, or to let more come together: while every write slot is taken, nothing
    /// new could be written, and each turn costs its system calls however little it does. Every
    /// freed slot is followed by a turn. A stuck disk must not stop votes and heartbeats.
    fn is_due(&mut self, now: Nanos) -> bool {
        let due = self.wal.as_ref().is_none_or(Wal::has_slot)
            || now.since(self.given_out_at) >= self.give_out_after;
        if due {
            self.given_out_at = now;
        }
        due
    }

    /// One frame, then the own write, then the other frames: a follower and this node's disk start early, and the other
    /// frames delay neither. Nothing that is sent here needs this write to be durable.
    fn send_and_write(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        let mut submitted = false;
        for (at, lanes) in self.round.outbox.iter_mut().enumerate() {
            let peer = self.shard.peers()[at];
            for (lane, messages) in lanes.iter_mut().enumerate() {
                if messages.is_empty() {
                    continue;
                }
                if !outside.send(peer, Lane::ALL[lane], messages) {
                    self.shard.undelivered(peer, messages);
                    messages.clear();
                }
                if !submitted {
                    submitted = true;
                    wal.submit(outside.now().get())?;
                }
            }
        }
        if submitted { Ok(()) } else { wal.submit(outside.now().get()) }
    }

    /// Writes that wait are tried again.
    fn retry_held(&mut self, outside: &impl Outside) -> Result<(), WalError> {
        self.held_groups.clear();
        self.withdrawn.clear();
        for job in std::mem::take(&mut self.held) {
            // The write of a group that has ended can be dropped: nothing was promised on it, and nothing will be.
            if !self.shard.has_ended(job.group) && !self.withdrawn.contains(&job.group) {
                self.write(job, outside)?;
            }
        }
        Ok(())
    }

    /// Gives a group's write to the log. If the log has no room for it, a write with entries is withdrawn, and a write
    /// of a hard state alone is held until there is room: want of room never makes a vote wait behind entries. While a
    /// segment is being made, writes that do not fit before it wait in order. A group's writes keep
    /// their order, so a durable write shows that all earlier ones of its group are durable too. A write that waits
    /// for a segment in the making is tried again when that segment is made, or cannot be made.
    fn write(&mut self, mut job: WriteJob, outside: &impl Outside) -> Result<(), WalError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        let before = self.held_groups.get(&job.group).copied();
        job.waits_for = match before.filter(|_| !logdrive_raft::bug!("held_write_overtaken")) {
            Some(before) => before,
            None => append(wal, &mut job)?,
        };
        if job.waits_for == Room::Free {
            return Ok(());
        }
        if is_withdrawn(job.waits_for, !job.write.entries.is_empty()) {
            if before.is_some() {
                self.drop_held(job.group, job.write.id);
            }
            self.withdrawn.insert(job.group);
            let last = self.shard.withdraw(&mut job);
            outside.withdrew(&job, last);
            return Ok(());
        }
        logdrive_raft::reached!("write held for want of room");
        self.held_groups.insert(job.group, job.waits_for);
        self.held.push_back(job);
        Ok(())
    }

    /// Drops the waiting writes of a group from `first` on.
    fn drop_held(&mut self, group: GroupId, first: WriteId) {
        self.held.retain(|held| held.group != group || held.write.id < first);
        match self.held.iter().rfind(|held| held.group == group) {
            Some(last) => self.held_groups.insert(group, last.waits_for),
            None => self.held_groups.remove(&group),
        };
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
            let machine = &mut *self.machines[job.slot.at()];
            match apply::run(machine, &job, &mut self.replies) {
                Ok(()) => {
                    let replies = &mut self.replies.drain();
                    self.shard.applied(&job, replies, outside.now(), &mut self.answers);
                }
                Err(_) if logdrive_raft::bug!("failed_machine_passed_over") => {
                    let none = &mut std::iter::empty();
                    self.shard.applied(&job, none, outside.now(), &mut self.answers);
                }
                Err(error) => self.shard.machine_failed(job.slot, error, &mut self.answers),
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
    fn finish_read(&mut self, done: ReadDone) {
        match done {
            ReadDone::Fetch { group, purpose, read } => self.finish_fetch(group, purpose, read),
            ReadDone::Carry(done) => {
                let Some(wal) = &mut self.wal else { return };
                match wal.carried(done) {
                    Ok(fenced) => {
                        fenced.into_iter().for_each(|(group, corrupt)| self.fence(group, corrupt));
                    }
                    // The log is poisoned, and says so to whoever uses it next.
                    Err(error) => {
                        tracing::error!(%error, "the log failed while it carried entries forward")
                    }
                }
            }
        }
    }

    /// The log has fenced a group. A fenced group sends and writes nothing more here.
    fn fence(&mut self, group: GroupId, corrupt: Corrupt) {
        self.shard.fence(group, &corrupt, &mut self.answers);
        self.drop_held(group, WriteId::ZERO);
        self.reads.retain(|job| job.group != group);
        self.fenced.insert(group, corrupt.clone());
        self.node.groups.fence(group, corrupt);
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
        tracing::warn!(group = group.get(), ?purpose, %error, "old entries of a group cannot be read back from the log");
        match error {
            // The purpose of the read does not matter: a replica with a damaged log neither votes nor leads.
            ReadError::Corrupt(corrupt) => self.on_damage(group, purpose, corrupt),
            // A file that cannot be opened now may be later.
            ReadError::Io { .. } => self.shard.fetched(group, purpose, None),
            error if purpose == FetchFor::Apply => {
                self.shard.unreadable(group, error.to_string(), &mut self.answers);
            }
            _ => self.shard.fetched(group, purpose, None),
        }
    }

    fn on_damage(&mut self, group: GroupId, purpose: FetchFor, corrupt: Corrupt) {
        let Some(wal) = &mut self.wal else { return };
        match wal.fence(group, &corrupt) {
            Ok(true) => self.fence(group, corrupt),
            // A whole copy of it stands elsewhere in the log.
            Ok(false) => self.shard.fetched(group, purpose, None),
            Err(error) => tracing::error!(%error, "the log failed while it fenced a damaged group"),
        }
    }
}

/// Appends one group's part, or the first entries of it; [`Room::Free`] if the log has all of it now, else why not.
fn append(wal: &mut Wal, job: &mut WriteJob) -> Result<Room, WalError> {
    loop {
        let rest = &job.write.entries.as_slice()[job.accepted..];
        let is_small = rest.iter().all(|entry| entry.kind == EntryKind::Noop);
        let count = if is_small { rest.len() } else { wal.takes_now(rest) };
        if count == 0 && !is_small {
            return Ok(Room::Behind);
        }
        let is_first = job.accepted == 0;
        let part = Append {
            group: job.group,
            write: job.write.id,
            membership: job.membership.as_deref().filter(|_| is_first),
            hard_state: job.write.hard_state.filter(|_| is_first),
            entries: &rest[..count],
        };
        let is_whole = count == rest.len();
        match if is_whole { wal.append(&part) } else { wal.append_part(&part) } {
            Ok(()) if is_whole => return Ok(Room::Free),
            Ok(()) => {
                logdrive_raft::reached!("write appended in parts");
                job.accepted += count;
            }
            Err(WalError::NoSpace) => return Ok(Room::Reserve),
            Err(WalError::OverQuota) => return Ok(Room::Quota),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(all(test, feature = "testing"))]
#[path = "host_tests.rs"]
mod tests;
