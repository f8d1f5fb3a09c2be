//! One peer as its leader sees it: what it has, what it was sent, what it may be sent.
//!
//! ```text
//!            heard that a guess was right
//!   Probe ---------------------------------> Replicate
//!     one append at a time,                    appends follow one another
//!     each a guess where the logs meet         within a window
//!         <---------------------------------
//!            an append was refused, or the connection broke
//!
//!            the peer needs entries that the log has let go of
//!   either ---------------------------------> Snapshot
//!   Probe <---------------------------------    heartbeats only
//!            the transfer ended
//!   Replicate <-----------------------------
//!            heard that the peer has the snapshot
//! ```
//!
//! A peer that needs entries which the leader's log has let go of needs a snapshot. The host is told once (an offer), and
//! the peer is sent heartbeats until it acknowledges the snapshot's last entry or the host says that the transfer ended.
//! A probe goes no further back than the base: if the peer refuses that one, it needs a snapshot.
//!
//! A peer without room is sent no entries at either pace: a probe is empty then, and the window stays so.
//!
//! In:     what the peer answers; that the connection broke.
//! Out:    [`Progress`]: where to go on, whether there is room.
//! Cost:   about 150 bytes a peer, and 16 for each append in flight; nothing is reserved ahead.
//! Source: paper §5.3 (`nextIndex`, `matchIndex`), thesis §10.2.1 (pipelining).

use crate::{Config, EntryBatch, LogIndex, NodeId, Ticks, rules};
use alloc::collections::VecDeque;

/// How a leader sends to a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// Where the logs meet is a guess: one append, then wait for what it finds.
    Probe {
        /// An append is out, or the connection broke: silent until the peer is heard from, or a
        /// dead peer of thousands of groups would be sent thousands of appends again and again.
        paused: bool,
    },
    /// The logs are known to meet at `match_index`: appends go out within the window.
    Replicate,
    /// The peer needs entries that the log has let go of.
    Snapshot {
        /// A snapshot of this entry or of a later one will do.
        least: LogIndex,
        /// The host was told.
        offered: bool,
    },
}

/// An append in flight.
#[derive(Clone, Copy, Debug)]
struct SentAppend {
    /// The last entry of the append.
    last: LogIndex,
    bytes: usize,
}

/// One peer's progress. `match_index < next_index`, always.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) id: NodeId,
    /// The last entry known to be durable there and equal to the leader's.
    match_index: LogIndex,
    /// The part of `match_index` that counts for a commit: all of it, unless the peer is or was marked in this term.
    counted: LogIndex,
    /// Acknowledgements up to here do not count: the peer may have given them before it lost what they were for.
    counts_after: LogIndex,
    /// The next entry to send.
    next_index: LogIndex,
    pub(crate) pace: Pace,
    /// Appends sent and not yet acknowledged, oldest first.
    in_flight: VecDeque<SentAppend>,
    in_flight_bytes: usize,
    /// When the peer last said something in this term.
    pub(crate) heard_at: Ticks,
    /// When the leader last sent it an append or a heartbeat.
    pub(crate) said_at: Ticks,
    /// When it was last sent an append.
    pub(crate) appended_at: Ticks,
    /// It is due a heartbeat, because it was sent nothing in the last half of an interval.
    pub(crate) heartbeat_owed: bool,
    /// It answers heartbeats but not appends: ask, with an empty append, whether they got there.
    pub(crate) inquiry_owed: bool,
    /// Old entries that came back from the disk in this round.
    pub(crate) fetched: EntryBatch,
}

impl Progress {
    /// A new leader's first guess: the logs meet at the leader's end.
    pub(crate) fn new(id: NodeId, last: LogIndex, now: Ticks) -> Self {
        Self {
            id,
            match_index: LogIndex::ZERO,
            counted: LogIndex::ZERO,
            counts_after: LogIndex::ZERO,
            next_index: last.next(),
            pace: Pace::Probe { paused: false },
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            heard_at: now,
            said_at: now,
            appended_at: now,
            heartbeat_owed: false,
            inquiry_owed: false,
            fetched: EntryBatch::new(),
        }
    }

    pub(crate) fn match_index(&self) -> LogIndex {
        self.match_index
    }

    /// The last entry that counts as on the peer's disk for a commit.
    pub(crate) fn counted(&self) -> LogIndex {
        self.counted
    }

    pub(crate) fn next_index(&self) -> LogIndex {
        self.next_index
    }

    /// Bytes the next append may hold; `None` if the window is full. The first append in an empty
    /// window may be any size an append may have.
    pub(crate) fn room_bytes(&self, config: &Config) -> Option<usize> {
        rules::window_bytes(self.in_flight.len(), self.in_flight_bytes, config)
    }

    /// True if nothing sent waits to be acknowledged.
    pub(crate) fn is_window_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Entries up to `last` have been sent, within the window.
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: usize) {
        assert!(self.pace == Pace::Replicate, "{:?} has no window: {:?}", self.id, self.pace);
        assert!(
            last >= self.next_index,
            "append ends at {last:?} before it begins at {:?}",
            self.next_index
        );
        self.in_flight.push_back(SentAppend { last, bytes });
        self.in_flight_bytes += bytes;
        self.next_index = last.next();
    }

    /// The peer has everything up to `match_index`, and vouches for it.
    pub(crate) fn on_accepted(&mut self, match_index: LogIndex) {
        // An entry behind that place was sent since the peer was marked, so its acknowledgement is newer too.
        if match_index > self.counts_after {
            self.counted = self.counted.max(match_index);
        }
        self.on_taken(match_index);
    }

    /// The peer is marked, and the leader's log ends at `last`. It may get acknowledgements of anything up to there
    /// that are older than the loss, at any time.
    pub(crate) fn on_marked(&mut self, last: LogIndex) {
        self.counts_after = self.counts_after.max(last);
        self.counted = LogIndex::ZERO;
    }

    /// The peer lacks something that it had; the logs meet at `meeting` or before.
    pub(crate) fn on_lost(&mut self, meeting: LogIndex) {
        self.match_index = LogIndex::ZERO;
        if let Pace::Snapshot { least, .. } = self.pace
            && meeting < least
        {
            return; // The snapshot that it needs anyway has what it lacks.
        }
        self.probe_from(meeting.next(), false);
    }

    /// The peer has everything up to `match_index`.
    pub(crate) fn on_taken(&mut self, match_index: LogIndex) {
        // Equal counts for a probe: an empty one at what was known already found the place again.
        let is_news = match_index > self.match_index;
        let found = match self.pace {
            Pace::Probe { .. } => is_news || match_index == self.match_index,
            Pace::Replicate => false,
            Pace::Snapshot { least, .. } => match_index >= least,
        };
        self.match_index = self.match_index.max(match_index);
        if found {
            self.pace = Pace::Replicate;
            self.next_index = self.match_index.next();
        } else {
            self.next_index = self.next_index.max(self.match_index.next());
        }
        while let Some(&SentAppend { last, bytes }) = self.in_flight.front() {
            if last > self.match_index {
                break;
            }
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
    }

    /// True if a refusal of an append after `rejected` says something new. Late ones do not: what is
    /// matched stays matched, and a probe's answer is about the probe's own place.
    pub(crate) fn is_news(&self, rejected: LogIndex) -> bool {
        match self.pace {
            Pace::Probe { .. } => rejected > self.match_index && rejected.next() == self.next_index,
            Pace::Replicate => rejected > self.match_index && rejected < self.next_index,
            Pace::Snapshot { .. } => false,
        }
    }

    /// An append after `rejected` was refused; the logs meet at `meeting` or before.
    pub(crate) fn on_rejected(&mut self, rejected: LogIndex, meeting: LogIndex) {
        assert!(rejected > self.match_index, "{rejected:?} is at {:?} or before", self.match_index);
        self.probe_from(meeting.next().min(rejected).max(self.match_index.next()), false);
    }

    /// Appends in flight may be lost, and so may an append that is sent now: the leader waits to hear from the peer.
    pub(crate) fn on_unreachable(&mut self) {
        let next = match self.pace {
            Pace::Probe { .. } => self.next_index,
            Pace::Replicate => self.match_index.next(),
            // Nothing is in flight, and the host knows of its transfer.
            Pace::Snapshot { .. } => return,
        };
        self.probe_from(next, true);
    }

    /// The leader's log begins behind `base`, and the next entry to send is not in it any more.
    pub(crate) fn on_released(&mut self, base: LogIndex) {
        match self.pace {
            // The place was a guess. The peer may well have the base.
            Pace::Probe { .. } => self.next_index = base.next(),
            Pace::Replicate => self.need_snapshot(base),
            Pace::Snapshot { .. } => {}
        }
    }

    /// The peer needs a snapshot of `least` or of a later entry.
    pub(crate) fn need_snapshot(&mut self, least: LogIndex) {
        crate::reached!("peer needs a snapshot");
        self.probe_from(least.next(), true);
        self.pace = Pace::Snapshot { least, offered: false };
    }

    /// The host sends the peer no snapshot any more. The peer may have one, or not: its answer to a probe tells, which is
    /// sent once the peer is heard from, so that transfers that end at once follow one another no faster than heartbeats.
    pub(crate) fn on_transfer_ended(&mut self) {
        if let Pace::Snapshot { least, .. } = self.pace {
            self.probe_from(least.max(self.match_index).next(), true);
        }
    }

    /// The entries in flight were dropped for want of room. The place where the logs meet is known all the same.
    pub(crate) fn hold_back(&mut self) {
        if self.pace == Pace::Replicate {
            self.next_index = self.match_index.next();
            self.in_flight.clear();
            self.in_flight_bytes = 0;
            self.inquiry_owed = false;
        }
    }

    /// The peer answers: a paused probe may be sent again.
    pub(crate) fn resume(&mut self) {
        if let Pace::Probe { paused } = &mut self.pace {
            *paused = false;
        }
    }

    fn probe_from(&mut self, next_index: LogIndex, paused: bool) {
        assert!(
            next_index > self.match_index,
            "next {next_index:?} is not after match {:?}",
            self.match_index
        );
        self.pace = Pace::Probe { paused };
        self.next_index = next_index;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.inquiry_owed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicating(match_index: u64, sent: &[u64]) -> Progress {
        let mut progress = Progress::new(NodeId(2), LogIndex(match_index), Ticks(0));
        progress.on_accepted(LogIndex(match_index));
        for &last in sent {
            progress.sent(LogIndex(last), 10);
        }
        progress
    }

    #[test]
    fn an_acknowledgement_frees_all_appends_it_covers() {
        let mut progress = replicating(5, &[6, 8, 9]);
        progress.on_accepted(LogIndex(8));
        assert_eq!((progress.in_flight.len(), progress.in_flight_bytes), (1, 10));
        assert_eq!(progress.next_index(), LogIndex(10));
    }

    #[test]
    fn what_a_marked_peer_acknowledged_before_does_not_count_and_what_it_takes_neither() {
        let mut progress = replicating(5, &[6, 8]);
        progress.on_accepted(LogIndex(8));
        assert_eq!(progress.counted(), LogIndex(8));
        progress.on_marked(LogIndex(9));
        progress.on_lost(LogIndex(3));
        assert_eq!((progress.counted(), progress.match_index()), (LogIndex(0), LogIndex(0)));
        progress.on_taken(LogIndex(10));
        assert_eq!((progress.counted(), progress.match_index()), (LogIndex(0), LogIndex(10)));
        progress.on_accepted(LogIndex(9));
        assert_eq!(progress.counted(), LogIndex(0), "it may be from before the loss");
        progress.on_accepted(LogIndex(10));
        assert_eq!(progress.counted(), LogIndex(10));
    }

    #[test]
    fn a_late_acknowledgement_takes_nothing_back() {
        let mut progress = replicating(5, &[6]);
        progress.on_accepted(LogIndex(3));
        assert_eq!((progress.match_index(), progress.next_index()), (LogIndex(5), LogIndex(7)));
    }

    #[test]
    fn only_the_answer_to_the_probe_itself_moves_a_probe() {
        let mut progress = Progress::new(NodeId(2), LogIndex(20), Ticks(0));
        assert!(progress.is_news(LogIndex(20)));
        progress.on_rejected(LogIndex(20), LogIndex(7));
        assert_eq!(progress.next_index(), LogIndex(8));
        // The same refusal, duplicated on its way, and one of an older probe.
        assert!(!progress.is_news(LogIndex(20)));
        assert!(!progress.is_news(LogIndex(12)));
        assert!(progress.is_news(LogIndex(7)));
    }

    #[test]
    fn a_refusal_of_what_is_matched_is_late() {
        let progress = replicating(5, &[6, 7]);
        assert!(!progress.is_news(LogIndex(5)));
        assert!(progress.is_news(LogIndex(6)));
        assert!(!progress.is_news(LogIndex(8)), "nothing was sent after entry 8");
    }

    #[test]
    fn a_refusal_moves_a_probe_at_least_one_entry_back() {
        let mut progress = Progress::new(NodeId(2), LogIndex(20), Ticks(0));
        // A hint past the probe is nonsense, and still no reason to ask the same again.
        progress.on_rejected(LogIndex(20), LogIndex(99));
        assert_eq!(progress.next_index(), LogIndex(20));
    }

    #[test]
    fn a_broken_connection_silences_until_the_peer_is_heard() {
        let mut progress = replicating(5, &[6, 7]);
        progress.on_unreachable();
        assert_eq!(progress.pace, Pace::Probe { paused: true });
        assert_eq!((progress.next_index(), progress.in_flight_bytes), (LogIndex(6), 0));
        progress.resume();
        assert_eq!(progress.pace, Pace::Probe { paused: false });
    }
}
