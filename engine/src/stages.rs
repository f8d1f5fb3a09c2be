//! Per-stage latency histograms of a proposal: where its time went, from the inbox to the reply.
//!
//! In:     the moments of each proposal, ns of one clock.
//! Out:    one hdrhistogram per stage; the stages of a proposal add up to its total.
//! Cost:   a comparison per stage and proposal, a histogram update where its time is not that of the proposal before;
//!         recorded per thread, merged when read.
//! Fails:  never; times over 100 s count as 100 s.

use crate::clock::Nanos;
use hdrhistogram::Histogram;

/// Percentiles of one stage of a proposal's time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StageSummary {
    /// `inbox`, `log_wait`, `write`, `peer`, `apply`, `reply` or `total`.
    pub name: &'static str,
    /// Proposals measured.
    pub count: u64,
    /// Mean, µs.
    pub mean_us: f64,
    /// Median, µs.
    pub p50_us: f64,
    /// 99th percentile, µs.
    pub p99_us: f64,
    /// Largest, µs.
    pub max_us: f64,
}

/// Stage names in the order a proposal goes through them.
pub(crate) const STAGES: [&str; 7] =
    ["inbox", "log_wait", "write", "peer", "apply", "reply", "total"];

const NS_MAX: u64 = 100_000_000_000;

/// The moments at which one proposal passed from stage to stage. [`Nanos::ZERO`]: it was not seen to pass, or not yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    /// Submitted by the caller.
    pub(crate) entered: Nanos,
    /// Appended to the group's log in memory.
    pub(crate) proposed: Nanos,
    /// Its log write was submitted.
    pub(crate) submitted: Nanos,
    /// Its log write was durable here.
    pub(crate) durable: Nanos,
    /// Known committed.
    pub(crate) committed: Nanos,
    /// The machine has applied it.
    pub(crate) applied: Nanos,
}

impl Moments {
    /// The time it spent in each stage and in all, in the order of [`STAGES`]. A quorum may commit before this node's own
    /// write is durable: a stage that ended after the commit is cut there.
    fn times(&self, replied: Nanos) -> [Nanos; STAGES.len()] {
        let ends = [
            self.proposed,
            or(self.submitted, self.committed).min(self.committed),
            or(self.durable, self.committed).min(self.committed),
            self.committed,
            self.applied,
            replied,
        ];
        let mut times = [Nanos::ZERO; STAGES.len()];
        let mut at = self.entered;
        for (time, end) in times.iter_mut().zip(ends) {
            let end = end.max(at);
            *time = end.since(at);
            at = end;
        }
        times[STAGES.len() - 1] = at.since(self.entered);
        times
    }
}

/// One thread's histograms. They have no memory before the first record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages {
    histograms: Vec<Histogram<u64>>,
}

impl Stages {
    fn histograms(&mut self) -> &mut [Histogram<u64>] {
        if self.histograms.is_empty() {
            let histogram =
                Histogram::new_with_bounds(1, NS_MAX, 2).expect("constant bounds are valid");
            self.histograms = vec![histogram; STAGES.len()];
        }
        &mut self.histograms
    }

    /// Records proposals whose answers leave at `replied`. Those of one log write share most of their moments, so equal
    /// times that follow one another are one update.
    pub(crate) fn record<'a>(&mut self, all: impl Iterator<Item = &'a Moments>, replied: Nanos) {
        let mut all = all.peekable();
        if all.peek().is_none() {
            return;
        }
        let histograms = self.histograms();
        let mut runs = [Run::default(); STAGES.len()];
        for moments in all {
            for (at, time) in moments.times(replied).into_iter().enumerate() {
                let run = &mut runs[at];
                if time != run.time {
                    if run.count > 0 {
                        histograms[at].saturating_record_n(run.time.get(), run.count);
                    }
                    *run = Run { time, count: 0 };
                }
                run.count += 1;
            }
        }
        for (histogram, run) in histograms.iter_mut().zip(runs) {
            histogram.saturating_record_n(run.time.get(), run.count);
        }
    }

    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.histograms().iter_mut().zip(&other.histograms) {
            mine.add(theirs).expect("same bounds");
        }
    }

    pub(crate) fn reset(&mut self) {
        self.histograms.iter_mut().for_each(Histogram::reset);
    }

    pub(crate) fn summaries(&mut self) -> Vec<StageSummary> {
        let us = |ns: u64| ns as f64 / 1e3;
        STAGES
            .iter()
            .zip(self.histograms())
            .map(|(name, histogram)| StageSummary {
                name,
                count: histogram.len(),
                mean_us: histogram.mean() / 1e3,
                p50_us: us(histogram.value_at_quantile(0.5)),
                p99_us: us(histogram.value_at_quantile(0.99)),
                max_us: us(histogram.max()),
            })
            .collect()
    }
}

/// Proposals in a row that spent the same time in a stage.
#[derive(Clone, Copy, Default)]
struct Run {
    time: Nanos,
    count: u64,
}

fn or(moment: Nanos, other: Nanos) -> Nanos {
    if moment == Nanos::ZERO { other } else { moment }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_to_the_total() {
        let mut stages = Stages::default();
        let moments = Moments {
            entered: Nanos(1_000),
            proposed: Nanos(1_100),
            submitted: Nanos(1_300),
            durable: Nanos(1_900),
            committed: Nanos(2_000),
            applied: Nanos(2_050),
        };
        stages.record([moments].iter(), Nanos(2_075));
        let means: Vec<f64> = stages.summaries().iter().map(|stage| stage.mean_us).collect();
        let (total, parts) = means.split_last().unwrap();
        assert!((parts.iter().sum::<f64>() - total).abs() < 0.01 * total, "{means:?}");
    }

    #[test]
    fn equal_times_in_a_row_are_counted_each() {
        let moments = |entered, applied| Moments {
            entered: Nanos(entered),
            proposed: Nanos(1_100),
            submitted: Nanos(1_300),
            durable: Nanos(1_900),
            committed: Nanos(2_000),
            applied: Nanos(applied),
        };
        let all = [(1_000, 2_100), (1_000, 2_100), (1_050, 2_100), (1_000, 2_200), (1_100, 2_200)]
            .map(|(entered, applied)| moments(entered, applied));
        let (mut together, mut alone) = (Stages::default(), Stages::default());
        together.record(all.iter(), Nanos(2_300));
        all.iter().for_each(|moments| alone.record(std::iter::once(moments), Nanos(2_300)));
        assert_eq!(together.summaries(), alone.summaries());
        assert!(together.summaries().iter().all(|stage| stage.count == 5));
        let mut none = Stages::default();
        none.record(std::iter::empty(), Nanos(2_300));
        assert!(none.histograms.is_empty(), "nothing is recorded, and no memory taken");
    }

    #[test]
    fn a_commit_before_the_own_write_ends_the_write_stage() {
        let mut stages = Stages::default();
        let moments = Moments {
            entered: Nanos(1_000),
            proposed: Nanos(1_000),
            submitted: Nanos(0),
            durable: Nanos(0),
            committed: Nanos(5_000),
            applied: Nanos(5_000),
        };
        stages.record([moments].iter(), Nanos(5_000));
        let summaries = stages.summaries();
        let by_name = |name| summaries.iter().find(|s| s.name == name).unwrap().mean_us;
        assert!(by_name("log_wait") > 3.9 && by_name("peer") < 0.01);
    }
}
