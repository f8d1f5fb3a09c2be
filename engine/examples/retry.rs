//! Three nodes, and a client that finds the leader and goes on when it is gone: `Retry` follows the hints of refusals, and
//! keeps what did not happen apart from what may have. Here the nodes are in one process, and asking one is a call; elsewhere
//! it is a request of the program's own.
//!
//! `cargo run --release -p logdrive --example retry`

mod support;

use logdrive::{Bootstrap, Config, Founding, Group, GroupId, Node, NodeId, ProposeError, Retry};
use std::{collections::BTreeMap, error::Error, net::TcpListener, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    support::run_and_print(run)
}

pub(crate) fn run(home: &Path) -> Result<u64, Box<dyn Error>> {
    let members = [1, 2, 3].map(NodeId);
    let mut peers = BTreeMap::new();
    for member in members {
        // A port that is free now; a deployment has fixed ones.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        peers.insert(member, format!("127.0.0.1:{port}"));
    }
    let mut nodes: BTreeMap<NodeId, (Node, Group)> = BTreeMap::new();
    for node in members {
        let (cluster, settings) = ("retry".to_owned(), BTreeMap::new());
        let founding = Founding { cluster, node, shards: 1, settings };
        let mut config = Config::new(&home.join(format!("n{node}")), peers.clone());
        config.segment_bytes = 1 << 20;
        let opened = Node::open_or_init(config, founding)?;
        let bootstrap =
            Bootstrap::New { members: members.to_vec(), first_leader: Some(members[0]) };
        let group = opened.create_or_resume(GroupId(7), bootstrap, support::counter())?;
        nodes.insert(node, (opened, group));
    }
    let propose = |nodes: &BTreeMap<NodeId, (Node, Group)>, known: &mut NodeId| {
        // The node that answered last is asked first.
        let mut order = members.to_vec();
        order.sort_by_key(|member| member != known);
        Retry::new(&order).run(|node| {
            *known = node;
            match nodes.get(&node) {
                Some((_, group)) => group.propose("command").wait(),
                // It cannot be reached, so nothing was sent.
                None => Err(ProposeError::NotLeader { hint: None }),
            }
        })
    };
    let mut known = members[0];
    let mut counted = 0;
    for _ in 0..10 {
        counted = u64::from_le_bytes(propose(&nodes, &mut known)?.reply[..].try_into()?);
    }
    // The leader goes; the others elect another within an election timeout or two.
    if let Some((node, _)) = nodes.remove(&known) {
        node.close()?;
    }
    for _ in 0..10 {
        counted = u64::from_le_bytes(propose(&nodes, &mut known)?.reply[..].try_into()?);
    }
    for (node, _) in nodes.values() {
        node.close()?;
    }
    Ok(counted)
}
