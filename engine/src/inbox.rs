//! Everything that waits for a shard's next turn: the bounded way in from other threads, and what its own thread has.
//!
//! In:     from other threads submissions, frames that other shards received, controls and old entries that were read;
//!         from the shard's own thread submissions, frames of its connections and lanes that came or went.
//! Out:    taken by the shard's turn.
//! Cost:   one atomic queue operation; a wake-up only if the shard was not woken already.
//! Fails:  full: a submission is `Overloaded`, a frame is dropped (Raft repeats it), a control waits.

use crate::{
    GroupId, LogIndex, ProposeError, StateMachine, StopCause,
    later::{self, Giver, Later},
    limits::{self, OfShard},
    links::{LaneChange, PeerProcess},
    reads::ReadDone,
    shard::{Cost, Founded, Submission},
    status::Question,
};
use crossbeam::queue::ArrayQueue;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError};
use logdrive_net::{Accepted, codec::encoded_bytes};
use logdrive_raft::{ApplyMax, Message};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// The messages of a peer's process, as one frame brought them.
pub(crate) type Frame = (PeerProcess, Vec<(GroupId, Message)>);

/// A frame, or the rest of one, that waits for a turn, and the bytes that it keeps in memory.
struct Waiting {
    from: PeerProcess,
    messages: std::vec::IntoIter<(GroupId, Message)>,
    bytes: usize,
}

impl Waiting {
    fn new((from, messages): Frame, bytes: usize) -> Self {
        Self { from, messages: messages.into_iter(), bytes }
    }
}

/// A task made on one thread to run on a shard's.
pub(crate) type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// An order to a shard, beside proposals and messages.
pub(crate) enum Control {
    /// Run this group.
    Run(Box<Founded>, Box<dyn StateMachine>),
    /// Give this group, whose machine failed, another one, which has applied everything up to there.
    Restart(GroupId, LogIndex, Box<dyn StateMachine>),
    /// Run this task.
    Spawn(Task),
    /// Read this connection.
    Receive(Box<Accepted>),
    /// Answer this question.
    Ask(Question),
}

/// The shard that runs a group: fixed by the group's id and the number of shards.
pub(crate) fn shard_of(group: GroupId, shards: usize) -> usize {
    usize::try_from(group.get() % shards as u64).expect("below the number of shards")
}

/// Everything that waits for one shard's next turn: what other threads sent, and what its own thread has for it.
pub(crate) struct Arrivals {
    inbox: Arc<Inbox>,
    /// Proposals made on the shard's own thread.
    submissions: RefCell<VecDeque<Submission>>,
    lanes: RefCell<Vec<LaneChange>>,
    /// Frames from the connections that the shard reads itself, for its own groups.
    frames: RefCell<VecDeque<Waiting>>,
    /// The rest of a frame that the last turn had no more time for; its bytes count with those of `frames`.
    rest: Cell<Option<Waiting>>,
    /// The frames that others forwarded come first. Changes when a turn ends at its bound, so that neither source has to
    /// wait for the end of the other.
    forwarded_first: Cell<bool>,
    /// The bytes of those frames, as they were on the wire.
    frame_bytes: Cell<usize>,
    /// Old entries that were read, by another thread.
    reads: Arc<ArrayQueue<ReadDone>>,
}

impl Arrivals {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            submissions: RefCell::default(),
            lanes: RefCell::default(),
            frames: RefCell::default(),
            rest: Cell::new(None),
            forwarded_first: Cell::new(false),
            frame_bytes: Cell::new(0),
            // As many answers as tasks, and one that is being worked on.
            reads: Arc::new(ArrayQueue::new(2 * inbox.limits.reads_max + 2)),
            inbox,
        }
    }

    /// Where old entries that were read are put, by the thread that reads.
    pub(crate) fn reads(&self) -> &Arc<ArrayQueue<ReadDone>> {
        &self.reads
    }

    pub(crate) fn next_read(&self) -> Option<ReadDone> {
        self.reads.pop()
    }

    /// The way in from other threads.
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Hands over a submission that was admitted, on the shard's own thread.
    pub(crate) fn submit(&self, submission: Submission) {
        self.submissions.borrow_mut().push_back(submission);
        self.inbox.wake();
    }

    /// A peer's messages arrived on a connection that this shard, number `here`, reads: they are for the shards that own
    /// their groups. Gives true once so many frames wait that a turn is due at once.
    pub(crate) fn frame(
        &self,
        from: PeerProcess,
        messages: Vec<(GroupId, Message)>,
        here: usize,
        inboxes: &[Arc<Inbox>],
    ) -> bool {
        if self.inbox.stopped.get().is_some() {
            return false; // Nobody takes it out any more.
        }
        let bytes: usize = messages.iter().map(|(_, message)| encoded_bytes(message)).sum();
        let owner = |group: GroupId| shard_of(group, inboxes.len());
        let is_own = |(group, _): &(GroupId, Message)| owner(*group) == here;
        let (own, others) = match inboxes.len() == 1 || messages.iter().all(is_own) {
            true => (messages, Vec::new()),
            false => messages.into_iter().partition(is_own),
        };
        let mut frames = self.frames.borrow_mut();
        if !own.is_empty() {
            frames.push_back(Waiting::new((from, own), bytes));
            self.frame_bytes.update(|before| before + bytes);
            self.inbox.wake();
        }
        drop(frames);
        let mut elsewhere: BTreeMap<usize, Vec<(GroupId, Message)>> = BTreeMap::new();
        for (group, message) in others {
            elsewhere.entry(owner(group)).or_default().push((group, message));
        }
        for (owner, messages) in elsewhere {
            let owner = match logdrive_raft::bug!("forwarded_to_the_wrong_shard") {
                true => (owner + 1) % inboxes.len(),
                false => owner,
            };
            // All of the frame is counted: its payloads share one buffer, which lives as long as any of them.
            if !inboxes[owner].forward((from, messages), bytes) {
                logdrive_raft::reached!("forwarded frame dropped");
                tracing::debug!(
                    owner,
                    "a frame for another shard was dropped: that shard's queue is full"
                );
            }
        }
        self.has_many_frames()
    }

    /// True if so many frames wait that a turn is due before another frame is read. Never true for a shard that has
    /// stopped.
    pub(crate) fn has_many_frames(&self) -> bool {
        let limits = &self.inbox.limits;
        let are_many = self.frames.borrow().len() >= limits.frames_max
            || self.frame_bytes.get() >= limits.frame_bytes_max;
        are_many
            && !logdrive_raft::bug!("frames_are_never_many")
            && self.inbox.stopped.get().is_none()
    }

    /// The bytes of the frames of its own connections that wait.
    #[cfg(feature = "testing")]
    pub(crate) fn frame_bytes(&self) -> usize {
        self.frame_bytes.get()
    }

    /// Drops every frame there is, of a shard that has stopped.
    pub(crate) fn drop_frames(&self) {
        while self.next_frame().is_some() {}
    }

    /// Takes as many messages as one turn may have. First come those that the last turn left, then the frames of this
    /// shard's own connections and those that other shards forwarded; which of the two comes first alternates, so that
    /// neither starves. `take` returns the steps that a message took, at least one. Returns true if no message is left;
    /// else the shard is woken for the rest.
    pub(crate) fn take_turns_frames(
        &self,
        mut take: impl FnMut(PeerProcess, GroupId, Message) -> usize,
    ) -> bool {
        let mut steps = 0;
        while let Some(mut frame) = self.next_frame() {
            let before = frame.messages.len();
            while (steps < self.inbox.limits.turn_steps_max
                || logdrive_raft::bug!("turn_takes_every_message"))
                && let Some((group, message)) = frame.messages.next()
            {
                steps += take(frame.from, group, message);
            }
            if frame.messages.len() > 0 {
                logdrive_raft::reached!("a turn's messages at their bound");
                frame.bytes = frame.bytes * frame.messages.len() / before;
                self.frame_bytes.update(|before| before + frame.bytes);
                self.rest.set(Some(frame));
                self.forwarded_first.update(|is_first| !is_first);
                self.inbox.wake();
                return false;
            }
        }
        true
    }

    fn next_frame(&self) -> Option<Waiting> {
        let own = || {
            let frame = self.frames.borrow_mut().pop_front()?;
            self.frame_bytes.update(|before| before - frame.bytes);
            Some(frame)
        };
        let forwarded = || {
            let (frame, bytes) = self.inbox.forwarded.pop()?;
            self.inbox.forwarded_bytes.fetch_sub(bytes, Ordering::Relaxed);
            Some(Waiting::new(frame, bytes))
        };
        match self.forwarded_first.get() {
            true => self.next_rest().or_else(forwarded).or_else(own),
            false => self.next_rest().or_else(own).or_else(forwarded),
        }
    }

    fn next_rest(&self) -> Option<Waiting> {
        let frame = self.rest.take()?;
        self.frame_bytes.update(|before| before - frame.bytes);
        Some(frame)
    }

    /// An outbound lane came up or went down.
    pub(crate) fn lane(&self, change: LaneChange) {
        self.lanes.borrow_mut().push(change);
        self.inbox.wake();
    }

    /// Takes every submission there is, of a shard that stops.
    pub(crate) fn take_submissions(&self, mut take: impl FnMut(Submission)) {
        while let Some(submission) = self.next_submission() {
            take(submission);
        }
    }

    /// Takes as many submissions as one turn may have. True if those were all; else the shard is woken for the rest.
    pub(crate) fn take_turns_submissions(&self, mut take: impl FnMut(Submission)) -> bool {
        let mut taken = Cost::default();
        let OfShard { turn_commands_max, turn_bytes_max, .. } = self.inbox.limits;
        while taken.commands < turn_commands_max && taken.bytes < turn_bytes_max {
            let Some(submission) = self.next_submission() else { return true };
            taken = taken + submission.commands.cost();
            take(submission);
        }
        logdrive_raft::reached!("a turn's commands at their bound");
        if logdrive_raft::bug!("command_past_a_turns_bound_dropped") {
            drop(self.next_submission());
        }
        self.inbox.wake();
        false
    }

    /// Takes as many old entries that were read as one turn may have. True if those were all; else the shard is woken for
    /// the rest.
    pub(crate) fn take_turns_reads(&self, mut take: impl FnMut(ReadDone)) -> bool {
        let ApplyMax { entries, bytes } = limits::reads_max(self.inbox.limits.turn_apply_max);
        let mut taken = ApplyMax { entries: 0, bytes: 0 };
        while taken.entries < entries && taken.bytes < bytes {
            let Some(read) = self.next_read() else { return true };
            if let ReadDone::Fetch { read: Ok(entries), .. } = &read {
                taken.entries += entries.len();
                taken.bytes += entries.cost_bytes();
            }
            take(read);
        }
        self.inbox.wake();
        false
    }

    fn next_submission(&self) -> Option<Submission> {
        let own = self.submissions.borrow_mut().pop_front();
        own.or_else(|| self.inbox.submissions.pop())
    }

    /// Takes every change of a lane.
    pub(crate) fn take_lanes(&self, take: impl FnMut(LaneChange)) {
        self.lanes.borrow_mut().drain(..).for_each(take);
    }
}

/// One shard's way in.
pub(crate) struct Inbox {
    submissions: ArrayQueue<Submission>,
    /// Each frame with the bytes that it counts for.
    forwarded: ArrayQueue<(Frame, usize)>,
    forwarded_bytes: AtomicUsize,
    controls: (Sender<Control>, Receiver<Control>),
    /// Set by whoever wakes the shard, cleared by the shard before it looks.
    woken: AtomicBool,
    notify: Notify,
    /// Commands and bytes that wait or are in the log unanswered.
    commands: AtomicUsize,
    bytes: AtomicUsize,
    commands_max: usize,
    bytes_max: usize,
    limits: limits::OfShard,
    /// The shard is asked to stop. Beside the controls, so that a full queue cannot hold it up.
    stop_asked: AtomicBool,
    stopped: OnceLock<String>,
}

impl Inbox {
    pub(crate) fn new(commands_max: usize, bytes_max: usize, limits: limits::OfShard) -> Self {
        Self {
            submissions: ArrayQueue::new(commands_max),
            forwarded: ArrayQueue::new(limits.forwarded_frames_max),
            forwarded_bytes: AtomicUsize::new(0),
            controls: crossbeam_channel::bounded(limits.controls_max),
            limits,
            woken: AtomicBool::new(false),
            notify: Notify::new(),
            commands: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            commands_max,
            bytes_max,
            stop_asked: AtomicBool::new(false),
            stopped: OnceLock::new(),
        }
    }

    /// The bounds of what waits here.
    pub(crate) fn limits(&self) -> &limits::OfShard {
        &self.limits
    }

    /// Takes room for commands, until [`Self::answered`] gives it back.
    ///
    /// # Errors
    /// `Overloaded` if there is none, `BatchTooLarge` if there never can be, `Stopped` if the shard is.
    pub(crate) fn admit(&self, cost: Cost) -> Result<(), ProposeError> {
        let Cost { commands, bytes } = cost;
        if commands > self.commands_max || bytes > self.bytes_max {
            let (commands_max, bytes_max) = (self.commands_max, self.bytes_max);
            return Err(ProposeError::BatchTooLarge { commands, bytes, commands_max, bytes_max });
        }
        if let Some(why) = self.stopped.get() {
            return Err(ProposeError::Stopped(StopCause::Node(why.clone())));
        }
        let waiting = self.commands.fetch_add(commands, Ordering::Relaxed) + commands;
        let waiting_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > self.commands_max || waiting_bytes > self.bytes_max {
            self.answered(cost);
            return Err(ProposeError::Overloaded { retry_after: Duration::from_millis(1) });
        }
        Ok(())
    }

    /// Commands are answered: their room is free again.
    pub(crate) fn answered(&self, cost: Cost) {
        self.commands.fetch_sub(cost.commands, Ordering::Relaxed);
        self.bytes.fetch_sub(cost.bytes, Ordering::Relaxed);
    }

    /// Commands and bytes that are not answered yet.
    pub(crate) fn waiting(&self) -> Cost {
        let commands = self.commands.load(Ordering::Relaxed);
        Cost { commands, bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// Hands over a submission that was admitted. If the shard has stopped since, its sink is told
    /// so here: nobody takes it out any more.
    ///
    /// # Errors
    /// `Overloaded` if the queue is full; its room is given back.
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), ProposeError> {
        let cost = submission.commands.cost();
        if self.submissions.push(submission).is_err() {
            self.answered(cost);
            return Err(ProposeError::Overloaded { retry_after: Duration::from_millis(1) });
        }
        if let Some(why) = self.stopped.get() {
            // The shard empties the queue after it has stopped; what was pushed later is ours to
            // answer. The thread that takes a submission out answers it, so none is answered twice.
            while let Some(left) = self.submissions.pop() {
                self.answered(left.commands.cost());
                left.refuse(&ProposeError::Stopped(StopCause::Node(why.clone())));
            }
        }
        self.wake();
        Ok(())
    }

    /// Hands over a frame's messages, which keep `bytes` in memory; false if they were dropped. One frame is taken
    /// however large it is, as long as less than the bound waits.
    pub(crate) fn forward(&self, frame: Frame, bytes: usize) -> bool {
        let before = self.forwarded_bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room = before < self.limits.forwarded_bytes_max
            || logdrive_raft::bug!("forwarded_bytes_unbounded");
        let taken = has_room && self.forwarded.push((frame, bytes)).is_ok();
        if !taken {
            self.forwarded_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.wake();
        taken
    }

    /// The bytes of the forwarded frames that wait.
    #[cfg(feature = "testing")]
    pub(crate) fn forwarded_bytes(&self) -> usize {
        self.forwarded_bytes.load(Ordering::Relaxed)
    }

    /// Hands over a control, and waits for room. On a shard's thread (`on_a_shard`) it does not wait, because two
    /// shards could wait for each other.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) fn control(&self, control: Control, on_a_shard: bool) -> Result<(), NotTaken> {
        let mut control = control;
        loop {
            if let Some(why) = self.stopped.get() {
                return Err(NotTaken::Stopped(why.clone()));
            }
            if on_a_shard {
                self.try_control(control).map_err(|_| NotTaken::Full)?;
                break;
            }
            match self.controls.0.send_timeout(control, Duration::from_millis(100)) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back)) => control = back,
                Err(SendTimeoutError::Disconnected(_)) => {
                    unreachable!("the inbox owns the receiver")
                }
            }
        }
        if self.stopped.get().is_some() {
            // It may have come after the shard's last look, and its asker must not wait for ever.
            self.drop_controls();
        }
        self.wake();
        Ok(())
    }

    /// Asks the shard something. An answer that cannot come is [`crate::Gone`].
    pub(crate) fn ask<T>(
        &self,
        question: impl FnOnce(Giver<T>) -> Question,
        on_a_shard: bool,
    ) -> Later<T> {
        let (giver, answer) = later::pair();
        // A question for which there is no room is dropped, and `Later` gives `Gone` then.
        let _ = self.control(Control::Ask(question(giver)), on_a_shard);
        answer
    }

    /// Drops the controls that wait, of a shard that has stopped.
    pub(crate) fn drop_controls(&self) {
        while self.next_control().is_some() {}
    }

    /// Hands over a control if there is room. For threads that must not wait.
    ///
    /// # Errors
    /// The control, if there is none.
    pub(crate) fn try_control(&self, control: Control) -> Result<(), Control> {
        let sent = self.controls.0.try_send(control).map_err(TrySendError::into_inner);
        self.wake();
        sent
    }

    /// Asks the shard to stop; it does so in its next turn.
    pub(crate) fn ask_to_stop(&self) {
        self.stop_asked.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_asked_to_stop(&self) -> bool {
        self.stop_asked.load(Ordering::Acquire)
    }

    /// Wakes the shard, unless a wake-up is on its way already.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// True if something has come since the last look.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Waits until there may be something. The shard's side.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// From here on a new arrival wakes the shard again. Called before looking.
    pub(crate) fn look(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn next_control(&self) -> Option<Control> {
        self.controls.1.try_recv().ok()
    }

    /// The shard stops: from now on nothing is taken in.
    pub(crate) fn stop(&self, why: &str) {
        let _ = self.stopped.set(why.to_owned());
    }
}

/// Why a control was not taken.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum NotTaken {
    /// The shard has stopped, and why.
    Stopped(String),
    /// There is no room, and the caller must not wait.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    fn peer(id: u64) -> PeerProcess {
        PeerProcess { node: NodeId(id), incarnation: 1 }
    }

    fn cost(commands: usize, bytes: usize) -> Cost {
        Cost { commands, bytes }
    }

    fn task() -> Control {
        Control::Spawn(Box::new(|| Box::pin(async {})))
    }

    #[test]
    fn room_that_is_given_back_can_be_taken_again() {
        let inbox: Inbox = Inbox::new(2, 100, limits::OfShard::REAL);
        inbox.admit(cost(2, 50)).unwrap();
        assert!(matches!(inbox.admit(cost(1, 1)), Err(ProposeError::Overloaded { .. })));
        inbox.answered(cost(1, 25));
        inbox.admit(cost(1, 75)).unwrap();
        assert!(matches!(inbox.admit(cost(0, 1)), Err(ProposeError::Overloaded { .. })));
    }

    #[test]
    fn forwarded_frames_are_bounded_by_their_bytes_and_all_can_come_again_later() {
        use logdrive_raft::{Heartbeat, LogId, LogIndex, Term};
        let arrivals = Arrivals::new(Arc::new(Inbox::new(1, 1, limits::OfShard::REAL)));
        let inbox = arrivals.inbox();
        let beat = Message::Heartbeat(Heartbeat {
            term: Term(1),
            commit: LogIndex(1),
            matched: LogId::ZERO,
        });
        // As large as frames may be.
        let bytes = 16 << 20;
        let forward = || inbox.forward((peer(2), vec![(GroupId(1), beat.clone())]), bytes);
        for _ in 0..2 {
            let taken = (0..2 * limits::FORWARDED_FRAMES_MAX).filter(|_| forward()).count();
            assert!((1..=2).contains(&taken), "{} MiB wait for one shard", (taken * bytes) >> 20);
            let mut left = 0;
            arrivals.take_turns_frames(|_, _, _| {
                left += 1;
                1
            });
            assert_eq!(left, taken);
        }
    }

    /// A turn holds up votes and heartbeats: it takes a part, and the shard is woken for the rest.
    #[test]
    fn a_turn_takes_a_bounded_part_of_what_waits_in_its_order() {
        use crate::{Completions, Outcome, clock::Nanos, shard::Commands};
        use logdrive_raft::Command;
        struct Nobody;
        impl Completions for Nobody {
            fn complete(&self, _: &mut Vec<(u64, Outcome)>) {}
        }
        let limits =
            limits::OfShard { turn_commands_max: 3, turn_bytes_max: 20, ..limits::OfShard::REAL };
        let arrivals = Arrivals::new(Arc::new(Inbox::new(100, 1 << 20, limits)));
        let submission = |token, bytes| Submission {
            group: GroupId(1),
            sink: Arc::new(Nobody),
            token,
            commands: Commands::One(Command { checksum: 0, payload: vec![0; bytes].into() }),
            at: Nanos::ZERO,
        };
        // Five of this thread, then two of another, one of them large.
        (0..5).for_each(|token| arrivals.submit(submission(token, 1)));
        arrivals.inbox().submit(submission(5, 30)).unwrap();
        arrivals.inbox().submit(submission(6, 1)).unwrap();
        let turn = || {
            arrivals.inbox().look();
            let mut taken = Vec::new();
            arrivals.take_turns_submissions(|submission| taken.push(submission.token));
            (taken, arrivals.inbox().woken.load(Ordering::Relaxed))
        };
        assert_eq!(turn(), (vec![0, 1, 2], true));
        assert_eq!(turn(), (vec![3, 4, 5], true));
        assert_eq!(turn(), (vec![6], false));
    }

    /// A turn took every message there was: 4 MiB of heartbeats, and a frame of 16 more, kept its thread from the clock.
    #[test]
    fn a_turn_takes_a_bounded_part_of_the_messages_that_wait_in_their_order() {
        use logdrive_raft::{HeartbeatReply, Term};
        let limits = limits::OfShard {
            turn_steps_max: 5,
            frames_max: 4,
            frame_bytes_max: 150,
            ..limits::OfShard::REAL
        };
        let arrivals = Arrivals::new(Arc::new(Inbox::new(1, 1, limits)));
        let inboxes = [arrivals.inbox().clone()];
        let reply = Message::HeartbeatReply(HeartbeatReply { term: Term(1) });
        let frame = |groups: std::ops::Range<u64>| {
            let messages = groups.map(|group| (GroupId(group), reply.clone())).collect();
            arrivals.frame(peer(2), messages, 0, &inboxes)
        };
        assert!(!frame(0..2) && frame(2..12), "the second is over the bound of bytes");
        arrivals.inbox().forward((peer(3), vec![(GroupId(12), reply.clone()); 2]), 50);
        let turn = |steps: usize| {
            arrivals.inbox().look();
            let mut taken = Vec::new();
            let were_all = arrivals.take_turns_frames(|_, group, _| {
                taken.push(group.get());
                steps
            });
            assert_ne!(arrivals.inbox().woken.load(Ordering::Relaxed), were_all);
            (taken, !were_all)
        };
        assert_eq!(turn(1), (vec![0, 1, 2, 3, 4], true));
        frame(20..22);
        assert_eq!(turn(3), (vec![5, 6], true), "some messages take more than a step");
        assert_eq!(turn(1), (vec![7, 8, 9, 10, 11], true));
        assert_eq!(turn(1), (vec![20, 21, 12, 12], false));
        assert!(!arrivals.has_many_frames());
        assert_eq!(
            arrivals.frame_bytes.get() + arrivals.inbox().forwarded_bytes.load(Ordering::Relaxed),
            0
        );
    }

    /// Everything that had been read back went to its machine in one turn: up to 130 MiB.
    #[test]
    fn a_turn_takes_a_bounded_part_of_what_was_read_back() {
        use logdrive_raft::{Entry, EntryBatch, EntryKind, FetchFor, Term};
        let turn_apply_max = ApplyMax { entries: 8, bytes: 1 << 20 };
        let limits = limits::OfShard { turn_apply_max, ..limits::OfShard::REAL };
        let arrivals = Arrivals::new(Arc::new(Inbox::new(1, 1, limits)));
        for group in (1..=4).map(GroupId) {
            let entry = |index| Entry {
                term: Term(1),
                index: LogIndex(index),
                kind: EntryKind::Command,
                checksum: 0,
                payload: Default::default(),
            };
            let read = Ok(EntryBatch::from_entries(vec![entry(1), entry(2), entry(3)]).unwrap());
            let read = ReadDone::Fetch { group, purpose: FetchFor::Apply, read };
            assert!(arrivals.reads().push(read).is_ok());
        }
        let turn = || {
            arrivals.inbox().look();
            let mut taken = 0;
            let were_all = arrivals.take_turns_reads(|_| taken += 1);
            assert_ne!(arrivals.inbox().woken.load(Ordering::Relaxed), were_all);
            taken
        };
        assert_eq!([turn(), turn(), turn()], [2, 2, 0]);
    }

    /// Nobody takes frames from a shard that has stopped: its connections must not wait for room.
    #[test]
    fn a_stopped_shard_keeps_no_frames_and_has_room_for_any() {
        use logdrive_raft::{HeartbeatReply, Term};
        let limits = limits::OfShard { frames_max: 2, ..limits::OfShard::REAL };
        let arrivals = Arrivals::new(Arc::new(Inbox::new(1, 1, limits)));
        let inboxes = [arrivals.inbox().clone()];
        let reply = Message::HeartbeatReply(HeartbeatReply { term: Term(1) });
        let frame = || arrivals.frame(peer(2), vec![(GroupId(1), reply.clone())], 0, &inboxes);
        assert!(!frame() && frame() && arrivals.has_many_frames());
        arrivals.inbox().stop("disk on fire");
        assert!(!arrivals.has_many_frames());
        arrivals.drop_frames();
        assert!(!frame());
        assert!(arrivals.take_turns_frames(|_, _, _| panic!("it was kept")));
    }

    /// A shard whose own connections were always busy never came to the frames that others had forwarded.
    #[test]
    fn forwarded_frames_are_heard_however_many_frames_of_its_own_a_shard_has() {
        use logdrive_raft::{HeartbeatReply, Term};
        let limits = limits::OfShard { turn_steps_max: 5, ..limits::OfShard::REAL };
        let arrivals = Arrivals::new(Arc::new(Inbox::new(1, 1, limits)));
        let inboxes = [arrivals.inbox().clone()];
        let reply = Message::HeartbeatReply(HeartbeatReply { term: Term(1) });
        for _ in 0..4 {
            arrivals.inbox().forward((peer(3), vec![(GroupId(1), reply.clone())]), 50);
        }
        let mut heard = 0;
        for _ in 0..12 {
            for _ in 0..3 {
                let messages = vec![(GroupId(2), reply.clone()); 4];
                arrivals.frame(peer(2), messages, 0, &inboxes);
            }
            arrivals.take_turns_frames(|from, _, _| {
                heard += u64::from(from == peer(3));
                1
            });
        }
        assert_eq!(heard, 4);
    }

    #[test]
    fn a_stopped_shard_admits_nothing_and_says_why() {
        let inbox: Inbox = Inbox::new(2, 100, limits::OfShard::REAL);
        inbox.stop("disk on fire");
        let cause = StopCause::Node("disk on fire".to_owned());
        assert_eq!(inbox.admit(cost(1, 1)), Err(ProposeError::Stopped(cause)));
        assert_eq!(inbox.control(task(), false), Err(NotTaken::Stopped("disk on fire".to_owned())));
    }

    #[test]
    fn what_can_never_fit_is_not_told_to_come_again() {
        let inbox: Inbox = Inbox::new(2, 100, limits::OfShard::REAL);
        let too_large = |commands, bytes| ProposeError::BatchTooLarge {
            commands,
            bytes,
            commands_max: 2,
            bytes_max: 100,
        };
        assert_eq!(inbox.admit(cost(3, 1)), Err(too_large(3, 1)));
        assert_eq!(inbox.admit(cost(1, 101)), Err(too_large(1, 101)));
        inbox.admit(cost(2, 100)).unwrap(); // Nothing of the two was kept.
    }

    #[test]
    fn a_shard_does_not_wait_for_a_full_queue_and_can_still_be_stopped() {
        let inbox: Inbox = Inbox::new(1, 1, limits::OfShard::REAL);
        for _ in 0..limits::CONTROLS_MAX {
            inbox.control(task(), true).unwrap();
        }
        assert_eq!(inbox.control(task(), true), Err(NotTaken::Full));
        inbox.ask_to_stop();
        assert!(inbox.is_asked_to_stop());
    }
}
