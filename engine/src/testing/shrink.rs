//! Finds the faults of a failing seed that the failure needs, by dropping the others.
//!
//! In:     a cluster that fails.
//! Out:    the fewest faults found with which it still does.
//! Cost:   at most [`RUNS_MAX`] runs.
//! Source: Zeller and Hildebrandt 2002 (delta debugging).

use super::{
    cluster::{Cluster, Failure},
    determinism::NOT_DETERMINISTIC,
};

/// Runs spent on one failure.
const RUNS_MAX: usize = 250;

/// A failure with fewer faults.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The faults that the failure needs, by number.
    pub faults: Vec<usize>,
    /// How it fails then: by the same invariant.
    pub failure: Box<Failure>,
    /// Runs it took.
    pub runs: usize,
}

/// Drops halves of the schedule, then ever smaller parts, as long as the run still fails by the same invariant: a
/// failure by another invariant is another bug. A machine that is not deterministic needs no fault: nothing is dropped
/// then.
#[must_use]
pub fn shrink(cluster: &Cluster, failure: Box<Failure>) -> Shrunk {
    let faults = failure.faults.iter().map(|(number, _)| *number).collect();
    let mut shrunk = Shrunk { faults, failure, runs: 0 };
    if shrunk.failure.invariant == NOT_DETERMINISTIC {
        return shrunk;
    }
    let mut part = shrunk.faults.len();
    while part > 0 && shrunk.runs < RUNS_MAX {
        let mut at = 0;
        let mut dropped = false;
        while at < shrunk.faults.len() && shrunk.runs < RUNS_MAX {
            let mut fewer = shrunk.faults.clone();
            fewer.drain(at..(at + part).min(fewer.len()));
            shrunk.runs += 1;
            match cluster.clone().only(fewer.clone()).run() {
                Err(failure) if failure.invariant == shrunk.failure.invariant => {
                    shrunk.faults = fewer;
                    shrunk.failure = failure;
                    dropped = true;
                }
                _ => at += part,
            }
        }
        part = if dropped && part == 1 { 1 } else { part / 2 };
    }
    shrunk
}
