//! What a node knows of its cluster, and how it tells clients: redirections and the `CLUSTER` command.
//!
//! In:     the placement, the groups on this node and who leads them, the nodes' client addresses.
//! Out:    `MOVED` and `CLUSTERDOWN`; `CLUSTER SLOTS`, `SHARDS`, `NODES`, `INFO`, `KEYSLOT`, `MYID`.
//! Cost:   a redirection asks one group and one address; the commands ask every group once.
//! Fails:  never. What is not known is left out, and `cluster_state` says so.
//! Source: Redis cluster specification; the replies' shapes are Redis 7's.

use super::{
    commands::{Refusal, wrong_arity},
    options::host_port,
    slots::{Placement, SLOTS, slot_of},
};
use crate::resp::{self, Proto, Request};
use bytes::BytesMut;
use logdrive::{Group, Node, NodeId};
use std::{collections::BTreeMap, fmt::Write as _};

/// Nodes, groups, and where clients find them.
pub(crate) struct Cluster {
    node: Node,
    placement: Placement,
    groups: Vec<Option<Group>>,
    members: BTreeMap<NodeId, Member>,
    advertise: String,
}

struct Member {
    id: String,
    peer_port: u16,
}

impl Cluster {
    /// `groups` are those of the placement in order, `None` where this node carries no replica that runs.
    pub(crate) fn new(
        node: Node,
        name: &str,
        placement: Placement,
        groups: Vec<Option<Group>>,
        peers: &BTreeMap<NodeId, String>,
        advertise: String,
    ) -> Self {
        assert_eq!(groups.len(), usize::from(placement.groups()), "one place per group");
        let members = peers
            .iter()
            .map(|(node, address)| {
                let peer_port = host_port(address).map_or(0, |(_, port)| port);
                (*node, Member { id: public_id(name, *node), peer_port })
            })
            .collect();
        Self { node, placement, groups, members, advertise }
    }

    /// This node's id as clients see it: 40 hexadecimal digits.
    pub(crate) fn my_id(&self) -> &str {
        &self.members[&self.node.id()].id
    }

    /// Where clients are told to find this node.
    pub(crate) fn advertise(&self) -> &str {
        &self.advertise
    }

    /// The group that owns a slot, if this node carries it.
    pub(crate) fn group_of(&self, slot: u16) -> Option<&Group> {
        self.groups[usize::from(self.placement.group_of(slot))].as_ref()
    }

    /// Groups this node carries, and how many of them it leads.
    pub(crate) fn groups_here(&self) -> (usize, usize) {
        let here = self.groups.iter().flatten();
        here.fold((0, 0), |(all, led), group| (all + 1, led + usize::from(group.is_leader())))
    }

    /// Answers a request for a group that is led elsewhere, by `leader` if that is known.
    pub(crate) fn redirect(&self, out: &mut BytesMut, slot: u16, leader: Option<NodeId>) {
        let leader = match leader {
            // Leadership came here after the request was turned away; it is worth a second try.
            Some(leader) if leader == self.node.id() => {
                return resp::write_error(out, "TRYAGAIN The group's leadership is moving");
            }
            Some(leader) => leader,
            None => match self.member_elsewhere(slot) {
                Some(member) => member,
                None => return resp::write_error(out, "CLUSTERDOWN The group has no leader now"),
            },
        };
        match self.address(leader) {
            Some(address) => resp::write_error(out, &format!("MOVED {slot} {address}")),
            None => {
                resp::write_error(out, "CLUSTERDOWN The address of the group's leader is not known")
            }
        }
    }

    /// For a group this node has no replica of: a member that can be asked who leads it.
    fn member_elsewhere(&self, slot: u16) -> Option<NodeId> {
        let group = self.placement.group_of(slot);
        if self.groups[usize::from(group)].is_some() {
            return None;
        }
        self.reachable_member(group, |node| self.address(node).is_some())
    }

    fn reachable_member(&self, group: u16, known: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let first = self.placement.first_leader(group);
        let members = self.placement.members(group);
        members_to_ask(&members, first, self.node.id()).find(|node| known(*node))
    }

    fn address(&self, node: NodeId) -> Option<String> {
        if node == self.node.id() {
            return Some(self.advertise.clone());
        }
        self.node.client_address(node).filter(|address| host_port(address).is_some())
    }

    /// Runs `CLUSTER ...`.
    pub(crate) fn command(
        &self,
        request: &Request,
        proto: Proto,
        out: &mut BytesMut,
    ) -> Result<(), Refusal> {
        if request.len() < 2 {
            return Err(wrong_arity("cluster"));
        }
        let subcommand = String::from_utf8_lossy(request.arg(1)).to_ascii_lowercase();
        let arity = if subcommand == "keyslot" { 3 } else { 2 };
        match subcommand.as_str() {
            "slots" | "shards" | "nodes" | "info" | "keyslot" | "myid"
                if request.len() != arity =>
            {
                return Err(wrong_arity(&format!("cluster|{subcommand}")));
            }
            "slots" => self.view().slots(out),
            "shards" => self.view().shards(proto, out),
            "nodes" => resp::write_bulk(out, self.view().nodes().as_bytes()),
            "info" => resp::write_bulk(out, self.view().info().as_bytes()),
            "keyslot" => resp::write_int(out, i64::from(slot_of(request.arg(2)))),
            "myid" => resp::write_bulk(out, self.my_id().as_bytes()),
            _ => return Err(Refusal::subcommand("CLUSTER", request.arg(1))),
        }
        Ok(())
    }

    fn view(&self) -> View<'_> {
        let addresses: BTreeMap<NodeId, (String, u16)> = self
            .members
            .keys()
            .filter_map(|node| {
                let address = self.address(*node)?;
                let (host, port) = host_port(&address)?;
                Some((*node, (host.to_owned(), port)))
            })
            .collect();
        let known = |node: NodeId| addresses.contains_key(&node);
        let leaders = (0..self.placement.groups())
            .map(|group| match &self.groups[usize::from(group)] {
                Some(here) => here.leader().filter(|leader| known(*leader)),
                None => self.reachable_member(group, known),
            })
            .collect();
        View { cluster: self, addresses, leaders }
    }
}

/// The cluster at one moment: client addresses by node, reachable leaders by group.
struct View<'a> {
    cluster: &'a Cluster,
    addresses: BTreeMap<NodeId, (String, u16)>,
    leaders: Vec<Option<NodeId>>,
}

impl View<'_> {
    /// Groups that have a leader clients can reach: the leader, the slots, the other members.
    fn led(&self) -> impl Iterator<Item = (NodeId, (u16, u16), Vec<NodeId>)> {
        let placement = &self.cluster.placement;
        (0..placement.groups()).filter_map(move |group| {
            let leader = self.leaders[usize::from(group)]?;
            let mut others = placement.members(group);
            others.retain(|node| *node != leader && self.addresses.contains_key(node));
            Some((leader, placement.range_of(group), others))
        })
    }

    fn slots(&self, out: &mut BytesMut) {
        resp::write_array_len(out, self.led().count());
        for (leader, (first, last), others) in self.led() {
            resp::write_array_len(out, 3 + others.len());
            resp::write_int(out, i64::from(first));
            resp::write_int(out, i64::from(last));
            for node in std::iter::once(leader).chain(others) {
                let (host, port) = &self.addresses[&node];
                resp::write_array_len(out, 4);
                resp::write_bulk(out, host.as_bytes());
                resp::write_int(out, i64::from(*port));
                resp::write_bulk(out, self.cluster.members[&node].id.as_bytes());
                resp::write_array_len(out, 0);
            }
        }
    }

    fn shards(&self, proto: Proto, out: &mut BytesMut) {
        resp::write_array_len(out, self.led().count());
        for (leader, (first, last), others) in self.led() {
            resp::write_map_len(out, proto, 2);
            resp::write_bulk(out, b"slots");
            resp::write_array_len(out, 2);
            resp::write_int(out, i64::from(first));
            resp::write_int(out, i64::from(last));
            resp::write_bulk(out, b"nodes");
            resp::write_array_len(out, 1 + others.len());
            for node in std::iter::once(leader).chain(others) {
                let (host, port) = &self.addresses[&node];
                let role = if node == leader { "master" } else { "replica" };
                resp::write_map_len(out, proto, 7);
                for (key, value) in [
                    ("id", self.cluster.members[&node].id.as_str()),
                    ("ip", host),
                    ("endpoint", host),
                    ("role", role),
                    ("health", "online"),
                ] {
                    resp::write_bulk(out, key.as_bytes());
                    resp::write_bulk(out, value.as_bytes());
                }
                resp::write_bulk(out, b"port");
                resp::write_int(out, i64::from(*port));
                resp::write_bulk(out, b"replication-offset");
                resp::write_int(out, 0);
            }
        }
    }

    /// One line per node, with the slots it leads. Every node is a master: it leads some groups and follows others.
    fn nodes(&self) -> String {
        let mut text = String::new();
        for (node, member) in &self.cluster.members {
            let (place, link, noaddr) = match self.addresses.get(node) {
                Some((host, port)) => (format!("{host}:{port}"), "connected", ""),
                None => (":0".to_owned(), "disconnected", ",noaddr"),
            };
            let myself = if *node == self.cluster.node.id() { "myself," } else { "" };
            let Member { id, peer_port } = member;
            let epoch = node.get();
            write!(text, "{id} {place}@{peer_port} {myself}master{noaddr} - 0 0 {epoch} {link}")
                .expect("a String grows");
            let mut ranges = Vec::<(u16, u16)>::new();
            for (leader, (first, last), _) in self.led() {
                match ranges.last_mut() {
                    _ if leader != *node => {}
                    Some(range) if range.1 + 1 == first => range.1 = last,
                    _ => ranges.push((first, last)),
                }
            }
            for (first, last) in ranges {
                if first == last {
                    write!(text, " {first}").expect("a String grows");
                } else {
                    write!(text, " {first}-{last}").expect("a String grows");
                }
            }
            text.push('\n');
        }
        text
    }

    fn info(&self) -> String {
        let mut served = 0_u32;
        let mut leaders = std::collections::BTreeSet::new();
        for (leader, (first, last), _) in self.led() {
            served += u32::from(last - first) + 1;
            leaders.insert(leader);
        }
        let lost = u32::from(SLOTS) - served;
        let state = if lost == 0 { "ok" } else { "fail" };
        let known = self.cluster.members.len();
        let size = leaders.len();
        format!(
            "cluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{served}\r\n\
             cluster_slots_pfail:0\r\ncluster_slots_fail:{lost}\r\ncluster_known_nodes:{known}\r\n\
             cluster_size:{size}\r\ncluster_current_epoch:{known}\r\ncluster_my_epoch:{}\r\n",
            self.cluster.node.id()
        )
    }
}

/// Whom a node without a replica that runs names, best first: the first leader, where it is no member. One that is has
/// its replica fenced, and names the next in the round: another may be fenced too, and two that named each other would
/// keep clients from those that serve.
fn members_to_ask(members: &[NodeId], first: NodeId, me: NodeId) -> impl Iterator<Item = NodeId> {
    let at = |node: NodeId| members.iter().position(|member| *member == node);
    let from = at(me).map_or_else(|| at(first).unwrap_or(0), |me| me + 1);
    let (before, behind) = members.split_at(from);
    behind.iter().chain(before).copied().filter(move |node| *node != me)
}

/// 40 hexadecimal digits that depend on the cluster's name and the node's id alone, so that a restart keeps them.
fn public_id(cluster: &str, node: NodeId) -> String {
    let mut id = String::with_capacity(48);
    for word in 0_u64..3 {
        let mut hash = 0xCBF2_9CE4_8422_2325 ^ word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let bytes = cluster.bytes().chain([0]).chain(node.get().to_le_bytes());
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        // FNV's last byte reaches only the low bits; this spreads it.
        hash = (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        hash ^= hash >> 32;
        write!(id, "{hash:016x}").expect("a String grows");
    }
    id.truncate(40);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sent_on_by_fenced_members_comes_past_every_other() {
        let members = [1, 2, 3, 4, 5].map(NodeId);
        let named = |me| members_to_ask(&members, NodeId(2), NodeId(me)).next().unwrap().0;
        assert_eq!([1, 2, 3, 4, 5].map(named), [2, 3, 4, 5, 1]);
        let outside: Vec<_> = members_to_ask(&members, NodeId(2), NodeId(9)).collect();
        assert_eq!(outside, [2, 3, 4, 5, 1].map(NodeId));
        assert_eq!(members_to_ask(&members[..1], NodeId(1), NodeId(1)).next(), None);
    }

    #[test]
    fn public_ids_are_forty_digits_and_differ_by_cluster_and_node() {
        let ids: std::collections::BTreeSet<String> = ["a", "b", "default"]
            .iter()
            .flat_map(|cluster| (1..=100).map(|node| public_id(cluster, NodeId(node))))
            .collect();
        assert_eq!(ids.len(), 300);
        for id in &ids {
            assert_eq!(id.len(), 40);
            assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
    }
}
