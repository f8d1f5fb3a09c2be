//! Full disks on a real kernel: writes are refused with the reason, votes go on, and the cluster heals by itself
//! (RULES.md W9, W10).
//!
//! Three nodes share a file system that the test fills: ext4 on a loop device, or tmpfs. Or the followers alone have no room,
//! each on a file system of its own. Mounting needs root; without it the tests say SKIPPED. In the last test the size of one
//! node's files is limited.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "one ioctl that no safe crate offers")]
#[path = "support/ioctl.rs"]
mod ioctl;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/room.rs"]
mod room;
mod support;

use mount::Disk;
use room::{Ballast, Memory};
use std::{fs, path::Path, time::Duration};
use support::{
    client::{Client, Connection, Outcome, Reply, request},
    cluster::{Cluster, directory},
    eventually,
    load::{Load, Shape},
    now,
    process::output_within,
    report, skipped, turn,
};

/// RULES.md W9, W10.
#[test]
fn three_nodes_on_a_full_ext4_refuse_writes_elect_and_heal() {
    let _turn = turn();
    let dir = directory();
    match Disk::new(dir.path(), ROOM_BYTES) {
        Ok(disk) => fill_and_heal("ext4", dir.path(), disk.path()),
        Err(why) => {
            skipped("three_nodes_on_a_full_ext4_refuse_writes_elect_and_heal", why);
        }
    }
}

/// RULES.md W9, W10.
#[test]
fn three_nodes_in_full_memory_refuse_writes_elect_and_heal() {
    let _turn = turn();
    let dir = directory();
    match Memory::new(dir.path(), ROOM_BYTES) {
        Ok(memory) => fill_and_heal("tmpfs", dir.path(), memory.path()),
        Err(why) => {
            skipped("three_nodes_in_full_memory_refuse_writes_elect_and_heal", why);
        }
    }
}

fn fill_and_heal(name: &str, logs: &Path, place: &Path) {
    let mut cluster = Cluster::start_logging_to(logs, place, GROUPS, SEGMENT_BYTES);
    let addresses = cluster.addresses();
    let probes = cluster.key_per_group("probe-");
    let load = Load::start(&addresses, &shape("before"));
    load.wait_for_more(200, LIVE_MAX);
    let mut histories = load.finish();

    // Room that is given back meanwhile is taken too, until no group takes anything any more.
    let ballast = Ballast::fill(place);
    let full = now();
    take_all_room(&cluster, &ballast, &probes);
    report(format_args!("  full, {name}: no group takes writes {:?} after it", full.elapsed()));

    // Each full node has given its leaderships up once, to others that are full too; then leaders last all the same.
    let led = |cluster: &Cluster, nodes: &[usize]| -> usize {
        nodes.iter().map(|at| usize::try_from(cluster.nodes[*at].groups_led()).unwrap()).sum()
    };
    let all_led = eventually(LIVE_MAX, || led(&cluster, &[0, 1, 2]) == GROUPS);
    assert!(all_led, "leaders do not last without room{}", cluster.last_words());

    // Votes are written to the reserve: a leader that dies is replaced while there is no room.
    let (busiest, _) = cluster.leads_most();
    cluster.nodes[busiest].kill();
    let others: Vec<usize> = (0..3).filter(|at| *at != busiest).collect();
    let elected = eventually(LIVE_MAX, || led(&cluster, &others) == GROUPS);
    assert!(elected, "no election without room{}", cluster.last_words());
    // All room is taken once more: a refusal may be late, and a file system may have given something back.
    take_all_room(&cluster, &ballast, &probes);
    for at in &others {
        assert!(cluster.nodes[*at].exited().is_none(), "ended for lack of room");
    }
    // A node does not start without room: it says so, and changes nothing.
    ballast.take_more();
    let output = output_within(cluster.nodes[busiest].command(&[]), LIVE_MAX);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("No space left"), "{said}");

    drop(ballast);
    let healed = now();
    cluster.write_to_all(&probes, "healed", LIVE_MAX);
    report(format_args!(
        "  full, {name}: every group takes writes {:?} after it",
        healed.elapsed()
    ));
    cluster.restart();
    let load = Load::start(&addresses, &shape("after"));
    load.wait_for_more(200, LIVE_MAX);
    let mut after = load.finish();
    cluster.kill_all();
    cluster.restart();
    histories.check(&addresses);
    after.check(&addresses);
    cluster.assert_no_panic();
}

/// RULES.md W10.
/// The logs of shard 0 of two nodes stand on a small file system each, so that no majority of its groups has room; the
/// logs of shard 1 have room. Each node has one client, which sends one write and one read of every group at once, and
/// the next ones when all of these are answered: if one command had no answer, all that is behind it would have none.
#[test]
fn with_two_full_followers_every_command_is_answered_and_groups_with_room_are_served() {
    let _turn = turn();
    let dir = directory();
    let mut small = Vec::new();
    for id in [2, 3] {
        let place = dir.path().join(format!("n{id}/shard-000"));
        fs::create_dir_all(&place).unwrap();
        match Memory::at(place, FOLLOWER_BYTES) {
            Ok(memory) => small.push(memory),
            Err(why) => {
                skipped(
                    "with_two_full_followers_every_command_is_answered_and_groups_with_room_are_served",
                    why,
                );
                return;
            }
        }
    }
    // The cluster is declared behind the file systems so that it is dropped first: no node may keep a file system
    // mounted.
    let mut cluster = Cluster::plan(dir.path(), 3, 2 * GROUPS, SEGMENT_BYTES);
    for node in &mut cluster.nodes {
        node.set_flag("--shards", "2");
        node.set_flag("--election-timeout", "500ms");
    }
    cluster.init();
    // These files take half of the room, to be given back later.
    let ballasts: Vec<_> = small.iter().map(|memory| memory.path().join("ballast")).collect();
    for ballast in &ballasts {
        fs::write(ballast, vec![0xBA; usize::try_from(FOLLOWER_BYTES / 2).unwrap()]).unwrap();
    }

    let keys = cluster.key_per_group("probe-");
    let connect = |address: &_| Connection::within(*address, ANSWERED_MAX).unwrap();
    let mut clients: Vec<_> = cluster.addresses().iter().map(connect).collect();
    let mut slowest = Duration::ZERO;
    let mut round = || {
        let asked = now();
        let told = ask_all(&mut clients, &keys);
        slowest = slowest.max(asked.elapsed());
        told.unwrap_or_else(|why| panic!("{why}{}", cluster.last_words()))
    };
    let mut last = Vec::new();
    let full = eventually(FILL_MAX, || {
        last = round();
        let (taken, others): (Vec<_>, Vec<_>) = last.iter().partition(|told| told.is_written());
        taken.len() == GROUPS
            && taken.iter().all(|told| told.is_read())
            && others.iter().all(|told| told.is_refused())
    });
    let said: Vec<_> = last.iter().map(|told| &told.writes).collect();
    assert!(full, "not half of the groups are full: {said:?}{}", cluster.last_words());
    for _ in 0..5 {
        round();
    }
    report(format_args!("  two full followers: the slowest round was answered in {slowest:?}"));
    for node in &mut cluster.nodes {
        assert!(node.exited().is_none(), "ended for lack of room");
    }
    for ballast in ballasts {
        fs::remove_file(ballast).unwrap();
    }
    cluster.write_to_all(&keys, "healed", LIVE_MAX);
    cluster.assert_no_panic();
}

/// The answers of all nodes to the commands of one group.
#[derive(Clone, Default)]
struct Told {
    writes: Vec<Reply>,
    reads: Vec<Reply>,
}

impl Told {
    fn is_written(&self) -> bool {
        self.writes.contains(&Reply::Status("OK".to_owned()))
    }

    fn is_refused(&self) -> bool {
        let says =
            |reply: &Reply| matches!(reply, Reply::Error(why) if why.starts_with("DISKFULL"));
        self.writes.iter().any(says)
    }

    fn is_read(&self) -> bool {
        self.reads.contains(&Reply::Bulk(VALUE.to_vec()))
    }
}

/// Sends one write and one read of every group to each node, all at once over one connection, and waits for all answers.
fn ask_all(clients: &mut [Connection], keys: &[String]) -> Result<Vec<Told>, String> {
    let commands = |key: &String| {
        let write = request(&[&b"SET"[..], key.as_bytes(), VALUE]);
        [write, request(&["GET", key])].concat()
    };
    let all: Vec<u8> = keys.iter().flat_map(commands).collect();
    clients.iter_mut().for_each(|client| client.send(&all).unwrap());
    let sent = now();
    let mut told = vec![Told::default(); keys.len()];
    for (at, client) in clients.iter_mut().enumerate() {
        for Told { writes, reads } in &mut told {
            for replies in [writes, reads] {
                let reply = client.reply();
                let waited = sent.elapsed();
                match reply {
                    Ok(reply) if waited < ANSWERED_MAX => replies.push(reply),
                    reply => return Err(format!("node {}: {reply:?} in {waited:?}", at + 1)),
                }
            }
        }
    }
    Ok(told)
}

/// RULES.md rule 27.
/// A node keeps what it has met of a peer before it hears the peer, in room that its directory has had from the start.
/// So a node whose disk is full to its last block hears a peer that was restarted. Here no other node runs, so the two
/// need each other.
#[test]
fn a_node_on_a_full_disk_hears_a_peer_that_was_restarted() {
    let _turn = turn();
    let dir = directory();
    let place = dir.path().join("n3");
    fs::create_dir(&place).unwrap();
    let memory = match Memory::at(place, FOLLOWER_BYTES) {
        Ok(memory) => memory,
        Err(why) => {
            skipped("a_node_on_a_full_disk_hears_a_peer_that_was_restarted", why);
            return;
        }
    };
    let mut cluster = Cluster::start(dir.path(), GROUPS, SEGMENT_BYTES);
    let keys = cluster.key_per_group("met-");
    cluster.write_to_all(&keys, "before", LIVE_MAX);
    // While no segment is in the making, nothing gives room back.
    assert!(eventually(LIVE_MAX, || cluster.nodes[2].segment_made() >= 4));
    let ballast = Ballast::fill(memory.path());
    fs::write(memory.path().join("more"), [1; 4096]).expect_err("there is room");
    let before = cluster.nodes[2].openings();
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    cluster.nodes[0].start(&[]);
    cluster.wait_ready();
    cluster.write_to_all(&keys, "met", LIVE_MAX);
    assert_ne!(cluster.nodes[2].openings(), before, "the full node has kept nothing of it");
    fs::write(memory.path().join("more"), [1; 4096]).expect_err("there is room");
    drop(ballast);
    cluster.restart();
    cluster.write_to_all(&keys, "after", LIVE_MAX);
    cluster.assert_no_panic();
}

/// RULES.md W6.
/// A write past the limit fails with EFBIG. A full disk does not fail a write of the log, because each segment is made
/// whole before it is used. So this is a failed write like any other (rule 17).
#[test]
fn a_node_whose_log_write_is_over_its_file_size_limit_ends_and_the_others_serve() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 3, GROUPS, SEGMENT_BYTES);
    cluster.init();
    // Waits until the next segment is ready and none is being made: one in the making would fail as on a full disk.
    assert!(eventually(LIVE_MAX, || cluster.nodes[0].segment_made() >= 4));
    limit_file_size(cluster.nodes[0].pid(), SEGMENT_BYTES as u64 / 2);
    let addresses = cluster.addresses();
    let load = Load::start(&addresses, &shape("limited"));
    let status = cluster.nodes[0].wait_exit(LIVE_MAX);
    let said = cluster.nodes[0].said();
    assert!(status.code() == Some(1) && said.contains("File too large"), "{status}: {said}");
    load.wait_for_more(100, LIVE_MAX);
    let mut histories = load.finish();
    cluster.restart();
    // The first node's disk is needed for a quorum now.
    cluster.nodes[1].kill();
    histories.check(&addresses);
    cluster.assert_no_panic();
}

fn limit_file_size(pid: u32, bytes: u64) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(pid.try_into().unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: Some(bytes), maximum: None }).unwrap();
}

/// Takes all room until no group takes a write. Only nodes that run are asked, because the last answer would else often be
/// that a node does not run.
fn take_all_room(cluster: &Cluster, ballast: &Ballast, probes: &[String]) {
    let running = cluster.nodes.iter().filter(|node| node.runs());
    let addresses: Vec<_> = running.map(|node| node.client).collect();
    let mut last = Ok(());
    let refused = eventually(FILL_MAX, || {
        ballast.take_more();
        last = takes_nothing(&addresses, probes);
        last.is_ok()
    });
    assert!(refused, "a full disk: {last:?}{}", cluster.last_words());
}

/// Checks that no group takes a write, and that some group says that the disk is full. A leader that alone has room takes
/// the write, and answers late that its outcome is unknown; the client here asks again before that.
fn takes_nothing(addresses: &[std::net::SocketAddr], probes: &[String]) -> Result<(), String> {
    let mut client = Client::impatient(addresses, ASK_MAX);
    let mut outcomes = Vec::new();
    for key in probes {
        match client.set(key, &[b'x'; 8 << 10], ASK_MAX) {
            Outcome::Yes => return Err(format!("the group of {key} took a write")),
            // The group has no leader, or its leader has no room, or does not know yet that its followers have none.
            outcome => outcomes.push(outcome),
        }
    }
    let is_full =
        |outcome: &Outcome| matches!(outcome, Outcome::No(why) if why.contains("DISKFULL"));
    match outcomes.iter().any(is_full) {
        true => Ok(()),
        false => Err(format!("no group says that the disk is full: {outcomes:?}")),
    }
}

fn shape(name: &'static str) -> Shape {
    Shape {
        name,
        threads: 4,
        keys_per_thread: 50,
        value_bytes: 8 << 10,
        pause: Duration::from_millis(1),
    }
}

const GROUPS: usize = 6;
const VALUE: &[u8] = &[b'x'; 8 << 10];
const ROOM_BYTES: u64 = 128 << 20;
const FOLLOWER_BYTES: u64 = 16 << 20;
const SEGMENT_BYTES: usize = 1 << 20;
const LIVE_MAX: Duration = Duration::from_secs(30);
const FILL_MAX: Duration = Duration::from_secs(40);
const ASK_MAX: Duration = Duration::from_millis(300);
/// Twenty times the election timeout that the test of two full followers sets. A command that is not committed is
/// answered after eight to nine by the shard's clock, which leaves out the time for which a busy machine did not run
/// the shard.
const ANSWERED_MAX: Duration = Duration::from_secs(10);
