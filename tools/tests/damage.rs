//! Damage at rest, from outside: damage that can be limited costs one node the groups that it hit, and the other nodes
//! nothing; any other damage is refused by name.
//!
//! The log's own tests damage every byte of a log; these show what operators and clients see.

#![forbid(unsafe_code)]

mod support;

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};
use support::{
    client::{Client, Outcome, Reply, slot_of},
    cluster::{Cluster, Node, directory},
    eventually,
    load::{Load, Shape},
    process::output_within,
    turn,
};

/// RULES.md C4.
#[test]
fn a_flipped_byte_in_a_header_is_refused_by_name_and_the_others_serve() {
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
        let output = output_within(cluster.nodes[2].command(&[]), START_MAX);
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

/// RULES.md C1, invariant 18.
#[test]
fn a_damaged_range_fences_its_groups_on_that_node_and_everybody_serves_the_rest() {
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
    // A heartbeat or two later the last values are on every node.
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
    // A client that asks the third node for a fenced group is sent to another node; the cluster serves all groups.
    let mut client = Client::new(&addresses);
    for (group, key) in (1..).zip(&keys) {
        let reply = cluster.nodes[2].connect().call(&["GET", key]);
        if fenced.contains(&group) {
            let Reply::Error(error) = &reply else { panic!("group {group}: {reply:?}") };
            let away = error.starts_with("MOVED ")
                && !error.ends_with(&cluster.nodes[2].client.to_string());
            assert!(away, "group {group}: {error}");
        }
        assert_eq!(client.put(key, b"after", LIVE_MAX), Outcome::Yes, "group {group}");
    }

    // Without the first node, the second and the third are a majority for all groups but the fenced ones: of these the
    // third must neither vote nor acknowledge.
    cluster.nodes[0].kill();
    let mut client = Client::new(&addresses[1..]);
    for (group, key) in (1..).zip(&keys).filter(|(group, _)| !fenced.contains(group)) {
        // A request that was on its way to the node that was killed has an unknown outcome.
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

/// RULES.md C13.
#[test]
fn an_entry_damaged_on_every_node_or_on_most_halts_its_group_and_no_other() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), GROUPS, 64 << 10);
    let addresses = cluster.addresses();
    let keys: Vec<String> = (1..=GROUPS).map(key_of).collect();
    let value = |round: usize, key: &str| format!("<{round}/{key}>{}", "x".repeat(2000));
    let mut client = Client::new(&addresses);
    for round in 0..ROUNDS {
        for key in &keys {
            let outcome = client.set(key, value(round, key).as_bytes(), LIVE_MAX);
            assert!(matches!(outcome, Outcome::Yes), "{outcome:?}");
        }
    }
    // Waits until the last entry of every group is on every disk.
    for key in &keys {
        let last = value(ROUNDS - 1, key);
        let written = |node: &Node| !places_of(node, last.as_bytes()).is_empty();
        assert!(eventually(LIVE_MAX, || cluster.nodes.iter().all(written)), "{key}");
    }
    for node in &mut cluster.nodes {
        let status = node.stop();
        assert!(status.success(), "stopped with {status}");
    }

    // The damage hits entries whose values were overwritten long ago, and which are alone in their batches on every node, so
    // that each costs one group.
    let entries = (1..ROUNDS - 1).flat_map(|round| (1..=GROUPS).map(move |group| (round, group)));
    let mut alone = entries.filter_map(|(round, group)| {
        let needle = value(round, &keys[group - 1]);
        let places: Vec<_> =
            cluster.nodes.iter().map(|node| places_of(node, needle.as_bytes())).collect();
        let is_alone = |places: &Vec<Place>| {
            matches!(&places[..], [place] if !place.is_first && place.groups == [group as u64])
        };
        places.iter().all(is_alone).then(|| (group, places.concat()))
    });
    let (everywhere, hit) = alone.next().expect("an entry that is alone in its batches");
    let (on_most, mut hit_on_most) =
        alone.find(|(group, _)| *group != everywhere).expect("another group's");
    hit_on_most.pop();
    drop(alone);
    let halted = [everywhere, on_most];
    let hits: Vec<Place> = hit.into_iter().chain(hit_on_most).collect();
    hits.iter().for_each(|place| flip(&place.file, place.at));
    let damaged: Vec<_> =
        hits.iter().map(|hit| (hit.file.clone(), std::fs::read(&hit.file).unwrap())).collect();

    // All other groups serve what was acknowledged, and take more.
    for node in &mut cluster.nodes {
        node.start(&[]);
    }
    let mut client = Client::new(&addresses);
    for (group, key) in (1..).zip(&keys).filter(|(group, _)| !halted.contains(group)) {
        let mut read = Err(String::new());
        assert!(
            eventually(LIVE_MAX, || {
                read = client.get(key, LIVE_MAX);
                read.is_ok()
            }),
            "group {group}: {read:?}{}",
            cluster.last_words()
        );
        assert_eq!(read, Ok(Some(value(ROUNDS - 1, key).into_bytes())), "group {group}");
        let outcome = client.set(key, b"after", LIVE_MAX);
        assert!(matches!(outcome, Outcome::Yes), "group {group}: {outcome:?}");
    }
    // Each node names what it lost, and where.
    for (node, place) in cluster.nodes.iter().cycle().zip(&hits) {
        let said = node.said();
        let name = place.file.file_name().unwrap().to_str().unwrap();
        let line = |line: &str| {
            let words = ["is fenced here", name, &format!("byte {}", place.batch)];
            words.iter().all(|word| line.contains(word))
        };
        assert!(said.lines().any(line), "node {}: {place:?}\n{said}", node.id);
    }
    let carried = cluster.nodes.iter().map(|node| node.info()["groups"].parse::<usize>().unwrap());
    assert_eq!(carried.collect::<Vec<_>>(), [GROUPS - 2, GROUPS - 2, GROUPS - 1]);
    // Of the two halted groups no node gives a value, old or new, and none takes a write. Each node says that
    // nothing happened there.
    for group in halted {
        let key = &keys[group - 1];
        for _ in 0..20 {
            for node in &cluster.nodes {
                let mut connection = node.connect();
                for words in [&["GET", key][..], &["SET", key, "never"]] {
                    let reply = connection.call(words);
                    let Reply::Error(error) = &reply else { panic!("group {group}: {reply:?}") };
                    let typed =
                        ["MOVED ", "CLUSTERDOWN "].iter().any(|code| error.starts_with(code));
                    assert!(typed, "group {group}, node {}: {error}", node.id);
                    let here = error.ends_with(&node.client.to_string());
                    assert!(!here, "group {group}, node {} sends to itself: {error}", node.id);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let outcome = client.set(key, b"never", Duration::from_secs(2));
        assert!(matches!(outcome, Outcome::No(_)), "group {group}: {outcome:?}");
    }
    // Every node leads a client to the one replica that is whole, and that one says that it has no leader.
    let key = &keys[on_most - 1];
    for mut at in 0..3 {
        let mut hops = 0;
        while at != 2 {
            let reply = cluster.nodes[at].connect().call(&["GET", key]);
            let Reply::Error(error) = &reply else { panic!("{reply:?}") };
            let place = error.strip_prefix("MOVED ").and_then(|moved| moved.split(' ').nth(1));
            let place = place.unwrap_or_else(|| panic!("node {}: {error}", at + 1));
            at = addresses.iter().position(|address| address.to_string() == place).unwrap();
            hops += 1;
            assert!(hops < 3, "sent round in a circle");
        }
        let reply = cluster.nodes[at].connect().call(&["GET", key]);
        assert!(matches!(&reply, Reply::Error(e) if e.starts_with("CLUSTERDOWN ")), "{reply:?}");
    }
    // The damaged files are kept as they are.
    for (file, bytes) in &damaged {
        let aside = file.with_extension("corrupt");
        let kept = std::fs::read(file).or_else(|_| std::fs::read(&aside));
        assert!(kept.is_ok_and(|kept| kept == *bytes), "{} has changed", file.display());
    }

    // All nodes end and start again, and the other groups have the values that they took.
    for node in &mut cluster.nodes {
        let status = node.stop();
        assert!(status.success(), "stopped with {status}");
        node.start(&[]);
    }
    let mut client = Client::new(&addresses);
    for (group, key) in (1..).zip(&keys).filter(|(group, _)| !halted.contains(group)) {
        let mut read = Err(String::new());
        eventually(LIVE_MAX, || {
            read = client.get(key, LIVE_MAX);
            read.is_ok()
        });
        assert_eq!(read, Ok(Some(b"after".to_vec())), "group {group}{}", cluster.last_words());
    }
    cluster.assert_no_panic();
}

/// A batch as FORMAT.md draws it.
#[derive(Debug)]
struct Batch {
    at: u64,
    records: u64,
    end: u64,
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
        found.push(Batch { at: at as u64, records: at as u64 + 56, end: end as u64, groups });
        at = end.next_multiple_of(4096);
    }
    found
}

/// Of the batches in sealed segments, one that names the fewest groups, but at least one. A segment's first batch is left
/// out, because it has the start record.
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

/// Where some bytes stand on a node, and which groups their batch names.
#[derive(Clone, Debug)]
struct Place {
    file: PathBuf,
    at: u64,
    batch: u64,
    /// True if the batch is its segment's first, or the segment the log's first or last.
    is_first: bool,
    groups: Vec<u64>,
}

/// Every place where a node's log has these bytes.
fn places_of(node: &Node, needle: &[u8]) -> Vec<Place> {
    let used: Vec<_> =
        node.segments().into_iter().filter(|path| !batches(path).is_empty()).collect();
    let mut found = Vec::new();
    for (n, file) in used.iter().enumerate() {
        let bytes = std::fs::read(file).unwrap();
        for (nth, batch) in batches(file).into_iter().enumerate() {
            let start = usize::try_from(batch.at).unwrap();
            let inside = &bytes[start..usize::try_from(batch.end).unwrap()];
            let at = inside.windows(needle.len()).position(|window| window == needle);
            found.extend(at.map(|at| Place {
                file: file.clone(),
                at: batch.at + at as u64,
                batch: batch.at,
                is_first: nth == 0 || n == 0 || n + 1 == used.len(),
                groups: batch.groups.iter().copied().collect(),
            }));
        }
    }
    found
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

/// The number behind the word `byte`.
fn offset_in(said: &str) -> Option<u64> {
    let mut words = said.split([' ', ':', ',', '\n']).skip_while(|word| *word != "byte");
    words.nth(1)?.parse().ok()
}

const GROUPS: usize = 8;
const ROUNDS: usize = 8;
const LIVE_MAX: Duration = Duration::from_secs(40);
const START_MAX: Duration = Duration::from_secs(30);
