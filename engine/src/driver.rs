//! The thread around a shard: it sleeps in one place (the runtime's poll) and turns the pure core.
//!
//! In:     the inbox (other threads), sockets (net), finished writes (the ring), the clock.
//! Out:    log batches, frames, machines run, answers delivered.
//! Cost:   one turn per wake-up, over whatever arrived meanwhile; a lone proposal waits for nothing.
//! Fails:  the log's first error stops the node (FAULTS.md rule 17); a panic of ours aborts it.
//! Source: DESIGN §3: a runtime on the shard's thread, the ring's readiness in it.

use crate::{
    GroupId, NodeError, NodeId, OpenError, Outcome,
    clock::now_ns,
    here,
    inbox::{Arrivals, Control, Inbox, LaneChange},
    life::shard_of,
    limits,
    shard::{Answer, Shard, Timing},
    shared::Shared,
    turn::{Outside, ReadDone, ReadTask, SEAL_LOOK_NS, Turn},
};
use crossbeam::queue::ArrayQueue;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use hashbrown::HashMap;
use logdrive_net::{AbortOnPanic, Accepted, Hello, Inbound, Lane, Outbound, Sent};
use logdrive_raft::{Message, Ticks};
use logdrive_wal::{Home, Recovered, Wal, WalError};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Builder, LocalOptions},
    task::spawn_local,
};

/// What a shard thread starts with.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) node: Arc<Shared>,
    pub(crate) timing: Timing,
    pub(crate) heartbeat_ns: u64,
    /// A silence of the disk after which the groups here lead nothing.
    pub(crate) stall_resign_ns: u64,
    pub(crate) seed: u64,
    pub(crate) wal: logdrive_wal::Config,
    /// Shard 0 accepts the node's connections.
    pub(crate) listener: Option<logdrive_net::Listener>,
    /// The core to stay on.
    pub(crate) core: Option<usize>,
    /// The directory's lock, let go when the last thread that may write there has ended.
    pub(crate) home: Arc<Home>,
}

/// What a shard thread says once it runs, or why it does not.
pub(crate) type Started = Result<(Recovered, logdrive_wal::Description), OpenError>;

/// A shard thread, from its log's recovery to its end.
pub(crate) fn run(setup: Setup, started: &dyn Fn(Started)) {
    let _abort = AbortOnPanic;
    let built = Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default());
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(source) => return started(Err(OpenError::Os { what: "no runtime", source })),
    };
    let inbox = setup.node.inboxes[setup.index].clone();
    let reader = match Reader::start(setup.index, inbox) {
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
    let shard = Shard::new(node.me, &node.nodes(), setup.timing, setup.seed);
    if let Some(core) = setup.core {
        stay_on(core);
    }
    let driver = Rc::new(Driver {
        index: setup.index,
        arrivals: Rc::new(Arrivals::new(node.inboxes[setup.index].clone())),
        outbound: OnceCell::new(),
        stopping: Cell::new(false),
        stopped: tokio::sync::Notify::new(),
        seal_look: Cell::new(false),
        turn: RefCell::new(Turn::new(shard, wal, setup.heartbeat_ns, setup.stall_resign_ns)),
        peers: RefCell::default(),
        reader,
        node: node.clone(),
    });
    started(Ok((recovered, description)));
    runtime.block_on(driver.clone().live(setup.listener));
    drop(runtime); // Tasks end here, with the connections they own.
    here::set(None);
    node.pulses[setup.index].end();
    drop(setup.home);
}

impl Setup {
    fn shard(&self) -> u32 {
        u32::try_from(self.index).expect("shards are counted in u32")
    }
}

/// Keeps this thread, and no thread started before, on one core.
fn stay_on(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    if let Err(error) = sched_setaffinity(None, &cores) {
        tracing::warn!(core, %error, "the shard's thread cannot stay on its core");
    }
}

/// Task polls between two looks at the sockets and the ring.
const EVENT_INTERVAL: u32 = 31;

/// One shard thread.
struct Driver {
    index: usize,
    node: Arc<Shared>,
    arrivals: Rc<Arrivals>,
    outbound: OnceCell<Outbound>,
    stopping: Cell<bool>,
    stopped: tokio::sync::Notify,
    /// A look at the idle log is on its way.
    seal_look: Cell<bool>,
    /// Lanes to each peer that are up.
    peers: RefCell<HashMap<NodeId, Link>>,
    turn: RefCell<Turn>,
    reader: Reader,
}

#[derive(Default)]
struct Link {
    lanes: [bool; 2],
    known_up: bool,
}

impl Driver {
    async fn live(self: Rc<Self>, listener: Option<logdrive_net::Listener>) {
        here::set(Some(self.arrivals.clone()));
        let me = self.node.hello(self.index);
        let inbound: Rc<dyn Inbound> = Rc::new(Ingress { driver: self.clone() });
        let outbound = Outbound::start(
            me.clone(),
            self.node.peer_addresses(),
            self.node.net_settings.clone(),
            inbound.clone(),
        );
        assert!(self.outbound.set(outbound).is_ok(), "set once");
        if let Some(listener) = listener {
            let node = self.node.clone();
            let known = node.nodes();
            let settings = self.node.net_settings.clone();
            let hand_over = move |accepted: Accepted| node.hand_over(accepted);
            let node = self.node.clone();
            spawn_local(async move {
                let _abort = AbortOnPanic;
                let end = listener.run(me, known, settings, Box::new(hand_over)).await;
                node.fail(NodeError::Thread(format!("peers cannot be accepted any more: {end}")));
            });
        }
        let readiness = {
            let turn = self.turn.borrow();
            let wal = turn.wal.as_ref().expect("open");
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
                Ok(fd) => drop(spawn_local(self.clone().watch_log(fd))),
                Err(error) => {
                    let why = format!("the log's completions cannot be watched: {error}");
                    self.node.fail(NodeError::Thread(why));
                }
            }
        }
        spawn_local(self.clone().tick());
        spawn_local(self.clone().turns(inbound));
        self.stopped.notified().await;
    }

    /// Wakes the shard when writes have finished.
    async fn watch_log(self: Rc<Self>, fd: AsyncFd<std::os::fd::OwnedFd>) {
        let _abort = AbortOnPanic;
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
        let _abort = AbortOnPanic;
        let mut interval = tokio::time::interval(self.node.tick);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.arrivals.inbox().wake();
        }
    }

    async fn turns(self: Rc<Self>, inbound: Rc<dyn Inbound>) {
        while !self.stopping.get() {
            self.arrivals.inbox().wait().await;
            if self.turn(&inbound) && !self.seal_look.replace(true) {
                spawn_local(self.clone().look_at_idle_log());
            }
        }
        // A log that is stuck is not closed, which would wait for it; what else runs here, clients' connections
        // among it, goes on until the process ends.
        if !self.node.is_given_up() {
            self.stopped.notify_one();
        }
    }

    /// Only while there is something to seal: an idle shard sleeps.
    async fn look_at_idle_log(self: Rc<Self>) {
        tokio::time::sleep(Duration::from_nanos(SEAL_LOOK_NS)).await;
        self.seal_look.set(false);
        self.arrivals.inbox().wake();
    }

    /// One turn: everything that arrived goes in, everything owed goes out. True if the log is to be looked at again
    /// when it is idle.
    fn turn(&self, inbound: &Rc<dyn Inbound>) -> bool {
        let _abort = AbortOnPanic;
        self.arrivals.inbox().look();
        let mut borrowed = self.turn.borrow_mut();
        let turn = &mut *borrowed;
        let turned = self.take_in(turn, inbound).and_then(|()| turn.give_out(self));
        let is_unsealed =
            turned.and_then(|()| turn.seal_when_idle(now_ns())).unwrap_or_else(|error| {
                let what = error.to_string();
                self.node.fail(NodeError::Log { shard: self.shard(), what });
                false
            });
        if let Some(failure) = self.node.failed()
            && !self.stopping.get()
        {
            tracing::error!(shard = self.index, %failure, "the shard stops");
            self.arrivals.inbox().stop(&failure.to_string());
            self.stopping.set(true);
        }
        if self.stopping.get() {
            self.abandon(turn);
        }
        turn.beat(&self.node.pulses[self.index]);
        let mut answers = std::mem::take(&mut turn.answers);
        let again = turn.shard.is_dirty() && turn.wal.as_ref().is_some_and(Wal::has_slot);
        drop(borrowed);
        self.deliver(&mut answers);
        self.turn.borrow_mut().answers = answers;
        if self.stopping.get() && !self.node.is_given_up() {
            // After the answers: it waits for the disk.
            self.close_log();
        } else if again {
            self.arrivals.inbox().wake();
        }
        is_unsealed
    }

    fn take_in(&self, turn: &mut Turn, inbound: &Rc<dyn Inbound>) -> Result<(), WalError> {
        let now = now_ns();
        turn.shard.advance(Ticks(now / self.node.tick_ns()));
        turn.stalled_elsewhere = self.node.is_stalled_beside(self.index);
        // First, so that what comes in is judged by the room there is now.
        turn.take_completions(now)?;
        while let Some(control) = self.arrivals.inbox().next_control() {
            self.control(turn, inbound, control);
        }
        if self.arrivals.inbox().is_asked_to_stop() && !self.stopping.get() {
            self.arrivals.inbox().stop("the node was closed");
            self.stopping.set(true);
        }
        self.follow_links(turn);
        self.arrivals
            .take_submissions(|submission| turn.shard.submit(submission, &mut turn.answers));
        while let Some((from, messages)) = self.arrivals.inbox().next_forwarded() {
            for (group, message) in messages {
                turn.shard.receive(from, group, message);
            }
        }
        while let Some(read) = self.reader.done.pop() {
            turn.finish_read(read);
        }
        for (group, corrupt) in turn.newly_fenced.drain(..) {
            self.node.groups.fence(group, corrupt);
        }
        Ok(())
    }

    fn control(&self, turn: &mut Turn, inbound: &Rc<dyn Inbound>, control: Control) {
        match control {
            Control::Run(founded, machine) => {
                turn.add(*founded, machine).expect("checked before it was sent here");
            }
            Control::Spawn(task) => drop(spawn_local(async move { task().await })),
            Control::Receive(accepted) => {
                let settings = self.node.net_settings.clone();
                let inbound = inbound.clone();
                let node = self.node.clone();
                let from = accepted.hello.node;
                node.inbound_opened(from);
                if let Some(outbound) = self.outbound.get() {
                    outbound.dial_now(from); // It is there: no need to wait for the next try.
                }
                spawn_local(async move {
                    let _abort = AbortOnPanic;
                    let end = logdrive_net::receive(accepted, &settings, inbound).await;
                    tracing::debug!(peer = from.get(), %end, "inbound connection ended");
                    node.inbound_closed(from);
                });
            }
        }
    }

    /// Tells the shard which peers it can talk to, both ways.
    fn follow_links(&self, turn: &mut Turn) {
        let mut peers = self.peers.borrow_mut();
        self.arrivals.take_lanes(|LaneChange { peer, lane, is_up }| {
            let link = peers.entry(peer).or_default();
            link.lanes[lane_index(lane)] = is_up;
            if !is_up {
                link.known_up = false;
                turn.shard.peer_down(peer);
            }
        });
        for (peer, link) in &mut *peers {
            if !link.known_up && link.lanes == [true; 2] && self.node.hears(*peer) {
                link.known_up = true;
                turn.shard.peer_up(*peer);
            }
        }
    }

    fn deliver(&self, answers: &mut Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let replied = now_ns();
        let mut stages = self.node.stages[self.index].lock().expect("no panic under this lock");
        let (mut count, mut bytes) = (0, 0);
        for answer in answers.iter() {
            count += 1;
            bytes += answer.bytes;
            if let Some(moments) = &answer.moments {
                stages.record(moments, replied);
            }
        }
        drop(stages);
        self.arrivals.inbox().answered(count, bytes);
        let mut run: Vec<(u64, Outcome)> = Vec::with_capacity(count);
        let mut left = answers.drain(..).peekable();
        while let Some(answer) = left.next() {
            run.push((answer.token, answer.outcome));
            let same = |next: &Answer| Arc::ptr_eq(&next.sink, &answer.sink);
            while let Some(next) = left.next_if(same) {
                run.push((next.token, next.outcome));
            }
            answer.sink.complete(&mut run);
            run.clear();
        }
    }

    /// Nothing is promised any more: whoever waits is told so.
    fn abandon(&self, turn: &mut Turn) {
        self.arrivals
            .take_submissions(|submission| turn.shard.submit(submission, &mut turn.answers));
        turn.shard.abandon_all("the node stopped", &mut turn.answers);
    }

    fn close_log(&self) {
        let wal = self.turn.borrow_mut().wal.take();
        if let Some(wal) = wal
            && let Err(error) = wal.close()
        {
            let what = error.to_string();
            self.node.fail(NodeError::Log { shard: self.shard(), what });
        }
    }

    fn shard(&self) -> u32 {
        u32::try_from(self.index).expect("shards are counted in u32")
    }
}

impl Outside for Driver {
    fn send(&self, peer: NodeId, lane: usize, messages: &mut Vec<(GroupId, Message)>) -> bool {
        let outbound = self.outbound.get().expect("started");
        outbound.send(peer, LANES[lane], messages) != Sent::Dropped
    }

    fn read(&self, task: ReadTask) -> Result<(), ReadTask> {
        match self.reader.tasks.try_send(task) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(task)) => Err(task),
            Err(TrySendError::Disconnected(_)) => unreachable!("the reader ends with its sender"),
        }
    }

    fn now(&self) -> u64 {
        now_ns()
    }
}

/// The lanes by their number in the shard.
const LANES: [Lane; crate::shard::LANES] = [Lane::Liveness, Lane::Append];

fn lane_index(lane: Lane) -> usize {
    LANES.iter().position(|known| *known == lane).expect("every lane has a number")
}

/// What the network tells this shard.
struct Ingress {
    driver: Rc<Driver>,
}

impl Inbound for Ingress {
    fn deliver(&self, from: NodeId, messages: Vec<(GroupId, Message)>) {
        let _abort = AbortOnPanic;
        let driver = &*self.driver;
        let shards = driver.node.inboxes.len();
        let mut elsewhere: HashMap<usize, Vec<(GroupId, Message)>> = HashMap::new();
        {
            let shard = &mut driver.turn.borrow_mut().shard;
            for (group, message) in messages {
                let owner = shard_of(group, shards);
                if owner == driver.index {
                    shard.receive(from, group, message);
                } else {
                    elsewhere.entry(owner).or_default().push((group, message));
                }
            }
        }
        driver.arrivals.inbox().wake();
        for (owner, messages) in elsewhere {
            if !driver.node.inboxes[owner].forward((from, messages)) {
                tracing::debug!(owner, "frame for another shard dropped: its queue is full");
            }
        }
    }

    fn up(&self, peer: NodeId, lane: Lane, hello: &Hello) {
        self.driver.node.note_client_address(peer, &hello.client_address);
        self.driver.arrivals.lane(LaneChange { peer, lane, is_up: true });
    }

    fn down(&self, peer: NodeId, lane: Lane) {
        self.driver.arrivals.lane(LaneChange { peer, lane, is_up: false });
    }
}

/// Reads old entries away from the shard's thread: cold pages are faulted there, not here.
struct Reader {
    tasks: Sender<ReadTask>,
    done: Arc<ArrayQueue<ReadDone>>,
}

impl Reader {
    fn start(shard: usize, inbox: Arc<Inbox>) -> std::io::Result<Self> {
        let (tasks, todo): (Sender<ReadTask>, Receiver<ReadTask>) =
            crossbeam_channel::bounded(limits::READS_MAX);
        // As many answers as tasks, and one that is being worked on.
        let done = Arc::new(ArrayQueue::new(2 * limits::READS_MAX + 2));
        let answers = done.clone();
        std::thread::Builder::new().name(format!("logdrive-read-{shard}")).spawn(move || {
            let _abort = AbortOnPanic;
            for task in todo {
                let mut done = task.run();
                while let Err(back) = answers.push(done) {
                    done = back;
                    inbox.wake();
                    std::thread::sleep(Duration::from_millis(1));
                }
                inbox.wake();
            }
        })?;
        Ok(Self { tasks, done })
    }
}
