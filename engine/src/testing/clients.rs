//! The clients of a simulation: what they propose, and what they hear.
//!
//! In:     operations that the setup draws; groups' handles, as an embedder has them.
//! Out:    commands to groups; calls with what became of them, told to the judge first.
//! Source: RULES.md T4 (clients know three outcomes: yes, no, unknown).

use super::{
    answers::Answers,
    event::{Event, Known, Proposed, known},
    machine::SERIAL_BYTES,
    setup::Call,
    shape::SEVERAL_MAX,
    sim::Sim,
};
use crate::{Completions, Group, Outcome, ProposeError, here};
use bytes::{Bytes, BytesMut};
use logdrive_raft::{Role, Status};
use std::sync::Arc;

/// One time in so many, several commands are proposed at once.
const SEVERAL_ONCE_IN: u64 = 8;

impl Sim<'_> {
    /// Clients look at what they were told.
    pub(super) fn take_answers(&mut self) {
        let answers = std::mem::take(&mut *self.answers.lock());
        for (token, outcome) in answers {
            self.answered(token, &outcome);
        }
    }

    fn answered(&mut self, serial: u64, outcome: &Outcome) {
        self.judge.see(&Event::Answered { serial, outcome });
        let now = self.now();
        let call = &mut self.calls[usize::try_from(serial).expect("a position")];
        match outcome {
            Ok(applied) => call.reply = Some((now, applied.reply.clone())),
            Err(_) => {
                call.refused = known(outcome) == Known::No;
                call.unknown = !call.refused;
            }
        }
    }

    /// Clients propose in this step: to a replica that believes it leads, and sometimes to one that does not.
    pub(super) fn propose(&mut self, at: usize) {
        if self.quiet.contains(&self.now()) {
            return;
        }
        for group in self.shape.groups.clone() {
            let node = &self.nodes[at];
            let process = node.process.as_ref().expect("it runs");
            let Some(handle) = process.node.groups.running(group).filter(|_| self.proposing) else {
                continue;
            };
            if self.is_apart(node.id, group) {
                let id = node.id;
                self.propose_apart(id, group, &handle);
                continue;
            }
            let leads =
                node.status(group).is_some_and(|status: Status| status.role == Role::Leader);
            let chance = match leads {
                true if self.world.borrow().now < self.eager_until => 1,
                true => self.shape.propose_once_in,
                false => 50 * self.shape.propose_once_in,
            };
            if !self.clients.once_in(chance) {
                continue;
            }
            // In peace disks are given no more than they can write.
            let several = self.healed_at.is_none() && self.clients.once_in(SEVERAL_ONCE_IN);
            let count = if several { self.clients.between(2, SEVERAL_MAX) } else { 1 };
            let (id, called) = (node.id, self.world.borrow().now);
            // The client is a task on the shard's own thread, or runs on another thread.
            let is_here = self.clients.once_in(2);
            let shard = node.log_of(group);
            let arrivals = is_here.then(|| process.shards[shard].arrivals.clone());
            let token = self.judge.ghost.commands.len() as u64;
            let mut payloads = Vec::new();
            for serial in token..token + count {
                let operations = &self.setup.operations;
                let command = operations(&mut self.clients, group, &self.shape, &self.calls);
                let mut payload = BytesMut::with_capacity(SERIAL_BYTES + command.len());
                payload.extend_from_slice(&serial.to_le_bytes());
                payload.extend_from_slice(&command);
                payloads.push(payload.freeze());
                let known = Known::Waiting;
                self.judge.trace.propose(id, group, serial, &command);
                let proposed = Proposed { node: id, group, command: command.clone(), known };
                self.judge.ghost.commands.push(proposed);
                let (reply, refused, unknown) = (None, false, false);
                self.calls.push(Call { group, command, called, reply, refused, unknown });
            }
            if several {
                logdrive_raft::reached!("several commands proposed at once");
            }
            here::set(arrivals);
            let submitted = submit(&handle, &self.answers, token, payloads);
            here::set(None);
            if let Err(error) = submitted {
                for serial in token..token + count {
                    self.answered(serial, &Err(error.clone()));
                }
            }
        }
    }
}

/// Hands commands to a group as an embedder does.
fn submit(
    group: &Group,
    answers: &Arc<Answers>,
    token: u64,
    mut payloads: Vec<Bytes>,
) -> Result<(), ProposeError> {
    let sink: Arc<dyn Completions> = answers.clone();
    match payloads.len() {
        1 => group.submit(&sink, token, payloads.pop().expect("one")),
        _ => group.submit_batch(&sink, token, payloads),
    }
}
