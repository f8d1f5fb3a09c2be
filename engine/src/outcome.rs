//! The outcome of a command, and the trait that takes outcomes.
//!
//! In:     the shard that applied, refused or lost the command.
//! Out:    an [`Outcome`], into a [`Completions`].
//! Fails:  [`ProposeError`], which says first whether the command happened.

use crate::{LogIndex, ProposeError};
use bytes::Bytes;

/// The outcome of a command.
pub type Outcome = Result<Applied, ProposeError>;

/// A command that is committed and applied here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applied {
    /// Where it stands in the group's log.
    pub index: LogIndex,
    /// The state machine's answer.
    pub reply: Bytes,
}

/// Takes the outcomes of many commands, so that one wake-up answers many.
pub trait Completions: Send + Sync {
    /// Outcomes by the tokens they were submitted with. Called on the group's shard thread, once
    /// per turn for a run of them: must be quick and must not block.
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>);
}
