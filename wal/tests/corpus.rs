//! Every input that fuzzing starts from or has found, replayed; and a bounded number of random ones.

mod common;

use common::golden::GOLDEN;
use common::mutate::{Base, Input};
use common::random::Random;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files.into_iter().map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect()
}

/// Runs one input, and says which it was if it fails.
fn run(name: &str, bytes: &[u8], target: impl FnOnce(&[u8]) + std::panic::UnwindSafe) {
    let input = bytes.to_vec();
    let failed = std::panic::catch_unwind(move || target(&input)).is_err();
    assert!(!failed, "{name} fails: {:02x?}", &bytes[..bytes.len().min(64)]);
}

#[test]
fn the_corpus_of_decode_holds() {
    for (file, bytes) in corpus("decode") {
        run(&file.display().to_string(), &bytes, logdrive_wal::fuzz::decode);
    }
}

#[test]
fn the_corpus_of_open_holds() {
    let bases = Base::all();
    for (_, bytes) in corpus("open") {
        Input::parse(&bytes).expect("two bytes at least").run(&bases);
    }
}

/// Random inputs per golden stream; the environment variable `WAL_MUTATIONS` sets another number.
fn rounds() -> u64 {
    std::env::var("WAL_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

/// RULES.md C1, C2, C3.
#[test]
fn a_damaged_log_shows_a_prefix_of_its_history_or_says_what_is_lost() {
    mutate(0, 1);
}

/// RULES.md I5.
#[test]
fn a_log_that_says_anything_at_all_is_refused_or_works() {
    mutate(1, 2);
}

fn mutate(flags: u8, seed: u64) {
    let bases = Base::all();
    for_random_inputs(rounds(), flags, seed, |bytes| {
        let input = Input::parse(bytes).unwrap();
        let run = std::panic::AssertUnwindSafe(|| input.run(&bases));
        let failed = std::panic::catch_unwind(run).is_err();
        assert!(!failed, "input {bytes:02x?}");
    });
}

fn for_random_inputs(rounds: u64, flags: u8, seed: u64, mut run: impl FnMut(&[u8])) {
    let mut random = Random(seed);
    for n in 0..rounds {
        for base in 0..GOLDEN.len() {
            let mut bytes = vec![u8::try_from(base).unwrap(), flags];
            for _ in 0..=random.below(3) {
                // Mostly places that hold something: the first blocks of a file, and the first bytes of each.
                let block = random.below(8) * 4096;
                let at = block + [random.below(64), random.below(512)][usize::from(n % 3 == 0)];
                let at = u16::try_from(at % 65_536).unwrap().to_le_bytes();
                let len = u8::try_from(1 + random.below(4)).unwrap();
                bytes.extend([random.byte() % 4, at[0], at[1], len]);
                bytes.extend((0..len).map(|_| 1 << random.below(8)));
            }
            run(&bytes);
        }
    }
}
