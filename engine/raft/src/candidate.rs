//! Elections: the pre-vote, the vote and the count, on both sides of the question.
//!
//! In:     a deadline that passed, (pre-)vote requests, answers to ours.
//! Out:    pre-votes and refusals at once; vote requests and votes as promises.
//! Fails:  a term that has no next one is the last: its replica campaigns no more.
//! Source: paper §5.2, §5.4.1; thesis §9.6 (pre-vote), §4.2.3 (who hears a leader does not vote).

use crate::quorum::{self, VoteResult};
use crate::raft::{State, TERM_MAX};
use crate::{Message, NodeId, PreVote, PreVoteReply, Raft, RequestVote, VoteReply};
use alloc::vec::Vec;

/// The voters that have answered, each with its answer.
#[derive(Debug, Default)]
pub(crate) struct Tally(Vec<VotersAnswer>);

#[derive(Debug)]
struct VotersAnswer {
    voter: NodeId,
    granted: bool,
}

impl Tally {
    /// The first answer counts.
    fn record(&mut self, voter: NodeId, granted: bool) {
        if self.vote_of(voter).is_none() {
            self.0.push(VotersAnswer { voter, granted });
        }
    }

    fn vote_of(&self, voter: NodeId) -> Option<bool> {
        self.0.iter().find(|answer| answer.voter == voter).map(|answer| answer.granted)
    }

    fn result(&self, voters: &[NodeId]) -> VoteResult {
        quorum::vote_result(voters, |voter| self.vote_of(voter))
    }
}

impl Raft {
    /// Asks first whether an election could be won (thesis §9.6).
    pub(crate) fn campaign(&mut self) {
        self.restart_election_timer();
        let leads = matches!(self.state, State::Leader(_));
        if leads || self.is_resigned || self.term >= TERM_MAX {
            return;
        }
        self.leader = None;
        if self.is_marked() {
            crate::reached!("marked replica does not stand");
            return self.seek_readmission();
        }
        let mut tally = Tally::default();
        // Our own answer needs no disk: nothing is promised by it.
        tally.record(self.config.id, true);
        self.state = State::PreCandidate(tally);
        let pre_vote = PreVote { term: self.term.next(), last_log: self.log.last() };
        for peer in self.peers().collect::<Vec<_>>() {
            self.say(peer, Message::PreVote(pre_vote));
        }
        self.count_votes();
    }

    /// Campaigns; or, during a campaign, asks the voters again that have not answered. A new campaign instead would
    /// drop the answers so far, and every new connection would begin one.
    pub(crate) fn campaign_or_ask_again(&mut self) {
        let last_log = self.log.last();
        let (tally, question) = match &self.state {
            State::PreCandidate(tally) => {
                (tally, Message::PreVote(PreVote { term: self.term.next(), last_log }))
            }
            // Before the own vote is durable nothing was asked yet.
            State::Candidate(tally) if tally.vote_of(self.config.id).is_some() => {
                (tally, Message::RequestVote(RequestVote { term: self.term, last_log }))
            }
            State::Candidate(_) => return,
            State::Follower | State::Leader(_) => return self.campaign(),
        };
        let is_silent = |peer: &NodeId| tally.vote_of(*peer).is_none();
        for peer in self.peers().filter(is_silent).collect::<Vec<_>>() {
            self.say(peer, question.clone());
        }
    }

    fn become_candidate(&mut self) {
        let id = self.config.id;
        self.restart_election_timer();
        self.enter_term(self.term.next(), Some(id));
        self.leader = None;
        self.await_own_vote();
        let request = RequestVote { term: self.term, last_log: self.log.last() };
        for peer in self.peers().collect::<Vec<_>>() {
            // A vote request is a promise too: it says that the sender has voted for itself.
            self.promise(peer, Message::RequestVote(request));
        }
    }

    pub(crate) fn on_own_vote_durable(&mut self) {
        let id = self.config.id;
        if let State::Candidate(tally) = &mut self.state {
            tally.record(id, true);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let voters = &self.config.voters;
        let (tally, is_pre_vote) = match &self.state {
            State::PreCandidate(tally) => (tally, true),
            State::Candidate(tally) => (tally, false),
            State::Follower | State::Leader(_) => return,
        };
        match (tally.result(voters), is_pre_vote) {
            (VoteResult::Open, _) => {}
            (VoteResult::Won, true) => self.become_candidate(),
            (VoteResult::Won, false) => self.become_leader(),
            // The election timer runs on, and starts the next try.
            (VoteResult::Lost, _) => self.become_follower(self.term, None),
        }
    }

    pub(crate) fn on_pre_vote(&mut self, from: NodeId, m: PreVote) {
        if m.term > self.term && self.hears_a_leader() {
            // No answer is no vote. (A sender behind our term is answered below, so that it learns.)
            return;
        }
        let granted = self.may_grant_pre_vote(&m);
        if !granted {
            crate::reached!("pre-vote refused");
        }
        // A refusal carries our term: else a short log of a high term and long logs of low terms
        // would refuse each other for ever (RULES.md M8).
        let term = if granted { m.term } else { self.term };
        self.say(from, Message::PreVoteReply(PreVoteReply { term, granted }));
    }

    pub(crate) fn on_pre_vote_reply(&mut self, from: NodeId, m: PreVoteReply) {
        if !m.granted && m.term > self.term {
            self.become_follower(m.term, None);
            return;
        }
        let State::PreCandidate(tally) = &mut self.state else { return };
        if m.granted && m.term != self.term.next() {
            return; // an answer to an older question
        }
        tally.record(from, m.granted);
        self.count_votes();
    }

    pub(crate) fn on_request_vote(&mut self, from: NodeId, m: RequestVote) {
        if !self.may_grant_vote(from, &m) {
            self.refuse_vote(from);
            return;
        }
        if self.voted_for.is_none() {
            self.voted_for = Some(from);
            self.is_hard_state_new = true;
        }
        self.restart_election_timer();
        let granted = VoteReply { term: self.term, granted: true };
        self.promise(from, Message::VoteReply(granted));
    }

    pub(crate) fn refuse_vote(&mut self, from: NodeId) {
        crate::reached!("vote refused");
        self.say(from, Message::VoteReply(VoteReply { term: self.term, granted: false }));
    }

    pub(crate) fn on_vote_reply(&mut self, from: NodeId, m: VoteReply) {
        if let State::Candidate(tally) = &mut self.state {
            tally.record(from, m.granted);
            self.count_votes();
        }
    }
}
