//! The rules: each question that the protocol's safety or progress hangs on, as one small function named for its rule.
//!
//! The files of the roles ask here and act on the answer. A mutation of the bug bank breaks one rule, so every
//! [`crate::bug!`] of this crate stands in this file, inside the rule that the mutation breaks.
//!
//! In:     terms, log positions, votes and messages, as the roles hold them.
//! Out:    an answer (may it be granted, does it count, up to where); only the last section changes a replica.
//! Cost:   a few comparisons; no allocation.
//! Source: paper figure 2; thesis §3.8, §6.2, §10.2.1; RULES.md for the numbers that each rule cites.

use crate::candidate::Tally;
use crate::log::Log;
use crate::raft::State;
use crate::{
    AppendReply, AppendResult, Config, Entry, Heartbeat, LogId, LogIndex, Message, NodeId,
    Outgoing, PreVote, Raft, RequestVote, Term, Ticks, WriteId,
};
use alloc::vec::Vec;

// Terms and votes (paper §5.1, §5.2, §5.4.1).

/// A message of an earlier term is refused, whatever it says (paper §5.1).
pub(crate) fn is_of_old_term(message: &Message, term: Term, current: Term) -> bool {
    let is_let_pass =
        crate::bug!("old_terms_ack_counts") && matches!(message, Message::AppendReply(_));
    term < current && !is_let_pass
}

/// A vote outlives a restart: a replica gives one vote in a term (paper §5.2; RULES.md rule 11).
pub(crate) fn restored_vote(voted_for: Option<NodeId>) -> Option<NodeId> {
    voted_for.filter(|_| !crate::bug!("vote_forgotten_on_restart"))
}

/// The vote is saved, whoever has it (RULES.md rule 11).
pub(crate) fn vote_to_save(voted_for: Option<NodeId>, own: NodeId) -> Option<NodeId> {
    voted_for.filter(|&candidate| !crate::bug!("vote_not_saved") || candidate == own)
}

impl Raft {
    /// A pre-vote is granted for a later term, to a candidate whose log is up to date, by a replica that could vote then
    /// (thesis §9.6). A resigned replica refuses: its disk is stuck, so it could not make the vote durable.
    pub(crate) fn may_grant_pre_vote(&self, m: &PreVote) -> bool {
        m.term > self.term
            && !self.is_resigned
            && self.may_vote()
            && is_up_to_date(m.last_log, &self.log)
    }

    /// A vote is granted to one candidate of a term, whose log must be up to date (paper §5.2, §5.4.1). A replica that
    /// knows the term's leader gives no first vote in that term.
    pub(crate) fn may_grant_vote(&self, candidate: NodeId, m: &RequestVote) -> bool {
        let is_free = match self.voted_for {
            Some(voted_for) => voted_for == candidate,
            None => self.leader.is_none(),
        };
        let is_free = (is_free || crate::bug!("votes_twice")) && self.may_vote();
        let granted = is_free && is_up_to_date(m.last_log, &self.log);
        if is_free && !granted && m.last_log.is_up_to_date_with(self.log.durable_id()) {
            crate::reached!("vote refused for entries not yet durable");
        }
        granted
    }

    /// A marked replica does not vote: it may have voted in this term already, or acknowledged an entry that the
    /// candidate lacks (RULES.md B6).
    fn may_vote(&self) -> bool {
        !self.is_marked() || crate::bug!("marked_replica_votes")
    }
}

/// A candidate's log is compared with the voter's log in memory, durable or not; the vote leaves when that log is
/// durable. By the durable log alone, committed entries could be lost (RULES.md rule 10): 1. We hold entry m, not yet
/// durable, and grant C, which lacks m. 2. Our write of m finishes and our acknowledgement, of the old term, leaves: the
/// old leader commits m. 3. Our vote leaves, and C leads without m.
fn is_up_to_date(candidates: LogId, log: &Log) -> bool {
    let own = if crate::bug!("vote_by_durable_log") { log.durable_id() } else { log.last() };
    candidates.is_up_to_date_with(own) || crate::bug!("vote_for_any_log")
}

/// The place, among the values of `voters` voters in ascending order, of the highest value that a majority has reached:
/// the value there has itself and all after it at or above it (paper §5.2).
#[inline]
pub(crate) fn majority_place(voters: usize) -> usize {
    if crate::bug!("half_is_a_majority") { voters / 2 } else { (voters - 1) / 2 }
}

// Appends and heartbeats, on the follower's side (paper §5.3).

/// An append is taken only if the log has the entry before it, of the same index and term (paper §5.3), or has let go of
/// the entry there, which every leader has.
#[inline]
pub(crate) fn prev_log_matches(log: &Log, prev_log: LogId) -> bool {
    let is_let_pass = crate::bug!("prev_log_by_index_only") && prev_log.index <= log.last().index;
    log.agrees_with(prev_log) || is_let_pass
}

/// The first entry that an append removes from the log. Only a conflict removes anything: a late, shorter append must
/// not take back entries that were acknowledged since (paper §5.3). `unknown` is the append's first entry that the log
/// lacks, and `match_index` is the append's end.
#[inline]
pub(crate) fn first_conflict(
    log: &Log,
    unknown: Option<&Entry>,
    match_index: LogIndex,
) -> Option<LogIndex> {
    let last = log.last().index;
    if let Some(unknown) = unknown {
        return (unknown.index <= last).then_some(unknown.index);
    }
    if match_index < last {
        crate::reached!("shorter append after a longer one");
        if crate::bug!("shorter_append_truncates") && match_index >= log.commit() {
            return Some(match_index.next());
        }
    }
    None
}

/// An append says what is committed of the entries up to its own end: behind that the log may not be the leader's
/// (paper figure 2).
#[inline]
pub(crate) fn commit_by_append(log: &Log, commit: LogIndex, match_index: LogIndex) -> LogIndex {
    commit.min(if crate::bug!("commit_past_match") { log.last().index } else { match_index })
}

/// An append is acknowledged up to its own end, which was compared, and no further (RULES.md M13).
#[inline]
pub(crate) fn acknowledged_by_append(log: &Log, match_index: LogIndex) -> LogIndex {
    if crate::bug!("ack_last_not_match") { log.last().index } else { match_index }
}

/// A heartbeat's commit index is believed if the log has the entry that the leader counts as matched. `None`: the log
/// has lost that entry (RULES.md W8).
pub(crate) fn commit_by_heartbeat(log: &Log, m: &Heartbeat) -> Option<LogIndex> {
    if crate::bug!("heartbeat_commit_unclamped") {
        return Some(m.commit.min(log.last().index));
    }
    log.agrees_with(m.matched).then_some(m.commit)
}

// Commitment and replication, on the leader's side (paper §5.3, §5.4.2).

/// A leader counts itself among the voters by its durable log only (thesis §10.2.1; RULES.md rule 13).
#[inline]
pub(crate) fn leaders_own_match(log: &Log) -> LogIndex {
    if crate::bug!("leader_counts_itself_at_once") { log.last().index } else { log.durable() }
}

/// An entry of an earlier term on a majority may still be replaced (paper figure 8), so only an entry of the leader's own
/// term, whose first entry is `term_first`, is committed by counting; it commits all before it (RULES.md M11).
#[inline]
pub(crate) fn counts_toward_commit(reached: LogIndex, term_first: LogIndex) -> bool {
    reached >= term_first || crate::bug!("earlier_term_by_counting")
}

/// A leader that hears from no majority for an election timeout leads no more, so that the replicas that still hear it
/// can elect another leader (thesis §6.2; RULES.md N2, N5).
pub(crate) fn has_lost_majority(now: Ticks, lost_at: Ticks) -> bool {
    now >= lost_at && !crate::bug!("heartbeats_after_quorum_loss")
}

/// A leader whose entries are withdrawn leads no more: it would put other entries of its term in the place of those that
/// it has sent (RULES.md B5).
pub(crate) fn withdrawal_ends_leadership() -> bool {
    !crate::bug!("withdrawn_without_the_leadership")
}

/// A heartbeat tells a peer of no commit past the peer's match: behind that the peer's log may not be the leader's
/// (paper figure 2).
pub(crate) fn commit_in_heartbeat(commit: LogIndex, matched: LogIndex) -> LogIndex {
    if crate::bug!("heartbeat_commit_unclamped") { commit } else { commit.min(matched) }
}

/// A heartbeat that says more than [`commit_in_heartbeat`] allows comes from no correct leader (RULES.md I5). Whether the
/// peer still has the matched entry is another question.
pub(crate) fn is_commit_within_match(m: &Heartbeat) -> bool {
    m.commit <= m.matched.index || crate::bug!("heartbeat_commit_unclamped")
}

/// A peer that has said that it has no room is sent no entries (RULES.md B2).
#[inline]
pub(crate) fn may_be_sent_entries(peer: NodeId, without_room: &[NodeId]) -> bool {
    !without_room.contains(&peer) || crate::bug!("full_follower_fed")
}

/// Bytes that the next append to a peer may hold, with `messages` of `bytes` in flight to it; `None` if its window is
/// full. The first append in an empty window may be any size that an append may have.
#[inline]
pub(crate) fn window_bytes(messages: usize, bytes: usize, config: &Config) -> Option<usize> {
    if messages == 0 || crate::bug!("window_never_full") {
        return Some(config.append_bytes_max);
    }
    if messages >= config.inflight_messages_max {
        return None;
    }
    let left = config.inflight_bytes_max.saturating_sub(bytes);
    (left > 0).then(|| left.min(config.append_bytes_max))
}

/// The most bytes of entries that a replica keeps in memory for its peers. Entries beyond them that are durable and
/// handed to the machine are forgotten, and a slow peer is sent them from the log (RULES.md B3).
#[inline]
pub(crate) fn tail_bytes_kept(config: &Config) -> usize {
    if crate::bug!("tail_kept_for_a_slow_peer") { usize::MAX } else { config.tail_bytes_max }
}

/// A leader's uncommitted bytes are bounded. However large, a proposal is taken by a leader that has nothing uncommitted:
/// else a proposal over the bound could never be made (RULES.md I8).
#[inline]
pub(crate) fn may_take_proposal(uncommitted: usize, bytes: usize, config: &Config) -> bool {
    let bytes_max = match crate::bug!("uncommitted_never_full") {
        true => usize::MAX,
        false => config.uncommitted_bytes_max,
    };
    uncommitted < bytes_max && (uncommitted == 0 || uncommitted + bytes <= bytes_max)
}

// The mark (RULES.md B6).

/// A marked replica is readmitted only when every other voter has stated its term (RULES.md B6): a vote that the replica
/// lost may be of any term that one of them knows.
pub(crate) fn have_all_stated(voters: usize, stated: usize) -> bool {
    stated + 1 >= voters || crate::bug!("readmitted_without_every_word")
}

// The log's base and snapshots (paper §7).

/// The log lets go of what is applied, on this disk, and kept outside the log durably; of nothing else, whatever is asked.
pub(crate) fn released_up_to(log: &Log, to: LogIndex, kept: LogIndex) -> LogIndex {
    let kept = if crate::bug!("release_past_durable") { LogIndex(u64::MAX) } else { kept };
    to.min(kept).min(log.applied()).min(log.durable())
}

/// The voters at the log's base stand beside the base: once the log begins behind the entry that made them voters, nothing
/// else says them.
pub(crate) fn voters_at_base(voters: &[NodeId]) -> Vec<NodeId> {
    if crate::bug!("release_without_membership") { Vec::new() } else { voters.to_vec() }
}

/// A log that has a snapshot's last entry keeps the entries behind it: they match the snapshot, and some may have been
/// acknowledged. Any other log is replaced whole (paper figure 13).
pub(crate) fn keeps_entries_behind(log: &Log, snapshot: LogId) -> bool {
    let is_let_pass = crate::bug!("conflicting_entry_kept") && snapshot.index < log.last().index;
    (log.contains(snapshot) || is_let_pass) && !crate::bug!("late_snapshot_cuts_newer_entries")
}

// Rules about durability (thesis §3.8, §10.2.1).

/// Vote requests, votes and acknowledgements leave only when what they say is durable (RULES.md A2, rules 10, 11).
#[inline]
pub(crate) fn may_leave_before_durable(message: &Message) -> bool {
    match message {
        Message::RequestVote(_) => crate::bug!("vote_requests_before_durable"),
        Message::VoteReply(_) => crate::bug!("vote_before_durable"),
        Message::AppendReply(AppendReply { result: AppendResult::Accepted { .. }, .. }) => {
            crate::bug!("ack_before_durable")
        }
        _ => false,
    }
}

/// The last entry that a write vouches for, now that the log was cut back to `end`: an entry that was replaced and put
/// back is another write's (RULES.md rule 14).
pub(crate) fn vouched_for_after_cut(last: LogId, end: LogId) -> LogId {
    if last.index <= end.index || crate::bug!("aba_completion") {
        return last;
    }
    crate::reached!("completion after its entry was replaced");
    end
}

/// A finished write vouches for its entries while the log has them (RULES.md rule 14), or has let go of them. One of the
/// two is so: [`vouched_for_after_cut`] sees to that.
#[inline]
pub(crate) fn vouches(log: &Log, write: WriteId, last: LogId) -> bool {
    if crate::bug!("aba_completion") {
        return log.contains(last);
    }
    assert!(log.agrees_with(last), "write {write:?} ends at {last:?}, which is not in the log");
    true
}

/// The last entry that may be applied is committed, and durable here (RULES.md rule 16).
#[inline]
pub(crate) fn appliable(commit: LogIndex, durable: LogIndex) -> LogIndex {
    if crate::bug!("apply_before_durable") { commit } else { commit.min(durable) }
}

/// A saved commit index covers only entries that are on this disk, and that nothing handed to the disk replaces: a write
/// may land in part, its hard state before its entries (RULES.md B1). The log's base is told to the disk in the same write,
/// before the hard state, or in an earlier one.
pub(crate) fn commit_to_save(log: &Log) -> LogIndex {
    match crate::bug!("commit_saved_past_its_entries") {
        true => log.commit(),
        false => log.commit().min(log.durable()).max(log.base().index),
    }
}

/// A promise of an earlier term that was not handed out yet may be untrue by the time it would leave: an acknowledged
/// entry may be replaced before it was ever written. The promise is dropped, which to the peers is a lost message
/// (RULES.md A2).
pub(crate) fn drop_promises_of_old_term(promises: &mut Vec<Outgoing>) {
    if !promises.is_empty() {
        crate::reached!("promise dropped with its term");
    }
    if !crate::bug!("promise_outlives_its_term") {
        promises.clear();
    }
}

impl Raft {
    /// A candidate's own vote counts once it is durable, and not before (RULES.md rule 11): a candidate that won with a
    /// vote that it then forgets could give it to another in the same term.
    pub(crate) fn await_own_vote(&mut self) {
        self.state = State::Candidate(Tally::default());
        if crate::bug!("own_vote_before_durable") {
            self.on_own_vote_durable();
        }
    }

    /// An installed snapshot is acknowledged when its write is durable, like entries (RULES.md rule 10): before that, a
    /// crash leaves neither the snapshot nor all of the log that it replaced.
    pub(crate) fn acknowledge_install(&mut self, leader: NodeId, match_index: LogIndex) {
        if crate::bug!("install_acknowledged_before_durable") {
            let result = AppendResult::Accepted { match_index };
            return self.say(leader, Message::AppendReply(AppendReply { term: self.term, result }));
        }
        self.acknowledge(leader, match_index);
    }

    /// A leader's heartbeat is answered by the term alone. The answer acknowledges no entry: the log's end was not
    /// compared (RULES.md M13).
    pub(crate) fn answer_leaders_heartbeat(&mut self, leader: NodeId) {
        if crate::bug!("heartbeat_acks_last") {
            let result = AppendResult::Accepted { match_index: self.log.last().index };
            self.say(leader, Message::AppendReply(AppendReply { term: self.term, result }));
        }
        self.answer_heartbeat(leader);
    }
}
