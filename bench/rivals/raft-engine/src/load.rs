//! The load both logs get: writers that each append to a group of their own and wait until it is durable.
//!
//! In:     a [`Log`], a [`Shape`], seconds.
//! Out:    a [`Sample`]: entries a second, and how long a write took its writer.
//! Cost:   a thread per writer for as long as the round lasts.
//! Fails:  with the first error of the log.
//!
//! The loop is closed: a writer has one write outstanding. What a writer waits is therefore what a proposer
//! would wait that has nothing else to do. A writer that is alone works where the log does: raft-engine's on its own
//! thread, which leads the write; this log's on the thread that owns the log, as the connections of a shard do.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// One load.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Shape {
    /// Threads, and groups.
    pub(crate) writers: usize,
    /// Entries in one write.
    pub(crate) entries: usize,
    /// Bytes in one entry.
    pub(crate) payload: usize,
}

/// A log under load.
pub(crate) trait Log: Sync {
    /// What one of several threads writes through, to a group of its own.
    fn writer(&self, group: u64, shape: Shape) -> Box<dyn Writer + Send + '_>;

    /// Runs the only writer there is on the thread that serves this log best.
    fn alone(&self, group: u64, shape: Shape, work: Work) -> io::Result<Done>;

    /// Nobody needs entries below `next[group]` any more: gives their room back.
    fn release(&mut self, next: &[u64]) -> io::Result<()>;
}

/// One group's writer.
pub(crate) trait Writer {
    /// Appends the shape's entries at `first`, and returns once they are durable.
    fn write(&mut self, first: u64) -> io::Result<()>;
}

/// A writer's loop, from the index it begins at to the one it ends at, with the times of its writes.
pub(crate) type Work = Box<dyn FnOnce(&mut dyn Writer) -> io::Result<Done> + Send>;
pub(crate) type Done = (u64, Histogram<u64>);

/// What one round measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) entries_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Runs one round. `next` is the index each group goes on at, and is moved on.
pub(crate) fn round(
    log: &dyn Log,
    shape: Shape,
    seconds: f64,
    next: &mut [u64],
) -> io::Result<Sample> {
    let mut all = histogram();
    if let ([next, ..], 1) = (&mut *next, shape.writers) {
        let first = *next;
        let work = Box::new(move |writer: &mut dyn Writer| write(writer, shape, seconds, first));
        (*next, all) = log.alone(1, shape, work)?;
        return Ok(sample(&all, shape, seconds));
    }
    let start = Barrier::new(shape.writers + 1);
    let write = |group: u64, next: &mut u64| -> io::Result<Histogram<u64>> {
        let mut writer = log.writer(group, shape);
        start.wait();
        let times;
        (*next, times) = write(&mut *writer, shape, seconds, *next)?;
        Ok(times)
    };
    std::thread::scope(|scope| -> io::Result<()> {
        let threads: Vec<_> = next[..shape.writers]
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

#[expect(clippy::disallowed_methods, reason = "a clock is what a bench is for")]
fn write(writer: &mut dyn Writer, shape: Shape, seconds: f64, first: u64) -> io::Result<Done> {
    let mut times = histogram();
    let mut next = first;
    let mut before = Instant::now();
    let warm = before + Duration::from_secs_f64(WARM_UP_SECONDS);
    let measured = warm..warm + Duration::from_secs_f64(seconds);
    while before < measured.end {
        writer.write(next)?;
        next += shape.entries as u64;
        let after = Instant::now();
        if measured.contains(&after) {
            let nanoseconds = u64::try_from((after - before).as_nanos());
            times.saturating_record(nanoseconds.map_err(io::Error::other)?);
        }
        before = after;
    }
    Ok((next, times))
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
