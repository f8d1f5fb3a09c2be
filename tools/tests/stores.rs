//! A node that lost its directory, or came back with an old copy of it, is refused by those who know it, and says so;
//! a directory that was moved, or copied and left, goes on (RULES.md P6, C7).

#![forbid(unsafe_code)]

mod support;

use std::{path::Path, process::Command, time::Duration};
use support::{
    client::Client,
    cluster::{Cluster, directory},
    eventually, turn,
};

/// RULES.md P6.
#[test]
fn a_directory_made_anew_under_a_known_id_costs_no_acknowledged_write() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), 8, 256 << 10);
    let keys = cluster.key_per_group("p6-");
    // Only the first and the second have the keys that are written while the third is away.
    assert!(cluster.nodes[2].stop().success());
    cluster.write_to_all(&keys, "kept", LIVE_MAX);
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    std::fs::remove_dir_all(&cluster.nodes[1].dir).unwrap();
    cluster.nodes[2].start(&[]);
    cluster.nodes[1].start(&["--init"]);
    assert!(!cluster.nodes[1].wait_exit(LIVE_MAX).success());
    let said = cluster.nodes[1].said();
    assert!(said.contains("node 3 refused this node"), "{said}");
    assert!(said.contains("known with another directory"), "{said}");
    assert!(said.contains(TO_DO), "{said}");
    // Nor does it come back by being started again, or by being made once more.
    assert_refused_at_once(&mut cluster, 1, &[], "must not be used any more");
    assert_refused_at_once(&mut cluster, 1, &[], TO_DO);
    assert_refused_at_once(&mut cluster, 1, &["--init"], "is a node's directory already");
    cluster.nodes[0].start(&[]);
    cluster.wait_ready();
    let mut client = Client::new(&cluster.addresses());
    for key in &keys {
        assert_eq!(client.get(key, LIVE_MAX).unwrap().as_deref(), Some(&b"kept"[..]), "{key}");
    }
    cluster.assert_no_panic();
}

/// RULES.md C7.
#[test]
fn of_a_directory_and_its_copies_the_latest_that_its_peers_met_goes_on() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), 8, 256 << 10);
    let keys = cluster.key_per_group("c7-");
    let own = cluster.nodes[1].dir.clone();
    let [copy, moved] = ["copy", "moved"].map(|name| dir.path().join(name));
    assert!(cluster.nodes[1].stop().success());
    copy_directory(&own, &copy);
    // Copied, and the original left: the copy is the node. Moved: the same.
    std::fs::rename(&own, dir.path().join("left")).unwrap();
    copy_directory(&copy, &own);
    cluster.nodes[1].start(&[]);
    cluster.wait_ready();
    cluster.write_to_all(&keys, "one", LIVE_MAX);
    assert!(cluster.nodes[1].stop().success());
    std::fs::rename(&own, &moved).unwrap();
    cluster.nodes[1].set_flag("--dir", moved.to_str().unwrap());
    cluster.nodes[1].start(&[]);
    cluster.wait_ready();
    cluster.write_to_all(&keys, "two", LIVE_MAX);
    assert!(cluster.nodes[1].stop().success());
    // The copy put back is older than what both peers met.
    cluster.nodes[1].set_flag("--dir", copy.to_str().unwrap());
    cluster.nodes[1].start(&[]);
    assert!(!cluster.nodes[1].wait_exit(LIVE_MAX).success());
    let said = cluster.nodes[1].said();
    assert!(said.contains("known with a later state of its directory"), "{said}");
    assert!(said.contains(TO_DO), "{said}");
    assert_refused_at_once(&mut cluster, 1, &[], "must not be used any more");
    // The node itself is not shut out by that.
    cluster.nodes[1].set_flag("--dir", moved.to_str().unwrap());
    cluster.nodes[1].start(&[]);
    cluster.nodes[0].kill();
    cluster.write_to_all(&keys, "three", LIVE_MAX);
    cluster.assert_no_panic();
}

/// RULES.md P11.
/// Reported of other systems: the leader takes what a follower's own settings do not hold, and the group stands still there.
#[test]
fn a_node_whose_segments_do_not_hold_its_peers_commands_ends_and_may_come_back_with_larger_ones() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 3, 4, 16 << 20);
    cluster.nodes[2].set_flag("--segment-bytes", "65536");
    for node in &mut cluster.nodes {
        node.start(&["--init"]);
    }
    assert!(!cluster.nodes[2].wait_exit(LIVE_MAX).success());
    let said = cluster.nodes[2].said();
    assert!(said.contains("takes commands of up to 1048576 bytes"), "{said}");
    assert!(said.contains("segments of at least 4194304 bytes"), "{said}");
    cluster.wait_ready();
    let keys = cluster.key_per_group("large-");
    let large = "x".repeat(900_000);
    cluster.write_to_all(&keys, &large, LIVE_MAX);
    cluster.nodes[2].set_flag("--segment-bytes", &(4 << 20).to_string());
    cluster.nodes[2].start(&[]);
    cluster.wait_ready();
    assert!(cluster.nodes[0].stop().success());
    cluster.write_to_all(&keys, &large, LIVE_MAX);
    // The largest command that the directories were first opened for holds for later opens, too.
    cluster.nodes[0].set_flag("--segment-bytes", &(1 << 20).to_string());
    assert_refused_at_once(&mut cluster, 0, &[], "founded for commands of up to 1048576");
    cluster.nodes[0].set_flag("--segment-bytes", &(2 << 20).to_string());
    cluster.nodes[0].start(&[]);
    cluster.wait_ready();
    cluster.assert_no_panic();
}

/// RULES.md P11.
/// A node that met a peer with larger commands than its segments hold took that number over and ended, so that one node with
/// too large commands ended all the others, and for good.
#[test]
fn a_node_with_commands_that_fit_no_other_shuts_out_itself_only() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 3, 4, 64 << 10);
    cluster.nodes[2].set_flag("--segment-bytes", &(16 << 20).to_string());
    for at in [2, 0, 1] {
        cluster.nodes[at].start(&["--init"]);
    }
    wait_served(&mut cluster, &[0, 1]);
    let keys = cluster.key_per_group("small-");
    cluster.write_to_all(&keys, "one", LIVE_MAX);
    // None has kept what the third says: they go on when they are opened again, too.
    for at in [0, 1] {
        assert!(cluster.nodes[at].stop().success());
        cluster.nodes[at].start(&[]);
        wait_served(&mut cluster, &[0, 1]);
        cluster.write_to_all(&keys, "two", LIVE_MAX);
    }
    assert!(cluster.nodes[2].runs() && cluster.nodes[2].stop().success());
    for at in [0, 1] {
        let said = cluster.nodes[at].said();
        let is_why = |line: &&str| {
            line.contains("ERROR")
                && line.contains("node 3 takes commands of up to 1048576 bytes")
                && line.contains("segments of at least 4194304 bytes")
        };
        assert_eq!(said.lines().filter(is_why).count(), 2, "once in each of its lives:\n{said}");
    }
    // Nobody has met that directory, so it may be made anew as it should be.
    std::fs::remove_dir_all(&cluster.nodes[2].dir).unwrap();
    cluster.nodes[2].set_flag("--segment-bytes", &(64 << 10).to_string());
    cluster.nodes[2].start(&["--init"]);
    cluster.wait_ready();
    assert!(cluster.nodes[0].stop().success());
    cluster.write_to_all(&keys, "three", LIVE_MAX);
    cluster.assert_no_panic();
}

/// Waits until these nodes say that every slot is served.
fn wait_served(cluster: &mut Cluster, nodes: &[usize]) {
    for at in nodes {
        let is_served = eventually(LIVE_MAX, || cluster.nodes[*at].says_ready());
        assert!(is_served, "node {}{}", at + 1, cluster.last_words());
    }
}

/// Starts a node that must end by itself, saying `why`.
fn assert_refused_at_once(cluster: &mut Cluster, at: usize, more: &[&str], why: &str) {
    let node = &mut cluster.nodes[at];
    let before = node.said().len();
    node.start(more);
    assert!(!node.wait_exit(LIVE_MAX).success());
    let said = node.said().split_off(before);
    assert!(said.contains(why), "{said}");
}

fn copy_directory(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--sparse=never"]).arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// Tells the owner of a directory that was refused what there is to do today.
const TO_DO: &str = "The other nodes go on without it; it cannot be repaired, and its replicas cannot be replaced \
                     before membership changes exist";
const LIVE_MAX: Duration = Duration::from_secs(30);
