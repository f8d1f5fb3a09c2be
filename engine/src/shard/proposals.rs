//! The proposers that wait for entries: `(term, index)` to the proposer, settled yes, no or unknown.
//!
//! In:     commands with their sinks; where the log put them; what became durable and applied.
//! Out:    an [`Answer`] for each, and the time it spent in each stage.
//! Cost:   one queue per group in log order: no search, no map. A span that is durable is not looked at again before it is
//!         applied.
//! Fails:  an entry answered out of order panics.

use crate::{Applied, Completions, Outcome, ProposeError, clock::Nanos, stages::Moments};
use bytes::Bytes;
use logdrive_raft::{
    Command, Entry, EntryKind, GroupId, LogId, LogIndex, LogRange, Term, Ticks, WriteId,
};
use std::{collections::VecDeque, sync::Arc};

/// Commands on their way to a group.
pub(crate) struct Submission {
    pub(crate) group: GroupId,
    pub(crate) sink: Arc<dyn Completions>,
    /// The token of the first command; the others follow it.
    pub(crate) token: u64,
    pub(crate) commands: Commands,
    /// When it was submitted.
    pub(crate) at: Nanos,
}

impl Submission {
    /// Answers every command of it with `error`.
    pub(crate) fn refuse(self, error: &ProposeError) {
        let tokens = self.token..self.token + self.commands.cost().commands as u64;
        self.sink.complete(&mut tokens.map(|token| (token, Err(error.clone()))).collect());
    }
}

/// The part of a shard's budget that commands take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cost {
    pub(crate) commands: usize,
    pub(crate) bytes: usize,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { commands: self.commands + other.commands, bytes: self.bytes + other.bytes }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| sum + cost)
    }
}

/// One command without a list around it, or several.
pub(crate) enum Commands {
    One(Command),
    Many(Vec<Command>),
}

impl Commands {
    /// How many, and the sum of their bytes.
    pub(crate) fn cost(&self) -> Cost {
        match self {
            Self::One(command) => Cost { commands: 1, bytes: command.payload.len() },
            Self::Many(commands) => Cost {
                commands: commands.len(),
                bytes: commands.iter().map(|command| command.payload.len()).sum(),
            },
        }
    }
}

/// A command's outcome, on its way to the caller that waits for it.
pub(crate) struct Answer {
    /// `None` if the caller was told before that the outcome is unknown: then only the budget is given back.
    pub(crate) sink: Option<Arc<dyn Completions>>,
    pub(crate) token: u64,
    /// The room to give back to the budget: the command and its bytes, or nothing yet.
    pub(crate) cost: Cost,
    pub(crate) outcome: Outcome,
    /// When it passed through its stages, if it did.
    pub(crate) moments: Option<Moments>,
}

/// The proposer that is to be told of one command.
struct Waiter {
    /// `None` once it was told that the outcome is unknown. It keeps its part of the budget until the entry is settled.
    sink: Option<Arc<dyn Completions>>,
    token: u64,
    bytes: usize,
    at: Nanos,
    /// The entry it waits for; zero while pending.
    entry: LogId,
}

/// Moments of one batch's life that only the driver knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    /// When its log write was submitted.
    pub(crate) submitted: Nanos,
    /// When it was known durable.
    pub(crate) durable: Nanos,
}

/// Entries that entered the log together, and when.
struct Span {
    first: LogIndex,
    last: LogIndex,
    /// `None` until the write that carries them is handed out.
    write: Option<WriteId>,
    proposed: Nanos,
    /// The same in the shard's time, of which pauses are left out.
    proposed_at: Ticks,
    submitted: Nanos,
    durable: Nanos,
}

/// One group's waiting proposals.
#[derive(Default)]
pub(super) struct Proposals {
    /// Not in the log yet; `waiters` in the same order.
    pub(super) pending: Vec<Command>,
    pending_waiters: Vec<Waiter>,
    /// In the log, in its order.
    in_log: VecDeque<Waiter>,
    spans: VecDeque<Span>,
    /// The number of spans at the front that are durable.
    durable_spans: usize,
    /// Spans that [`Self::durable`] has looked at so far.
    #[cfg(test)]
    looked_at: usize,
}

impl Proposals {
    /// Takes commands in; they wait for [`Self::entered`] or [`Self::refuse`].
    pub(super) fn push(&mut self, submission: Submission) {
        let Submission { sink, token, commands, at, .. } = submission;
        let mut add = |sink: Arc<dyn Completions>, token, command: Command| {
            let bytes = command.payload.len();
            self.pending.push(command);
            let (sink, entry) = (Some(sink), LogId::ZERO);
            self.pending_waiters.push(Waiter { sink, token, bytes, at, entry });
        };
        match commands {
            Commands::One(command) => add(sink, token, command),
            Commands::Many(commands) => {
                for (token, command) in (token..).zip(commands) {
                    add(sink.clone(), token, command);
                }
            }
        }
    }

    /// True if someone waits for an entry up to `last`.
    pub(super) fn wants(&self, last: LogIndex) -> bool {
        self.in_log.front().is_some_and(|waiter| waiter.entry.index <= last)
    }

    /// The pending commands are in the log at `range`.
    pub(super) fn entered(&mut self, range: LogRange, now: Nanos, at: Ticks) {
        let entries = range.first.get()..=range.last.get();
        assert!(
            range.first.prev().entries_until(range.last) == self.pending_waiters.len() as u64,
            "{} commands entered the log at {entries:?}",
            self.pending_waiters.len()
        );
        for (mut waiter, index) in self.pending_waiters.drain(..).zip(entries) {
            waiter.entry = LogId { term: range.term, index: LogIndex(index) };
            self.in_log.push_back(waiter);
        }
        self.spans.push_back(Span {
            first: range.first,
            last: range.last,
            write: None,
            proposed: now,
            proposed_at: at,
            submitted: Nanos::ZERO,
            durable: Nanos::ZERO,
        });
    }

    /// The entries that entered last go to disk with `write`.
    pub(super) fn written_by(&mut self, write: WriteId) {
        for span in self.spans.iter_mut().rev().take_while(|span| span.write.is_none()) {
            span.write = Some(write);
        }
    }

    /// Writes up to `upto` are durable.
    pub(super) fn durable(&mut self, upto: WriteId, stamps: Stamps) {
        for span in self.spans.range_mut(self.durable_spans..) {
            #[cfg(test)]
            {
                self.looked_at += 1;
            }
            if span.write.is_none_or(|write| write > upto) {
                break;
            }
            span.submitted = stamps.submitted;
            span.durable = stamps.durable;
            self.durable_spans += 1;
        }
    }

    /// The pending commands did not enter the log.
    pub(super) fn refuse(&mut self, error: &ProposeError, answers: &mut Vec<Answer>) {
        self.pending.clear();
        for waiter in self.pending_waiters.drain(..) {
            answers.push(waiter.answer(Err(error.clone()), None));
        }
    }

    /// Leadership is gone. A command that is committed as it was proposed will be applied and answered
    /// as usual; the outcome of the rest is unknown. `commit` may already be a later leader's, over other entries.
    pub(super) fn leadership_lost(
        &mut self,
        commit: LogIndex,
        term_at: impl Fn(LogIndex) -> Option<Term>,
        answers: &mut Vec<Answer>,
    ) {
        let stays =
            |entry: LogId| entry.index <= commit && term_at(entry.index) == Some(entry.term);
        self.settle_unless(stays, "leadership moved before the commit", answers);
    }

    /// A client that waits for an entry proposed at `before` or earlier is told that its outcome is unknown. The entry
    /// may still be committed, so it goes on counting against the budget.
    pub(super) fn tell_overdue(&mut self, before: Ticks, answers: &mut Vec<Answer>) {
        if logdrive_raft::bug!("never_told_overdue") {
            return;
        }
        let overdue = self.spans.iter().take_while(|span| span.proposed_at <= before);
        let Some(last) = overdue.last().map(|span| span.last) else { return };
        let late = self.in_log.iter_mut().take_while(|waiter| waiter.entry.index <= last);
        for waiter in late.filter(|waiter| waiter.sink.is_some()) {
            logdrive_raft::reached!("command overdue");
            let why = "it was not committed in time";
            let (sink, token) = (waiter.sink.take(), waiter.token);
            let outcome = Err(ProposeError::OutcomeUnknown(why));
            let cost = Cost::default();
            answers.push(Answer { sink, token, cost, outcome, moments: None });
        }
    }

    /// When the oldest entry that somebody waits for was proposed.
    #[cfg(feature = "testing")]
    pub(super) fn oldest(&self) -> Option<Ticks> {
        let waiter = self.in_log.iter().find(|waiter| waiter.sink.is_some())?;
        let span = self.spans.iter().find(|span| span.last >= waiter.entry.index)?;
        Some(span.proposed_at)
    }

    /// Commands and bytes that count in the budget though their clients were told that the outcome is unknown.
    #[cfg(feature = "testing")]
    pub(super) fn told(&self) -> Cost {
        let told = self.in_log.iter().filter(|waiter| waiter.sink.is_none());
        told.map(|waiter| Cost { commands: 1, bytes: waiter.bytes }).sum()
    }

    /// Nothing will be applied here any more.
    pub(super) fn abandon(&mut self, why: &'static str, answers: &mut Vec<Answer>) {
        self.settle_unless(|_| false, why, answers);
    }

    /// Settles entries from the end of the log backwards, down to the last one that stays: all before that one stay
    /// too.
    fn settle_unless(
        &mut self,
        stays: impl Fn(LogId) -> bool,
        why: &'static str,
        answers: &mut Vec<Answer>,
    ) {
        while let Some(waiter) = self.in_log.pop_back_if(|waiter| !stays(waiter.entry)) {
            logdrive_raft::reached!("outcome unknown");
            let error = match logdrive_raft::bug!("unknown_told_as_no") {
                true => ProposeError::NotLeader { hint: None },
                false => ProposeError::OutcomeUnknown(why),
            };
            if logdrive_raft::bug!("unknown_never_told") {
                continue;
            }
            answers.push(waiter.answer(Err(error), None));
        }
        let last = self.in_log.back().map_or(LogIndex::ZERO, |waiter| waiter.entry.index);
        self.spans.retain(|span| span.first <= last);
        if let Some(span) = self.spans.back_mut() {
            span.last = span.last.min(last);
        }
        self.durable_spans = self.durable_spans.min(self.spans.len());
    }

    /// `entries` are applied; `replies` has one for each command among them.
    pub(super) fn applied(
        &mut self,
        entries: &[Entry],
        replies: &mut dyn Iterator<Item = Bytes>,
        committed: Nanos,
        applied: Nanos,
        answers: &mut Vec<Answer>,
    ) {
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Command) {
            let Some(reply) = replies.next() else { break };
            if !self.wants(entry.index) {
                continue;
            }
            let waiter = self.in_log.pop_front().expect("someone waits");
            assert!(
                waiter.entry == entry.id(),
                "applied {:?}, but {:?} is the next one waited for",
                entry.id(),
                waiter.entry
            );
            while self.spans.front().is_some_and(|span| span.last < entry.index) {
                self.spans.pop_front();
                self.durable_spans = self.durable_spans.saturating_sub(1);
            }
            let span = self.spans.front().expect("a waiter's entry has a span");
            let moments = Moments {
                entered: waiter.at,
                proposed: span.proposed,
                submitted: span.submitted,
                durable: span.durable,
                committed,
                applied,
            };
            let outcome = Ok(Applied { index: entry.index, reply });
            answers.push(waiter.answer(outcome, Some(moments)));
        }
        if self.in_log.is_empty() {
            self.spans.clear();
            self.durable_spans = 0;
        }
    }
}

impl Waiter {
    fn answer(self, outcome: Outcome, moments: Option<Moments>) -> Answer {
        Answer {
            sink: self.sink,
            token: self.token,
            cost: Cost { commands: 1, bytes: self.bytes },
            outcome,
            moments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Completions for Nobody {
        fn complete(&self, _: &mut Vec<(u64, Outcome)>) {}
    }

    /// One command enters the log at `index` and goes to disk with the write of that number.
    fn enter(proposals: &mut Proposals, index: u64) {
        let commands = Commands::One(Command { checksum: 0, payload: Bytes::new() });
        let (group, sink) = (GroupId(1), Arc::new(Nobody));
        proposals.push(Submission { group, sink, token: index, commands, at: Nanos(1) });
        proposals.pending.clear();
        let index = LogIndex(index);
        let range = LogRange { term: Term(1), first: index, last: index };
        proposals.entered(range, Nanos(index.get()), Ticks(1));
        proposals.written_by(WriteId(index.get()));
    }

    /// The log's write of this number is durable, at the moment of this number.
    fn land(proposals: &mut Proposals, write: u64) {
        proposals
            .durable(WriteId(write), Stamps { submitted: Nanos(write), durable: Nanos(write) });
    }

    /// Applies the entries from `first` to `last`. Returns the moment at which each became durable.
    fn apply(proposals: &mut Proposals, first: u64, last: u64) -> Vec<u64> {
        let entry = |index| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Command,
            checksum: 0,
            payload: Bytes::new(),
        };
        let entries: Vec<_> = (first..=last).map(entry).collect();
        let mut answers = Vec::new();
        let replies = &mut std::iter::repeat_n(Bytes::new(), entries.len());
        proposals.applied(&entries, replies, Nanos(1), Nanos(1), &mut answers);
        let moments = answers.iter().map(|answer| answer.moments.as_ref().expect("applied"));
        moments.map(|moments| moments.durable.get()).collect()
    }

    /// The bug: while a majority was slow, each finished write cost a look at every span that was not applied yet, and
    /// 100,000 spans took 5,000,000,000 looks.
    #[test]
    fn a_span_that_is_durable_is_not_looked_at_again() {
        const COMMANDS: u64 = 10_000;
        let mut proposals = Proposals::default();
        for index in 1..=COMMANDS {
            enter(&mut proposals, index);
            land(&mut proposals, index);
        }
        let each_once = usize::try_from(2 * COMMANDS).unwrap();
        assert!(proposals.looked_at <= each_once, "{} looks", proposals.looked_at);
        let durable = apply(&mut proposals, 1, COMMANDS);
        assert_eq!(durable, (1..=COMMANDS).collect::<Vec<_>>(), "each has the moment of its write");
    }

    #[test]
    fn spans_are_durable_with_their_own_write_whatever_was_applied_and_taken_back_before() {
        let mut proposals = Proposals::default();
        (1..=6).for_each(|index| enter(&mut proposals, index));
        land(&mut proposals, 3);
        assert_eq!(apply(&mut proposals, 1, 2), [3, 3]);
        land(&mut proposals, 4);
        // The entries behind 3 are taken back, durable or not, and others enter in their place.
        let mut answers = Vec::new();
        proposals.leadership_lost(LogIndex(3), |_| Some(Term(1)), &mut answers);
        assert_eq!(answers.len(), 3);
        (4..=5).for_each(|index| enter(&mut proposals, index));
        land(&mut proposals, 5);
        assert_eq!(apply(&mut proposals, 3, 5), [3, 5, 5]);
        // No proposal waits now, and the next one is not durable before its write is.
        enter(&mut proposals, 6);
        assert_eq!(apply(&mut proposals, 6, 6), [0]);
        enter(&mut proposals, 7);
        land(&mut proposals, 7);
        assert_eq!(apply(&mut proposals, 7, 7), [7]);
    }
}
