//! The shape that a seed draws before anything happens: sizes and weather.
//!
//! In:     a seed.
//! Out:    a [`Shape`], from a stream of its own.
//! Source: Groce et al. 2012 (swarm testing): small sizes find more than large ones.

use super::random::Random;
use crate::{
    Config, GroupId, NodeId,
    limits::{Limits, OfGroup, OfShard},
};
use logdrive_raft::ApplyMax;
use logdrive_wal::QUOTA_SEGMENTS_MIN;
use std::{path::Path, time::Duration};

/// Sizes and habits of a run.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) nodes: Vec<NodeId>,
    /// Shards of each node: of unequal numbers, so that frames are read by shards that do not own their groups.
    pub(super) shards: Vec<u32>,
    pub(super) groups: Vec<GroupId>,
    pub(super) election_ticks: u64,
    pub(super) heartbeat_ticks: u64,
    pub(super) segment_bytes: u64,
    /// A node starts with segments of any of these sizes.
    pub(super) segment_sizes: Vec<u64>,
    pub(super) batch_bytes_max: u32,
    pub(super) in_flight_max: usize,
    pub(super) weather: Weather,
    pub(super) propose_once_in: u64,
    pub(super) payload_max: u64,
    pub(super) keys: u64,
    /// A disk rests in one of so many steps; 0 is never.
    pub(super) disk_rests_once_in: u64,
    /// A frame finds no room in its queue once in so many; 0 is never.
    pub(super) refuse_once_in: u64,
    /// Old entries are read by a thread of its own: so many reads wait for it at most.
    pub(super) reads_max: usize,
    /// That thread does nothing in one of so many steps; 0 is never.
    pub(super) reads_rest_once_in: u64,
    /// A read fails once in so many; 0 is never.
    pub(super) reads_fail_once_in: u64,
    /// The node that campaigns at once when the groups are founded.
    pub(super) first_leader: Option<NodeId>,
    /// The bytes that each of the nodes' logs may take while there are faults.
    pub(super) log_bytes_max: Option<u64>,
    /// The nodes' disks are written through a page cache.
    pub(super) page_cache: bool,
    /// Per node: its clock's ticks in a thousand steps.
    pub(super) clock_rates: Vec<u64>,
    pub(super) limits: Limits,
    /// Nodes talk through lanes and connections, as over TCP; else each frame finds its own way.
    pub(super) connects: bool,
    /// The connections' bounds and pauses.
    pub(super) net: logdrive_net::Settings,
    /// Bytes that a connection takes ahead of their arrival.
    pub(super) socket_bytes: usize,
    /// A shard's thread takes no turn in one of so many steps; 0 is never.
    pub(super) turn_rests_once_in: u64,
    /// A group gets its machine within so many steps of its node's start.
    pub(super) resume_steps_max: u64,
}

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// A frame is lost once in so many; 0 is never.
    pub(super) lose_once_in: u64,
    /// A frame arrives twice once in so many; 0 is never.
    pub(super) twice_once_in: u64,
    /// A frame takes from one step to so many: frames overtake each other.
    pub(super) delay_max: u64,
}

impl Weather {
    pub(super) const FAIR: Self = Self { lose_once_in: 0, twice_once_in: 0, delay_max: 2 };
}

impl Shape {
    pub(super) fn draw(seed: u64, nodes: Option<u64>, groups: Option<u64>) -> Self {
        let mut random = Random::stream(seed, 1);
        let drawn = *random.pick(&[3, 3, 3, 3, 3, 5, 5, 4, 2, 1]);
        let nodes = nodes.unwrap_or(drawn);
        let drawn = random.between(1, 4);
        let groups = groups.unwrap_or(drawn);
        let rates = [1000, 1000, 950, 1050, 800, 1200];
        let mut shape = Self {
            nodes: (1..=nodes).map(NodeId).collect(),
            groups: (0..groups).map(|group| GroupId(7 + group)).collect(),
            election_ticks: *random.pick(&[12, 20, 20, 40]),
            heartbeat_ticks: *random.pick(&[2, 2, 4]),
            segment_bytes: *random.pick(&[64 << 10, 64 << 10, 128 << 10, 256 << 10]),
            segment_sizes: Vec::new(),
            batch_bytes_max: *random.pick(&[4 << 10, 8 << 10, 64 << 10, 1 << 20]),
            in_flight_max: *random.pick(&[1, 2, 4, 8]),
            weather: Weather {
                lose_once_in: *random.pick(&[0, 0, 50, 20, 8]),
                twice_once_in: *random.pick(&[0, 30, 10]),
                delay_max: *random.pick(&[1, 3, 8, 15]),
            },
            propose_once_in: *random.pick(&[1, 2, 6, 20]),
            payload_max: *random.pick(&[1, 100, 600, 600, 5000, 20_000]),
            keys: random.between(1, 5),
            disk_rests_once_in: *random.pick(&[0, 2, 3, 4]),
            refuse_once_in: 0,
            reads_max: 1,
            reads_rest_once_in: 0,
            reads_fail_once_in: 0,
            first_leader: None,
            log_bytes_max: None,
            page_cache: Random::stream(seed, 5).once_in(4),
            clock_rates: (0..nodes).map(|_| *random.pick(&rates)).collect(),
            shards: Vec::new(),
            limits: Limits::REAL,
            connects: false,
            net: logdrive_net::Settings::default(),
            socket_bytes: 0,
            turn_rests_once_in: 0,
            resume_steps_max: 0,
        };
        let segments = random.between(QUOTA_SEGMENTS_MIN, 2 * QUOTA_SEGMENTS_MIN);
        shape.log_bytes_max = random.once_in(6).then_some(segments * shape.segment_bytes);
        let real = OfGroup::REAL;
        shape.limits.of_group = OfGroup {
            inflight_messages_max: *random.pick(&[real.inflight_messages_max, 16, 4, 1]),
            inflight_bytes_max: *random.pick(&[real.inflight_bytes_max, 64 << 10, 4 << 10]),
            append_bytes_max: *random.pick(&[real.append_bytes_max, 64 << 10, 8 << 10]),
            uncommitted_bytes_max: *random.pick(&[real.uncommitted_bytes_max, 256 << 10, 64 << 10]),
            tail_bytes_max: real.tail_bytes_max,
        };
        shape.refuse_once_in = *random.pick(&[0, 0, 50, 10]);
        shape.reads_max = *random.pick(&[1, 2, 64]);
        shape.reads_rest_once_in = *random.pick(&[0, 2, 3]);
        shape.reads_fail_once_in = *random.pick(&[0, 0, 20, 5]);
        shape.shards = (0..nodes).map(|_| *random.pick(&[1, 1, 2, 2, 3])).collect();
        shape.limits.of_shard = OfShard {
            controls_max: shape.groups.len().max(16),
            frames_max: *random.pick(&[1, 4, 64]),
            frame_bytes_max: *random.pick(&[1 << 10, 4 << 20]),
            // As many as all peers send in a turn: with fewer, the last messages of a frame would never get through.
            forwarded_frames_max: *random.pick(&[32, 64]),
            reads_max: shape.reads_max,
            ..OfShard::REAL
        };
        if shape.limits.of_shard.frames_max == 1 {
            shape.limits.of_shard.turn_commands_max = 2;
            // More than what comes in each step at most: a node that is behind must catch up.
            shape.limits.of_shard.turn_apply_max = ApplyMax { entries: 8, bytes: 64 << 10 };
            if shape.limits.of_shard.frame_bytes_max < 4 << 20 {
                shape.limits.of_shard.turn_steps_max = 3;
            }
        }
        shape.connects = random.once_in(2);
        shape.socket_bytes = *random.pick(&[512, 16 << 10, 1 << 20]);
        shape.net = shape.draw_net(&mut random);
        shape.turn_rests_once_in = *random.pick(&[0, 0, 3, 8]);
        shape.resume_steps_max = *random.pick(&[0, 0, 10]);
        // With a quota, which is a number of segments, the sizes do not change.
        let changes = shape.log_bytes_max.is_none() && random.once_in(2);
        let sizes: &[u64] = if changes { &[64 << 10, 128 << 10, 256 << 10] } else { &[] };
        shape.segment_sizes = [&[shape.segment_bytes], sizes].concat();
        shape.first_leader = (!random.once_in(3)).then(|| *random.pick(&shape.nodes));
        shape
    }

    /// The bounds of the lanes: each lane takes the largest message there is, and little more if the seed says so.
    fn draw_net(&self, random: &mut Random) -> logdrive_net::Settings {
        let step = Duration::from_millis(1);
        let entry = usize::try_from(self.payload_max).expect("small") + ENTRY_BYTES_MORE;
        let largest = self.limits.of_group.append_bytes_max.max(entry) + 4 * ENTRY_BYTES_MORE;
        let real = logdrive_net::Settings::default();
        logdrive_net::Settings {
            frame_bytes_soft: *random.pick(&[real.frame_bytes_soft, 4 << 10, 1]),
            append_lane_bytes_max: *random.pick(&[
                real.append_lane_bytes_max,
                4 * largest,
                largest,
            ]),
            liveness_lane_bytes_max: *random.pick(&[real.liveness_lane_bytes_max, 1 << 10]),
            handshake_timeout: step * u32::try_from(random.between(10, 40)).expect("small"),
            backoff_min: step,
            backoff_max: step * u32::try_from(random.between(4, 12)).expect("small"),
            seed: random.any(),
            ..real
        }
    }

    /// The settings of a node with so many shards.
    pub(super) fn config(&self, shards: u32) -> Config {
        let peers = self.nodes.iter().map(|node| (*node, String::new())).collect();
        let mut config = Config::new(Path::new("sim"), peers);
        config.tick = Duration::from_millis(1);
        config.election_timeout = Duration::from_millis(self.election_ticks);
        config.heartbeat = Duration::from_millis(self.heartbeat_ticks);
        config.stall_warn = config.election_timeout;
        config.stall_fatal = Some(config.stall_resign() * 4);
        config.segment_bytes = self.segment_bytes;
        config.log_bytes_max = self.log_bytes_max.map(|max| max * u64::from(shards));
        config.log_writes_max = self.in_flight_max;
        config.proposals_max = 1 << 7;
        // A command of this size fits the smallest segments there are, on every node.
        config.command_bytes_max = 16 << 10;
        config
    }

    /// A node, by chance.
    pub(super) fn any_node(&self, random: &mut Random) -> u64 {
        random.below(self.nodes.len() as u64)
    }
}

/// The most commands that a client proposes at once.
pub(super) const SEVERAL_MAX: u64 = 4;

/// The most bytes of an entry in a frame besides its payload: headers, the serial, a register's operation.
const ENTRY_BYTES_MORE: usize = 256;
