//! A network that loses, delays, reorders, doubles, holds up and repeats, between nodes of one thread.
//!
//! In:     messages of one peer and lane, as the shard sends them.
//! Out:    the same messages, through the real codec, when and if they arrive.
//! Source: RULES.md N1-N8, N10, N11.
//!
//! Half of all runs talk through [`Connections`], which keep the order that TCP keeps. In the others each frame finds
//! its own way, which is worse than any connection: the protocol must bear it all the same.

use super::{
    connections::{Connections, Effect},
    random::Random,
    shape::Weather,
};
use crate::{GroupId, NodeId, links::PeerProcess};
use bytes::{Bytes, BytesMut};
use logdrive_net::Lane;
use logdrive_raft::{AppendReply, AppendResult, Message};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// A frame that has arrived.
pub(super) struct Arrival {
    pub(super) from: PeerProcess,
    /// The shard that sent it.
    pub(super) shard: u32,
    pub(super) to: NodeId,
    pub(super) messages: Vec<(GroupId, Message)>,
}

#[derive(Clone)]
struct Frame {
    from: PeerProcess,
    shard: u32,
    to: NodeId,
    body: Bytes,
}

/// A trouble of a link, one way, up to a step.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    from: NodeId,
    to: NodeId,
    until: u64,
}

/// Frames under way.
pub(super) struct Network {
    /// `None` if each frame finds its own way.
    pub(super) connections: Option<Connections>,
    /// By the step in which they arrive, and a number, so that their order follows from the seed alone.
    frames: BTreeMap<(u64, u64), Frame>,
    sent: u64,
    pub(super) weather: Weather,
    /// A frame finds no room in its queue once in so many; 0 is never.
    refuse_once_in: u64,
    /// Weather for a while, and until when.
    gust: Option<(Weather, u64)>,
    /// Links that carry nothing.
    cut: Vec<Trouble>,
    /// Links that hold up what they carry.
    clogged: Vec<Trouble>,
    /// Appends to anybody but this node are lost, up to a step.
    appends_only_to: Option<(NodeId, u64)>,
    /// In these steps, of all messages to this node only appends arrive.
    nothing_but_appends_to: Option<(NodeId, Range<u64>)>,
    /// Up to this step, acknowledgements arrive again at a node that leads a later term.
    echo_until: u64,
    /// The highest acknowledgement by sender, receiver and group, with the process that sent it.
    echoes: BTreeMap<(NodeId, NodeId, GroupId), (PeerProcess, Message)>,
    /// Frames of the past, to be repeated.
    past: VecDeque<Frame>,
}

impl Network {
    pub(super) fn new(
        weather: Weather,
        refuse_once_in: u64,
        connections: Option<Connections>,
    ) -> Self {
        Self {
            connections,
            frames: BTreeMap::new(),
            sent: 0,
            weather,
            refuse_once_in,
            gust: None,
            cut: Vec::new(),
            clogged: Vec::new(),
            appends_only_to: None,
            nothing_but_appends_to: None,
            echo_until: 0,
            echoes: BTreeMap::new(),
            past: VecDeque::new(),
        }
    }

    /// Sends a batch and empties it.
    ///
    /// # Errors
    /// How many of the messages left are on their way all the same, if any of them was dropped.
    pub(super) fn send(
        &mut self,
        now: u64,
        random: &mut Random,
        (from, shard): (PeerProcess, u32),
        to: NodeId,
        lane: Lane,
        messages: &mut Vec<(GroupId, Message)>,
    ) -> Result<(), usize> {
        if random.once_in(self.refuse_once_in) {
            return Err(0);
        }
        // A staged fault loses some messages on the way. If the lane refuses the others, the caller keeps them all.
        let lost = self.take_lost(now, to, messages);
        if let Some(connections) = &mut self.connections {
            let sent = connections.send((from.node, shard), to, lane, messages);
            if sent.is_err() {
                messages.extend(lost);
            }
            return sent;
        }
        if now < self.echo_until {
            self.echo_to(now, random, (from, shard), to, messages);
        }
        let mut body = BytesMut::new();
        for (group, message) in messages.drain(..) {
            logdrive_net::codec::encode(&mut body, group, &message);
        }
        let frame = Frame { from, shard, to, body: body.freeze() };
        let weather = self.weather_at(now);
        let copies = 1 + u64::from(random.once_in(weather.twice_once_in));
        for _ in 0..copies {
            let lost = random.once_in(weather.lose_once_in);
            let mut at = now + 1 + random.below(weather.delay_max);
            if let Some(clog) = find(&self.clogged, from.node, to, now) {
                at = at.max(clog.until + random.below(3));
            }
            if !lost && find(&self.cut, from.node, to, now).is_none() {
                self.put(at, frame.clone());
            }
        }
        if self.past.len() == PAST_FRAMES {
            self.past.pop_front();
        }
        self.past.push_back(frame);
        Ok(())
    }

    /// Takes out the messages that a staged fault loses.
    fn take_lost(
        &self,
        now: u64,
        to: NodeId,
        messages: &mut Vec<(GroupId, Message)>,
    ) -> Vec<(GroupId, Message)> {
        let loses_appends = self.appends_only_to.is_some_and(|(only, end)| only != to && now < end);
        let hears_only =
            |(node, meanwhile): &(NodeId, Range<u64>)| *node == to && meanwhile.contains(&now);
        let loses_others = self.nothing_but_appends_to.as_ref().is_some_and(hears_only);
        let is_lost = |(_, message): &mut (GroupId, Message)| match message {
            Message::AppendEntries(_) => loses_appends,
            _ => loses_others,
        };
        messages.extract_if(.., is_lost).collect()
    }

    /// The connections' part of a step. `reads` says whether the thread of a node's shard reads arriving bytes.
    pub(super) fn connect(
        &mut self,
        now: u64,
        random: &mut Random,
        reads: &dyn Fn(NodeId, usize) -> bool,
    ) -> Vec<Effect> {
        let weather = self.weather_at(now);
        let Self { connections, clogged, cut, .. } = self;
        let Some(connections) = connections else { return Vec::new() };
        let mut passage = passage(weather, clogged, cut, now);
        connections.step(now, random, &mut passage, reads)
    }

    /// The frames in a shard's lanes leave, as far as its connections take them.
    pub(super) fn flush(&mut self, now: u64, random: &mut Random, node: NodeId, shard: u32) {
        let weather = self.weather_at(now);
        let Self { connections, clogged, cut, .. } = self;
        let Some(connections) = connections else { return };
        connections.flush(random, &mut passage(weather, clogged, cut, now), node, shard);
    }

    /// The messages that arrive at `now`.
    pub(super) fn arrivals(&mut self, now: u64) -> Vec<Arrival> {
        let later = self.frames.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.frames, later);
        due.into_values()
            .map(|Frame { from, shard, to, body }| {
                let messages = logdrive_net::codec::decode(body).expect("what encode made");
                Arrival { from, shard, to, messages }
            })
            .collect()
    }

    /// Connections of `node` break: frames under way on them are lost, or late.
    pub(super) fn break_all(&mut self, now: u64, random: &mut Random, node: NodeId) {
        if let Some(connections) = &mut self.connections {
            connections.break_all(now, random, node);
        }
        self.frames.retain(|_, frame| {
            let is_of = frame.from.node == node || frame.to == node;
            !is_of || (frame.from.node == node && random.once_in(2))
        });
    }

    /// A link carries nothing, one way, for so many steps.
    pub(super) fn cut(&mut self, now: u64, from: NodeId, to: NodeId, steps: u64) {
        if from != to {
            self.cut.push(Trouble { from, to, until: now + steps });
        }
    }

    /// A link holds up the frames that it is given, one way, and delivers them at the end.
    pub(super) fn clog(&mut self, now: u64, from: NodeId, to: NodeId, steps: u64) {
        self.clogged.push(Trouble { from, to, until: now + steps });
    }

    /// Appends reach only one node for so many steps.
    pub(super) fn appends_only_to(&mut self, now: u64, node: NodeId, steps: u64) {
        self.appends_only_to = Some((node, now + steps));
    }

    /// In the steps `meanwhile`, of all messages to a node only appends arrive.
    pub(super) fn nothing_but_appends_to(&mut self, node: NodeId, meanwhile: Range<u64>) {
        self.nothing_but_appends_to = Some((node, meanwhile));
    }

    /// Acknowledgements arrive again at leaders of later terms, for so many steps.
    pub(super) fn echo(&mut self, now: u64, steps: u64) {
        self.echo_until = now + steps;
        self.echoes.clear();
    }

    /// Keeps acknowledgements that `from` sends; when `from` appends as a leader, the acknowledgements that were sent
    /// to it in an earlier term arrive once more.
    fn echo_to(
        &mut self,
        now: u64,
        random: &mut Random,
        (from, shard): (PeerProcess, u32),
        to: NodeId,
        messages: &[(GroupId, Message)],
    ) {
        for (group, message) in messages {
            match message {
                Message::AppendReply(reply) => {
                    let AppendResult::Accepted { match_index } = reply.result else { continue };
                    let kept = self.echoes.entry((from.node, to, *group));
                    let kept = kept.or_insert_with(|| (from, message.clone()));
                    if let Message::AppendReply(AppendReply { term, result }) = &kept.1
                        && let AppendResult::Accepted { match_index: highest } = result
                        && (reply.term, match_index) > (*term, *highest)
                    {
                        *kept = (from, message.clone());
                    }
                }
                Message::AppendEntries(append) => {
                    let of = |key: &(NodeId, NodeId, GroupId), said: &(PeerProcess, Message)| {
                        key.1 == from.node && key.2 == *group && said.1.term() < append.term
                    };
                    let old: Vec<_> =
                        self.echoes.extract_if(.., |key, said| of(key, said)).collect();
                    for ((_, leader, group), (sender, said)) in old {
                        let mut body = BytesMut::new();
                        logdrive_net::codec::encode(&mut body, group, &said);
                        let frame = Frame { from: sender, shard, to: leader, body: body.freeze() };
                        for later in [1, 3, 9] {
                            self.put(now + 1 + random.below(later), frame.clone());
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Other weather for so many steps.
    pub(super) fn gust(&mut self, now: u64, weather: Weather, steps: u64) {
        self.gust = Some((weather, now + steps));
    }

    /// Frames of the past arrive again, whatever connection they were of.
    pub(super) fn repeat(&mut self, now: u64, random: &mut Random, frames: u64) {
        for _ in 0..frames {
            if self.past.is_empty() {
                return;
            }
            let frame = self.past[random.place(self.past.len())].clone();
            self.put(now + 1 + random.below(5), frame);
        }
    }

    /// From now on the network works without faults; frames that were held up arrive at once.
    pub(super) fn heal(&mut self, now: u64) {
        self.weather = Weather::FAIR;
        self.refuse_once_in = 0;
        if let Some(connections) = &mut self.connections {
            connections.widen();
        }
        self.calm(now);
    }

    /// Every trouble that passes by itself has passed.
    pub(super) fn calm(&mut self, now: u64) {
        self.gust = None;
        self.cut.clear();
        self.clogged.clear();
        self.appends_only_to = None;
        self.nothing_but_appends_to = None;
        self.echo_until = 0;
        if let Some(connections) = &mut self.connections {
            connections.hurry(now);
        }
        for frame in std::mem::take(&mut self.frames).into_values() {
            self.put(now + 1, frame);
        }
    }

    fn weather_at(&self, now: u64) -> Weather {
        self.gust.filter(|(_, until)| now < *until).map_or(self.weather, |(weather, _)| weather)
    }

    fn put(&mut self, at: u64, frame: Frame) {
        self.sent += 1;
        self.frames.insert((at, self.sent), frame);
    }
}

/// The step in which bytes arrive that leave now. A connection sends lost packets again, and breaks only now and then.
fn passage(
    weather: Weather,
    clogged: &[Trouble],
    cut: &[Trouble],
    now: u64,
) -> impl FnMut(&mut Random, NodeId, NodeId) -> Option<u64> {
    move |random, from, to| {
        if random.once_in(weather.lose_once_in * BREAKS_ONCE_IN) {
            return None;
        }
        let at = now + 1 + random.below(weather.delay_max);
        let held = [find(clogged, from, to, now), find(cut, from, to, now)];
        let held = held.into_iter().flatten().map(|trouble| trouble.until).max();
        Some(held.map_or(at, |until| at.max(until + random.below(3))))
    }
}

fn find(troubles: &[Trouble], from: NodeId, to: NodeId, now: u64) -> Option<&Trouble> {
    troubles.iter().find(|t| t.from == from && t.to == to && now < t.until)
}

/// Frames kept to be repeated.
const PAST_FRAMES: usize = 512;
/// A connection breaks once in so many frames that a datagram would lose.
const BREAKS_ONCE_IN: u64 = 8;
