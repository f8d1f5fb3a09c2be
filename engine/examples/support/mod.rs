//! A counter on a cluster of one node, for the examples to propose to.

#![allow(dead_code, reason = "each example uses a part of it")]

use logdrive::{
    Bootstrap, Committed, Config, Founding, Group, GroupId, MachineError, Node, NodeId, Replies,
    StateMachine,
};
use std::{collections::BTreeMap, error::Error, path::Path, time::Duration};

/// Counts its commands; the reply is how many there were.
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for _ in batch.commands() {
            self.0 += 1;
            replies.push(self.0.to_le_bytes().to_vec());
        }
        Ok(())
    }
}

/// Runs an example in a directory that goes when it ends, and prints the commands that it counted.
pub(crate) fn run_and_print(
    run: impl FnOnce(&Path) -> Result<u64, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    println!("{} commands", run(home.path())?);
    Ok(())
}

/// A machine that counts its commands.
pub(crate) fn counter() -> Box<dyn StateMachine> {
    Box::new(Counter(0))
}

/// A node in `dir`, made if it is not there, and its one group, which has a leader.
pub(crate) fn alone(dir: &Path) -> Result<(Node, Group), Box<dyn Error>> {
    alone_with(dir, counter())
}

/// The same with another machine.
pub(crate) fn alone_with(
    dir: &Path,
    machine: Box<dyn StateMachine>,
) -> Result<(Node, Group), Box<dyn Error>> {
    let me = NodeId(1);
    let (cluster, settings) = ("examples".to_owned(), BTreeMap::new());
    let founding = Founding { cluster, node: me, shards: 1, settings };
    let peers = BTreeMap::from([(me, "127.0.0.1:0".to_owned())]);
    let node = Node::open_or_init(Config::new(dir, peers), founding)?;
    let bootstrap = Bootstrap::New { members: vec![me], first_leader: Some(me) };
    let group = node.create_or_resume(GroupId(7), bootstrap, machine)?;
    group.wait_for_leader(Duration::from_secs(10)).ok_or("no leader")?;
    Ok((node, group))
}
