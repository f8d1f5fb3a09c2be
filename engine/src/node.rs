//! One node: the log, the network and the shard threads, and the groups that live on them.

use crate::{
    Config, Founding, Group, GroupError, GroupId, NodeError, NodeId, OpenError, StateMachine,
};
use std::{collections::BTreeMap, path::Path, pin::Pin, time::Duration};

/// How a group comes to be.
#[derive(Clone, Debug)]
pub enum Bootstrap {
    /// All of `members` create it with the same list. `first_leader` campaigns at once, the others
    /// only if it does not get through.
    Founding {
        /// The voters, this node among them.
        members: Vec<NodeId>,
        /// Who should lead first.
        first_leader: Option<NodeId>,
    },
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct Description {
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Its shard threads.
    pub shards: u32,
    /// How the log reaches the disk: `io_uring` or `portable`.
    pub disk_driver: &'static str,
    /// True if writes bypass the page cache.
    pub direct_io: bool,
    /// True if the log's images are registered with the ring.
    pub registered: bool,
}

/// Percentiles of one stage of a proposal's time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageSummary {
    /// `inbox`, `log_wait`, `write`, `peer`, `apply`, `reply` or `total`.
    pub name: &'static str,
    /// Proposals measured.
    pub count: u64,
    /// Mean, µs.
    pub mean_us: f64,
    /// Median, µs.
    pub p50_us: f64,
    /// 99th percentile, µs.
    pub p99_us: f64,
    /// Largest, µs.
    pub max_us: f64,
}

/// Hosts groups. Cheap to clone; the node runs until [`Node::close`] or the last clone is gone.
#[derive(Clone)]
pub struct Node {}

impl Node {
    /// Makes a node's directory and its identity.
    ///
    /// # Errors
    /// [`OpenError`] if there is one already, the directory holds anything else, or it cannot be written.
    pub fn init(_dir: &Path, _founding: Founding) -> Result<(), OpenError> {
        todo!()
    }

    /// The settings a directory was made with, without opening it.
    ///
    /// # Errors
    /// [`OpenError`] if there is no identity, or it is damaged.
    pub fn founding(_dir: &Path) -> Result<Founding, OpenError> {
        todo!()
    }

    /// Opens a node: takes the directory's lock, recovers the log, listens, starts its threads.
    ///
    /// # Errors
    /// [`OpenError`]: nothing runs.
    pub fn open(_config: Config) -> Result<Self, OpenError> {
        todo!()
    }

    /// Groups the log holds that are not resumed yet: they are silent until they are.
    #[must_use]
    pub fn recovered(&self) -> Vec<GroupId> {
        todo!()
    }

    /// Creates a group on this node.
    ///
    /// # Errors
    /// [`GroupError`]: it was not created.
    pub fn create(
        &self,
        _group: GroupId,
        _bootstrap: Bootstrap,
        _machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        todo!()
    }

    /// Gives a recovered group its machine; from now on it votes, follows and leads.
    ///
    /// # Errors
    /// [`GroupError`]: it stays silent.
    pub fn resume(
        &self,
        _group: GroupId,
        _machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        todo!()
    }

    /// A running group.
    #[must_use]
    pub fn group(&self, _group: GroupId) -> Option<Group> {
        todo!()
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        todo!()
    }

    /// Number of shard threads.
    #[must_use]
    pub fn shards(&self) -> usize {
        todo!()
    }

    /// The embedder's fixed settings ([`Founding::settings`]).
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<String, String> {
        todo!()
    }

    /// What this node runs on.
    #[must_use]
    pub fn describe(&self) -> Description {
        todo!()
    }

    /// Where `node` wants its clients, if it has said so since this node started.
    #[must_use]
    pub fn client_address(&self, _node: NodeId) -> Option<String> {
        todo!()
    }

    /// Where the time of proposals led here went, over all shards, first stage to last, then `total`.
    #[must_use]
    pub fn stages(&self) -> Vec<StageSummary> {
        todo!()
    }

    /// Starts measuring stages anew.
    pub fn reset_stages(&self) {
        todo!()
    }

    /// Runs a task on a shard's thread, beside its groups: a proposal made there for a group of
    /// that shard crosses no thread. The task must never block; it is dropped when the node stops.
    ///
    /// # Errors
    /// [`NodeError`] if the node has stopped.
    pub fn spawn_on(
        &self,
        _shard: usize,
        _task: impl FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send + 'static,
    ) -> Result<(), NodeError> {
        todo!()
    }

    /// Why the node stopped by itself, if it did. Waits up to `timeout` for that.
    #[must_use]
    pub fn failure(&self, _timeout: Duration) -> Option<NodeError> {
        todo!()
    }

    /// Stops: answers what waits, ends the log's writes in flight, joins the threads.
    ///
    /// # Errors
    /// [`NodeError`] if the node had failed, or fails while it stops.
    pub fn close(&self) -> Result<(), NodeError> {
        todo!()
    }
}
