//! The follower's part: a leader's appends and heartbeats are compared, taken and answered.
//!
//! In:     AppendEntries and heartbeats of this term, checked by [`Raft::is_sound`] before.
//! Out:    acknowledgements as promises, refusals and heartbeat answers at once. An append that begins before the log's
//!         base is taken from the base on, and acknowledged up to there at least: the log matches the leader's there.
//! Cost:   entries that follow the log's end are moved into it; ones it has already are compared by
//!         term only.
//! Source: paper §5.3 and figure 2; RULES.md M13 (no acknowledgement above durable), W8 (a heartbeat that names an
//!         entry which this log has lost).

use crate::raft::State;
use crate::{
    AppendEntries, AppendReply, AppendResult, Heartbeat, HeartbeatReply, LogId, LogIndex, Message,
    NodeId, Outgoing, Raft, rules,
};

impl Raft {
    /// `from` leads this term.
    pub(crate) fn follow(&mut self, from: NodeId) {
        assert!(!matches!(self.state, State::Leader(_)), "{from:?} leads our own {:?}", self.term);
        if !matches!(self.state, State::Follower) {
            self.become_follower(self.term, Some(from));
        }
        self.leader = Some(from);
        self.leader_heard_at = self.now;
        self.restart_election_timer();
    }

    pub(crate) fn on_append_entries(&mut self, from: NodeId, m: AppendEntries) {
        if !rules::prev_log_matches(&self.log, m.prev_log) {
            self.refuse_append(from, m.prev_log);
            return;
        }
        let end = m.entries.last().map_or(m.prev_log.index, |entry| entry.index);
        let match_index = end.max(self.log.base().index);
        let mut entries = m.entries.into_entries();
        let known = entries.iter().take_while(|entry| self.log.agrees_with(entry.id())).count();
        if let Some(from) = rules::first_conflict(&self.log, entries.get(known), match_index) {
            self.log.truncate(from);
        }
        if known > 0 {
            entries.drain(..known);
        }
        self.log.append(entries);
        self.follow_commit(rules::commit_by_append(&self.log, m.commit, match_index));
        self.acknowledge(from, match_index);
        if self.is_marked() {
            self.note_taken(match_index);
            self.seek_readmission();
        }
    }

    /// Also for an append of nothing, this waits for the newest write: the entries it acknowledges
    /// may not be durable yet (RULES.md M13).
    pub(crate) fn acknowledge(&mut self, to: NodeId, match_index: LogIndex) {
        if self.is_marked() {
            let result = AppendResult::Taken { match_index };
            return self.promise(to, Message::AppendReply(AppendReply { term: self.term, result }));
        }
        let match_index = rules::acknowledged_by_append(&self.log, match_index);
        // A round's acknowledgements are one: the highest says what the others say. (Within a term
        // what was matched stays matched; at a change of term the promises are dropped.)
        if let Some(Outgoing { to: before, message: Message::AppendReply(reply) }) =
            self.promises.last_mut()
            && let AppendResult::Accepted { match_index: acknowledged } = &mut reply.result
            && *before == to
        {
            crate::reached!("acknowledgement merged");
            *acknowledged = match_index.max(*acknowledged);
            return;
        }
        let result = AppendResult::Accepted { match_index };
        self.promise(to, Message::AppendReply(AppendReply { term: self.term, result }));
    }

    /// A refusal is no promise: the leader only moves its guess by the hint, and counts nothing.
    pub(crate) fn refuse_append(&mut self, to: NodeId, prev_log: LogId) {
        crate::reached!("append refused");
        let before = prev_log.index.prev();
        let hint = self.log.last_at_most(before, prev_log.term);
        let result = AppendResult::Rejected { rejected: prev_log.index, hint };
        self.say(to, Message::AppendReply(AppendReply { term: self.term, result }));
    }

    pub(crate) fn on_heartbeat(&mut self, from: NodeId, m: Heartbeat) {
        match rules::commit_by_heartbeat(&self.log, &m) {
            Some(commit) => self.follow_commit(commit),
            None => self.on_lost_end(from),
        }
        if self.is_marked() {
            self.seek_readmission();
        }
        self.answer_leaders_heartbeat(from);
    }

    /// No promise, though the term may not be durable yet: it says that no vote of a later term has
    /// left us, which is true whatever we forget.
    pub(crate) fn answer_heartbeat(&mut self, to: NodeId) {
        self.say(to, Message::HeartbeatReply(HeartbeatReply { term: self.term }));
    }

    fn follow_commit(&mut self, commit: LogIndex) {
        if commit > self.log.commit() {
            self.log.commit_to(commit);
        }
    }
}
