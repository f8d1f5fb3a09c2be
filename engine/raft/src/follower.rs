//! The follower's part: a leader's appends and heartbeats are compared, taken and answered.
//!
//! In:     AppendEntries and heartbeats of this term, checked by [`Raft::is_sound`] before.
//! Out:    acknowledgements as promises, refusals and heartbeat answers at once.
//! Cost:   entries that follow the log's end are moved into it; ones it has already are compared by
//!         term only.
//! Source: paper §5.3 and figure 2; RULES.md M13 (no acknowledgement above durable), W8 (a heartbeat that names an
//!         entry which this log has lost).

use crate::raft::State;
use crate::{
    AppendEntries, AppendReply, AppendResult, Heartbeat, HeartbeatReply, LogId, LogIndex, Message,
    NodeId, Outgoing, Raft,
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
        let skips =
            crate::bug!("prev_log_by_index_only") && m.prev_log.index <= self.log.last().index;
        if !self.log.contains(m.prev_log) && !skips {
            self.refuse_append(from, m.prev_log);
            return;
        }
        let match_index = m.entries.last().map_or(m.prev_log.index, |entry| entry.index);
        let mut entries = m.entries.into_entries();
        let known = entries.iter().take_while(|entry| self.log.contains(entry.id())).count();
        if let Some(unknown) = entries.get(known) {
            // Only a conflict removes anything: a late, shorter append must not take back entries
            // that were acknowledged since.
            if unknown.index <= self.log.last().index {
                self.log.truncate(unknown.index);
            }
            if known > 0 {
                entries.drain(..known);
            }
            self.log.append(entries);
        } else if match_index < self.log.last().index {
            crate::reached!("shorter append after a longer one");
            if crate::bug!("shorter_append_truncates") && match_index >= self.log.commit() {
                self.log.truncate(match_index.next());
            }
        }
        let upto =
            if crate::bug!("commit_past_match") { self.log.last().index } else { match_index };
        self.follow_commit(m.commit.min(upto));
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
        let match_index =
            if crate::bug!("ack_last_not_match") { self.log.last().index } else { match_index };
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
        if crate::bug!("ack_before_durable") {
            return self.say(to, Message::AppendReply(AppendReply { term: self.term, result }));
        }
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
        if crate::bug!("heartbeat_commit_unclamped") {
            self.follow_commit(m.commit.min(self.log.last().index));
        } else if self.log.contains(m.matched) {
            self.follow_commit(m.commit);
        } else {
            self.on_lost_end(from);
        }
        if self.is_marked() {
            self.seek_readmission();
        }
        if crate::bug!("heartbeat_acks_last") {
            let result = AppendResult::Accepted { match_index: self.log.last().index };
            self.say(from, Message::AppendReply(AppendReply { term: self.term, result }));
        }
        self.answer_heartbeat(from);
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
