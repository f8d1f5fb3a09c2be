//! Stream directories as text: the golden segments of `wal/tests/golden`, for tests and for fuzzing.
//!
//! In:     files, by name; or their text.
//! Out:    the other of the two. Lines of zeros are left out and equal lines counted, so that a text is only as long as
//!         the segment's content.
//! Fails:  by panicking, because the texts are this repository's own.

#![allow(dead_code)] // Each user takes its own part.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// The files of one stream's directory, by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Every golden stream: its name and its text.
pub(crate) const GOLDEN: &[(&str, &str)] = &[
    ("clean_stop", include_str!("../golden/clean_stop.txt")),
    ("written_again", include_str!("../golden/written_again.txt")),
    ("torn_tail", include_str!("../golden/torn_tail.txt")),
    ("reordered_tail", include_str!("../golden/reordered_tail.txt")),
    ("damaged_body", include_str!("../golden/damaged_body.txt")),
    ("recycled_bytes", include_str!("../golden/recycled_bytes.txt")),
    ("carried", include_str!("../golden/carried.txt")),
    ("fenced", include_str!("../golden/fenced.txt")),
    ("marked", include_str!("../golden/marked.txt")),
    ("snapshots", include_str!("../golden/snapshots.txt")),
];

/// One golden stream's files.
pub(crate) fn golden(name: &str) -> Files {
    let found = GOLDEN.iter().find(|(golden, _)| *golden == name);
    parse(found.unwrap_or_else(|| panic!("there is no golden stream {name}")).1)
}

/// The text of some files.
pub(crate) fn print(files: &Files) -> String {
    let mut text = String::new();
    for (name, bytes) in files {
        let _ = writeln!(text, "{name} {}", bytes.len());
        let lines: Vec<&[u8]> = bytes.chunks(LINE_BYTES).collect();
        let mut n = 0;
        for same in lines.chunk_by(|a, b| a == b) {
            let at = n * LINE_BYTES;
            n += same.len();
            if same[0].iter().all(|byte| *byte == 0) {
                continue;
            }
            let _ = write!(text, "  {at}*{} ", same.len());
            for byte in same[0] {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
    }
    text
}

/// The files of some text.
pub(crate) fn parse(text: &str) -> Files {
    let mut files = Files::new();
    let mut current = String::new();
    for line in text.lines() {
        let (key, value) = line.trim_start().rsplit_once(' ').expect("two words");
        if line.starts_with(' ') {
            let (at, count) = key.split_once('*').expect("a place and a count");
            let (at, count): (usize, usize) =
                (at.parse().expect("a place"), count.parse().expect("a count"));
            let file = files.get_mut(&current).expect("a file's line comes first");
            for (n, pair) in value.as_bytes().chunks(2).enumerate() {
                let digits = std::str::from_utf8(pair).expect("hexadecimal digits");
                let byte = u8::from_str_radix(digits, 16).expect("hexadecimal digits");
                (0..count).for_each(|line| file[at + line * LINE_BYTES + n] = byte);
            }
        } else {
            key.clone_into(&mut current);
            files.insert(current.clone(), vec![0; value.parse().expect("a size")]);
        }
    }
    files
}

/// Puts files into a directory.
pub(crate) fn unpack(files: &Files, dir: &Path) {
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("a directory to write to");
    }
}

const LINE_BYTES: usize = 32;
