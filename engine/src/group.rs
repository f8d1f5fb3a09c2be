//! A group's handle: where a proposal enters.
//!
//! In:     commands, from any thread or from a task on the group's own shard.
//! Out:    one [`Outcome`] per command, by future, by waiting, by callback or into a [`Completions`].
//! Cost:   on the shard's own thread no hop and no lock; from elsewhere one queue and one wake-up.
//! Fails:  [`ProposeError`], which says first whether it happened.

use crate::{GroupId, LogIndex, NodeId, ProposeError};
use bytes::Bytes;
use std::sync::Arc;

/// What became of a command.
pub type Outcome = Result<Applied, ProposeError>;

/// A command that is committed and applied here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applied {
    /// Where it stands in the group's log.
    pub index: LogIndex,
    /// What the state machine answered.
    pub reply: Bytes,
}

/// Takes the outcomes of many commands, so that one wake-up answers many.
pub trait Completions: Send + Sync {
    /// Outcomes by the tokens they were submitted with. Called on the group's shard thread, once
    /// per round for a run of them: must be quick and must not block.
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>);
}

/// One group on this node. Cheap to clone.
#[derive(Clone)]
pub struct Group {}

impl Group {
    /// Which group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        todo!()
    }

    /// The shard whose thread runs it.
    #[must_use]
    pub fn shard(&self) -> usize {
        todo!()
    }

    /// Who leads it, as far as this replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        todo!()
    }

    /// True if this node leads it, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        todo!()
    }

    /// Proposes one command.
    pub fn propose(&self, _command: impl Into<Bytes>) -> Proposal {
        todo!()
    }

    /// Proposes commands that enter the log together, in order. Each has its own outcome.
    pub fn propose_batch(&self, _commands: Vec<Bytes>) -> ProposalBatch {
        todo!()
    }

    /// Submits one command; its outcome goes to `sink` under `token`.
    ///
    /// # Errors
    /// What can be said at once: `NotLeader`, `Overloaded`, `TooLarge`, `Stopped`. Nothing will
    /// come to `sink` then.
    pub fn submit(
        &self,
        _sink: &Arc<dyn Completions>,
        _token: u64,
        _command: Bytes,
    ) -> Result<(), ProposeError> {
        todo!()
    }
}

/// A command on its way: a future; or [`Proposal::wait`], or [`Proposal::on_done`].
#[must_use = "the outcome is only known to this"]
pub struct Proposal {}

impl Proposal {
    /// Blocks until the outcome is known. Not on a shard's thread, which it would stop: panics there.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn wait(self) -> Outcome {
        todo!()
    }

    /// Calls `f` with the outcome, on the shard's thread.
    pub fn on_done(self, _f: impl FnOnce(Outcome) + Send + 'static) {
        todo!()
    }
}

impl Future for Proposal {
    type Output = Outcome;
    fn poll(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Outcome> {
        todo!()
    }
}

/// Commands on their way together; a future of all their outcomes, in order.
#[must_use = "the outcomes are only known to this"]
pub struct ProposalBatch {}

impl ProposalBatch {
    /// Blocks until all outcomes are known.
    pub fn wait(self) -> Vec<Outcome> {
        todo!()
    }
}

impl Future for ProposalBatch {
    type Output = Vec<Outcome>;
    fn poll(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Vec<Outcome>> {
        todo!()
    }
}
