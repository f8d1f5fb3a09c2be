//! `logdrive wal` as a program: what it prints of the golden logs, its exit codes, and that it touches nothing.
//!
//! In:     the golden segments of the log's own tests; a log that is being written.
//! Out:    nothing but failures. `GOLDEN=write` writes the expected dumps anew.

#[path = "../../wal/tests/common/golden.rs"]
mod golden;
mod support;

use bytes::Bytes;
use golden::{Files, GOLDEN, golden, unpack};
use logdrive_wal::{Append, Config, Home, Wal, checksum};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::process::{BINARY, Process};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn wal(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("wal").args(args).current_dir(dir);
    command
}

fn output(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = wal(dir, args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

fn is_damaged(name: &str) -> bool {
    name.starts_with("damaged")
}

#[test]
fn the_golden_logs_are_dumped_as_expected() {
    let write = std::env::var_os("GOLDEN").is_some_and(|value| value == "write");
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wal/tests/golden");
    for (name, _) in GOLDEN {
        let dir = temp();
        unpack(&golden(name), dir.path());
        let (code, stdout, stderr) = output(dir.path(), &["dump", "."]);
        assert_eq!((code, stderr.as_str()), (i32::from(is_damaged(name)), ""), "{name}");
        let file = expected.join(format!("{name}.dump"));
        if write {
            fs::write(file, stdout).unwrap();
        } else {
            assert_eq!(stdout, fs::read_to_string(&file).unwrap(), "{}", file.display());
        }
    }
}

#[test]
fn the_exit_code_says_sound_damaged_or_unreadable() {
    for (name, _) in GOLDEN {
        let dir = temp();
        unpack(&golden(name), dir.path());
        let (code, stdout, _) = output(dir.path(), &["check", "."]);
        assert_eq!(code, i32::from(is_damaged(name)), "{name}: {stdout}");
        let (code, stdout, _) = output(dir.path(), &["check", "--json", "."]);
        assert_eq!(code, i32::from(is_damaged(name)), "{name}: {stdout}");
        for line in stdout.lines() {
            let _: serde_json::Value = serde_json::from_str(line).unwrap();
        }
    }
    let dir = temp();
    for args in [&["check", "."][..], &["check", "nowhere"], &["check"], &["mend", "."]] {
        let (code, stdout, stderr) = output(dir.path(), args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
}

/// RULES.md C1.
#[test]
fn damage_is_named_with_its_file_offset_case_and_groups() {
    let dir = temp();
    unpack(&golden("damaged_body"), dir.path());
    let (code, stdout, _) = output(dir.path(), &["check", "."]);
    let line = "DAMAGE damaged_body: ./0000000001.seg at byte 8192: batch body fails its checksum; groups 1, 7";
    assert_eq!((code, stdout.lines().next()), (1, Some(line)));
    let (_, stdout, _) = output(dir.path(), &["check", "--json", "."]);
    let found: serde_json::Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert_eq!(found["case"], "damaged_body");
    assert_eq!(found["offset"], 8192);
    assert_eq!(found["groups"], serde_json::json!([1, 7]));
}

/// RULES.md C4, C5, C6, C7, C8.
/// Each kind of file trouble, made from a sound log.
#[test]
fn files_that_are_not_what_they_must_be_are_named() {
    type Change = fn(&mut Files);
    let changes: [(&str, Change); 8] = [
        ("damaged_segment_header", |files| files.get_mut("0000000001.seg").unwrap()[100] ^= 1),
        ("missing_segment", |files| drop(files.remove("0000000001.seg"))),
        ("missing_segment", |files| drop(files.remove("0000000008.seg"))),
        ("truncated_segment", |files| files.get_mut("0000000001.seg").unwrap().truncate(61_440)),
        ("missing_manifest", |files| drop(files.remove("manifest"))),
        ("damaged_manifest", |files| files.get_mut("manifest").unwrap().truncate(51)),
        ("strange_file", |files| drop(files.insert("1.seg".into(), vec![1]))),
        ("swapped_segment", |files| {
            let first = files.remove("0000000001.seg").unwrap();
            let second = files.insert("0000000005.seg".into(), first).unwrap();
            files.insert("0000000001.seg".into(), second);
        }),
    ];
    for (label, change) in changes {
        let mut files = golden("clean_stop");
        change(&mut files);
        let dir = temp();
        unpack(&files, dir.path());
        let (code, stdout, _) = output(dir.path(), &["check", "."]);
        assert_eq!(code, 1, "{label}: {stdout}");
        assert!(stdout.contains(&format!("DAMAGE {label}: ./")), "{label}: {stdout}");
    }
}

/// A first start that was cut short is repeated, so there is nothing to warn of.
#[test]
fn a_directory_whose_making_was_cut_short_is_no_damaged_one() {
    let dir = temp();
    let node = dir.path().join("node");
    drop(Home::create(&node, "test", logdrive::NodeId(1), 2, BTreeMap::new()).unwrap());
    for left in ["identity", "openings", "shard-001/manifest"] {
        fs::remove_file(node.join(left)).unwrap();
    }
    let (code, stdout, stderr) = output(dir.path(), &["check", "node"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("note half_made_directory: node"), "{stdout}");
    assert!(stdout.contains("damaged places 0, notes 1"), "{stdout}");
    // Of a directory that was in use nothing may be missing.
    let used = dir.path().join("used");
    Writer::new(&used, 1 << 20).settle();
    fs::remove_file(used.join("identity")).unwrap();
    let (code, stdout, _) = output(dir.path(), &["check", "used"]);
    assert!(code == 1 && !stdout.contains("half_made_directory"), "{code}: {stdout}");
}

#[test]
fn a_dump_shows_one_group_and_a_range_of_it() {
    let dir = temp();
    unpack(&golden("clean_stop"), dir.path());
    let (_, stdout, _) =
        output(dir.path(), &["dump", ".", "--group", "1", "--from", "4", "--to", "5"]);
    let indexes: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(indexes, ["4", "5"]);
    assert!(!stdout.contains("group 7") && !stdout.contains("hard state"), "{stdout}");
    let args = ["dump", ".", "--json", "--payloads", "--group", "1", "--from", "4", "--to", "4"];
    let (_, stdout, _) = output(dir.path(), &args);
    let entry: serde_json::Value = serde_json::from_str(stdout.lines().nth(1).unwrap()).unwrap();
    let payload = entry["payload"].as_str().unwrap();
    assert!(payload.starts_with("312f322f343b2e2e"), "{payload}");
    assert_eq!((entry["index"].as_u64(), payload.len()), (Some(4), 6000));
}

/// Names, contents, sizes and times of everything below a directory.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        }
        let bytes = if path.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path.clone(), (bytes, path.metadata().unwrap().modified().unwrap()));
    }
    found
}

/// A log on real files that a test writes to.
struct Writer {
    home: Home,
    wal: Wal,
    spares: usize,
    next: u64,
}

impl Writer {
    fn new(dir: &Path, segment_bytes: u64) -> Self {
        let home = Home::create(dir, "test", logdrive::NodeId(1), 1, BTreeMap::new()).unwrap();
        let mut config = Config::new(home.shard_dir(0), home.identity().clone(), 0);
        config.segment_bytes = segment_bytes;
        let spares = config.segments_ahead();
        let (wal, _) = Wal::open(config).unwrap();
        Self { home, wal, spares, next: 1 }
    }

    /// Writes a batch of two entries of each of eight groups.
    fn write(&mut self) {
        let payload = Bytes::from(vec![b'x'; 400]);
        let entry = |index| logdrive_raft::Entry {
            term: logdrive::Term(1),
            index: logdrive::LogIndex(index),
            kind: logdrive_raft::EntryKind::Command,
            checksum: checksum(&payload),
            payload: payload.clone(),
        };
        let entries = [entry(self.next), entry(self.next + 1)];
        for group in 1..=8 {
            let append = Append {
                group: logdrive::GroupId(group),
                write: logdrive_raft::WriteId(self.next),
                membership: None,
                hard_state: None,
                entries: &entries,
            };
            self.wal.append(&append).unwrap();
        }
        self.next += 2;
        self.wal.submit(0).unwrap();
        self.wal.poll(0, &mut Vec::new()).unwrap();
    }

    /// Waits until nothing is in flight and all segments that were ordered are made: the newest of the manifest is then
    /// `spares` ahead of the active one.
    fn settle(&mut self) {
        let dir = self.home.shard_dir(0);
        let made = || {
            let manifest = fs::read(dir.join("manifest")).unwrap();
            u32::from_le_bytes(manifest[44..48].try_into().unwrap())
        };
        let ahead = u32::try_from(self.spares).unwrap();
        while self.wal.has_work() || made() < self.wal.durable().segment().0 + ahead {
            self.wal.submit(0).unwrap();
            self.wal.poll(0, &mut Vec::new()).unwrap();
            std::thread::yield_now();
        }
    }
}

#[test]
fn nothing_is_touched_and_no_lock_is_asked_for() {
    let dir = temp();
    let node = dir.path().join("node");
    let mut writer = Writer::new(&node, 1 << 20);
    (0..200).for_each(|_| writer.write());
    writer.settle();
    let before = everything(&node);
    // The writer holds the directory's lock all the while.
    for verb in ["info", "check", "dump"] {
        let (code, stdout, stderr) = output(dir.path(), &[verb, "node"]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{verb}");
        assert!(!stdout.is_empty());
    }
    assert!(before == everything(&node), "something has changed");
    let (code, stdout, _) = output(dir.path(), &["info", "node"]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("node 1 of cluster \"test\""), "{stdout}");
    assert!(stdout.contains("8 groups, 3200 entries"), "{stdout}");
    assert_eq!(writer.home.identity().incarnation, 1);

    let (code, _, stderr) = output(dir.path(), &["check", "node", "--shard", "3"]);
    assert_eq!((code, stderr.as_str()), (2, "logdrive: node has no shard 3\n"));
    let stream = node.join("shard-000").display().to_string();
    assert_eq!(output(dir.path(), &["check", &stream]).0, 0);
}

#[test]
fn who_reads_only_the_beginning_gets_it_and_no_error() {
    let dir = temp();
    let node = dir.path().join("node");
    let mut writer = Writer::new(&node, 1 << 20);
    (0..400).for_each(|_| writer.write());
    writer.settle();
    let mut command = wal(dir.path(), &["dump", "node"]);
    let mut child = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut beginning = [0u8; 64];
    child.stdout.take().unwrap().read_exact(&mut beginning).unwrap();
    let ended = child.output();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
    assert!(beginning.starts_with(b"s1+4096  batch 1"), "{}", beginning.escape_ascii());
}

#[test]
fn a_check_that_nobody_hears_does_not_say_that_the_log_is_sound() {
    let dir = temp();
    unpack(&golden("clean_stop"), dir.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = wal(dir.path(), &["check", "."]).stdout(writer).output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(2), &b""[..]));
}

#[test]
fn a_stream_that_cannot_be_read_hides_none_of_the_others() {
    let dir = temp();
    Home::create(&dir.path().join("node"), "test", logdrive::NodeId(1), 2, BTreeMap::new())
        .unwrap();
    let shard = |n: u32| dir.path().join(format!("node/shard-{n:03}"));
    for n in 0..2 {
        for file in fs::read_dir(shard(n)).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    unpack(&golden("damaged_body"), &shard(1));
    let (code, stdout, stderr) = output(dir.path(), &["check", "node"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("shard-000") && stdout.contains("shard-001"), "{stdout}{stderr}");
}

#[test]
fn a_pipe_in_a_files_place_is_not_waited_for() {
    let dir = temp();
    unpack(&golden("clean_stop"), dir.path());
    let manifest = dir.path().join("manifest");
    fs::remove_file(&manifest).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &manifest, rustix::fs::Mode::RUSR).unwrap();
    let (code, _, stderr) = output(dir.path(), &["check", "."]);
    assert!(code == 2 && stderr.contains("manifest is no file"), "{code}: {stderr}");
}

/// Copies a stream's files one by one, the manifest first and then the newest segment.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let names = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.filter(|name| name != "manifest").collect();
    names.sort();
    fs::copy(from.join("manifest"), to.join("manifest")).unwrap();
    for name in names.iter().rev().filter(|name| !name.to_string_lossy().ends_with(".tmp")) {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// A batch in flight is no damage, nor is a segment that is finished, begun or given up meanwhile.
#[test]
fn a_log_that_is_being_written_is_sound() {
    let dir = temp();
    let node = dir.path().join("node");
    let mut writer = Writer::new(&node, 1 << 20);
    for _ in 0..12 {
        let mut child = Process::spawn(wal(dir.path(), &["check", "node"]).stdout(Stdio::piped()));
        while child.try_wait().unwrap().is_none() {
            writer.write();
        }
        let ended = child.output();
        let text = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(ended.status.code(), Some(0), "{text}");
    }
    assert!(writer.wal.metrics().rotations > 2, "no segment was filled");
}

/// A copy that is made while the log is written shows no damage either.
#[test]
fn a_copy_of_a_log_that_is_being_written_is_sound() {
    let dir = temp();
    let node = dir.path().join("node");
    let mut writer = Writer::new(&node, 32 << 20);
    // No segment may be finished while a copy is made: such a copy would have to be made again.
    writer.settle();
    let before = writer.wal.metrics().rotations;
    for n in 0..6 {
        let copied = dir.path().join(format!("copy{n}"));
        let (from, to) = (node.join("shard-000"), copied.clone());
        let copying = std::thread::Builder::new().spawn(move || copy(&from, &to)).unwrap();
        // Bounded, because a copy may take long: six times 400 batches fit into the segment, however they are cut.
        for _ in 0..400 {
            if copying.is_finished() {
                break;
            }
            writer.write();
        }
        copying.join().unwrap();
        let (code, text, _) = output(dir.path(), &["check", copied.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}");
        fs::remove_dir_all(copied).unwrap();
    }
    assert_eq!(writer.wal.metrics().rotations, before, "a segment was filled");
}
