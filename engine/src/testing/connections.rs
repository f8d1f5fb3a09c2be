//! Lanes and connections between simulated nodes: what TCP carries, with the real handshakes, queues and readers.
//!
//! In:     processes that come and go; messages of one peer and lane; when links carry nothing, or hold up bytes.
//! Out:    [`Effect`]s: lanes that came up or went down, connections that were let in or ended, messages that arrived.
//!         Bytes of a connection arrive in their order, in pieces, or not at all.
//! Fails:  a frame that the reading end must not deliver breaks invariant 28 or 35.
//! Source: RULES.md N1-N3, N8, N10, N13, P6, C7, invariant 23.
//!
//! [`LaneQueue`], [`Door`], [`Receiver`], [`Backoff`] and the handshake are those of a real node; sockets are not.
//! A process that ends leaves its connections half open: the other end may learn of it late, and what is under way may
//! still arrive, beside the first frames of the next process.

use super::{invariants::Broken, random::Random};
use crate::{GroupId, NodeId, links::PeerProcess};
use logdrive_net::{
    Backoff, Door, Greeted, Hello, Lane, LaneQueue, LeaseId, NetError, Receiver, Refusal, Sent,
    Settings, Turned,
    handshake::MessageReader,
    stores::{self, Acquaintances},
};
use logdrive_raft::Message;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// Something that the network did to a process.
pub(super) enum Effect {
    /// An outbound lane came up or went down.
    Lane { node: NodeId, shard: u32, peer: NodeId, lane: Lane, up: bool },
    /// A connection of this incarnation of `from` was let in.
    Opened { node: NodeId, from: NodeId, incarnation: u64 },
    /// A connection of `from` that had been let in has ended.
    Closed { node: NodeId, from: NodeId },
    /// `by` refused a lane for good: the directory must not be used any more.
    Refused { node: NodeId, by: NodeId, refusal: Refusal },
    /// A frame for the shard that reads its connection.
    Arrived { node: NodeId, shard: usize, from: PeerProcess, messages: Vec<(GroupId, Message)> },
}

/// The step in which bytes arrive that leave one node for another now; `None` if the connection breaks instead.
pub(super) type Passage<'a> = dyn FnMut(&mut Random, NodeId, NodeId) -> Option<u64> + 'a;

/// An outbound lane: the dialer, its shard, the peer, and the lane's place in [`Lane::ALL`].
type LaneKey = (NodeId, u32, NodeId, usize);

/// All lanes and connections there are.
pub(super) struct Connections {
    settings: Settings,
    socket_bytes: usize,
    processes: BTreeMap<NodeId, Process>,
    lanes: BTreeMap<LaneKey, LaneEnd>,
    open: BTreeMap<u64, Connection>,
    made: u64,
    heard: Heard,
}

/// The numbers of a directory's openings since it was made; a copy keeps those of the directory that it was made of.
pub(super) type Line = Rc<BTreeSet<u64>>;

/// The two ends of connections in one direction.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Ends {
    acceptor: NodeId,
    dialer: NodeId,
}

/// The openings of each dialer's directory of which the acceptor's directory has ever delivered a frame.
#[derive(Default)]
struct Heard(BTreeMap<Ends, BTreeSet<u64>>);

impl Heard {
    fn of(&self, ends: Ends) -> impl Iterator<Item = u64> + '_ {
        self.0.get(&ends).into_iter().flatten().copied()
    }

    /// True if the dialer's directory with this line is the one that the acceptor knows, or new to it.
    fn is_one_line(&self, ends: Ends, line: &Line) -> bool {
        self.of(ends).all(|opening| line.contains(&opening))
    }

    /// Invariant 35: an acceptor delivers frames of one line of a peer's openings only.
    fn deliver(&mut self, ends: Ends, line: &Line) {
        if !self.is_one_line(ends, line) {
            let Ends { acceptor, dialer } = ends;
            let heard: Vec<u64> = self.of(ends).collect();
            let what = format!(
                "{acceptor:?} delivers a frame of {dialer:?} whose directory was opened as {line:?}, after frames of \
                 the openings {heard:?}"
            );
            Broken { invariant: LINE.to_owned(), what }.throw();
        }
        self.0.entry(ends).or_default().extend(line.last());
    }
}

/// The accepting side of a node's process.
struct Process {
    door: Door,
    shards: u32,
    ended: BTreeSet<LeaseId>,
    /// The latest life of each peer that was let in.
    lives: BTreeMap<NodeId, u64>,
    /// By lane, the newest connection that has delivered anything.
    newest: BTreeMap<LaneKey, u64>,
}

struct LaneEnd {
    me: Hello,
    stores: Arc<Acquaintances>,
    line: Line,
    queue: LaneQueue,
    backoff: Backoff,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Down { dial_at: u64 },
    Dialling { connection: u64, until: u64 },
    Up { connection: u64, since: u64 },
}

struct Connection {
    key: LaneKey,
    /// The dialer's life.
    incarnation: u64,
    /// The line of the dialer's directory.
    line: Line,
    /// Bytes on their way to the acceptor, each piece with the step in which it arrives.
    to_acceptor: VecDeque<(u64, Vec<u8>)>,
    /// An answer on its way to the dialer; `None` is a reset.
    to_dialer: VecDeque<(u64, Option<Vec<u8>>)>,
    /// The dialer has closed the connection, or its process has ended: the last byte is followed by the end.
    is_left: bool,
    acceptor: Acceptor,
}

enum Acceptor {
    Greeting(Box<MessageReader>),
    Reading { receiver: Receiver, lease: LeaseId, shard: usize },
    Closed,
}

impl Connections {
    pub(super) fn new(settings: Settings, socket_bytes: usize) -> Self {
        Self {
            settings,
            socket_bytes,
            processes: BTreeMap::new(),
            lanes: BTreeMap::new(),
            open: BTreeMap::new(),
            made: 0,
            heard: Heard::default(),
        }
    }

    /// True if every one of `others` has delivered a frame of `node`, and would refuse `node` if its directory had
    /// this line.
    pub(super) fn would_refuse(&self, others: &[NodeId], node: NodeId, line: &Line) -> bool {
        others
            .iter()
            .all(|other| !self.heard.is_one_line(Ends { acceptor: *other, dialer: node }, line))
    }

    /// A node has another directory, which has heard nobody.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.heard.0.retain(|ends, _| ends.acceptor != node);
    }

    /// A process says `hellos` of itself, one for each of its shards; `known` are all nodes. `stores` is what its
    /// directory, of the line `line`, knows of others.
    pub(super) fn begin(
        &mut self,
        now: u64,
        hellos: &[Hello],
        known: &[NodeId],
        stores: &Arc<Acquaintances>,
        line: &Line,
    ) {
        let me = &hellos[0];
        let process = Process {
            door: Door::new(me.clone(), known.to_vec(), stores.clone()),
            shards: me.shards,
            ended: BTreeSet::new(),
            lives: BTreeMap::new(),
            newest: BTreeMap::new(),
        };
        self.processes.insert(me.node, process);
        for hello in hellos {
            for peer in known.iter().filter(|peer| **peer != me.node) {
                for (at, lane) in Lane::ALL.into_iter().enumerate() {
                    let me = Hello { lane, ..hello.clone() };
                    let end = LaneEnd {
                        queue: LaneQueue::new(&me, lane, &self.settings),
                        backoff: Backoff::new(&self.settings, &me, *peer),
                        state: State::Down { dial_at: now },
                        stores: stores.clone(),
                        line: line.clone(),
                        me,
                    };
                    self.lanes.insert((hello.node, hello.shard, *peer, at), end);
                }
            }
        }
    }

    /// A process has ended. If the power failed, bytes that it had under way may be lost, and its peers learn of it
    /// late.
    pub(super) fn end(&mut self, now: u64, random: &mut Random, node: NodeId, power: bool) {
        self.processes.remove(&node);
        self.lanes.retain(|(dialer, ..), _| *dialer != node);
        for connection in self.open.values_mut() {
            if connection.key.0 == node {
                connection.is_left = !power;
                // Bytes on the wire arrive, or are lost with the rest.
                if power && random.once_in(2) {
                    connection.to_acceptor.clear();
                }
            }
            if connection.key.2 == node {
                connection.acceptor = Acceptor::Closed;
                connection.to_acceptor.clear();
                let told = if power { LATE_STEPS } else { 2 };
                connection.to_dialer.push_back((now + 1 + random.below(told), None));
            }
        }
    }

    /// All connections of a node break. Each end learns of it, the accepting one perhaps late: then the bytes under
    /// way still arrive.
    pub(super) fn break_all(&mut self, now: u64, random: &mut Random, node: NodeId) {
        for connection in self.open.values_mut() {
            if connection.key.0 == node || connection.key.2 == node {
                connection.reset(now, random);
            }
        }
    }

    /// Sends a batch and empties it.
    ///
    /// # Errors
    /// How many of its messages leave all the same, if any is dropped.
    pub(super) fn send(
        &mut self,
        from: (NodeId, u32),
        to: NodeId,
        lane: Lane,
        messages: &mut Vec<(GroupId, Message)>,
    ) -> Result<(), usize> {
        let Some(end) = self.lanes.get_mut(&(from.0, from.1, to, place(lane))) else {
            return Err(0);
        };
        let (is_up, before) = (end.queue.is_up(), end.queue.stats().messages);
        let sent = end.queue.send(messages, |group, bytes| {
            panic!("a message of {bytes} bytes of {group:?} fits no frame")
        });
        if is_up && sent == Sent::Dropped {
            logdrive_raft::reached!("lane full");
        }
        match sent {
            Sent::Taken => Ok(()),
            Sent::Dropped => {
                let framed = end.queue.stats().messages - before;
                Err(usize::try_from(framed).expect("a batch fits memory"))
            }
        }
    }

    /// Does everything that is due: lanes that dial, bytes that move, frames that arrive at processes that `read` them.
    pub(super) fn step(
        &mut self,
        now: u64,
        random: &mut Random,
        passage: &mut Passage<'_>,
        reads: &dyn Fn(NodeId, usize) -> bool,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let keys: Vec<LaneKey> = self.lanes.keys().copied().collect();
        for key in keys.into_iter().filter(|key| reads(key.0, key.1 as usize)) {
            self.step_lane(key, now, random, passage, &mut effects);
        }
        let open: Vec<u64> = self.open.keys().copied().collect();
        for id in open {
            self.step_acceptor(id, now, random, passage, reads, &mut effects);
        }
        let lanes = &self.lanes;
        self.open.retain(|id, connection| {
            let is_dialled = lanes.get(&connection.key).is_some_and(|end| end.state.is_of(*id));
            is_dialled || !matches!(connection.acceptor, Acceptor::Closed)
        });
        effects
    }

    fn step_lane(
        &mut self,
        key: LaneKey,
        now: u64,
        random: &mut Random,
        passage: &mut Passage<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let (node, shard, peer, at) = key;
        let end = self.lanes.get_mut(&key).expect("a lane of ours");
        match end.state {
            State::Down { dial_at } if dial_at > now => {}
            State::Down { .. } => {
                self.made += 1;
                let mut connection = Connection {
                    key,
                    incarnation: end.me.incarnation,
                    line: end.line.clone(),
                    to_acceptor: VecDeque::new(),
                    to_dialer: VecDeque::new(),
                    is_left: false,
                    acceptor: Acceptor::Greeting(Box::new(MessageReader::new())),
                };
                if let Some(arrives) = passage(random, node, peer) {
                    let me = end.stores.present(&end.me, peer);
                    connection.to_acceptor.push_back((arrives, me.encode(peer)));
                }
                self.open.insert(self.made, connection);
                let until = now + steps(self.settings.handshake_timeout);
                end.state = State::Dialling { connection: self.made, until };
            }
            State::Dialling { connection: id, until } => {
                let connection = self.open.get_mut(&id).expect("dialled");
                let answer = connection.answer(now);
                let heard = match &answer {
                    Some(Some(answer)) => end.hear(peer, answer),
                    Some(None) => Err(NetError::Closed),
                    None if now >= until => Err(NetError::Timeout("handshake")),
                    None => return,
                };
                match heard {
                    Ok(stores::Heard::Up(hello)) => {
                        end.queue.set_up(hello);
                        end.state = State::Up { connection: id, since: now };
                        let lane = Lane::ALL[at];
                        effects.push(Effect::Lane { node, shard, peer, lane, up: true });
                    }
                    Ok(stores::Heard::Introduced(_)) => {
                        logdrive_raft::reached!("opening introduced");
                        connection.is_left = true;
                        end.state = State::Down { dial_at: now + 1 };
                    }
                    Err(error) => {
                        if let NetError::RefusedByPeer(refusal) = error
                            && refusal.is_for_good()
                        {
                            let ends = Ends { acceptor: peer, dialer: node };
                            if self.heard.is_one_line(ends, &end.line) {
                                let what =
                                    format!("{peer:?} refuses {node:?}, which it knows: {refusal}");
                                Broken { invariant: LINE.to_owned(), what }.throw();
                            }
                            effects.push(Effect::Refused { node, by: peer, refusal });
                        }
                        let refused =
                            matches!(error, NetError::Refused(_) | NetError::RefusedByPeer(_));
                        end.queue.count_failure(refused);
                        connection.is_left = true;
                        let pause = steps(end.backoff.after_failure(refused));
                        end.state = State::Down { dial_at: now + pause };
                    }
                }
            }
            State::Up { connection: id, since } => {
                let connection = self.open.get_mut(&id).expect("it is up");
                let is_lost = matches!(connection.answer(now), Some(None))
                    || !end.move_bytes(connection, self.socket_bytes, random, passage);
                if is_lost {
                    connection.reset(now, random);
                    end.queue.set_down();
                    let lasted = Duration::from_millis(now - since);
                    let pause = steps(end.backoff.after_loss(lasted));
                    end.state = State::Down { dial_at: now + pause };
                    let lane = Lane::ALL[at];
                    effects.push(Effect::Lane { node, shard, peer, lane, up: false });
                }
            }
        }
    }

    fn step_acceptor(
        &mut self,
        id: u64,
        now: u64,
        random: &mut Random,
        passage: &mut Passage<'_>,
        reads: &dyn Fn(NodeId, usize) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        let connection = self.open.get_mut(&id).expect("it is open");
        let (from, _, node, _) = connection.key;
        let Some(process) = self.processes.get_mut(&node) else {
            // Nobody listens.
            if connection.due(now) {
                connection.to_acceptor.clear();
                connection.refuse(passage(random, node, from).unwrap_or(now + 1), None);
            }
            return;
        };
        // The first shard's thread answers greetings; each shard's thread reads the connections that are its own.
        let thread = match connection.acceptor {
            Acceptor::Reading { shard, .. } => shard,
            Acceptor::Greeting(_) | Acceptor::Closed => 0,
        };
        if !reads(node, thread) {
            return;
        }
        if let Acceptor::Reading { lease, .. } = &connection.acceptor
            && process.ended.contains(lease)
            && random.once_in(NOTICE_ONCE_IN)
        {
            // The reading task was told that another connection has its place.
            connection.refuse(now + 1, None);
            return effects.push(Effect::Closed { node, from });
        }
        while connection.due(now) {
            let (_, bytes) = connection.to_acceptor.pop_front().expect("it is due");
            let was_read = matches!(connection.acceptor, Acceptor::Reading { .. });
            let settings = self.settings.clone();
            let heard = &mut self.heard;
            let answered = connection.read(id, process, heard, &bytes, settings, effects);
            let arrives = passage(random, node, from).unwrap_or(now + 1);
            match answered {
                Ok(None) => {}
                Ok(Some(answer)) => connection.to_dialer.push_back((arrives, Some(answer))),
                Err(answer) => {
                    connection.refuse(arrives, answer);
                    if was_read {
                        effects.push(Effect::Closed { node, from });
                    }
                    return;
                }
            }
        }
        if connection.is_left && connection.to_acceptor.is_empty() {
            if matches!(connection.acceptor, Acceptor::Reading { .. }) {
                effects.push(Effect::Closed { node, from });
            }
            connection.acceptor = Acceptor::Closed;
        }
    }

    /// From now on connections take all bytes that they are given.
    pub(super) fn widen(&mut self) {
        self.socket_bytes = usize::MAX;
    }

    /// The frames in a shard's lanes leave, as far as the connections take them; a break is noticed in the next step.
    pub(super) fn flush(
        &mut self,
        random: &mut Random,
        passage: &mut Passage<'_>,
        node: NodeId,
        shard: u32,
    ) {
        let own = self.lanes.iter_mut().filter(|(key, _)| (key.0, key.1) == (node, shard));
        for (_, end) in own {
            let State::Up { connection, .. } = end.state else { continue };
            let connection = self.open.get_mut(&connection).expect("it is up");
            if !end.move_bytes(connection, self.socket_bytes, random, passage) {
                connection.is_left = true;
                connection.to_dialer.push_back((0, None));
            }
        }
    }

    /// The bytes that links held up arrive now.
    pub(super) fn hurry(&mut self, now: u64) {
        for connection in self.open.values_mut() {
            connection.to_acceptor.iter_mut().for_each(|(at, _)| *at = (*at).min(now + 1));
            connection.to_dialer.iter_mut().for_each(|(at, _)| *at = (*at).min(now + 1));
        }
    }

    /// A peer was let in, so it is up: the lanes to it dial at once, and do not wait for their next try.
    pub(super) fn dial_now(&mut self, now: u64, node: NodeId, peer: NodeId) {
        for (key, end) in &mut self.lanes {
            if (key.0, key.2) == (node, peer)
                && let State::Down { dial_at } = &mut end.state
            {
                *dial_at = (*dial_at).min(now + 1);
            }
        }
    }
}

impl LaneEnd {
    /// Judges an answer, and notes that the acceptor remembers this end.
    fn hear(&self, peer: NodeId, answer: &[u8]) -> Result<stores::Heard, NetError> {
        let heard = self.stores.hear(&self.me, peer, answer)?;
        let (stores::Heard::Up(acceptor) | stores::Heard::Introduced(acceptor)) = &heard;
        self.stores.note(acceptor).expect("memory");
        Ok(heard)
    }

    /// Moves the waiting bytes into the socket, as far as there is room; false if the connection breaks.
    fn move_bytes(
        &mut self,
        connection: &mut Connection,
        socket_bytes: usize,
        random: &mut Random,
        passage: &mut Passage<'_>,
    ) -> bool {
        let (node, _, peer, _) = connection.key;
        // No byte follows one that was lost.
        while !connection.is_left && !self.queue.waiting().is_empty() {
            let room = socket_bytes.saturating_sub(connection.bytes_under_way());
            let waiting = self.queue.waiting();
            let most = waiting.len().min(room);
            if most == 0 {
                break;
            }
            // Whole mostly, else a piece.
            let bytes = if random.once_in(4) { 1 + random.place(most) } else { most };
            let piece = waiting[..bytes].to_vec();
            self.queue.advance(bytes);
            let Some(arrives) = passage(random, node, peer) else { return false };
            connection.push(arrives, piece);
        }
        true
    }
}

impl State {
    fn is_of(self, id: u64) -> bool {
        match self {
            Self::Down { .. } => false,
            Self::Dialling { connection, .. } | Self::Up { connection, .. } => connection == id,
        }
    }
}

impl Connection {
    fn bytes_under_way(&self) -> usize {
        self.to_acceptor.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Bytes of one connection do not overtake each other.
    fn push(&mut self, arrives: u64, bytes: Vec<u8>) {
        let last = self.to_acceptor.back().map_or(0, |(at, _)| *at);
        self.to_acceptor.push_back((arrives.max(last), bytes));
    }

    fn due(&self, now: u64) -> bool {
        self.to_acceptor.front().is_some_and(|(at, _)| *at <= now)
    }

    fn answer(&mut self, now: u64) -> Option<Option<Vec<u8>>> {
        self.to_dialer.pop_front_if(|(at, _)| *at <= now).map(|(_, answer)| answer)
    }

    /// The accepting end closes it, with an answer or without.
    fn refuse(&mut self, arrives: u64, answer: Option<Vec<u8>>) {
        self.acceptor = Acceptor::Closed;
        self.to_acceptor.clear();
        self.to_dialer.push_back((arrives, answer));
    }

    /// The connection breaks; the accepting end may learn of it late.
    fn reset(&mut self, now: u64, random: &mut Random) {
        self.is_left = true;
        self.to_dialer.push_back((now + 1, None));
        if random.once_in(2) {
            self.to_acceptor.clear();
        } else if let Some((at, _)) = self.to_acceptor.front_mut() {
            *at += random.below(LATE_STEPS);
        }
    }

    /// The accepting end takes bytes. `Ok(Some)` is its answer; `Err` closes the connection, perhaps with an answer.
    fn read(
        &mut self,
        id: u64,
        process: &mut Process,
        heard: &mut Heard,
        mut bytes: &[u8],
        settings: Settings,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Vec<u8>>, Option<Vec<u8>>> {
        let (from, _, node, _) = self.key;
        match &mut self.acceptor {
            Acceptor::Closed => Err(None),
            Acceptor::Greeting(reader) => {
                let mut greeted = None;
                while greeted.is_none() && !bytes.is_empty() {
                    let room = reader.room();
                    let taken = room.len().min(bytes.len());
                    room[..taken].copy_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    let message = reader.filled(taken).expect("a hello of ours");
                    greeted = message.map(|message| process.door.greet(message));
                }
                match greeted {
                    None => Ok(None),
                    Some(Ok(Greeted::Introduced { answer })) => Err(Some(answer)),
                    Some(Ok(Greeted::Welcome(welcome))) => {
                        process.admit(from, self.incarnation, &welcome.ended);
                        let shard = (welcome.hello.shard % process.shards) as usize;
                        let receiver = Receiver::new(&welcome.hello, &settings);
                        self.acceptor = Acceptor::Reading { receiver, lease: welcome.lease, shard };
                        let incarnation = welcome.hello.incarnation;
                        effects.push(Effect::Opened { node, from, incarnation });
                        Ok(Some(welcome.answer))
                    }
                    Some(Err(Turned { answer, .. })) => {
                        logdrive_raft::reached!("handshake refused");
                        Err(answer)
                    }
                }
            }
            Acceptor::Reading { receiver, lease, shard } => {
                while !bytes.is_empty() {
                    bytes = &bytes[receiver.read(bytes)..];
                    loop {
                        match receiver.next(|| process.ended.contains(lease)) {
                            Ok(Some(messages)) => {
                                process.delivers(id, self.key, self.incarnation);
                                heard.deliver(Ends { acceptor: node, dialer: from }, &self.line);
                                let (shard, incarnation) = (*shard, self.incarnation);
                                let from = PeerProcess { node: from, incarnation };
                                effects.push(Effect::Arrived { node, shard, from, messages });
                            }
                            Ok(None) => break,
                            Err(NetError::Replaced) => {
                                logdrive_raft::reached!("frame of a replaced connection dropped");
                                return Err(None);
                            }
                            Err(error) => panic!("our own frames cannot be read: {error}"),
                        }
                    }
                }
                Ok(None)
            }
        }
    }
}

impl Process {
    fn admit(&mut self, from: NodeId, incarnation: u64, ended: &[LeaseId]) {
        let before = self.lives.insert(from, incarnation);
        self.ended.extend(ended);
        if before > Some(incarnation) {
            let what = format!("life {incarnation} of {from:?} is let in after life {before:?}");
            Broken { invariant: INVARIANT.to_owned(), what }.throw();
        }
    }

    /// Checks invariant 28: no frame of an older connection of a lane is delivered after one of a newer connection,
    /// and none of a peer's earlier life once a later life was let in.
    fn delivers(&mut self, id: u64, key: LaneKey, incarnation: u64) {
        let newest = self.newest.entry(key).or_insert(id);
        let life = self.lives.get(&key.0).copied();
        if *newest > id || life > Some(incarnation) {
            let what = format!(
                "a frame of connection {id} of {key:?}, life {incarnation}, is delivered after connection {newest}, \
                 life {life:?}"
            );
            Broken { invariant: INVARIANT.to_owned(), what }.throw();
        }
        *newest = id;
    }
}

const INVARIANT: &str = "28 connection order";
const LINE: &str = "35 one line of openings";

fn place(lane: Lane) -> usize {
    Lane::ALL.iter().position(|known| *known == lane).expect("every lane has a place")
}

fn steps(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("short").max(1)
}

/// If one end of a connection is gone and does not say so, the other end learns of it within so many steps.
const LATE_STEPS: u64 = 40;
/// A reading task learns that its connection was replaced once in so many steps.
const NOTICE_ONCE_IN: u64 = 4;
