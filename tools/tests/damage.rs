//! Damage at rest, from outside: what can be limited costs a node the groups it hit, and nobody else anything; what
//! cannot be is refused by name.
//!
//! Every region of a log, byte by byte, is the log's own test; this one is what operators and clients see.

#![forbid(unsafe_code)]

mod support;

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use support::{
    client::{Client, Connection, Outcome, Reply, slot_of},
    cluster::{Cluster, Node, directory},
    eventually,
    load::{Load, Shape},
    turn,
};

#[test]
fn c4_a_flipped_byte_in_a_header_is_refused_by_name_and_the_others_serve() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), 16, 256 << 10);
    let addresses = cluster.addresses();
    let shape =
        |name, pause| Shape { name, threads: 4, keys_per_thread: 32, value_bytes: 4 << 10, pause };
    let load = Load::start(&addresses, &shape("before", Duration::ZERO));
    let filled = eventually(LIVE_MAX, || cluster.nodes[2].segments().len() >= 6);
    let mut histories = load.finish();
    assert!(filled, "no segments were sealed: {:?}", cluster.nodes[2].segments());
    let status = cluster.nodes[2].stop();
    assert!(status.success(), "stopped with {status}");

    // The other two go on meanwhile.
    let load = Load::start(&addresses, &shape("meanwhile", Duration::from_millis(5)));
    load.wait_for_more(50, LIVE_MAX);
    let segments = cluster.nodes[2].segments();
    let segment = &segments[1];
    let batch = batches(segment).pop().expect("a batch").at;
    for at in [batch + 9, 4096, 0] {
        flip(segment, at);
        let output = start(&cluster.nodes[2]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "byte {at}: started\n{said}");
        let name = segment.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(name), "byte {at}: the file {name} is not named\n{said}");
        let offset =
            offset_in(&said).unwrap_or_else(|| panic!("byte {at}: no offset is named\n{said}"));
        assert!(offset <= at, "byte {at}: damage is said to be behind it, at {offset}\n{said}");
        assert!(!said.contains("panicked"), "byte {at}:\n{said}");
        load.wait_for_more(10, LIVE_MAX);
        flip(segment, at);
    }
    let mut meanwhile = load.finish();
    histories.check(&addresses);
    meanwhile.check(&addresses);

    // With its bytes as they were, the node is a member again: nothing was changed by the refused starts.
    cluster.restart();
    cluster.nodes[0].kill();
    histories.check(&addresses);
    meanwhile.check(&addresses);
    cluster.assert_no_panic();
}

#[test]
fn c1_inv18_a_damaged_range_fences_its_groups_on_that_node_and_everybody_serves_the_rest() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), GROUPS, 64 << 10);
    let addresses = cluster.addresses();
    let keys: Vec<String> = (1..=GROUPS).map(key_of).collect();
    let mut client = Client::new(&addresses);
    // One at a time, so that batches name few groups.
    for round in 0..8 {
        for key in &keys {
            let value = format!("{round}{}", "x".repeat(2000));
            assert_eq!(client.put(key, value.as_bytes(), LIVE_MAX), Outcome::Yes);
        }
    }
    // The last values everywhere: a heartbeat or two later.
    std::thread::sleep(Duration::from_millis(300));
    let status = cluster.nodes[2].stop();
    assert!(status.success(), "stopped with {status}");
    let (segment, batch) = batch_of_few(&cluster.nodes[2]);
    let fenced = &batch.groups;
    assert!(!fenced.is_empty() && fenced.len() <= GROUPS / 2, "{batch:?}");
    flip(&segment, batch.records);
    cluster.restart();

    // One line per group, with file and offset.
    let said = cluster.nodes[2].said();
    let name = segment.file_name().unwrap().to_str().unwrap();
    let named = said.lines().filter(|line| line.contains("is fenced here") && line.contains(name));
    assert_eq!(named.count(), fenced.len(), "{said}");
    assert!(said.contains(&format!("byte {}", batch.at)), "{said}");
    let carried: usize = cluster.nodes[2].info()["groups"].parse().unwrap();
    assert_eq!(carried, GROUPS - fenced.len());
    // Who asks it for one of them is sent to somebody else; the cluster serves all.
    let mut client = Client::new(&addresses);
    for (group, key) in (1..).zip(&keys) {
        let mut node = Connection::open(cluster.nodes[2].client).unwrap();
        let reply = node.call(&[b"GET", key.as_bytes()]).unwrap();
        if fenced.contains(&group) {
            let Reply::Error(error) = &reply else { panic!("group {group}: {reply:?}") };
            let away = error.starts_with("MOVED ")
                && !error.ends_with(&cluster.nodes[2].client.to_string());
            assert!(away, "group {group}: {error}");
        }
        assert_eq!(client.put(key, b"after", LIVE_MAX), Outcome::Yes, "group {group}");
    }

    // Without the first node, the second and the third are a majority: of all groups but the fenced ones, for which
    // the third must neither vote nor acknowledge.
    cluster.nodes[0].kill();
    let mut client = Client::new(&addresses[1..]);
    for (group, key) in (1..).zip(&keys).filter(|(group, _)| !fenced.contains(group)) {
        // What was on its way to the node that was killed has an unknown outcome.
        assert_eq!(client.put(key, b"two", LIVE_MAX), Outcome::Yes, "group {group}");
    }
    for group in fenced {
        let key = &keys[usize::try_from(group - 1).unwrap()];
        let outcome = client.set(key, b"never", Duration::from_secs(2));
        assert!(!matches!(outcome, Outcome::Yes), "group {group}: a fenced replica acknowledged");
    }
    cluster.nodes[0].start(&[]);
    cluster.wait_ready();
    let mut client = Client::new(&addresses);
    for (group, key) in (1..).zip(&keys) {
        let value = client.get(key, LIVE_MAX).unwrap().expect("a value");
        let known: &[&[u8]] =
            if fenced.contains(&group) { &[b"after", b"never"] } else { &[b"two"] };
        assert!(known.contains(&value.as_slice()), "group {group}: {value:?}");
    }
    cluster.assert_no_panic();
}

/// A batch as FORMAT.md draws it.
#[derive(Debug)]
struct Batch {
    at: u64,
    records: u64,
    groups: BTreeSet<u64>,
}

fn batches(segment: &Path) -> Vec<Batch> {
    let bytes = std::fs::read(segment).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut found = Vec::new();
    let mut at = 4096;
    while at < bytes.len() && bytes[at..at + 4] == *b"LDB1" {
        let end = at + 56 + u32_at(at + 32);
        let directory = end - 8 * u32_at(at + 48);
        let groups = bytes[directory..end].chunks_exact(8);
        let groups = groups.map(|id| u64::from_le_bytes(id.try_into().unwrap())).collect();
        found.push(Batch { at: at as u64, records: at as u64 + 56, groups });
        at = end.next_multiple_of(4096);
    }
    found
}

/// A batch of a sealed segment that names the fewest groups, but some; not a segment's first, which has a start record.
fn batch_of_few(node: &Node) -> (PathBuf, Batch) {
    let used: Vec<_> =
        node.segments().into_iter().filter(|path| !batches(path).is_empty()).collect();
    let (_, sealed) = used.split_last().expect("segments");
    let batches = sealed
        .iter()
        .flat_map(|path| batches(path).into_iter().skip(1).map(move |batch| (path.clone(), batch)));
    let some = batches.filter(|(_, batch)| !batch.groups.is_empty());
    some.min_by_key(|(_, batch)| batch.groups.len()).expect("a batch of a sealed segment")
}

/// A key of the group with this id.
fn key_of(group: usize) -> String {
    let is_its = |key: &String| usize::from(slot_of(key.as_bytes())) * GROUPS / 16_384 == group - 1;
    (0..).map(|number| format!("key{number}")).find(is_its).unwrap()
}

/// Inverts one byte.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    file.sync_all().unwrap();
}

/// Runs the node until it ends by itself.
fn start(node: &Node) -> Output {
    let mut command = node.command(&[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    support::output_within(command, START_MAX)
}

/// The number behind the word `byte`.
fn offset_in(said: &str) -> Option<u64> {
    let mut words = said.split([' ', ':', ',', '\n']).skip_while(|word| *word != "byte");
    words.nth(1)?.parse().ok()
}

const GROUPS: usize = 8;
const LIVE_MAX: Duration = Duration::from_secs(40);
const START_MAX: Duration = Duration::from_secs(30);
