//! The paper's rules, a test per sentence, named as the claim it checks (Ongaro and Ousterhout,
//! extended version). Where logdrive departs from the paper, the test says how.

mod common;

use common::{Cluster, Image, config, log_of, n};
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, EntryBatch, EntryKind, Event, HardState, Heartbeat,
    LogId, LogIndex, Message, PreVoteReply, ProposeError, RequestVote, Role, Term, VoteReply,
};

/// A cluster in which replica `id` has the log `logs[id - 1]`, and all replicas are in `term`.
fn with_logs(term: u64, logs: &[&[u64]]) -> Cluster {
    let mut cluster = Cluster::empty();
    for (terms, id) in logs.iter().zip(1..) {
        let hard_state = HardState { term: Term(term), ..HardState::default() };
        let image = Image::of(hard_state, log_of(terms));
        cluster.add(config(id, logs.len() as u64), image);
    }
    cluster
}

fn message(cluster: &mut Cluster, from: u64, to: u64, message: Message) {
    cluster.step(n(to), Event::Message { from: n(from), message });
    while cluster.collect(n(to)) | cluster.sync(n(to), usize::MAX) {}
}

fn request_vote(term: u64, last: (u64, u64)) -> Message {
    Message::RequestVote(RequestVote { term: Term(term), last_log: id(last) })
}

fn append(term: u64, prev: (u64, u64), commit: u64, terms: &[u64]) -> Message {
    let entries = terms.iter().zip(prev.1 + 1..).map(|(&t, i)| common::entry(t, i)).collect();
    Message::AppendEntries(AppendEntries {
        term: Term(term),
        prev_log: id(prev),
        commit: LogIndex(commit),
        entries: EntryBatch::from_entries(entries).unwrap(),
    })
}

fn id((term, index): (u64, u64)) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

/// Takes the messages to `to` from the network.
fn answers(cluster: &mut Cluster, to: u64) -> Vec<Message> {
    let (taken, left): (Vec<_>, Vec<_>) =
        cluster.network.drain(..).partition(|packet| packet.to == n(to));
    cluster.network = left;
    taken.into_iter().map(|packet| packet.message).collect()
}

fn vote(term: u64, granted: bool) -> Message {
    Message::VoteReply(VoteReply { term: Term(term), granted })
}

fn accepted(term: u64, match_index: u64) -> Message {
    let result = AppendResult::Accepted { match_index: LogIndex(match_index) };
    Message::AppendReply(AppendReply { term: Term(term), result })
}

fn is_rejection(answer: &Message) -> bool {
    matches!(
        answer,
        Message::AppendReply(AppendReply { result: AppendResult::Rejected { .. }, .. })
    )
}

// §5.1 Raft basics

#[test]
fn followers_issue_no_requests_on_their_own_5_1() {
    let mut cluster = Cluster::new(3);
    cluster.settle();
    assert!(cluster.network.is_empty());
    // Not even a proposal: "if a client contacts a follower, the follower redirects it".
    cluster.elect(n(1));
    let refused = cluster.propose(n(2), "x");
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(n(1)) }));
    assert!(!cluster.collect(n(2)));
}

#[test]
fn a_server_that_sees_a_larger_term_takes_it_5_1() {
    let mut cluster = with_logs(1, &[&[], &[], &[]]);
    message(
        &mut cluster,
        2,
        1,
        Message::Heartbeat(Heartbeat { term: Term(4), commit: LogIndex(0), matched: LogId::ZERO }),
    );
    assert_eq!(cluster.status(n(1)).term, Term(4));
    assert_eq!(cluster.node(n(1)).durable.hard_state.term, Term(4));
}

#[test]
fn a_leader_that_discovers_its_term_is_out_of_date_becomes_a_follower_5_1() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    message(&mut cluster, 2, 1, vote(9, false));
    assert_eq!((cluster.role(n(1)), cluster.status(n(1)).term), (Role::Follower, Term(9)));
}

#[test]
fn a_candidate_that_discovers_its_term_is_out_of_date_becomes_a_follower_5_1() {
    let mut cluster = Cluster::new(3);
    cluster.step(n(1), Event::Campaign);
    cluster.collect(n(1));
    cluster.deliver(|packet| packet.to == n(2));
    cluster.collect(n(2));
    cluster.deliver(|packet| packet.to == n(1));
    assert_eq!(cluster.role(n(1)), Role::Candidate);
    message(&mut cluster, 3, 1, vote(9, false));
    assert_eq!((cluster.role(n(1)), cluster.status(n(1)).term), (Role::Follower, Term(9)));
}

#[test]
fn a_request_with_a_stale_term_is_rejected_5_1() {
    let mut cluster = with_logs(5, &[&[1], &[1], &[1]]);
    message(&mut cluster, 2, 1, request_vote(4, (3, 9)));
    message(&mut cluster, 2, 1, append(4, (0, 0), 0, &[4, 4]));
    let answers = answers(&mut cluster, 2);
    assert_eq!(answers[0], vote(5, false));
    assert!(is_rejection(&answers[1]) && answers[1].term() == Term(5), "{answers:?}");
    assert_eq!(cluster.terms(n(1)), [1]);
}

// §5.2 Leader election

#[test]
fn servers_start_up_as_followers_5_2() {
    let cluster = Cluster::new(3);
    assert!(cluster.ids().into_iter().all(|id| cluster.role(id) == Role::Follower));
}

#[test]
fn a_server_stays_a_follower_while_it_hears_a_leader_5_2() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.pass(500, true);
    assert_eq!(cluster.leader(), Some(n(1)));
    assert_eq!(cluster.status(n(2)).term, Term(1));
}

#[test]
fn a_follower_that_hears_nothing_for_an_election_timeout_begins_an_election_5_2() {
    let mut cluster = Cluster::new(3);
    // Not before the shortest timeout, and after the longest at the latest (pre-vote first, thesis
    // §9.6).
    cluster.pass(9, false);
    assert!(cluster.ids().into_iter().all(|id| cluster.role(id) == Role::Follower));
    cluster.pass(11, false);
    assert!(cluster.ids().into_iter().all(|id| cluster.role(id) == Role::PreCandidate));
}

#[test]
fn a_candidate_increments_its_term_votes_for_itself_and_asks_all_others_5_2() {
    let mut cluster = with_logs(3, &[&[], &[], &[]]);
    cluster.step(n(1), Event::Campaign);
    cluster.collect(n(1));
    cluster.deliver(|_| true);
    cluster.collect(n(2));
    cluster.deliver(|_| true);
    cluster.collect(n(1));
    // Departure: the requests wait for the candidate's own vote to be durable.
    assert!(cluster.network.is_empty());
    cluster.sync(n(1), 1);
    let saved = cluster.node(n(1)).durable.hard_state;
    assert_eq!((saved.term, saved.voted_for), (Term(4), Some(n(1))));
    let asked: Vec<_> = cluster.network.iter().map(|p| (p.to, p.message.clone())).collect();
    assert_eq!(asked, [(n(2), request_vote(4, (0, 0))), (n(3), request_vote(4, (0, 0)))]);
}

#[test]
fn a_candidate_wins_with_a_majority_of_the_full_cluster_5_2() {
    let mut cluster = Cluster::new(5);
    cluster.partition(&[1, 2], &[3, 4, 5]);
    cluster.step(n(1), Event::Campaign);
    cluster.settle();
    assert_eq!(cluster.role(n(1)), Role::PreCandidate);
    cluster.cut.clear();
    cluster.partition(&[1, 2, 3], &[4, 5]);
    cluster.step(n(1), Event::Campaign);
    cluster.settle();
    assert_eq!(cluster.role(n(1)), Role::Leader);
}

#[test]
fn each_server_votes_for_at_most_one_candidate_in_a_term_first_come_first_served_5_2() {
    let mut cluster = with_logs(1, &[&[1], &[1], &[1]]);
    message(&mut cluster, 2, 1, request_vote(2, (1, 1)));
    message(&mut cluster, 3, 1, request_vote(2, (1, 1)));
    assert_eq!(answers(&mut cluster, 2), [vote(2, true)]);
    assert_eq!(answers(&mut cluster, 3), [vote(2, false)]);
    // Nor after a restart: the vote was durable before it left.
    cluster.crash(n(1), 0);
    cluster.restart(n(1));
    message(&mut cluster, 3, 1, request_vote(2, (1, 1)));
    message(&mut cluster, 2, 1, request_vote(2, (1, 1)));
    assert_eq!(answers(&mut cluster, 3), [vote(2, false)]);
    assert_eq!(answers(&mut cluster, 2), [vote(2, true)]);
}

#[test]
fn a_new_leader_sends_to_all_others_to_establish_its_authority_5_2() {
    let mut cluster = Cluster::new(3);
    cluster.step(n(1), Event::Campaign);
    while cluster.role(n(1)) != Role::Leader {
        for id in cluster.ids() {
            cluster.collect(id);
            cluster.sync(id, usize::MAX);
        }
        cluster.deliver(|_| true);
    }
    cluster.network.clear();
    cluster.collect(n(1));
    let to: Vec<_> = cluster.network.iter().map(|packet| packet.to).collect();
    assert_eq!(to, [n(2), n(3)]);
    assert!(cluster.network.iter().all(|p| matches!(p.message, Message::AppendEntries(_))));
}

#[test]
fn a_candidate_that_hears_a_leader_of_its_term_returns_to_follower_5_2() {
    let mut cluster = Cluster::new(3);
    cluster.step(n(1), Event::Campaign);
    cluster.collect(n(1));
    cluster.deliver(|packet| packet.to == n(2));
    cluster.collect(n(2));
    cluster.deliver(|packet| packet.to == n(1));
    assert_eq!((cluster.role(n(1)), cluster.status(n(1)).term), (Role::Candidate, Term(1)));
    message(&mut cluster, 3, 1, append(1, (0, 0), 0, &[1]));
    assert_eq!(cluster.role(n(1)), Role::Follower);
    assert_eq!(cluster.status(n(1)).leader, Some(n(3)));
}

#[test]
fn a_candidate_rejects_a_leader_of_a_smaller_term_and_stays_candidate_5_2() {
    let mut cluster = with_logs(4, &[&[], &[], &[]]);
    cluster.step(n(1), Event::Campaign);
    cluster.collect(n(1));
    cluster.deliver(|packet| packet.to == n(2));
    cluster.collect(n(2));
    cluster.deliver(|packet| packet.to == n(1));
    message(&mut cluster, 3, 1, append(4, (0, 0), 0, &[4]));
    assert_eq!((cluster.role(n(1)), cluster.status(n(1)).term), (Role::Candidate, Term(5)));
    assert!(answers(&mut cluster, 3).iter().any(is_rejection));
}

#[test]
fn a_candidate_whose_vote_is_split_starts_anew_after_its_timeout_5_2() {
    let mut cluster = Cluster::new(2);
    cluster.step(n(1), Event::Campaign);
    cluster.collect(n(1));
    cluster.deliver(|_| true);
    cluster.collect(n(2));
    cluster.deliver(|_| true);
    cluster.collect(n(1));
    cluster.sync(n(1), 1);
    cluster.network.clear();
    assert_eq!((cluster.role(n(1)), cluster.status(n(1)).term), (Role::Candidate, Term(1)));
    cluster.pass(20, true);
    let leader = cluster.leader().expect("the next election is won");
    assert_eq!(cluster.status(leader).term, Term(2));
}

#[test]
fn election_timeouts_are_chosen_randomly_from_a_fixed_interval_5_2() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut config = config(1, 3);
        config.seed = seed;
        let raft = logdrive_raft::Raft::new(config, Default::default(), Default::default());
        seen.insert(raft.unwrap().deadline().get());
    }
    assert_eq!(seen, (10..20).collect());
}

// §5.3 Log replication

#[test]
fn the_leader_appends_the_command_and_sends_it_in_parallel_to_all_others_5_3() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.propose(n(1), "x").unwrap();
    cluster.collect(n(1));
    // Beside its own write (thesis §10.2.1): nothing of it is durable yet.
    assert_eq!(cluster.node(n(1)).durable.last(), LogIndex(1));
    let to: Vec<_> = cluster.network.iter().map(|packet| packet.to).collect();
    assert_eq!(to, [n(2), n(3)]);
}

#[test]
fn an_entry_replicated_on_a_majority_is_committed_and_applied_5_3() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.partition(&[1, 2], &[3]);
    cluster.propose(n(1), "x").unwrap();
    cluster.settle();
    assert_eq!(cluster.status(n(1)).commit, LogIndex(2));
    assert_eq!(cluster.node(n(1)).applied, LogIndex(2));
}

/// RULES.md D2. Thesis §10.2.1.
#[test]
fn a_leader_with_a_slow_disk_commits_by_the_disks_of_a_majority_of_others_10_2_1() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.propose(n(1), "x").unwrap();
    cluster.collect(n(1));
    for follower in [2, 3] {
        // One other disk is no majority, for the leader's own has nothing yet.
        assert_eq!(cluster.status(n(1)).commit, LogIndex(1));
        cluster.deliver(|packet| packet.to == n(follower));
        while cluster.collect(n(follower)) | cluster.sync(n(follower), usize::MAX) {}
        cluster.deliver(|packet| packet.to == n(1));
    }
    let status = cluster.status(n(1));
    assert_eq!((status.commit, status.durable), (LogIndex(2), LogIndex(1)));
    // The leader applies, and so answers, only what its own disk has.
    cluster.collect(n(1));
    cluster.apply(n(1));
    assert_eq!(cluster.node(n(1)).applied, LogIndex(1));
    cluster.sync(n(1), usize::MAX);
    cluster.collect(n(1));
    cluster.apply(n(1));
    assert_eq!(cluster.node(n(1)).applied, LogIndex(2));
}

#[test]
fn an_entry_on_a_minority_is_not_committed_5_3() {
    let mut cluster = Cluster::new(5);
    cluster.elect(n(1));
    cluster.partition(&[1, 2], &[3, 4, 5]);
    cluster.propose(n(1), "x").unwrap();
    cluster.settle();
    assert_eq!(cluster.status(n(1)).commit, LogIndex(1));
}

#[test]
fn the_leader_retries_until_a_slow_follower_stores_all_entries_5_3() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.partition(&[1, 2], &[3]);
    for payload in ["a", "b", "c"] {
        cluster.propose(n(1), payload).unwrap();
        cluster.settle();
    }
    cluster.pass(5, true);
    cluster.cut.clear();
    cluster.pass(10, true);
    assert_eq!(cluster.node(n(3)).memory().entries, cluster.node(n(1)).memory().entries);
    assert_eq!(cluster.node(n(3)).applied, LogIndex(4));
}

#[test]
fn a_lost_last_append_is_sent_again_without_word_of_the_loss_5_3() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.propose(n(1), "x").unwrap();
    cluster.collect(n(1));
    cluster.drop_packets(|packet| packet.to == n(3));
    cluster.settle();
    assert_eq!(cluster.terms(n(3)), [1]);
    cluster.pass(10, true);
    assert_eq!(cluster.terms(n(3)), [1, 1]);
}

#[test]
fn committing_an_entry_commits_all_before_it_also_of_earlier_leaders_5_3() {
    let mut cluster = with_logs(3, &[&[1, 2, 3], &[1, 2], &[1]]);
    cluster.elect(n(1));
    assert_eq!(cluster.terms(n(2)), [1, 2, 3, 4]);
    assert_eq!(cluster.status(n(1)).commit, LogIndex(4));
}

#[test]
fn a_follower_learns_of_a_commit_and_applies_in_log_order_5_3() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    for payload in ["a", "b"] {
        cluster.propose(n(1), payload).unwrap();
    }
    cluster.settle();
    // Departure: no message for the commit alone; the next append or heartbeat carries it.
    assert_eq!(cluster.status(n(1)).commit, LogIndex(3));
    assert_eq!(cluster.status(n(2)).commit, LogIndex(1));
    cluster.pass(4, true);
    assert_eq!(cluster.node(n(2)).applied, LogIndex(3));
}

#[test]
fn a_follower_refuses_entries_if_it_lacks_the_one_before_them_5_3() {
    let mut cluster = with_logs(2, &[&[1], &[], &[]]);
    message(&mut cluster, 2, 1, append(2, (1, 2), 0, &[2]));
    message(&mut cluster, 2, 1, append(2, (2, 1), 0, &[2]));
    let answers = answers(&mut cluster, 2);
    assert!(answers.len() == 2 && answers.iter().all(is_rejection), "{answers:?}");
    assert_eq!(cluster.terms(n(1)), [1]);
}

#[test]
fn conflicting_entries_of_a_follower_are_overwritten_by_the_leaders_5_3() {
    let mut cluster = with_logs(3, &[&[1, 1, 3], &[1, 1, 2, 2], &[1, 1]]);
    cluster.elect(n(1));
    assert_eq!(cluster.terms(n(2)), [1, 1, 3, 4]);
}

#[test]
fn a_refused_probe_skips_a_whole_conflicting_term_5_3() {
    // The leader has 40 entries of term 1 and 2 of term 5; the follower 3 of term 1 and 40 of term 2.
    let leader: Vec<u64> = [vec![1; 40], vec![5; 2]].concat();
    let follower: Vec<u64> = [vec![1; 3], vec![2; 40]].concat();
    let mut cluster = with_logs(5, &[&leader, &follower, &leader]);
    cluster.elect(n(1));
    assert_eq!(cluster.terms(n(2)), cluster.terms(n(1)));
    let refusals = cluster.trace.matches("2->1 AppendReply t6 rejected").count();
    assert!((1..=2).contains(&refusals), "{refusals} rounds:\n{}", cluster.trace);
}

#[test]
fn a_leader_never_overwrites_or_deletes_its_own_entries_5_3() {
    let mut cluster = with_logs(3, &[&[1, 2, 3], &[1], &[1, 2, 3]]);
    cluster.elect(n(1));
    let before = cluster.node(n(1)).memory().entries;
    // A leader does not take an append of its own term from another replica.
    message(&mut cluster, 2, 1, append(4, (1, 1), 0, &[4, 4]));
    let after = cluster.node(n(1)).memory().entries;
    assert_eq!(after, before);
    assert_eq!(cluster.role(n(1)), Role::Leader);
}

#[test]
fn a_late_append_does_not_take_back_what_followed_it_5_3() {
    let mut cluster = with_logs(1, &[&[], &[], &[]]);
    message(&mut cluster, 2, 1, append(1, (0, 0), 0, &[1, 1, 1]));
    message(&mut cluster, 2, 1, append(1, (0, 0), 0, &[1]));
    assert_eq!(cluster.terms(n(1)), [1, 1, 1]);
    assert_eq!(answers(&mut cluster, 2), [accepted(1, 3), accepted(1, 1)]);
}

// Thesis §9.6 Pre-vote

/// RULES.md M8.
#[test]
fn a_refused_pre_vote_tells_the_term_so_that_the_longer_log_wins_9_6() {
    let mut cluster = Cluster::empty();
    for (id, term, terms) in [(1, 9, &[1][..]), (2, 3, &[1, 1, 2]), (3, 3, &[1, 1, 2])] {
        let hard_state = HardState { term: Term(term), ..HardState::default() };
        cluster.add(config(id, 3), Image::of(hard_state, log_of(terms)));
    }
    // 2 needs the vote of 1.
    cluster.crash(n(3), 0);
    let terms = |cluster: &Cluster| [1, 2].map(|id| cluster.status(n(id)).term.get());
    cluster.step(n(1), Event::Campaign);
    cluster.settle();
    assert_eq!((cluster.leader(), terms(&cluster)), (None, [9, 3]), "1 cannot win with its log");
    cluster.step(n(2), Event::Campaign);
    cluster.settle();
    assert_eq!((cluster.leader(), terms(&cluster)), (None, [9, 9]), "2 learns the term");
    cluster.elect(n(2));
    assert_eq!((terms(&cluster), cluster.terms(n(1))), ([10, 10], vec![1, 1, 2, 10]));
}

/// RULES.md N6. 1 and 3 do not hear each other, and 2 hears both.
#[test]
fn a_follower_that_hears_its_leader_helps_no_other_end_of_a_chain_to_depose_it_9_6() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(3));
    cluster.partition(&[1], &[3]);
    for round in 0..10 {
        // An election timeout and more. The log of 1 is as long as that of 2, which could vote for it.
        cluster.pass(30, true);
        assert_eq!(cluster.leader(), Some(n(3)), "round {round}");
        let heard = [1, 2].map(|id| (cluster.status(n(id)).term, cluster.status(n(id)).leader));
        assert_eq!(heard, [(Term(1), None), (Term(1), Some(n(3)))], "round {round}");
    }
    // Replica 1 did try.
    assert_eq!(cluster.role(n(1)), Role::PreCandidate);
    cluster.propose(n(3), "x").unwrap();
    cluster.pass(10, true);
    assert_eq!(cluster.node(n(2)).applied, LogIndex(2));
}

// §5.4 Safety

#[test]
fn a_voter_denies_its_vote_to_a_candidate_with_an_older_last_term_5_4_1() {
    let mut cluster = with_logs(3, &[&[1, 3], &[1], &[1]]);
    message(&mut cluster, 2, 1, request_vote(4, (2, 9)));
    assert_eq!(answers(&mut cluster, 2), [vote(4, false)]);
}

#[test]
fn a_voter_denies_its_vote_to_a_shorter_log_of_the_same_last_term_5_4_1() {
    let mut cluster = with_logs(3, &[&[1, 3], &[1], &[1]]);
    message(&mut cluster, 2, 1, request_vote(4, (3, 1)));
    message(&mut cluster, 3, 1, request_vote(5, (3, 2)));
    assert_eq!(answers(&mut cluster, 2), [vote(4, false)]);
    assert_eq!(answers(&mut cluster, 3), [vote(5, true)]);
}

#[test]
fn a_candidate_without_all_committed_entries_cannot_win_5_4_1() {
    let mut cluster = with_logs(2, &[&[1, 1, 2], &[1, 1, 2], &[1]]);
    cluster.step(n(3), Event::Campaign);
    cluster.settle();
    assert_eq!(cluster.role(n(3)), Role::Follower);
    assert_eq!(cluster.status(n(3)).term, Term(2));
}

#[test]
fn an_older_terms_entry_is_not_committed_by_counting_replicas_5_4_2() {
    let mut cluster = with_logs(3, &[&[1, 2], &[1, 2], &[1]]);
    cluster.step(n(1), Event::Campaign);
    // Until the leader has its no-op on a majority, what earlier terms left there is not committed.
    for _ in 0..4 {
        for id in cluster.ids() {
            cluster.collect(id);
            cluster.sync(id, usize::MAX);
        }
        cluster.drop_packets(|p| matches!(&p.message, Message::AppendEntries(_)));
        cluster.deliver(|_| true);
    }
    assert_eq!(cluster.role(n(1)), Role::Leader);
    // Entry 2, of term 2, is on two disks of three, and the leader knows it.
    message(&mut cluster, 2, 1, accepted(4, 2));
    assert_eq!(cluster.status(n(1)).commit, LogIndex(0));
    // The no-op commits them all.
    cluster.pass(5, true);
    assert_eq!(cluster.status(n(1)).commit, LogIndex(3));
}

#[test]
fn a_leader_begins_its_term_with_a_no_op_8() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let entries = cluster.node(n(1)).memory().entries;
    assert_eq!((entries.len(), entries[0].kind), (1, EntryKind::Noop));
}

// Figure 2

#[test]
fn term_and_vote_and_log_survive_a_restart_figure_2() {
    let mut cluster = with_logs(1, &[&[1], &[1], &[1]]);
    message(&mut cluster, 2, 1, request_vote(7, (1, 1)));
    message(&mut cluster, 2, 1, append(7, (1, 1), 1, &[7, 7]));
    cluster.crash(n(1), 0);
    cluster.restart(n(1));
    assert_eq!(cluster.status(n(1)).term, Term(7));
    assert_eq!(cluster.node(n(1)).durable.hard_state.voted_for, Some(n(2)));
    assert_eq!(cluster.status(n(1)).last_log, id((7, 3)));
}

#[test]
fn a_follower_commits_to_the_lesser_of_leader_commit_and_last_new_entry_figure_2() {
    let mut cluster = with_logs(1, &[&[1, 1, 1], &[], &[]]);
    // Entry 3 is not known to be the leader's: only 2 was compared.
    message(&mut cluster, 2, 1, append(2, (1, 1), 9, &[1]));
    assert_eq!(cluster.status(n(1)).commit, LogIndex(2));
}

#[test]
fn an_existing_entry_that_conflicts_goes_with_all_that_follow_it_figure_2() {
    let mut cluster = with_logs(2, &[&[1, 1, 1, 1], &[], &[]]);
    message(&mut cluster, 2, 1, append(2, (1, 1), 0, &[2]));
    assert_eq!(cluster.terms(n(1)), [1, 2]);
}

#[test]
fn a_refused_append_makes_the_leader_try_an_earlier_entry_figure_2() {
    let mut cluster = with_logs(1, &[&[1, 1, 1], &[1], &[1, 1, 1]]);
    cluster.elect(n(1));
    assert!(cluster.trace.contains("rejected 3 hint 1/1"), "{}", cluster.trace);
    assert_eq!(cluster.terms(n(2)), [1, 1, 1, 2]);
}

#[test]
fn a_leader_is_silent_only_for_a_heartbeat_interval_figure_2() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.pass(3, false);
    cluster.collect(n(1));
    let beats = |p: &common::Packet| matches!(p.message, Message::Heartbeat(_));
    assert_eq!(cluster.network.iter().filter(|p| beats(p)).count(), 2);
    // An append takes the place of a heartbeat.
    cluster.network.clear();
    cluster.pass(2, false);
    // A replica learns the time by events only.
    cluster.step(n(1), Event::Tick);
    cluster.propose(n(1), "x").unwrap();
    cluster.settle();
    cluster.pass(2, false);
    cluster.collect(n(1));
    assert!(cluster.network.is_empty(), "{:?}", cluster.network);
}

/// The first leader of a new group is asked to campaign with each connection that comes up. The bug: its candidacy began
/// anew each time, and never ended.
#[test]
fn asked_to_campaign_again_a_candidate_keeps_its_votes_and_asks_who_is_silent() {
    let mut cluster = Cluster::new(5);
    cluster.step(n(1), Event::Campaign);
    let asked = |cluster: &mut Cluster| {
        while cluster.collect(n(1)) | cluster.sync(n(1), usize::MAX) {}
        let (asked, left): (Vec<_>, Vec<_>) =
            cluster.network.drain(..).partition(|packet| packet.from == n(1));
        cluster.network = left;
        asked.into_iter().map(|packet| (packet.to.get(), packet.message)).collect::<Vec<_>>()
    };
    assert_eq!(asked(&mut cluster).len(), 4, "pre-votes, which are lost");
    let yes = PreVoteReply { term: Term(1), granted: true };
    message(&mut cluster, 2, 1, Message::PreVoteReply(yes));
    cluster.step(n(1), Event::Campaign);
    let again: Vec<u64> = asked(&mut cluster).iter().map(|(to, _)| *to).collect();
    assert_eq!(again, [3, 4, 5]);
    message(&mut cluster, 3, 1, Message::PreVoteReply(yes));
    let requests = asked(&mut cluster);
    assert!(requests.iter().all(|(_, m)| matches!(m, Message::RequestVote(_))), "{requests:?}");
    assert_eq!((requests.len(), cluster.status(n(1)).term), (4, Term(1)));
    message(&mut cluster, 4, 1, vote(1, true));
    cluster.step(n(1), Event::Campaign);
    let again = asked(&mut cluster);
    assert_eq!(again.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3, 5]);
    assert!(again.iter().all(|(_, m)| *m == request_vote(1, (0, 0))), "{again:?}");
    message(&mut cluster, 5, 1, vote(1, true));
    assert_eq!((cluster.role(n(1)), cluster.status(n(1)).term), (Role::Leader, Term(1)));
}
