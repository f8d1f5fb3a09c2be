//! `logdrive load` with servers of its own: its results, and that nothing of a run is left, however it ends.
//!
//! The servers are found by the place of their directories, which stands on their command lines. No test here depends on
//! how long something takes: each waits for it, and [`GIVE_UP`] only ends a test that waits in vain.

#![forbid(unsafe_code)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{ChildStderr, Command, Stdio},
    time::Duration,
};
use support::{
    cluster::directory,
    eventually,
    process::{BINARY, Process},
    turn,
};

#[test]
fn a_run_gives_every_figure_and_leaves_nothing() {
    let _turn = turn();
    // On a busy machine a leadership may move, which is an error for some writes: then there is another run.
    for attempt in 1.. {
        let place = directory();
        let file = place.path().join("run.json");
        let output = load(place.path(), "1s").arg("--json").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_nothing_is_left(place.path(), &["run.json"]);
        let moved = attempt < ATTEMPTS_MAX;
        if moved && !output.status.success() && said.contains("no write was acknowledged") {
            continue;
        }
        assert!(output.status.success(), "{said}");
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let number = |pointer: &str| {
            let value = json.pointer(pointer).and_then(serde_json::Value::as_f64);
            value.unwrap_or_else(|| panic!("{pointer} is no number in {json}"))
        };
        let errors = json["errors"].as_object().unwrap();
        let failed: u64 = errors.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(number("/sent"), number("/acknowledged") + failed as f64, "{json}");
        if moved && failed > 0 {
            continue;
        }
        assert_eq!(failed, 0, "{json}");
        check(&json, number);
        assert!(String::from_utf8_lossy(&output.stdout).contains("errors        none"));
        return;
    }
}

fn check(json: &serde_json::Value, number: impl Fn(&str) -> f64) {
    for (pointer, wanted) in [
        ("/nodes", 3.0),
        ("/groups", 20.0),
        ("/concurrency", 16.0),
        ("/value_bytes", 128.0),
        ("/keys", 100_000.0),
        ("/seed", 1.0),
        ("/duration_s", 1.0),
        ("/warmup_s", 0.2),
    ] {
        assert_eq!(number(pointer), wanted, "{pointer} in {json}");
    }
    assert!(json["rate_per_s"].is_null(), "{json}");
    assert!(number("/acknowledged") > 0.0 && number("/throughput_per_s") > 0.0, "{json}");
    assert!(number("/redirected") >= 0.0 && number("/generator_cpu_us_per_op") > 0.0, "{json}");
    for latency in ["latency_us", "service_us", "lag_us"] {
        let at = |quantile: &str| number(&format!("/{latency}/{quantile}"));
        let rising = ["p50", "p90", "p99", "p99_9", "max"].map(at);
        assert!(rising.is_sorted(), "{latency}: {rising:?}");
        assert!(at("mean") <= at("max"), "{latency} in {json}");
    }
    // Nothing answers a synced write within a microsecond, and nothing outlives the timeout.
    assert!(number("/latency_us/p50") > 1.0 && number("/latency_us/max") <= 60e6, "{json}");
    for version in ["version", "server_version"] {
        assert_eq!(json[version], env!("CARGO_PKG_VERSION"));
    }
    assert!(["io_uring", "portable"].contains(&json["disk_driver"].as_str().unwrap()), "{json}");
    assert!(["yes", "no"].contains(&json["direct_io"].as_str().unwrap()), "{json}");
    assert!(json["valid"].is_boolean() && json["interrupted"] == false, "{json}");
    let stages = json["stages"].as_array().unwrap();
    assert!(!stages.is_empty());
    for stage in stages {
        assert!(stage["stage"].is_string() && stage["mean_us"].as_f64().unwrap() >= 0.0, "{stage}");
    }
}

#[test]
fn an_interrupted_run_stops_its_servers_and_removes_its_directory() {
    let _turn = turn();
    let place = directory();
    let file = place.path().join("run.json");
    let (child, mut errors) = start(load(place.path(), "1h").arg("--json").arg(&file));
    assert_eq!(servers_in(place.path()).len(), 3);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.output();
    let mut said = String::new();
    errors.read_to_string(&mut said).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.ends_with("logdrive: interrupted\n"), "{said}");
    assert_nothing_is_left(place.path(), &["run.json"]);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&json["interrupted"], &json["valid"]), (&true.into(), &false.into()), "{json}");
}

/// No process is left that could remove the directory, but the kernel closes the servers' standard inputs.
#[test]
fn the_servers_of_a_run_that_is_killed_end_by_themselves() {
    let _turn = turn();
    let place = directory();
    let (mut child, _errors) = start(&mut load(place.path(), "1h"));
    assert_eq!(servers_in(place.path()).len(), 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = eventually(GIVE_UP, || servers_in(place.path()).is_empty());
    assert!(ended, "servers still run: {:?}", servers_in(place.path()));
}

fn load(place: &Path, duration: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(place).stdin(Stdio::null());
    command.args(["load", "--groups", "20", "--concurrency", "16", "--timeout", "1m"]);
    command.args(["--warmup", "200ms", "--duration", duration]);
    command
}

/// Starts a run, and waits until its cluster serves and the run writes.
fn start(command: &mut Command) -> (Process, BufReader<ChildStderr>) {
    let mut child = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let (mut line, mut said) = (String::new(), String::new());
    while !line.starts_with("warming up") {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it did not start: {said}");
        said.push_str(&line);
    }
    (child, errors)
}

/// Checks that a run has left no process, and no file but `files`.
fn assert_nothing_is_left(place: &Path, files: &[&str]) {
    let servers = servers_in(place);
    assert!(servers.is_empty(), "servers outlived their run: {servers:?}");
    let left: Vec<_> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !files.contains(&name.as_str()))
        .collect();
    assert!(left.is_empty(), "a run left {left:?}");
}

/// Ids of the processes whose command line says that their directory is below `place`.
fn servers_in(place: &Path) -> Vec<String> {
    let mark = format!("{}/logdrive-load-", place.display());
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|id| {
            // A process that ended meanwhile has no command line any more; one that nobody waited for, an empty one.
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&mark)
        })
        .collect()
}

const ATTEMPTS_MAX: u32 = 20;
const GIVE_UP: Duration = Duration::from_secs(300);
