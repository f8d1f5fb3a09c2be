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

/// Takes the outcomes of many commands, so that one wake-up answers many. `engine/examples/completions.rs` has one.
pub trait Completions: Send + Sync {
    /// Takes outcomes by the tokens that their commands were submitted with, in any order and each once; what is left in
    /// the list is dropped.
    ///
    /// Called on the thread of the group's shard, within its turn, once for a run of outcomes. If the node stops just
    /// then, it may be called on the thread that submits. It must be quick and must not block: all groups of the shard
    /// wait with it. It may submit further commands.
    ///
    /// # Panics
    /// A panic here ends the process: half of the outcomes of a turn would be lost, and others would wait for them for
    /// ever. (On the thread that submits it is that thread's own panic.) A sink that runs code which may panic catches that itself, or passes the outcomes on to another thread.
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>);
}
