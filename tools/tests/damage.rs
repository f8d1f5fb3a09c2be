//! Damage at rest, from outside: a node with a flipped byte in a sealed segment does not start, and says where.
//!
//! Every region of a log, byte by byte, is the log's own test; this one is what an operator sees.

#![forbid(unsafe_code)]

mod support;

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};
use support::{
    cluster::{Cluster, Node, directory},
    load::{Load, Shape},
    turn,
};

#[test]
fn a_flipped_byte_in_a_sealed_segment_is_refused_by_name_and_the_others_serve() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), 16, 256 << 10);
    let addresses = cluster.addresses();
    let shape =
        |name, pause| Shape { name, threads: 4, keys_per_thread: 32, value_bytes: 4 << 10, pause };
    let load = Load::start(&addresses, &shape("before", Duration::ZERO));
    let filled = support::eventually(LIVE_MAX, || cluster.nodes[2].segments().len() >= 6);
    let mut histories = load.finish();
    assert!(filled, "no segments were sealed: {:?}", cluster.nodes[2].segments());
    let status = cluster.nodes[2].stop();
    assert!(status.success(), "stopped with {status}");

    // The other two go on meanwhile.
    let load = Load::start(&addresses, &shape("meanwhile", Duration::from_millis(5)));
    load.wait_for_more(50, LIVE_MAX);
    let segments = cluster.nodes[2].segments();
    let segment = &segments[1];
    let bytes = std::fs::metadata(segment).unwrap().len();
    for at in [bytes / 2, bytes / 3, 0] {
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

const LIVE_MAX: Duration = Duration::from_secs(40);
const START_MAX: Duration = Duration::from_secs(20);
