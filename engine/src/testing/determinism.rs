//! Whether a machine is deterministic: this is checked before a failure is blamed on anything else.
//!
//! In:     the commands that a failing run has applied; the factory of its machines.
//! Out:    the failure, or the two machines that differ and where.
//! Cost:   only in a failing run: all commands are applied as many times as there are nodes, and twice more.
//! Source: Schneider 1990 (a replicated state machine is deterministic).

use super::{
    caught::caught, ghost::Ghost, invariants::Broken, machine_disk::MachineDisk, setup::Setup,
};
use crate::{Committed, GroupId, NodeId, Replies, StateMachine};
use bytes::Bytes;
use logdrive_raft::{Entry, EntryKind};
use std::collections::BTreeMap;

/// The name of this failure.
pub(super) const NOT_DETERMINISTIC: &str = "the machine is not deterministic";

/// Commands that one of the machines is given at a time; the others are given one.
const BATCH: usize = 8;

/// The commands that a run's machines were given, in log order.
pub(super) type Commands = BTreeMap<GroupId, Vec<Entry>>;

/// Everything that some machine of a run has applied.
pub(super) fn commands(ghost: &Ghost) -> Commands {
    let mut commands = Commands::new();
    for ((group, index), applied) in &ghost.applied {
        let serial = usize::try_from(applied.serial).ok();
        let Some(proposed) = serial.and_then(|serial| ghost.commands.get(serial)) else { continue };
        let payload = proposed.command.clone();
        let (term, index, kind) = (applied.term, *index, EntryKind::Command);
        let checksum = logdrive_wal::checksum(&payload);
        let entry = Entry { term, index, kind, checksum, payload };
        commands.entry(*group).or_default().push(entry);
    }
    commands
}

/// The failure itself; or, if two fresh machines answer the same commands differently, a failure that says so.
pub(super) fn blame(setup: &Setup, commands: &Commands, broken: Broken) -> Broken {
    let nodes = setup.shape().nodes;
    let others = nodes.iter().map(|node| (*node, 1)).chain([(nodes[0], BATCH)]);
    for (group, entries) in commands {
        let first = History::of(setup, nodes[0], *group, entries, 1);
        for (node, batch) in others.clone() {
            let other = History::of(setup, node, *group, entries, batch);
            let Some(what) = first.differs(&other, setup, entries) else { continue };
            let how = match batch {
                1 => format!("two new machines, of {:?} and of {node:?}", nodes[0]),
                _ => format!("two new machines, given one command and {batch} at a time"),
            };
            let Broken { invariant, what: before } = broken;
            let what =
                format!("{how}, in {group:?}: {what}. The run ended by {invariant}: {before}");
            return Broken { invariant: NOT_DETERMINISTIC.to_owned(), what };
        }
    }
    broken
}

/// The replies and digests that a fresh machine makes of commands.
struct History {
    /// By the commands' order.
    replies: Vec<Bytes>,
    /// After so many commands.
    digests: BTreeMap<usize, Option<u64>>,
    /// Why it ended before the last command.
    failed: Option<String>,
}

impl History {
    fn of(setup: &Setup, node: NodeId, group: GroupId, entries: &[Entry], batch: usize) -> Self {
        let mut history = Self { replies: Vec::new(), digests: BTreeMap::new(), failed: None };
        let run = caught(|| {
            let mut machine = (setup.machine)(node, group, MachineDisk::new());
            history.run(&mut *machine, entries, batch)
        });
        history.failed = match run {
            Ok(result) => result.err().map(|error| error.to_string()),
            Err(Broken { invariant, what }) => Some(format!("{invariant}: {what}")),
        };
        history
    }

    fn run(
        &mut self,
        machine: &mut dyn StateMachine,
        entries: &[Entry],
        batch: usize,
    ) -> Result<(), crate::MachineError> {
        machine.open()?;
        self.digests.insert(0, machine.digest());
        for entries in entries.chunks(batch) {
            let mut replies = Replies::keeping();
            machine.apply(&Committed::new(entries), &mut replies)?;
            self.replies.extend_from_slice(replies.as_slice());
            self.digests.insert(self.replies.len(), machine.digest());
        }
        Ok(())
    }

    /// The first difference: in a reply, in a digest after as many commands, in how it ended.
    fn differs(&self, other: &Self, setup: &Setup, entries: &[Entry]) -> Option<String> {
        let describe = &setup.describe;
        let after = |count: usize| match count.checked_sub(1).and_then(|at| entries.get(at)) {
            Some(entry) => {
                let command = describe.command(&entry.payload);
                format!("the command at {} ({command})", entry.index.get())
            }
            None => "nothing".to_owned(),
        };
        let replies = self.replies.iter().zip(&other.replies);
        let reply = replies.enumerate().find(|(_, (a, b))| a != b);
        let digests = self.digests.iter().filter_map(|(count, digest)| {
            let theirs = other.digests.get(count).filter(|theirs| *theirs != digest)?;
            Some((*count, *digest, *theirs))
        });
        let digest = digests.min_by_key(|(count, ..)| *count);
        match (reply, digest) {
            (Some((at, (a, b))), digest) if digest.is_none_or(|(count, ..)| at < count) => {
                let (command, a, b) = (after(at + 1), describe.reply(a), describe.reply(b));
                Some(format!("{command} was replied {a} and {b}"))
            }
            (_, Some((count, a, b))) => {
                Some(format!("after {} the digests are {a:x?} and {b:x?}", after(count)))
            }
            _ if self.failed != other.failed => {
                let none = || "no failure".to_owned();
                let (a, b) = (self.failed.clone(), other.failed.clone());
                let (a, b) = (a.unwrap_or_else(none), b.unwrap_or_else(none));
                Some(format!("{a}, and {b}"))
            }
            _ => None,
        }
    }
}
