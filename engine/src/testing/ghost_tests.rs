//! Tests that tell the ghost of disks that have lost the end of their log: entries and votes that are left count, and
//! those that are gone do not.

use super::{
    describe::Describe,
    event::{Change, Event, LogState, Mark},
    ghost::Ghost,
    invariants::Broken,
    judge::Judge,
    shape::Shape,
    trace::Trace,
};
use crate::{GroupId, LogIndex, NodeId, Term};
use bytes::Bytes;
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, Entry, EntryBatch, EntryKind, HardState, LogId,
    Marked, Message, Role, Status, VoteReply, WriteId,
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// One replica of a group, its judge, and a peer.
struct Seen {
    judge: Judge,
    node: NodeId,
    peer: NodeId,
    group: GroupId,
}

impl Seen {
    fn new() -> Self {
        let shape = Shape::draw(0, Some(3), Some(1));
        let ghost = Ghost::new(&shape, Describe::default());
        let judge = Judge { ghost, trace: Trace::default() };
        let (node, peer) = (shape.nodes[0], shape.nodes[1]);
        let mut seen = Self { judge, node, peer, group: shape.groups[0] };
        seen.recovers(&LogState::default(), false);
        seen
    }

    fn recovers(&mut self, state: &LogState, has_lost: bool) {
        let (node, group) = (self.node, self.group);
        self.judge.see(&Event::Recovered { node, group, state, has_lost });
    }

    /// A write of a term, a vote for the peer and an entry, all of it on the platter.
    fn votes_and_appends(&mut self, write: u64, term: Term) {
        let last = self.judge.ghost.replica(self.node, self.group).state.log.len() as u64;
        let hard_state = HardState { term, voted_for: Some(self.peer), ..HardState::default() };
        let change = Change {
            write: WriteId(write),
            hard_state: Some(hard_state),
            first: LogIndex(last + 1),
            entries: vec![Mark { term, checksum: 0 }],
            cost_bytes: vec![0],
        };
        let (node, group, change) = (self.node, self.group, &change);
        self.judge.see(&Event::Written { node, group, change });
        self.judge.see(&Event::Landed { node, group, change });
    }

    fn leads(&mut self, term: Term) {
        let index = LogIndex(self.durable().log.len() as u64);
        let status = Status {
            role: Role::Leader,
            term,
            leader: Some(self.node),
            last_log: LogId { term, index },
            durable: index,
            commit: LogIndex::ZERO,
            applying: LogIndex::ZERO,
            applied: LogIndex::ZERO,
            marked: false,
        };
        let (node, group) = (self.node, self.group);
        self.judge.see(&Event::Turned { node, group, status: &status, clock: 0 });
    }

    fn hears(&mut self, message: &Message) {
        let (node, from, group) = (self.node, self.peer, self.group);
        self.judge.see(&Event::Arrived { node, from, group, message });
    }

    fn durable(&self) -> LogState {
        self.judge.ghost.replica(self.node, self.group).durable.clone()
    }

    /// The invariant that a message breaks.
    fn sends(&mut self, message: &Message) -> Option<String> {
        let (node, to, group) = (self.node, self.peer, self.group);
        let judge = &mut self.judge;
        let sends = AssertUnwindSafe(|| judge.see(&Event::Sent { node, to, group, message }));
        catch_unwind(sends).err().map(|broken| match broken.downcast::<Broken>() {
            Ok(broken) => broken.invariant,
            Err(other) => resume_unwind(other),
        })
    }
}

fn append(term: Term, prev: u64, count: u64) -> Message {
    let prev_log = match prev {
        0 => LogId::default(),
        _ => LogId { term, index: LogIndex(prev) },
    };
    let entries = (prev + 1..=prev + count).map(|index| Entry {
        term,
        index: LogIndex(index),
        kind: EntryKind::Command,
        checksum: 0,
        payload: Bytes::new(),
    });
    let entries = EntryBatch::from_entries(entries.collect()).expect("without holes");
    Message::AppendEntries(AppendEntries { term, prev_log, commit: LogIndex::ZERO, entries })
}

fn marked(term: Term, last: u64) -> Message {
    let last_log = LogId { term, index: LogIndex(last) };
    Message::Marked(Marked { term, mark: 1, last_log })
}

fn vote(term: Term) -> Message {
    Message::VoteReply(VoteReply { term, granted: true })
}

fn acknowledgement(term: Term, match_index: LogIndex) -> Message {
    Message::AppendReply(AppendReply { term, result: AppendResult::Accepted { match_index } })
}

/// Seed 3001757: the ghost forgot not only the lost records, but also those that the disk still had.
#[test]
fn c3_what_a_disk_that_lost_its_end_still_has_may_be_said_again() {
    let mut seen = Seen::new();
    seen.votes_and_appends(1, Term(3));
    let kept = seen.durable();
    seen.votes_and_appends(2, Term(4));
    seen.recovers(&kept, true);
    assert_eq!(seen.sends(&vote(Term(3))), None, "the vote is on the disk");
    seen.votes_and_appends(1, Term(5));
    let said = seen.sends(&acknowledgement(Term(3), LogIndex(1)));
    assert_eq!(said, None, "the entry is on the disk, and a later term now");
}

#[test]
fn c3_what_a_disk_has_lost_with_its_end_may_not_be_said_again() {
    let mut seen = Seen::new();
    seen.votes_and_appends(1, Term(3));
    let kept = seen.durable();
    seen.votes_and_appends(2, Term(4));
    seen.recovers(&kept, true);
    assert_eq!(seen.sends(&vote(Term(4))).as_deref(), Some("2 single durable vote"));
    seen.votes_and_appends(1, Term(5));
    seen.recovers(&kept, true);
    let said = seen.sends(&acknowledgement(Term(4), LogIndex(2)));
    assert_eq!(said.as_deref(), Some("9 durable ack"));
}

/// Seed 3107287: entries that a marked peer says that it has were counted as in flight for ever.
#[test]
fn c3_what_a_marked_peer_has_is_on_its_way_no_more_and_what_it_lacks_is() {
    for (has, breaks) in [(1, true), (2, false)] {
        let mut seen = Seen::new();
        seen.votes_and_appends(1, Term(3));
        seen.votes_and_appends(2, Term(3));
        seen.votes_and_appends(3, Term(3));
        seen.leads(Term(3));
        seen.judge.ghost.limits.inflight_messages_max = 1;
        assert_eq!(seen.sends(&append(Term(3), 0, 2)), None);
        seen.hears(&marked(Term(3), has));
        let broken = seen.sends(&append(Term(3), 2, 1));
        let expected = breaks.then_some("23 bounds");
        assert_eq!(broken.as_deref(), expected, "the peer has entries up to {has}");
    }
}
