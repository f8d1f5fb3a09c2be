//! The mark: a replica whose log lacks what it had acknowledged, until it is readmitted.
//!
//! A disk may lose the end of a log that it had reported as durable, and show no trace of the loss (RULES.md C3, W8).
//! A vote and a term may be lost with the entries. The replica's next vote, or an acknowledgement it gave before, can
//! then lose what the group has committed. A leader that counted the replica's acknowledgements knows better: each
//! heartbeat names the last entry that its receiver has acknowledged to this leader in this term. A receiver that does
//! not have that entry has lost it.
//!
//! The rule:
//!
//! 1. Such a replica is *marked*. The mark is in its hard state, and durable before anything that follows from it.
//! 2. A marked replica takes entries and says so ([`AppendResult::Taken`](crate::AppendResult::Taken)). It does not
//!    acknowledge, vote, grant a pre-vote or stand.
//! 3. It asks every other voter for its term ([`Marked`]). A voter answers with a term that is durable
//!    ([`TermStated`]). From then on the voter, if it leads, ignores the replica's acknowledgements up to the last entry
//!    that its own log had when it answered; the first acknowledgement of a later entry counts again, for all before it.
//!    A leader that hears `Taken` ignores them likewise. Where no later entry comes, the leader writes a no-op.
//! 4. The mark is lifted when every other voter has answered since the mark or the last restart, the replica is in a
//!    term that is no lower than any of those, and its disk holds everything up to its commit index, where the entry is
//!    of that term; if the leader answered in that term, the commit index is no lower than the one in the answer. The
//!    replica counts as having voted in that term. If it knows of no vote, the vote is that leader's.
//!
//! Why it is safe. Let R be the replica, F the highest term stated.
//!
//! * *No term has two leaders by R's votes.* A candidate's term is durable before it asks for a vote, so the term of
//!   every vote that R gave before the loss is at most F, and R votes only in terms after F from then on.
//! * *No acknowledgement counts for what R lacks.* Before the loss R acknowledged entries only to leaders whose terms
//!   were durable: to voters that have stated at least that term, and that count none of them since (point 3). A
//!   voter that restarts counts nothing of the terms before.
//! * *What was committed with such an acknowledgement is on R's disk again.* Let entry e be committed like that, in a
//!   term t, so t is at most F. Let L lead the term T in which the mark is lifted; T is at least F. If T is after t,
//!   then one of the voters that elected L had acknowledged e: another one than R, or R before the loss, when it had
//!   e. So L has e before its term's first entry (paper §5.4.3), and R has all up to an entry of that term. If T is t,
//!   then L itself committed e before it answered, and R has all up to the commit index of the answer.
//!
//! The mark does not cover these cases:
//!
//! * A loss that no current leader knows of: the leader to which R acknowledged is gone, or leads no more, or is not
//!   heard before R votes. A newly elected leader knows nothing of acknowledgements to others. (If every restart marked a
//!   replica, nobody could vote after a power failure of all nodes.)
//! * A second loss that takes the mark, too, unless a leader knows of that one.
//! * A group of one: no leader can tell it.
//!
//! When several replicas of a group lost something, all of this holds as long as a majority did not. If a majority is
//! marked, the group commits nothing, rather than lose more: those marks can be lifted only if the leader had already
//! committed an entry of its term. While another voter is away for good, a marked replica stays marked.
//!
//! A leader that lies can have a good replica marked. Nothing in point 4 depends on what it claimed, so the mark heals by
//! itself, as long as every voter answers, the liar included, which can have the replica marked again at any time.
//!
//! In:     heartbeats of a leader that knows more; answers of voters.
//! Out:    the mark in the hard state; [`Marked`] and [`TermStated`] as promises, which leave when the state that they tell is durable.
//! Cost:   none for a replica that is not marked; else a question per heartbeat's time to each voter without an answer.
//! Source: RULES.md C3, W8, rule 24 (Alagappan et al. 2018, "Protocol-Aware Recovery for Consensus-Based Storage").

use crate::{LogIndex, Marked, Message, NodeId, Raft, Term, TermStated, Ticks, rules};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The knowledge that a marked replica has gained since the mark, or since its last restart.
#[derive(Debug)]
pub(crate) struct Mark {
    /// A random number in its questions and their answers: answers to an earlier mark do not count.
    name: u64,
    answers: Vec<Answer>,
    /// When it last asked.
    asked_at: Option<Ticks>,
    /// The term and the last entry that it has reported as taken to the leader of that term.
    taken: (Term, LogIndex),
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    from: NodeId,
    term: Term,
    commit: LogIndex,
}

impl Mark {
    pub(crate) fn new(name: u64) -> Self {
        let taken = (Term::ZERO, LogIndex::ZERO);
        Self { name, answers: Vec::new(), asked_at: None, taken }
    }

    fn answer_of(&self, voter: NodeId) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.from == voter)
    }
}

impl Raft {
    /// True if the log lacks entries that this replica had acknowledged; see [`Raft::status`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.mark.is_some()
    }

    /// `leader` knows of entries that this replica had on its disk, and the log does not have them.
    pub(crate) fn on_lost_end(&mut self, leader: NodeId) {
        crate::reached!("replica marked");
        if self.mark.is_none() {
            self.is_hard_state_new = true;
            self.mark = Some(Box::new(Mark::new(self.next_random())));
        }
        let mark = self.mark.as_mut().expect("it is marked");
        // The leader still counts what this replica lacks, so an earlier answer of it is void, and the question leaves
        // without waiting for a heartbeat's time. If the leader had not answered, a question is on its way already.
        let before = mark.answers.len();
        mark.answers.retain(|answer| answer.from != leader);
        if mark.answers.len() < before {
            mark.asked_at = None;
        }
    }

    /// Entries up to `match_index` are in the log, as the leader sent them.
    pub(crate) fn note_taken(&mut self, match_index: LogIndex) {
        if let Some(mark) = &mut self.mark {
            mark.taken = (self.term, match_index);
        }
    }

    /// Entries past the log's new end were taken and then withdrawn: a readmitted replica must not acknowledge them.
    pub(crate) fn note_withdrawn(&mut self) {
        let last = self.log.last().index;
        if let Some(mark) = &mut self.mark {
            mark.taken.1 = mark.taken.1.min(last);
        }
    }

    /// A marked replica asks whoever has not answered, but no more often than leaders beat, and looks whether it is
    /// readmitted.
    pub(crate) fn seek_readmission(&mut self) {
        self.lift_if_readmitted();
        let heartbeat_ticks = self.config.heartbeat_ticks;
        let Some(mark) = &mut self.mark else { return };
        if mark.asked_at.is_some_and(|at| self.now.since(at) < heartbeat_ticks) {
            return;
        }
        mark.asked_at = Some(self.now);
        let question = Marked { term: self.term, mark: mark.name, last_log: self.log.last() };
        let answered: Vec<NodeId> = mark.answers.iter().map(|answer| answer.from).collect();
        for peer in self.peers().filter(|peer| !answered.contains(peer)).collect::<Vec<_>>() {
            self.promise(peer, Message::Marked(question));
        }
    }

    /// A peer is marked. It gets the term as a promise: the answer leaves when the term is durable.
    pub(crate) fn on_marked(&mut self, from: NodeId, m: Marked) {
        self.on_marked_peer(from, m.last_log);
        let answer = TermStated { term: self.term, mark: m.mark, commit: self.log.commit() };
        self.promise(from, Message::TermStated(answer));
    }

    pub(crate) fn on_term_stated(&mut self, from: NodeId, m: TermStated) {
        if m.term > self.term {
            self.become_follower(m.term, None);
        }
        let Some(mark) = self.mark.as_mut().filter(|mark| mark.name == m.mark) else { return };
        mark.answers.retain(|answer| answer.from != from);
        mark.answers.push(Answer { from, term: m.term, commit: m.commit });
        self.lift_if_readmitted();
    }

    fn lift_if_readmitted(&mut self) {
        let Some(leader) = self.leader.filter(|leader| self.is_readmitted_under(*leader)) else {
            return;
        };
        crate::reached!("mark lifted");
        let Some(mark) = self.mark.take() else { return };
        self.voted_for = self.voted_for.or(Some(leader));
        self.is_hard_state_new = true;
        // The leader may have nothing more to send, and wait for this.
        if mark.taken.0 == self.term {
            self.acknowledge(leader, mark.taken.1);
        }
    }

    /// Rule 4.
    fn is_readmitted_under(&self, leader: NodeId) -> bool {
        let Some(mark) = &self.mark else { return false };
        let stated = self.peers().filter(|peer| mark.answer_of(*peer).is_some()).count();
        let floor = mark.answers.iter().map(|answer| answer.term).max();
        let of_leader = mark.answer_of(leader).filter(|answer| answer.term == self.term);
        let wanted = of_leader.map_or(LogIndex::ZERO, |answer| answer.commit);
        let commit = self.log.commit();
        rules::have_all_stated(self.config.voters.len(), stated)
            && floor.is_none_or(|floor| floor <= self.term)
            && commit >= wanted
            && commit <= self.log.durable()
            && self.log.term_at(commit) == Ok(self.term)
    }
}
