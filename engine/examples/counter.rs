//! A replicated counter on a cluster of one node: open, create or resume, propose.
//!
//! `cargo run --release -p logdrive --example counter -- DIR` counts on from where it was.

use logdrive::{
    Bootstrap, Committed, Config, Founding, GroupId, MachineError, Node, NodeId, Replies,
    StateMachine,
};
use std::{
    collections::BTreeMap,
    error::Error,
    path::{Path, PathBuf},
};

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
    println!("{}", count(&dir)?);
    Ok(())
}

pub(crate) fn count(dir: &Path) -> Result<u64, Box<dyn Error>> {
    let me = NodeId(1);
    let (cluster, settings) = ("counter".to_owned(), BTreeMap::new());
    let founding = Founding { cluster, node: me, shards: 1, settings };
    let peers = BTreeMap::from([(me, "127.0.0.1:0".to_owned())]);
    let node = Node::open_or_init(Config::new(dir, peers), founding)?;
    let bootstrap = Bootstrap::New { members: vec![me], first_leader: Some(me) };
    let group = node.create_or_resume(GroupId(7), bootstrap, Box::new(Counter(0)))?;
    group.wait_for_leader(std::time::Duration::from_secs(10)).ok_or("no leader")?;
    let applied = group.propose(1u64.to_le_bytes().to_vec()).wait()?;
    node.close()?;
    Ok(u64::from_le_bytes(applied.reply[..].try_into()?))
}
