//! Whether a history of one register could have happened one operation at a time.
//!
//! In:     operations with the steps they were called and answered at; an unknown one may take effect
//!         at any later moment, or never.
//! Out:    `Err` if no order explains every answer.
//! Cost:   exponential in what overlaps, in theory; states seen before are not tried again, and an
//!         unknown write that nobody ever saw is left out.
//! Source: Herlihy and Wing 1990; Wing and Gong 1993; Lowe 2017 (states remembered); per key by
//!         Herlihy and Wing's locality.

use super::machine::Operation;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// One operation of one client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) called: u64,
    /// When it was answered and with what; `None` if its outcome is unknown. Refused ones are no calls.
    pub(super) answer: Option<(u64, u64)>,
}

/// Checks every key of a history by itself.
pub(super) fn check(calls: &[Call]) -> Result<(), String> {
    let mut keys: BTreeMap<u8, Vec<Call>> = BTreeMap::new();
    for call in calls {
        keys.entry(call.operation.key()).or_default().push(*call);
    }
    for (key, calls) in keys {
        let calls = without_unseen(&calls);
        if !is_linearizable(&calls) {
            return Err(format!("key {key} has no order of {} operations: {calls:?}", calls.len()));
        }
    }
    Ok(())
}

/// Leaves out unknown operations whose value no answer shows and no swap waits for: if an order with
/// them explains the answers, the same order without them does.
fn without_unseen(calls: &[Call]) -> Vec<Call> {
    let mut seen: BTreeSet<u64> =
        calls.iter().filter_map(|call| call.answer).map(|a| a.1).collect();
    for call in calls {
        if let Operation::Swap { expected, .. } = call.operation {
            seen.insert(expected);
        }
    }
    let shows = |call: &Call| match call.operation {
        Operation::Get { .. } => false,
        Operation::Put { value, .. } | Operation::Swap { value, .. } => seen.contains(&value),
    };
    let kept = calls.iter().filter(|call| call.answer.is_some() || shows(call));
    let mut kept: Vec<Call> = kept.copied().collect();
    kept.sort_by_key(|call| call.called);
    kept
}

/// Depth first: at each moment, whatever was called before the earliest outstanding answer may be next.
fn is_linearizable(calls: &[Call]) -> bool {
    let owed = calls.iter().filter(|call| call.answer.is_some()).count();
    let done = vec![false; calls.len()];
    Search { calls, done, owed, tried: HashSet::new(), high: 0 }.go()
}

struct Search<'a> {
    /// By when they were called.
    calls: &'a [Call],
    done: Vec<bool>,
    /// Answered ones that are not done.
    owed: usize,
    /// None from here on is done.
    high: usize,
    /// Sets of operations done, with the register after them, that lead nowhere.
    tried: HashSet<(usize, Vec<usize>, u64)>,
}

impl Search<'_> {
    fn go(&mut self) -> bool {
        // Recursion would go as deep as the history is long: keep the path by hand. All before `first`
        // are done.
        let mut path: Vec<(usize, u64, usize)> = Vec::new();
        let (mut first, mut register, mut next) = (0, 0, 0);
        for _ in 0..STEPS_MAX {
            if self.owed == 0 {
                return true;
            }
            while self.done[first] {
                first += 1;
            }
            if let Some((at, after)) = self.step(first, register, next) {
                self.set(at, true);
                path.push((at, register, first));
                (register, next) = (after, 0);
                let beyond = (first..self.high).filter(|at| self.done[*at]).collect();
                if self.tried.insert((first, beyond, register)) {
                    continue;
                }
            }
            let Some((at, before, from)) = path.pop() else { return false };
            self.set(at, false);
            (first, register, next) = (from, before, at + 1);
        }
        logdrive_raft::reached!("search for an order given up");
        true
    }

    /// The next operation from `from` on, in the order of calls, that may come now.
    fn step(&self, first: usize, register: u64, from: usize) -> Option<(usize, u64)> {
        let mut until = u64::MAX;
        for (call, done) in self.calls[first..].iter().zip(&self.done[first..]) {
            if call.called > until {
                break;
            }
            if let (false, Some((answered, _))) = (*done, call.answer) {
                until = until.min(answered);
            }
        }
        (first.max(from)..self.calls.len())
            .take_while(|at| self.calls[*at].called <= until)
            .filter(|at| !self.done[*at])
            .find_map(|at| {
                let call = &self.calls[at];
                let (after, reply) = call.operation.run(register);
                call.answer.is_none_or(|(_, said)| said == reply).then_some((at, after))
            })
    }

    fn set(&mut self, at: usize, done: bool) {
        self.done[at] = done;
        self.high = self.high.max(at + 1);
        match (self.calls[at].answer.is_some(), done) {
            (false, _) => {}
            (true, true) => self.owed -= 1,
            (true, false) => self.owed += 1,
        }
    }
}

/// A history that takes more steps is not judged.
const STEPS_MAX: usize = 400_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: u64, called: u64, answered: Option<u64>) -> Call {
        let operation = Operation::Put { key: 1, value };
        Call { operation, called, answer: answered.map(|at| (at, 0)) }
    }

    fn get(value: u64, called: u64, answered: u64) -> Call {
        Call { operation: Operation::Get { key: 1 }, called, answer: Some((answered, value)) }
    }

    fn swap(expected: u64, value: u64, was: u64, called: u64, answered: u64) -> Call {
        let operation = Operation::Swap { key: 1, expected, value };
        Call { operation, called, answer: Some((answered, was)) }
    }

    #[test]
    fn what_happens_one_after_another_is_linearizable() {
        assert_eq!(check(&[get(0, 1, 2), put(7, 3, Some(4)), get(7, 5, 6)]), Ok(()));
        assert_eq!(check(&[swap(0, 3, 0, 1, 2), swap(9, 4, 3, 3, 4), get(3, 5, 6)]), Ok(()));
    }

    #[test]
    fn a_stale_read_is_refused() {
        assert!(check(&[put(7, 1, Some(2)), get(0, 3, 4)]).is_err());
        assert!(check(&[put(7, 1, Some(2)), put(8, 3, Some(4)), get(7, 5, 6)]).is_err());
    }

    #[test]
    fn reads_that_go_back_are_refused() {
        // Both overlap the write, but the second read comes after the first one's answer.
        assert!(check(&[put(7, 1, Some(10)), get(7, 2, 3), get(0, 4, 5)]).is_err());
        assert_eq!(check(&[put(7, 1, Some(10)), get(0, 2, 3), get(7, 4, 5)]), Ok(()));
    }

    #[test]
    fn a_value_nobody_wrote_is_refused() {
        assert!(check(&[put(7, 1, Some(2)), get(9, 3, 4)]).is_err());
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_or_never() {
        assert_eq!(check(&[put(7, 1, None), get(0, 2, 3), get(7, 4, 5)]), Ok(()));
        assert_eq!(check(&[put(7, 1, None), get(0, 2, 3), get(0, 4, 5)]), Ok(()));
        assert!(check(&[put(7, 1, None), get(7, 2, 3), get(0, 4, 5)]).is_err(), "and only once");
    }

    #[test]
    fn an_acknowledged_write_that_is_lost_is_refused() {
        assert!(check(&[put(7, 1, Some(2)), swap(0, 8, 0, 3, 4)]).is_err());
    }

    #[test]
    fn two_swaps_from_one_value_cannot_both_win() {
        assert!(check(&[swap(0, 1, 0, 1, 9), swap(0, 2, 0, 1, 9)]).is_err());
        assert_eq!(check(&[swap(0, 1, 0, 1, 9), swap(0, 2, 1, 1, 9)]), Ok(()));
    }

    #[test]
    fn concurrent_operations_are_searched_not_guessed() {
        let calls: Vec<Call> = (1..=12).map(|value| put(value, 1, Some(50))).collect();
        for last in 1..=12 {
            let mut calls = calls.clone();
            calls.push(get(last, 60, 61));
            assert_eq!(check(&calls), Ok(()), "any of them may be the last");
        }
        let mut calls = calls;
        calls.extend([get(3, 60, 61), get(4, 62, 63)]);
        assert!(check(&calls).is_err());
    }
}
