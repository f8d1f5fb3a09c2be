//! The generator: one task that sends the operations that are due, reads the replies, and records both.
//!
//! In:     a workload, a pace (open or closed loop), the slot map.
//! Out:    a [`Recorder`] filled by every operation meant to start in the measured window.
//! Cost:   measured against servers on the same two cores, so everything is done in bulk: per wake-up at most one read
//!         and one write per connection, and for sends at most one wake-up every `Plan::pacing`.
//! Fails:  no error of an operation ends a run: the error is counted. A run ends early when a server that it started
//!         dies.
//!
//! An operation is *due*, then *in flight* (on a connection, or parked until a connection can take it), then
//! *finished*: acknowledged, or failed with a kind of error. Operations in flight are bounded, by number and by the
//! bytes that sockets have not taken. An open loop at its bound sends later but forgets nothing: operations keep their
//! intended times, and operations that are never sent count as timeouts.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::connection::{Connection, Outcome, Pending};
use super::recorder::{ErrorKind, Recorder, Times};
use super::schedule::{NS_PER_S, Pacer, Schedule, cpu_ns, now_ns};
use super::target::{Endpoint, SlotMap, TargetError, fetch_slots, parse_moved};
use super::workload::{VALUE_BYTES_MAX, Workload};

/// How operations are started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pace {
    /// This many operations per second, on a schedule, whatever the servers do.
    Open { rate_per_s: u64 },
    /// This many operations outstanding; the next one starts when one finishes.
    Closed { concurrency: usize },
}

/// The settings of a run.
pub(super) struct Plan {
    pub(super) pace: Pace,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    /// An operation without an answer after this long is a timeout.
    pub(super) timeout: Duration,
    pub(super) connections_per_node: usize,
    /// Sends of an open loop are gathered for this long: fewer, larger writes, at a cost in latency that the report
    /// shows as lag. Operations further apart than this are each sent on time.
    pub(super) pacing: Duration,
    /// Keep the last second's figures for [`Watch::status`].
    pub(super) live: bool,
}

/// The caller's side of a run, called once a second.
pub(super) trait Watch {
    /// A status line, if `Plan::live`. `seconds` counts from the start of the warm-up.
    fn status(&mut self, seconds: u64, line: &str);
    /// Whether the servers are alive. An error ends the run.
    fn check(&mut self) -> Result<(), String>;
}

/// A reason for the end of a run that is not an error of an operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("the timer failed: {0}")]
    Timer(#[from] io::Error),
    #[error("{0}")]
    Server(String),
}

/// The generator of one run.
pub(super) struct Generator {
    plan: Plan,
    workload: Workload,
    map: SlotMap,
    /// `connections_per_node` for each of the map's nodes, in its order.
    connections: Vec<Connection>,
    pub(super) recorder: Recorder,
    source: Source,
    /// The number of operations that are started and not finished: on a connection or parked.
    in_flight: usize,
    /// Redirected operations, to be sent again at once to another node.
    moved: Vec<Pending>,
    /// Operations whose node cannot take them now; the generator tries them again at every tick.
    parked: VecDeque<Pending>,
    refresh: Option<Refresh>,
    refresh_wanted: bool,
    refreshed_ns: u64,
    refreshes: usize,
    phase_end_ns: u64,
    next_tick_ns: u64,
    next_second_ns: u64,
    started_ns: u64,
    status_ns: u64,
    cpu_at_window_ns: Option<u64>,
    /// Processor time that the generator used in the window, once the window is over.
    pub(super) cpu_used_ns: Option<u64>,
    /// The text of the first error reply of kind `other`, for the report.
    pub(super) first_other: Option<String>,
}

/// A request for the slot map, in progress.
type Refresh = Pin<Box<dyn Future<Output = Result<SlotMap, TargetError>>>>;

/// Where operations come from.
enum Source {
    Open {
        schedule: Schedule,
        /// The next operation to start.
        next: u64,
        /// Operations before this one belong to the run.
        end: u64,
        /// No new operation is sent before this time, so that sends are gathered.
        send_at_ns: u64,
    },
    Closed {
        /// Operations that may start now.
        credits: usize,
        /// Operations whose predecessor failed: they may start at the next tick, so that a refusal is not a loop.
        held: usize,
        ended: bool,
    },
}

impl Generator {
    /// Must be called inside a tokio runtime. The schedule starts now.
    pub(super) fn new(plan: Plan, workload: Workload, map: SlotMap) -> Self {
        let started_ns = now_ns();
        let window_ns = started_ns + nanoseconds(plan.warmup);
        let end_ns = window_ns + nanoseconds(plan.duration);
        let source = match plan.pace {
            Pace::Open { rate_per_s } => {
                let schedule = Schedule::new(started_ns, rate_per_s);
                Source::Open {
                    schedule,
                    next: 0,
                    end: schedule.count_before(end_ns),
                    send_at_ns: 0,
                }
            }
            Pace::Closed { concurrency } => {
                Source::Closed { credits: concurrency, held: 0, ended: false }
            }
        };
        let mut generator = Self {
            recorder: Recorder::new(window_ns..end_ns, plan.live),
            workload,
            map,
            connections: Vec::new(),
            source,
            in_flight: 0,
            moved: Vec::new(),
            parked: VecDeque::new(),
            refresh: None,
            refresh_wanted: false,
            refreshed_ns: started_ns,
            refreshes: 0,
            phase_end_ns: end_ns,
            next_tick_ns: started_ns,
            next_second_ns: started_ns + NS_PER_S,
            started_ns,
            status_ns: started_ns,
            cpu_at_window_ns: None,
            cpu_used_ns: None,
            first_other: None,
            plan,
        };
        generator.grow_connections();
        generator
    }

    /// Runs to the end: the warm-up, the window, and the wait for the operations that are outstanding.
    pub(super) async fn run(&mut self, watch: &mut dyn Watch) -> Result<(), RunError> {
        let mut pacer = Pacer::new()?;
        poll_fn(|context| self.poll_run(context, &mut pacer, watch)).await
    }

    /// Ends the count: each operation that is still outstanding is a timeout. Called at the end, or to end a run early.
    pub(super) fn finish(&mut self) {
        let now = now_ns();
        self.recorder.cut(now);
        self.end_of_window();
        let mut parked = std::mem::take(&mut self.parked);
        parked.extend(self.moved.drain(..));
        for connection in &mut self.connections {
            parked.append(&mut connection.pending);
        }
        for pending in parked {
            self.in_flight -= 1;
            self.recorder.fail(pending.times.intended_ns, ErrorKind::Timeout);
        }
        assert_eq!(self.in_flight, 0, "an operation was neither outstanding nor finished");
        if let Source::Open { schedule, next, end, .. } = &mut self.source {
            // The rest of the schedule was never sent. Operations meant for the warm-up, which all come first, do not
            // count in the window.
            let window_ns = self.recorder.window_ns();
            let last = schedule.count_before(window_ns.end).min(*end);
            let first = schedule.count_before(window_ns.start).max(*next);
            self.recorder.fail_many(
                window_ns.start,
                ErrorKind::Timeout,
                last.saturating_sub(first),
            );
            *next = *end;
        }
    }

    /// Nodes that could not be reached at the last attempt, and why.
    pub(super) fn unreached(&self) -> impl Iterator<Item = (&Endpoint, &io::Error)> {
        let per_node = self.plan.connections_per_node;
        let firsts = self.connections.iter().step_by(per_node);
        self.map
            .nodes
            .iter()
            .zip(firsts)
            .filter_map(|(node, first)| Some((node, first.failure.as_ref()?)))
    }

    fn poll_run(
        &mut self,
        context: &mut Context<'_>,
        pacer: &mut Pacer,
        watch: &mut dyn Watch,
    ) -> Poll<Result<(), RunError>> {
        self.poll_opening(context);
        self.poll_replies(context);
        let now = now_ns();
        if now >= self.next_tick_ns {
            self.tick(now, watch)?;
        }
        self.poll_refresh(context, now);
        self.send(now);
        self.flush(context);
        if now >= self.phase_end_ns && self.is_done(now) {
            return Poll::Ready(Ok(()));
        }
        pacer.poll_arm(context, self.next_wake_ns())?;
        Poll::Pending
    }

    fn poll_opening(&mut self, context: &mut Context<'_>) {
        for connection in &mut self.connections {
            if !connection.is_open() && connection.poll_open(context).is_ready() {
                self.next_tick_ns = 0; // parked operations may leave
            }
        }
    }

    fn poll_replies(&mut self, context: &mut Context<'_>) {
        for place in 0..self.connections.len() {
            let node = place / self.plan.connections_per_node;
            loop {
                // The clock is read after the bytes arrived, once for all replies in them.
                let mut now = None;
                let Self {
                    recorder,
                    source,
                    in_flight,
                    moved,
                    map,
                    refresh_wanted,
                    first_other,
                    ..
                } = self;
                let mut on_reply = |mut pending: Pending, outcome: Outcome<'_>| {
                    let now = *now.get_or_insert_with(now_ns);
                    let text = match outcome {
                        Outcome::Ok => {
                            *in_flight -= 1;
                            source.finished(true);
                            return recorder.acknowledge(pending.times, now);
                        }
                        Outcome::Error(text) | Outcome::Strange(text) => text,
                    };
                    if let Some((slot, owner)) = parse_moved(text, &map.nodes[node]) {
                        map.assign(slot, owner);
                        *refresh_wanted = true;
                        recorder.redirect();
                        pending.moves += 1;
                        return moved.push(pending);
                    }
                    let kind = ErrorKind::of_reply(text);
                    match kind {
                        ErrorKind::ClusterDown => *refresh_wanted = true,
                        ErrorKind::Other if first_other.is_none() => {
                            *first_other = Some(text.escape_ascii().to_string());
                        }
                        _ => {}
                    }
                    *in_flight -= 1;
                    source.finished(false);
                    recorder.fail(pending.times.intended_ns, kind);
                };
                match self.connections[place].poll_replies(context, &mut on_reply) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => self.lose(place, ErrorKind::Connection),
                    Poll::Pending => break,
                }
            }
        }
        self.grow_connections();
    }

    /// The work that is done every hundredth of a second.
    fn tick(&mut self, now: u64, watch: &mut dyn Watch) -> Result<(), RunError> {
        self.next_tick_ns = now + TICK_NS;
        if let Source::Closed { credits, held, .. } = &mut self.source {
            *credits += std::mem::take(held);
        }
        let window_ns = self.recorder.window_ns();
        if now >= window_ns.start && self.cpu_at_window_ns.is_none() {
            self.cpu_at_window_ns = Some(cpu_ns());
        }
        if now >= window_ns.end {
            self.end_of_window();
        }
        let late_ns = now.saturating_sub(nanoseconds(self.plan.timeout));
        for place in 0..self.connections.len() {
            let oldest = self.connections[place].pending.front();
            if oldest.is_some_and(|pending| pending.times.sent_ns < late_ns) {
                self.lose(place, ErrorKind::Timeout);
            }
        }
        let mut room = self.room();
        for _ in 0..self.parked.len() {
            let Some(pending) = self.parked.pop_front() else { break };
            if pending.times.intended_ns >= late_ns && room == 0 {
                self.parked.push_back(pending);
            } else if pending.times.intended_ns >= late_ns {
                room -= 1;
                self.route(pending, now);
            } else {
                let kind = if pending.moves > 0 { ErrorKind::Moved } else { ErrorKind::Connection };
                self.fail(pending, kind);
            }
        }
        if now >= self.next_second_ns {
            self.next_second_ns += NS_PER_S;
            watch.check().map_err(RunError::Server)?;
            if let Some(line) = self.recorder.status(now - self.status_ns, self.in_flight) {
                watch.status((now - self.started_ns) / NS_PER_S, &line);
            }
            self.status_ns = now;
        }
        Ok(())
    }

    fn end_of_window(&mut self) {
        if let (Some(before), None) = (self.cpu_at_window_ns, self.cpu_used_ns) {
            self.cpu_used_ns = Some(cpu_ns() - before);
        }
    }

    /// Asks for the slot map again when something hinted that the map changed, not more often than every `REFRESH_NS`.
    fn poll_refresh(&mut self, context: &mut Context<'_>, now: u64) {
        if self.refresh.is_none() && self.refresh_wanted && now >= self.refreshed_ns + REFRESH_NS {
            self.refresh_wanted = false;
            self.refreshes += 1;
            let (nodes, first) = (self.map.nodes.clone(), self.refreshes);
            self.refresh = Some(Box::pin(async move { fetch_slots(&nodes, first).await }));
        }
        let Some(refresh) = &mut self.refresh else { return };
        let Poll::Ready(answer) = refresh.as_mut().poll(context) else { return };
        self.refresh = None;
        self.refreshed_ns = now;
        match answer {
            Ok(newer) => self.map.update(&newer),
            Err(_) => self.refresh_wanted = true,
        }
        self.grow_connections();
    }

    /// Starts every operation that is due, and sends every redirected operation again.
    fn send(&mut self, now: u64) {
        let mut room = self.room();
        for pending in std::mem::take(&mut self.moved) {
            // The first redirects of an operation are followed at once; after a few, two nodes disagree, and a pause
            // lets them settle.
            if pending.moves <= MOVES_AT_ONCE && room > 0 {
                room -= 1;
                self.route(pending, now);
            } else {
                self.parked.push_back(pending);
            }
        }
        match &mut self.source {
            Source::Open { schedule, next, end, send_at_ns } => {
                if now < *send_at_ns {
                    return;
                }
                let schedule = *schedule;
                let room = room.min(IN_FLIGHT_MAX - self.in_flight) as u64;
                let due = schedule.count_before(now + 1).min(*end);
                let until = due.min(*next + room);
                let from = std::mem::replace(next, until);
                *send_at_ns = now + nanoseconds(self.plan.pacing);
                for index in from..until {
                    self.start(schedule.intended_ns(index), now);
                }
            }
            Source::Closed { credits, ended, .. } => {
                if now >= self.phase_end_ns {
                    *ended = true;
                }
                let count = if *ended { 0 } else { (*credits).min(room) };
                *credits -= count;
                for _ in 0..count {
                    self.start(now, now);
                }
            }
        }
    }

    /// How many operations may be encoded now, given the bytes that wait for sockets.
    fn room(&self) -> usize {
        let waiting: usize = self.connections.iter().map(Connection::backlog_bytes).sum();
        BACKLOG_BYTES_MAX.saturating_sub(waiting) / self.workload.operation_bytes()
    }

    fn start(&mut self, intended_ns: u64, now: u64) {
        let key = self.workload.next_key();
        self.in_flight += 1;
        self.route(
            Pending { times: Times { intended_ns, started_ns: now, sent_ns: now }, key, moves: 0 },
            now,
        );
    }

    /// Puts an operation on its node's connection, or parks the operation if there is no open connection.
    fn route(&mut self, mut pending: Pending, now: u64) {
        let slot = self.workload.slot(pending.key);
        let per_node = self.plan.connections_per_node;
        let place = match self.map.owner(slot) {
            Some(node) => node * per_node + slot % per_node,
            // No node owns the slot: any node will answer with the error for that.
            None => self.connections.iter().position(Connection::is_open).unwrap_or(0),
        };
        match self.connections.get_mut(place).filter(|connection| connection.is_open()) {
            Some(connection) => {
                pending.times.sent_ns = now;
                self.workload.encode(pending.key, &mut connection.output);
                connection.pending.push_back(pending);
            }
            None => self.parked.push_back(pending),
        }
    }

    fn flush(&mut self, context: &mut Context<'_>) {
        for place in 0..self.connections.len() {
            if self.connections[place].backlog_bytes() > 0
                && self.connections[place].poll_flush(context).is_err()
            {
                self.lose(place, ErrorKind::Connection);
            }
        }
    }

    /// Gives a connection up. The operations that were on the connection may have happened, and are not sent again.
    fn lose(&mut self, place: usize, kind: ErrorKind) {
        self.refresh_wanted = true;
        for pending in self.connections[place].lose() {
            self.fail(pending, kind);
        }
        // The new dialling must be polled once before it can wake this task.
        self.next_tick_ns = 0;
    }

    fn fail(&mut self, pending: Pending, kind: ErrorKind) {
        self.in_flight -= 1;
        self.source.finished(false);
        self.recorder.fail(pending.times.intended_ns, kind);
    }

    fn grow_connections(&mut self) {
        let per_node = self.plan.connections_per_node;
        while self.connections.len() < self.map.nodes.len() * per_node {
            let endpoint = self.map.nodes[self.connections.len() / per_node].clone();
            self.connections.push(Connection::new(endpoint));
            self.next_tick_ns = 0;
        }
    }

    /// True after the window if nothing is outstanding, or if the wait has lasted long enough.
    fn is_done(&self, now: u64) -> bool {
        let unsent = match &self.source {
            Source::Open { next, end, .. } => next < end,
            Source::Closed { .. } => false,
        };
        (self.in_flight == 0 && !unsent)
            || now >= self.phase_end_ns + nanoseconds(self.plan.timeout)
    }

    fn next_wake_ns(&self) -> u64 {
        match &self.source {
            Source::Open { schedule, next, end, send_at_ns } if next < end => {
                self.next_tick_ns.min(schedule.intended_ns(*next).max(*send_at_ns))
            }
            _ => self.next_tick_ns,
        }
    }
}

impl Source {
    /// One operation finished; a closed loop may start another.
    fn finished(&mut self, acknowledged: bool) {
        if let Self::Closed { credits, held, .. } = self {
            *(if acknowledged { credits } else { held }) += 1;
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("settings are bounded far below centuries")
}

const TICK_NS: u64 = 10_000_000;
const REFRESH_NS: u64 = 100_000_000;
/// Redirects of one operation that are followed without a pause.
const MOVES_AT_ONCE: u32 = 3;
/// An open loop holds this many operations outstanding at most: seconds of work for any server it can drive.
const IN_FLIGHT_MAX: usize = 200_000;
/// The requests that wait for sockets have at most this many bytes, over all connections; their buffers have at most
/// twice as many.
const BACKLOG_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(BACKLOG_BYTES_MAX >= 2 * VALUE_BYTES_MAX);
