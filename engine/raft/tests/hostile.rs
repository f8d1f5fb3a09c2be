//! A replica with a correct host and with peers that may say anything (RULES.md I5, I7): whatever arrives,
//! it does not panic, and its term and commit index never fall. Whether lying peers can make it commit
//! something wrong is not tested: Byzantine faults are out of scope.

mod common;

use common::{Image, config, entry, log_of, n};
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, Durable, EntryBatch, Event, FetchFor, HardState,
    Heartbeat, HeartbeatReply, LogId, LogIndex, Marked, Message, NodeId, PreVote, PreVoteReply,
    Raft, RequestVote, Restored, Role, Snapshot, Term, TermRun, TermStated, Ticks, VoteReply,
};
use proptest::prelude::*;

/// Mostly small numbers, as terms and indices of a short log are, and sometimes very large ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => 0..6u64,
        3 => 0..40u64,
        1 => Just(1 << 40),
        1 => Just(u64::MAX / 2),
        1 => Just(u64::MAX - 1),
        1 => Just(u64::MAX),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    number().prop_map(Term)
}

fn index() -> impl Strategy<Value = LogIndex> {
    number().prop_map(LogIndex)
}

fn log_id() -> impl Strategy<Value = LogId> {
    (term(), index()).prop_map(|(term, index)| LogId { term, index })
}

fn entries() -> impl Strategy<Value = EntryBatch> {
    (1..8u64, prop::collection::vec(1..6u64, 0..5)).prop_map(|(first, mut terms)| {
        terms.sort_unstable();
        let entries = terms.into_iter().zip(first..).map(|(t, i)| entry(t, i)).collect();
        EntryBatch::from_entries(entries).unwrap()
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (term(), log_id())
            .prop_map(|(term, last_log)| Message::PreVote(PreVote { term, last_log })),
        (term(), any::<bool>())
            .prop_map(|(term, granted)| Message::PreVoteReply(PreVoteReply { term, granted })),
        (term(), log_id())
            .prop_map(|(term, last_log)| Message::RequestVote(RequestVote { term, last_log })),
        (term(), any::<bool>())
            .prop_map(|(term, granted)| Message::VoteReply(VoteReply { term, granted })),
        (term(), log_id(), index(), entries()).prop_map(|(term, prev_log, commit, entries)| {
            Message::AppendEntries(AppendEntries { term, prev_log, commit, entries })
        }),
        // An append that may well be correct.
        (1..6u64, index(), entries()).prop_map(|(term, commit, entries)| {
            let first = entries.first().map_or(LogIndex(1), |entry| entry.index);
            let prev_log = LogId {
                term: if first == LogIndex(1) { Term::ZERO } else { Term(1) },
                index: first.prev(),
            };
            let term = Term(term);
            Message::AppendEntries(AppendEntries { term, prev_log, commit, entries })
        }),
        (term(), index()).prop_map(|(term, match_index)| {
            let result = AppendResult::Accepted { match_index };
            Message::AppendReply(AppendReply { term, result })
        }),
        (term(), index(), log_id()).prop_map(|(term, rejected, hint)| {
            let result = AppendResult::Rejected { rejected, hint };
            Message::AppendReply(AppendReply { term, result })
        }),
        (term(), index()).prop_map(|(term, match_index)| {
            let result = AppendResult::Taken { match_index };
            Message::AppendReply(AppendReply { term, result })
        }),
        (term(), index(), log_id()).prop_map(|(term, commit, matched)| {
            Message::Heartbeat(Heartbeat { term, commit, matched })
        }),
        // A heartbeat that may well be correct.
        (2..6u64, 1..4u64, 1..6u64).prop_map(|(term, of, index)| {
            let (term, commit) = (Term(term), LogIndex(1));
            let matched = LogId { term: Term(of), index: LogIndex(index) };
            Message::Heartbeat(Heartbeat { term, commit, matched })
        }),
        (term(), any::<u64>(), log_id()).prop_map(|(term, mark, last_log)| {
            Message::Marked(Marked { term, mark, last_log })
        }),
        (term(), any::<u64>(), index()).prop_map(|(term, mark, commit)| {
            Message::TermStated(TermStated { term, mark, commit })
        }),
        term().prop_map(|term| Message::HeartbeatReply(HeartbeatReply { term })),
    ]
}

/// One event of a history. The events of the host itself are filled in when they are played, so that they are true.
#[derive(Clone, Debug)]
enum Deed {
    Say { from: u64, message: Message },
    Pass(u64),
    Campaign,
    Propose,
    Ready,
    Sync,
    Apply,
    Fetched { peer: u64, entries: EntryBatch },
    FetchFailed { peer: u64 },
    Unreachable(u64),
    Release { to: LogIndex, kept: LogIndex },
    Install { last: LogId, term: Term },
    TransferEnded(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        20 => (0..5u64, message()).prop_map(|(from, message)| Deed::Say { from, message }),
        2 => (1..15u64).prop_map(Deed::Pass),
        1 => Just(Deed::Campaign),
        2 => Just(Deed::Propose),
        6 => Just(Deed::Ready),
        4 => Just(Deed::Sync),
        2 => Just(Deed::Apply),
        1 => (0..5u64, entries()).prop_map(|(peer, entries)| Deed::Fetched { peer, entries }),
        1 => (0..5u64).prop_map(|peer| Deed::FetchFailed { peer }),
        1 => (0..5u64).prop_map(Deed::Unreachable),
        2 => (index(), index()).prop_map(|(to, kept)| Deed::Release { to, kept }),
        1 => (log_id(), term()).prop_map(|(last, term)| Deed::Install { last, term }),
        // A snapshot that may well be one.
        1 => (1..6u64, 1..12u64).prop_map(|(of, index)| {
            let last = LogId { term: Term(of), index: LogIndex(index) };
            Deed::Install { last, term: Term(of) }
        }),
        1 => (0..5u64).prop_map(Deed::TransferEnded),
    ]
}

fn purpose(peer: u64) -> FetchFor {
    if peer == 0 { FetchFor::Apply } else { FetchFor::Peer(n(peer)) }
}

fn play(deeds: Vec<Deed>) {
    let mut config = config(1, 3);
    config.tail_bytes_max = 40;
    config.append_bytes_max = 80;
    let hard_state = HardState { term: Term(2), commit: LogIndex(1), ..HardState::default() };
    let runs = vec![
        TermRun { first: LogIndex(1), term: Term(1) },
        TermRun { first: LogIndex(3), term: Term(2) },
    ];
    let restored =
        Restored { hard_state, base: LogId::ZERO, runs, last: LogIndex(3), applied: LogIndex(0) };
    let mut disk = Image::of(hard_state, log_of(&[1, 1, 2]));
    let mut raft = Raft::new(config, restored, Ticks(0)).unwrap();
    let mut now = Ticks(0);
    let mut newest = logdrive_raft::WriteId::ZERO;
    for deed in deeds {
        let before = raft.status();
        let mut is_strange = None;
        match deed {
            Deed::Say { from, message } => {
                let stranger = from == 0 || from == 1 || from == 4;
                is_strange = (stranger || message.term().get() > 1 << 40).then_some(from);
                raft.step(now, Event::Message { from: NodeId(from), message });
            }
            Deed::Pass(ticks) => {
                now = now.after(ticks);
                raft.step(now, Event::Tick);
            }
            Deed::Campaign => raft.step(now, Event::Campaign),
            Deed::Propose => {
                let is_leader = before.role == Role::Leader;
                let mut commands = vec![common::command("x"), common::command("y")];
                let landed = raft.propose(&mut commands);
                assert_eq!(commands.is_empty(), landed.is_ok());
                assert!(is_leader || landed.is_err());
            }
            Deed::Ready => {
                if let Some(ready) = raft.ready()
                    && let Some(write) = ready.write
                {
                    disk.write(&write);
                    newest = write.id;
                }
            }
            Deed::Sync => {
                let durable = Durable::new(common::GROUP, newest);
                raft.step(now, Event::Durable(durable));
            }
            Deed::Apply => raft.step(now, Event::Applied(before.applying)),
            Deed::Fetched { peer, entries } => {
                raft.step(now, Event::Fetched { purpose: purpose(peer), entries });
            }
            Deed::FetchFailed { peer } => {
                raft.step(now, Event::FetchFailed { purpose: purpose(peer) });
            }
            Deed::Unreachable(peer) => raft.step(now, Event::Unreachable(n(peer))),
            Deed::Release { to, kept } => raft.step(now, Event::Release { to, kept }),
            Deed::Install { last, term } => {
                let voters = vec![n(1), n(2), n(3)];
                if raft.install(Snapshot { last, voters, term }).is_err() {
                    assert_eq!(raft.status(), before);
                }
            }
            Deed::TransferEnded(peer) => raft.step(now, Event::TransferEnded(n(peer))),
        }
        let after = raft.status();
        if let Some(from) = is_strange {
            assert_eq!(after, before, "a message from {from} changed something");
        }
        assert!(before.term <= after.term && after.term.get() < u64::MAX / 2 + 1);
        assert!(before.commit <= after.commit && after.commit <= after.last_log.index);
        let base = raft.base().index;
        assert!(
            base <= after.applied && after.applying <= after.commit.min(after.durable.max(base))
        );
        let _ = raft.deadline();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_peers_say_nothing_panics_and_nothing_goes_back(
        deeds in prop::collection::vec(deed(), 1..120),
    ) {
        play(deeds);
    }
}

#[test]
fn a_late_fetch_of_entries_the_log_no_longer_has_is_not_sent() {
    let mut cluster = common::Cluster::fetching();
    // The disk answers with the entry that stood there before: entry 2 of term 1.
    let mut entries = EntryBatch::new();
    entries.push(entry(1, 2));
    let fetched = Event::Fetched { purpose: FetchFor::Peer(n(2)), entries };
    cluster.step(n(1), fetched);
    cluster.collect(n(1));
    assert!(cluster.network.iter().all(|packet| packet.to != n(2)), "{:?}", cluster.network);
    // The leader asks again, and the disk answers with the right entries.
    assert_eq!(cluster.node(n(1)).fetches.back().unwrap().purpose, FetchFor::Peer(n(2)));
    while cluster.answer_fetch(n(1)) {}
    cluster.settle();
    assert_eq!(cluster.terms(n(2)), [1, 2, 2, 3]);
}

#[test]
fn the_host_may_not_finish_what_it_was_not_given() {
    let fails = |event: Event| {
        let mut raft = Raft::new(config(1, 3), Restored::default(), Ticks(0)).unwrap();
        let step = std::panic::AssertUnwindSafe(|| raft.step(Ticks(1), event));
        std::panic::catch_unwind(step).is_err()
    };
    let write = logdrive_raft::WriteId;
    assert!(fails(Event::Durable(Durable::new(logdrive_raft::GroupId(8), write(0)))));
    assert!(fails(Event::Durable(Durable::new(common::GROUP, write(1)))));
    assert!(fails(Event::Applied(LogIndex(1))));
    assert!(!fails(Event::Durable(Durable::new(common::GROUP, write(0)))));
}
