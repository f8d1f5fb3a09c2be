//! Holds what the clients were told against what the nodes' logs say.
//!
//! In:     a [`History`]: every write and read with its interval and outcome; the writes in the merged log, in order.
//! Out:    nothing, or every operation that cannot be explained.
//! Cost:   sorting.
//! Source: RULES.md invariants 10 and 17. Herlihy and Wing 1990: a history is linearizable if each key's is.
//!
//! The merged log settles what the clients do not know, and gives each key's writes an order. With that order a history
//! is linearizable exactly if it agrees with real time, which is checked operation by operation: the k-th write of a
//! key has rank 2k, a read that found it has rank 2k + 1, one that found nothing has rank 1. An operation that began after
//! another had ended must not have the smaller rank, and no two writes have the same.

use std::collections::{BTreeMap, HashMap};

/// All that the clients of one cluster did.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
}

/// One request. Times are nanoseconds of one clock.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) key: u32,
    pub(crate) what: What,
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// A request and its answer. Values are unique: each value names the attempt that wrote it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum What {
    /// Acknowledged: it must be in the log, once.
    Written(u64),
    /// Refused: it must not be in the log.
    Refused(u64),
    /// No answer came: it may be in the log, once, and take effect at any later time.
    Unknown(u64),
    /// A read's answer.
    Read(Option<u64>),
}

/// A write in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Logged {
    pub(crate) key: u32,
    pub(crate) value: u64,
}

/// Says everything that is wrong; an empty list is a pass. `log` has each key's writes in the order they were applied.
pub(crate) fn check(history: &History, log: &[Logged]) -> Vec<String> {
    let mut wrong = Vec::new();
    // For each value its key, and its place among the key's writes, from 1.
    let mut places: HashMap<u64, (u32, u64)> = HashMap::new();
    let mut writes: HashMap<u32, u64> = HashMap::new();
    for Logged { key, value } in log {
        let place = writes.entry(*key).or_default();
        *place += 1;
        if places.insert(*value, (*key, *place)).is_some() {
            wrong.push(format!("value {value:x} of key {key} was applied twice"));
        }
    }

    let mut sent: HashMap<u64, u32> = HashMap::new();
    let mut ranked: BTreeMap<u32, Vec<Ranked>> = BTreeMap::new();
    for operation in &history.operations {
        let Operation { key, what, began, ended } = *operation;
        let mut rank = |rank, ended| {
            ranked.entry(key).or_default().push(Ranked { rank, began, ended, operation });
        };
        match what {
            What::Written(value) | What::Refused(value) | What::Unknown(value) => {
                sent.insert(value, key);
                let place = places.get(&value).map(|(_, place)| *place);
                match (what, place) {
                    (What::Written(_), None) => {
                        wrong.push(format!("acknowledged and lost: {operation:?}"));
                    }
                    (What::Written(_), Some(place)) => rank(2 * place, ended),
                    (What::Refused(_), Some(_)) => {
                        wrong.push(format!("refused and yet applied: {operation:?}"));
                    }
                    // The write was not applied before it was sent, but maybe after everything else.
                    (What::Unknown(_), Some(place)) => rank(2 * place, u64::MAX),
                    _ => {}
                }
            }
            What::Read(None) => rank(1, ended),
            What::Read(Some(value)) => match places.get(&value) {
                Some((of, place)) if *of == key => rank(2 * place + 1, ended),
                Some(_) => wrong.push(format!("read another key's value: {operation:?}")),
                None => wrong.push(format!("read what no log holds: {operation:?}")),
            },
        }
    }
    for Logged { key, value } in log {
        match sent.get(value) {
            Some(of) if of == key => {}
            _ => wrong.push(format!("value {value:x} of key {key} was never sent")),
        }
    }
    for operations in ranked.into_values() {
        against_time(operations, &mut wrong);
    }
    wrong
}

#[derive(Clone, Copy)]
struct Ranked<'a> {
    rank: u64,
    began: u64,
    ended: u64,
    operation: &'a Operation,
}

/// Finds operations of one key that began after another had ended, and yet stand before it.
fn against_time(mut by_begin: Vec<Ranked<'_>>, wrong: &mut Vec<String>) {
    let mut by_end = by_begin.clone();
    by_begin.sort_by_key(|operation| operation.began);
    by_end.sort_by_key(|operation| operation.ended);
    let mut ended = by_end.iter().peekable();
    // Of all operations that had ended, the one with the highest rank.
    let mut last: Option<&Ranked<'_>> = None;
    for later in &by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < later.began) {
            if last.is_none_or(|last| earlier.rank > last.rank) {
                last = Some(earlier);
            }
        }
        if let Some(earlier) = last
            && earlier.rank > later.rank
        {
            wrong.push(format!(
                "{:?} began after {:?} had ended, but stands before it",
                later.operation, earlier.operation
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(what: What, began: u64, ended: u64) -> Operation {
        Operation { key: 7, what, began, ended }
    }

    fn verdict(operations: &[Operation], log: &[u64]) -> Vec<String> {
        let log: Vec<Logged> = log.iter().map(|value| Logged { key: 7, value: *value }).collect();
        check(&History { operations: operations.to_vec() }, &log)
    }

    #[test]
    fn a_linearizable_history_passes() {
        let good = [
            operation(What::Read(None), 0, 9),
            operation(What::Written(1), 1, 4),
            operation(What::Read(Some(1)), 2, 3),
            operation(What::Unknown(2), 5, 6),
            operation(What::Read(Some(1)), 7, 8),
            // The unknown write took effect long after its client gave up.
            operation(What::Read(Some(2)), 20, 21),
            operation(What::Refused(3), 22, 23),
            operation(What::Unknown(4), 24, 25),
            // Two that overlap may stand in either order.
            operation(What::Written(5), 30, 40),
            operation(What::Written(6), 30, 40),
            operation(What::Read(Some(5)), 41, 42),
        ];
        assert_eq!(verdict(&good, &[1, 2, 6, 5]), Vec::<String>::new());
    }

    #[test]
    fn histories_that_cannot_be_are_refused() {
        let (w, r, u) = (What::Written, What::Read, What::Unknown);
        for (why, operations, log) in [
            ("lost", vec![operation(w(1), 0, 1)], vec![]),
            ("applied twice", vec![operation(w(1), 0, 1)], vec![1, 1]),
            ("never sent", vec![operation(w(1), 0, 1)], vec![1, 2]),
            ("refused and yet applied", vec![operation(What::Refused(1), 0, 1)], vec![1]),
            ("read what no log holds", vec![operation(r(Some(9)), 0, 1)], vec![]),
            // Stale: an older value, or none, after a later write was acknowledged.
            (
                "stands before",
                vec![operation(w(1), 0, 1), operation(w(2), 2, 3), operation(r(Some(1)), 4, 5)],
                vec![1, 2],
            ),
            ("stands before", vec![operation(w(1), 0, 1), operation(r(None), 2, 3)], vec![1]),
            // A read goes back behind an earlier read, though the write that was read is unknown.
            (
                "stands before",
                vec![operation(u(1), 0, 1), operation(r(Some(1)), 2, 3), operation(r(None), 4, 5)],
                vec![1],
            ),
            // A value is read before it was sent.
            ("stands before", vec![operation(r(Some(1)), 0, 1), operation(u(1), 2, 3)], vec![1]),
            // Two writes stand in the log in the opposite of the order in which they were made.
            ("stands before", vec![operation(w(1), 0, 1), operation(w(2), 2, 3)], vec![2, 1]),
        ] {
            let wrong = verdict(&operations, &log);
            assert!(wrong.iter().any(|line| line.contains(why)), "{why}: {wrong:?}");
        }
        let elsewhere =
            [operation(w(1), 0, 1), Operation { key: 8, ..operation(r(Some(1)), 2, 3) }];
        assert!(verdict(&elsewhere, &[1])[0].contains("another key's value"));
    }
}
