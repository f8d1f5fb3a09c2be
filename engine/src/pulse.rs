//! Signs of life: of a shard's thread, of the changes to a node's file of openings, and how long an answer has been
//! owed.
//!
//! In:     a beat per turn; the answers of a disk, counted; how long turns took; changes of the file.
//! Out:    whether the shard has stalled; a silence in nanoseconds; the longest turn.
//! Cost:   four relaxed stores a turn.
//! Fails:  never.
//! Source: RULES.md rule 18, D3-D5.

use crate::clock::Nanos;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// How long somebody has owed an answer, as one observer saw it. Between two looks at most `look_max` counts, so
/// that a process that was paused hears the answer before it judges (RULES.md D4, D5).
#[derive(Debug)]
pub(crate) struct Silence {
    look_max: Nanos,
    looked_at: Nanos,
    heard: u64,
    time: Nanos,
}

impl Silence {
    /// A silence that is compared with a limit. Between two looks at most an eighth of the limit counts, or twice the
    /// distance of two looks if that is more: if less than that distance counted, the silence would be counted too
    /// slowly.
    pub(crate) fn new(limit: Nanos, distance: Nanos) -> Self {
        let look_max = Nanos((limit.get() / 8).max(2 * distance.get()).max(1));
        Self { look_max, looked_at: Nanos::ZERO, heard: 0, time: Nanos::ZERO }
    }

    /// `heard` counts the answers so far; `owed` says that another answer is due. Returns the silence.
    pub(crate) fn look(&mut self, now: Nanos, owed: bool, heard: u64) -> Nanos {
        let passed = now.since(self.looked_at).min(self.look_max);
        self.looked_at = now;
        self.time = if owed && heard == self.heard { self.time.after(passed) } else { Nanos::ZERO };
        self.heard = heard;
        self.time
    }

    /// The silence at the last look.
    pub(crate) fn time(&self) -> Nanos {
        self.time
    }
}

/// A shard thread's signs of life. Each field stands alone, so no order is needed among them.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Turns taken; none before the log is open.
    turns: AtomicU64,
    /// [`logdrive_wal::Wal::disk_answers`].
    answers: AtomicU64,
    /// It has more to finish.
    owed: AtomicBool,
    /// The silence is over two election timeouts.
    stalled: AtomicBool,
    /// The thread has ended.
    ended: AtomicBool,
    /// The processor time of the longest turn, ns.
    longest_turn_ns: AtomicU64,
}

impl Pulse {
    /// A turn is over.
    pub(crate) fn beat(&self, answers: u64, owed: bool, stalled: bool) {
        self.answers.store(answers, Ordering::Relaxed);
        self.owed.store(owed, Ordering::Relaxed);
        self.stalled.store(stalled, Ordering::Relaxed);
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// A turn has taken so much processor time: told of those that are long.
    pub(crate) fn took(&self, time: Duration) {
        self.longest_turn_ns.fetch_max(Nanos::from(time).get(), Ordering::Relaxed);
    }

    /// The processor time of the longest turn since [`Self::forget_turns`]; zero if none took a millisecond.
    pub(crate) fn longest_turn(&self) -> Duration {
        Duration::from_nanos(self.longest_turn_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn forget_turns(&self) {
        self.longest_turn_ns.store(0, Ordering::Relaxed);
    }

    /// The thread ends: nobody need watch it.
    pub(crate) fn end(&self) {
        self.stalled.store(false, Ordering::Relaxed);
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// The watchdog has lost patience with the shard, whose thread cannot say so itself.
    pub(crate) fn set_stalled(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// Turns taken.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Answers of the disk so far.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// The disk owes another answer.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed)
    }

    /// The thread has begun to take turns, and has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.turns() > 0 && !self.ended.load(Ordering::Relaxed)
    }
}

/// The changes of the file that says what a node and its peers know of each other. Peers whose processes this node has
/// not met wait for such a change, and so does each later change.
#[derive(Debug, Default)]
pub(crate) struct Saves {
    file: PathBuf,
    begun: AtomicU64,
    done: AtomicU64,
}

impl Saves {
    pub(crate) fn of(file: PathBuf) -> Self {
        Self { file, ..Self::default() }
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Makes a change by calling `save`, which waits for the disk.
    pub(crate) fn run<T>(&self, save: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let saved = save();
        self.done.fetch_add(1, Ordering::Relaxed);
        saved
    }

    /// Changes that ended, well or not.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// True if a change has begun and has not ended.
    pub(crate) fn is_owed(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != self.done()
    }
}

/// How long a silence may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallLimits {
    pub(crate) warn: Nanos,
    pub(crate) resign: Nanos,
    pub(crate) fatal: Nanos,
}

impl StallLimits {
    pub(crate) fn new(warn: Duration, resign: Duration, fatal: Option<Duration>) -> Self {
        let fatal = fatal.map_or(Nanos::MAX, Nanos::from);
        Self { warn: warn.into(), resign: resign.into(), fatal }
    }

    pub(crate) fn least(&self) -> Nanos {
        self.warn.min(self.resign)
    }

    /// Between two looks of the watchdog.
    pub(crate) fn look_distance(&self) -> Nanos {
        Nanos(self.least().get() / 16).clamp(Nanos::from_millis(1), Nanos::from_millis(100))
    }
}
