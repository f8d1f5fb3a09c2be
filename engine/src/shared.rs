//! The state that all threads of a node share: its identity, its shards' queues, its groups, the peers it hears, why
//! it stopped.
//!
//! In:     a checked [`Config`] and an identity; then whatever the node's threads tell each other.
//! Out:    the same, to any thread; groups on their way to their shards.
//! Cost:   a lock held for a moment per question, none on a proposal's path.
//! Fails:  [`GroupError`] for a group that cannot be started; the node's own failure is latched, the first one stays.
//! Source: RULES.md A1, A7.

use crate::{
    Config, Group, GroupError, GroupId, LogIndex, NodeError, NodeEvent, NodeId, StateMachine,
    StopCause, Term, apply,
    clock::Nanos,
    events::News,
    here,
    inbox::{Control, Inbox, NotTaken, shard_of},
    introductions::Introductions,
    life::{Bootstrap, Groups},
    limits::Limits,
    membership,
    pulse::{Pulse, Saves, StallLimits},
    shard::{Founded, GroupView, Timing},
    silence::Silence,
    stages::Stages,
};
use bytes::Bytes;
use logdrive_net::{
    Accepted, ClusterId, Hello, InboundMeter, InboundStats, Lane, Refusal,
    stores::{Acquaintances, Proof},
};
use logdrive_raft::{Durable, HardState, LogId, Restored, Ticks};
use logdrive_wal::{Identity, RecoveredGroup};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The state that all threads of a node share.
pub(crate) struct Shared {
    pub(crate) me: NodeId,
    pub(crate) identity: Identity,
    pub(crate) peers: BTreeMap<NodeId, String>,
    client_address: String,
    election_timeout: Duration,
    pub(crate) tick: Duration,
    pub(crate) timing: Timing,
    pub(crate) heartbeat: Nanos,
    pub(crate) stall_limits: StallLimits,
    pub(crate) stall_ends_process: bool,
    pub(crate) limits: Limits,
    /// The largest command that this node takes from clients.
    pub(crate) command_bytes_max: usize,
    /// The largest command that the directory was founded for: the segments of all peers must hold it.
    pub(crate) command_bytes_founded: u32,
    pub(crate) net_settings: logdrive_net::Settings,
    /// The knowledge that this node and its peers have of each other's directories.
    pub(crate) stores: Arc<Acquaintances>,
    pub(crate) inboxes: Vec<Arc<Inbox>>,
    /// Per shard.
    pub(crate) pulses: Vec<Pulse>,
    /// Per shard; each written by its own thread and merged when read.
    pub(crate) stages: Vec<Mutex<Stages>>,
    pub(crate) groups: Groups,
    pub(crate) introductions: Introductions,
    /// Changes of what clients are told: leaders, client addresses, peers that come and go.
    map_version: Arc<AtomicU64>,
    pub(crate) news: Arc<News>,
    /// By peer: its connections to this node.
    inbound: Mutex<BTreeMap<NodeId, InboundOf>>,
    /// Peers with larger commands than the segments here hold, and their largest.
    too_large: Mutex<BTreeMap<NodeId, u32>>,
    /// By peer: the moment of the last event which told that this node refused it.
    turned_away: Mutex<BTreeMap<NodeId, Nanos>>,
    /// Changes of the directory's file of openings.
    pub(crate) saves: Saves,
    /// A lane to a peer has come up.
    has_reached: AtomicBool,
    silence: Silence,
    /// Where peers find this node, and the counts of their connections; none under simulation.
    pub(crate) entrance: Option<(SocketAddr, Arc<InboundMeter>)>,
    pub(crate) description: Mutex<Option<logdrive_wal::Description>>,
    /// Set once `failure` is: looked at in every turn.
    has_failed: AtomicBool,
    pub(crate) failure: Mutex<Option<NodeError>>,
    pub(crate) failed: Condvar,
}

/// The least time between two events which tell that this node refuses the same peer.
const TURNED_AWAY: Nanos = Nanos(1_000_000_000);

/// The connections that one peer has open to this node.
#[derive(Default)]
struct InboundOf {
    open: usize,
    /// The incarnation of the peer's latest process that was let in.
    incarnation: u64,
}

impl Shared {
    pub(crate) fn new(
        config: &Config,
        identity: Identity,
        command_bytes_founded: u32,
        stores: Arc<Acquaintances>,
        limits: Limits,
    ) -> Self {
        let founded = usize::try_from(command_bytes_founded).unwrap_or(usize::MAX);
        let shards = 0..identity.shards;
        Self {
            me: identity.node,
            peers: config.peers.clone(),
            client_address: config.client_address.clone(),
            election_timeout: config.election_timeout,
            tick: config.tick,
            timing: config.timing(),
            heartbeat: config.heartbeat.into(),
            stall_limits: config.stall_limits(),
            stall_ends_process: config.stall_ends_process,
            limits,
            // A later open may lower it, and never raises it above the founding.
            command_bytes_max: config.command_bytes_max().min(founded),
            command_bytes_founded,
            net_settings: logdrive_net::Settings {
                strangers_max: config.strangers_max,
                ..logdrive_net::Settings::default()
            },
            stores,
            inboxes: shards
                .clone()
                .map(|_| {
                    Arc::new(Inbox::new(
                        config.proposals_max,
                        config.waiting_bytes_max(identity.shards),
                        limits.of_shard,
                    ))
                })
                .collect(),
            pulses: shards.clone().map(|_| Pulse::default()).collect(),
            stages: shards.map(|_| Mutex::new(Stages::default())).collect(),
            groups: Groups::default(),
            introductions: Introductions::new(
                identity.node,
                &config.client_address,
                config.heartbeat,
                config.election_timeout,
            ),
            map_version: Arc::default(),
            news: Arc::default(),
            inbound: Mutex::default(),
            too_large: Mutex::default(),
            turned_away: Mutex::default(),
            saves: Saves::default(),
            has_reached: AtomicBool::new(false),
            silence: Silence::of(config.peers.keys().copied()),
            entrance: None,
            description: Mutex::default(),
            has_failed: AtomicBool::new(false),
            failure: Mutex::default(),
            failed: Condvar::new(),
            identity,
        }
    }

    /// Creates a group on this node; see [`crate::Node::create`].
    pub(crate) fn create(
        &self,
        group: GroupId,
        bootstrap: Bootstrap,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let Bootstrap::New { members, first_leader } = bootstrap;
        self.check_members(group, &members)?;
        if let Some(first) = first_leader.filter(|first| !members.contains(first)) {
            let why = format!("the first leader ({first}) is not among them");
            return Err(GroupError::Members { group, why });
        }
        // The table of groups is told before and after, so that no lock is held in between: the machine's `open` is the
        // embedder's code and may take long, and a full queue is waited for.
        self.groups.begin_create(group)?;
        let found = RecoveredGroup {
            group,
            membership: Bytes::new(),
            hard_state: HardState::default(),
            released: LogIndex::ZERO,
            released_term: Term::ZERO,
            runs: Vec::new(),
            last: LogIndex::ZERO,
            snapshot: None,
            installing: None,
            fenced: None,
            durable: Durable::of_nothing(group),
        };
        let first = first_leader == Some(self.me);
        let started = self.start(&found, members, first, true, machine);
        self.groups.started(group, started.as_ref().ok().cloned(), None);
        started
    }

    /// Gives a recovered group its machine; see [`crate::Node::resume`].
    pub(crate) fn resume(
        &self,
        group: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let found = self.groups.begin_resume(group)?;
        let resumed = self.resume_found(&found, machine);
        self.groups.started(group, resumed.as_ref().ok().cloned(), Some(found));
        resumed
    }

    fn resume_found(
        &self,
        found: &RecoveredGroup,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let group = found.group;
        let Some(members) = membership::decode(&found.membership) else {
            let why = "the log has them in a form that this version does not know".to_owned();
            return Err(GroupError::Members { group, why });
        };
        self.check_members(group, &members)?;
        let first = members.first() == Some(&self.me);
        self.start(found, members, first, false, machine)
    }

    fn start(
        &self,
        found: &RecoveredGroup,
        members: Vec<NodeId>,
        first_leader: bool,
        new: bool,
        mut machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let group = found.group;
        let applied = apply::open(&mut *machine, found.last)
            .map_err(|source| GroupError::Machine { group, source })?;
        let (hard_state, last) = (found.hard_state, found.last);
        let base = LogId { term: found.released_term, index: found.released };
        let runs = found.runs.clone();
        let restored = Restored { hard_state, base, runs, last, applied, applied_term: None };
        restored.check().map_err(|error| GroupError::Log { group, why: error.to_string() })?;
        let shard = shard_of(group, self.inboxes.len());
        let view = Arc::new(GroupView::of(group, &self.map_version, &self.news));
        let inbox = self.inboxes[shard].clone();
        let founded = Founded {
            group,
            membership: new.then(|| membership::encode(&members)),
            members,
            hard_state,
            base,
            runs: restored.runs,
            last,
            applied,
            durable: found.durable,
            first_leader,
            view: view.clone(),
        };
        let run = Control::Run(Box::new(founded), machine);
        inbox.control(run, here::on_a_shard()).map_err(|not| not_taken(group, not))?;
        Ok(Group::new(group, self.me, shard, self.command_bytes_max, view, inbox))
    }

    /// Gives a group whose machine failed another one; see [`crate::Node::restart`].
    pub(crate) fn restart(
        &self,
        group: GroupId,
        mut machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let handle = self.groups.to_restart(group)?;
        let last = match handle.view().begin_restart() {
            Some(Ok(last)) => last,
            None => return Err(GroupError::Running(group)),
            Some(Err(StopCause::Fenced(corrupt))) => {
                return Err(GroupError::Fenced { group, source: *corrupt });
            }
            Some(Err(cause)) => return Err(GroupError::Stopped(cause.to_string())),
        };
        let opened = apply::open(&mut *machine, last)
            .map_err(|source| GroupError::Machine { group, source });
        let given = opened.and_then(|applied| {
            let given = handle.control(Control::Restart(group, applied, machine));
            given.map_err(|not| not_taken(group, not))
        });
        if given.is_err() {
            handle.view().end_restart();
        }
        given.map(|()| handle)
    }

    fn check_members(&self, group: GroupId, members: &[NodeId]) -> Result<(), GroupError> {
        let why = if members.is_empty() || members.len() > membership::MEMBERS_MAX {
            format!("there are {}, and may be 1 to {}", members.len(), membership::MEMBERS_MAX)
        } else if !members.contains(&self.me) {
            format!("this node ({}) is not among them", self.me)
        } else if let Some(unknown) = members.iter().find(|m| !self.peers.contains_key(*m)) {
            format!("node {unknown} has no address in this node's settings")
        } else if members.contains(&NodeId(0)) {
            "0 is no node's id".to_owned()
        } else if (1..members.len()).any(|at| members[..at].contains(&members[at])) {
            "one is named twice".to_owned()
        } else {
            return Ok(());
        };
        Err(GroupError::Members { group, why })
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.peers.keys().copied().collect()
    }

    /// The other nodes and where they listen.
    pub(crate) fn peer_addresses(&self) -> Vec<(NodeId, String)> {
        let others = self.peers.iter().filter(|(node, _)| **node != self.me);
        others.map(|(node, address)| (*node, address.clone())).collect()
    }

    pub(crate) fn hello(&self, shard: usize) -> Hello {
        Hello {
            cluster: ClusterId::of(&self.identity.cluster),
            cluster_name: self.identity.cluster.clone(),
            node: self.me,
            incarnation: self.identity.incarnation,
            proof: Proof { store: self.identity.store, ..Proof::default() },
            shard: u32::try_from(shard).expect("shards are counted in u32"),
            shards: self.identity.shards,
            command_bytes_founded: self.command_bytes_founded,
            settings: settings_digest(&self.identity.settings),
            heartbeat: Duration::from_nanos(self.heartbeat.get()),
            election_timeout: self.election_timeout,
            lane: Lane::Liveness,
            client_address: self.client_address.clone(),
        }
    }

    /// A moment of the clock in whole ticks.
    pub(crate) fn ticks_at(&self, now: Nanos) -> Ticks {
        Ticks(now.get() / Nanos::from(self.tick).get())
    }

    /// Gives an accepted connection to the shard that is to read it.
    pub(crate) fn hand_over(&self, accepted: Accepted) {
        let shard = accepted.hello.shard as usize % self.inboxes.len();
        self.introduce(&accepted.hello);
        // On a full queue the connection is dropped and dialled again.
        let _ = self.inboxes[shard].try_control(Control::Receive(Box::new(accepted)));
    }

    /// Takes in what a peer says of itself.
    pub(crate) fn introduce(&self, peer: &Hello) {
        if self.introductions.note(peer) {
            self.map_version.fetch_add(1, Ordering::Release);
        }
    }

    /// A connection of this incarnation of a peer was let in. To be called before a frame of it is delivered.
    pub(crate) fn inbound_opened(&self, from: NodeId, incarnation: u64) {
        let mut inbound = lock(&self.inbound);
        let of = inbound.entry(from).or_default();
        of.open += 1;
        let is_first = of.open == 1;
        // A connection of an earlier process may come late, through the queue of another shard.
        let is_later = incarnation > of.incarnation;
        of.incarnation = of.incarnation.max(incarnation);
        drop(inbound);
        if is_later {
            // Its commands are not too large, or not any more.
            lock(&self.too_large).remove(&from);
        }
        // A handshake is a sign of life.
        if self.silence.heard(from) || is_first {
            self.map_version.fetch_add(1, Ordering::Release);
        }
        self.inboxes.iter().for_each(|inbox| inbox.wake());
    }

    pub(crate) fn inbound_closed(&self, from: NodeId) {
        let mut inbound = lock(&self.inbound);
        if let Some(of) = inbound.get_mut(&from) {
            of.open = of.open.saturating_sub(1);
            if of.open == 0 {
                self.map_version.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Differs from what it was before if a leader, a client address or a peer's presence has changed since.
    pub(crate) fn map_version(&self) -> u64 {
        self.map_version.load(Ordering::Acquire)
    }

    /// True if a shard other than `shard` has waited too long for the disk.
    pub(crate) fn is_stalled_beside(&self, shard: usize) -> bool {
        (self.pulses.iter().enumerate()).any(|(other, pulse)| other != shard && pulse.is_stalled())
    }

    /// True if `peer` has a connection open to us.
    pub(crate) fn hears(&self, peer: NodeId) -> bool {
        lock(&self.inbound).get(&peer).is_some_and(|of| of.open > 0)
    }

    /// A lane to a peer has come up.
    pub(crate) fn reached(&self) {
        self.has_reached.store(true, Ordering::Release);
    }

    /// A peer is refused because it takes commands of `theirs` bytes, and the segments here hold `ours` at most. The node
    /// fails if the segments here are too small for so many peers that the others are no majority, and nothing was served
    /// since the node was opened. A peer under one id alone never ends a node, and no peers end one that
    /// serves: a node that is set up wrongly must not shut out the others. Before peers were confirmed, ids are not proven.
    pub(crate) fn refuse_commands(&self, by: NodeId, theirs: u32, ours: u32) {
        let mut too_large = lock(&self.too_large);
        if too_large.insert(by, theirs) == Some(theirs) {
            return; // It was said before.
        }
        let refused = too_large.len();
        let largest = too_large.iter().max_by_key(|(_, theirs)| **theirs);
        let (by_largest, largest) = largest.map_or((by, theirs), |(by, theirs)| (*by, *theirs));
        drop(too_large);
        let is_majority_left = 2 * self.peers.len().saturating_sub(refused) > self.peers.len();
        if refused < 2 || is_majority_left || self.has_served() || self.has_failed() {
            let error = NodeError::SmallSegments { by, theirs, ours };
            tracing::error!(%error, "a peer is refused: neither of the two nodes hears the other");
            return;
        }
        self.fail(NodeError::SmallSegments { by: by_largest, theirs: largest, ours });
    }

    /// Tells that this node has refused a peer, at the moment `now`. Anybody may claim to be the peer, as often as they
    /// like, and must not push other events out: so at most one event for each peer is told in [`TURNED_AWAY`].
    pub(crate) fn turned_away(&self, peer: NodeId, why: Refusal, now: Nanos) {
        let mut told = lock(&self.turned_away);
        let is_soon = |at: &Nanos| now.since(*at) < TURNED_AWAY;
        if told.get(&peer).is_some_and(is_soon) {
            return;
        }
        told.insert(peer, now);
        drop(told);
        self.news.tell(|| NodeEvent::PeerTurnedAway { peer, why });
    }

    /// True if a lane to a peer has come up since the node was opened, or a group has a leader.
    pub(crate) fn has_served(&self) -> bool {
        self.has_reached.load(Ordering::Acquire) || self.groups.is_any_led()
    }

    /// As [`Self::hears`], and it answers what is sent to it: what clients are told.
    pub(crate) fn is_answered_by(&self, peer: NodeId) -> bool {
        self.hears(peer) && !self.silence.is_silent(peer)
    }

    /// The counts of the connections that peers have made.
    pub(crate) fn inbound_stats(&self) -> InboundStats {
        self.entrance.as_ref().map(|(_, meter)| meter.stats()).unwrap_or_default()
    }

    pub(crate) fn frame_sent(&self, to: NodeId) {
        self.silence.sent(to);
    }

    pub(crate) fn frame_came(&self, from: NodeId) {
        if self.silence.heard(from) {
            self.map_version.fetch_add(1, Ordering::Release);
        }
    }

    pub(crate) fn look_for_silent_peers(&self) {
        if self.silence.look() {
            self.map_version.fetch_add(1, Ordering::Release);
        }
    }

    /// The node cannot go on: latched, the first reason stays.
    pub(crate) fn fail(&self, error: NodeError) {
        let mut failure = lock(&self.failure);
        let is_first = failure.is_none();
        if is_first {
            *failure = Some(error.clone());
            self.has_failed.store(true, Ordering::Release);
            self.failed.notify_all();
        }
        drop(failure);
        if is_first {
            if error.is_stall() {
                // A thread may never take another turn, and nobody must wait for its answers.
                for inbox in &self.inboxes {
                    inbox.stop(&error.to_string());
                    inbox.drop_controls();
                }
            }
            self.news.tell(|| NodeEvent::NodeFailed(error));
        }
        self.inboxes.iter().for_each(|inbox| inbox.wake());
    }

    /// The node has stalled for good: nothing of it is waited for any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.failed().is_some_and(|error| error.is_stall())
    }

    /// True once the node cannot go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Why its groups do not run any more, once it has failed or was closed.
    pub(crate) fn stop_cause(&self) -> StopCause {
        let why = self.failed().map_or("the node was closed".to_owned(), |error| error.to_string());
        StopCause::Node(why)
    }

    pub(crate) fn failed(&self) -> Option<NodeError> {
        lock(&self.failure).clone()
    }
}

fn not_taken(group: GroupId, not: NotTaken) -> GroupError {
    match not {
        NotTaken::Stopped(why) => GroupError::Stopped(why),
        NotTaken::Full => GroupError::Busy(group),
    }
}

/// No code panics while it holds one of these locks; if one did, its data is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The checksum that stands for the embedder's settings in handshakes. Neither a key nor a value has a line's end, and
/// no key has a `=`.
fn settings_digest(settings: &BTreeMap<String, String>) -> u32 {
    let lines: String = settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    crc_fast::crc32_iscsi(lines.as_bytes())
}
