//! The longest stretches of a thread's work, in processor time of the thread.
//!
//! In:     the moments at which a stretch of work begins and ends.
//! Out:    its processor time, if it took a millisecond at least.
//! Cost:   a reading of the wall's clock when it begins. The thread's clock is a system call: it is read at most once a
//!         millisecond, and after each stretch of a millisecond or more.
//! Fails:  never. A time is at most a millisecond too long, and never longer than the wall's.
//!
//! A machine that is busy with other processes makes every time by the wall's clock long; what a client or a peer can make
//! a thread do shows in its processor time alone.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Shorter stretches are not told of.
const TOLD_MIN: Duration = Duration::from_millis(1);

/// Measures the stretches of work of one thread, one after the other.
#[derive(Debug, Default)]
pub struct StretchMeter {
    /// When the thread's clock was read last, and what it said.
    read: Option<(Instant, Duration)>,
}

impl StretchMeter {
    /// A stretch begins now.
    #[expect(clippy::disallowed_methods, reason = "what is measured here is time")]
    pub fn begin(&mut self) -> Instant {
        let now = Instant::now();
        self.begin_at(now, processor_time);
        now
    }

    /// The stretch that began then, the last one to begin, has ended: its processor time, `None` below a millisecond.
    pub fn end(&mut self, began: Instant) -> Option<Duration> {
        self.end_at(began, began.elapsed(), processor_time)
    }

    fn begin_at(&mut self, now: Instant, processor_time: impl FnOnce() -> Duration) {
        if self.read.is_none_or(|(read_at, _)| now.saturating_duration_since(read_at) >= TOLD_MIN) {
            self.read = Some((now, processor_time()));
        }
    }

    fn end_at(
        &mut self,
        began: Instant,
        wall: Duration,
        processor_time: impl FnOnce() -> Duration,
    ) -> Option<Duration> {
        if wall < TOLD_MIN {
            return None;
        }
        let time = processor_time();
        let (_, before) = self.read.replace((began + wall, time))?;
        Some(time.saturating_sub(before).min(wall))
    }
}

/// The processor time of this thread since it began.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn a_stretch_is_told_in_processor_time_with_less_than_a_millisecond_before_it() {
        let mut meter = StretchMeter::default();
        let start = meter.begin();
        let at = |us: u32| start + us * US;
        meter.begin_at(at(10_000), || 5_000 * US);
        // A short one is not told of, and the next begins too soon for another reading.
        assert_eq!(meter.end_at(at(10_000), 900 * US, || unreachable!("too short")), None);
        meter.begin_at(at(10_999), || unreachable!("once a millisecond"));
        // It took 20 ms of the wall's time, of which the thread had a core for 4.
        let took = meter.end_at(at(10_999), 20_000 * US, || 9_500 * US);
        assert_eq!(took, Some(4_500 * US));
        // Directly behind it, from the reading at its end.
        meter.begin_at(at(31_000), || unreachable!("just read"));
        assert_eq!(meter.end_at(at(31_000), 3_000 * US, || 12_000 * US), Some(2_500 * US));
        // The work before this stretch is not counted: the wall's time bounds it.
        meter.begin_at(at(34_900), || unreachable!("just read"));
        assert_eq!(meter.end_at(at(34_900), 1_100 * US, || 14_000 * US), Some(1_100 * US));
    }

    #[test]
    fn the_thread_that_works_is_told_of_and_the_one_that_sleeps_is_not() {
        let mut meter = StretchMeter::default();
        let began = meter.begin();
        std::thread::sleep(Duration::from_millis(50));
        let slept = meter.end(began).expect("50 ms have passed");
        assert!(slept < Duration::from_millis(25), "{slept:?} of processor time asleep");
        let began = meter.begin();
        let until = processor_time() + Duration::from_millis(5);
        while processor_time() < until {}
        let worked = meter.end(began).expect("5 ms have passed");
        assert!(worked >= Duration::from_millis(5), "{worked:?} of processor time in 5 ms of it");
    }
}
