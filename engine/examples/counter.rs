//! A replicated counter on a cluster of one node: open, create or resume, propose.
//!
//! `cargo run --release -p logdrive --example counter -- DIR` counts on from where it was.

use logdrive::{
    Bootstrap, Committed, Config, Founding, GroupId, MachineError, Node, NodeId, Replies,
    StateMachine,
};
use std::{collections::BTreeMap, error::Error, path::PathBuf};

struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for command in batch.commands() {
            let step = command.bytes[..].try_into().map(u64::from_le_bytes);
            self.0 += step.map_err(|_| MachineError("not a number".to_owned()))?;
            replies.push(self.0.to_le_bytes().to_vec());
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: counter DIR")?);
    let (me, group) = (NodeId(1), GroupId(7));
    if !dir.exists() {
        let settings = BTreeMap::new();
        let founding = Founding { cluster: "counter".into(), node: me, shards: 1, settings };
        Node::init(&dir, founding)?;
    }
    let peers = BTreeMap::from([(me, "127.0.0.1:7001".to_owned())]);
    let node = Node::open(Config::new(&dir, peers))?;
    let group = if node.recovered().contains(&group) {
        node.resume(group, Box::new(Counter(0)))?
    } else {
        let founding = Bootstrap::New { members: vec![me], first_leader: Some(me) };
        node.create(group, founding, Box::new(Counter(0)))?
    };
    group.wait_for_leader(std::time::Duration::from_secs(10)).ok_or("no leader")?;
    let applied = group.propose(1u64.to_le_bytes().to_vec()).wait()?;
    println!("{}", u64::from_le_bytes(applied.reply[..].try_into()?));
    Ok(node.close()?)
}
