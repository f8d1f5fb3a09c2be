//! Snapshots in files: what is whole, what a crash leaves, what damage does, what two snapshots share.

use super::*;
use crate::disk::steps_taken;
use logdrive_raft::{LogIndex, Term};
use proptest::prelude::*;
use std::fs;
use std::io::{Read, Write};

const GROUP: GroupId = GroupId(7);
const AT: LogId = LogId { index: LogIndex(100), term: Term(3) };

fn store(dir: &Path) -> PartStore {
    PartStore::open(&dir.join("snapshots"), u64::MAX).unwrap()
}

fn content(bytes: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| ((at / 1000) ^ at).to_le_bytes()[0] ^ seed;
    (0..bytes).map(byte).collect()
}

fn written(store: &PartStore, content: &[u8]) -> Table {
    let mut writer = store.write(GROUP, AT).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

fn read(store: &PartStore, table: &Table) -> Result<Vec<u8>, PartsError> {
    let mut reader = store.read(table);
    let mut content = Vec::new();
    while let Some(part) = reader.next_part()? {
        content.extend_from_slice(part);
    }
    Ok(content)
}

fn names(store: &PartStore) -> Vec<String> {
    let mut names = files::list(store.dir(GROUP).place()).unwrap_or_default();
    names.sort();
    names
}

fn part_path(store: &PartStore, part: Part) -> PathBuf {
    store.dir(GROUP).path(Name::Part(part.digest))
}

const PART: usize = PART_BYTES_MAX as usize;

/// RULES.md C11.
#[test]
fn a_snapshot_is_what_was_written_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [0, 1, 4095, 4096, PART - 1, PART, PART + 1, 2 * PART + 12_345] {
        let content = content(bytes, 0);
        let table = written(&store(dir.path()), &content);
        assert_eq!((table.bytes(), table.at()), (bytes as u64, AT));
        assert_eq!(table.parts().len(), bytes.div_ceil(PART));
        let store = store(dir.path());
        assert_eq!(store.groups().unwrap(), [GROUP]);
        let found = store.table(GROUP, table.digest()).unwrap();
        assert_eq!(found, table);
        assert!(read(&store, &found).unwrap() == content, "{bytes} bytes");
        let mut streamed = Vec::new();
        store.read(&found).read_to_end(&mut streamed).unwrap();
        assert!(streamed == content, "{bytes} bytes");
    }
}

/// RULES.md rule 29. The bug that this is for: a table that is durable before a part of it.
#[test]
fn nothing_has_its_name_before_its_bytes_are_synced_and_the_table_comes_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.made_dir(GROUP).unwrap();
    let _ = steps_taken();
    let table = written(&store, &content(PART + 1, 0));
    let mut wanted = Vec::new();
    let mut file = |name: String| {
        let temporary = format!("{name}.tmp");
        wanted.push(format!("create {temporary}"));
        wanted.push(format!("sync {temporary}"));
        wanted.push(format!("rename {temporary} {name}"));
    };
    table.parts().iter().for_each(|part| file(format!("{:032x}.part", part.digest)));
    file(format!("{:032x}.table", table.digest()));
    let last = wanted.len() - 3;
    wanted.insert(last, "sync the directory".to_owned());
    wanted.push("sync the directory".to_owned());
    assert_eq!(steps_taken(), wanted);

    // One that is fetched: the offer first, each part's bytes when it comes, all names before the table's.
    let other = tempfile::tempdir().unwrap();
    let fetching = self::store(other.path());
    fetching.made_dir(GROUP).unwrap();
    let _ = steps_taken();
    fetching.begin(&table).unwrap();
    for part in table.parts() {
        let bytes = store.read_part(GROUP, *part).unwrap();
        fetching.put(GROUP, part.digest, &bytes).unwrap();
    }
    fetching.complete(&table).unwrap();
    let steps = steps_taken();
    let tail = [
        "sync the directory".to_owned(),
        format!("rename {:032x}.begun {:032x}.table", table.digest(), table.digest()),
        "sync the directory".to_owned(),
    ];
    assert_eq!(steps[steps.len() - 3..], tail);
    for (at, step) in steps.iter().enumerate() {
        let Some(from) = step.strip_prefix("rename ").and_then(|names| names.split(' ').next())
        else {
            continue;
        };
        let synced = steps[..at].contains(&format!("sync {from}"));
        assert!(synced || from.ends_with(".begun"), "{from} is not synced before {step}");
    }
    assert!(read(&fetching, &table).unwrap() == content(PART + 1, 0));
}

/// RULES.md rule 29, C11.
#[test]
fn a_crash_leaves_a_whole_snapshot_or_none_and_the_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = written(&store(dir.path()), &content(2 * PART, 1));
    // A writer that dies after each number of parts; what it leaves of a part has a temporary name.
    for parts in 0..=3 {
        let store = store(dir.path());
        let mut writer = store.write(GROUP, AT).unwrap();
        writer.write_all(&content(parts * PART + 5, 2)).unwrap();
        drop(writer);
        let half = format!("{:032x}.part.tmp", 5);
        fs::write(store.dir(GROUP).place().join(half), b"half").unwrap();
        let store = self::store(dir.path());
        assert!(names(&store).iter().all(|name| !name.ends_with(".tmp")));
        assert!(read(&store, &first).unwrap() == content(2 * PART, 1));
        store.keep_only(GROUP, &[first.digest()]).unwrap();
        assert_eq!(names(&store).len(), 3, "two parts and a table: {:?}", names(&store));
    }
    let store = store(dir.path());
    store.keep_only(GROUP, &[]).unwrap();
    assert_eq!(store.groups().unwrap(), []);
}

#[test]
fn two_snapshots_share_parts_and_a_shared_part_that_is_damaged_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut content = content(3 * PART, 0);
    let first = written(&store, &content);
    let shared = part_path(&store, first.parts()[0]);
    let before = fs::metadata(&shared).unwrap().modified().unwrap();
    content[2 * PART] ^= 1;
    let second = written(&store, &content);
    assert_eq!(first.parts()[..2], second.parts()[..2]);
    assert_ne!(first.parts()[2], second.parts()[2]);
    assert_eq!(fs::metadata(&shared).unwrap().modified().unwrap(), before, "it was written again");
    assert_eq!(names(&store).len(), 4 + 2);
    store.keep_only(GROUP, &[second.digest()]).unwrap();
    assert_eq!(names(&store).len(), 3 + 1);
    assert!(matches!(store.table(GROUP, first.digest()), Err(PartsError::Missing(_))));
    assert!(read(&store, &second).unwrap() == content);

    let mut bytes = fs::read(&shared).unwrap();
    bytes[17] ^= 1;
    fs::write(&shared, bytes).unwrap();
    assert!(matches!(read(&store, &second), Err(PartsError::Corrupt { .. })));
    let again = written(&store, &content);
    assert_eq!(again, second);
    assert!(read(&store, &again).unwrap() == content);
}

/// RULES.md C11.
#[test]
fn a_part_or_table_that_is_not_what_its_name_says_is_never_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let content = content(PART + 100, 0);
    let table = written(&store, &content);
    let path = part_path(&store, table.parts()[1]);
    let sound = fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    flipped[50] ^= 0x10;
    let longer = [sound.as_slice(), &[0]].concat();
    for bad in [&flipped[..], &sound[..99], &[], &longer] {
        fs::write(&path, bad).unwrap();
        let mut reader = store.read(&table);
        let mut given = Vec::new();
        reader.read_to_end(&mut given).unwrap_err();
        assert!(given == content[..PART], "{} bytes were given", given.len());
        let error = store.read_part(GROUP, table.parts()[1]).unwrap_err();
        assert!(matches!(&error, PartsError::Corrupt { path: at, .. } if *at == path), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(read(&store, &table), Err(PartsError::Missing(at)) if at == path));

    let digest = table.digest();
    let path = store.dir(GROUP).path(Name::Table(digest));
    let sound = fs::read(&path).unwrap();
    for at in [0, 9, 16, 30, 47, 60, sound.len() - 1] {
        let mut bad = sound.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let error = store.table(GROUP, digest).unwrap_err();
        assert!(matches!(error, PartsError::Corrupt { why: Damage::Digest(_), .. }), "{error}");
        // Its parts are not known, so nothing is removed.
        let before = names(&store);
        store.keep_only(GROUP, &[digest]).unwrap_err();
        assert_eq!(names(&store), before);
    }
    // A sound table in another group's directory is not that group's.
    fs::write(&path, &sound).unwrap();
    let other = GroupId(8);
    store.made_dir(other).unwrap();
    fs::copy(&path, store.dir(other).path(Name::Table(digest))).unwrap();
    let error = store.table(other, digest).unwrap_err();
    assert!(matches!(error, PartsError::Corrupt { why: Damage::Group(7), .. }), "{error}");
}

/// RULES.md C11.
#[test]
fn a_transfer_goes_on_after_a_restart_with_the_parts_that_are_missing() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, content) = (store(here.path()), content(3 * PART + 9, 0));
    let table = written(&from, &content);
    let part = |at: usize| from.read_part(GROUP, table.parts()[at]).unwrap();
    let to = store(there.path());
    assert_eq!(to.begun(GROUP).unwrap(), None);
    to.begin(&table).unwrap();
    assert_eq!(to.missing(&table).unwrap(), table.parts());
    assert!(matches!(to.complete(&table), Err(PartsError::Missing(_))));

    let error = to.put(GROUP, table.parts()[0].digest, &part(1)).unwrap_err();
    assert!(matches!(error, PartsError::OtherBytes { .. }), "{error}");
    assert_eq!(to.missing(&table).unwrap(), table.parts(), "nothing was written");
    to.put(GROUP, table.parts()[0].digest, &part(0)).unwrap();
    to.put(GROUP, table.parts()[2].digest, &part(2)).unwrap();

    let to = store(there.path());
    to.keep_only(GROUP, &[]).unwrap();
    assert_eq!(to.begun(GROUP).unwrap().as_ref(), Some(&table));
    assert!(matches!(to.table(GROUP, table.digest()), Err(PartsError::Missing(_))));
    let missing = to.missing(&table).unwrap();
    assert_eq!(missing, [table.parts()[1], table.parts()[3]]);
    for wanted in missing {
        let bytes = from.read_part(GROUP, wanted).unwrap();
        to.put(GROUP, wanted.digest, &bytes).unwrap();
    }
    to.complete(&table).unwrap();
    assert_eq!(to.begun(GROUP).unwrap(), None);
    assert!(read(&to, &table).unwrap() == content);

    // Another offer takes the place of one that was begun, whose parts are kept no longer.
    let second = written(&from, &content[..PART + 1]);
    to.begin(&second).unwrap();
    to.begin(&written(&from, &content[1..PART + 3])).unwrap();
    to.keep_only(GROUP, &[table.digest()]).unwrap();
    assert_eq!(names(&to).len(), 4 + 1 + 1, "{:?}", names(&to));
}

#[test]
fn files_and_directories_of_others_stay_and_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let table = written(&store, b"state");
    let place = store.dir(GROUP).place().to_owned();
    let foreign = ["notes.txt", "0.part", &format!("{:032X}.part", u128::MAX), "x.tmp", "é"];
    for name in foreign {
        fs::write(place.join(name), b"mine").unwrap();
        fs::write(dir.path().join("snapshots").join(name), b"mine").unwrap();
    }
    fs::create_dir(dir.path().join("snapshots/lost+found")).unwrap();
    let store = self::store(dir.path());
    assert_eq!(store.groups().unwrap(), [GROUP]);
    assert_eq!(read(&store, &table).unwrap(), b"state");
    store.keep_only(GROUP, &[]).unwrap();
    assert_eq!(names(&store).len(), foreign.len());
}

#[test]
fn a_snapshot_that_cannot_be_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let at = LogId { index: LogIndex(1), term: Term(0) };
    assert!(matches!(store.write(GROUP, at), Err(PartsError::Table(BadTable::Place { .. }))));
    assert!(matches!(store.write(GroupId(0), AT), Err(PartsError::Table(_))));
    assert_eq!(store.groups().unwrap(), []);
    // A directory that is a file.
    fs::write(dir.path().join("snapshots").join(files::name_of(GROUP)), b"").unwrap();
    let error = store.write(GROUP, AT).unwrap_err();
    assert!(matches!(error, PartsError::Io { .. }), "{error}");
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(PartStore::open(&file, 1), Err(PartsError::Io { .. })));
}

#[test]
fn writes_keep_to_their_rate() {
    let dir = tempfile::tempdir().unwrap();
    // Chunks of 256 KiB; the first one waits for nothing.
    let store = PartStore::open(&dir.path().join("snapshots"), 4 << 20).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a rate is measured")]
    let begun = std::time::Instant::now();
    written(&store, &content(1 << 20, 0));
    assert!(begun.elapsed() >= std::time::Duration::from_millis(187), "{:?}", begun.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// However the state is handed over, the same parts come out.
    #[test]
    fn the_sizes_of_writes_do_not_matter(cuts in prop::collection::vec(1_usize..300_000, 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let content = content(cuts.iter().sum(), 3);
        let mut writer = store.write(GROUP, AT).unwrap();
        let mut at = 0;
        for cut in cuts {
            writer.write_all(&content[at..at + cut]).unwrap();
            at += cut;
        }
        let table = writer.finish().unwrap();
        prop_assert_eq!(&table, &written(&store, &content));
        prop_assert!(read(&store, &table).unwrap() == content);
    }
}
