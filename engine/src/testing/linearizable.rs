//! Whether a history of registers could have happened one operation at a time.
//!
//! In:     operations with the steps they were called and answered at; an unknown one may take effect at any later
//!         moment, or never. No value is written twice, nor is 0, which a register begins with.
//! Out:    `Err`, with what contradicts what, if no order explains every answer.
//! Cost:   the square of a key's writes; nothing is searched, so no history is given up.
//! Source: Herlihy and Wing 1990 (key by key); Gibbons and Korach 1997 (zones), with swaps.
//!
//! While a register holds a value, only reads of it happen: in any order that explains the answers the write of a
//! value and its reads stand together, and a swap stands directly behind what it swapped. So every operation
//! belongs to a chain: a write or the beginning, what was swapped from it, and all reads of these. A chain
//! comes before another if any of it was answered before any of the other was called. Two that come before each other
//! are a contradiction, and there is no other: if chains come before each other in a ring, take the one of them
//! with the latest call. All of the ring come before it, and it comes before one of them.

use super::machine::Operation;
use std::collections::{BTreeMap, BTreeSet};

/// One operation of one client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) called: u64,
    /// `None` if its outcome is unknown. Refused operations are left out.
    pub(super) answer: Option<Answer>,
}

/// The answer to an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Answer {
    /// The step in which it arrived.
    pub(super) at: u64,
    pub(super) said: u64,
}

/// Checks every key of a history by itself.
pub(super) fn check(calls: &[Call]) -> Result<(), String> {
    let mut keys: BTreeMap<u8, Vec<Call>> = BTreeMap::new();
    for call in calls {
        keys.entry(call.operation.key()).or_default().push(*call);
    }
    for (key, calls) in keys {
        check_key(&calls).map_err(|why| format!("key {key} has no order: {why}"))?;
    }
    Ok(())
}

fn check_key(calls: &[Call]) -> Result<(), String> {
    let writers = writers(calls);
    let mut register = Register::default();
    for value in shown(calls, &writers)? {
        let Some(write) = writers.get(&value) else {
            register.values.insert(value, Value::default());
            continue;
        };
        register.values.insert(value, Value { write: Some(*write), reads: Vec::new() });
        if let Operation::Swap { expected, .. } = write.operation
            && let Some(other) = register.swapped.insert(expected, value)
        {
            return Err(format!("{expected} was swapped for {value} and for {other}"));
        }
    }
    for call in calls {
        if let Some(value) = call.reads() {
            register.values.get_mut(&value).expect("it is shown").reads.push(*call);
        }
    }
    let chains = register.chains()?;
    for (n, a) in chains.iter().enumerate() {
        if let Some(b) = chains[n + 1..].iter().find(|b| a.is_before(b) && b.is_before(a)) {
            return Err(format!("{a:?} and {b:?} each have something before the other"));
        }
    }
    Ok(())
}

impl Call {
    /// The value it would write.
    fn value(&self) -> Option<u64> {
        match self.operation {
            Operation::Get { .. } => None,
            Operation::Put { value, .. } | Operation::Swap { value, .. } => Some(value),
        }
    }

    /// True if its answer says that it wrote.
    fn wrote(&self) -> bool {
        match (self.operation, self.answer) {
            (Operation::Put { .. }, Some(_)) => true,
            (Operation::Swap { expected, .. }, Some(answer)) => answer.said == expected,
            _ => false,
        }
    }

    /// The value that it saw and left.
    fn reads(&self) -> Option<u64> {
        match self.operation {
            Operation::Put { .. } => None,
            Operation::Get { .. } | Operation::Swap { .. } if self.wrote() => None,
            Operation::Get { .. } | Operation::Swap { .. } => self.answer.map(|answer| answer.said),
        }
    }

    /// When it was answered at the latest.
    fn answered(&self) -> u64 {
        self.answer.map_or(u64::MAX, |answer| answer.at)
    }
}

fn writers(calls: &[Call]) -> BTreeMap<u64, Call> {
    let mut writers = BTreeMap::new();
    for call in calls {
        if let Some(value) = call.value() {
            let before = writers.insert(value, *call);
            assert!(before.is_none() && value != 0, "{value} is written twice, or is 0: {call:?}");
        }
    }
    writers
}

/// Every value that the register must have held. An unknown write whose value is not among them is left out: if an
/// order with it explains the answers, the same order without it does.
fn shown(calls: &[Call], writers: &BTreeMap<u64, Call>) -> Result<BTreeSet<u64>, String> {
    let mut shown = BTreeSet::from([0]);
    let mut open: Vec<u64> = Vec::new();
    for call in calls {
        open.extend(call.reads());
        open.extend(call.value().filter(|_| call.wrote()));
        if let (Operation::Put { .. }, Some(Answer { said: said @ 1.., .. })) =
            (call.operation, call.answer)
        {
            return Err(format!("a write is answered {said}: {call:?}"));
        }
    }
    while let Some(value) = open.pop() {
        if !shown.insert(value) {
            continue;
        }
        let Some(writer) = writers.get(&value) else {
            return Err(format!("{value} is seen, and nobody wrote it"));
        };
        if writer.answer.is_some() && !writer.wrote() {
            return Err(format!("{value} is seen, and its swap had failed: {writer:?}"));
        }
        if let Operation::Swap { expected, .. } = writer.operation {
            open.push(expected);
        }
    }
    Ok(shown)
}

/// The values that a register held.
#[derive(Default)]
struct Register {
    values: BTreeMap<u64, Value>,
    /// The value that came directly after each swapped one, by a swap.
    swapped: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct Value {
    /// `None` for the beginning.
    write: Option<Call>,
    reads: Vec<Call>,
}

/// Operations that stand together in every order.
#[derive(Debug)]
struct Chain {
    /// The value it begins with.
    #[expect(dead_code, reason = "printed")]
    first: u64,
    /// When the first of them was answered; 0 for the chain of the beginning, which was before all.
    answered: u64,
    /// When the last of them was called, from 1 on.
    called: u64,
}

impl Chain {
    fn is_before(&self, other: &Self) -> bool {
        self.answered < other.called
    }
}

impl Register {
    fn chains(&self) -> Result<Vec<Chain>, String> {
        let swapped_to: BTreeSet<u64> = self.swapped.values().copied().collect();
        let mut chains = Vec::new();
        let mut seen = 0;
        for first in self.values.keys().filter(|value| !swapped_to.contains(value)) {
            let mut chain = Chain { first: *first, answered: u64::MAX, called: 0 };
            let mut next = Some(*first);
            while let Some(value) = next {
                seen += 1;
                let held = &self.values[&value];
                match &held.write {
                    Some(write) => chain.add(std::slice::from_ref(write))?,
                    None => chain.answered = 0,
                }
                chain.add(&held.reads)?;
                next = self.swapped.get(&value).copied();
            }
            chains.push(chain);
        }
        if seen < self.values.len() {
            return Err(format!("swaps go round in a circle: {:?}", self.swapped));
        }
        Ok(chains)
    }
}

impl Chain {
    /// Adds operations that come after all before, in any order among themselves.
    fn add(&mut self, calls: &[Call]) -> Result<(), String> {
        let before = self.called;
        for call in calls {
            // Times are counted from 1: before them is the beginning.
            let (called, answered) = (call.called + 1, call.answered().saturating_add(1));
            if answered < before {
                return Err(format!("a cause of {call:?} was called after its answer"));
            }
            self.called = self.called.max(called);
            self.answered = self.answered.min(answered);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, machine::Effect};
    use std::collections::HashSet;

    fn put(value: u64, called: u64, answered: Option<u64>) -> Call {
        let operation = Operation::Put { key: 1, value };
        Call { operation, called, answer: answered.map(|at| Answer { at, said: 0 }) }
    }

    fn get(value: u64, called: u64, answered: u64) -> Call {
        let answer = Some(Answer { at: answered, said: value });
        Call { operation: Operation::Get { key: 1 }, called, answer }
    }

    fn swap(expected: u64, value: u64, was: u64, called: u64, answered: u64) -> Call {
        let operation = Operation::Swap { key: 1, expected, value };
        Call { operation, called, answer: Some(Answer { at: answered, said: was }) }
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

    #[test]
    fn an_unknown_swap_counts_only_if_its_value_is_seen() {
        let operation = Operation::Swap { key: 1, expected: 7, value: 8 };
        let unknown = Call { operation, called: 3, answer: None };
        assert_eq!(check(&[put(7, 1, Some(2)), unknown, get(8, 5, 6)]), Ok(()));
        assert_eq!(check(&[put(7, 1, Some(2)), unknown, get(7, 5, 6)]), Ok(()));
        assert_eq!(check(&[unknown, get(0, 5, 6)]), Ok(()));
        assert!(check(&[put(7, 1, Some(2)), unknown, get(8, 5, 6), get(7, 7, 8)]).is_err());
        assert!(check(&[unknown, get(8, 5, 6)]).is_err(), "nobody wrote 7");
    }

    /// Histories of up to nine operations whose answers come from a register, or from nowhere.
    fn draw(random: &mut Random) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        let mut held = vec![0];
        for n in 1..=random.between(2, 9) {
            let (key, value) = (1, 10 + n);
            let any = *random.pick(&held);
            let operation = match random.below(3) {
                0 => Operation::Get { key },
                1 => Operation::Put { key, value },
                _ => Operation::Swap { key, expected: any, value },
            };
            let register = *held.last().expect("it begins with one");
            let register = if random.once_in(4) { *random.pick(&held) } else { register };
            let Effect { after, reply } = operation.run(register);
            let called = random.between(n, n + 4);
            let at = called + random.below(6);
            let answer = (!random.once_in(4)).then_some(Answer { at, said: reply });
            calls.push(Call { operation, called, answer });
            if after != register && !random.once_in(5) {
                held.push(after);
            }
        }
        calls
    }

    #[test]
    fn the_chains_say_what_a_search_of_all_orders_says() {
        let mut verdicts = [0, 0];
        for seed in 0..20_000 {
            let calls = draw(&mut Random::new(seed));
            let found = has_an_order(&calls);
            assert_eq!(check(&calls).is_ok(), found, "seed {seed}: {calls:?}: {:?}", check(&calls));
            verdicts[usize::from(found)] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 2000), "{verdicts:?}");
    }

    #[test]
    fn long_histories_with_much_unknown_are_judged() {
        // Thousands of writes that overlap all of the others, each seen: a search has no end.
        let mut calls: Vec<Call> = (1..=1000).map(|value| put(value, 1, None)).collect();
        calls.extend((1..=1000).map(|value| get(value, 2 * value, 2 * value + 1)));
        assert_eq!(check(&calls), Ok(()));
        calls.push(get(1, 5000, 5001));
        assert!(check(&calls).is_err());
    }

    /// The definition itself (Wing and Gong 1993): depth first, at each moment, whatever was called before the earliest outstanding answer may be next.
    fn has_an_order(calls: &[Call]) -> bool {
        let mut calls = calls.to_vec();
        calls.sort_by_key(|call| call.called);
        let calls = &calls;
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
            panic!("a history of a few operations took {STEPS_MAX} steps")
        }

        /// The next operation from `from` on, in the order of calls, that may come now.
        fn step(&self, first: usize, register: u64, from: usize) -> Option<(usize, u64)> {
            let mut until = u64::MAX;
            for (call, done) in self.calls[first..].iter().zip(&self.done[first..]) {
                if call.called > until {
                    break;
                }
                if let (false, Some(answer)) = (*done, call.answer) {
                    until = until.min(answer.at);
                }
            }
            (first.max(from)..self.calls.len())
                .take_while(|at| self.calls[*at].called <= until)
                .filter(|at| !self.done[*at])
                .find_map(|at| {
                    let call = &self.calls[at];
                    let Effect { after, reply } = call.operation.run(register);
                    call.answer.is_none_or(|answer| answer.said == reply).then_some((at, after))
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

    const STEPS_MAX: usize = 4_000_000;
}
