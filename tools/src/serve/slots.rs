//! Which group a key belongs to, and which nodes carry a group.
//!
//! In:     a key; the number of groups; the nodes' ids.
//! Out:    its slot (0 to 16,383), its group, that group's members and first leader.
//! Cost:   one table look-up per byte of the key, one for the group; nothing is allocated.
//! Fails:  never; the numbers are checked where the placement is made.
//! Source: Redis cluster specification ("Key distribution model", "Hash tags"); CRC-16/XMODEM.

use logdrive::{GroupId, NodeId};
use std::ops::RangeInclusive;

/// Slots of a cluster. Clients know this number by heart.
pub(crate) const SLOTS: u16 = 16_384;

/// The slot of a key: of its hash tag if it has one, else of all of it.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// The part of a key that is hashed: the bytes between the first `{` and the next `}`; without any, the whole key.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let tag = &key[open + 1..];
    match tag.iter().position(|byte| *byte == b'}') {
        Some(close) if close > 0 => &tag[..close],
        _ => key,
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let [high, _] = crc.to_be_bytes();
        (crc << 8) ^ CRC16_TABLE[usize::from(high ^ byte)]
    })
}

/// Slots over groups, groups over nodes: fixed when the cluster is founded, the same on every node.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    nodes: Vec<NodeId>,
    groups: u16,
    replicas: usize,
    group_of_slot: Vec<u16>,
}

impl Placement {
    /// Places `groups` groups of `replicas` members each on `nodes`.
    ///
    /// Panics unless there are from 1 to 16,384 groups and from 1 to all nodes as replicas: the
    /// options were checked before.
    pub(crate) fn new(mut nodes: Vec<NodeId>, groups: u16, replicas: usize) -> Self {
        assert!((1..=SLOTS).contains(&groups), "{groups} groups");
        assert!((1..=nodes.len()).contains(&replicas), "{replicas} replicas of {}", nodes.len());
        nodes.sort_unstable();
        let group_of_slot = (0..SLOTS)
            .map(|slot| {
                let group = u32::from(slot) * u32::from(groups) / u32::from(SLOTS);
                u16::try_from(group).expect("slot < SLOTS, so group < groups")
            })
            .collect();
        Self { nodes, groups, replicas, group_of_slot }
    }

    /// Number of groups. They are counted from 0 here.
    pub(crate) fn groups(&self) -> u16 {
        self.groups
    }

    /// All nodes, by id.
    pub(crate) fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The group of a slot.
    pub(crate) fn group_of(&self, slot: u16) -> u16 {
        self.group_of_slot[usize::from(slot)]
    }

    /// The slots of a group: one contiguous range.
    pub(crate) fn range_of(&self, group: u16) -> RangeInclusive<u16> {
        let first = |group: u32| (group * u32::from(SLOTS)).div_ceil(u32::from(self.groups));
        let narrow = |slot: u32| u16::try_from(slot).expect("at most SLOTS");
        let group = u32::from(group);
        narrow(first(group))..=narrow(first(group + 1) - 1)
    }

    /// The node that should lead a group first: the groups go round the nodes.
    pub(crate) fn first_leader(&self, group: u16) -> NodeId {
        self.nodes[usize::from(group) % self.nodes.len()]
    }

    /// The nodes that carry a group: its first leader and the nodes after that one. The engine keeps the order: who is
    /// first campaigns first, also after a restart of all.
    pub(crate) fn members(&self, group: u16) -> Vec<NodeId> {
        (0..self.replicas)
            .map(|step| self.nodes[(usize::from(group) + step) % self.nodes.len()])
            .collect()
    }
}

/// The engine's id of a group: they start at 1 there.
pub(crate) fn group_id(group: u16) -> GroupId {
    GroupId(u64::from(group) + 1)
}

const CRC16_TABLE: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0_u16; 256];
    let mut byte = 0_u16;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn crc16_is_the_xmodem_one() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn slots_are_those_every_cluster_client_computes() {
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"bar"), 5_061);
        assert_eq!(slot_of(b"hello"), 866);
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn a_hash_tag_decides_alone() {
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
        assert_eq!(hash_tag(b"}foo{"), b"}foo{");
    }

    #[test]
    fn every_group_is_one_range_and_the_ranges_cover_all_slots() {
        for groups in [1, 2, 3, 7, 48, 1_000, 1_024, 9_999, SLOTS] {
            let placement = Placement::new(nodes(3), groups, 3);
            let mut next = 0;
            for group in 0..groups {
                let (first, last) = placement.range_of(group).into_inner();
                assert_eq!(first, next, "group {group} of {groups}");
                assert!(last >= first, "group {group} of {groups} has slots");
                for slot in [first, last] {
                    assert_eq!(placement.group_of(slot), group, "slot {slot} of {groups} groups");
                }
                next = last + 1;
            }
            assert_eq!(next, SLOTS, "{groups} groups");
        }
    }

    #[test]
    fn leaders_go_round_the_nodes() {
        let placement = Placement::new(vec![NodeId(9), NodeId(2), NodeId(5)], 6, 3);
        let leaders: Vec<u64> = (0..6).map(|group| placement.first_leader(group).get()).collect();
        assert_eq!(leaders, [2, 5, 9, 2, 5, 9]);
    }

    #[test]
    fn fewer_replicas_than_nodes_share_the_groups_evenly() {
        let placement = Placement::new(nodes(5), 1_000, 3);
        let mut carried = [0_usize; 6];
        for group in 0..1_000 {
            let members = placement.members(group);
            assert_eq!(members.len(), 3);
            assert_eq!(members[0], placement.first_leader(group));
            for member in members {
                carried[usize::try_from(member.get()).expect("small")] += 1;
            }
        }
        assert_eq!(carried, [0, 600, 600, 600, 600, 600]);
    }

    #[test]
    fn group_ids_start_at_one() {
        assert_eq!(group_id(0), GroupId(1));
        assert_eq!(group_id(SLOTS - 1), GroupId(16_384));
    }
}
