//! Leading: proposals taken, acknowledgements counted, leadership given up.
//!
//! In:     proposals, answers of peers, own durable writes, ticks.
//! Out:    a longer log, a higher commit index; `replication.rs` says the rest.
//! Fails:  without word from a majority for an election timeout, steps down and is silent.
//! Source: paper §5.3, §5.4.2, §8 (the no-op); thesis §6.2 (a leader without a majority steps down),
//!         §10.2.1 (its own disk is one vote among the others').

use crate::progress::{Pace, Progress};
use crate::quorum;
use crate::raft::State;
use crate::{
    AppendReply, AppendResult, Command, LogId, LogIndex, LogRange, NodeId, ProposeError, Raft,
    Ticks, rules,
};
use alloc::vec::Vec;

/// The state that only a leader has.
#[derive(Debug)]
pub(crate) struct Leader {
    /// All voters but this one.
    pub(crate) peers: Vec<Progress>,
    /// The no-op this term began with. Only entries from here on are committed by counting.
    term_first: LogIndex,
    /// Bytes of entries in memory that are not committed.
    uncommitted_bytes: usize,
    /// A readmitted replica has an entry that cannot count by itself: a no-op behind it is due with the next heartbeat.
    noop_owed: bool,
    /// No heartbeat is due before this.
    heartbeat_at: Ticks,
    /// The majority is not lost before this.
    quorum_check_at: Ticks,
}

impl Leader {
    pub(crate) fn deadline(&self) -> Ticks {
        self.heartbeat_at.min(self.quorum_check_at)
    }

    pub(crate) fn peer(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// The last entry that every peer in [`Pace::Replicate`] has.
    pub(crate) fn matched(&self) -> LogIndex {
        (self.peers.iter())
            .filter(|peer| peer.pace == Pace::Replicate)
            .map(Progress::match_index)
            .min()
            .unwrap_or(LogIndex(u64::MAX))
    }
}

impl Raft {
    pub(crate) fn become_leader(&mut self) {
        assert!(
            self.voted_for == Some(self.config.id),
            "{:?} leads, having voted for {:?}",
            self.config.id,
            self.voted_for
        );
        let last = self.log.last().index;
        let now = self.now;
        let is_alone = self.config.voters.len() == 1;
        let heartbeat_ticks = self.config.heartbeat_ticks;
        self.log.append_noop(self.term);
        let first = self.log.commit().next();
        let uncommitted_bytes = self.log.bytes_in_memory(first, last.next());
        let leader = Leader {
            peers: self.peers().map(|peer| Progress::new(peer, last, now)).collect(),
            term_first: last.next(),
            uncommitted_bytes,
            noop_owed: false,
            heartbeat_at: if is_alone { Ticks(u64::MAX) } else { next_beat(now, heartbeat_ticks) },
            quorum_check_at: match is_alone {
                true => Ticks(u64::MAX),
                false => now.after(self.config.election_ticks),
            },
        };
        self.state = State::Leader(leader);
        self.leader = Some(self.config.id);
    }

    pub(crate) fn on_propose(
        &mut self,
        commands: &mut Vec<Command>,
    ) -> Result<LogRange, ProposeError> {
        let State::Leader(leader) = &mut self.state else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        let bytes: usize = commands
            .iter()
            .map(|command| command.payload.len() + crate::ENTRY_OVERHEAD_BYTES)
            .sum();
        if !rules::may_take_proposal(leader.uncommitted_bytes, bytes, &self.config) {
            return Err(ProposeError::Full);
        }
        leader.uncommitted_bytes += bytes;
        Ok(self.log.append_commands(self.term, commands))
    }

    /// No correct replica acknowledges an entry past this leader's log, or refuses an append that was never sent.
    pub(crate) fn is_sound_append_reply(&self, m: &AppendReply) -> bool {
        match m.result {
            AppendResult::Accepted { match_index } | AppendResult::Taken { match_index } => {
                m.term <= self.term && (m.term < self.term || match_index <= self.log.last().index)
            }
            AppendResult::Rejected { rejected, .. } => {
                m.term != self.term || rejected <= self.log.last().index
            }
        }
    }

    /// True if `result`, were it an answer to this term, could commit something of it.
    pub(crate) fn would_count(&self, result: AppendResult) -> bool {
        match (&self.state, result) {
            (State::Leader(leader), AppendResult::Accepted { match_index }) => {
                match_index >= leader.term_first
            }
            _ => false,
        }
    }

    pub(crate) fn on_append_reply(&mut self, from: NodeId, result: AppendResult) {
        let State::Leader(leader) = &mut self.state else { return };
        let now = self.now;
        let Some(peer) = leader.peer(from) else { return };
        peer.heard_at = now;
        match result {
            AppendResult::Accepted { match_index } => {
                let before = peer.counted();
                peer.on_accepted(match_index);
                let counted = peer.counted();
                if counted > before {
                    self.advance_commit(counted);
                } else {
                    leader.noop_owed |= counted < match_index;
                }
            }
            AppendResult::Taken { match_index } => {
                peer.on_marked(self.log.last().index);
                peer.on_taken(match_index);
            }
            AppendResult::Rejected { rejected, hint } => {
                if peer.is_news(rejected) {
                    // Ours may have a lower term there than the peer's: skip what cannot agree.
                    let meeting = self.log.last_at_most(hint.index, hint.term);
                    peer.on_rejected(rejected, meeting.index);
                    let base = self.log.base().index;
                    if peer.next_index() <= base {
                        peer.need_snapshot(base);
                    }
                }
                // Else it is late, or the peer has lost what it acknowledged. The peer can tell, by the next heartbeat:
                // told at once, it would answer and refuse again as fast as messages go, until its mark is durable.
            }
        }
    }

    /// Entries at which a replica was marked count with the next one that it acknowledges once it is readmitted. If none
    /// has come when a heartbeat is due, it is a no-op: no answer of a peer makes the log longer at once.
    fn append_owed_noop(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        let last = self.log.last().index;
        let is_uncounted = |peer: &Progress| peer.match_index() == last && peer.counted() < last;
        if core::mem::take(&mut leader.noop_owed)
            && last > self.log.commit()
            && leader.peers.iter().any(is_uncounted)
        {
            crate::reached!("no-op for a readmitted replica");
            self.log.append_noop(self.term);
            leader.uncommitted_bytes += self.log.bytes_in_memory(last.next(), last.next());
        }
    }

    /// `from` lacks entries that it acknowledged. None of its acknowledgements up to now counts any more.
    pub(crate) fn on_marked_peer(&mut self, from: NodeId, last_log: LogId) {
        let State::Leader(leader) = &mut self.state else { return };
        let Some(peer) = leader.peer(from) else { return };
        let meeting = self.log.last_at_most(last_log.index, last_log.term);
        peer.on_marked(self.log.last().index);
        peer.on_lost(meeting.index);
    }

    pub(crate) fn on_heartbeat_reply(&mut self, from: NodeId) {
        let State::Leader(leader) = &mut self.state else { return };
        let now = self.now;
        let heartbeat_ticks = self.config.heartbeat_ticks;
        let commit = self.log.commit();
        let Some(peer) = leader.peer(from) else { return };
        peer.heard_at = now;
        peer.resume();
        // Nothing was appended for a while, the peer lives, and yet it has not acknowledged all it
        // was sent. If the last append was lost nothing else would ever tell.
        let is_silent = now.since(peer.appended_at) >= heartbeat_ticks;
        // Or what it has does not count, and the answer that would have said that it does again was lost.
        let is_uncounted = peer.counted() < peer.match_index() && peer.match_index() > commit;
        if peer.pace == Pace::Replicate && (!peer.is_window_empty() || is_uncounted) && is_silent {
            peer.inquiry_owed = true;
        }
    }

    /// Entries on their way to a peer without room are lost: they are sent again once the peer has room, and not before.
    pub(crate) fn on_room(&mut self, id: NodeId, has_room: bool) {
        self.without_room.retain(|peer| *peer != id);
        if has_room || !self.config.voters.contains(&id) {
            return;
        }
        self.without_room.push(id);
        if let State::Leader(leader) = &mut self.state
            && let Some(peer) = leader.peer(id)
        {
            peer.hold_back();
        }
    }

    pub(crate) fn on_transfer_ended(&mut self, id: NodeId) {
        if let State::Leader(leader) = &mut self.state
            && let Some(peer) = leader.peer(id)
        {
            peer.on_transfer_ended();
        }
    }

    pub(crate) fn on_unreachable(&mut self, id: NodeId) {
        if let State::Leader(leader) = &mut self.state
            && let Some(peer) = leader.peer(id)
        {
            peer.on_unreachable();
        }
    }

    pub(crate) fn on_leader_tick(&mut self) {
        let now = self.now;
        let State::Leader(leader) = &self.state else { return };
        if now >= leader.quorum_check_at {
            let lost_at = self.quorum_lost_at();
            if rules::has_lost_majority(now, lost_at) {
                crate::reached!("leader lost its majority");
                self.become_follower(self.term, None);
                return;
            }
            if let State::Leader(leader) = &mut self.state {
                leader.quorum_check_at = lost_at;
            }
        }
        let heartbeat_ticks = self.config.heartbeat_ticks;
        let State::Leader(leader) = &mut self.state else { return };
        if now < leader.heartbeat_at {
            return;
        }
        leader.heartbeat_at = next_beat(now, heartbeat_ticks);
        for peer in &mut leader.peers {
            // A peer that was sent a message in the last half of an interval can wait for the next heartbeat.
            peer.heartbeat_owed |= now.since(peer.said_at) * 2 >= heartbeat_ticks;
        }
        self.append_owed_noop();
    }

    /// Steps down, and says nothing more as a leader or a candidate, so that the other replicas elect a leader.
    /// Entries that were handed to the disk stay there, and another leader may still commit them.
    pub(crate) fn on_resign(&mut self) {
        self.is_resigned = true;
        if !matches!(self.state, State::Follower) {
            self.become_follower(self.term, None);
        }
    }

    /// Steps down, and stands for election again two election timeouts later than usual: by then the other replicas
    /// have had time for a first try, and for a second one if the first failed.
    pub(crate) fn on_give_way(&mut self) {
        if matches!(self.state, State::Leader(_)) && self.peers().next().is_some() {
            self.become_follower(self.term, None);
            self.election_at = self.election_at.after(self.config.election_ticks.saturating_mul(2));
        }
    }

    /// When a leader that hears no more will have heard from no majority for an election timeout.
    pub(crate) fn quorum_lost_at(&self) -> Ticks {
        let State::Leader(leader) = &self.state else { return self.now };
        if leader.peers.is_empty() {
            return Ticks(u64::MAX);
        }
        let heard_at = |voter| {
            leader.peers.iter().find(|peer| peer.id == voter).map_or(self.now, |peer| peer.heard_at)
        };
        quorum::reached(&self.config.voters, heard_at).after(self.config.election_ticks)
    }

    /// A voter now has the entries up to `to` on its disk: commits what a majority has there. This node counts by its
    /// durable log only. If `to` is committed already, nothing changes.
    pub(crate) fn advance_commit(&mut self, to: LogIndex) {
        let State::Leader(leader) = &mut self.state else { return };
        if to <= self.log.commit() {
            return;
        }
        let own = rules::leaders_own_match(&self.log);
        let reached = quorum::reached(&self.config.voters, |voter| {
            (leader.peers.iter().find(|peer| peer.id == voter)).map_or(own, Progress::counted)
        });
        let counts = rules::counts_toward_commit(reached, leader.term_first);
        if counts && reached > self.log.commit() {
            let first = self.log.commit().next();
            leader.uncommitted_bytes -= self.log.bytes_in_memory(first, reached);
            self.log.commit_to(reached);
        } else if reached > self.log.commit() {
            crate::reached!("entry of an earlier term not committed by counting");
        }
    }
}

/// The first multiple of `heartbeat_ticks` after `now`: all groups of a node look at the same ticks, so that their
/// heartbeats to a peer travel together.
fn next_beat(now: Ticks, heartbeat_ticks: u64) -> Ticks {
    Ticks((now.get() / heartbeat_ticks).saturating_add(1).saturating_mul(heartbeat_ticks))
}
