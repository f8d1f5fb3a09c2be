//! A group's handle: where a proposal enters.
//!
//! In:     commands, from any thread or from a task on the group's own shard.
//! Out:    one [`Outcome`] per command, by future, by waiting, by callback or into a [`Completions`].
//! Cost:   on the shard's own thread no hop and no lock; from elsewhere one queue and one wake-up.
//! Fails:  [`ProposeError`], which says first whether it happened.

use crate::{
    Completions, GroupId, GroupStatus, Later, NodeId, Outcome, ProposeError, StopCause, blocking,
    clock::{self, Nanos},
    here,
    inbox::{Control, Inbox, NotTaken},
    shard::{Commands, Cost, GroupView, Submission},
    status::Question,
};
use bytes::Bytes;
use logdrive_raft::Command;
use std::{
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// One group on this node. Cheap to clone.
///
/// Every method may be called by any thread, tasks on shards' threads included, unless it says otherwise; none blocks
/// unless it says so. A method with no cost written beside it reads one shared number.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: GroupId,
    me: NodeId,
    shard: usize,
    command_bytes_max: usize,
    view: Arc<GroupView>,
    inbox: Arc<Inbox>,
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        me: NodeId,
        shard: usize,
        command_bytes_max: usize,
        view: Arc<GroupView>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self { inner: Arc::new(Inner { id, me, shard, command_bytes_max, view, inbox }) }
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// The shard whose thread runs it.
    #[must_use]
    pub fn shard(&self) -> usize {
        self.inner.shard
    }

    /// The group's leader, as far as this replica knows: `None` while there is none, or while it has heard of none. On a
    /// node that has fenced the group, another member, which knows the leader.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.view.leader()
    }

    /// True if this node leads the group, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.inner.me)
    }

    /// True if this node's disk has lost entries of the group that it had said to be durable, as a leader has found.
    /// Until its replica has what is committed and every other member has stated its term, it takes entries, but
    /// neither acknowledges, votes nor leads.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.inner.view.is_marked()
    }

    /// Whether the group serves on this node, and if not, why. Costs a lock held for a moment; may be called by any
    /// thread. Where a machine has failed, the group's other members go on.
    #[must_use]
    pub fn state(&self) -> GroupState {
        match self.inner.view.stop_cause() {
            Some(cause) => GroupState::Stopped(cause),
            None if self.is_marked() => GroupState::Marked,
            None => GroupState::Running,
        }
    }

    /// The term, the cursors and the leader of the replica here, as of the shard's next turn. May be called by any
    /// thread. Costs the shard one wake-up, and proposals nothing; waits for room in the shard's queue, but not on a
    /// shard's thread.
    ///
    /// Gives [`crate::Gone`] once the node has stopped; on a shard's thread also while the queue of the group's shard is
    /// full.
    #[must_use = "the answer comes through it"]
    pub fn status(&self) -> Later<GroupStatus> {
        let about = self.inner.id;
        self.inner.inbox.ask(|giver| Question::Group(about, giver), here::on_a_shard())
    }

    /// The handle's view of the replica, for the node.
    pub(crate) fn view(&self) -> &GroupView {
        &self.inner.view
    }

    /// Hands a control to the group's shard; see [`Inbox::control`].
    pub(crate) fn control(&self, control: Control) -> Result<(), NotTaken> {
        self.inner.inbox.control(control, here::on_a_shard())
    }

    /// Blocks until some node leads the group, looking once a millisecond; `None` after `timeout`.
    ///
    /// # Panics
    /// On a shard's thread, which it would hold up.
    #[must_use]
    pub fn wait_for_leader(&self, timeout: Duration) -> Option<NodeId> {
        blocking::assert_may_block("waiting for a leader");
        let until = clock::now().after(Nanos::from(timeout));
        while self.leader().is_none() && clock::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.leader()
    }

    /// Proposes one command, and returns a handle to its outcome. Never blocks; a refusal that is known at once is such an
    /// outcome too. Dropping the [`Proposal`] does not take the command back. Costs two allocations and, from another thread
    /// than the shard's, a wake-up of the shard unless it is awake.
    pub fn propose(&self, command: impl Into<Bytes>) -> Proposal {
        let waiting = Arc::new(Waiting::new(1));
        let sink: Arc<dyn Completions> = waiting.clone();
        if let Err(error) = self.submit(&sink, 0, command.into()) {
            waiting.complete(&mut vec![(0, Err(error))]);
        }
        Proposal { waiting }
    }

    /// Proposes commands that enter the log together, in order. Each has its own outcome: a batch is not all or nothing,
    /// except that a refusal that is known at once is for all of it. An empty batch is done at once. Costs as
    /// [`Self::propose`], once for the batch, and a checksum for each command.
    pub fn propose_batch(&self, commands: Vec<Bytes>) -> ProposalBatch {
        let count = commands.len();
        let waiting = Arc::new(Waiting::new(count));
        let sink: Arc<dyn Completions> = waiting.clone();
        if count > 0
            && let Err(error) = self.submit_batch(&sink, 0, commands)
        {
            let refused = |token| (token, Err(error.clone()));
            waiting.complete(&mut (0..count as u64).map(refused).collect());
        }
        ProposalBatch { waiting }
    }

    /// Submits one command; its outcome goes to `sink` under `token`, which is the caller's own and need not be unique.
    /// Never blocks. Costs a checksum of the command and, from another thread than the shard's, a queue and a wake-up of
    /// the shard unless it is awake; nothing is allocated.
    ///
    /// # Errors
    /// The refusals known at once: `NotLeader`, `Overloaded`, `TooLarge`, `BatchTooLarge`, `Stopped`. Nothing will
    /// come to `sink` then. Once this is `Ok`, exactly one outcome comes, even if the node stops.
    pub fn submit(
        &self,
        sink: &Arc<dyn Completions>,
        token: u64,
        command: Bytes,
    ) -> Result<(), ProposeError> {
        self.check(&command)?;
        self.inner.inbox.admit(Cost { commands: 1, bytes: command.len() })?;
        self.enter(sink, token, Commands::One(checked(command)))
    }

    /// Submits commands that enter the log together, in order; the outcome of the first goes to
    /// `sink` under `token`, of the next under `token + 1`, and so on.
    ///
    /// # Errors
    /// As [`Self::submit`]; none of them was taken.
    pub fn submit_batch(
        &self,
        sink: &Arc<dyn Completions>,
        token: u64,
        commands: Vec<Bytes>,
    ) -> Result<(), ProposeError> {
        commands.iter().try_for_each(|command| self.check(command))?;
        let bytes = commands.iter().map(Bytes::len).sum();
        self.inner.inbox.admit(Cost { commands: commands.len(), bytes })?;
        self.enter(sink, token, Commands::Many(commands.into_iter().map(checked).collect()))
    }

    fn check(&self, command: &Bytes) -> Result<(), ProposeError> {
        let max = self.inner.command_bytes_max;
        if command.len() > max {
            return Err(ProposeError::TooLarge { bytes: command.len(), max });
        }
        match self.leader() {
            Some(leader) if leader == self.inner.me => Ok(()),
            _ if self.inner.view.is_stopped() => {
                let cause = self.inner.view.stop_cause().unwrap_or(StopCause::Absent);
                Err(ProposeError::Stopped(cause))
            }
            hint => Err(ProposeError::NotLeader { hint }),
        }
    }

    fn enter(
        &self,
        sink: &Arc<dyn Completions>,
        token: u64,
        commands: Commands,
    ) -> Result<(), ProposeError> {
        let submission = Submission {
            group: self.inner.id,
            sink: sink.clone(),
            token,
            commands,
            at: clock::now(),
        };
        match here::submit(&self.inner.inbox, submission) {
            Ok(()) => Ok(()),
            Err(elsewhere) => self.inner.inbox.submit(elsewhere),
        }
    }
}

/// Whether a group serves on this node; see [`Group::state`].
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum GroupState {
    /// It follows, votes and leads.
    Running,
    /// It takes entries, and neither acknowledges, votes nor leads; see [`Group::is_marked`].
    Marked,
    /// It serves no more, for this reason.
    Stopped(StopCause),
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("id", &self.id()).field("leader", &self.leader()).finish()
    }
}

fn checked(payload: Bytes) -> Command {
    let checksum = if payload.is_empty() { 0 } else { logdrive_wal::checksum(&payload) };
    Command { checksum, payload }
}

/// A command on its way; dropping this does not take the command back. Its outcome comes by awaiting this as a future, by
/// [`Proposal::wait`], or by [`Proposal::on_done`].
#[must_use = "the outcome is only known to this"]
#[derive(Debug)]
pub struct Proposal {
    waiting: Arc<Waiting>,
}

impl Proposal {
    /// Blocks until the outcome is known. After eight to nine election timeouts the outcome of a command that is not
    /// committed is *unknown*, so that this takes longer only if the node's disk or thread is stuck.
    ///
    /// # Errors
    /// [`ProposeError`], which says whether it may have happened.
    ///
    /// # Panics
    /// On a shard's thread, which it would stop for ever.
    pub fn wait(self) -> Outcome {
        self.waiting.block().pop().expect("one outcome")
    }

    /// As [`Self::wait`], for at most `timeout`. The command goes on, whether its outcome is waited for or not: a
    /// caller that gives up does not learn the outcome.
    ///
    /// # Errors
    /// The proposal itself, to be waited for again, if the outcome is not known by then.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Outcome, Self> {
        match self.waiting.block_for(timeout) {
            Some(mut outcomes) => Ok(outcomes.pop().expect("one outcome")),
            None => Err(self),
        }
    }

    /// Calls `f` with the outcome: on the shard's thread, within its turn, or at once in this call if the outcome is known
    /// already. `f` must not block, and a panic in it ends the process.
    pub fn on_done(self, f: impl FnOnce(Outcome) + Send + 'static) {
        self.waiting.then(|mut outcomes| f(outcomes.pop().expect("one outcome")));
    }
}

impl Future for Proposal {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        self.waiting.poll(context).map(|mut outcomes| outcomes.pop().expect("one outcome"))
    }
}

/// Commands on their way together; a future of all their outcomes, in order.
#[must_use = "the outcomes are only known to this"]
#[derive(Debug)]
pub struct ProposalBatch {
    waiting: Arc<Waiting>,
}

impl ProposalBatch {
    /// Blocks until all outcomes are known.
    ///
    /// # Panics
    /// On a shard's thread, which it would stop for ever.
    #[must_use]
    pub fn wait(self) -> Vec<Outcome> {
        self.waiting.block()
    }

    /// As [`Self::wait`], for at most `timeout`.
    ///
    /// # Errors
    /// The batch itself, to be waited for again, if some outcome is not known by then.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Vec<Outcome>, Self> {
        self.waiting.block_for(timeout).ok_or(self)
    }

    /// Calls `f` with all outcomes, in order, as [`Proposal::on_done`] does.
    pub fn on_done(self, f: impl FnOnce(Vec<Outcome>) + Send + 'static) {
        self.waiting.then(f);
    }
}

impl Future for ProposalBatch {
    type Output = Vec<Outcome>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Outcome>> {
        self.waiting.poll(context)
    }
}

/// Outcomes by token, and the thread, task or callback that waits for all of them.
#[derive(Debug)]
struct Waiting {
    state: Mutex<State>,
    known: Condvar,
}

struct State {
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    waker: Option<Waker>,
    then: Option<Box<dyn FnOnce(Vec<Outcome>) + Send>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl State {
    fn take(&mut self) -> Vec<Outcome> {
        self.outcomes.drain(..).map(|outcome| outcome.expect("none is missing")).collect()
    }
}

impl Waiting {
    fn new(count: usize) -> Self {
        let outcomes = (0..count).map(|_| None).collect();
        let state = State { outcomes, missing: count, waker: None, then: None };
        Self { state: Mutex::new(state), known: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block(&self) -> Vec<Outcome> {
        blocking::assert_may_block("waiting for an outcome");
        let mut state = self.lock();
        while state.missing > 0 {
            state = self.known.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.take()
    }

    /// As [`Self::block`]; `None` if some outcome is not known after `timeout`.
    fn block_for(&self, timeout: Duration) -> Option<Vec<Outcome>> {
        blocking::assert_may_block("waiting for an outcome");
        let is_missing = |state: &mut State| state.missing > 0;
        let waited = self.known.wait_timeout_while(self.lock(), timeout, is_missing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (state.missing == 0).then(|| state.take())
    }

    fn then(&self, f: impl FnOnce(Vec<Outcome>) + Send + 'static) {
        let mut state = self.lock();
        if state.missing == 0 {
            let outcomes = state.take();
            drop(state);
            f(outcomes);
        } else {
            state.then = Some(Box::new(f));
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Vec<Outcome>> {
        let mut state = self.lock();
        if state.missing == 0 {
            return Poll::Ready(state.take());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Completions for Waiting {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        let mut state = self.lock();
        for (token, outcome) in outcomes.drain(..) {
            let at = usize::try_from(token).expect("tokens are positions");
            assert!(state.outcomes[at].replace(outcome).is_none(), "token {token} answered twice");
            state.missing -= 1;
        }
        if state.missing > 0 {
            return;
        }
        let waker = state.waker.take();
        if let Some(then) = state.then.take() {
            let outcomes = state.take();
            drop(state);
            then(outcomes);
        } else {
            drop(state);
            self.known.notify_all();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Applied, LogIndex};

    fn applied(index: u64) -> Outcome {
        Ok(Applied { index: LogIndex(index), reply: Bytes::new() })
    }

    #[test]
    fn a_batch_is_ready_when_its_last_outcome_is() {
        let waiting = Waiting::new(2);
        waiting.complete(&mut vec![(1, applied(8))]);
        assert_eq!(waiting.lock().missing, 1);
        waiting.complete(&mut vec![(0, applied(7))]);
        assert_eq!(waiting.block(), [applied(7), applied(8)]);
    }

    #[test]
    fn a_proposal_that_is_given_up_can_be_waited_for_again() {
        let waiting = Arc::new(Waiting::new(1));
        let proposal = Proposal { waiting: waiting.clone() };
        let proposal = proposal.wait_timeout(Duration::from_millis(1)).expect_err("not known yet");
        waiting.complete(&mut vec![(0, applied(3))]);
        assert_eq!(proposal.wait_timeout(Duration::ZERO).map_err(drop), Ok(applied(3)));
    }

    #[test]
    fn a_batchs_callback_gets_all_outcomes_in_order_and_an_empty_batch_is_done() {
        let waiting = Arc::new(Waiting::new(2));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let put = seen.clone();
        let batch = ProposalBatch { waiting: waiting.clone() };
        batch.on_done(move |outcomes| *put.lock().unwrap() = outcomes);
        waiting.complete(&mut vec![(1, applied(8))]);
        assert!(seen.lock().unwrap().is_empty());
        waiting.complete(&mut vec![(0, applied(7))]);
        assert_eq!(*seen.lock().unwrap(), [applied(7), applied(8)]);
        let (none, said) = (ProposalBatch { waiting: Arc::new(Waiting::new(0)) }, seen.clone());
        none.on_done(move |outcomes| *said.lock().unwrap() = outcomes);
        assert!(seen.lock().unwrap().is_empty());
    }

    #[test]
    fn a_callback_given_late_is_called_at_once() {
        let waiting = Arc::new(Waiting::new(1));
        waiting.complete(&mut vec![(0, applied(3))]);
        let seen = Arc::new(Mutex::new(None));
        let put = seen.clone();
        Proposal { waiting }.on_done(move |outcome| *put.lock().unwrap() = Some(outcome));
        assert_eq!(*seen.lock().unwrap(), Some(applied(3)));
    }
}
