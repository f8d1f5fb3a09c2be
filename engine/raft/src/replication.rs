//! Replication to each peer: the next entries, the pauses, and the old entries that must be fetched first.
//!
//! Worked out once per [`Raft::ready`], so what a round proposed leaves in one append per peer, and a
//! heartbeat is sent only to a peer that gets nothing else.
//!
//! In:     the log, every peer's [`Progress`], answered fetches.
//! Out:    appends, heartbeats, [`Fetch`]es, [`Offer`]s to peers that need what the log has let go of.
//! Cost:   one clone per entry and peer (a reference count each).
//! Source: paper §5.3; thesis §10.2.1 (pipelining).

use crate::log::Log;
use crate::progress::{Pace, Progress};
use crate::raft::State;
use crate::{
    AppendEntries, EntryBatch, Fetch, FetchFor, Heartbeat, LogId, LogIndex, Message, NodeId, Offer,
    Outgoing, Raft, Term, rules,
};
use alloc::vec::Vec;

impl Raft {
    /// Fills every peer's window, and says which peers newly need a snapshot.
    #[inline]
    pub(crate) fn replicate(&mut self) -> Vec<Offer> {
        if self.is_leader() { self.replicate_to_peers() } else { Vec::new() }
    }

    fn replicate_to_peers(&mut self) -> Vec<Offer> {
        let mut offers = Vec::new();
        let State::Leader(leader) = &mut self.state else { return offers };
        let config = &self.config;
        let last = self.log.last().index;
        let base = self.log.base().index;
        let mut wanted = Vec::new();
        for peer in &mut leader.peers {
            let mut line = Line {
                messages: &mut self.messages,
                log: &self.log,
                term: self.term,
                said: false,
                appended: false,
            };
            let has_room = rules::may_be_sent_entries(peer.id, &self.without_room);
            if peer.next_index() <= base {
                peer.on_released(base);
            }
            match peer.pace {
                // With nothing to send and nothing to find out, the peer has it all.
                Pace::Probe { paused: false }
                    if peer.next_index() <= last
                        || peer.next_index() > peer.match_index().next() =>
                {
                    // A probe only guesses the next index: entries that are not in memory are not fetched for it.
                    let next = peer.next_index();
                    let entries = match has_room {
                        true => self.log.copy(next, last, config.append_bytes_max, true).0,
                        false => EntryBatch::new(),
                    };
                    line.append(peer, entries);
                    peer.pace = Pace::Probe { paused: true };
                }
                Pace::Probe { .. } => {}
                Pace::Replicate => {
                    while has_room
                        && peer.next_index() <= last
                        && let Some(room) = peer.room_bytes(config)
                    {
                        let first = peer.next_index();
                        let (entries, bytes) = if first >= self.log.tail_first() {
                            self.log.copy(first, last, room, peer.is_window_empty())
                        } else if peer.fetched.first().is_some_and(|entry| entry.index == first) {
                            let bytes = peer.fetched.cost_bytes();
                            (core::mem::take(&mut peer.fetched), bytes)
                        } else {
                            wanted.push((peer.id, first));
                            break;
                        };
                        let Some(sent) = entries.last().map(|entry| entry.index) else { break };
                        line.append(peer, entries);
                        peer.sent(sent, bytes);
                    }
                    if peer.inquiry_owed && !line.said {
                        line.append(peer, EntryBatch::new());
                    }
                    peer.inquiry_owed = false;
                }
                Pace::Snapshot { least, offered: false } => {
                    offers.push(Offer { peer: peer.id, least });
                    peer.pace = Pace::Snapshot { least, offered: true };
                }
                Pace::Snapshot { .. } => {}
            }
            if !peer.fetched.is_empty() {
                peer.fetched = EntryBatch::new(); // They are fetched again if they are still wanted.
            }
            if peer.heartbeat_owed && !line.said {
                line.heartbeat(peer);
            }
            peer.heartbeat_owed = false;
            if line.said {
                peer.said_at = self.now;
            }
            if line.appended {
                peer.appended_at = self.now;
            }
        }
        for (peer, first) in wanted {
            let last = self.log.tail_first().prev();
            self.owe_fetch(FetchFor::Peer(peer), first, last, self.config.append_bytes_max);
        }
        offers
    }

    /// Asks for old entries, unless an answer for the same purpose is still to come.
    pub(crate) fn owe_fetch(
        &mut self,
        purpose: FetchFor,
        first: LogIndex,
        last: LogIndex,
        bytes_max: usize,
    ) {
        assert!(last <= self.log.durable(), "{last:?} is after {:?}", self.log.durable());
        assert!(first <= last, "a fetch of {first:?} to {last:?}");
        if !self.fetches_out.contains(&purpose) {
            self.fetches_out.push(purpose);
            self.fetches_owed.push(Fetch { purpose, first, last, bytes_max });
        }
    }

    /// Takes old entries that were asked for. Late ones do no harm: whatever happened since, an entry
    /// that is in our log under its index and term is that entry (log matching, paper §5.3). Whether a peer is sent them
    /// is decided when the round ends, like all that it is sent: until then the peer may say that it has no room or
    /// lacks something, or its window may close. Entries that are not sent then are fetched again when they are wanted.
    pub(crate) fn on_fetched(&mut self, purpose: FetchFor, entries: EntryBatch) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return self.on_fetch_failed(purpose);
        };
        if !self.close_fetch(purpose) || !self.log.contains_all(&entries) {
            return; // asked for again if still wanted
        }
        let peer = match purpose {
            FetchFor::Apply => {
                let last = entries.last().map(|entry| entry.index);
                if first == self.log.applying().next() && last <= Some(self.log.appliable()) {
                    self.fetched_to_apply = entries;
                }
                return;
            }
            FetchFor::Peer(peer) => peer,
        };
        if let State::Leader(leader) = &mut self.state
            && let Some(peer) = leader.peer(peer)
        {
            peer.fetched = entries;
        }
    }

    /// Old entries cannot be read now. Asked for again at once, they would fail again at once.
    pub(crate) fn on_fetch_failed(&mut self, purpose: FetchFor) {
        if !self.close_fetch(purpose) {
            return;
        }
        match purpose {
            FetchFor::Apply => {
                self.apply_fetch_at = self.now.after(self.config.heartbeat_ticks);
            }
            // As if it had been sent and lost: the next heartbeat's answer starts it again.
            FetchFor::Peer(peer) => self.on_unreachable(peer),
        }
    }

    /// False if nobody asked.
    fn close_fetch(&mut self, purpose: FetchFor) -> bool {
        let before = self.fetches_out.len();
        self.fetches_out.retain(|out| *out != purpose);
        self.fetches_out.len() < before
    }

    /// Lets go of entries that neither this replica nor a peer that keeps up needs in memory.
    pub(crate) fn forget(&mut self) {
        let matched = match &self.state {
            State::Leader(leader) => leader.matched(),
            _ => LogIndex(u64::MAX),
        };
        self.log.forget(matched, rules::tail_bytes_kept(&self.config));
    }
}

/// "I lead", how much is committed of what the peer has, and how much that is, whether the log still has it or not: a peer
/// that has lost it must hear so (`mark.rs`).
fn heartbeat(log: &Log, term: Term, peer: &Progress) -> Message {
    let matched = peer.matched();
    let commit = rules::commit_in_heartbeat(log.commit(), matched.index);
    Message::Heartbeat(Heartbeat { term, commit, matched })
}

/// The messages to one peer in one round.
struct Line<'a> {
    messages: &'a mut Vec<Outgoing>,
    log: &'a Log,
    term: Term,
    said: bool,
    appended: bool,
}

impl Line<'_> {
    /// Entries from the peer's next on, or none: a question whether it has what is before them.
    fn append(&mut self, peer: &Progress, entries: EntryBatch) {
        let index = peer.next_index().prev();
        let term = self.log.term_at(index).expect("what was sent is in the log");
        let prev_log = LogId { term, index };
        let commit = self.log.commit();
        let message = AppendEntries { term: self.term, prev_log, commit, entries };
        self.say(peer.id, Message::AppendEntries(message));
        self.appended = true;
    }

    fn heartbeat(&mut self, peer: &Progress) {
        self.say(peer.id, heartbeat(self.log, self.term, peer));
    }

    fn say(&mut self, to: NodeId, message: Message) {
        self.messages.push(Outgoing { to, message });
        self.said = true;
    }
}
