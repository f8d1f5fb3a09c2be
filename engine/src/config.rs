//! A node's settings: each with its default, its unit and its effect; checked once, at open.

use crate::{
    NodeId, OpenError, introductions::HEARTBEATS_MIN, limits, pulse::StallLimits, shard::Timing,
};
use logdrive_net::handshake::{CLIENT_ADDRESS_BYTES_MAX, CLUSTER_NAME_BYTES_MAX};
use logdrive_wal::{DriverChoice, Identity, QUOTA_SEGMENTS_MIN, SEGMENT_BYTES_DEFAULT};
use rustix::thread::CpuSet;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// The settings that a node's directory is made with, once (see [`crate::Node::init`]).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Founding {
    /// The cluster's name, 1 to 64 bytes. Nodes of another name are refused.
    pub cluster: String,
    /// This node, not 0.
    pub node: NodeId,
    /// Shard threads, each with its own log. Fixed for the directory's life.
    pub shards: u32,
    /// Settings of the embedder that must not change either, and must be the same on all nodes of the cluster: nodes that
    /// were made with other ones refuse each other ([`crate::Refusal::OtherSettings`]). Given back by
    /// [`crate::Node::settings`].
    pub settings: BTreeMap<String, String>,
}

impl Founding {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        check_cluster(&self.cluster)
    }
}

/// The log's files would take a longer name than peers do.
fn check_cluster(name: &str) -> Result<(), OpenError> {
    if (1..=CLUSTER_NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    let bytes = name.len();
    Err(OpenError::Config(format!(
        "a cluster's name has 1 to {CLUSTER_NAME_BYTES_MAX} bytes, not {bytes}"
    )))
}

/// A node's settings for one run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The node's directory, made by [`crate::Node::init`].
    pub dir: PathBuf,
    /// Every node's peer address (`host:port`), this one's among them: it is listened on.
    pub peers: BTreeMap<NodeId, String>,
    /// The address that other nodes are told to send clients to, at most 255 bytes; empty if there is no such address.
    pub client_address: String,
    /// A follower that hears nothing campaigns after one to two of these. It must be at least three heartbeats of this node,
    /// and should be of every peer: nodes that find it is not say so, in a warning on both sides, and go on. To make the
    /// times of a cluster longer, open all nodes with the longer election timeout, one after the other, and then with the
    /// longer heartbeat; to make them shorter, the other way round. Default 1 s.
    pub election_timeout: Duration,
    /// A leader says at least this often that it is alive. Default 100 ms.
    pub heartbeat: Duration,
    /// A disk that has not answered for this long is worth a line. After two election timeouts the node gives up its
    /// leaderships, and stands for none until the disk answers. Default 1 s.
    pub stall_warn: Duration,
    /// A disk, or a shard's thread, that has been silent for this long fails the node ([`crate::NodeError::Stalled`]),
    /// and one second later ends the process with code 1: a thread that is stuck in the kernel can be neither joined
    /// nor cancelled. `None` never does; then only the embedder can tell. Default 20 s.
    pub stall_fatal: Option<Duration>,
    /// Whether a stall over `stall_fatal` ends the process, or this node alone ([`crate::Node::failure`] tells). A node that
    /// goes on within its process keeps its directory's lock, and its stuck thread may be that of a state machine that
    /// never came back. Default true.
    pub stall_ends_process: bool,
    /// The core's unit of time. Default 20 ms.
    pub tick: Duration,
    /// The log's segment size in bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// The most that the node's log files may come to, in bytes, shared evenly by its shards; at least six segments
    /// each. Near it proposals are refused ([`crate::ProposeError::LogFull`]), and go on being refused: the engine
    /// releases nothing before it has snapshots, so all of a log is needed. Default: no bound.
    pub log_bytes_max: Option<u64>,
    /// Log writes in flight at once, per shard. While all are taken, what arrives comes together for
    /// the next. Default 2.
    pub log_writes_max: usize,
    /// How the log reaches the disk. Default: io_uring if the system allows it.
    pub driver: DriverChoice,
    /// Commands that wait or are in the log unanswered, per shard; more are `Overloaded`.
    /// Default 131,072.
    pub proposals_max: usize,
    /// The same in bytes; never more than a sixth of a shard's part of `log_bytes_max`. Default 256 MiB.
    pub proposal_bytes_max: usize,
    /// One command's bytes, at most, and never more than 8 MiB or a quarter of a segment. The first open of a directory
    /// founds it for commands of so many bytes, because the segments of every peer must hold them: a later open may lower
    /// what this node takes from clients, never raises it, and is refused if its segments are too small for the founding.
    /// Directories may be founded for different numbers. A node whose segments do not hold the commands of a peer refuses
    /// that peer, says so and serves on with the others; if it refuses at least two, and so many that the rest is no
    /// majority, before it has reached any peer and while none of its groups has a leader, it ends
    /// ([`crate::NodeError::SmallSegments`]). A directory whose first opening met such a peer before it served is founded by
    /// the next one. Default 1 MiB.
    pub command_bytes_max: usize,
    /// Connections to this node's peer address that have not said who they are, at most; each has a descriptor.
    /// Default 128.
    pub strangers_max: usize,
    /// Cores the shard threads stay on: shard *i* on the *i*-th, round and round. Default: none, the system
    /// moves them.
    pub cores: Vec<usize>,
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
            stall_warn: Duration::from_secs(1),
            stall_ends_process: true,
            stall_fatal: Some(Duration::from_secs(20)),
            tick: Duration::from_millis(20),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            log_bytes_max: None,
            log_writes_max: 2,
            driver: DriverChoice::Auto,
            proposals_max: 131_072,
            proposal_bytes_max: 256 << 20,
            command_bytes_max: 1 << 20,
            strangers_max: 128,
            cores: Vec::new(),
            seed: 0,
        }
    }

    /// A silence after which the node leads nothing: its followers have lost patience with a slow leader by then.
    pub(crate) fn stall_resign(&self) -> Duration {
        self.election_timeout.saturating_mul(2)
    }

    /// The protocol's timeouts, in ticks.
    pub(crate) fn timing(&self) -> Timing {
        let ticks = |time: Duration| {
            u64::try_from(time.as_nanos().div_ceil(self.tick.as_nanos())).unwrap_or(u64::MAX / 4)
        };
        Timing {
            election_ticks: ticks(self.election_timeout),
            heartbeat_ticks: ticks(self.heartbeat),
        }
    }

    /// How long a disk or a thread may be silent.
    pub(crate) fn stall_limits(&self) -> StallLimits {
        StallLimits::new(self.stall_warn, self.stall_resign(), self.stall_fatal)
    }

    /// Settings of one shard's log, in `dir`.
    pub(crate) fn log(
        &self,
        dir: PathBuf,
        identity: &Identity,
        shard: u32,
    ) -> logdrive_wal::Config {
        let mut log = logdrive_wal::Config::new(dir, identity.clone(), shard);
        log.segment_bytes = self.segment_bytes;
        log.log_bytes_max = self.log_bytes_max_of_shard(identity.shards);
        log.in_flight_max = self.log_writes_max;
        log.driver = self.driver;
        log
    }

    fn log_bytes_max_of_shard(&self, shards: u32) -> Option<u64> {
        self.log_bytes_max.map(|max| max / u64::from(shards))
    }

    /// The bytes of commands that may wait in one shard for an answer. All these commands may be for one group and be
    /// one write. An empty log must have room for that write: else the write would wait for ever, with all behind it.
    pub(crate) fn waiting_bytes_max(&self, shards: u32) -> usize {
        let sixth = self.log_bytes_max_of_shard(shards).map(|max| max / QUOTA_SEGMENTS_MIN);
        let sixth = sixth.map_or(usize::MAX, |sixth| usize::try_from(sixth).unwrap_or(usize::MAX));
        self.proposal_bytes_max.min(sixth)
    }

    /// The bytes that a command may have: as set, and never so many that a few commands fill a segment.
    pub(crate) fn command_bytes_max(&self) -> usize {
        let quarter = usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX);
        self.command_bytes_max.min(limits::COMMAND_BYTES_MAX).min(quarter)
    }

    /// The largest command that the segments of `log` hold, in bytes.
    pub(crate) fn command_bytes_held(&self, log: &logdrive_wal::Config) -> u32 {
        u32::try_from(log.entry_bytes_max()).unwrap_or(u32::MAX)
    }

    /// The largest command that a directory is founded for by its first open, in bytes.
    pub(crate) fn founds_command_bytes(&self) -> u32 {
        u32::try_from(self.command_bytes_max()).expect("a bound of ours")
    }

    /// Says whether the segments of `log` hold the largest command that the directory was founded for.
    ///
    /// # Errors
    /// [`OpenError::Config`] if they do not.
    pub(crate) fn check_founded(
        &self,
        founded: u32,
        log: &logdrive_wal::Config,
    ) -> Result<(), OpenError> {
        let (bytes, held) = (self.segment_bytes, self.command_bytes_held(log));
        if founded <= held {
            return Ok(());
        }
        let least = limits::least_segment_bytes(founded);
        Err(OpenError::Config(format!(
            "segments of {bytes} bytes hold commands of at most {held}; this directory was founded for commands of up to \
             {founded}: open it with segments of at least {least} bytes"
        )))
    }

    pub(crate) fn check(&self, identity: &Identity) -> Result<(), OpenError> {
        let fail = |why: String| Err(OpenError::Config(why));
        check_cluster(&identity.cluster)?;
        if !self.peers.contains_key(&identity.node) {
            let node = identity.node.get();
            return fail(format!("peers name no address for this node ({node})"));
        }
        if self.client_address.len() > CLIENT_ADDRESS_BYTES_MAX {
            let bytes = self.client_address.len();
            return fail(format!(
                "a client address has at most {CLIENT_ADDRESS_BYTES_MAX} bytes, not {bytes}"
            ));
        }
        if self.tick.is_zero() || self.tick > self.heartbeat {
            return fail(format!(
                "tick of {:?} must be above zero and at most the heartbeat of {:?}",
                self.tick, self.heartbeat
            ));
        }
        if self.heartbeat.saturating_mul(HEARTBEATS_MIN) > self.election_timeout {
            return fail(format!(
                "heartbeat of {:?} must be at most a third of the election timeout of {:?}",
                self.heartbeat, self.election_timeout
            ));
        }
        let resign = self.stall_resign();
        if self.stall_warn.is_zero() || self.stall_fatal.is_some_and(|fatal| fatal <= resign) {
            return fail(format!(
                "stall_warn of {:?} must be above zero, stall_fatal of {:?} above two election timeouts ({resign:?})",
                self.stall_warn, self.stall_fatal
            ));
        }
        if self.proposals_max == 0 || self.log_writes_max == 0 {
            return fail("proposals_max and log_writes_max must be above zero".to_owned());
        }
        if let Some(core) = self.cores.iter().find(|core| **core >= CpuSet::MAX_CPU) {
            return fail(format!("core {core} is past the last that can be named"));
        }
        if self.command_bytes_max == 0 || self.command_bytes_max > self.proposal_bytes_max {
            return fail("command_bytes_max must be from 1 to proposal_bytes_max".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_a_shard_fits_an_empty_log_at_its_quota() {
        let mut config = Config::new(Path::new("n"), BTreeMap::new());
        assert_eq!(config.waiting_bytes_max(3), 256 << 20);
        config.log_bytes_max = Some(3 * 6 * (64 << 20));
        assert_eq!(config.waiting_bytes_max(3), 64 << 20);
        config.proposal_bytes_max = 1 << 20;
        assert_eq!(config.waiting_bytes_max(3), 1 << 20);
    }
}
