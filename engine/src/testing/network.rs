//! A network that loses, delays, reorders and duplicates, between nodes of one thread.
//!
//! In:     messages of one peer and lane, as the shard sends them.
//! Out:    the same messages, through the real codec, when and if they arrive.
//! Source: FAULTS.md N8 (loss, duplication, reordering, delay), N10 (connections that break).

use super::random::Random;
use crate::{GroupId, NodeId};
use bytes::{Bytes, BytesMut};
use logdrive_raft::Message;

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

/// A frame that has arrived.
pub(super) struct Arrival {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) messages: Vec<(GroupId, Message)>,
}

struct Frame {
    at: u64,
    /// Breaks ties, so that the order is the seed's alone.
    number: u64,
    from: NodeId,
    to: NodeId,
    body: Bytes,
}

/// Frames under way.
pub(super) struct Network {
    frames: Vec<Frame>,
    sent: u64,
    pub(super) weather: Weather,
    /// Links that carry nothing, one way each.
    pub(super) cut: Vec<(NodeId, NodeId)>,
}

impl Network {
    pub(super) fn new(weather: Weather) -> Self {
        Self { frames: Vec::new(), sent: 0, weather, cut: Vec::new() }
    }

    pub(super) fn send(
        &mut self,
        now: u64,
        random: &mut Random,
        from: NodeId,
        to: NodeId,
        messages: &mut Vec<(GroupId, Message)>,
    ) {
        let mut body = BytesMut::new();
        for (group, message) in messages.drain(..) {
            logdrive_net::codec::encode(&mut body, group, &message);
        }
        let body = body.freeze();
        let copies = 1 + u64::from(random.once_in(self.weather.twice_once_in));
        for _ in 0..copies {
            let lost = random.once_in(self.weather.lose_once_in);
            let at = now + 1 + random.below(self.weather.delay_max);
            if !lost && !self.cut.contains(&(from, to)) {
                self.sent += 1;
                self.frames.push(Frame { at, number: self.sent, from, to, body: body.clone() });
            }
        }
    }

    /// What arrives at `now`.
    pub(super) fn arrivals(&mut self, now: u64) -> Vec<Arrival> {
        let mut due: Vec<Frame> = self.frames.extract_if(.., |frame| frame.at <= now).collect();
        due.sort_unstable_by_key(|frame| (frame.at, frame.number));
        due.into_iter()
            .map(|Frame { from, to, body, .. }| {
                let messages = logdrive_net::codec::decode(body).expect("what encode made");
                Arrival { from, to, messages }
            })
            .collect()
    }

    /// Connections of `node` break: what is under way on them is lost.
    pub(super) fn drop_frames_of(&mut self, node: NodeId) {
        self.frames.retain(|frame| frame.from != node && frame.to != node);
    }
}
