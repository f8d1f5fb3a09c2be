//! Did it happen?

use crate::NodeId;

/// The reason for which a proposal was not taken. With each of them the proposal did not happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads, or none does.
    #[error("not the leader (leader is {leader:?})")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The group's uncommitted bytes are at their bound.
    #[error("the group's uncommitted proposals are at their bound")]
    Full,
}
