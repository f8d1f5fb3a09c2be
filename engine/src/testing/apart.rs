//! Groups that one node creates otherwise than the others do; with other members, that node's replica stands apart.
//!
//! In:     a simulation before its first step; what clients propose to the replica that stands apart.
//! Out:    what that replica acknowledges, and at the end whether it has stopped and both sides know why.
//! Source: RULES.md M14, invariant 36.
//!
//! Such a replica is none of the group's own: nothing else that it does is judged.

use super::{
    event::{ApartAtEnd, Event},
    ghost::Apart,
    machine::SERIAL_BYTES,
    sim::Sim,
};
use crate::{Bootstrap, Completions, Group, GroupId, GroupState, NodeId, StopCause};
use bytes::BytesMut;
use logdrive_raft::Role;
use std::sync::Arc;

/// A client proposes something to a replica that stands apart once in so many steps.
const PROPOSE_ONCE_IN: u64 = 3;

impl Sim<'_> {
    /// A node is to create a group alone, or without one of the others, or with another first leader.
    pub(super) fn found_otherwise(&mut self, at: usize, group: usize, way: u64) {
        let (id, group, mut members) =
            (self.nodes[at].id, self.shape.groups[group], self.shape.nodes.clone());
        let mut first_leader = self.shape.first_leader;
        match way % 3 {
            0 => members = vec![id],
            1 => {
                let others: Vec<NodeId> = members.iter().copied().filter(|n| *n != id).collect();
                let without = others[usize::try_from(way / 3).expect("a node") % others.len()];
                members.retain(|member| *member != without);
            }
            _ => first_leader = Some(id),
        }
        first_leader = first_leader.filter(|first| members.contains(first));
        if members.len() < self.shape.nodes.len() {
            // The others have one replica less.
            self.losses.replica(id, group);
            let apart = Apart { members: members.clone(), told: Default::default() };
            self.judge.ghost.apart.insert((id, group), apart);
        }
        self.nodes[at].founded.insert(group, Bootstrap::New { members, first_leader });
    }

    /// True if the replica was founded with other members than the others.
    pub(super) fn is_apart(&self, node: NodeId, group: GroupId) -> bool {
        self.judge.ghost.apart.contains_key(&(node, group))
    }

    /// A client proposes that knows this replica alone. Its commands and their outcomes are in no history.
    pub(super) fn propose_apart(&mut self, node: NodeId, group: GroupId, handle: &Group) {
        if !self.clients.once_in(PROPOSE_ONCE_IN) {
            return;
        }
        let operations = &self.setup.operations;
        let command = operations(&mut self.clients, group, &self.shape, &self.calls);
        let mut payload = BytesMut::zeroed(SERIAL_BYTES);
        payload.extend_from_slice(&command);
        let place = self.shape.groups.iter().position(|known| *known == group);
        let token = node.get() << 32 | place.expect("a group of ours") as u64;
        let sink: Arc<dyn Completions> = self.answers_apart.clone();
        // Only a success is judged, so a refusal is not looked at.
        let _ = handle.submit(&sink, token, payload.freeze());
    }

    pub(super) fn take_answers_apart(&mut self) {
        let answers = std::mem::take(&mut *self.answers_apart.lock());
        for (token, outcome) in answers {
            if outcome.is_ok() {
                logdrive_raft::reached!("acknowledged by one that was founded alone");
                let node = NodeId(token >> 32);
                let place = usize::try_from(token & 0xFFFF_FFFF).expect("a place");
                self.judge.see(&Event::AnsweredApart { node, group: self.shape.groups[place] });
            }
        }
    }

    /// The replicas that stand apart, if enough of the other nodes were able to tell them by now.
    pub(super) fn apart_at_end(&self) -> Vec<ApartAtEnd> {
        let alive = self.alive();
        let mut found = Vec::new();
        for ((id, group), apart) in &self.judge.ghost.apart {
            let node = self.nodes.iter().find(|node| node.id == *id).expect("one of ours");
            let runs = node.process.as_ref().and_then(|p| p.node.groups.running(*group));
            let whole = alive.get(group).map_or(&[][..], Vec::as_slice);
            let leader = whole.iter().find(|(_, status)| status.role == Role::Leader);
            let members = whole.iter().filter(|(node, _)| apart.members.contains(node)).count();
            // The replica asks the members that it was founded with; the group's leader asks the replica.
            let is_told = apart.members == [*id] || 2 * members >= apart.members.len();
            let is_fenced = self.judge.ghost.fenced.contains(&(*id, *group));
            let (Some(handle), Some((leader, _))) = (runs, leader) else { continue };
            if !is_told || is_fenced {
                continue;
            }
            let leader = self.nodes.iter().find(|node| node.id == *leader).expect("one of ours");
            let cause = handle.state();
            let has_stopped =
                matches!(cause, GroupState::Stopped(StopCause::OtherMembers(by)) if by != *id);
            let both_say = node.says_otherwise(*group) && leader.says_otherwise(*group);
            found.push(ApartAtEnd { node: *id, group: *group, has_stopped, both_say });
        }
        found
    }
}
