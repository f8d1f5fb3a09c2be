//! Did it happen?

use crate::NodeId;

/// Why a proposal was not taken. Whatever this says, it did not happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads, or none does.
    #[error("not the leader (leader is {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// The group's uncommitted bytes are at their bound.
    #[error("the group's uncommitted proposals are at their bound")]
    Full,
}
