//! Lines of the log about many groups to which the same happens in one turn.
//!
//! In:     a group, and what has happened to it.
//! Out:    each thing that has happened, with the number of its groups and one of them.
//! Cost:   an entry per thing.
//! Fails:  never.
//! Source: RULES.md M14.

use logdrive_raft::GroupId;
use std::collections::BTreeMap;

/// The groups of a turn, by what has happened to them.
#[derive(Debug)]
pub(super) struct GroupLines<K>(BTreeMap<K, (GroupId, usize)>);

impl<K: Ord> GroupLines<K> {
    /// This has happened to the group too.
    pub(super) fn add(&mut self, what: K, group: GroupId) {
        self.0.entry(what).or_insert((group, 0)).1 += 1;
    }

    /// Each event, the first group to which it has happened, and the number of groups.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (K, GroupId, usize)> + use<K> {
        let lines = std::mem::take(&mut self.0).into_iter();
        lines.map(|(what, (first, groups))| (what, first, groups))
    }
}

impl<K> Default for GroupLines<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_groups_with_one_trouble_are_one_line() {
        let mut lines = GroupLines::default();
        (1..=1000).for_each(|group| lines.add("one", GroupId(group)));
        lines.add("two", GroupId(7));
        let told: Vec<_> = lines.take().collect();
        assert_eq!(told, [("one", GroupId(1), 1000), ("two", GroupId(7), 1)]);
        assert_eq!(lines.take().count(), 0);
    }
}
