//! A replica whose log is shorter than what it acknowledged, under the leader that knows (RULES.md C3, W8).
//!
//! A disk reports entries as durable, loses them at the next power cut, and keeps no trace of the loss. The bug: the
//! replica dropped its leader's heartbeat as one that no correct leader sends, and nothing was logged. The replica caught
//! up only if something new was proposed, and it voted: with its vote, committed entries can be lost.

mod common;

use common::{Cluster, Image, config, log_of, n};
use logdrive_raft::{
    AppendReply, AppendResult, Event, HardState, Heartbeat, HeartbeatReply, LogId, LogIndex,
    Message, NodeId, RequestVote, Role, Term,
};

/// A cluster led by 1 in which entries 1 to `last` are on every replica and committed.
fn with_entries(voters: u64, last: u64) -> Cluster {
    let mut c = Cluster::new(voters);
    c.elect(n(1));
    (2..=last).for_each(|i| assert!(c.propose(n(1), &format!("{i}")).is_ok()));
    c.settle();
    c.pass(6, true);
    assert_eq!(c.status(n(3)).commit, LogIndex(last));
    c
}

/// A replica dies and comes back with only the first `kept` entries of its log. With `is_told`, its peers notice that it
/// was away.
fn lose_the_end(c: &mut Cluster, id: NodeId, kept: usize, is_told: bool) {
    c.crash(id, 0);
    let disk = &mut c.nodes.get_mut(&id).unwrap().durable;
    disk.entries.truncate(kept);
    disk.hard_state.commit = disk.hard_state.commit.min(disk.last());
    c.restart(id);
    for other in c.ids() {
        if is_told && other != id {
            c.step(other, Event::Unreachable(id));
        }
    }
    c.trace.clear();
}

fn restart(c: &mut Cluster, id: NodeId) {
    c.crash(id, 0);
    c.restart(id);
}

fn is_marked(c: &Cluster, id: NodeId) -> bool {
    c.status(id).marked
}

fn caught_up(c: &Cluster) {
    let (one, three) = (c.status(n(1)), c.status(n(3)));
    assert_eq!(one.role, Role::Leader, "{}", c.trace);
    assert_eq!(three.last_log, one.last_log, "{}", c.trace);
    assert_eq!(three.applied, one.applied, "{}", c.trace);
    assert!(c.trace.contains("marked"), "it was never marked:\n{}", c.trace);
    assert!(!three.marked, "{}", c.trace);
}

#[test]
fn without_proposals_it_catches_up() {
    for is_told in [true, false] {
        let mut c = with_entries(3, 10);
        lose_the_end(&mut c, n(3), 6, is_told);
        c.pass(30, true);
        caught_up(&c);
    }
}

#[test]
fn with_proposals_it_catches_up() {
    for is_told in [true, false] {
        let mut c = with_entries(3, 10);
        lose_the_end(&mut c, n(3), 6, is_told);
        for i in 0..30 {
            c.propose(n(1), &format!("more {i}")).unwrap();
            c.pass(1, true);
        }
        c.pass(6, true);
        caught_up(&c);
    }
}

/// The replica is told of its loss once, not again and again, and says little itself.
#[test]
fn what_it_is_asked_and_asks_is_little() {
    let mut c = with_entries(3, 10);
    lose_the_end(&mut c, n(3), 6, true);
    c.pass(100, true);
    let said = |what: &str| c.trace.lines().filter(|line| line.contains(what)).count();
    assert!(said("3->1 Marked") <= 2 && said("3->2 Marked") == 1, "{}", c.trace);
    assert!(said("1->3 AppendEntries") <= 3, "{}", c.trace);
}

/// The replica's disk is slow, so its mark is not durable and its `Marked` message has not left. The bug: the leader's
/// heartbeat, its answer, the probe that followed and its refusal went round as fast as messages travel.
#[test]
fn until_its_mark_is_durable_it_is_told_once_in_a_heartbeat() {
    let mut c = with_entries(3, 10);
    lose_the_end(&mut c, n(3), 6, true);
    c.propose(n(1), "more").unwrap();
    for _ in 0..9 {
        c.pass(1, false);
        for _ in 0..100 {
            for id in c.ids() {
                c.collect(id);
            }
            for id in [1, 2] {
                c.sync(n(id), usize::MAX);
            }
            c.deliver(|_| true);
        }
    }
    assert!(is_marked(&c, n(3)));
    let said = |what: &str| c.trace.lines().filter(|line| line.starts_with(what)).count();
    assert!(said("1->3 Heartbeat") <= 4 && said("1->3 ") <= 8, "{}", c.trace);
    c.pass(30, true);
    caught_up(&c);
}

/// Entries that only 1 and 3 have are committed. 3 loses them, and is told. No replica without them is elected.
#[test]
fn what_it_is_known_to_have_lost_is_not_lost_by_its_vote() {
    let mut c = with_entries(3, 6);
    c.partition(&[2], &[1, 3]);
    (7..=10).for_each(|i| assert!(c.propose(n(1), &format!("{i}")).is_ok()));
    c.settle();
    assert_eq!(c.status(n(1)).commit, LogIndex(10), "committed by 1 and 3");
    lose_the_end(&mut c, n(3), 6, true);
    // 3 hears heartbeats, and gets no entries.
    for _ in 0..6 {
        c.pass(1, false);
        c.settle_without_appends();
    }
    assert!(c.trace.contains("1->3 Heartbeat t1 commit 10"), "3 is told:\n{}", c.trace);
    assert!(is_marked(&c, n(3)));
    c.cut.clear();
    c.partition(&[1], &[2, 3]);
    c.drop_packets(|_| true);
    c.pass(60, true);
    assert!(c.role(n(2)) != Role::Leader && c.role(n(3)) != Role::Leader, "{}", c.trace);
    c.cut.clear();
    c.pass(60, true);
    assert_eq!(c.status(n(2)).commit, c.status(n(1)).commit);
    assert!(c.status(n(1)).commit >= LogIndex(10) && !is_marked(&c, n(3)));
}

/// The lost entries had replaced others, which are there again: the log is as long as the one that was acknowledged.
#[test]
fn a_log_of_the_same_length_is_no_proof() {
    let mut c = Cluster::empty();
    for (id, terms) in [(1, &[1, 1, 3, 3][..]), (2, &[1, 1, 3, 3]), (3, &[1, 1, 2, 2, 2])] {
        let hard_state = HardState { term: Term(3), ..HardState::default() };
        c.add(config(id, 3), Image::of(hard_state, log_of(terms)));
    }
    let old = c.nodes[&n(3)].durable.entries.clone();
    c.elect(n(1));
    c.pass(6, true);
    assert_eq!(c.status(n(3)).commit, LogIndex(5));
    c.crash(n(3), 0);
    let disk = &mut c.nodes.get_mut(&n(3)).unwrap().durable;
    disk.entries = old;
    disk.hard_state.commit = LogIndex(2);
    c.restart(n(3));
    c.trace.clear();
    c.pass(30, true);
    caught_up(&c);
}

/// The mark is on the replica's disk before the replica says anything that follows from it, and outlives a crash.
#[test]
fn the_mark_outlives_a_crash() {
    let mut c = with_entries(3, 10);
    lose_the_end(&mut c, n(3), 6, true);
    c.cut.insert((n(3), n(2)));
    c.pass(30, true);
    assert!(is_marked(&c, n(3)) && c.nodes[&n(3)].durable.hard_state.marked);
    assert_eq!(c.status(n(3)).last_log, c.status(n(1)).last_log, "it takes entries");
    restart(&mut c, n(3));
    assert!(is_marked(&c, n(3)));
    // A marked replica neither votes nor stands: with 1 away there is no leader.
    c.partition(&[1], &[2, 3]);
    c.cut.remove(&(n(3), n(2)));
    c.pass(60, true);
    assert!(c.role(n(2)) != Role::Leader && c.role(n(3)) != Role::Leader, "{}", c.trace);
    assert!(!c.trace.contains("3 sends to 2 PreVote "), "{}", c.trace);
    c.cut.clear();
    c.pass(60, true);
    assert!(!is_marked(&c, n(3)), "{}", c.trace);
    restart(&mut c, n(3));
    assert!(!is_marked(&c, n(3)), "the mark is back after a crash");
}

/// 2 may be the candidate that got a vote which 3 has forgotten: without 2's term 3 is not readmitted.
#[test]
fn without_the_word_of_every_voter_it_is_not_readmitted() {
    let mut c = with_entries(3, 10);
    c.crash(n(2), 0);
    lose_the_end(&mut c, n(3), 6, true);
    let commit = c.status(n(1)).commit;
    assert!(c.propose(n(1), "one more").is_ok());
    c.pass(100, true);
    assert!(is_marked(&c, n(3)), "{}", c.trace);
    assert_eq!(c.status(n(3)).last_log, c.status(n(1)).last_log, "it takes entries");
    assert_eq!(c.status(n(1)).commit, commit, "and acknowledges none: {}", c.trace);
    c.restart(n(2));
    c.pass(30, true);
    assert!(!is_marked(&c, n(3)), "{}", c.trace);
    assert!(c.status(n(1)).commit > commit);
}

/// 2 stands for election in term 2, and 3 votes for it. The vote is durable, and the answer under way.
fn vote_for_2(c: &mut Cluster) {
    c.step(n(2), Event::Campaign);
    for _ in 0..6 {
        [2, 3].iter().for_each(|id| {
            c.collect(n(*id));
            c.sync(n(*id), usize::MAX);
        });
        c.deliver(|p| !matches!(p.message, Message::VoteReply(_)));
    }
    let voted = c.nodes[&n(3)].durable.hard_state;
    assert_eq!((voted.term, voted.voted_for), (Term(2), Some(n(2))), "{}", c.trace);
}

/// The disk of 3 loses what it took since `before`, and the entries behind the sixth.
fn lose_vote(c: &mut Cluster, before: Image) {
    c.crash(n(3), 0);
    let disk = &mut c.nodes.get_mut(&n(3)).unwrap().durable;
    *disk = before;
    disk.entries.truncate(6);
    disk.hard_state.commit = LogIndex(6);
    c.restart(n(3));
}

/// 3 voted for 2 in term 2, and forgets that together with the end of its log. It must not vote for another in that term.
#[test]
fn a_forgotten_vote_is_not_given_twice() {
    let mut c = with_entries(3, 10);
    let before = c.nodes[&n(3)].durable.clone();
    c.partition(&[1], &[2, 3]);
    c.pass(11, false);
    c.drop_packets(|_| true);
    vote_for_2(&mut c);
    // The vote is under way. 3 loses it, and entries that 1 knows of; 1 still leads term 1.
    lose_vote(&mut c, before);
    let heartbeat = Heartbeat {
        term: Term(1),
        commit: LogIndex(10),
        matched: LogId { term: Term(1), index: LogIndex(10) },
    };
    c.step(n(3), Event::Message { from: n(1), message: Message::Heartbeat(heartbeat) });
    c.collect(n(3));
    c.sync(n(3), usize::MAX);
    assert!(is_marked(&c, n(3)));
    // 2 states its term, so 3 takes at least that term before it is readmitted.
    c.cut.clear();
    c.pass(60, true);
    assert!(!is_marked(&c, n(3)), "{}", c.trace);
    assert!(c.nodes[&n(3)].durable.hard_state.term >= Term(2));
}

/// As before, and 1 has let go of all that 3 acknowledged. The bug: 1 named nothing in its heartbeats then, so 3 was not
/// marked and could vote a second time in term 2.
#[test]
fn a_forgotten_vote_is_not_given_twice_where_the_leader_has_released_what_was_lost() {
    let mut c = with_entries(3, 10);
    c.partition(&[3], &[1, 2]);
    (11..=12).for_each(|i| assert!(c.propose(n(1), &format!("{i}")).is_ok()));
    c.settle_among(&[n(1), n(2)]);
    c.keep(n(1));
    c.release_log(n(1), 12);
    c.settle_among(&[n(1), n(2)]);
    assert_eq!(c.node(n(1)).raft.as_ref().unwrap().base().index, LogIndex(12));
    c.cut.clear();
    c.partition(&[1], &[2, 3]);
    c.pass(8, false);
    // A late answer keeps 1 the leader of term 1.
    let message = Message::HeartbeatReply(HeartbeatReply { term: Term(1) });
    c.step(n(1), Event::Message { from: n(2), message });
    c.pass(4, false);
    c.drop_packets(|_| true);
    let before = c.nodes[&n(3)].durable.clone();
    vote_for_2(&mut c);
    lose_vote(&mut c, before);
    c.cut.clear();
    c.pass(3, false);
    c.collect(n(1));
    c.deliver(|p| (p.from, p.to) == (n(1), n(3)));
    assert_eq!((c.role(n(1)), c.status(n(3)).term), (Role::Leader, Term(1)), "{}", c.trace);
    assert!(is_marked(&c, n(3)), "{}", c.trace);
    c.pass(60, true);
    assert!(!is_marked(&c, n(3)), "{}", c.trace);
    assert!(c.nodes[&n(3)].durable.hard_state.term >= Term(2));
    assert!(c.status(n(3)).commit >= LogIndex(12), "{}", c.trace);
}

/// An acknowledgement from before the loss is still under way when 3 is marked and all terms are stated.
#[test]
fn a_late_acknowledgement_from_before_the_loss_does_not_count() {
    let mut c = with_entries(3, 10);
    c.partition(&[2], &[1, 3]);
    assert!(c.propose(n(1), "11").is_ok());
    [1, 3, 1].iter().for_each(|id| {
        c.collect(n(*id));
        c.sync(n(*id), usize::MAX);
        c.deliver(|p| p.to == n(3));
    });
    c.collect(n(3));
    c.sync(n(3), usize::MAX);
    let late = c.network.iter().position(|p| p.from == n(3) && p.to == n(1));
    let late = c.network.remove(late.expect("it acknowledges entry 11"));
    lose_the_end(&mut c, n(3), 6, true);
    // Everyone's term is stated, and nobody gets entries.
    for _ in 0..10 {
        c.pass(1, false);
        c.settle_without_appends();
    }
    c.cut.clear();
    for _ in 0..10 {
        c.pass(1, false);
        c.settle_without_appends();
    }
    assert!(c.trace.contains("TermStated"), "{}", c.trace);
    let commit = c.status(n(1)).commit;
    assert_eq!(commit, LogIndex(10));
    c.step(n(1), Event::Message { from: n(3), message: late.message });
    assert_eq!(c.status(n(1)).commit, commit, "3 has lost entry 11: {}", c.trace);
    c.pass(60, true);
    caught_up(&c);
}

/// 1 and 2 do not hear each other, so no majority is without 3. Once 3 is readmitted, an entry from before is committed
/// too, by way of a no-op behind it.
#[test]
fn a_readmitted_replica_counts_again() {
    let mut c = with_entries(3, 10);
    lose_the_end(&mut c, n(3), 6, true);
    c.partition(&[2], &[1]);
    assert!(c.propose(n(1), "11").is_ok());
    c.pass(60, true);
    assert!(!is_marked(&c, n(3)), "{}", c.trace);
    let leader = c.leader().expect("there is one");
    assert!(c.status(leader).commit >= LogIndex(11), "{}", c.trace);
}

/// The bug: each pair of answers, "taken" and "accepted", made the leader's log longer by a no-op, as fast as messages
/// travel.
#[test]
fn answers_make_the_log_longer_by_one_no_op_in_a_heartbeat() {
    let mut c = with_entries(3, 10);
    c.partition(&[2, 3], &[1]);
    c.propose(n(1), "11").unwrap();
    for _ in 0..2 {
        let before = c.status(n(1)).last_log.index;
        for _ in 0..1000 {
            for taken in [true, false] {
                let match_index = c.status(n(1)).last_log.index;
                let result = match taken {
                    true => AppendResult::Taken { match_index },
                    false => AppendResult::Accepted { match_index },
                };
                let message = Message::AppendReply(AppendReply { term: Term(1), result });
                c.step(n(1), Event::Message { from: n(3), message });
                c.collect(n(1));
                c.drop_packets(|_| true);
            }
        }
        assert_eq!(c.status(n(1)).last_log.index, before, "{}", c.trace);
        c.pass(config(1, 3).heartbeat_ticks, false);
        assert_eq!(c.status(n(1)).last_log.index, before.next(), "{}", c.trace);
    }
}

/// Two of three replicas have lost committed entries that 1 knows of. They catch up, and nothing is lost.
#[test]
fn a_majority_that_is_marked_halts_until_it_has_all_that_is_committed() {
    let mut c = with_entries(3, 10);
    lose_the_end(&mut c, n(2), 6, true);
    lose_the_end(&mut c, n(3), 8, true);
    for _ in 0..6 {
        c.pass(1, false);
        c.settle_without_appends();
    }
    assert!(is_marked(&c, n(2)) && is_marked(&c, n(3)));
    assert!(c.propose(n(1), "11").is_ok());
    c.pass(60, true);
    assert!(!is_marked(&c, n(2)) && !is_marked(&c, n(3)), "{}", c.trace);
    assert_eq!(c.status(n(1)).role, Role::Leader);
    assert_eq!(c.status(n(1)).commit, c.status(n(1)).last_log.index);
}

/// A false claim, of entries that no replica ever had, marks a sound replica. Its readmission does not depend on the
/// claim.
#[test]
fn a_false_claim_silences_nobody_for_ever() {
    let mut c = with_entries(3, 10);
    let matched = LogId { term: Term(1), index: LogIndex(1 << 40) };
    let claim = Heartbeat { term: Term(1), commit: LogIndex(10), matched };
    c.step(n(3), Event::Message { from: n(1), message: Message::Heartbeat(claim) });
    assert!(is_marked(&c, n(3)));
    c.pass(10, true);
    assert!(!is_marked(&c, n(3)), "{}", c.trace);
    // A claim that contradicts what is committed marks no replica.
    let matched = LogId { term: Term(1), index: LogIndex(10) };
    let claim = Heartbeat {
        term: Term(5),
        commit: LogIndex(10),
        matched: LogId { term: Term(4), ..matched },
    };
    c.step(n(3), Event::Message { from: n(2), message: Message::Heartbeat(claim) });
    assert!(!is_marked(&c, n(3)) && c.status(n(3)).term == Term(1));
}

fn vote(term: u64) -> Message {
    let last_log = LogId { term: Term(1), index: LogIndex(10) };
    Message::RequestVote(RequestVote { term: Term(term), last_log })
}

/// A marked replica grants neither a vote nor a pre-vote, in any term, however good the candidate's log is.
#[test]
fn a_marked_replica_refuses_its_vote() {
    let mut c = with_entries(3, 10);
    lose_the_end(&mut c, n(3), 6, true);
    c.partition(&[2], &[1, 3]);
    c.pass(10, true);
    assert!(is_marked(&c, n(3)));
    c.crash(n(1), 0);
    c.pass(30, false);
    c.cut.clear();
    c.trace.clear();
    c.pass(30, true);
    c.step(n(3), Event::Message { from: n(2), message: vote(2) });
    c.settle();
    assert!(c.trace.contains("3->2 VoteReply t2 no"), "{}", c.trace);
    assert!(c.role(n(2)) != Role::Leader, "{}", c.trace);
}

/// Entries that a marked replica took and then had no room for are gone: once readmitted, it must not acknowledge them.
#[test]
fn a_readmitted_replica_does_not_acknowledge_what_it_had_no_room_for() {
    let mut c = with_entries(3, 10);
    c.crash(n(2), 0);
    lose_the_end(&mut c, n(3), 6, true);
    c.pass(100, true);
    assert!(is_marked(&c, n(3)), "{}", c.trace);
    let has = c.status(n(3)).last_log;
    assert!(c.propose(n(1), "no room").is_ok());
    let is_append = |packet: &common::Packet| matches!(packet.message, Message::AppendEntries(_));
    while c.collect(n(1)) | c.sync(n(1), usize::MAX) {}
    while c.deliver(|packet| packet.to == n(3) && is_append(packet)) {}
    c.collect(n(3));
    assert!(c.status(n(3)).last_log.index > has.index, "{}", c.trace);
    let node = c.nodes.get_mut(&n(3)).unwrap();
    let write = node.writes.pop_back().expect("of the entry").id;
    node.promises.retain(|promises| promises.after() < write);
    c.step(n(3), Event::Withdrawn(write));
    assert_eq!(c.status(n(3)).last_log, has);
    // The last voter states its term, and all appends are lost.
    c.restart(n(2));
    for _ in 0..60 {
        c.pass(1, false);
        loop {
            let ids = c.ids();
            let turn = |c: &mut Cluster, id| c.collect(id) | c.sync(id, usize::MAX) | c.apply(id);
            let has_worked = ids.into_iter().fold(false, |any, id| any | turn(&mut c, id));
            c.drop_packets(is_append);
            if !has_worked & !c.deliver(|_| true) {
                break;
            }
        }
    }
    assert!(!is_marked(&c, n(3)), "{}", c.trace);
    assert!(c.status(n(1)).commit <= has.index, "{}", c.trace);
}
