//! The thread around a shard: it sleeps in one place (the runtime's poll) and turns the pure core.
//!
//! In:     the inbox (other threads), sockets (net), finished writes (the ring), the clock.
//! Out:    log batches, frames, machines run, answers delivered.
//! Cost:   one turn per wake-up, over whatever arrived meanwhile; a lone proposal waits for nothing. Between two turns the
//!         thread's other tasks run and its sockets are looked at. Readers of peers' connections that find no room stand in
//!         a queue, and are woken by the turn that makes room.
//! Fails:  the log's first error stops the node (RULES.md rule 17); a panic of ours aborts it.
//! Source: RULES.md A3: a runtime on the shard's thread, the ring's readiness in it.

use crate::{
    GroupId, MachineError, NodeError, NodeEvent, NodeId, OpenError, StateMachine,
    clock::{self, Nanos},
    here,
    host::{Outside, SEAL_LOOK, ShardHost, Turned},
    inbox::{Arrivals, Control},
    links::{LaneChange, PeerProcess},
    panics,
    reads::ReadTask,
    shared::Shared,
    silence::LOOKS_PER_ELECTION_TIMEOUT,
    stretch::StretchMeter,
};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use logdrive_net::{Accepted, Hello, Inbound, Lane, LaneStats, Outbound, Refusal, Sent, Turnstile};
use logdrive_raft::Message;
use logdrive_wal::{Home, Recovered, Wal};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Builder, LocalOptions},
    task::spawn_local,
};

/// The parts that a shard thread starts with.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) node: Arc<Shared>,
    pub(crate) seed: u64,
    pub(crate) wal: logdrive_wal::Config,
    /// Shard 0 accepts the node's connections.
    pub(crate) listener: Option<logdrive_net::Listener>,
    /// The core to stay on.
    pub(crate) core: Option<usize>,
    /// The directory's lock, let go when the last thread that may write there has ended.
    pub(crate) home: Arc<Home>,
}

/// A shard thread's word that it runs, or why it does not.
pub(crate) type Started = Result<(Recovered, logdrive_wal::Description), OpenError>;

/// A shard thread, from its log's recovery to its end.
pub(crate) fn run(setup: Setup, started: &dyn Fn(Started)) {
    panics::guarded(|| live(setup, started));
}

fn live(setup: Setup, started: &dyn Fn(Started)) {
    let built = Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default());
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(source) => {
            return started(Err(OpenError::Os {
                what: "cannot make the runtime of a shard's thread",
                source,
            }));
        }
    };
    let arrivals = Rc::new(Arrivals::new(setup.node.inboxes[setup.index].clone()));
    let reader = match start_reader(setup.index, &arrivals) {
        Ok(reader) => reader,
        Err(source) => {
            let what = "cannot start a shard's reader";
            return started(Err(OpenError::Os { what, source }));
        }
    };
    let (wal, recovered) = match Wal::open(setup.wal.clone()) {
        Ok(opened) => opened,
        Err(source) => return started(Err(OpenError::Log { shard: setup.shard(), source })),
    };
    let description = wal.describe();
    let node = setup.node.clone();
    if let Some(core) = setup.core {
        stay_on(core);
    }
    let host = ShardHost::new(node.clone(), setup.index, arrivals.clone(), wal, setup.seed);
    let driver = Rc::new(Driver {
        index: setup.index,
        arrivals,
        outbound: OnceCell::new(),
        readers: Rc::default(),
        stopped: tokio::sync::Notify::new(),
        seal_look: Cell::new(false),
        host: RefCell::new(host),
        meter: RefCell::default(),
        inbound: OnceCell::new(),
        reader,
        node: node.clone(),
        home: setup.home.clone(),
    });
    started(Ok((recovered, description)));
    runtime.block_on(driver.clone().live(setup.listener));
    node.pulses[setup.index].end();
    // Tasks end here, with the connections they own. A look-up of a name may take half a minute, and is not waited for
    // that long; a save that is still under way keeps the directory locked until it is done.
    runtime.shutdown_timeout(BLOCKING_END);
    here::set(None);
    drop(setup.home);
}

impl Setup {
    fn shard(&self) -> u32 {
        u32::try_from(self.index).expect("shards are counted in u32")
    }
}

/// Keeps this thread on one core. Threads that it has started before are not affected.
fn stay_on(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    if let Err(error) = sched_setaffinity(None, &cores) {
        tracing::warn!(core, %error, "the shard's thread cannot stay on its core");
    }
}

/// How long the end of a shard waits for the work that its runtime does on threads that may block.
const BLOCKING_END: Duration = Duration::from_secs(1);
/// Task polls between two looks at the sockets and the ring.
const EVENT_INTERVAL: u32 = 31;

/// One shard thread.
struct Driver {
    index: usize,
    node: Arc<Shared>,
    arrivals: Rc<Arrivals>,
    outbound: OnceCell<Outbound>,
    /// The receiver that connections of peers deliver to.
    inbound: OnceCell<Rc<dyn Inbound>>,
    /// The readers of the peers' connections, while there is no room for their frames.
    readers: Rc<Turnstile>,
    stopped: tokio::sync::Notify,
    /// A look at the idle log is on its way.
    seal_look: Cell<bool>,
    host: RefCell<ShardHost>,
    meter: RefCell<StretchMeter>,
    reader: Sender<ReadTask>,
    home: Arc<Home>,
}

impl Driver {
    async fn live(self: Rc<Self>, listener: Option<logdrive_net::Listener>) {
        here::set(Some(self.arrivals.clone()));
        let me = self.node.hello(self.index);
        let (driver, readers) = (Rc::downgrade(&self), Rc::clone(&self.readers));
        let inbound: Rc<dyn Inbound> = Rc::new(Ingress { driver, readers });
        let outbound = Outbound::start(
            me.clone(),
            self.node.peer_addresses(),
            &self.node.stores,
            self.node.net_settings.clone(),
            inbound.clone(),
        );
        assert!(self.outbound.set(outbound).is_ok(), "set once");
        assert!(self.inbound.set(inbound).is_ok(), "set once");
        if let Some(listener) = listener {
            let node = self.node.clone();
            let known = node.nodes();
            let (stores, settings) = (node.stores.clone(), node.net_settings.clone());
            let hand_over = Box::new(move |accepted: Accepted| node.hand_over(accepted));
            let node = self.node.clone();
            let turned_away = Box::new(move |peer, why| node.turned_away(peer, why, clock::now()));
            let node = self.node.clone();
            panics::spawn(async move {
                let listening = listener.run(me, known, stores, settings, hand_over, turned_away);
                let end = listening.await;
                node.fail(NodeError::Thread(format!("peers cannot be accepted any more: {end}")));
            });
        }
        let readiness = {
            let host = self.host.borrow();
            let wal = host.wal().expect("open");
            wal.readiness().map(|fd| fd.try_clone_to_owned())
        };
        if let Some(fd) = readiness {
            // Readable only: a ring is writable whenever its submission queue has room.
            #[expect(
                deprecated,
                reason = "deprecated for types that may swap their descriptor; \
                      an OwnedFd cannot, and its replacement is marked unsafe for all types"
            )]
            let fd = fd.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
            match fd {
                Ok(fd) => panics::spawn(self.clone().watch_log(fd)),
                Err(error) => {
                    let why = format!("the log's completions cannot be watched: {error}");
                    self.node.fail(NodeError::Thread(why));
                }
            }
        }
        panics::spawn(self.clone().tick());
        if self.index == 0 {
            panics::spawn(self.clone().watch_peers());
        }
        panics::spawn(self.clone().turns());
        self.stopped.notified().await;
    }

    /// Wakes the shard when writes have finished.
    async fn watch_log(self: Rc<Self>, fd: AsyncFd<std::os::fd::OwnedFd>) {
        loop {
            match fd.readable().await {
                // Cleared before the turn looks: a completion after the look fires again.
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => {
                    let why = format!("the log's completions cannot be watched: {error}");
                    return self.node.fail(NodeError::Thread(why));
                }
            }
            self.arrivals.inbox().wake();
        }
    }

    async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(self.node.tick);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.arrivals.inbox().wake();
        }
    }

    /// Looks for peers that are connected and say nothing. Shard 0 does it for all shards of the node.
    async fn watch_peers(self: Rc<Self>) {
        let ticks = self.node.timing.election_ticks.div_ceil(LOOKS_PER_ELECTION_TIMEOUT.into());
        let period = self.node.tick * u32::try_from(ticks).unwrap_or(u32::MAX);
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.node.look_for_silent_peers();
        }
    }

    /// Takes turns, one whenever the shard is woken.
    async fn turns(self: Rc<Self>) {
        loop {
            self.arrivals.inbox().wait().await;
            let turned = self.turn();
            self.readers.made_room();
            if turned.has_stopped {
                break;
            }
            if turned.looks_again && !self.seal_look.replace(true) {
                panics::spawn(self.clone().look_at_idle_log());
            }
            if turned.leaves_work || self.arrivals.inbox().is_woken() {
                // The shard is woken already, by itself or by another thread, which may happen in every turn. Without this
                // yield the thread would take turn after turn, and look at no socket meanwhile.
                tokio::task::yield_now().await;
            }
        }
        // A stuck log is not closed, because closing waits for its writes. The other tasks of this thread, such as the
        // connections of clients, go on until the process ends.
        if !self.node.is_given_up() {
            self.stopped.notify_one();
        }
    }

    /// Wakes the shard once, after [`SEAL_LOOK`], to see whether its log is idle and can be sealed. Started only
    /// while something is left to seal, so that an idle shard sleeps.
    async fn look_at_idle_log(self: Rc<Self>) {
        tokio::time::sleep(SEAL_LOOK.into()).await;
        self.seal_look.set(false);
        self.arrivals.inbox().wake();
    }

    fn turn(&self) -> Turned {
        let began = self.meter.borrow_mut().begin();
        let turned = panics::guarded(|| self.host.borrow_mut().turn(self));
        if let Some(time) = self.meter.borrow_mut().end(began) {
            self.node.pulses[self.index].took(time);
        }
        turned
    }

    /// Reads a connection that a peer has made, until it ends.
    fn receive(&self, accepted: Accepted) {
        let settings = self.node.net_settings.clone();
        let inbound = self.inbound.get().expect("started").clone();
        let node = self.node.clone();
        let from = accepted.hello.node;
        node.inbound_opened(from, accepted.hello.incarnation);
        if let Some(outbound) = self.outbound.get() {
            outbound.dial_now(from); // The peer is up: dial it now instead of at the end of the current pause.
        }
        panics::spawn(async move {
            let end = logdrive_net::receive(accepted, &settings, inbound).await;
            tracing::debug!(peer = from.get(), %end, "a connection that a peer had made ended");
            node.inbound_closed(from);
        });
    }
}

impl Outside for Driver {
    fn send(&self, peer: NodeId, lane: Lane, messages: &mut Vec<(GroupId, Message)>) -> bool {
        let outbound = self.outbound.get().expect("started");
        let is_sent = outbound.send(peer, lane, messages) != Sent::Dropped;
        if is_sent {
            self.node.frame_sent(peer);
        }
        is_sent
    }

    fn read(&self, task: ReadTask) -> Result<(), ReadTask> {
        match self.reader.try_send(task) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(task)) => Err(task),
            Err(TrySendError::Disconnected(_)) => unreachable!("the reader ends with its sender"),
        }
    }

    fn now(&self) -> Nanos {
        clock::now()
    }

    fn lanes(&self) -> Vec<(NodeId, Lane, LaneStats)> {
        self.outbound.get().expect("started").stats().collect()
    }

    fn drop_machine(&self, machine: Box<dyn StateMachine>) {
        let spawn = || {
            let thread = std::thread::Builder::new().name("logdrive-drop".to_owned());
            let started = thread.spawn(move || panics::drop_machine(machine));
            // If no thread could be started, the machine was dropped with the closure, on this thread.
            started.map(drop).map_err(|error| MachineError(error.to_string()))
        };
        if let Err(error) = panics::caught(spawn) {
            tracing::warn!(%error, "no thread could be started to drop a state machine on: its shard waited for that");
        }
    }

    fn take(&self, control: Control) {
        match control {
            Control::Spawn(task) => drop(spawn_local(async move { task().await })),
            Control::Receive(accepted) => self.receive(*accepted),
            Control::Run(..) | Control::Restart(..) | Control::Ask(_) => {
                unreachable!("groups and questions are the turn's own")
            }
        }
    }
}

/// The shard's receiver of what the network tells it.
struct Ingress {
    /// Weak, because the driver owns this receiver: with a strong reference neither would ever be dropped.
    driver: Weak<Driver>,
    readers: Rc<Turnstile>,
}

impl Ingress {
    fn driver(&self) -> Rc<Driver> {
        self.driver.upgrade().expect("connections end with their thread")
    }
}

impl Inbound for Ingress {
    fn has_room(&self) -> bool {
        // The task that takes the turns is woken as long as frames wait, and wakes the readers.
        !self.driver().arrivals.has_many_frames()
    }

    fn turnstile(&self) -> &Turnstile {
        &self.readers
    }

    fn deliver(&self, from: &Hello, messages: Vec<(GroupId, Message)>) {
        let driver = self.driver();
        driver.node.frame_came(from.node);
        let from = PeerProcess { node: from.node, incarnation: from.incarnation };
        panics::guarded(|| {
            driver.arrivals.frame(from, messages, driver.index, &driver.node.inboxes);
        });
    }

    fn up(&self, peer: NodeId, lane: Lane, hello: &Hello) {
        let driver = self.driver();
        driver.node.introduce(hello);
        driver.node.reached();
        driver.arrivals.lane(LaneChange { peer, lane, up: true });
    }

    fn down(&self, peer: NodeId, lane: Lane) {
        self.driver().arrivals.lane(LaneChange { peer, lane, up: false });
    }

    fn refused(&self, peer: NodeId, refusal: Refusal) {
        let driver = self.driver();
        driver.node.news.tell(|| NodeEvent::PeerRefused { peer, why: refusal });
        if !refusal.is_for_good() || driver.node.has_failed() {
            return;
        }
        let error = NodeError::Refused { by: peer, why: refusal };
        // The directory is marked before anything else can happen, so that a later start of the node is refused too.
        let mark = || driver.home.refuse(&error.to_string());
        if let Err(error) = driver.node.saves.run(mark) {
            tracing::error!(%error, "peers refused this directory for good, and it could not be marked so");
        }
        driver.node.fail(error);
    }

    fn turned_away(&self, peer: NodeId, refusal: Refusal) {
        self.driver().node.turned_away(peer, refusal, clock::now());
    }
}

/// Starts the thread that reads old entries for the shard, so that pages which are not in memory are waited for there
/// and not on the shard's thread. It ends when the sender of its tasks is dropped.
fn start_reader(shard: usize, arrivals: &Arrivals) -> std::io::Result<Sender<ReadTask>> {
    let (tasks, todo): (Sender<ReadTask>, Receiver<ReadTask>) =
        crossbeam_channel::bounded(arrivals.inbox().limits().reads_max);
    let (answers, inbox) = (arrivals.reads().clone(), arrivals.inbox().clone());
    std::thread::Builder::new().name(format!("logdrive-read-{shard}")).spawn(move || {
        panics::guarded(|| {
            for task in todo {
                let mut done = task.run();
                while let Err(back) = answers.push(done) {
                    if Arc::strong_count(&answers) == 1 {
                        return; // The shard has ended.
                    }
                    done = back;
                    inbox.wake();
                    std::thread::sleep(Duration::from_millis(1));
                }
                inbox.wake();
            }
        });
    })?;
    Ok(tasks)
}
