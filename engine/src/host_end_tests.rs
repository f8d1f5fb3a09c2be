//! Callers are answered, and their commands counted, whatever becomes of their shard. A shard that was paused does not take
//! that time for its peers' silence. A node that refuses peers for their commands' size ends only if it is of no use.
//!
//! In:     three shards as in `host_tests.rs`.
//! Out:    answers to commands; what the inbox counts; what a follower says.

use super::*;

/// 1. A command comes to a replica that does not lead, and an append of its leader.
/// 2. One turn refuses the command and has the log write the append, at which the log fails.
/// 3. There is no later turn in which the caller could be told.
#[test]
fn a_caller_refused_in_the_turn_in_which_the_log_fails_is_answered() {
    let mut trio = Trio::new(5);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let follower = (leader + 1) % 3;
    let id = trio.nodes[follower].id;
    trio.propose(leader);
    trio.until("an append is under way", 10, |trio| {
        trio.under_way.iter().any(|(_, to, message)| {
            let has_entries =
                matches!(message, Message::AppendEntries(append) if !append.entries.is_empty());
            *to == id && has_entries
        })
    });
    let node = &mut trio.nodes[follower];
    node.is_stuck = true;
    // The turn's first operation asks for finished writes; its second is the write.
    node.platter.fail_operation(1);
    trio.outcomes();
    trio.propose(follower);
    trio.step();
    assert!(trio.nodes[follower].host.is_none(), "its log has not failed in that turn");
    let outcomes = trio.outcomes();
    let is_refused =
        |outcome: &&Outcome| matches!(outcome, Err(crate::ProposeError::NotLeader { .. }));
    assert_eq!(outcomes.iter().filter(is_refused).count(), 1, "{outcomes:?}");
    assert_eq!(trio.nodes[follower].arrivals.inbox().waiting(), Cost::default());
}

#[test]
fn a_command_is_counted_until_it_is_answered_whatever_the_answer_is() {
    let mut trio = Trio::new(11);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let follower = (leader + 1) % 3;
    let waiting = |trio: &Trio, at: usize| trio.nodes[at].arrivals.inbox().waiting();
    let propose = |trio: &mut Trio, at: usize| {
        trio.propose(at);
        trio.propose_payload(at, Bytes::from(vec![1; 1000]));
        assert_eq!(waiting(trio, at), cost(2, 1007));
    };
    let refused = |outcome: &Outcome| outcome.as_ref().unwrap_err().happened();

    propose(&mut trio, follower);
    trio.step();
    let outcomes: Vec<_> = trio.outcomes().iter().map(refused).collect();
    assert_eq!(outcomes, [crate::Happened::No; 2], "by a replica that does not lead");
    assert_eq!(waiting(&trio, follower), Cost::default());

    propose(&mut trio, leader);
    let id = trio.nodes[leader].id;
    for _ in 0..3 * TIMING.election_ticks {
        trio.step();
        trio.under_way.retain(|(from, _, _)| *from != id);
    }
    let outcomes: Vec<_> = trio.outcomes().iter().map(refused).collect();
    assert_eq!(outcomes, [crate::Happened::Unknown; 2], "of a leader that nobody hears");
    assert_eq!(waiting(&trio, leader), Cost::default());

    // One command waits when the shard is closed; another was admitted before that, and comes once the shard has stopped.
    trio.propose(follower);
    let mut host = trio.nodes[follower].host.take().unwrap();
    let node = &trio.nodes[follower];
    let inbox = node.arrivals.inbox();
    inbox.admit(cost(1, 4)).unwrap();
    inbox.ask_to_stop();
    assert!(host.turn(&node.outside).has_stopped);
    assert_eq!(inbox.waiting(), cost(1, 4));
    let payload = Bytes::from_static(b"late");
    let command = Command { checksum: logdrive_wal::checksum(&payload), payload };
    let (sink, commands) = (trio.outcomes.clone(), Commands::One(command));
    node.arrivals.submit(Submission { group: GROUP, sink, token: 0, commands, at: Nanos(1) });
    assert!(host.turn(&node.outside).has_stopped);
    assert_eq!((trio.outcomes().len(), inbox.waiting()), (2, Cost::default()));
}

/// RULES.md D5.
/// A thread that was paused must not take that time for its leader's silence: it has yet to read the leader's heartbeats.
#[test]
fn a_follower_does_not_campaign_after_a_pause() {
    for seed in 0..5 {
        let mut trio = Trio::new(seed);
        trio.until("a leader", 100, |trio| trio.leader().is_some());
        let leader = trio.leader().unwrap();
        let follower = (leader + 1) % 3;
        let (id, term) = (trio.nodes[follower].id, trio.status(leader).unwrap().term);
        for _ in 0..TIMING.election_ticks {
            trio.step();
        }
        let paused = trio.nodes[follower].host.take();
        for _ in 0..5 * TIMING.election_ticks {
            trio.step();
        }
        let resumed_at = trio.now;
        trio.nodes[follower].host = paused;
        trio.under_way.retain(|(_, to, _)| *to != id);
        for _ in 0..3 * TIMING.election_ticks {
            trio.step();
        }
        let said = &trio.nodes[follower].said;
        let campaigned = said.iter().find(|(at, said)| *at > resumed_at && seeks_followers(said));
        assert!(campaigned.is_none(), "seed {seed}: resumed at {resumed_at}: {campaigned:?}");
        assert_eq!((trio.leader(), trio.status(follower).unwrap().term), (Some(leader), term));
    }
}

/// RULES.md I14.
#[test]
fn a_message_for_a_group_that_does_not_run_here_makes_nothing() {
    let unknown = GroupId(GROUP.0 + 2);
    let mut trio = Trio::new(7);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    trio.propose(leader);
    (0..3 * TIMING.election_ticks).for_each(|_| trio.step());
    let messages: Vec<(NodeId, Message)> = (trio.nodes.iter())
        .flat_map(|node| node.said.iter().map(|(_, message)| (node.id, message.clone())))
        .collect();
    assert!(messages.iter().any(|(_, message)| matches!(message, Message::AppendEntries(_))));
    for node in &mut trio.nodes {
        let shard = &mut node.host.as_mut().unwrap().shard;
        assert!(!shard.is_dirty(), "a turn leaves nothing to do");
        for (from, message) in messages.iter().filter(|(from, _)| *from != node.id) {
            shard.receive(*from, unknown, message.clone());
            assert!(shard.status(unknown).is_none() && !shard.is_dirty(), "{message:?}");
        }
    }
}

/// RULES.md rule 18.
#[test]
fn a_node_whose_file_of_openings_is_never_written_fails_and_names_it() {
    let trio = Trio::new(1);
    let node = &trio.nodes[0].shared;
    let mut watchdog = crate::watchdog::Watchdog::new(node);
    let distance = node.stall_limits.look_distance();
    let looks = node.stall_limits.fatal.get() / distance.get() + 2;
    let mut at = Nanos::ZERO;
    let mut look = || {
        at = at.after(distance);
        watchdog.look(at, node).len()
    };
    assert_eq!((0..looks).map(|_| look()).sum::<usize>(), 0, "nothing is owed");
    node.saves.run(|| {
        let said: usize = (0..looks).map(|_| look()).sum();
        assert_eq!(said, 2, "once that it is late, and once that the node has failed");
        let failed = node.failed();
        assert!(matches!(failed, Some(crate::NodeError::StalledFile { .. })), "{failed:?}");
        assert!(node.is_given_up(), "nobody may wait for the thread that writes it");
    });
}

/// Anybody may claim to be a peer, as often as they like, and must not push out the events of other peers.
#[test]
fn refusals_of_a_peer_are_told_once_a_second_and_those_of_others_beside_them() {
    use crate::{NodeEvent, Refusal};
    let trio = Trio::new(1);
    let node = &trio.nodes[0].shared;
    let mut events = node.news.follow();
    for (peer, at) in [(2, 5), (2, 6), (2, 900), (3, 901), (2, 1005), (3, 1006), (2, 1900)] {
        node.turned_away(NodeId(peer), Refusal::Copy, Nanos::from_millis(at));
    }
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv())
        .map(|event| match event {
            NodeEvent::PeerTurnedAway { peer, why: Refusal::Copy } => peer.get(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [2, 3, 2]);
}

/// RULES.md P11.
#[test]
fn a_node_ends_of_peers_commands_only_if_the_peers_it_hears_are_no_majority_and_it_serves_nothing()
{
    let ends_with = |nodes: u64, refused: u64, serves: bool| {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let identity = Identity {
            cluster: "sizes".to_owned(),
            node: NodeId(1),
            store: 1,
            shards: 1,
            incarnation: 1,
            settings: Default::default(),
        };
        let node = shared(&ids, &identity);
        if serves {
            node.reached();
        }
        // Each peer dials and is dialled, on every lane.
        let said = (2..2 + refused).flat_map(|peer| [NodeId(peer); 4]);
        said.for_each(|peer| node.refuse_commands(peer, 2000, 1000));
        matches!(node.failed(), Some(crate::NodeError::SmallSegments { .. }))
    };
    for nodes in 2..8 {
        for refused in 1..nodes {
            let is_of_no_use = refused > 1 && 2 * (nodes - refused) <= nodes;
            assert_eq!(ends_with(nodes, refused, false), is_of_no_use, "{refused} of {nodes}");
            assert!(!ends_with(nodes, refused, true));
        }
    }
}
