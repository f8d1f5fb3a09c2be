//! A node's knowledge of its cluster, and how the node tells clients: redirections and the `CLUSTER` command.
//!
//! In:     the placement, the groups on this node and who leads them, the nodes' client addresses.
//! Out:    `MOVED` and `CLUSTERDOWN`; `CLUSTER SLOTS`, `SHARDS`, `NODES`, `INFO`, `KEYSLOT`, `MYID`.
//! Cost:   a redirection asks one group and one address. The commands copy a text that is kept as long as nothing in it
//!         has changed; while leaderships move, making it anew takes at most a tenth of the time.
//! Fails:  never. A fact that is not known is left out, and `cluster_state` says so.
//! Source: Redis cluster specification; the replies' shapes are Redis 7's.

use super::{
    commands::{Refusal, lower, wrong_arity},
    options::host_port,
    slots::{Placement, SLOTS, slot_of},
};
use crate::resp::{self, Proto, Request};
use bytes::{Bytes, BytesMut};
use logdrive::{Group, Node, NodeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Nodes, groups, and where clients find them.
pub(crate) struct Cluster {
    node: Node,
    placement: Placement,
    groups: Vec<Option<Carried>>,
    members: BTreeMap<NodeId, Member>,
    advertise: String,
    map: Mutex<Map>,
}

/// A group of which this node carries a replica that runs.
pub(crate) struct Carried {
    pub(crate) group: Group,
    /// How many keys it has.
    pub(crate) keys: Arc<AtomicUsize>,
}

/// The encoded answers of the commands, as they were last made.
struct Map {
    /// [`Node::map_version`] before it was made.
    version: u64,
    made: Instant,
    /// The time that making it took.
    cost: Duration,
    /// By [`Part`]; what nobody asked for is not made.
    parts: [Option<Bytes>; 5],
}

/// One command's answer; `SHARDS` has one per dialect.
#[derive(Clone, Copy, Debug)]
enum Part {
    Slots,
    Shards2,
    Shards3,
    Nodes,
    Info,
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
        groups: Vec<Option<Carried>>,
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
        let map = Map { version: 0, made: now(), cost: Duration::ZERO, parts: Default::default() };
        Self { node, placement, groups, members, advertise, map: Mutex::new(map) }
    }

    /// This node's id as clients see it: 40 hexadecimal digits.
    pub(crate) fn my_id(&self) -> &str {
        &self.members[&self.node.id()].id
    }

    /// The other nodes, by id.
    pub(crate) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.members.keys().copied().filter(|node| *node != self.node.id())
    }

    /// Where clients are told to find this node.
    pub(crate) fn advertise(&self) -> &str {
        &self.advertise
    }

    /// The group that owns a slot, if this node carries it.
    pub(crate) fn group_of(&self, slot: u16) -> Option<&Group> {
        self.groups[usize::from(self.placement.group_of(slot))].as_ref().map(|here| &here.group)
    }

    /// How many keys there are in the groups that this node leads.
    pub(crate) fn keys_led(&self) -> i64 {
        let led = self.groups.iter().flatten().filter(|here| here.group.is_leader());
        let keys: usize = led.map(|here| here.keys.load(Ordering::Relaxed)).sum();
        i64::try_from(keys).unwrap_or(i64::MAX)
    }

    /// The groups that this node carries.
    pub(crate) fn carried(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flatten().map(|here| &here.group)
    }

    /// The number of groups that this node carries.
    pub(crate) fn groups_here(&self) -> usize {
        self.groups.iter().flatten().count()
    }

    /// The number of groups that this node leads.
    pub(crate) fn groups_led(&self) -> usize {
        self.groups.iter().flatten().filter(|here| here.group.is_leader()).count()
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
            // The client would come back here, for ever.
            Some(here) if self.is_here(&here) => resp::write_error(
                out,
                &format!(
                    "ERR The group is led by node {leader}, which sends its clients to this node's address: each node needs an --advertise of its own"
                ),
            ),
            // As Redis writes it: an IPv6 address without brackets, the port behind the last colon.
            Some((host, port)) => resp::write_error(out, &format!("MOVED {slot} {host}:{port}")),
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
        let is_known = |node| self.address(node).is_some();
        let alive = |node| self.node.hears(node) && is_known(node);
        self.reachable_member(group, alive).or_else(|| self.reachable_member(group, is_known))
    }

    fn reachable_member(&self, group: u16, known: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let first = self.placement.first_leader(group);
        let members = self.placement.members(group);
        members_to_ask(&members, first, self.node.id()).find(|node| known(*node))
    }

    /// Whether clients that are sent to this address come to this node.
    fn is_here(&self, (host, port): &(String, u16)) -> bool {
        host_port(&self.advertise) == Some((host, *port))
    }

    fn address(&self, node: NodeId) -> Option<(String, u16)> {
        let said = (node != self.node.id()).then(|| self.node.client_address(node));
        let address = said.unwrap_or_else(|| Some(self.advertise.clone()))?;
        host_port(&address).map(|(host, port)| (host.to_owned(), port))
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
        let subcommand = lower(request.arg(1));
        let arity = if subcommand == "keyslot" { 3 } else { 2 };
        match subcommand.as_str() {
            "slots" | "shards" | "nodes" | "info" | "keyslot" | "myid"
                if request.len() != arity =>
            {
                return Err(wrong_arity(&format!("cluster|{subcommand}")));
            }
            "slots" => self.write(Part::Slots, out),
            "shards" if proto == Proto::Resp2 => self.write(Part::Shards2, out),
            "shards" => self.write(Part::Shards3, out),
            "nodes" => self.write(Part::Nodes, out),
            "info" => self.write(Part::Info, out),
            "keyslot" => resp::write_int(out, i64::from(slot_of(request.arg(2)))),
            "myid" => resp::write_bulk(out, self.my_id().as_bytes()),
            _ => return Err(Refusal::subcommand("CLUSTER", request.arg(1))),
        }
        Ok(())
    }

    /// Answers with a part of the map, which is made anew if anything has changed.
    fn write(&self, part: Part, out: &mut BytesMut) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        // Before anything is looked at: what changes meanwhile makes the next map.
        let version = self.node.map_version();
        let now = now();
        if map.version != version && now - map.made >= map.cost * MAP_REST {
            *map = Map { version, made: now, cost: Duration::ZERO, parts: Default::default() };
        }
        let bytes = match &map.parts[part as usize] {
            Some(bytes) => bytes.clone(),
            None => {
                let mut made = BytesMut::new();
                self.view().write(part, &mut made);
                let bytes = made.freeze();
                map.cost += now.elapsed();
                map.parts[part as usize] = Some(bytes.clone());
                bytes
            }
        };
        drop(map);
        out.extend_from_slice(&bytes);
    }

    fn view(&self) -> View<'_> {
        let addresses: BTreeMap<NodeId, (String, u16)> =
            self.members.keys().filter_map(|node| Some((*node, self.address(*node)?))).collect();
        let heard = self.members.keys().copied().filter(|node| self.node.hears(*node)).collect();
        let known = |node: NodeId| addresses.contains_key(&node);
        let leaders = (0..self.placement.groups())
            .map(|group| match &self.groups[usize::from(group)] {
                Some(here) => here.group.leader().filter(|leader| known(*leader)),
                None => self
                    .reachable_member(group, |node| known(node) && self.node.hears(node))
                    .or_else(|| self.reachable_member(group, known)),
            })
            .collect();
        View { cluster: self, addresses, heard, leaders }
    }
}

/// The cluster at one moment: client addresses by node, nodes that are there, leaders by group.
struct View<'a> {
    cluster: &'a Cluster,
    addresses: BTreeMap<NodeId, (String, u16)>,
    heard: BTreeSet<NodeId>,
    leaders: Vec<Option<NodeId>>,
}

impl View<'_> {
    /// Groups that have a leader clients can reach: the leader, the slots, the other members.
    fn led(&self) -> impl Iterator<Item = (NodeId, RangeInclusive<u16>, Vec<NodeId>)> {
        let placement = &self.cluster.placement;
        (0..placement.groups()).filter_map(move |group| {
            let leader = self.leaders[usize::from(group)]?;
            let mut others = placement.members(group);
            others.retain(|node| *node != leader && self.addresses.contains_key(node));
            Some((leader, placement.range_of(group), others))
        })
    }

    fn write(&self, part: Part, out: &mut BytesMut) {
        match part {
            Part::Slots => self.slots(out),
            Part::Shards2 => self.shards(Proto::Resp2, out),
            Part::Shards3 => self.shards(Proto::Resp3, out),
            Part::Nodes => resp::write_bulk(out, self.nodes().as_bytes()),
            Part::Info => resp::write_bulk(out, self.info().as_bytes()),
        }
    }

    /// Members that are gone are left out: clients would go on reading from them.
    fn slots(&self, out: &mut BytesMut) {
        resp::write_array_len(out, self.led().count());
        for (leader, slots, mut others) in self.led() {
            others.retain(|node| self.heard.contains(node));
            resp::write_array_len(out, 3 + others.len());
            resp::write_int(out, i64::from(*slots.start()));
            resp::write_int(out, i64::from(*slots.end()));
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
        for (leader, slots, others) in self.led() {
            resp::write_map_len(out, proto, 2);
            resp::write_bulk(out, b"slots");
            resp::write_array_len(out, 2);
            resp::write_int(out, i64::from(*slots.start()));
            resp::write_int(out, i64::from(*slots.end()));
            resp::write_bulk(out, b"nodes");
            resp::write_array_len(out, 1 + others.len());
            for node in std::iter::once(leader).chain(others) {
                let (host, port) = &self.addresses[&node];
                let role = if node == leader { "master" } else { "replica" };
                let health = if self.heard.contains(&node) { "online" } else { "fail" };
                resp::write_map_len(out, proto, 7);
                for (key, value) in [
                    ("id", self.cluster.members[&node].id.as_str()),
                    ("ip", host),
                    ("endpoint", host),
                    ("role", role),
                    ("health", health),
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
        let mut ranges = BTreeMap::<NodeId, Vec<RangeInclusive<u16>>>::new();
        for (leader, slots, _) in self.led() {
            let ranges = ranges.entry(leader).or_default();
            match ranges.last_mut() {
                Some(range) if range.end() + 1 == *slots.start() => {
                    *range = *range.start()..=*slots.end();
                }
                _ => ranges.push(slots),
            }
        }
        let mut text = String::new();
        for (node, member) in &self.cluster.members {
            let (place, noaddr) = match self.addresses.get(node) {
                Some((host, port)) => (format!("{host}:{port}"), ""),
                None => (":0".to_owned(), ",noaddr"),
            };
            let (link, fail) = match self.heard.contains(node) {
                true => ("connected", ""),
                false => ("disconnected", ",fail"),
            };
            let myself = if *node == self.cluster.node.id() { "myself," } else { "" };
            let Member { id, peer_port } = member;
            let epoch = node.get();
            write!(
                text,
                "{id} {place}@{peer_port} {myself}master{fail}{noaddr} - 0 0 {epoch} {link}"
            )
            .expect("a String grows");
            for slots in ranges.remove(node).unwrap_or_default() {
                let (first, last) = slots.into_inner();
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
        for (leader, slots, _) in self.led() {
            served += u32::from(slots.end() - slots.start()) + 1;
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

#[expect(clippy::disallowed_methods, reason = "how long a map is kept depends on what it costs")]
fn now() -> Instant {
    Instant::now()
}

/// A map that is not good any more is kept for so many times what making it took.
const MAP_REST: u32 = 10;

/// The members that a node without a running replica names, best first. A node that is no member begins with the first
/// leader. A member has its replica fenced, and begins with the next member in the round: another member may be fenced
/// too, and two that named each other would keep clients from the members that serve.
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

    /// Seven nodes carry three replicas each, one of which may be fenced: whoever is asked first, and wherever the leader
    /// is, a client comes to a member that knows it.
    #[test]
    fn with_more_nodes_than_replicas_every_way_ends_at_a_member_that_serves() {
        let nodes: Vec<NodeId> = (1..=7).map(NodeId).collect();
        let placement = Placement::new(nodes.clone(), 14, 3);
        for group in 0..placement.groups() {
            let (members, first) = (placement.members(group), placement.first_leader(group));
            for fenced in members.iter().copied().map(Some).chain([None]) {
                for start in &nodes {
                    let serves = |node| members.contains(&node) && Some(node) != fenced;
                    let mut at = *start;
                    let mut hops = 0;
                    while !serves(at) {
                        at = members_to_ask(&members, first, at).next().expect("another member");
                        hops += 1;
                        assert!(
                            hops <= 2,
                            "group {group}, fenced {fenced:?}, from {start}: at {at}"
                        );
                        assert!(members.contains(&at), "group {group}: {at} is no member");
                    }
                }
            }
        }
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
