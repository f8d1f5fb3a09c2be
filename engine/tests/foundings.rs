//! A group that was created with other members on one node than on the others is stopped there, and served by the others
//! (RULES.md M14).

#![forbid(unsafe_code)]

use bytes::Bytes;
use logdrive::{
    Bootstrap, Committed, Config, Founding, GroupId, MachineError, Node, NodeId, ProposeError,
    Replies, StateMachine, StopCause,
};
use std::{collections::BTreeMap, net::TcpListener, path::Path, time::Duration};

struct Forgetful;

impl StateMachine for Forgetful {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        batch.commands().for_each(|_| replies.push(Bytes::new()));
        Ok(())
    }
}

const DIFFERS: GroupId = GroupId(7);
const AGREES: GroupId = GroupId(8);

fn open(dir: &Path, peers: &BTreeMap<NodeId, String>) -> Node {
    let mut config = Config::new(dir, peers.clone());
    config.segment_bytes = 1 << 20;
    Node::open(config).unwrap()
}

fn create(node: &Node, group: GroupId, members: &[u64], first_leader: u64) {
    let members = members.iter().copied().map(NodeId).collect();
    let founding = Bootstrap::New { members, first_leader: Some(NodeId(first_leader)) };
    node.create(group, founding, Box::new(Forgetful)).unwrap();
}

/// Proposes until the node says that the group was founded with other members elsewhere.
fn assert_stops(node: &Node) {
    let group = node.group(DIFFERS).unwrap();
    for _ in 0..3_000 {
        match group.propose(&b"command"[..]).wait() {
            Err(ProposeError::Stopped(StopCause::OtherMembers(_))) => return,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("node {} still serves the group", node.id());
}

/// Proposes until one of the nodes has applied a command.
fn assert_serves(nodes: &[Node], group: GroupId) {
    let served = (0..3_000).any(|_| {
        let groups = nodes.iter().map(|node| node.group(group).unwrap());
        let applied = groups.into_iter().any(|group| group.propose(&b"command"[..]).wait().is_ok());
        if !applied {
            std::thread::sleep(Duration::from_millis(10));
        }
        applied
    });
    assert!(served, "{group:?} is not served");
}

#[test]
fn a_node_with_other_members_than_most_stops_its_group_and_the_others_serve() {
    let dir = tempfile::tempdir().unwrap();
    let held = [1, 2, 3].map(|id| (NodeId(id), TcpListener::bind("127.0.0.1:0").unwrap()));
    let address = |held: &TcpListener| held.local_addr().unwrap().to_string();
    let peers: BTreeMap<_, _> = held.iter().map(|(id, held)| (*id, address(held))).collect();
    drop(held);
    let home = |id: NodeId| dir.path().join(id.get().to_string());
    let mut nodes: Vec<Node> = peers
        .keys()
        .map(|id| {
            let founding = Founding {
                cluster: "foundings".to_owned(),
                node: *id,
                shards: 1,
                settings: BTreeMap::new(),
            };
            Node::init(&home(*id), founding).unwrap();
            open(&home(*id), &peers)
        })
        .collect();
    create(&nodes[0], DIFFERS, &[1], 1);
    create(&nodes[1], DIFFERS, &[1, 2, 3], 2);
    create(&nodes[2], DIFFERS, &[1, 2, 3], 2);
    nodes.iter().for_each(|node| create(node, AGREES, &[1, 2, 3], 2));
    assert_stops(&nodes[0]);
    assert_serves(&nodes[1..], DIFFERS);

    // The node with its own list is restarted, and stops the group again.
    nodes.remove(0).close().unwrap();
    nodes.insert(0, open(&home(NodeId(1)), &peers));
    if nodes[0].recovered().contains(&DIFFERS) {
        nodes[0].resume(DIFFERS, Box::new(Forgetful)).unwrap();
    } else {
        create(&nodes[0], DIFFERS, &[1], 1);
    }
    assert_stops(&nodes[0]);

    // The two others serve that group, and the one whose members all agree on.
    assert_serves(&nodes[1..], DIFFERS);
    assert_serves(&nodes[1..], AGREES);
    assert_stops(&nodes[0]);
    nodes.iter().for_each(|node| node.close().unwrap());
}
