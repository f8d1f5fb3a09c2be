//! Bounds and deadlines of a replica are kept: bytes in flight, memory, election timeouts.

mod common;

use common::{Cluster, Image, Packet, config, n};
use logdrive_raft::{
    ConfigError, Event, LogIndex, Message, NodeId, ProposeError, Raft, Role, Ticks,
};

/// A group of one that leads.
fn alone(change: impl Fn(&mut logdrive_raft::Config)) -> Cluster {
    let mut cluster = Cluster::empty();
    let mut config = config(1, 1);
    change(&mut config);
    cluster.add(config, Image::default());
    cluster.elect(n(1));
    cluster
}

#[test]
fn a_proposal_over_the_bound_is_refused_whole_and_taken_when_there_is_room() {
    let mut cluster = alone(|config| config.uncommitted_bytes_max = 100);
    // Each entry counts for 32 bytes more than its payload.
    cluster.propose(n(1), "0123456789").unwrap();
    cluster.propose(n(1), "0123456789").unwrap();
    let last = cluster.status(n(1)).last_log;
    assert_eq!(cluster.propose(n(1), "0123456789"), Err(ProposeError::Full));
    assert_eq!(cluster.status(n(1)).last_log, last);
    cluster.settle();
    cluster.propose(n(1), "0123456789").unwrap();
}

#[test]
fn a_proposal_larger_than_the_bound_is_taken_alone() {
    let mut cluster = alone(|config| config.uncommitted_bytes_max = 100);
    cluster.propose(n(1), &"x".repeat(1000)).unwrap();
    assert_eq!(cluster.propose(n(1), "y"), Err(ProposeError::Full));
}

/// RULES.md D7.
#[test]
fn what_is_handed_out_and_not_applied_is_bounded_and_all_of_it_comes() {
    let mut cluster = alone(|config| {
        config.uncommitted_bytes_max = usize::MAX;
        config.tail_bytes_max = 1;
    });
    let big = "x".repeat(700_000);
    for _ in 0..30 {
        cluster.propose(n(1), &big).unwrap();
        while cluster.collect(n(1)) | cluster.sync(n(1), usize::MAX) {}
    }
    let waiting = |cluster: &Cluster| -> usize {
        cluster.node(n(1)).applies.iter().map(|batch| batch.cost_bytes()).sum()
    };
    assert!((4 << 20..6 << 20).contains(&waiting(&cluster)), "{}", waiting(&cluster));
    // Entries that have left memory meanwhile are fetched from the log.
    assert!(cluster.status(n(1)).applying < LogIndex(31));
    cluster.settle();
    assert!(cluster.trace.contains("for itself"));
    assert_eq!(cluster.node(n(1)).applied, LogIndex(31));
}

#[test]
fn no_more_is_in_flight_than_the_window_holds() {
    let mut cluster = Cluster::empty();
    for id in 1..=2 {
        let mut config = config(id, 2);
        config.inflight_bytes_max = 100;
        config.append_bytes_max = 50;
        cluster.add(config, Image::default());
    }
    cluster.elect(n(1));
    for _ in 0..20 {
        cluster.propose(n(1), "0123456789").unwrap();
        cluster.collect(n(1));
    }
    // Each append has 42 bytes.
    assert_eq!(cluster.network.len(), 2);
    cluster.settle();
    assert_eq!(cluster.terms(n(2)).len(), 21);
}

/// Replica 1 gets entries that it read back for 2; then `meanwhile` happens, and the round ends. Returns how many bytes
/// of entries 2 is sent.
fn sent_after_a_fetch(meanwhile: Option<Event>) -> (Cluster, usize) {
    let mut cluster = Cluster::fetching();
    while cluster.answer_fetch(n(1)) {}
    meanwhile.into_iter().for_each(|event| cluster.step(n(1), event));
    cluster.collect(n(1));
    let bytes = |packet: &Packet| match &packet.message {
        Message::AppendEntries(append) if packet.to == n(2) => append.entries.cost_bytes(),
        _ => 0,
    };
    let sent = cluster.network.iter().map(bytes).sum();
    (cluster, sent)
}

/// RULES.md W9. The bug: old entries were sent as soon as they came back from the disk, whatever the replica heard before
/// the round ended. The simulator found it with seeds 3001097 and 3004370, by invariant 31.
#[test]
fn what_is_read_back_for_a_peer_leaves_by_what_is_known_when_the_round_ends() {
    assert!(sent_after_a_fetch(None).1 > 0, "no entries were there to be sent");
    let full = Event::Room { peer: n(2), has_room: false };
    let (mut cluster, sent) = sent_after_a_fetch(Some(full));
    assert_eq!(sent, 0, "2 has no room:\n{}", cluster.trace);
    cluster.settle();
    assert_eq!(cluster.terms(n(2)), [1]);
    cluster.step(n(1), Event::Room { peer: n(2), has_room: true });
    cluster.settle();
    assert_eq!(cluster.terms(n(2)), [1, 2, 2, 3], "2 is sent the entries when it has room");
    let (mut cluster, sent) = sent_after_a_fetch(Some(Event::Unreachable(n(2))));
    assert_eq!(sent, 0, "2 cannot be reached:\n{}", cluster.trace);
    cluster.pass(3, true);
    assert_eq!(cluster.terms(n(2)), [1, 2, 2, 3], "2 is sent the entries when it is heard");
    let (cluster, sent) = sent_after_a_fetch(Some(Event::Resign));
    assert_eq!(sent, 0, "1 leads no more:\n{}", cluster.trace);
}

/// RULES.md invariant 25.
#[test]
fn a_leader_without_a_majority_is_silent_after_an_election_timeout() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.pass(20, true);
    cluster.partition(&[1], &[2, 3]);
    // Heartbeats go every 3 ticks; the last answer came at tick 18 or later.
    cluster.pass(7, true);
    assert_eq!(cluster.role(n(1)), Role::Leader);
    cluster.pass(3, true);
    assert_ne!(cluster.role(n(1)), Role::Leader);
}

#[test]
fn ticks_before_the_deadline_do_nothing_and_a_late_one_is_one() {
    let mut cluster = Cluster::new(3);
    let deadline = cluster.node(n(1)).raft.as_ref().unwrap().deadline();
    cluster.now = Ticks(deadline.get() - 1);
    cluster.step(n(1), Event::Tick);
    assert!(!cluster.collect(n(1)));
    cluster.now = Ticks(deadline.get() * 100);
    cluster.step(n(1), Event::Tick);
    cluster.collect(n(1));
    assert_eq!(cluster.network.len(), 2, "one pre-vote for each peer");
    assert!(cluster.node(n(1)).raft.as_ref().unwrap().deadline() > cluster.now);
}

/// RULES.md D5.
#[test]
fn unread_messages_make_a_replica_patient_with_its_leader_for_an_election_timeout_and_no_leader_with_its_followers()
 {
    let asks = |unread: bool, late: u64| {
        let mut cluster = Cluster::new(3);
        let deadline = cluster.node(n(1)).raft.as_ref().unwrap().deadline();
        cluster.now = deadline.after(late);
        cluster.step(n(1), if unread { Event::TickUnread } else { Event::Tick });
        cluster.collect(n(1));
        !cluster.network.is_empty()
    };
    let patience = config(1, 3).election_ticks;
    assert!(asks(false, 0) && !asks(true, 0));
    assert!(!asks(true, patience - 1) && asks(true, patience));

    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.pass(20, true);
    let tick_unread = |cluster: &mut Cluster, ticks: u64| {
        cluster.now = cluster.now.after(ticks);
        cluster.step(n(1), Event::TickUnread);
        cluster.collect(n(1));
    };
    cluster.network.clear();
    tick_unread(&mut cluster, config(1, 3).heartbeat_ticks);
    assert_eq!(cluster.network.len(), 2, "its heartbeats leave");
    tick_unread(&mut cluster, patience);
    assert_ne!(cluster.role(n(1)), Role::Leader, "it has heard no majority");
}

#[test]
fn a_group_of_one_wants_no_ticks() {
    let cluster = alone(|_| {});
    assert_eq!(cluster.node(n(1)).raft.as_ref().unwrap().deadline(), Ticks(u64::MAX));
}

#[test]
fn an_idle_replica_is_small() {
    let bytes = std::mem::size_of::<Raft>();
    assert!(bytes <= 640, "{bytes} bytes");
}

#[test]
fn settings_that_contradict_themselves_are_refused() {
    let refused = |change: &dyn Fn(&mut logdrive_raft::Config)| {
        let mut config = config(1, 3);
        change(&mut config);
        Raft::new(config, Default::default(), Ticks(0)).unwrap_err()
    };
    let group = common::GROUP;
    let id = NodeId(9);
    assert_eq!(refused(&|c| c.id = id), ConfigError::NotAVoter { id, group });
    assert_eq!(refused(&|c| c.voters.push(n(2))), ConfigError::BadVoter(n(2)));
    assert_eq!(refused(&|c| c.voters.push(n(0))), ConfigError::BadVoter(n(0)));
    let (heartbeat_ticks, election_ticks) = (10, 10);
    let bad = ConfigError::BadTimeouts { heartbeat_ticks, election_ticks };
    assert_eq!(refused(&|c| c.heartbeat_ticks = 10), bad);
    assert_eq!(refused(&|c| c.append_bytes_max = 0), ConfigError::ZeroBound("append_bytes_max"));
    assert!(refused(&|c| c.tail_bytes_max = 0).to_string().contains("tail_bytes_max"));
}
