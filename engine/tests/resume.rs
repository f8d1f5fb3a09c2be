//! A log may hold a state that no replica can run on: the node refuses it, group by group, and serves on.

#![forbid(unsafe_code)]

use bytes::Bytes;
use logdrive::{
    Bootstrap, Committed, Config, Founding, GroupError, GroupId, LogIndex, MachineError, Node,
    NodeId, Replies, StateMachine, Term,
};
use logdrive_raft::{Entry, EntryKind, HardState, LogId, WriteId};
use logdrive_wal::{Append, Home, Release, Wal};
use std::{collections::BTreeMap, path::Path};

struct Forgetful;

impl StateMachine for Forgetful {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        batch.commands().for_each(|_| replies.push(Bytes::new()));
        Ok(())
    }
}

const RELEASED: GroupId = GroupId(1);
const TERM_BACK: GroupId = GroupId(2);
const SOUND: GroupId = GroupId(3);
const DESTROYED: GroupId = GroupId(4);
/// One member: node 1.
const MEMBERSHIP: &[u8] = &[1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const SEGMENT_BYTES: u64 = 1 << 20;

fn write(wal: &mut Wal, group: GroupId, term: u64) {
    write_payloads(wal, group, term, &Bytes::new());
}

fn write_payloads(wal: &mut Wal, group: GroupId, term: u64, payload: &Bytes) {
    let kind = if payload.is_empty() { EntryKind::Noop } else { EntryKind::Command };
    let entries: Vec<Entry> = (1..=5)
        .map(|index| Entry {
            term: Term(2),
            index: LogIndex(index),
            kind,
            checksum: logdrive_wal::checksum(payload),
            payload: payload.clone(),
        })
        .collect();
    wal.append(&Append {
        group,
        write: WriteId(1),
        membership: Some(MEMBERSHIP),
        hard_state: Some(HardState { term: Term(term), ..HardState::default() }),
        entries: &entries,
    })
    .unwrap();
}

fn fill(dir: &Path) {
    let home = Home::open(dir).unwrap();
    let mut config = logdrive_wal::Config::new(home.shard_dir(0), home.identity().clone(), 0);
    config.segment_bytes = SEGMENT_BYTES;
    let (mut wal, _) = Wal::open(config).unwrap();
    write(&mut wal, RELEASED, 2);
    write(&mut wal, TERM_BACK, 1);
    write(&mut wal, SOUND, 2);
    write(&mut wal, DESTROYED, 2);
    wal.release(&Release {
        group: RELEASED,
        write: None,
        base: LogId { term: Term(2), index: LogIndex(3) },
        membership: MEMBERSHIP,
        hard_state: None,
        snapshot: None,
    })
    .unwrap();
    wal.destroy(DESTROYED, LogIndex::ZERO).unwrap();
    wal.close().unwrap();
}

fn init(dir: &Path) -> Config {
    let founding = Founding {
        cluster: "resume".to_owned(),
        node: NodeId(1),
        shards: 1,
        settings: BTreeMap::new(),
    };
    Node::init(dir, founding).unwrap();
    let mut config = Config::new(dir, BTreeMap::from([(NodeId(1), "127.0.0.1:0".to_owned())]));
    config.segment_bytes = SEGMENT_BYTES;
    config
}

fn wait_until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within half a minute: {what}");
}

#[test]
fn a_log_that_no_replica_can_run_on_is_refused_and_the_node_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("node");
    let config = init(&dir);
    fill(&dir);
    let node = Node::open(config).unwrap();

    for group in [RELEASED, TERM_BACK] {
        let refused = node.resume(group, Box::new(Forgetful)).map(drop).unwrap_err();
        assert!(matches!(refused, GroupError::Log { .. }), "{refused}");
    }
    assert_eq!(node.recovered(), [RELEASED, TERM_BACK, SOUND]);
    let founding = Bootstrap::New { members: vec![NodeId(1)], first_leader: None };
    let refused = node.create(DESTROYED, founding, Box::new(Forgetful)).map(drop).unwrap_err();
    assert!(matches!(refused, GroupError::Destroyed(DESTROYED)), "{refused}");
    let refused = node.resume(DESTROYED, Box::new(Forgetful)).map(drop).unwrap_err();
    assert!(matches!(refused, GroupError::Destroyed(DESTROYED)), "{refused}");

    node.resume(SOUND, Box::new(Forgetful)).unwrap();
    assert!(node.failure(std::time::Duration::from_millis(100)).is_none());
    node.close().unwrap();
}

/// RULES.md rule 24.
#[test]
fn a_group_whose_log_rots_while_the_node_runs_is_fenced_now_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("node");
    let config = init(&dir);
    // Payloads so large that the next open does not write them again into its own segment.
    let payload = Bytes::from(vec![0xAB; 100_000]);
    let home = Home::open(&dir).unwrap();
    let mut log = logdrive_wal::Config::new(home.shard_dir(0), home.identity().clone(), 0);
    log.segment_bytes = SEGMENT_BYTES;
    let segment = log.dir.join("0000000001.seg");
    let (mut wal, _) = Wal::open(log).unwrap();
    write_payloads(&mut wal, SOUND, 2, &payload);
    write(&mut wal, TERM_BACK, 2);
    wal.close().unwrap();
    drop(home);
    let node = Node::open(config.clone()).unwrap();
    let flip = || {
        let mut bytes = std::fs::read(&segment).unwrap();
        let at = bytes.windows(500).position(|window| *window == payload[..500]).unwrap();
        bytes[at + 600] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
    };
    flip();
    let rotten = node.resume(SOUND, Box::new(Forgetful)).unwrap();
    wait_until("it is fenced", || !node.fenced().is_empty());
    let fenced = node.fenced();
    assert_eq!((fenced.len(), fenced[0].0, &fenced[0].1.file), (1, SOUND, &segment));
    assert!(node.group(SOUND).is_none());
    assert!(rotten.propose("command").wait().is_err());
    let refused = node.resume(SOUND, Box::new(Forgetful)).map(drop).unwrap_err();
    assert!(matches!(refused, GroupError::Fenced { .. }), "{refused}");
    // Another group serves.
    let sound = node.resume(TERM_BACK, Box::new(Forgetful)).unwrap();
    wait_until("it serves", || sound.propose("command").wait().is_ok());
    node.close().unwrap();
    drop(node);
    // The damaged byte reads well again, and the fence stays.
    flip();
    let node = Node::open(config).unwrap();
    assert_eq!(node.fenced()[0].0, SOUND);
    node.close().unwrap();
}
