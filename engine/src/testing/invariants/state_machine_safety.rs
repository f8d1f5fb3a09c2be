//! All machines of a group apply the same commands at the same places, in order, each once per
//! incarnation, none left out, and reply the same (paper §5.4.3); where they give digests of their states, those
//! are the same too. Nothing is applied before it is durable here.

use super::{Check, Invariant, require};
use crate::{
    GroupId, LogIndex, NodeId,
    testing::{
        event::{Applied, Event, Known},
        ghost::{Ghost, place},
    },
};

pub(super) const INVARIANT: Invariant = Invariant { name: "6 state-machine safety", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match *event {
        Event::Applied { node, group, applied } => {
            is_next(ghost, node, group, applied)?;
            is_the_same(ghost, node, group, applied)
        }
        Event::Reached { node, group, at, digest, .. } => {
            let known = ghost.known_to(node, group, at);
            same_digest(ghost, (node, group), at, known, digest)
        }
        _ => Ok(()),
    }
}

fn is_next(ghost: &Ghost, node: NodeId, group: GroupId, applied: &Applied) -> Check {
    let replica = ghost.replica(node, group);
    let index = applied.index;
    require(replica.applied.is_none_or(|before| before < index), || {
        format!("{node:?} applied {applied:?} of {group:?} after {:?}", replica.applied)
    })?;
    let from = replica.applied.unwrap_or_default().next();
    let left_out = ghost.applied.range((group, from)..(group, index)).next();
    require(left_out.is_none(), || {
        format!("{node:?} applied {applied:?} of {group:?} and has left out {left_out:?}")
    })?;
    if ghost.applied.contains_key(&(group, index)) {
        return Ok(());
    }
    // No machine has applied this index so far: a machine that is further has left it out.
    let is_past = |node: &&NodeId| {
        let replica = ghost.replicas.get(&(**node, group));
        replica.is_some_and(|replica| replica.opened < index && replica.applied > Some(index))
    };
    let past = ghost.nodes.iter().find(is_past);
    require(past.is_none(), || {
        format!("{node:?} applied {applied:?} of {group:?}, which {past:?} has left out")
    })
}

fn is_the_same(ghost: &Ghost, node: NodeId, group: GroupId, applied: &Applied) -> Check {
    let command =
        usize::try_from(applied.serial).ok().and_then(|serial| ghost.commands.get(serial));
    let known = ghost.applied.get(&(group, applied.index));
    require(known.is_none_or(|known| known == applied), || {
        let describe = &ghost.describe;
        let text = command.map_or_else(String::new, |command| describe.command(&command.command));
        let (own, other) = (&applied.reply, known.map(|known| describe.reply(&known.reply)));
        let other = other.unwrap_or_default();
        format!(
            "{node:?} made of command {} of {group:?} ({text}) {applied:?}, replying {}; another \
             machine {known:?}, replying {other}",
            applied.serial,
            describe.reply(own),
        )
    })?;
    require(command.is_some_and(|c| c.group == group && c.known != Known::No), || {
        format!("{applied:?} is applied in {group:?}, but that command is {command:?}")
    })?;
    let durable = ghost.replica(node, group).durable.log.get(place(applied.index));
    require(durable.is_some_and(|mark| mark.term == applied.term), || {
        format!("{node:?} applied {applied:?} of {group:?}, its disk has {durable:?} there")
    })
}

/// `Err` if another machine gave another digest of the same state. All commands up to `known` are known.
pub(super) fn same_digest(
    ghost: &Ghost,
    (node, group): (NodeId, GroupId),
    at: LogIndex,
    known: LogIndex,
    digest: Option<u64>,
) -> Check {
    let Some(digest) = digest else { return Ok(()) };
    let other = ghost.other_digest(group, at, known, digest);
    require(other.is_none(), || {
        let (other, other_at, theirs) = other.expect("there is one");
        format!(
            "the machine of {group:?} on {node:?} has the digest {digest:016x} at {at:?}, one on \
             {other:?} had {theirs:016x} at {other_at:?}, and no command stands between"
        )
    })
}
