//! Seeded changes of good inputs, for normal tests: a fuzzer's work without a fuzzer, the same on every run.
//!
//! In:     a corpus directory and an oracle.
//! Out:    nothing; the oracle was asked about every file, and about changes of them.
//! Cost:   [`CHANGES`] per corpus, or as many as `LOGDRIVE_MUTATIONS` says.
//! Fails:  by panicking with the input, in a form that can be made a corpus file.

use std::{fs, panic, path::Path};

/// Runs the oracle on every file of `corpus`, then on changes of them.
pub(crate) fn replay(corpus: &Path, oracle: fn(&[u8])) {
    let mut files: Vec<_> = fs::read_dir(corpus)
        .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} is empty", corpus.display());
    for (path, seed) in files.iter().zip(&seeds) {
        ask(oracle, seed, &path.display().to_string());
    }
    let changes = std::env::var("LOGDRIVE_MUTATIONS").map_or(CHANGES, |text| text.parse().unwrap());
    let mut random = Random(0x10_6D);
    for number in 0..changes {
        let mut input = random.pick(&seeds).clone();
        for _ in 0..=random.below(4) {
            change(&mut input, random.pick(&seeds).clone(), &mut random);
        }
        ask(oracle, &input, &format!("change {number}"));
    }
}

fn ask(oracle: fn(&[u8]), input: &[u8], name: &str) {
    if let Err(why) = panic::catch_unwind(|| oracle(input)) {
        let shown = &input[..input.len().min(SHOWN_BYTES_MAX)];
        eprintln!("{name} of {} bytes fails: b\"{}\"", input.len(), shown.escape_ascii());
        panic::resume_unwind(why);
    }
}

/// One change of the kinds that decoders get wrong: lengths, ends, neighbours.
fn change(input: &mut Vec<u8>, other: Vec<u8>, random: &mut Random) {
    let at = random.below(input.len() + 1);
    let some = random.below(16) + 1;
    let end = (at + some).min(input.len());
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = *random.pick(&BYTES),
        2 => {
            let number = random.pick(&NUMBERS).to_le_bytes();
            let bytes = [4, 8][random.below(2)].min(input.len() - at);
            input[at..at + bytes].copy_from_slice(&number[..bytes]);
        }
        3 => drop(input.drain(at..end)),
        4 => input.truncate(at),
        5 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        6 => {
            let noise: Vec<u8> = (0..some).map(|_| *random.pick(&BYTES)).collect();
            input.splice(at..at, noise);
        }
        _ => {
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 32).unwrap() % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const SHOWN_BYTES_MAX: usize = 600;
const CHANGES: u32 = 20_000;
const BYTES: [u8; 14] =
    [0, 1, 2, 0x7F, 0x80, 0xFF, b'\r', b'\n', b'0', b'9', b'-', b'$', b'*', b' '];
const NUMBERS: [u64; 8] = [0, 1, u64::MAX, 1 << 62, (1 << 62) + 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 4_097];
