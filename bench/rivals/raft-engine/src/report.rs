//! The report, printed and as a file.
//!
//! In:     the rounds of both sides.
//! Out:    medians, ratios, and how far the rounds lie apart.
//! Cost:   a few dozen figures are sorted.
//! Fails:  never.

use crate::load::{Sample, Shape};
use serde::Serialize;

/// Every round of every shape.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) races: Vec<Race>,
    pub(crate) large: Vec<Large>,
}

/// One shape, both logs.
#[derive(Debug, Serialize)]
pub(crate) struct Race {
    shape: Shape,
    pub(crate) rival: Vec<Sample>,
    /// With the writers on the log's thread.
    pub(crate) ours: Vec<Sample>,
    /// With a thread for each writer, where there are several.
    pub(crate) ours_threads: Vec<Sample>,
}

/// The name that `--shape` is looked for in.
pub(crate) fn name(shape: Shape) -> String {
    format!("{}x{}x{}", shape.writers, shape.entries, shape.payload)
}

impl Race {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, rival: Vec::new(), ours: Vec::new(), ours_threads: Vec::new() }
    }

    pub(crate) fn print_head() {
        println!(
            "{:<14}{:>27}   {:>17}   {:>17}   {:>22}   {:>22}",
            "writers x", "entries/s", "p50 us", "p99 us", "entries/s, ratio", "p99, ratio"
        );
        println!(
            "{:<14}{:>13} {:>13}   {:>8} {:>8}   {:>8} {:>8}",
            "entries x B", "raft-engine", "logdrive", "theirs", "ours", "theirs", "ours"
        );
    }

    pub(crate) fn print(&self) {
        self.print_one(&name(self.shape), &self.ours);
        if !self.ours_threads.is_empty() {
            self.print_one("  by threads", &self.ours_threads);
        }
    }

    fn print_one(&self, name: &str, samples: &[Sample]) {
        let of = |samples: &[Sample], figure: fn(&Sample) -> f64| {
            median(samples.iter().map(figure).collect())
        };
        let pair = |figure| (of(&self.rival, figure), of(samples, figure));
        let (rival, ours) = pair(|sample| sample.entries_per_second);
        let (rival_p50, ours_p50) = pair(|sample| sample.p50_us);
        let (rival_p99, ours_p99) = pair(|sample| sample.p99_us);
        let ratios = |figure: fn(&Sample) -> f64| {
            spread(samples.iter().zip(&self.rival).map(|(a, b)| figure(a) / figure(b)).collect())
        };
        println!(
            "{:<14}{rival:>13.0} {ours:>13.0}   {rival_p50:>8.0} {ours_p50:>8.0}   \
             {rival_p99:>8.0} {ours_p99:>8.0}   {:>22}   {:>22}",
            name,
            ratios(|sample| sample.entries_per_second),
            ratios(|sample| sample.p99_us),
        );
    }
}

/// One size and depth, the raw disk and the log. Bytes a second.
#[derive(Debug, Serialize)]
pub(crate) struct Large {
    pub(crate) bytes: usize,
    pub(crate) depth: usize,
    pub(crate) raw: Vec<f64>,
    pub(crate) ours: Vec<f64>,
}

impl Large {
    pub(crate) fn new(bytes: usize, depth: usize) -> Self {
        Self { bytes, depth, raw: Vec::new(), ours: Vec::new() }
    }

    /// The name that `--shape` is looked for in.
    pub(crate) fn name(&self) -> String {
        format!("{}K deep {}", self.bytes >> 10, self.depth)
    }

    pub(crate) fn print_head() {
        println!("{:<14}{:>13} {:>13}   {:>22}", "large batches", "raw MB/s", "logdrive", "ratio");
    }

    pub(crate) fn print(&self) {
        println!(
            "{:<14}{:>13.0} {:>13.0}   {:>22}",
            self.name(),
            median(self.raw.clone()) / 1e6,
            median(self.ours.clone()) / 1e6,
            spread(self.ours.iter().zip(&self.raw).map(|(a, b)| a / b).collect()),
        );
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median, with the lowest and the highest.
fn spread(figures: Vec<f64>) -> String {
    let ends = figures
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), figure| (low.min(*figure), high.max(*figure)));
    format!("{:.2} ({:.2} to {:.2})", median(figures), ends.0, ends.1)
}
