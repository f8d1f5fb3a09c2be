//! The load both logs get: writers that each append to a group of their own and wait until it is durable.
//!
//! In:     a [`Log`], a [`Shape`], seconds.
//! Out:    a [`Sample`]: entries a second, and how long a write took its writer.
//! Cost:   a thread per writer for as long as the round lasts.
//! Fails:  with the first error of the log.
//!
//! The loop is closed: a writer has one write outstanding. A writer's wait is therefore that of a proposer
//! that has nothing else to do. Where writers run matters as much as the log does. A call of raft-engine blocks, so each
//! of its writers has a thread; of those that wait, one writes for all. This log reports completions, so that all writers
//! of a log can run on the thread that owns it, as the groups of a shard and the connections of their clients do:
//! [`Place::Home`]. To see the log without that advantage, it is measured with a thread for each writer, too:
//! [`Place::Threads`].

use hdrhistogram::Histogram;
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// One load.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Shape {
    /// Writers, each with a group of its own.
    pub(crate) writers: usize,
    /// Entries in one write.
    pub(crate) entries: usize,
    /// Bytes in one entry.
    pub(crate) payload: usize,
}

/// Where writers run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// A thread for each.
    Threads,
    /// Where the log serves them fastest.
    Home,
}

/// A log under load.
pub(crate) trait Log: Sync {
    /// The writer that one of several threads writes through, to a group of its own.
    fn writer(&self, group: u64, shape: Shape) -> Box<dyn Writer + Send + '_>;

    /// Runs all writers where the log serves them fastest, group *g* from `next[g - 1]` on; `None` if that is a thread
    /// for each.
    fn at_home(&self, shape: Shape, seconds: f64, next: &[u64]) -> Option<io::Result<Done>>;

    /// Entries of group *g* below `next[g - 1]` are not needed any more: gives their room back.
    fn release(&mut self, next: &[u64]) -> io::Result<()>;
}

/// One group's writer.
pub(crate) trait Writer {
    /// Appends the shape's entries at `first`, and returns once they are durable.
    fn write(&mut self, first: u64) -> io::Result<()>;
}

/// The index each writer ended at, and the times of all writes.
pub(crate) type Done = (Vec<u64>, Histogram<u64>);

/// The measurements of one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) entries_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Runs one round. `next` has the index of each group's next entry, and is moved on.
pub(crate) fn round(
    log: &dyn Log,
    place: Place,
    shape: Shape,
    seconds: f64,
    next: &mut [u64],
) -> io::Result<Sample> {
    let next = &mut next[..shape.writers];
    if place == Place::Home
        && let Some(done) = log.at_home(shape, seconds, next)
    {
        let (ends, all) = done?;
        next.copy_from_slice(&ends);
        return Ok(sample(&all, shape, seconds));
    }
    let mut all = histogram();
    let start = Barrier::new(shape.writers + 1);
    let write = |group: u64, next: &mut u64| -> io::Result<Histogram<u64>> {
        let mut writer = log.writer(group, shape);
        start.wait();
        let times;
        (*next, times) = write(&mut *writer, shape, seconds, *next)?;
        Ok(times)
    };
    std::thread::scope(|scope| -> io::Result<()> {
        let threads: Vec<_> = next
            .iter_mut()
            .enumerate()
            .map(|(at, next)| {
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || write(at as u64 + 1, next))
            })
            .collect::<io::Result<_>>()?;
        start.wait();
        for thread in threads {
            let times = thread.join().map_err(|_| io::Error::other("a writer panicked"))??;
            all.add(times).map_err(io::Error::other)?;
        }
        Ok(())
    })?;
    Ok(sample(&all, shape, seconds))
}

/// One writer's loop on a thread of its own: the index it ends at, and the times of its writes.
pub(crate) fn write(
    writer: &mut dyn Writer,
    shape: Shape,
    seconds: f64,
    first: u64,
) -> io::Result<(u64, Histogram<u64>)> {
    let mut times = Times::start(seconds);
    let mut next = first;
    let mut before = times.began;
    while times.goes_on(before) {
        writer.write(next)?;
        next += shape.entries as u64;
        before = times.note(before);
    }
    Ok((next, times.all))
}

/// The times of the writes that end after the warm-up and within the seconds measured.
pub(crate) struct Times {
    pub(crate) began: Instant,
    measured: Range<Instant>,
    pub(crate) all: Histogram<u64>,
}

#[expect(clippy::disallowed_methods, reason = "a clock is what a bench is for")]
impl Times {
    pub(crate) fn start(seconds: f64) -> Self {
        let began = Instant::now();
        let warm = began + Duration::from_secs_f64(WARM_UP_SECONDS);
        let measured = warm..warm + Duration::from_secs_f64(seconds);
        Self { began, measured, all: histogram() }
    }

    /// True if a write may still begin at `now`.
    pub(crate) fn goes_on(&self, now: Instant) -> bool {
        now < self.measured.end
    }

    /// A write that began at `before` has just ended.
    pub(crate) fn note(&mut self, before: Instant) -> Instant {
        let after = Instant::now();
        if self.measured.contains(&after) {
            self.all
                .saturating_record(u64::try_from((after - before).as_nanos()).unwrap_or(u64::MAX));
        }
        after
    }
}

fn sample(times: &Histogram<u64>, shape: Shape, seconds: f64) -> Sample {
    let microseconds = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Sample {
        entries_per_second: times.len() as f64 * shape.entries as f64 / seconds,
        p50_us: microseconds(0.5),
        p99_us: microseconds(0.99),
    }
}

/// Bytes that do not compress, from a seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        // Steele, Lea, Flood 2014 (SplitMix).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    noise.truncate(bytes);
    noise
}

/// A microsecond to a minute, to one part in a hundred.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 2).expect("valid bounds")
}

const WARM_UP_SECONDS: f64 = 0.2;
const STACK_BYTES: usize = 256 << 10;
