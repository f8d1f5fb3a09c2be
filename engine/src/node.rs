//! One node: the log, the network and the shard threads, and the groups that live on them.
//!
//! In:     a directory with an identity, the addresses of all nodes, groups with their machines.
//! Out:    [`Group`] handles; tasks on shard threads; what the node says of itself.
//! Cost:   per shard one thread that turns it and one that reads cold entries; nothing per group.
//! Fails:  [`OpenError`] before anything runs; a log that fails stops the whole node.
//! Source: RULES.md A1, A7.

use crate::{
    Bootstrap, Config, Events, Founding, Group, GroupError, GroupId, Later, NodeError, NodeId,
    OpenError, ShardCounters, ShardLog, SpawnError, StageSummary, StateMachine, blocking,
    driver::{self, Setup, Started},
    here,
    inbox::{Control, NotTaken, Task},
    later,
    limits::Limits,
    pulse::Saves,
    shared::{Shared, lock},
    stages::Stages,
    status::Question,
    watchdog,
};
use crossbeam_channel::Sender;
use logdrive_net::{
    Listener,
    stores::{Acquaintances, OnTooLarge, PEER_STORES_BYTES_MAX, PEERS_MAX, PeerStores, Save},
};
use logdrive_wal::{Corrupt, Home, HomeError, Identity, PEERS_BYTES_MAX};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A node's description of itself.
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
    /// The most bytes that a command may have: as set, and never more than a segment allows.
    pub command_bytes_max: usize,
}

/// Hosts groups. Cheap to clone; the node runs until [`Node::close`] or the last clone is gone.
///
/// Every method may be called by any thread, tasks on shards' threads included, unless it says otherwise; none blocks
/// unless it says so. A method with no cost written beside it takes a lock for a moment.
#[derive(Clone)]
pub struct Node {
    running: Arc<Running>,
}

impl Node {
    /// Makes a node's directory and its identity. Blocks for a few small synced writes. A directory that a crash left half made is
    /// finished by the next call.
    ///
    /// # Errors
    /// [`OpenError`] if there is one already, the directory holds anything else, or it cannot be
    /// written; or if a setting of `founding` cannot be.
    ///
    /// # Panics
    /// On a shard's thread, which this would hold up.
    pub fn init(dir: &Path, founding: Founding) -> Result<(), OpenError> {
        blocking::assert_may_block("making a node's directory");
        founding.check()?;
        let Founding { cluster, node, shards, settings } = founding;
        Home::create(dir, &cluster, node, shards, settings)?;
        Ok(())
    }

    /// The settings a directory was made with. Takes its lock for a moment, and reads a few small files.
    ///
    /// # Errors
    /// [`OpenError`] if there is no identity, it is damaged, or another process has the directory.
    ///
    /// # Panics
    /// On a shard's thread, which this would hold up.
    pub fn founding(dir: &Path) -> Result<Founding, OpenError> {
        blocking::assert_may_block("reading a node's directory");
        let Identity { cluster, node, shards, settings, .. } = Home::peek(dir)?;
        Ok(Founding { cluster, node, shards, settings })
    }

    /// Opens a node: takes the directory's lock, recovers the log, listens, starts its threads. Blocks until all logs
    /// are recovered, which takes about as long as reading them. Groups that the log holds are silent until they are
    /// resumed ([`Self::recovered`]).
    ///
    /// # Errors
    /// [`OpenError`]: nothing runs.
    ///
    /// # Panics
    /// On a shard's thread, which this would hold up.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        blocking::assert_may_block("opening a node");
        let home = Arc::new(Home::open(&config.dir)?);
        let identity = home.identity().clone();
        config.check(&identity)?;
        let is_first = home.command_bytes_founded() == 0;
        let founded = match is_first {
            true => config.founds_command_bytes(),
            false => home.command_bytes_founded(),
        };
        let log = config.log(home.shard_dir(0), &identity, 0);
        config.check_founded(founded, &log)?;
        let held = config.command_bytes_held(&log);
        let peers = open_peers(&home, &config)?;
        let listener = Listener::bind(&config.peers[&identity.node])?;
        let address = listener.local_address().map_err(|source| OpenError::Os {
            what: "the peer address cannot be looked up",
            source,
        })?;
        let entrance = (address, listener.meter());
        let mut listener = Some(listener);
        // An open that failed before this has founded nothing.
        if is_first {
            home.found_command_bytes(founded)?;
        }
        let node = Arc::new_cyclic(|node| {
            let stores = Acquaintances::new(peers, save_to(&home, node.clone()))
                .holding(held, on_too_large(&home, node.clone(), held, is_first));
            let stores = Arc::new(stores);
            let mut shared = Shared::new(&config, identity.clone(), founded, stores, Limits::REAL);
            shared.entrance = Some(entrance);
            shared.saves = Saves::of(home.openings_file());
            shared
        });
        let seed = if config.seed == 0 { seed_from_system()? } else { config.seed };
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
            let setup = Setup {
                index: shard as usize,
                node: node.clone(),
                seed: seed.wrapping_add(u64::from(shard)),
                wal: config.log(home.shard_dir(shard), &identity, shard),
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
            .spawn(move || watchdog::run(&watched, &unwatched))
            .map_err(|source| OpenError::Os { what: "cannot start the watchdog", source })?;
        *lock(&opened.running.watch) = Some((watch, watchdog));
        opened.take_recovered(identity.shards, &starts)?;
        Ok(opened)
    }

    /// As [`Self::open`], and makes the directory before if it is not there or empty: for programs that do not tell
    /// their first start from later ones.
    ///
    /// A directory that has vanished, on a volume that is not mounted for example, is made anew too, and has forgotten
    /// what the node promised. The other nodes refuse it then ([`NodeError::Refused`]), if they still have their own. Where
    /// a majority of a group's members lose theirs at once, or the only member does, the group begins with nothing and
    /// serves. So in production call [`Self::init`] once, by hand, and [`Self::open`] from then on.
    ///
    /// # Errors
    /// [`OpenError`]: nothing runs. [`OpenError::Config`] if the directory was made with other settings than `founding`.
    ///
    /// # Panics
    /// On a shard's thread, which this would hold up.
    pub fn open_or_init(config: Config, founding: Founding) -> Result<Self, OpenError> {
        blocking::assert_may_block("opening a node");
        match Self::init(&config.dir, founding.clone()) {
            Ok(()) => {}
            Err(OpenError::Home(HomeError::Exists(_))) => {
                let made_with = Self::founding(&config.dir)?;
                if made_with != founding {
                    return Err(OpenError::Config(format!(
                        "the directory was made with {made_with:?}, not with {founding:?}"
                    )));
                }
            }
            Err(error) => return Err(error),
        }
        Self::open(config)
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
                        tracing::info!(
                            shard,
                            ?cut,
                            "a crash left a last batch unfinished: this torn tail of the log was cut"
                        );
                    }
                    *lock(&node.description) = Some(description);
                    node.groups.recovered(recovered);
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
                // The threads that did start end before the error is told: nothing runs.
                self.running.stop();
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Groups the log holds that are not resumed yet, by id: they are silent until they are. Walks all groups.
    #[must_use]
    pub fn recovered(&self) -> Vec<GroupId> {
        self.running.node.groups.waiting()
    }

    /// Groups whose log lost something on this node, and where, found when it was opened or read since: they are silent
    /// for good, and can be neither resumed nor created. By id. Walks all groups.
    #[must_use]
    pub fn fenced(&self) -> Vec<(GroupId, Corrupt)> {
        self.running.node.groups.fenced()
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
        self.running.node.create(group, bootstrap, machine)
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
        self.running.node.resume(group, machine)
    }

    /// Gives a group whose machine failed or panicked another one, while the node runs ([`crate::StopCause::Machine`]).
    /// The machine is handed everything behind the place that its `open` tells: one that lives in memory gets all
    /// commands again, the one that the other machine failed on among them. All handles of the group work again from
    /// the shard's next turn on; the group follows first, and leads again when it is elected. Proposals that waited
    /// were answered when it stopped. Opens the machine and waits as [`Self::create`] does. The machine that failed is
    /// dropped after that, on a thread of its own that nobody waits for. So it must not hold anything that the new one
    /// needs to open, for example the lock of a file.
    ///
    /// # Errors
    /// [`GroupError`]: the group is as it was. [`GroupError::Running`] if it runs, or another call is restarting it;
    /// [`GroupError::Exists`] if it was not resumed yet.
    pub fn restart(
        &self,
        group: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        self.running.node.restart(group, machine)
    }

    /// Resumes the group if the log holds it, and creates it otherwise: for programs that do not tell their first start
    /// from later ones. `bootstrap` counts only where the group is new. Opens the machine and waits as [`Self::create`].
    ///
    /// # Errors
    /// [`GroupError`]: it does not run, or ran already.
    pub fn create_or_resume(
        &self,
        group: GroupId,
        bootstrap: Bootstrap,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        if self.running.node.groups.is_waiting(group) {
            self.resume(group, machine)
        } else {
            self.create(group, bootstrap, machine)
        }
    }

    /// The handle of a group that was created or resumed, unless it is fenced; [`Group::state`] says whether it runs.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.running.node.groups.running(group)
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.running.node.me
    }

    /// Where this node listens for its peers: the address of its [`Config::peers`], with the port that a `:0` there
    /// became.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.running.node.entrance.as_ref().expect("a node listens").0
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

    /// The description of this node and of what it runs on.
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
            command_bytes_max: node.command_bytes_max,
        }
    }

    /// Where `node` wants its clients, if it has said so since this node started.
    #[must_use]
    pub fn client_address(&self, node: NodeId) -> Option<String> {
        self.running.node.introductions.client_address(node)
    }

    /// True if `node` has a connection open to this one and answers what is sent to it, or is this one. A node that died
    /// has none; one that is cut off has none after some ten seconds; one that is stopped does not answer, which is known
    /// after two election timeouts by those that lead a group of it.
    #[must_use]
    pub fn hears(&self, node: NodeId) -> bool {
        node == self.id() || self.running.node.is_answered_by(node)
    }

    /// A number that changes whenever a group's leader as this node knows it, a client address or what
    /// [`Self::hears`] says changes: as long as it is the same, a map made of those is as good as new.
    #[must_use]
    pub fn map_version(&self) -> u64 {
        self.running.node.map_version()
    }

    /// The node's events from now on: leaders that change, groups that stop, peers that refuse this node, its own failure.
    /// As a future, by polling, or waited for with a time-out. Each call follows them by itself; a follower that takes
    /// none keeps 4,096 and is told how many it lost.
    #[must_use = "the events come through it"]
    pub fn events(&self) -> Events {
        self.running.node.news.follow()
    }

    /// Where the time of proposals led here went, over all shards, first stage to last, then
    /// `total`. Merges the shards' histograms: for a look every few seconds.
    #[must_use]
    pub fn stages(&self) -> Vec<StageSummary> {
        let mut merged = Stages::default();
        for shard in &self.running.node.stages {
            merged.merge(&lock(shard));
        }
        merged.summaries()
    }

    /// The longest turn of each shard's thread, in processor time of the thread and at most a millisecond too much; zero
    /// if none took a millisecond. A turn takes in all that has arrived and gives out all that is owed; tasks of
    /// [`Self::spawn_on`] are not part of it.
    #[must_use]
    pub fn longest_turns(&self) -> Vec<Duration> {
        self.running.node.pulses.iter().map(|pulse| pulse.longest_turn()).collect()
    }

    /// The counts of a shard: its log, its connections, and what waits in it. May be called by any thread. Costs the shard
    /// a walk over its groups: it is for a look every few seconds, not for every command.
    ///
    /// Gives [`crate::Gone`] once the node has stopped; on a shard's thread, which must not wait, also while the queue of
    /// the other shard is full.
    ///
    /// # Panics
    /// If there is no such shard ([`Self::shards`]).
    #[must_use = "the answer comes through it"]
    pub fn counters(&self, shard: usize) -> Later<ShardCounters> {
        self.running.node.inboxes[shard].ask(Question::Counters, here::on_a_shard())
    }

    /// The use of a shard's log as of its next turn, with the `count` groups that take most of it. May be called by any
    /// thread. Walks the shard's groups once, on its thread: for people, not for a loop. Ends as [`Self::counters`] does.
    ///
    /// # Panics
    /// If there is no such shard ([`Self::shards`]).
    #[must_use = "the answer comes through it"]
    pub fn log(&self, shard: usize, count: usize) -> Later<ShardLog> {
        let question = |giver| Question::Log(count, giver);
        self.running.node.inboxes[shard].ask(question, here::on_a_shard())
    }

    /// Starts measuring stages and turns anew, for all shards.
    pub fn reset_stages(&self) {
        self.running.node.stages.iter().for_each(|shard| lock(shard).reset());
        self.running.node.pulses.iter().for_each(|pulse| pulse.forget_turns());
    }

    /// Runs a task on a shard's thread, beside its groups: a proposal made there for a group of that shard crosses no
    /// thread. `task` is sent to that thread and makes the future there, so the future need not be `Send`. It runs in a
    /// tokio runtime: tokio's sockets, timers and `spawn_local` work in it.
    ///
    /// The task must never block: all groups of the shard would wait with it. It is dropped when the node stops. If it
    /// panics it alone ends.
    ///
    /// Gives the task's output to come, as a future or to be waited for; dropping that lets the task go on. May be called
    /// by any thread. Waits for room in the shard's queue, but not on a shard's thread. Costs three allocations.
    ///
    /// # Errors
    /// [`SpawnError`]: the task was dropped, because the node has stopped or, on a shard's thread, because the queue of
    /// the other shard is full.
    ///
    /// # Panics
    /// If there is no such shard ([`Self::shards`]).
    pub fn spawn_on<F, T>(
        &self,
        shard: usize,
        task: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Later<T>, SpawnError>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let inbox = &self.running.node.inboxes[shard];
        let (giver, output) = later::pair();
        let task: Task = Box::new(move || Box::pin(async move { giver.give(task().await) }));
        if let Err(task) = here::spawn(inbox, task) {
            let spawned = inbox.control(Control::Spawn(task), here::on_a_shard());
            spawned.map_err(|not| match not {
                NotTaken::Stopped(why) => SpawnError::Stopped(why),
                NotTaken::Full => SpawnError::Busy { shard },
            })?;
        }
        Ok(output)
    }

    /// Why the node stopped by itself, if it did. Waits up to `timeout` for that.
    ///
    /// # Panics
    /// On a shard's thread, unless `timeout` is zero.
    #[must_use]
    pub fn failure(&self, timeout: Duration) -> Option<NodeError> {
        if !timeout.is_zero() {
            blocking::assert_may_block("waiting for a node's failure");
        }
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
        blocking::assert_may_block("closing a node");
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
        self.stop_threads();
        self.node.news.close();
    }

    fn stop_threads(&self) {
        if self.node.is_given_up() {
            // Its threads may sit in the kernel for ever. The lock stays theirs: their writes may still land.
            std::mem::forget(lock(&self.home).take());
            return;
        }
        self.node.inboxes.iter().for_each(|inbox| inbox.ask_to_stop());
        if here::on_a_shard() {
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

/// The record of the peers that the directory keeps, with this opening added.
fn open_peers(home: &Home, config: &Config) -> Result<PeerStores, OpenError> {
    let identity = home.identity();
    let peers = PeerStores::decode(&home.peers());
    let mut peers = peers.ok_or_else(|| {
        OpenError::Config(
            "the record of the peers that the directory keeps cannot be read".to_owned(),
        )
    })?;
    let others = || config.peers.keys().copied().filter(|node| *node != identity.node);
    let mut nonces = others().map(|_| seed_from_system()).collect::<Result<Vec<_>, _>>()?;
    let mut draw = || nonces.pop().expect("one for each peer");
    peers.open(identity.store, identity.incarnation, others(), &mut draw);
    if peers.len() > PEERS_MAX {
        let met = peers.len();
        return Err(OpenError::Config(format!(
            "a directory remembers {PEERS_MAX} peers, and this one would have {met}, those of earlier settings included"
        )));
    }
    home.keep_peers(&peers.encode())?;
    Ok(peers)
}

/// How a running node keeps what it knows of its peers. Holds neither the directory's lock nor the node.
fn save_to(home: &Arc<Home>, node: Weak<Shared>) -> Save {
    const { assert!(PEER_STORES_BYTES_MAX <= PEERS_BYTES_MAX, "a directory has room for all") };
    let home = Arc::downgrade(home);
    Box::new(move |peers| {
        let (Some(home), Some(node)) = (home.upgrade(), node.upgrade()) else {
            return Err(std::io::Error::other("the node is closed"));
        };
        node.saves.run(|| home.keep_peers(peers)).map_err(|error| {
            let what = error.to_string();
            node.fail(NodeError::Thread(what.clone()));
            std::io::Error::other(what)
        })
    })
}

/// The reaction to a peer with larger commands than the segments here hold, which is `held` bytes. If such a peer is met
/// in the directory's first opening, before the node has served, the next opening founds the directory.
fn on_too_large(home: &Arc<Home>, node: Weak<Shared>, held: u32, is_first: bool) -> OnTooLarge {
    let home = Arc::downgrade(home);
    let stays_founded = AtomicBool::new(!is_first);
    Box::new(move |by, theirs| {
        let Some(node) = node.upgrade() else { return };
        // Before the node says that it fails, because a program that hears of it may end the process.
        if !node.has_served()
            && !stays_founded.swap(true, Ordering::Relaxed)
            && let Some(home) = home.upgrade()
            && let Err(error) = node.saves.run(|| home.found_command_bytes(0))
        {
            tracing::error!(%error, "the largest command of the directory stays founded");
        }
        node.refuse_commands(by, theirs, held);
    })
}

fn seed_from_system() -> Result<u64, OpenError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|error| OpenError::Os { what: "cannot get random bytes", source: error.into() })?;
    Ok(u64::from_le_bytes(bytes))
}
