//! A node's settings: each with its default, its unit and its effect; checked once, at open.

use crate::{NodeId, OpenError, limits};
use logdrive_wal::DriverChoice;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a node's directory is made with, once (see [`crate::Node::init`]).
#[derive(Clone, Debug)]
pub struct Founding {
    /// The cluster's name, at most 64 bytes. Nodes of another name are refused.
    pub cluster: String,
    /// This node, not 0.
    pub node: NodeId,
    /// Shard threads, each with its own log. Fixed for the directory's life.
    pub shards: u32,
    /// Settings of the embedder that must not change either; given back by [`crate::Node::settings`].
    pub settings: BTreeMap<String, String>,
}

/// A node's settings for one run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The node's directory, made by [`crate::Node::init`].
    pub dir: PathBuf,
    /// Every node's peer address (`host:port`), this one's among them: it is listened on.
    pub peers: BTreeMap<NodeId, String>,
    /// What other nodes are told to send clients to; empty if there is no such address.
    pub client_address: String,
    /// A follower that hears nothing campaigns after one to two of these. Default 1 s.
    pub election_timeout: Duration,
    /// A leader says at least this often that it is alive. Default 100 ms.
    pub heartbeat: Duration,
    /// The core's unit of time. Default 20 ms.
    pub tick: Duration,
    /// The log's segment size in bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// Log writes in flight at once, per shard. While all are taken, what arrives comes together for
    /// the next. Default 2.
    pub log_writes_max: usize,
    /// How the log reaches the disk. Default: io_uring if the system allows it.
    pub driver: DriverChoice,
    /// Commands that wait or are in the log unanswered, per shard; more are `Overloaded`.
    /// Default 131,072.
    pub proposals_max: usize,
    /// The same in bytes. Default 256 MiB.
    pub proposal_bytes_max: usize,
    /// One command's bytes, at most, and never more than 8 MiB or a quarter of a segment. Nodes of a
    /// cluster must agree on it. Default 1 MiB.
    pub command_bytes_max: usize,
    /// Seeds election timeouts; 0 draws a seed from the system.
    pub seed: u64,
}

impl Config {
    /// The defaults for a directory and the addresses of all nodes.
    #[must_use]
    pub fn new(dir: &Path, peers: BTreeMap<NodeId, String>) -> Self {
        Self {
            dir: dir.to_owned(),
            peers,
            client_address: String::new(),
            election_timeout: Duration::from_secs(1),
            heartbeat: Duration::from_millis(100),
            tick: Duration::from_millis(20),
            segment_bytes: 64 << 20,
            log_writes_max: 2,
            driver: DriverChoice::Auto,
            proposals_max: 131_072,
            proposal_bytes_max: 256 << 20,
            command_bytes_max: 1 << 20,
            seed: 0,
        }
    }

    /// What a command may have: as set, and never so much that a few fill a segment.
    pub(crate) fn command_bytes_max(&self) -> usize {
        let quarter = usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX);
        self.command_bytes_max.min(limits::COMMAND_BYTES_MAX).min(quarter)
    }

    pub(crate) fn check(&self, node: NodeId) -> Result<(), OpenError> {
        let fail = |why: String| Err(OpenError::Config(why));
        if !self.peers.contains_key(&node) {
            return fail(format!("peers name no address for this node ({})", node.get()));
        }
        if self.tick.is_zero() || self.tick > self.heartbeat {
            return fail(format!(
                "tick of {:?} must be above zero and at most the heartbeat of {:?}",
                self.tick, self.heartbeat
            ));
        }
        if self.heartbeat * 3 > self.election_timeout {
            return fail(format!(
                "heartbeat of {:?} must be at most a third of the election timeout of {:?}",
                self.heartbeat, self.election_timeout
            ));
        }
        if self.proposals_max == 0 || self.log_writes_max == 0 {
            return fail("proposals_max and log_writes_max must be above zero".to_owned());
        }
        if self.command_bytes_max == 0 || self.command_bytes_max > self.proposal_bytes_max {
            return fail("command_bytes_max must be from 1 to proposal_bytes_max".to_owned());
        }
        Ok(())
    }
}
