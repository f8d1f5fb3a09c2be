//! The room in this shard's own log, and the one place that decides which commands and entries the shard takes while
//! there is little room.
//!
//! In:     the log's report of its room; for each write that the log has not taken, the reason why it waits; entries
//!         from leaders.
//! Out:    whether proposals are taken, whether entries from leaders are, and when leaderships are given up.
//! Cost:   a few comparisons; for entries, a sum over them.
//! Fails:  never; want of room passes by itself.
//! Source: RULES.md W9, W10, B2.
//!
//! Votes and heartbeats do not ask here: they go on from the log's reserve. Invariants:
//! * while the log has no room, neither proposals nor entries from leaders are taken; while it is merely behind, each of
//!   the two is taken until it comes to `behind_bytes_max`, and proposals until they would fill a segment;
//! * leaderships are given up once for each time that the log is without room.

use crate::{ProposeError, limits};
use logdrive_raft::{Entry, RoomSays, Ticks};
use logdrive_wal::Room;
use std::time::Duration;

/// An estimate of the time after which a full group, or a log that is behind, has room again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The room in the log, as of the last [`Self::look`].
pub(super) struct LogRoom {
    room: Room,
    /// Since the log fell behind.
    behind: Behind,
    /// Below so many bytes in either, more are taken.
    behind_bytes_max: usize,
    /// No entry of more bytes fits the log.
    entry_bytes_max: usize,
    /// `None` while the log has room.
    full: Option<Full>,
}

/// The bytes taken since the log fell behind.
#[derive(Clone, Copy, Default)]
struct Behind {
    /// Of entries from leaders.
    entries: usize,
    /// Of callers' commands.
    proposals: usize,
}

/// The state of a log that has no room.
struct Full {
    since: Ticks,
    /// True once the node has given up its leaderships for want of room.
    has_given_way: bool,
}

impl LogRoom {
    /// A log with room, which takes entries of up to `entry_bytes_max` bytes.
    pub(super) fn new(entry_bytes_max: usize) -> Self {
        let behind = Behind::default();
        Self { room: Room::Free, behind, behind_bytes_max: 0, entry_bytes_max, full: None }
    }

    /// No entry of more bytes fits the log.
    pub(super) fn entry_bytes_max(&self) -> usize {
        self.entry_bytes_max
    }

    /// Takes in the log's report of its `room` at the time `now`. `waiting`: for each write that the log has not taken,
    /// the reason why it waits.
    pub(super) fn look(
        &mut self,
        room: Room,
        is_near_quota: bool,
        waiting: impl Iterator<Item = Room>,
        now: Ticks,
    ) {
        self.room = match room {
            // While a write is held for want of room, smaller writes must wait too, or they would overtake it for ever.
            Room::Free => worst_of(waiting),
            room => room,
        };
        // Near the quota, room depends on space that the log is giving back, which may fail: nothing may queue for it.
        self.behind_bytes_max = if is_near_quota { 0 } else { limits::BEHIND_BYTES_MAX };
        if self.room != Room::Behind {
            self.behind = Behind::default();
        }
        match self.room {
            Room::Free => self.full = None,
            Room::Behind => {}
            Room::Reserve | Room::Quota => {
                self.full.get_or_insert(Full { since: now, has_given_way: false });
            }
        }
    }

    /// Whether entries from leaders are taken. A log that is merely behind takes some: dropped, they would have to be sent
    /// again, and soon there is room.
    #[inline]
    pub(super) fn takes_entries(&self) -> bool {
        match self.room {
            Room::Free => true,
            Room::Behind => self.behind.entries < self.behind_bytes_max,
            Room::Reserve | Room::Quota => false,
        }
    }

    /// Takes these entries of a leader, or says why not.
    #[inline]
    pub(super) fn take(&mut self, entries: &[Entry]) -> Result<(), RoomSays> {
        if entries.is_empty() {
            return Ok(());
        }
        if entries.iter().any(|entry| entry.payload.len() > self.entry_bytes_max) {
            return Err(RoomSays::TooLarge);
        }
        if !self.takes_entries() {
            return Err(RoomSays::Full);
        }
        if self.room == Room::Behind {
            self.behind.entries += entries.iter().map(Entry::cost_bytes).sum::<usize>();
        }
        Ok(())
    }

    /// Takes a proposal whose commands have `bytes` bytes, or says why not.
    #[inline]
    pub(super) fn propose(&mut self, bytes: usize) -> Result<(), ProposeError> {
        match self.room {
            Room::Free => Ok(()),
            // Callers would meet errors whenever a segment is made a little too late. More than that segment holds would
            // wait for another one.
            Room::Behind
                if self.behind.proposals < self.behind_bytes_max.min(self.entry_bytes_max) =>
            {
                logdrive_raft::reached!("proposal taken while the log is behind");
                self.behind.proposals += bytes;
                Ok(())
            }
            Room::Behind => Err(ProposeError::Overloaded { retry_after: RETRY_AFTER }),
            Room::Reserve => {
                logdrive_raft::reached!("proposal refused for want of room");
                Err(ProposeError::DiskFull)
            }
            Room::Quota => {
                logdrive_raft::reached!("proposal refused by the log's quota");
                Err(ProposeError::LogFull)
            }
        }
    }

    /// True once the log has had no room for an election timeout: the node then gives its leaderships up to nodes that
    /// may have room (RULES.md W9). It does so once: if the others have none either, some node must go on leading (W10).
    pub(super) fn gives_way(&mut self, now: Ticks, election_ticks: u64) -> bool {
        match &mut self.full {
            Some(Full { since, has_given_way: has_given_way @ false })
                if now.since(*since) >= election_ticks =>
            {
                *has_given_way = true;
                true
            }
            _ => false,
        }
    }
}

/// Whether a write that the log has not taken is withdrawn, and not held until the log takes it: a write with entries is
/// withdrawn for want of room, so that no vote waits behind entries (RULES.md B5). While a segment is being made, any
/// write is held.
pub(crate) fn is_withdrawn(waits_for: Room, has_entries: bool) -> bool {
    let is_kept = logdrive_raft::bug!("entries_held_for_want_of_room");
    has_entries && waits_for != Room::Behind && !is_kept
}

/// The room that new writes have while others wait: none if one of the others waits for room; if all wait for a segment
/// that is being made, that of a log that is behind.
fn worst_of(waiting: impl Iterator<Item = Room>) -> Room {
    let mut worst = Room::Free;
    for why in waiting {
        if why != Room::Behind {
            return why;
        }
        worst = why;
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use logdrive_raft::{EntryKind, LogIndex, Term};

    fn entry(bytes: usize) -> [Entry; 1] {
        let payload = Bytes::from(vec![0; bytes]);
        let (term, index, kind) = (Term(1), LogIndex(1), EntryKind::Command);
        [Entry { term, index, kind, checksum: 0, payload }]
    }

    fn looked(room: Room, waiting: &[Room]) -> LogRoom {
        let mut log = LogRoom::new(1 << 20);
        log.look(room, false, waiting.iter().copied(), Ticks(1));
        log
    }

    /// RULES.md W9, B5: a small proposal that overtook a write that waits would be taken again and again before it.
    #[test]
    fn while_a_write_waits_for_room_no_proposal_is_taken() {
        assert!(looked(Room::Free, &[]).propose(1).is_ok());
        let waiting = [Room::Behind, Room::Quota, Room::Behind];
        let mut log = looked(Room::Free, &waiting);
        assert!(matches!(log.propose(1), Err(ProposeError::LogFull)));
        assert!(!log.takes_entries());
    }

    /// RULES.md W9.
    #[test]
    fn a_log_that_is_behind_takes_so_many_bytes_of_proposals_and_none_near_its_quota() {
        let behind = |entry_bytes_max| {
            let mut log = LogRoom::new(entry_bytes_max);
            log.look(Room::Free, false, [Room::Behind].into_iter(), Ticks(1));
            let taken = (0..).take_while(|_| log.propose(1 << 20).is_ok()).count();
            (log, taken << 20)
        };
        assert_eq!(behind(4 << 20).1, 4 << 20, "what one segment holds");
        let (mut log, taken) = behind(64 << 20);
        assert_eq!(taken, limits::BEHIND_BYTES_MAX);
        assert!(log.takes_entries(), "what callers propose takes nothing from what leaders send");
        assert!(matches!(log.propose(1), Err(ProposeError::Overloaded { .. })));
        log.look(Room::Free, false, std::iter::empty(), Ticks(2));
        log.look(Room::Behind, true, std::iter::empty(), Ticks(3));
        assert!(matches!(log.propose(1), Err(ProposeError::Overloaded { .. })));
    }

    /// RULES.md W9.
    #[test]
    fn a_log_that_is_behind_takes_so_many_bytes_of_entries_and_none_near_its_quota() {
        let mut log = looked(Room::Behind, &[]);
        let (mut taken, some) = (0, entry(1 << 20));
        while log.take(&some).is_ok() {
            taken += some[0].cost_bytes();
        }
        assert!(taken >= limits::BEHIND_BYTES_MAX, "{taken} bytes");
        assert!(taken < limits::BEHIND_BYTES_MAX + 2 * some[0].cost_bytes(), "{taken} bytes");
        assert_eq!(log.take(&[]), Ok(()));
        log.look(Room::Free, false, std::iter::empty(), Ticks(2));
        log.look(Room::Behind, true, std::iter::empty(), Ticks(3));
        assert_eq!(log.take(&some), Err(RoomSays::Full));
        assert_eq!(log.take(&entry((1 << 20) + 1)), Err(RoomSays::TooLarge));
    }

    /// RULES.md W9, W10.
    #[test]
    fn leaderships_are_given_up_once_for_each_time_without_room() {
        let mut log = looked(Room::Reserve, &[]);
        assert!(!log.gives_way(Ticks(10), 10), "an election timeout has not passed");
        assert!(log.gives_way(Ticks(11), 10));
        // A log that is behind for a moment has not had room.
        for room in [Room::Behind, Room::Quota] {
            log.look(room, false, std::iter::empty(), Ticks(12));
            assert!(!log.gives_way(Ticks(100), 10), "leaderships were given up twice");
        }
        log.look(Room::Free, false, std::iter::empty(), Ticks(101));
        log.look(Room::Quota, false, std::iter::empty(), Ticks(102));
        assert!(!log.gives_way(Ticks(103), 10));
        assert!(log.gives_way(Ticks(112), 10));
    }
}
