//! The one clock that all moments of a process are taken from.
//!
//! In:     the system's monotonic clock.
//! Out:    nanoseconds since its first reading.
//! Cost:   one system clock reading, no system call.
//! Fails:  never.

use std::{sync::OnceLock, time::Instant};

/// Nanoseconds since the first call, plus one: zero stays free for "not yet".
pub(crate) fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    let now = Instant::now();
    1 + u64::try_from((now - *START.get_or_init(|| now)).as_nanos()).unwrap_or(u64::MAX - 1)
}
