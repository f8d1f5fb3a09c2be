//! The inputs of a run: a seed, machines, clients, and what to leave out.
//!
//! In:     the embedder, through [`super::Cluster`].
//! Out:    one [`Setup`] for all that a run does.

use super::{describe::Describe, machine_disk::MachineDisk, random::Random, shape::Shape};
use crate::{GroupId, NodeId, StateMachine};
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc};

pub(super) type MachineFactory =
    dyn Fn(NodeId, GroupId, MachineDisk) -> Box<dyn StateMachine> + Send + Sync;
pub(super) type Operations = dyn Fn(&mut Random, GroupId, &Shape, &[Call]) -> Bytes + Send + Sync;
pub(super) type ClientCheck = dyn Fn(&[Call]) -> Result<(), String> + Send + Sync;

/// All that determines a run.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) seed: u64,
    pub(super) nodes: Option<u64>,
    pub(super) groups: Option<u64>,
    pub(super) machine: Arc<MachineFactory>,
    pub(super) operations: Arc<Operations>,
    pub(super) check: Arc<ClientCheck>,
    pub(super) describe: Describe,
    /// The numbers of the schedule's faults to keep; `None` keeps all.
    pub(super) only: Option<Vec<usize>>,
    pub(super) traced: bool,
    /// Excuses that are not made.
    pub(super) strict: BTreeSet<&'static str>,
}

impl Setup {
    pub(super) fn shape(&self) -> Shape {
        Shape::draw(self.seed, self.nodes, self.groups)
    }
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Call {
    /// The group it was for.
    pub group: GroupId,
    /// The command.
    pub command: Bytes,
    /// When it was proposed, in steps.
    pub called: u64,
    /// When it was answered, in steps, and the machine's reply; `None` if it was refused or its outcome
    /// is unknown.
    pub reply: Option<(u64, Bytes)>,
    /// The command did not happen, and the client knows that.
    pub refused: bool,
    /// The client will hear no more, and the command may have happened, or may still happen.
    pub unknown: bool,
}

impl Call {
    /// The client still waits for an answer.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.reply.is_none() && !self.refused && !self.unknown
    }
}
