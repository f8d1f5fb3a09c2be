//! The examples run, and do what they say.

#![forbid(unsafe_code)]
#![allow(clippy::duplicate_mod, reason = "each example has the common part for itself")]

#[path = "../examples/callbacks.rs"]
#[expect(dead_code, reason = "the program's own entry")]
mod callbacks;
#[path = "../examples/completions.rs"]
#[expect(dead_code, reason = "the program's own entry")]
mod completions;
#[path = "../examples/counter.rs"]
#[expect(dead_code, reason = "the program's own entry")]
mod counter;
#[path = "../examples/futures.rs"]
#[expect(dead_code, reason = "the program's own entry")]
mod futures;
#[path = "../examples/on_disk.rs"]
#[expect(dead_code, reason = "the program's own entry")]
mod on_disk;
#[path = "../examples/on_shard.rs"]
#[expect(dead_code, reason = "the program's own entry")]
mod on_shard;
#[path = "../examples/retry.rs"]
#[expect(dead_code, reason = "the program's own entry")]
mod retry;

use std::time::Duration;

#[test]
fn each_way_in_has_all_its_commands_answered() {
    let home = tempfile::tempdir().unwrap();
    let dir = |name: &str| home.path().join(name);
    assert_eq!(futures::run(&dir("futures")).unwrap(), 200);
    assert_eq!(callbacks::run(&dir("callbacks")).unwrap(), 100);
    assert_eq!(completions::run(&dir("completions")).unwrap(), 1000);
    let [naive, fast] = on_shard::run(&dir("on_shard"), Duration::from_millis(200)).unwrap();
    assert!(naive > 0 && fast > naive, "naive {naive}/s, fast {fast}/s");
}

#[test]
fn a_client_that_tries_again_finds_the_next_leader() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(retry::run(home.path()).unwrap(), 20);
}

#[test]
fn programs_that_are_started_again_count_on() {
    let home = tempfile::tempdir().unwrap();
    let dir = |name: &str| home.path().join(name);
    for run in 1..=3 {
        assert_eq!(counter::count(&dir("counter")).unwrap(), run);
        assert_eq!(on_disk::run(&dir("on_disk")).unwrap(), 10 * run);
    }
}
