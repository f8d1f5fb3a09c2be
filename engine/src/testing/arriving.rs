//! Bounds on frames that wait for a shard, and on the messages of one turn.
//!
//! In:     a shard before or after its turn.
//! Out:    nothing, or invariant 23 is broken.
//! Cost:   constant.
//! Source: RULES.md invariant 23; `limits.rs` for the arithmetic.

use super::invariants::Broken;
use crate::{
    NodeId,
    inbox::{Arrivals, Inbox},
    limits::OfShard,
};
use std::sync::Arc;

/// The frames of a shard's own connections that wait for its turn are bounded by their bytes: one more is read while less
/// than the bound waits, and none is larger than `frame_bytes_max`, the largest that has come to the node. With them counts
/// the rest of a forwarded frame, of which the last turn has taken a part.
pub(super) fn check_frames(node: NodeId, arrivals: &Arrivals, frame_bytes_max: usize) {
    let (bytes, max) = (arrivals.frame_bytes(), arrivals.inbox().limits().frame_bytes_max);
    if bytes >= max + 2 * frame_bytes_max.max(1) {
        let what = format!(
            "frames of {bytes} bytes wait at a shard of {node:?}: at most {max} and two of {frame_bytes_max}"
        );
        Broken { invariant: "23 bounds".to_owned(), what }.throw();
    }
}

/// The bytes of forwarded frames that wait at each shard.
pub(super) fn forwarded_bytes(inboxes: &[Arc<Inbox>]) -> Vec<usize> {
    inboxes.iter().map(|inbox| inbox.forwarded_bytes()).collect()
}

/// A frame has come, and some of it may have been forwarded: a shard takes it only if less than the bound waited there
/// `before`.
pub(super) fn check_forwarded(node: NodeId, before: &[usize], inboxes: &[Arc<Inbox>]) {
    for (before, inbox) in before.iter().zip(inboxes) {
        let (after, max) = (inbox.forwarded_bytes(), inbox.limits().forwarded_bytes_max);
        if after > *before && *before >= max {
            let what = format!(
                "{after} bytes of frames are forwarded to a shard of {node:?}, {before} before: at most {max} and one frame"
            );
            Broken { invariant: "23 bounds".to_owned(), what }.throw();
        }
    }
}

/// A turn takes in so many messages at most: each of them is a step of work, or more.
pub(super) fn check_turn(node: NodeId, taken: usize, limits: &OfShard) {
    let max = limits.turn_steps_max;
    if taken > max {
        let what = format!("a turn of {node:?} takes in {taken} messages, at most {max}");
        Broken { invariant: "23 bounds".to_owned(), what }.throw();
    }
}
