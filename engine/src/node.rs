//! One node: the log, the network and the shard threads, and the groups that live on them.
//!
//! In:     a directory with an identity, the addresses of all nodes, groups with their machines.
//! Out:    [`Group`] handles; tasks on shard threads; what the node says of itself.
//! Cost:   per shard one thread that turns it and one that reads cold entries; nothing per group.
//! Fails:  [`OpenError`] before anything runs; a log that fails stops the whole node.
//! Source: DESIGN §3, §7.

use crate::{
    Config, Founding, Group, GroupError, GroupId, LogIndex, NodeError, NodeId, OpenError,
    StateMachine, Term, apply,
    driver::{self, Control, Setup, ShardInbox, Started},
    inbox::NotTaken,
    membership,
    shard::{Founded, GroupView, Timing},
    stages::Stages,
    watchdog,
};
use bytes::Bytes;
use crossbeam_channel::Sender;
use hashbrown::{HashMap, hash_map::Entry};
use logdrive_net::{Accepted, ClusterId, Hello, Lane, Listener};
use logdrive_raft::{Durable, HardState, Restored};
use logdrive_wal::{Corrupt, Home, Identity, RecoveredGroup};
use std::{
    collections::BTreeMap,
    path::Path,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// How a group comes to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
pub struct Node {
    running: Arc<Running>,
}

impl Node {
    /// Makes a node's directory and its identity.
    ///
    /// # Errors
    /// [`OpenError`] if there is one already, the directory holds anything else, or it cannot be
    /// written; or if a setting of `founding` cannot be.
    pub fn init(dir: &Path, founding: Founding) -> Result<(), OpenError> {
        founding.check()?;
        let Founding { cluster, node, shards, settings } = founding;
        Home::create(dir, &cluster, node, shards, settings)?;
        Ok(())
    }

    /// The settings a directory was made with. Takes its lock for a moment.
    ///
    /// # Errors
    /// [`OpenError`] if there is no identity, it is damaged, or another process has the directory.
    pub fn founding(dir: &Path) -> Result<Founding, OpenError> {
        let Identity { cluster, node, shards, settings, .. } = Home::peek(dir)?;
        Ok(Founding { cluster, node, shards, settings })
    }

    /// Opens a node: takes the directory's lock, recovers the log, listens, starts its threads. Blocks until all logs
    /// are recovered.
    ///
    /// # Errors
    /// [`OpenError`]: nothing runs.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let home = Arc::new(Home::open(&config.dir)?);
        let identity = home.identity().clone();
        config.check(&identity)?;
        let mut listener = Some(Listener::bind(&config.peers[&identity.node])?);
        let node = Arc::new(Shared::new(&config, identity.clone()));
        let seed = if config.seed == 0 { seed_from_system()? } else { config.seed };
        let ticks = |time: Duration| {
            u64::try_from(time.as_nanos().div_ceil(config.tick.as_nanos())).unwrap_or(u64::MAX / 4)
        };
        let timing = Timing {
            election_ticks: ticks(config.election_timeout),
            heartbeat_ticks: ticks(config.heartbeat),
        };
        let limits =
            watchdog::Limits::new(config.stall_warn, config.stall_resign(), config.stall_fatal);
        let (started, starts) = crossbeam_channel::bounded(identity.shards as usize);
        // From here on whatever was started is stopped again when this is left early.
        let opened = Self {
            running: Arc::new(Running {
                node: node.clone(),
                threads: Mutex::default(),
                home: Mutex::new(Some(home.clone())),
                watch: Mutex::default(),
            }),
        };
        for shard in 0..identity.shards {
            let mut wal = logdrive_wal::Config::new(home.shard_dir(shard), identity.clone(), shard);
            wal.segment_bytes = config.segment_bytes;
            wal.log_bytes_max = config.log_bytes_max_of_shard(identity.shards);
            wal.in_flight_max = config.log_writes_max;
            wal.driver = config.driver;
            let setup = Setup {
                index: shard as usize,
                node: node.clone(),
                timing,
                heartbeat_ns: u64::try_from(config.heartbeat.as_nanos()).unwrap_or(u64::MAX),
                stall_resign_ns: limits.resign_ns,
                seed: seed.wrapping_add(u64::from(shard)),
                wal,
                listener: listener.take(),
                core: (!config.cores.is_empty())
                    .then(|| config.cores[shard as usize % config.cores.len()]),
                home: home.clone(),
            };
            let started = started.clone();
            let thread = std::thread::Builder::new()
                .name(format!("logdrive-shard-{shard}"))
                .spawn(move || driver::run(setup, &|start| drop(started.send((shard, start)))))
                .map_err(|source| OpenError::Os { what: "cannot start a shard thread", source })?;
            lock(&opened.running.threads).push(thread);
        }
        drop(started);
        let (watch, unwatched) = crossbeam_channel::bounded(0);
        let watched = node.clone();
        let watchdog = std::thread::Builder::new()
            .name("logdrive-watch".to_owned())
            .spawn(move || watchdog::run(&watched, limits, &unwatched))
            .map_err(|source| OpenError::Os { what: "cannot start the watchdog", source })?;
        *lock(&opened.running.watch) = Some((watch, watchdog));
        opened.take_recovered(identity.shards, &starts)?;
        Ok(opened)
    }

    /// Takes in what each shard's log holds.
    fn take_recovered(
        &self,
        shards: u32,
        starts: &crossbeam_channel::Receiver<(u32, Started)>,
    ) -> Result<(), OpenError> {
        let node = &self.running.node;
        let mut failure = None;
        for _ in 0..shards {
            match starts.recv() {
                Ok((shard, Ok((recovered, description)))) => {
                    if let Some(cut) = &recovered.cut {
                        tracing::info!(shard, ?cut, "the log's torn tail was cut");
                    }
                    *lock(&node.description) = Some(description);
                    let mut groups = lock(&node.groups);
                    for mut group in recovered.groups {
                        let id = group.group;
                        let known = match group.fenced.take() {
                            Some(corrupt) => Known::Fenced(corrupt),
                            None => Known::Recovered(Box::new(group)),
                        };
                        // Carrying may have found it damaged by now.
                        groups.entry(id).or_insert(known);
                    }
                    let destroyed = recovered.destroyed.into_iter();
                    groups.extend(destroyed.map(|group| (group, Known::Destroyed)));
                }
                Ok((_, Err(error))) => failure = Some(error),
                Err(_) => {
                    let what = "a shard thread ended at once";
                    let why = node.failed().map_or_else(String::new, |error| error.to_string());
                    failure = Some(OpenError::Os { what, source: std::io::Error::other(why) });
                    break;
                }
            }
        }
        match failure {
            Some(error) => {
                // What did start ends before the error is told: nothing runs.
                self.running.stop();
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Groups the log holds that are not resumed yet: they are silent until they are.
    #[must_use]
    pub fn recovered(&self) -> Vec<GroupId> {
        let groups = lock(&self.running.node.groups);
        let mut found: Vec<GroupId> = groups
            .iter()
            .filter(|(_, known)| matches!(known, Known::Recovered(_)))
            .map(|(group, _)| *group)
            .collect();
        found.sort_unstable();
        found
    }

    /// Groups whose log lost something on this node, and where, found when it was opened or read since: they are silent
    /// for good, and can be neither resumed nor created. By id.
    #[must_use]
    pub fn fenced(&self) -> Vec<(GroupId, Corrupt)> {
        let groups = lock(&self.running.node.groups);
        let mut found: Vec<(GroupId, Corrupt)> = groups
            .iter()
            .filter_map(|(group, known)| match known {
                Known::Fenced(corrupt) => Some((*group, corrupt.clone())),
                _ => None,
            })
            .collect();
        found.sort_unstable_by_key(|(group, _)| *group);
        found
    }

    /// Creates a group on this node. It is in the log as soon as it has anything to remember; one
    /// that had nothing yet when the node stopped is unknown afterwards and is created again. Opens the machine on
    /// this thread, and waits for room in the shard's queue (not on a shard's thread).
    ///
    /// # Errors
    /// [`GroupError`]: it was not created.
    pub fn create(
        &self,
        group: GroupId,
        bootstrap: Bootstrap,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let Bootstrap::Founding { members, first_leader } = bootstrap;
        self.check_members(group, &members)?;
        // Held for a moment only: a machine's `open` is not ours, and a full queue is waited for.
        match lock(&self.running.node.groups).entry(group) {
            Entry::Vacant(free) => drop(free.insert(Known::Starting)),
            Entry::Occupied(taken) => {
                return Err(match taken.get() {
                    Known::Recovered(_) => GroupError::Exists(group),
                    Known::Fenced(corrupt) => GroupError::Fenced { group, source: corrupt.clone() },
                    Known::Destroyed => GroupError::Destroyed(group),
                    Known::Running(_) | Known::Starting => GroupError::Running(group),
                });
            }
        }
        let found = RecoveredGroup {
            group,
            membership: Bytes::new(),
            hard_state: HardState::default(),
            released: LogIndex::ZERO,
            released_term: Term::ZERO,
            runs: Vec::new(),
            last: LogIndex::ZERO,
            fenced: None,
            durable: Durable::of_nothing(group),
        };
        let first = first_leader == Some(self.id());
        let started = self.start(&found, members, first, true, machine);
        self.running.node.started(group, started.as_ref().ok().cloned().map(Known::Running));
        started
    }

    /// Gives a recovered group its machine; from now on it votes, follows and leads. If nobody leads
    /// it, the first of its members campaigns without waiting for the election timeout. Blocks as [`Self::create`].
    ///
    /// # Errors
    /// [`GroupError`]: it stays silent.
    pub fn resume(
        &self,
        group: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let found = match lock(&self.running.node.groups).get_mut(&group) {
            None => return Err(GroupError::Unknown(group)),
            Some(known) => match std::mem::replace(known, Known::Starting) {
                Known::Recovered(found) => found,
                other => {
                    let why = match &other {
                        Known::Fenced(corrupt) => {
                            GroupError::Fenced { group, source: corrupt.clone() }
                        }
                        Known::Destroyed => GroupError::Destroyed(group),
                        _ => GroupError::Running(group),
                    };
                    *known = other;
                    return Err(why);
                }
            },
        };
        let resumed = self.resume_found(&found, machine);
        let known = match &resumed {
            Ok(handle) => Known::Running(handle.clone()),
            Err(_) => Known::Recovered(found),
        };
        self.running.node.started(group, Some(known));
        resumed
    }

    fn resume_found(
        &self,
        found: &RecoveredGroup,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let group = found.group;
        let Some(members) = membership::decode(&found.membership) else {
            let why = "its members in the log are written as no known version does".to_owned();
            return Err(GroupError::Members { group, why });
        };
        self.check_members(group, &members)?;
        let first = members.first() == Some(&self.id());
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
        let node = &self.running.node;
        let group = found.group;
        let applied = apply::open(&mut *machine, found.last)
            .map_err(|source| GroupError::Machine { group, source })?;
        let (hard_state, last) = (found.hard_state, found.last);
        let restored = Restored { hard_state, runs: found.runs.clone(), last, applied };
        restored.check().map_err(|error| GroupError::Log { group, why: error.to_string() })?;
        let shard = shard_of(group, node.inboxes.len());
        let view = Arc::new(GroupView::default());
        let inbox = node.inboxes[shard].clone();
        let founded = Founded {
            group,
            membership: new.then(|| membership::encode(&members)),
            members,
            hard_state,
            runs: restored.runs,
            last,
            applied,
            durable: found.durable,
            first_leader,
            view: view.clone(),
        };
        let run = Control::Run(Box::new(founded), machine);
        inbox.control(run, driver::on_a_shard()).map_err(|not| match not {
            NotTaken::Stopped(why) => GroupError::Stopped(why),
            NotTaken::Full => GroupError::Busy(group),
        })?;
        Ok(Group::new(group, node.me, shard, node.command_bytes_max, view, inbox))
    }

    fn check_members(&self, group: GroupId, members: &[NodeId]) -> Result<(), GroupError> {
        let node = &self.running.node;
        let why = if members.is_empty() || members.len() > membership::MEMBERS_MAX {
            format!("{} members, must be 1 to {}", members.len(), membership::MEMBERS_MAX)
        } else if !members.contains(&node.me) {
            format!("this node ({}) is not a member", node.me)
        } else if let Some(unknown) = members.iter().find(|m| !node.peers.contains_key(*m)) {
            format!("node {unknown} has no address here")
        } else if members.contains(&NodeId(0)) {
            "0 is no node".to_owned()
        } else if (1..members.len()).any(|at| members[..at].contains(&members[at])) {
            "a member is named twice".to_owned()
        } else {
            return Ok(());
        };
        Err(GroupError::Members { group, why })
    }

    /// A running group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Group> {
        match lock(&self.running.node.groups).get(&group) {
            Some(Known::Running(handle)) => Some(handle.clone()),
            _ => None,
        }
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.running.node.me
    }

    /// Number of shard threads.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.running.node.inboxes.len()
    }

    /// The embedder's fixed settings ([`Founding::settings`]).
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.running.node.identity.settings
    }

    /// What this node runs on.
    #[must_use]
    pub fn describe(&self) -> Description {
        let node = &self.running.node;
        let log = lock(&node.description).expect("every shard has said what it runs on");
        Description {
            cluster: node.identity.cluster.clone(),
            node: node.me,
            shards: node.identity.shards,
            disk_driver: log.disk.driver,
            direct_io: log.disk.direct_io,
            registered: log.disk.registered_buffers,
        }
    }

    /// Where `node` wants its clients, if it has said so since this node started.
    #[must_use]
    pub fn client_address(&self, node: NodeId) -> Option<String> {
        lock(&self.running.node.client_addresses).get(&node).cloned()
    }

    /// Where the time of proposals led here went, over all shards, first stage to last, then
    /// `total`.
    #[must_use]
    pub fn stages(&self) -> Vec<StageSummary> {
        let mut merged = Stages::new();
        for shard in &self.running.node.stages {
            merged.merge(&lock(shard));
        }
        merged.summaries()
    }

    /// Starts measuring stages anew.
    pub fn reset_stages(&self) {
        self.running.node.stages.iter().for_each(|shard| lock(shard).reset());
    }

    /// Runs a task on a shard's thread, beside its groups: a proposal made there for a group of
    /// that shard crosses no thread. The task must never block; it is dropped when the node stops. If it panics it
    /// alone ends. Waits for room in the shard's queue, except on a shard's thread.
    ///
    /// # Errors
    /// [`NodeError`]: the task was dropped, because the node has stopped or the queue is full
    /// ([`NodeError::Busy`]).
    ///
    /// # Panics
    /// If there is no such shard ([`Self::shards`]).
    pub fn spawn_on(
        &self,
        shard: usize,
        task: impl FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send + 'static,
    ) -> Result<(), NodeError> {
        let inbox = &self.running.node.inboxes[shard];
        match driver::spawn_here(inbox, Box::new(task)) {
            Ok(()) => Ok(()),
            Err(task) => {
                let spawned = inbox.control(Control::Spawn(task), driver::on_a_shard());
                spawned.map_err(|not| match not {
                    NotTaken::Stopped(why) => NodeError::Thread(why),
                    NotTaken::Full => NodeError::Busy { shard },
                })
            }
        }
    }

    /// Why the node stopped by itself, if it did. Waits up to `timeout` for that.
    #[must_use]
    pub fn failure(&self, timeout: Duration) -> Option<NodeError> {
        let node = &self.running.node;
        let failure = lock(&node.failure);
        let waited = node.failed.wait_timeout_while(failure, timeout, |failure| failure.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Stops: answers what waits, ends the log's writes in flight, joins the threads; a node that has
    /// stalled ([`NodeError::Stalled`]) is not waited for. The last handle to be dropped does the same, but waits for
    /// nothing on a shard's thread.
    ///
    /// # Errors
    /// [`NodeError`] if the node had failed, or fails while it stops.
    ///
    /// # Panics
    /// On a shard's thread, which it would wait for.
    pub fn close(&self) -> Result<(), NodeError> {
        assert!(!driver::on_a_shard(), "closing on a shard's thread would wait for itself");
        self.running.stop();
        match self.failure(Duration::ZERO) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).field("shards", &self.shards()).finish()
    }
}

/// The shard that runs a group: fixed by the group's id and the number of shards.
pub(crate) fn shard_of(group: GroupId, shards: usize) -> usize {
    usize::try_from(group.get() % shards as u64).expect("below the number of shards")
}

/// A started node, stopped when the last handle lets go.
struct Running {
    node: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The directory's lock; each shard's thread has a share of it, so that it outlasts them all.
    home: Mutex<Option<Arc<Home>>>,
    /// The watchdog, and what it watches as long as there is.
    watch: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Running {
    fn stop(&self) {
        if self.node.is_given_up() {
            // Its threads may sit in the kernel for ever. The lock stays theirs: their writes may still land.
            std::mem::forget(lock(&self.home).take());
            return;
        }
        self.node.inboxes.iter().for_each(|inbox| inbox.ask_to_stop());
        if driver::on_a_shard() {
            // Let go by a task of a shard, perhaps of ours, perhaps of another node: it holds nobody up. The threads
            // end by themselves.
            drop(lock(&self.watch).take());
            lock(&self.home).take();
            return;
        }
        // Under the lock, so that whoever closes at the same time waits as well.
        for thread in lock(&self.threads).drain(..) {
            if thread.thread().id() == std::thread::current().id() {
                continue; // Let go with what a shard's thread still had at its end.
            }
            // A panic on a shard's thread has aborted the process before this could see it.
            let _ = thread.join();
        }
        if let Some((watch, watchdog)) = lock(&self.watch).take() {
            drop(watch);
            let _ = watchdog.join();
        }
        lock(&self.home).take();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

enum Known {
    /// Found in the log, waiting for its machine.
    Recovered(Box<RecoveredGroup>),
    /// Damaged in the log. No shard runs it, so messages for it are dropped.
    Fenced(Corrupt),
    /// Its id never lives again here.
    Destroyed,
    /// Being created or resumed.
    Starting,
    Running(Group),
}

/// What all threads of a node know of it.
pub(crate) struct Shared {
    pub(crate) me: NodeId,
    identity: Identity,
    peers: BTreeMap<NodeId, String>,
    client_address: String,
    pub(crate) tick: Duration,
    command_bytes_max: usize,
    pub(crate) net_settings: logdrive_net::Settings,
    pub(crate) inboxes: Vec<Arc<ShardInbox>>,
    /// Per shard.
    pub(crate) pulses: Vec<watchdog::Pulse>,
    /// Per shard; each written by its own thread and merged when read.
    pub(crate) stages: Vec<Mutex<Stages>>,
    groups: Mutex<HashMap<GroupId, Known>>,
    client_addresses: Mutex<BTreeMap<NodeId, String>>,
    /// Connections each peer has open to us.
    inbound: Mutex<HashMap<NodeId, usize>>,
    description: Mutex<Option<logdrive_wal::Description>>,
    failure: Mutex<Option<NodeError>>,
    failed: Condvar,
}

impl Shared {
    fn new(config: &Config, identity: Identity) -> Self {
        let shards = 0..identity.shards;
        let own = (identity.node, config.client_address.clone());
        Self {
            me: identity.node,
            peers: config.peers.clone(),
            client_address: config.client_address.clone(),
            tick: config.tick,
            command_bytes_max: config.command_bytes_max(),
            net_settings: logdrive_net::Settings::default(),
            inboxes: shards
                .clone()
                .map(|_| {
                    Arc::new(ShardInbox::new(
                        config.proposals_max,
                        config.waiting_bytes_max(identity.shards),
                    ))
                })
                .collect(),
            pulses: shards.clone().map(|_| watchdog::Pulse::default()).collect(),
            stages: shards.map(|_| Mutex::new(Stages::new())).collect(),
            groups: Mutex::default(),
            client_addresses: Mutex::new(
                [own].into_iter().filter(|(_, address)| !address.is_empty()).collect(),
            ),
            inbound: Mutex::default(),
            description: Mutex::default(),
            failure: Mutex::default(),
            failed: Condvar::new(),
            identity,
        }
    }

    /// A group that was being started is `known` from now on, or not at all; unless it was fenced meanwhile.
    fn started(&self, group: GroupId, known: Option<Known>) {
        let mut groups = lock(&self.groups);
        if matches!(groups.get(&group), Some(Known::Starting)) {
            groups.remove(&group);
            groups.extend(known.map(|known| (group, known)));
        }
    }

    /// A group lost something in the log while that ran.
    pub(crate) fn fenced(&self, group: GroupId, corrupt: Corrupt) {
        lock(&self.groups).insert(group, Known::Fenced(corrupt));
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
            shard: u32::try_from(shard).expect("shards are counted in u32"),
            shards: self.identity.shards,
            lane: Lane::Liveness,
            client_address: self.client_address.clone(),
        }
    }

    pub(crate) fn tick_ns(&self) -> u64 {
        u64::try_from(self.tick.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Gives an accepted connection to the shard that shall read it.
    pub(crate) fn hand_over(&self, accepted: Accepted) {
        let shard = accepted.hello.shard as usize % self.inboxes.len();
        self.note_client_address(accepted.hello.node, &accepted.hello.client_address);
        // On a full queue the connection is dropped and dialled again.
        let _ = self.inboxes[shard].try_control(Control::Receive(accepted));
    }

    pub(crate) fn note_client_address(&self, node: NodeId, address: &str) {
        if !address.is_empty() {
            lock(&self.client_addresses).insert(node, address.to_owned());
        }
    }

    pub(crate) fn inbound_opened(&self, from: NodeId) {
        *lock(&self.inbound).entry(from).or_default() += 1;
        self.inboxes.iter().for_each(|inbox| inbox.wake());
    }

    pub(crate) fn inbound_closed(&self, from: NodeId) {
        let mut inbound = lock(&self.inbound);
        if let Some(open) = inbound.get_mut(&from) {
            *open = open.saturating_sub(1);
        }
    }

    /// True if a shard other than `shard` has waited too long for the disk.
    pub(crate) fn is_stalled_beside(&self, shard: usize) -> bool {
        (self.pulses.iter().enumerate()).any(|(other, pulse)| other != shard && pulse.is_stalled())
    }

    /// True if `peer` has a connection open to us.
    pub(crate) fn hears(&self, peer: NodeId) -> bool {
        lock(&self.inbound).get(&peer).is_some_and(|open| *open > 0)
    }

    /// The node cannot go on: latched, the first reason stays.
    pub(crate) fn fail(&self, error: NodeError) {
        let mut failure = lock(&self.failure);
        if failure.is_none() {
            *failure = Some(error);
            self.failed.notify_all();
        }
        drop(failure);
        self.inboxes.iter().for_each(|inbox| inbox.wake());
    }

    /// The node has stalled for good: nothing of it is waited for any more.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.failed(), Some(NodeError::Stalled { .. }))
    }

    pub(crate) fn failed(&self) -> Option<NodeError> {
        lock(&self.failure).clone()
    }
}

/// No code panics while it holds one of these locks; if one did, its data is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed_from_system() -> Result<u64, OpenError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|error| OpenError::Os { what: "no randomness", source: error.into() })?;
    Ok(u64::from_le_bytes(bytes))
}
