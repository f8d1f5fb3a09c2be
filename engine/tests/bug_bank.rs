//! Every mutation of the bug bank is caught within its seeds; `engine/BUGS.md` says by what.
//!
//! `cargo test -p logdrive --features bug-bank --test bug_bank`. With `LOGDRIVE_BUGS=write` the table is written
//! anew; with `LOGDRIVE_BUGS=NAME` only that one is hunted, and its failure printed.

#![forbid(unsafe_code)]

use logdrive::testing::{
    Cluster,
    bugs::{self, Bug, Caught},
    shrink,
};
use std::{
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The log's own histories, with the test that they pass.
#[path = "../../wal/tests/model.rs"]
mod log;

/// Why four of them need faults of their own.
const SITUATIONS: &str = "\
Four do harm only in a situation that chance alone seldom brings about; a fault leads there, and a place in
`testing::PLACES` counts that it came about, mutation or not.

- `old_terms_ack_counts`: a leader has lost entries that another had acknowledged, and leads again with a shorter log
  when the acknowledgement arrives again. Fault `forgetful leader`: the leader's disk is slow and its power fails; what
  was acknowledged to it in an earlier term is repeated to it.
- `vote_by_durable_log`: a voter has an entry in memory, not on disk, for more than an election timeout (until then it
  hears a leader and answers no candidate) and less than two (then it has resigned, and promises no vote), and the
  old leader still leads when the acknowledgement comes: it was paused. Fault `last word`.
- `aba_completion`: acknowledgements wait for their write, not for an entry, and whoever is elected has written its own
  vote behind all the rest, so neither is wrong; what is wrong is what the replica believes durable, and so applies:
  the write between the two takes it from the disk again. Invariant 12 looks at each write that lands. It takes
  five nodes: while the first write is under way its replica has no vote to give, and of two or three others, all of
  whom every majority then needs, one has the entry and refuses whoever has not. Fault `shuffle`.
- `commit_saved_past_its_entries`: a follower's disk has entries that nobody committed, and one write has a new term, the
  entries that replace them, and a commit index that covers those. A new leader's first append carries its own first
  entry alone, and nothing follows before the follower has answered, which saves the term by itself; so it takes two
  leaders' first appends in one turn. Fault `late news`. Two invariants look at each record as it lands, so it need not
  be the last before the power fails: 7 and 12 compare what is saved as committed with what the disk has by then.

";

/// The gap that two of the bugs leave open, and the tests that close it.
const TWINS: &str = "\
`directory_not_synced`, `new_file_not_synced` and `no_room_told_once` are mutations of the simulated disk's maker of segments,
which is not the real one. `the_simulated_maker_takes_the_real_ones_steps` and
`the_simulated_maker_tells_of_a_full_disk_when_the_real_one_does` (`wal/src/disk/maker.rs`) hold the two against each other,
step by step and report by report. The lines of the first two left out of `wal/src/disk/files.rs` fail the first of these
tests, and on a real kernel both of `tools/tests/power_loss.rs`.

";

/// Steps of one of the log's histories.
const LOG_STEPS: u64 = 350;

/// Everything that is hunted.
fn bank() -> impl Iterator<Item = &'static Bug> {
    bugs::ALL.iter().chain(bugs::OF_THE_LOG)
}

fn hunt(bug: &Bug, seeds: u64) -> Option<Caught> {
    let seeds = bug.first..bug.first.saturating_add(seeds);
    if bugs::OF_THE_LOG.iter().any(|other| other.name == bug.name) {
        let history = |seed| {
            let _ = log::run(seed, LOG_STEPS, &mut log::Reached::default());
        };
        bugs::hunt_with(bug.name, seeds, |seed| bugs::guard(|| history(seed)))
    } else {
        bugs::hunt(bug.name, seeds)
    }
}

/// Hunts each on one of two threads.
fn hunt_all<T: Sync>(
    bank: &[T],
    hunt: impl Fn(&T) -> Option<Caught> + Sync,
) -> Vec<(&T, Option<Caught>)> {
    let next = AtomicUsize::new(0);
    let caught: Mutex<Vec<Option<Caught>>> = Mutex::new(vec![None; bank.len()]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bug) = bank.get(at) else { return };
                    let found = hunt(bug);
                    caught.lock().expect("no hunt panics")[at] = found;
                }
            });
        }
    });
    bank.iter().zip(caught.into_inner().expect("no hunt panics")).collect()
}

fn table(caught: &[(&&Bug, Option<Caught>)]) -> String {
    let mut text = format!(
        "# The bug bank\n\nMutations that a tired engineer would write, and what the simulator says to each. \
         Made by\n`LOGDRIVE_BUGS=write cargo test -p logdrive --features bug-bank --test bug_bank`; \
         `engine/src/testing/bugs.rs`\nis the list. \"Seeds\" is how many runs it took, from seed 0 on (`aba_completion`: from the seed in the list), and how \
         many are allowed.\nRuns are of whole clusters; for the \
         mutations in `OF_THE_LOG` of the log alone (`wal/tests/model.rs`).\n\n{SITUATIONS}{TWINS}| mutation | what it does | seeds | caught by |\n|---|---|---|---|\n",
    );
    for (bug, caught) in caught {
        let (seeds, by) = seeds_and_place(caught.as_ref());
        let _ =
            writeln!(text, "| `{}` | {} | {seeds} of {} | {by} |", bug.name, bug.what, bug.seeds);
    }
    text
}

fn seeds_and_place(caught: Option<&Caught>) -> (String, String) {
    let Some(Caught { seeds, by, .. }) = caught else {
        return ("-".to_owned(), "NOT CAUGHT".to_owned());
    };
    // Lines of assertions move with every edit.
    let by = by.rsplit_once(".rs:").map_or(by.clone(), |(file, _)| format!("{file}.rs"));
    (seeds.to_string(), by)
}

#[test]
fn every_mutation_is_caught_within_its_seeds() {
    let wish = std::env::var("LOGDRIVE_BUGS").unwrap_or_default();
    if let Some(bug) = bank().find(|bug| bug.name == wish) {
        println!("{}: {:?}", bug.name, hunt(bug, u64::MAX));
        return;
    }
    let bank: Vec<&Bug> = bank().collect();
    let caught = hunt_all(&bank, |bug| hunt(bug, bug.seeds));
    let all = caught.iter().map(|(bug, caught)| (bug.name, caught));
    let mut missed = Vec::new();
    for (name, caught) in all {
        match caught {
            Some(Caught { seeds, by, what }) => println!("{name}: {seeds} seeds: {by}: {what}"),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/BUGS.md");
    let table = table(&caught);
    if wish == "write" {
        std::fs::write(path, &table).expect("the table is written");
    }
    // Seeds are deterministic, so that the table says what this code does.
    let in_tree = std::fs::read_to_string(path).expect("the table is in the tree");
    let differs = table.lines().find(|line| !in_tree.lines().any(|other| other == *line));
    assert!(
        table == in_tree,
        "BUGS.md is not what was found, at {differs:?}: write it with LOGDRIVE_BUGS=write"
    );
}

#[test]
fn a_failure_shrinks_to_the_faults_it_takes_and_stays_the_same_failure() {
    let shrunk = bugs::with("damage_cut_as_a_tail", || {
        let failure = (0..400).find_map(|seed| Cluster::new(seed).run().err());
        let failure = failure.expect("it is caught");
        let (seed, invariant) = (failure.seed, failure.invariant.clone());
        let shrunk = shrink(&Cluster::new(seed), failure);
        assert_eq!(shrunk.failure.invariant, invariant);
        shrunk
    });
    let all = Cluster::new(shrunk.failure.seed).faults();
    let kept: Vec<_> = all.iter().filter(|(n, _)| shrunk.faults.contains(n)).collect();
    assert!(kept.len() < all.len() / 2, "of {all:?} it takes {kept:?}");
    // Which of these it is depends on the first seed that fails.
    let damages =
        [": damage ", ": unreadable sector ", ": stray read ", ": stray write ", ": rot at work "];
    let is_damage = |fault: &str| damages.iter().any(|damage| fault.contains(damage));
    assert!(kept.iter().any(|(_, fault)| is_damage(fault)), "it takes {kept:?}");
}

#[test]
fn without_a_mutation_the_same_seeds_pass() {
    let found = bugs::hunt("none", 0..20);
    assert!(found.is_none(), "{found:?}");
}
