//! The refusal of calls that may block, on the threads that must not.
//!
//! In:     the threads that are shards'; calls that may wait for a disk, another thread or a peer.
//! Out:    nothing, or a panic before the call has waited for anything.
//! Cost:   a thread-local look-up.
//! Fails:  on a shard's thread by a panic: a shard that waits holds up all its groups, or waits for itself.

use std::cell::Cell;

thread_local! {
    static MUST_NOT_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// From now on this is a shard's thread, or none.
pub(crate) fn forbid(is_a_shards: bool) {
    MUST_NOT_BLOCK.set(is_a_shards);
}

/// To be called before anything that may block.
///
/// # Panics
/// On a shard's thread.
pub(crate) fn assert_may_block(call: &str) {
    assert!(!MUST_NOT_BLOCK.get(), "{call} on a shard's thread would hold up all its groups");
}
