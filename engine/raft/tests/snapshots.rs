//! The log's base, releases and snapshots: the sentences of the paper's §7 and figure 13, and what goes wrong without the
//! rule that each test names. The state itself is no concern of the protocol: the test's host has it.

mod common;

use common::{Cluster, Image, config, log_of, n};
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, EntryBatch, Event, HardState, Heartbeat,
    InstallError, Installed, LogId, LogIndex, Message, NoTerm, NodeId, RequestVote, Role, Snapshot,
    Term, VoteReply,
};

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

fn i(index: u64) -> LogIndex {
    LogIndex(index)
}

fn snapshot(last: LogId, term: u64) -> Snapshot {
    Snapshot { last, voters: (1..=3).map(n).collect(), term: Term(term) }
}

/// Three replicas, led by 1 in term 1, with entries 1 to `last` committed and applied by all, or by all but 3.
fn led(last: u64, hears: bool) -> Cluster {
    let mut c = Cluster::new(3);
    c.elect(n(1));
    c.pass(6, true);
    if !hears {
        c.partition(&[3], &[1, 2]);
    }
    (2..=last).for_each(|index| assert!(c.propose(n(1), &format!("{index}")).is_ok()));
    c.settle();
    c.pass(6, true);
    assert_eq!(c.status(n(1)).applied, i(last));
    c
}

/// The state of `id` is kept, and its log released up to `to`.
fn release(c: &mut Cluster, id: NodeId, to: u64) {
    c.keep(id);
    c.release_log(id, to);
}

/// All that replica `id` owes goes to its disk, and nothing is delivered.
fn write(c: &mut Cluster, id: NodeId) {
    while c.collect(id) | c.sync(id, usize::MAX) {}
}

fn say(c: &mut Cluster, from: u64, to: u64, message: Message) {
    c.step(n(to), Event::Message { from: n(from), message });
    write(c, n(to));
}

fn append(term: u64, prev_log: LogId, commit: u64, terms: &[u64]) -> Message {
    let first = prev_log.index.get() + 1;
    let entries = terms.iter().zip(first..).map(|(&t, i)| common::entry(t, i)).collect();
    let entries = EntryBatch::from_entries(entries).unwrap();
    let (term, commit) = (Term(term), LogIndex(commit));
    Message::AppendEntries(AppendEntries { term, prev_log, commit, entries })
}

fn accepted(term: u64, match_index: u64) -> Message {
    let result = AppendResult::Accepted { match_index: i(match_index) };
    Message::AppendReply(AppendReply { term: Term(term), result })
}

/// Takes the messages to `to` from the network.
fn answers(c: &mut Cluster, to: u64) -> Vec<Message> {
    let (taken, left): (Vec<_>, Vec<_>) = c.network.drain(..).partition(|p| p.to == n(to));
    c.network = left;
    taken.into_iter().map(|packet| packet.message).collect()
}

fn base(c: &Cluster, of: u64) -> LogIndex {
    c.node(n(of)).raft.as_ref().unwrap().base().index
}

/// A follower in term 3, whose leader is 1, with the entries of `terms`, of which `commit` are known to be committed. All
/// others that `committed` names are committed by the leader.
fn follower(terms: &[u64], commit: u64, committed: &[u64]) -> Cluster {
    let mut c = Cluster::empty();
    let hard_state = |commit| HardState { term: Term(3), commit: i(commit), ..Default::default() };
    let all = committed.len() as u64;
    for of in [1, 2] {
        c.add(config(of, 3), Image::of(hard_state(all), log_of(committed)));
    }
    c.add(config(3, 3), Image::of(hard_state(commit), log_of(terms)));
    let matched = LogId::ZERO;
    let heartbeat = Heartbeat { term: Term(3), commit: LogIndex::ZERO, matched };
    say(&mut c, 1, 3, Message::Heartbeat(heartbeat));
    c.network.clear();
    c
}

// Releases

/// §7: "all servers take snapshots independently, covering just the committed entries". Entries that are not applied, not
/// durable in the log, or not kept outside it stay in the log, whatever the host asks for.
#[test]
fn only_what_is_applied_and_kept_is_released() {
    let asked = |to, kept| {
        let mut c = led(10, true);
        c.step(n(1), Event::Release { to: i(to), kept: i(kept) });
        base(&c, 1)
    };
    assert_eq!((asked(4, 10), asked(10, 4), asked(0, 10), asked(4, 0)), (i(4), i(4), i(0), i(0)));
    assert_eq!((asked(99, 10), asked(99, 99)), (i(10), i(10)), "nothing past what is applied");
    // 2 has entry 11 and has not applied it.
    let mut c = led(10, true);
    c.propose(n(1), "11").unwrap();
    c.collect(n(1));
    c.deliver(|p| p.to == n(2));
    write(&mut c, n(2));
    c.step(n(2), Event::Release { to: i(11), kept: i(11) });
    assert_eq!(base(&c, 2), i(10));
}

#[test]
fn a_release_goes_to_the_disk_with_the_hard_state_and_the_members_and_is_not_said_twice() {
    let mut c = led(10, true);
    release(&mut c, n(1), 6);
    c.collect(n(1));
    let write = c.node(n(1)).writes.back().unwrap();
    let release = write.release.as_ref().unwrap();
    assert_eq!((release.base, release.last), (id(1, 6), i(10)));
    assert_eq!(release.voters, [n(1), n(2), n(3)]);
    assert_eq!(write.hard_state.unwrap().term, Term(1));
    c.sync(n(1), 1);
    c.release_log(n(1), 6);
    c.release_log(n(1), 3);
    assert!(!c.collect(n(1)), "nothing is new");
}

#[test]
fn a_base_answers_with_its_term_and_what_is_released_is_no_end() {
    let mut c = led(10, true);
    release(&mut c, n(1), 6);
    let raft = c.node(n(1)).raft.as_ref().unwrap();
    assert_eq!(raft.term_at(i(6)), Ok(Term(1)));
    assert_eq!(raft.term_at(i(5)), Err(NoTerm::Released));
    assert_eq!(raft.term_at(i(11)), Err(NoTerm::PastEnd));
    assert_eq!(raft.base(), id(1, 6));
}

/// The machine opens at the base or behind it, and what was released is committed, whatever part of the release's write is
/// on the disk.
#[test]
fn a_crash_around_a_release_leaves_the_old_base_or_the_new_one() {
    for (kept, part, expected) in [(0, None, 0), (0, Some(0), 6), (1, None, 6)] {
        let mut c = led(10, true);
        release(&mut c, n(3), 6);
        c.collect(n(3));
        c.crash_within(n(3), kept, part);
        c.restart(n(3));
        assert_eq!(base(&c, 3), i(expected));
        assert!(c.status(n(3)).commit >= i(expected) && c.status(n(3)).applied == i(10));
        c.pass(20, true);
        assert_eq!(c.status(n(3)).applied, i(10));
    }
}

/// A group of whose log nothing is left goes on, also under another leader, and after all replicas restart.
#[test]
fn a_log_of_which_nothing_is_left_goes_on() {
    let mut c = led(10, true);
    c.ids().into_iter().for_each(|of| release(&mut c, of, 10));
    c.settle();
    for of in c.ids() {
        assert_eq!((base(&c, of.get()), c.terms(of)), (i(10), vec![]));
        c.crash(of, 0);
    }
    c.ids().into_iter().for_each(|of| c.restart(of));
    c.elect(n(2));
    c.propose(n(2), "12").unwrap();
    c.settle();
    c.pass(6, true);
    for of in c.ids() {
        assert_eq!((c.terms(of), c.status(of).applied), (vec![2, 2], i(12)));
    }
}

/// A machine that takes another's place is handed all that it lacks, or does not take it.
#[test]
fn no_machine_begins_before_the_base() {
    let mut c = led(10, true);
    release(&mut c, n(1), 6);
    let raft = c.nodes.get_mut(&n(1)).unwrap().raft.as_mut().unwrap();
    assert!(!raft.replace_machine(i(5)));
    assert!(raft.replace_machine(i(6)));
    let fetches = raft.ready().unwrap().fetch;
    assert_eq!((fetches[0].first, fetches[0].last), (i(7), i(10)));
}

// Probes before the base, heartbeats and votes

/// The bug: a probe before the base was dropped, for want of an entry to compare it with, and so was every later one
/// (hashicorp/raft issue 697 has the like).
#[test]
fn a_probe_before_the_base_is_acknowledged_at_the_base() {
    let mut c = led(10, true);
    release(&mut c, n(3), 8);
    write(&mut c, n(3));
    c.network.clear();
    // A new leader's guess, with and without entries up to the base, to it, and past it.
    for (prev, terms, expected) in
        [(2, &[][..], 8), (2, &[1, 1], 8), (2, &[1; 6], 8), (2, &[1; 8], 10), (7, &[1; 4], 11)]
    {
        say(&mut c, 2, 3, append(2, id(1, prev), 0, terms));
        assert_eq!(answers(&mut c, 2), [accepted(2, expected)], "{prev} {terms:?}");
    }
    assert_eq!(c.status(n(3)).last_log, id(1, 11));
    // No correct leader contradicts the base.
    say(&mut c, 2, 3, append(2, id(2, 2), 0, &[2; 4]));
    say(&mut c, 2, 3, append(2, id(1, 2), 0, &[1, 1, 1, 1, 1, 2]));
    assert_eq!((answers(&mut c, 2), c.status(n(3)).last_log), (vec![], id(1, 11)));
}

/// The acknowledgement of a base waits for the base to be durable, like any other.
#[test]
fn a_base_is_acknowledged_once_it_is_durable() {
    let mut c = led(10, true);
    release(&mut c, n(3), 8);
    let message = append(2, id(1, 2), 0, &[]);
    c.step(n(3), Event::Message { from: n(2), message });
    c.network.clear();
    c.collect(n(3));
    assert_eq!(answers(&mut c, 2), []);
    c.sync(n(3), 1);
    assert_eq!(answers(&mut c, 2), [accepted(2, 8)]);
}

#[test]
fn a_heartbeat_that_names_what_was_released_marks_nobody() {
    let mut c = led(10, true);
    release(&mut c, n(3), 8);
    for matched in [id(1, 3), id(1, 8)] {
        let heartbeat = Heartbeat { term: Term(1), commit: i(3), matched };
        say(&mut c, 1, 3, Message::Heartbeat(heartbeat));
        assert!(!c.status(n(3)).marked);
    }
    assert_eq!(c.status(n(3)).commit, i(10));
}

/// A leader released what a follower has told it to have: it names nothing in its heartbeats until the follower has more.
#[test]
fn a_leader_names_no_entry_that_it_has_let_go_of() {
    let mut c = led(4, true);
    c.partition(&[3], &[1, 2]);
    (5..=10).for_each(|_| assert!(c.propose(n(1), "x").is_ok()));
    c.settle();
    release(&mut c, n(1), 9);
    c.settle_among(&[n(1), n(2)]);
    c.network.clear();
    c.pass(4, false);
    c.collect(n(1));
    let told = answers(&mut c, 3);
    let none = Heartbeat { term: Term(1), commit: LogIndex::ZERO, matched: LogId::ZERO };
    assert_eq!(told, [Message::Heartbeat(none)]);
}

/// §5.4.1 with a log of which only the base is left.
#[test]
fn a_vote_is_judged_by_the_base_where_nothing_else_is_left() {
    let mut c = led(10, true);
    release(&mut c, n(3), 10);
    write(&mut c, n(3));
    c.crash(n(3), 0);
    c.restart(n(3));
    c.network.clear();
    for (term, last_log, granted) in [(5, id(1, 9), false), (6, id(1, 10), true)] {
        let request = RequestVote { term: Term(term), last_log };
        say(&mut c, 2, 3, Message::RequestVote(request));
        let reply = VoteReply { term: Term(term), granted };
        assert_eq!(answers(&mut c, 2), [Message::VoteReply(reply)]);
    }
}

// The leader's side

/// §7: "the leader must occasionally send snapshots to followers that lag behind. This happens when the leader has already
/// discarded the next log entry that it needs to send to a follower."
#[test]
fn a_follower_that_needs_what_was_discarded_is_offered_a_snapshot_once_and_sent_heartbeats() {
    let mut c = led(10, false);
    release(&mut c, n(1), 8);
    c.cut.clear();
    c.drop_packets(|_| true);
    c.trace.clear();
    for _ in 0..20 {
        c.pass(1, false);
        // Everything but the transfer.
        for _ in 0..20 {
            for of in c.ids() {
                c.collect(of);
                c.sync(of, usize::MAX);
                c.apply(of);
            }
            c.deliver(|_| true);
        }
    }
    let offers: Vec<_> = c.node(n(1)).offers.iter().map(|o| (o.peer, o.least)).collect();
    assert_eq!(offers, [(n(3), i(8))], "{}", c.trace);
    let probes = c.trace.lines().filter(|line| line.contains("1->3 AppendEntries")).count();
    assert!(probes <= 2, "{}", c.trace);
    assert!(c.trace.matches("1->3 Heartbeat").count() > 4, "{}", c.trace);
    assert_eq!((c.leader(), c.status(n(3)).term), (Some(n(1)), Term(1)), "it hears its leader");
    // The snapshot arrives, and the rest comes by appends.
    c.pass(6, true);
    assert_eq!(c.status(n(3)).applied, i(10), "{}", c.trace);
    assert_eq!(base(&c, 3), i(10), "the state was kept at 10");
}

/// A follower whose entries were in flight or next to be sent when they were released.
#[test]
fn a_follower_that_keeps_up_too_slowly_is_offered_a_snapshot() {
    let mut c = led(4, true);
    c.partition(&[3], &[1, 2]);
    // More than the window of 8 appends: the rest was never sent.
    for _ in 0..30 {
        c.propose(n(1), "x").unwrap();
        c.settle_among(&[n(1), n(2)]);
    }
    release(&mut c, n(1), 10);
    c.settle_among(&[n(1), n(2)]);
    assert!(c.node(n(1)).offers.is_empty(), "up to 12 it was sent: {}", c.trace);
    release(&mut c, n(1), 30);
    c.settle_among(&[n(1), n(2)]);
    let offers: Vec<_> = c.node(n(1)).offers.iter().map(|o| (o.peer, o.least)).collect();
    assert_eq!(offers, [(n(3), i(30))]);
    c.cut.clear();
    c.pass(10, true);
    assert_eq!(c.status(n(3)).applied, i(34), "{}", c.trace);
}

/// The answer to an installed snapshot was lost, or the transfer was given up: the leader asks once it hears the peer, and
/// offers again if the peer still needs one. A transfer that ends at once is not offered again as fast as messages go.
#[test]
fn a_transfer_that_ended_is_followed_by_a_probe_and_the_probe_by_an_offer_or_appends() {
    let mut c = led(10, false);
    release(&mut c, n(1), 8);
    c.cut.clear();
    c.drop_packets(|_| true);
    let offered = |c: &mut Cluster| {
        for _ in 0..20 {
            for of in c.ids() {
                c.collect(of);
                c.sync(of, usize::MAX);
            }
            c.deliver(|_| true);
        }
        c.nodes.get_mut(&n(1)).unwrap().offers.drain(..).count()
    };
    c.pass(4, false);
    assert_eq!(offered(&mut c), 1);
    for _ in 0..3 {
        c.step(n(1), Event::TransferEnded(n(3)));
        assert_eq!(offered(&mut c), 0, "not before the peer is heard");
        c.pass(4, false);
        assert_eq!(offered(&mut c), 1);
    }
    // Now it installs, and the answer is lost.
    let snapshot = c.snapshot(n(1), n(1));
    assert!(matches!(c.install(n(3), snapshot), Ok(Installed::Taken { .. })));
    write(&mut c, n(3));
    c.drop_packets(|p| p.from == n(3));
    c.step(n(1), Event::TransferEnded(n(3)));
    c.pass(4, false);
    assert_eq!(offered(&mut c), 0);
    assert_eq!(c.status(n(3)).last_log, c.status(n(1)).last_log);
    // The end of a transfer that is none changes nothing.
    c.step(n(1), Event::TransferEnded(n(3)));
    c.step(n(2), Event::TransferEnded(n(1)));
    c.propose(n(1), "more").unwrap();
    c.settle();
    assert_eq!(c.status(n(3)).last_log, c.status(n(1)).last_log);
}

/// The log goes on being released while a snapshot travels: what was installed is too old by then, and is offered anew.
#[test]
fn a_snapshot_that_is_too_old_when_it_arrives_is_followed_by_another_offer() {
    let mut c = led(10, false);
    release(&mut c, n(1), 8);
    c.cut.clear();
    c.drop_packets(|_| true);
    c.pass(4, false);
    for _ in 0..6 {
        c.ids().into_iter().for_each(|of| write(&mut c, of));
        c.deliver(|_| true);
    }
    assert_eq!(c.nodes.get_mut(&n(1)).unwrap().offers.drain(..).count(), 1);
    let old = c.snapshot(n(1), n(1));
    (11..=20).for_each(|_| assert!(c.propose(n(1), "x").is_ok()));
    c.settle_among(&[n(1), n(2)]);
    release(&mut c, n(1), 20);
    c.install(n(3), old).unwrap();
    c.settle();
    c.pass(6, true);
    assert_eq!(c.status(n(3)).applied, i(20), "{}", c.trace);
    assert_eq!(base(&c, 3), i(20));
}

/// A marked replica (it has lost what it acknowledged) whose leader has let go of what it lacks.
#[test]
fn a_marked_replica_takes_a_snapshot_and_vouches_for_it_once_it_is_readmitted() {
    let mut c = led(10, true);
    release(&mut c, n(1), 9);
    c.settle();
    c.crash(n(3), 0);
    let disk = &mut c.nodes.get_mut(&n(3)).unwrap().durable;
    disk.entries.truncate(5);
    disk.hard_state.commit = disk.hard_state.commit.min(disk.last());
    c.restart(n(3));
    c.trace.clear();
    c.propose(n(1), "11").unwrap();
    c.pass(30, true);
    assert!(
        c.trace.contains("marked") && c.trace.contains("AppendReply t1 taken 10"),
        "{}",
        c.trace
    );
    assert!(!c.status(n(3)).marked, "{}", c.trace);
    assert_eq!(c.status(n(3)).last_log, c.status(n(1)).last_log);
}

// The follower's side: figure 13

/// "If existing log entry has same index and term as snapshot's last included entry, retain log entries following it."
#[test]
fn entries_behind_the_snapshots_last_one_are_kept_13() {
    let mut c = follower(&[1, 1, 2, 2, 3, 3], 2, &[1, 1, 2, 2]);
    let installed = c.install(n(3), snapshot(id(2, 4), 3));
    assert_eq!(installed, Ok(Installed::Taken { first: i(1), last: i(4) }));
    write(&mut c, n(3));
    let status = c.status(n(3));
    assert_eq!((status.last_log, status.durable, status.commit), (id(3, 6), i(6), i(4)));
    assert_eq!((c.terms(n(3)), answers(&mut c, 1)), (vec![3, 3], vec![accepted(3, 4)]));
}

/// "Discard the entire log": the entry at the snapshot's index is another one, or there is none.
#[test]
fn a_log_without_the_snapshots_last_entry_is_replaced_whole_13() {
    for terms in [&[1, 1, 1, 1, 1, 1][..], &[1, 1, 2], &[]] {
        let mut c = follower(terms, terms.len().min(2) as u64, &[1, 1, 2, 2]);
        let installed = c.install(n(3), snapshot(id(2, 4), 3));
        assert_eq!(installed, Ok(Installed::Taken { first: i(1), last: i(4) }));
        c.collect(n(3));
        let write = c.node(n(3)).writes.back().unwrap();
        let release = write.release.as_ref().unwrap();
        assert_eq!((release.base, release.last), (id(2, 4), i(4)));
        assert_eq!(write.hard_state.unwrap().commit, i(4));
        c.sync(n(3), 1);
        assert_eq!((c.status(n(3)).last_log, c.terms(n(3))), (id(2, 4), vec![]));
        assert_eq!(answers(&mut c, 1), [accepted(3, 4)]);
        // It goes on from there.
        say(&mut c, 1, 3, append(3, id(2, 4), 5, &[3, 3]));
        assert_eq!(answers(&mut c, 1), [accepted(3, 6)]);
        assert_eq!(c.status(n(3)).commit, i(5));
    }
}

/// The bug (camunda issue 6092): a snapshot that came late took back newer entries, which had been acknowledged.
#[test]
fn a_late_snapshot_changes_nothing_and_is_acknowledged() {
    let mut c = follower(&[1, 1, 2, 2, 3, 3], 4, &[1, 1, 2, 2]);
    for last in [id(1, 2), id(2, 4)] {
        let before = c.status(n(3));
        assert_eq!(c.install(n(3), snapshot(last, 3)), Ok(Installed::Late));
        assert_eq!(c.status(n(3)), before);
        write(&mut c, n(3));
        assert_eq!(answers(&mut c, 1), [accepted(3, last.index.get())]);
    }
    assert_eq!((base(&c, 3), c.terms(n(3))), (i(0), vec![1, 1, 2, 2, 3, 3]));
}

/// Rule 10 for snapshots: before its write is durable, a crash leaves the old log, or none of its end.
#[test]
fn an_install_is_acknowledged_once_it_is_durable() {
    for part in [None, Some(0)] {
        let mut c = follower(&[1, 1, 1, 1, 1], 2, &[1, 1, 2, 2]);
        c.install(n(3), snapshot(id(2, 4), 3)).unwrap();
        let status = c.status(n(3));
        assert_eq!((status.applied, status.durable), (i(4), i(0)));
        c.collect(n(3));
        assert_eq!(answers(&mut c, 1), []);
        c.crash_within(n(3), 0, part);
        c.restart(n(3));
        let expected = if part.is_some() { (i(4), vec![]) } else { (i(0), vec![1; 5]) };
        assert_eq!((base(&c, 3), c.terms(n(3))), expected);
    }
}

/// Writes of the old log are in flight when the snapshot replaces it. Their ends vouch for nothing.
#[test]
fn writes_of_the_replaced_log_release_no_acknowledgement_of_the_snapshot() {
    let mut c = follower(&[1, 1], 2, &[1, 1, 2, 2]);
    let message = append(3, id(1, 2), 2, &[1, 1, 1]);
    c.step(n(3), Event::Message { from: n(1), message });
    c.collect(n(3));
    c.install(n(3), snapshot(id(2, 4), 3)).unwrap();
    c.collect(n(3));
    assert_eq!(c.node(n(3)).writes.len(), 2);
    c.network.clear();
    c.sync(n(3), 1);
    assert_eq!(c.status(n(3)).durable, i(0));
    assert!(!answers(&mut c, 1).contains(&accepted(3, 4)));
    c.sync(n(3), 1);
    assert_eq!((c.status(n(3)).durable, answers(&mut c, 1)), (i(4), vec![accepted(3, 4)]));
}

/// Commands that were proposed here, when this replica led, wait for entries that the snapshot passes over (scylladb pull
/// request 10640): the host is told which are not handed out.
#[test]
fn entries_that_are_passed_over_are_told_and_never_handed_out() {
    let mut c = led(4, true);
    c.partition(&[1], &[2, 3]);
    c.propose(n(1), "lost").unwrap();
    c.collect(n(1));
    c.sync(n(1), 1);
    c.pass(40, true);
    let leader = c.leader().unwrap();
    assert_ne!(leader, n(1));
    (0..5).for_each(|_| assert!(c.propose(leader, "x").is_ok()));
    c.settle();
    release(&mut c, leader, 99);
    let snapshot = c.snapshot(leader, leader);
    let applied = c.status(n(1)).applied;
    let passed = Installed::Taken { first: applied.next(), last: snapshot.last.index };
    assert_eq!(c.install(n(1), snapshot), Ok(passed));
    c.cut.clear();
    c.pass(20, true);
    // The ghost checks that each replica applies in order, from where its machine is.
    assert_eq!(c.status(n(1)).applied, c.status(leader).applied);
}

/// A vote and a term are as before; a snapshot of a later term brings that term.
#[test]
fn terms_and_votes_are_as_before_an_install() {
    let mut c = follower(&[1, 1], 2, &[1, 1, 2, 2]);
    let request = RequestVote { term: Term(5), last_log: id(1, 2) };
    c.pass(30, false);
    say(&mut c, 2, 3, Message::RequestVote(request));
    c.network.clear();
    c.install(n(3), snapshot(id(2, 4), 3)).unwrap();
    write(&mut c, n(3));
    let saved = c.node(n(3)).durable.hard_state;
    assert_eq!((saved.term, saved.voted_for, saved.commit), (Term(5), Some(n(2)), i(4)));
    assert_eq!(c.network.len(), 0, "no leader is known");
    // The vote of that term is given, and the log is judged as it is now.
    for (from, last_log, granted) in
        [(1, id(3, 9), false), (2, id(1, 2), false), (2, id(2, 4), true)]
    {
        let request = RequestVote { term: Term(5), last_log };
        say(&mut c, from, 3, Message::RequestVote(request));
        let reply = VoteReply { term: Term(5), granted };
        assert_eq!(answers(&mut c, from), [Message::VoteReply(reply)]);
    }
    let mut c = follower(&[1, 1], 2, &[1, 1, 2, 2]);
    c.install(n(3), snapshot(id(2, 4), 7)).unwrap();
    write(&mut c, n(3));
    let saved = c.node(n(3)).durable.hard_state;
    assert_eq!((saved.term, saved.voted_for), (Term(7), None));
    assert_eq!(c.network.len(), 0, "the leader of term 7 is not known");
}

#[test]
fn a_snapshot_that_cannot_be_is_refused_and_changes_nothing() {
    let mut c = follower(&[1, 1, 2], 2, &[1, 1, 2, 2]);
    let before = c.status(n(3));
    let far = Snapshot { term: Term(1 << 50), ..snapshot(id(2, 4), 3) };
    for snapshot in [
        snapshot(LogId::ZERO, 3),
        snapshot(id(0, 4), 3),
        snapshot(id(2, 0), 3),
        snapshot(id(2, u64::MAX), 3),
        snapshot(id(4, 4), 3),
        snapshot(id(2, 4), u64::MAX),
        far,
        // Of another history: what is committed stands there, or before there, with another term.
        snapshot(id(2, 2), 3),
        Snapshot { last: id(3, 1), ..snapshot(id(3, 1), 3) },
    ] {
        let refused = c.install(n(3), snapshot.clone());
        assert!(matches!(refused, Err(InstallError::Impossible(_))), "{snapshot:?}: {refused:?}");
    }
    for voters in [&[1, 2][..], &[1, 2, 4], &[]] {
        let voters = voters.iter().map(|v| n(*v)).collect();
        let refused = c.install(n(3), Snapshot { voters, ..snapshot(id(2, 4), 3) });
        assert!(matches!(refused, Err(InstallError::OtherVoters { .. })), "{refused:?}");
    }
    assert_eq!(c.status(n(3)), before);
    write(&mut c, n(3));
    assert_eq!(c.network.len(), 0);
}

#[test]
fn a_leader_installs_nothing_of_its_own_term() {
    let mut c = led(10, true);
    c.keep(n(2));
    let own = c.snapshot(n(2), n(1));
    assert_eq!(c.install(n(1), own), Err(InstallError::Leads));
    assert_eq!(c.role(n(1)), Role::Leader);
}

/// The disk has no room for the install's write (RULES.md W10). The log in memory stays behind its base, and the disk is
/// told of it again with the next write.
#[test]
fn an_install_whose_write_is_withdrawn_is_written_again() {
    let mut c = follower(&[1, 1, 1, 1, 1], 2, &[1, 1, 2, 2]);
    c.install(n(3), snapshot(id(2, 4), 3)).unwrap();
    c.collect(n(3));
    let node = c.nodes.get_mut(&n(3)).unwrap();
    let write_id = node.writes.pop_back().unwrap().id;
    node.promises.clear();
    c.step(n(3), Event::Withdrawn(write_id));
    c.collect(n(3));
    let again = c.node(n(3)).writes.back().unwrap();
    assert_eq!(again.release.as_ref().unwrap().base, id(2, 4));
    c.sync(n(3), 1);
    assert_eq!((c.status(n(3)).durable, c.status(n(3)).commit), (i(4), i(4)));
}
