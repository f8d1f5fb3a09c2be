//! The calls of the embedding API, as a program that embeds a node makes them: one node, alone in its cluster.

#![forbid(unsafe_code)]

use logdrive::{
    AppliedAt, Bootstrap, Bytes, Committed, CommittedBuf, Config, Founding, Gone, Group,
    GroupError, GroupId, GroupState, LogIndex, MachineError, Node, NodeEvent, NodeId, OpenError,
    ProposeError, Refusal, Replies, StateMachine, StopCause,
};
use std::{collections::BTreeMap, path::Path, sync::mpsc::RecvTimeoutError, time::Duration};

const GROUP: GroupId = GroupId(7);
const PATIENCE: Duration = Duration::from_secs(30);

/// Sums the lengths of commands; `fail` is a command that it fails on, `panic` one that it panics on.
#[derive(Default)]
struct Lengths(u64);

impl StateMachine for Lengths {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for command in batch.commands() {
            match &command.bytes[..] {
                b"fail" => return Err(MachineError("told to fail".to_owned())),
                b"panic" => panic!("told to panic"),
                bytes => self.0 += bytes.len() as u64,
            }
            replies.push(self.0.to_le_bytes().to_vec());
        }
        Ok(())
    }
}

fn founding(shards: u32) -> Founding {
    Founding { cluster: "api".to_owned(), node: NodeId(1), shards, settings: BTreeMap::new() }
}

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir, BTreeMap::from([(NodeId(1), "127.0.0.1:0".to_owned())]));
    config.segment_bytes = 1 << 20;
    config
}

fn alone() -> Bootstrap {
    Bootstrap::New { members: vec![NodeId(1)], first_leader: Some(NodeId(1)) }
}

fn open(dir: &Path, shards: u32) -> Node {
    Node::init(dir, founding(shards)).unwrap();
    Node::open(config(dir)).unwrap()
}

fn sum(reply: &Bytes) -> u64 {
    u64::from_le_bytes(reply[..].try_into().unwrap())
}

fn ignore<T>(_: T) {}

#[test]
fn a_task_gives_its_output_and_one_that_panics_ends_alone() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("node"), 2);
    // A future that stays on its thread.
    let local = node
        .spawn_on(1, async || {
            let cell = std::rc::Rc::new(40);
            tokio::task::yield_now().await;
            *cell + 2
        })
        .unwrap();
    assert_eq!(local.wait(), Ok(42));
    let panics = node.spawn_on(0, async || panic!("told to panic")).unwrap();
    assert_eq!(panics.wait(), Err::<(), _>(Gone));
    let nested = node.clone();
    // From one shard's thread to the other's, and back.
    let there = node.spawn_on(0, async move || {
        let here = nested.spawn_on(1, async || std::thread::current().name().map(str::to_owned));
        here.unwrap().await
    });
    assert_eq!(there.unwrap().wait(), Ok(Ok(Some("logdrive-shard-1".to_owned()))));
    let never = node.spawn_on(0, async || std::future::pending::<()>().await).unwrap();
    let never = never.wait_timeout(Duration::from_millis(1)).expect_err("it never ends");
    node.close().unwrap();
    assert_eq!(never.wait(), Err(Gone));
    let refused = node.spawn_on(0, async || ()).map(drop);
    assert_eq!(refused, Err(logdrive::SpawnError::Stopped("the node was closed".to_owned())));
}

#[test]
fn a_program_that_does_not_tell_its_starts_apart_counts_on() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    for run in 1..=3 {
        let node = Node::open_or_init(config(&dir), founding(1)).unwrap();
        let group = node.create_or_resume(GROUP, alone(), Box::new(Lengths(0))).unwrap();
        let again = node.create_or_resume(GROUP, alone(), Box::new(Lengths(0))).map(drop);
        assert!(matches!(again, Err(GroupError::Running(GROUP))), "{again:?}");
        group.wait_for_leader(PATIENCE).unwrap();
        assert_eq!(sum(&group.propose("four").wait().unwrap().reply), 4 * run);
        node.close().unwrap();
    }
    let others = Founding { shards: 2, ..founding(1) };
    let refused = Node::open_or_init(config(&dir), others).map(drop);
    assert!(matches!(refused, Err(OpenError::Config(_))), "{refused:?}");
    // A directory with files but without an identity is refused, not made into a node's.
    std::fs::remove_file(dir.join("identity")).unwrap();
    let refused = Node::open_or_init(config(&dir), founding(1)).map(drop);
    assert!(matches!(refused, Err(OpenError::Home(_))), "{refused:?}");
}

#[test]
fn a_stopped_group_says_why_and_the_others_run() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("node"), 1);
    let group = |id| {
        let group = node.create(GroupId(id), alone(), Box::new(Lengths(0))).unwrap();
        group.wait_for_leader(PATIENCE).unwrap();
        group
    };
    let [fails, panics, runs] = [1, 2, 3].map(group);
    assert_eq!(fails.state(), GroupState::Running);
    for (group, command, why) in
        [(&fails, "fail", "told to fail"), (&panics, "panic", "it panicked: told to panic")]
    {
        let outcome = group.propose(command).wait();
        assert!(matches!(outcome, Err(ProposeError::OutcomeUnknown(_))), "{outcome:?}");
        let cause = StopCause::Machine(MachineError(why.to_owned()));
        assert_eq!(group.state(), GroupState::Stopped(cause.clone()));
        assert_eq!(group.propose("later").wait(), Err(ProposeError::Stopped(cause)));
    }
    assert!(runs.propose("four").wait().is_ok());
    assert_eq!(runs.state(), GroupState::Running);
    node.close().unwrap();
    let closed = StopCause::Node("the node was closed".to_owned());
    assert_eq!(runs.state(), GroupState::Stopped(closed.clone()));
    assert_eq!(runs.propose("late").wait(), Err(ProposeError::Stopped(closed)));
    assert!(matches!(fails.state(), GroupState::Stopped(StopCause::Machine(_))));
}

#[test]
fn a_node_tells_its_address_its_counts_and_where_its_groups_are() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("node"), 1);
    assert_ne!(node.local_addr().port(), 0);
    std::net::TcpStream::connect(node.local_addr()).unwrap();
    let group = node.create(GROUP, alone(), Box::new(Lengths(0))).unwrap();
    group.wait_for_leader(PATIENCE).unwrap();
    let applied = group.propose("four").wait().unwrap();
    let status = group.status().wait().unwrap();
    assert_eq!((status.applied, status.commit), (applied.index, applied.index));
    assert_eq!((status.last, status.durable), (applied.index, applied.index));
    assert_eq!((status.term.get(), status.leader), (1, Some(NodeId(1))));
    let counters = node.counters(0).wait().unwrap();
    assert!(counters.log.entries >= 2, "{counters:?}");
    assert!(counters.log_usage.bytes > 0 && counters.lanes.is_empty(), "{counters:?}");
    assert_eq!(counters.waiting_commands, 0);
    while node.counters(0).wait().unwrap().inbound.accepted == 0 {
        std::thread::yield_now();
    }
    // The same question from a task of the shard itself, which must not block.
    let asked = group.clone();
    let there = node.spawn_on(0, async move || asked.status().await).unwrap();
    assert_eq!(there.wait(), Ok(Ok(status)));
    node.close().unwrap();
    assert_eq!(group.status().wait(), Err(Gone));
    assert!(node.counters(0).wait().is_err());
}

type Call = Box<dyn Fn() + Send>;

/// All of these calls panic on a shard's thread. If one blocked, the test would not end.
#[test]
fn what_would_block_a_shards_thread_refuses_to_run_there() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    let node = open(&dir, 1);
    let group = node.create(GROUP, alone(), Box::new(Lengths(0))).unwrap();
    group.wait_for_leader(PATIENCE).unwrap();
    let (on, there) = (node.clone(), group.clone());
    let long = Duration::from_secs(3600);
    let calls: Vec<(&str, Call)> = vec![
        ("init", Box::new(|| ignore(Node::init(Path::new("/nowhere"), founding(1))))),
        ("founding", Box::new(|| ignore(Node::founding(Path::new("/nowhere"))))),
        ("open", Box::new(|| ignore(Node::open(config(Path::new("/nowhere")))))),
        (
            "open_or_init",
            Box::new(|| ignore(Node::open_or_init(config(Path::new("/nowhere")), founding(1)))),
        ),
        (
            "wait_for_leader",
            Box::new({
                let there = there.clone();
                move || ignore(there.wait_for_leader(long))
            }),
        ),
        (
            "wait",
            Box::new({
                let there = there.clone();
                move || ignore(there.propose("four").wait())
            }),
        ),
        (
            "wait_timeout",
            Box::new({
                let there = there.clone();
                move || ignore(there.propose("four").wait_timeout(long))
            }),
        ),
        (
            "wait of a batch",
            Box::new({
                let there = there.clone();
                move || ignore(there.propose_batch(vec![Bytes::from("four")]).wait())
            }),
        ),
        ("wait for an answer", Box::new(move || ignore(there.status().wait()))),
        (
            "failure",
            Box::new({
                let on = on.clone();
                move || ignore(on.failure(long))
            }),
        ),
        ("close", Box::new(move || ignore(on.close()))),
    ];
    for (name, call) in calls {
        let panicked = node.spawn_on(0, async move || {
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
            panic.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
        });
        let said = panicked.unwrap().wait().unwrap().unwrap_or_default();
        assert!(
            said.contains("on a shard's thread would hold up all its groups"),
            "{name}: {said}"
        );
    }
    assert!(group.propose("four").wait().is_ok());
    node.close().unwrap();
}

#[test]
fn events_tell_of_leaders_and_stopped_groups_in_order_and_end_with_the_node() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("node"), 1);
    let (mut waited, mut awaited) = (node.events(), node.events());
    let followed = node.spawn_on(0, async move || {
        let mut seen = Vec::new();
        while let Some(event) = awaited.recv().await {
            seen.push(format!("{event:?}"));
            if let NodeEvent::GroupStopped { .. } = event {
                return seen;
            }
        }
        panic!("the events ended early: {seen:?}");
    });
    let group = node.create(GROUP, alone(), Box::new(Lengths(0))).unwrap();
    group.wait_for_leader(PATIENCE).unwrap();
    assert!(group.propose("fail").wait().is_err());
    let cause = StopCause::Machine(MachineError("told to fail".to_owned()));
    let expected = [
        NodeEvent::LeaderChanged { group: GROUP, leader: Some(NodeId(1)) },
        NodeEvent::GroupStopped { group: GROUP, cause },
        NodeEvent::LeaderChanged { group: GROUP, leader: None },
    ];
    let expected = expected.map(|event| format!("{event:?}"));
    let seen: Vec<String> =
        (0..3).map(|_| format!("{:?}", waited.recv_timeout(PATIENCE).unwrap())).collect();
    assert_eq!(seen, expected);
    assert_eq!(followed.unwrap().wait().unwrap(), expected[..2]);
    node.close().unwrap();
    assert_eq!(waited.recv_timeout(PATIENCE).unwrap_err(), RecvTimeoutError::Disconnected);
    assert!(node.events().try_recv().is_none());
}

#[test]
fn a_peer_that_refuses_this_node_is_an_event_on_both_sides() {
    let home = tempfile::tempdir().unwrap();
    let nowhere = "127.0.0.1:1".to_owned();
    let open = |node: u64, cluster: &str, other: (NodeId, String)| {
        let dir = home.path().join(cluster);
        let founding = Founding { cluster: cluster.to_owned(), node: NodeId(node), ..founding(1) };
        let mut config = config(&dir);
        config.peers = BTreeMap::from([(NodeId(node), "127.0.0.1:0".to_owned()), other]);
        Node::open_or_init(config, founding).unwrap()
    };
    let other = open(2, "theirs", (NodeId(1), nowhere));
    let node = open(1, "ours", (NodeId(2), other.local_addr().to_string()));
    let (mut events, mut others) = (node.events(), other.events());
    let refused = events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(refused, NodeEvent::PeerRefused { peer: NodeId(2), why: Refusal::Cluster }),
        "{refused:?}"
    );
    let refuses = others.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(refuses, NodeEvent::PeerTurnedAway { peer: NodeId(1), why: Refusal::Cluster }),
        "{refuses:?}"
    );
    node.close().unwrap();
    other.close().unwrap();
}

/// The bug: one node of a cluster was made for 100 groups and the others for 300. Each group had the same members on all
/// nodes, so nothing was refused, and what was written by way of the one could not be found by way of another.
#[test]
fn nodes_that_were_founded_with_other_settings_refuse_each_other() {
    let home = tempfile::tempdir().unwrap();
    let open = |node: u64, groups: &str, other: (NodeId, String)| {
        let settings = BTreeMap::from([("groups".to_owned(), groups.to_owned())]);
        let mut config = config(&home.path().join(node.to_string()));
        config.peers = BTreeMap::from([(NodeId(node), "127.0.0.1:0".to_owned()), other]);
        let founding = Founding { node: NodeId(node), settings, ..founding(1) };
        Node::open_or_init(config, founding).unwrap()
    };
    let other = open(2, "300", (NodeId(1), "127.0.0.1:1".to_owned()));
    let node = open(1, "100", (NodeId(2), other.local_addr().to_string()));
    let refused = node.events().recv_timeout(PATIENCE).unwrap();
    let NodeEvent::PeerRefused { peer: NodeId(2), why } = refused else { panic!("{refused:?}") };
    assert_eq!(why, Refusal::OtherSettings);
    node.close().unwrap();
    other.close().unwrap();
}

/// A machine that fails on its first command, and whose drop waits until the test lets it go on.
struct Clinging(std::sync::mpsc::Receiver<()>);

impl StateMachine for Clinging {
    fn apply(&mut self, batch: &Committed<'_>, _: &mut Replies) -> Result<(), MachineError> {
        // A new leader's own entry has no command.
        match batch.commands().next() {
            None => Ok(()),
            Some(_) => Err(MachineError("told to fail".to_owned())),
        }
    }
}

impl Drop for Clinging {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

/// The bug: a failed machine was dropped on its shard's thread, and one that closes files or joins threads held up
/// every group there.
#[test]
fn a_failed_machine_that_takes_long_to_drop_holds_up_nobody() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("node"), 1);
    let (let_go, told) = std::sync::mpsc::sync_channel(1);
    let group = node.create(GROUP, alone(), Box::new(Clinging(told))).unwrap();
    let other = node.create(GroupId(8), alone(), Box::new(Lengths(0))).unwrap();
    group.wait_for_leader(PATIENCE).unwrap();
    other.wait_for_leader(PATIENCE).unwrap();
    assert!(group.propose("four").wait().is_err());
    node.restart(GROUP, Box::new(Lengths(0))).unwrap();
    let four = |group: &Group| match group.propose("four").wait_timeout(PATIENCE) {
        Ok(outcome) => sum(&outcome.unwrap().reply),
        Err(_) => panic!("{:?} is held up", group.id()),
    };
    assert_eq!(four(&other), 4);
    while group.state() != GroupState::Running {
        std::thread::yield_now();
    }
    group.wait_for_leader(PATIENCE).unwrap();
    assert_eq!(four(&group), 8);
    let_go.send(()).unwrap();
    node.close().unwrap();
}

/// A machine that takes the place of a [`Lengths`] that failed. The command on which the other one failed is in the log
/// and is handed to this one too, which does not fail on it.
#[derive(Default)]
struct Mended(Lengths);

impl StateMachine for Mended {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        let commands: Vec<Bytes> = batch
            .commands()
            .map(
                |command| {
                    if command.bytes == "fail" { Bytes::new() } else { command.bytes.clone() }
                },
            )
            .collect();
        let batch = CommittedBuf::new(LogIndex(1), commands);
        self.0.apply(&batch.committed(), replies)
    }
}

#[test]
fn a_group_whose_machine_failed_is_restarted_while_its_node_runs() {
    struct Ahead;
    impl StateMachine for Ahead {
        fn open(&mut self) -> Result<AppliedAt, MachineError> {
            Ok(AppliedAt(LogIndex(1 << 40)))
        }

        fn apply(&mut self, _: &Committed<'_>, _: &mut Replies) -> Result<(), MachineError> {
            unreachable!("it is not run")
        }
    }
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("node"), 1);
    let unknown = node.restart(GROUP, Box::new(Mended::default())).map(drop);
    assert!(matches!(unknown, Err(GroupError::Unknown(GROUP))), "{unknown:?}");
    let group = node.create(GROUP, alone(), Box::new(Lengths(0))).unwrap();
    group.wait_for_leader(PATIENCE).unwrap();
    assert_eq!(sum(&group.propose("four").wait().unwrap().reply), 4);
    let running = node.restart(GROUP, Box::new(Mended::default())).map(drop);
    assert!(matches!(running, Err(GroupError::Running(GROUP))), "{running:?}");
    assert!(group.propose("fail").wait().is_err());
    assert!(matches!(group.state(), GroupState::Stopped(StopCause::Machine(_))));
    let ahead = node.restart(GROUP, Box::new(Ahead)).map(drop);
    assert!(matches!(ahead, Err(GroupError::Machine { .. })), "{ahead:?}");
    let mut events = node.events();
    // A machine that fails on the old command again stops again, and can be replaced again.
    node.restart(GROUP, Box::new(Lengths(0))).unwrap();
    let mut stopped = 0;
    while stopped == 0 {
        let event = events.recv_timeout(PATIENCE).unwrap();
        stopped += u32::from(matches!(event, NodeEvent::GroupStopped { .. }));
    }
    node.restart(GROUP, Box::new(Mended::default())).unwrap();
    // The handle from before the failure serves again.
    while group.state() != GroupState::Running {
        std::thread::yield_now();
    }
    group.wait_for_leader(PATIENCE).unwrap();
    let again = sum(&group.propose("four").wait().unwrap().reply);
    assert_eq!(again, 8);
    node.close().unwrap();
    let closed = node.restart(GROUP, Box::new(Mended::default())).map(drop);
    assert!(matches!(closed, Err(GroupError::Stopped(_))), "{closed:?}");
}
