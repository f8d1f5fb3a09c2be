//! The one clock from which all moments of a process are taken, and the type of its times.
//!
//! In:     the system's monotonic clock.
//! Out:    [`Nanos`] since its first reading.
//! Cost:   one system clock reading, no system call.
//! Fails:  never: a time that would not fit is the largest there is, and one below zero is zero.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// A moment of a process's clock, or the time between two moments, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Nanos(pub(crate) u64);

impl Nanos {
    /// Stands for a moment that has not come yet: every reading of the clock is later.
    pub(crate) const ZERO: Self = Self(0);
    pub(crate) const MAX: Self = Self(u64::MAX);

    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    #[inline]
    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment.
    #[inline]
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// The moment that is `time` later than this one; if both are times, their sum.
    #[inline]
    pub(crate) const fn after(self, time: Self) -> Self {
        Self(self.0.saturating_add(time.0))
    }
}

impl From<Duration> for Nanos {
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(time: Nanos) -> Self {
        Self::from_nanos(time.0)
    }
}

/// Nanoseconds since the first call, plus one: zero stays free for "not yet".
pub(crate) fn now() -> Nanos {
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    let now = Instant::now();
    let passed = u64::try_from((now - *START.get_or_init(|| now)).as_nanos());
    Nanos(1 + passed.unwrap_or(u64::MAX - 1))
}
