//! When operations are meant to start, and the clock and the timer for that.
//!
//! In:     a rate.
//! Out:    operation `i` starts at `t0 + i / rate`: an absolute schedule, which nothing that happens later can shift.
//!         An operation sent late keeps its intended time, so a stall is charged to every operation it delayed.
//! Cost:   one `timerfd_settime` per wake-up; tokio's own timers are a millisecond coarse.
//! Fails:  only if the kernel refuses a timer.
//! Source: Tene, "How NOT to measure latency" (coordinated omission).

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
};
use tokio::io::unix::AsyncFd;

pub(super) const NS_PER_S: u64 = 1_000_000_000;

/// Nanoseconds on the monotonic clock: all times of a run are read from this clock, and its timer counts on this clock.
pub(super) fn now_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds of processor time this process has used.
pub(super) fn cpu_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(ClockId::ProcessCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).expect("these clocks start at zero");
    seconds * NS_PER_S + u64::try_from(time.tv_nsec).expect("nanoseconds of a second")
}

/// Intended start times at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    start_ns: u64,
    rate_per_s: u64,
}

impl Schedule {
    pub(super) fn new(start_ns: u64, rate_per_s: u64) -> Self {
        assert!(rate_per_s > 0, "a schedule needs a rate");
        Self { start_ns, rate_per_s }
    }

    /// When operation `index` is meant to start. Each time is computed from the schedule's start, so rounding errors
    /// never add up.
    pub(super) fn intended_ns(&self, index: u64) -> u64 {
        let offset = u128::from(index) * u128::from(NS_PER_S) / u128::from(self.rate_per_s);
        self.start_ns + u64::try_from(offset).expect("a run is shorter than centuries")
    }

    /// How many operations are meant to start before `time_ns`.
    pub(super) fn count_before(&self, time_ns: u64) -> u64 {
        let elapsed = u128::from(time_ns.saturating_sub(self.start_ns));
        let count = (elapsed * u128::from(self.rate_per_s)).div_ceil(u128::from(NS_PER_S));
        u64::try_from(count).expect("a run is shorter than centuries")
    }
}

/// A timer for one absolute deadline at a time, to the microsecond.
pub(super) struct Pacer {
    timer: AsyncFd<OwnedFd>,
    armed_ns: Option<u64>,
}

impl Pacer {
    /// Must be called inside a tokio runtime with I/O.
    pub(super) fn new() -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe because a type may change its descriptor; OwnedFd never does"
        )]
        let timer = AsyncFd::with_interest(timer, tokio::io::Interest::READABLE)?;
        Ok(Self { timer, armed_ns: None })
    }

    /// Wakes the task of `context` once `deadline_ns` has passed; an earlier deadline of this pacer is replaced.
    pub(super) fn poll_arm(
        &mut self,
        context: &mut Context<'_>,
        deadline_ns: u64,
    ) -> io::Result<()> {
        // An expiry that was seen is used up. The descriptor is never read: setting the timer again clears it.
        while let Poll::Ready(ready) = self.timer.poll_read_ready(context) {
            ready?.clear_ready();
            self.armed_ns = None;
        }
        if self.armed_ns == Some(deadline_ns) {
            return Ok(());
        }
        let at = deadline_ns.max(1); // an all-zero time would disarm the timer
        let seconds = i64::try_from(at / NS_PER_S).expect("a time this machine's clock can show");
        let nanoseconds = i64::try_from(at % NS_PER_S).expect("below a second");
        rustix::time::timerfd_settime(
            self.timer.get_ref(),
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
            },
        )?;
        self.armed_ns = Some(deadline_ns);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intended_times_are_absolute_and_do_not_drift() {
        let schedule = Schedule::new(1_000, 3);
        assert_eq!(schedule.intended_ns(0), 1_000);
        assert_eq!(schedule.intended_ns(1), 1_000 + 333_333_333);
        assert_eq!(schedule.intended_ns(3_000_000_000), 1_000 + 1_000_000_000 * NS_PER_S);
    }

    #[test]
    fn every_operation_is_counted_exactly_once_at_its_time() {
        for rate in [1, 3, 7, 50_000, 999_999_937] {
            let schedule = Schedule::new(77, rate);
            for index in [0, 1, 2, 3, 1_000, 123_456] {
                let at = schedule.intended_ns(index);
                assert!(
                    schedule.count_before(at) <= index,
                    "{index} at rate {rate} is not before itself"
                );
                assert!(schedule.count_before(at + 1) > index, "{index} at rate {rate} is due");
            }
            assert_eq!(schedule.count_before(0), 0);
            assert_eq!(schedule.count_before(77 + NS_PER_S), rate);
        }
    }

    #[test]
    fn a_pacer_wakes_after_its_deadline_and_an_earlier_one_replaces_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let mut pacer = Pacer::new().unwrap();
            let start = now_ns();
            let (far, near) = (start + 3_600 * NS_PER_S, start + 2_000_000);
            let mut polls = 0;
            std::future::poll_fn(|context| {
                polls += 1;
                if now_ns() >= near {
                    return Poll::Ready(());
                }
                pacer.poll_arm(context, far).unwrap();
                pacer.poll_arm(context, near).unwrap();
                Poll::Pending
            })
            .await;
            assert!(polls >= 2 && now_ns() >= near);
        });
    }
}
