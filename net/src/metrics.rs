//! The network layer's counts, and the limit that keeps it from writing a log line twice a second.
//!
//! In:     increments, one per frame or rarer event, never one per entry.
//! Out:    [`LaneStats`] per outbound lane; [`InboundStats`] for everything a node accepts.
//! Cost:   plain cells outbound (one thread); relaxed atomics inbound, where shards share one meter.
//! Fails:  never; counters wrap.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One outbound lane's counts since the start. All but `queued_bytes` and `up` only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LaneStats {
    /// True if the lane is connected.
    pub up: bool,
    /// Bytes that wait for the socket.
    pub queued_bytes: usize,
    /// Frames taken.
    pub frames: u64,
    /// Messages taken.
    pub messages: u64,
    /// Bytes the socket took.
    pub bytes: u64,
    /// Calls to write to the socket.
    pub writes: u64,
    /// Messages dropped because the lane was down.
    pub dropped_down: u64,
    /// Messages dropped because the lane was full, or that fit no frame.
    pub dropped_full: u64,
    /// Connections that came up.
    pub connects: u64,
    /// Connections that were lost after they came up.
    pub losses: u64,
    /// Attempts that did not come up.
    pub failures: u64,
    /// Of those, refusals by either end.
    pub refusals: u64,
}

/// The counts of a node's accepted connections since the start. All counts only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct InboundStats {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Of those, connections that said who they are and were let in.
    pub authenticated: u64,
    /// Peers that were refused.
    pub refused: u64,
    /// Connections that spoke something else, or nothing in time.
    pub garbage: u64,
    /// Strangers that made room for newer ones.
    pub evicted: u64,
    /// Frames delivered.
    pub frames: u64,
    /// Messages delivered.
    pub messages: u64,
    /// Bytes read from peers.
    pub bytes: u64,
    /// Connections ended by a bad frame or a bad message.
    pub bad_frames: u64,
}

/// Counts what [`InboundStats`] tells; shared by the listener and the shards.
#[derive(Debug, Default)]
pub struct InboundMeter {
    pub(crate) accepted: AtomicU64,
    pub(crate) authenticated: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) garbage: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bad_frames: AtomicU64,
}

impl InboundMeter {
    /// The counts now. Not one moment's: they are read one after the other.
    #[must_use]
    pub fn stats(&self) -> InboundStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        InboundStats {
            accepted: read(&self.accepted),
            authenticated: read(&self.authenticated),
            refused: read(&self.refused),
            garbage: read(&self.garbage),
            evicted: read(&self.evicted),
            frames: read(&self.frames),
            messages: read(&self.messages),
            bytes: read(&self.bytes),
            bad_frames: read(&self.bad_frames),
        }
    }
}

pub(crate) fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}

/// Lets one log line through per period; the rest are counted, and told with the next line.
#[derive(Debug)]
pub(crate) struct LogLimit {
    period: Duration,
    open_again: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl LogLimit {
    pub(crate) const fn new(period: Duration) -> Self {
        Self { period, open_again: Cell::new(None), suppressed: Cell::new(0) }
    }

    /// `Some(lines kept back since the last one)` if a line may be written now.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        if self.open_again.get().is_some_and(|at| now < at) {
            self.suppressed.set(self.suppressed.get() + 1);
            return None;
        }
        self.open_again.set(Some(now + self.period));
        Some(self.suppressed.replace(0))
    }
}
