//! The place of a group among those of its shard.
//!
//! In:     how many groups the shard runs.
//! Out:    [`Slot`]: where a group's replica and its machine stand in their lists.
//! Cost:   four bytes.
//! Fails:  a shard of 2^32 groups is a broken invariant.

/// A group's place in its shard's lists. Groups get their places one behind the other, and keep them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Slot(u32);

impl Slot {
    /// The place behind `groups` groups.
    pub(crate) fn behind(groups: usize) -> Self {
        Self(u32::try_from(groups).expect("fewer groups than 2^32"))
    }

    /// The places of `groups` groups, in order.
    pub(super) fn all(groups: usize) -> impl Iterator<Item = Self> {
        (0..Self::behind(groups).0).map(Self)
    }

    /// The place in a list.
    #[inline]
    pub(crate) fn at(self) -> usize {
        self.0 as usize
    }
}
