//! `logdrive load` from the outside: its command line, and what it makes of servers that misbehave.
//!
//! The servers are threads here that speak just enough of the protocol, and answer each write as a test says.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use support::client::slot_of;
use support::process::{BINARY, Process};

fn load(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("load").args(args).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn bad_flags_are_usage_errors_that_name_the_flag() {
    for (args, part) in [
        (&["--rate", "10", "--concurrency", "10"][..], "--concurrency"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "fast"], "--rate"),
        (&["--concurrency", "0"], "--concurrency"),
        (&["--duration", "20"], "'20' is not a length of time"),
        (&["--nodes", "0"], "--nodes"),
        (&["--groups", "16385"], "--groups"),
        (&["--groups", "8", "--endpoints", "127.0.0.1:1"], "--endpoints"),
        (&["--keys", "0"], "--keys"),
        (&["--value-size", "9999999"], "--value-size"),
        // With its key it is a byte more than a server takes.
        (&["--value-size", "1048559"], "--value-size"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let output = load(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let errors = text(&output.stderr);
        assert!(errors.contains(part), "{args:?} should name {part}:\n{errors}");
    }
}

#[test]
fn a_run_that_could_measure_nothing_or_lose_a_result_does_not_begin() {
    for (args, part) in [
        (["--duration", "0s", "--warmup", "0s"], "duration: must be more"),
        (["--timeout", "0s", "--warmup", "0s"], "timeout: must be more"),
        (["--json", "/nonexistent/x", "--hgrm", "/nonexistent/x"], "json and hgrm name the same"),
    ] {
        let output = load(&args).args(["--endpoints", "127.0.0.1:1"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).contains(part), "{args:?}: {}", text(&output.stderr));
    }
}

/// The bug: the results were gone, and the exit code was 0.
#[test]
fn results_that_standard_output_does_not_take_are_a_failure() {
    let server = Server::start(|_, _| Answer::Say("+OK\r\n"));
    let endpoint = server.address.to_string();
    let mut command = load(&["--endpoints", &endpoint, "--duration", "200ms", "--warmup", "0s"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("cannot write standard output: No space left"), "{said}");
}

#[test]
fn help_states_the_default_pace() {
    let output = load(&["--help"]).output().unwrap();
    assert!(output.status.success());
    let help = text(&output.stdout);
    assert!(help.contains("default, with 1,000"), "{help}");
    assert!(!help.contains("--pacing"), "{help}");
}

#[test]
fn an_endpoint_nobody_serves_is_one_line_and_exit_one() {
    // Bound, so that nobody else gets the port meanwhile, and not listening.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let output = load(&["--endpoints", &format!("127.0.0.1:{port}")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(
        errors.starts_with("logdrive: no endpoint answered: CLUSTER SLOTS to 127.0.0.1:"),
        "{errors}"
    );
}

#[test]
fn an_output_file_that_cannot_be_made_is_known_before_the_run() {
    let output =
        load(&["--json", "/nonexistent/x.json", "--endpoints", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/x.json"), "{}", text(&output.stderr));
}

#[test]
fn results_that_are_there_outlast_a_run_that_fails() {
    let files = tempfile::tempdir().unwrap();
    let (old, new) = (files.path().join("old.json"), files.path().join("new.hgrm"));
    std::fs::write(&old, "yesterday's").unwrap();
    let output = load(&["--endpoints", "no..such..host:1", "--json"])
        .arg(&old)
        .arg("--hgrm")
        .arg(&new)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no..such..host:1"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "yesterday's");
    assert!(!new.exists(), "a file without results was left");

    // A run that comes to its end writes over all that was there.
    std::fs::write(&old, "x".repeat(1 << 20)).unwrap();
    let server = Server::start(|_, _| Answer::Say("+OK\r\n"));
    let endpoint = server.address.to_string();
    let status = load(&["--endpoints", &endpoint, "--duration", "100ms", "--warmup", "0s"])
        .args(["--json".as_ref(), old.as_os_str()])
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    serde_json::from_slice::<serde_json::Value>(&std::fs::read(&old).unwrap()).unwrap();
}

#[test]
fn whoever_stops_watching_costs_no_results() {
    let server = Server::start(|_, _| Answer::Say("-ERR shown as a warning\r\n"));
    let files = tempfile::tempdir().unwrap();
    let json = files.path().join("run.json");
    let endpoint = server.address.to_string();
    let mut command = load(&["--endpoints", &endpoint, "--duration", "200ms", "--warmup", "0s"]);
    for stream in [Command::stdout, Command::stderr] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        stream(&mut command, writer);
    }
    let status = command.arg("--json").arg(&json).status().unwrap();
    assert_eq!(status.code(), Some(1), "nothing was acknowledged; a panic is another code");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert!(json["errors"]["other"].as_u64().unwrap() > 0, "{json}");
}

#[test]
fn nodes_may_be_known_by_name() {
    let taker = Server::start_as("localhost", |_, _, _| Answer::Say("+OK\r\n"));
    let other = taker.address.port();
    // Every second write is redirected, to a name as well.
    let server = Server::start_as("localhost", move |slot, count, _| match count % 2 {
        0 => Answer::Say("+OK\r\n"),
        _ => Answer::Tell(format!("-MOVED {slot} localhost:{other}\r\n")),
    });
    let endpoint = format!("localhost:{}", server.address.port());
    let run = attempt(
        &endpoint,
        &["--concurrency", "4", "--duration", "300ms", "--warmup", "0s", "--timeout", "1m"],
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.number("/sent"), run.number("/acknowledged"), "{}", run.json);
    assert!(run.number("/redirected") > 0, "{}", run.json);
}

#[test]
fn a_name_that_cannot_be_looked_up_is_named() {
    let server = Server::start_as("no..such..host", |_, _, _| Answer::Say("+OK\r\n"));
    let output = load(&["--endpoints", &server.address.to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (errors, port) = (text(&output.stderr), server.address.port());
    let start = format!("logdrive: a node is said to be at no..such..host:{port}, which cannot");
    assert!(errors.starts_with(&start), "{errors}");

    // A name that comes up during a run is named at the run's end.
    let server = Server::start(|slot, count| match count {
        0 => Answer::Say("+OK\r\n"),
        _ => Answer::Tell(format!("-MOVED {slot} no..such..host:1\r\n")),
    });
    let run = server.run(&[
        "--concurrency",
        "2",
        "--duration",
        "300ms",
        "--warmup",
        "0s",
        "--timeout",
        "500ms",
    ]);
    assert!(run.stderr.contains("no connection to no..such..host:1: "), "{}", run.stderr);
    assert!(run.number("/errors/moved") > 0, "{}", run.json);
}

#[test]
fn every_write_of_an_open_loop_is_sent_and_acknowledged_once() {
    let server = Server::start(|_, _| Answer::Say("+OK\r\n"));
    let run = server.run(&["--rate", "2000", "--duration", "500ms", "--warmup", "100ms"]);
    assert_eq!(run.number("/sent"), 1_000);
    assert_eq!(run.number("/acknowledged"), 1_000);
    assert!(run.json.pointer("/latency_us/p99_9").unwrap().as_f64().unwrap() > 0.0);
    assert_eq!(run.json["rate_per_s"].as_u64(), Some(2_000));
    assert!(run.json["concurrency"].is_null());
    assert!(
        run.hgrm.contains("#[Max     =") && run.hgrm.contains("Total count    =         1000]")
    );
    assert!(
        run.stdout.contains("p99.9") && run.stdout.contains("errors        none"),
        "{}",
        run.stdout
    );
}

#[test]
fn refusals_are_counted_by_kind_and_add_up() {
    let server = Server::start(|_, count| match count % 5 {
        0 => Answer::Say("-UNKNOWN outcome\r\n"),
        1 => Answer::Say("-OVERLOADED try later\r\n"),
        2 => Answer::Say("-CLUSTERDOWN no leader\r\n"),
        3 => Answer::Say("-ERR never heard of it\r\n"),
        _ => Answer::Say("+OK\r\n"),
    });
    let run = server.run(&["--rate", "1000", "--duration", "500ms", "--warmup", "0s"]);
    assert_eq!(run.number("/sent"), 500);
    for field in [
        "/acknowledged",
        "/errors/unknown",
        "/errors/overloaded",
        "/errors/clusterdown",
        "/errors/other",
    ] {
        assert_eq!(run.number(field), 100, "{field}");
    }
    assert!(run.stderr.contains("ERR never heard of it"), "{}", run.stderr);
}

#[test]
fn redirects_are_followed_and_are_not_errors() {
    // The first node claims every slot, and sends every write on to the other.
    let taker = Server::start(|_, _| Answer::Say("+OK\r\n"));
    let other = taker.address;
    let server = Server::start(move |slot, _| Answer::Tell(format!("-MOVED {slot} {other}\r\n")));
    let run = server.run(&["--concurrency", "10", "--duration", "300ms", "--warmup", "0s"]);
    assert!(run.number("/redirected") > 0);
    assert_eq!(run.number("/sent"), run.number("/acknowledged"), "{}", run.json);
}

#[test]
fn a_redirect_that_never_ends_is_an_error_of_its_own() {
    let server = Server::start_knowing_itself(|slot, _, itself| {
        Answer::Tell(format!("-MOVED {slot} {itself}\r\n"))
    });
    let run = server.attempt(&[
        "--rate",
        "100",
        "--duration",
        "200ms",
        "--warmup",
        "0s",
        "--timeout",
        "3s",
    ]);
    assert_eq!(run.code, Some(1), "nothing was acknowledged");
    assert_eq!(
        (run.number("/sent"), run.number("/errors/moved") + run.number("/errors/timeout")),
        (20, 20)
    );
    assert!(run.number("/errors/moved") > 0, "{}", run.json);
}

#[test]
fn a_broken_connection_fails_what_was_on_it_and_is_made_again() {
    let rule = |_, count| if count % 50 == 49 { Answer::HangUp } else { Answer::Say("+OK\r\n") };
    let run = Server::start(rule).run(&["--rate", "1000", "--duration", "500ms", "--warmup", "0s"]);
    assert_eq!(run.number("/sent"), 500);
    let (acknowledged, lost) = (run.number("/acknowledged"), run.number("/errors/connection"));
    assert_eq!(acknowledged + lost, 500, "{}", run.json);
    assert!(lost > 0, "{}", run.json);
    // How many writes are on a connection when it breaks depends on the machine, except in a closed loop.
    let run =
        Server::start(rule).run(&["--concurrency", "4", "--duration", "2s", "--warmup", "0s"]);
    let (acknowledged, lost) = (run.number("/acknowledged"), run.number("/errors/connection"));
    assert_eq!(acknowledged + lost, run.number("/sent"), "{}", run.json);
    assert!(lost > 4 && acknowledged > lost, "{}", run.json);
}

#[test]
fn silence_is_a_timeout() {
    let server =
        Server::start(|_, count| if count < 10 { Answer::Say("+OK\r\n") } else { Answer::Nothing });
    let run = server.run(&[
        "--rate",
        "100",
        "--duration",
        "200ms",
        "--warmup",
        "0s",
        // Far longer than an answer takes, also on a busy machine.
        "--timeout",
        "5s",
    ]);
    assert_eq!(
        (run.number("/sent"), run.number("/acknowledged"), run.number("/errors/timeout")),
        (20, 10, 10)
    );
}

/// While the server does not answer, more writes become due than the generator holds at once: none of them is forgotten.
#[test]
fn every_write_of_a_long_stall_is_counted() {
    let server = Server::start(|_, count| {
        if count == 0 {
            thread::sleep(std::time::Duration::from_millis(400));
        }
        Answer::Say("+OK\r\n")
    });
    let stalled: &[&str] = &["--rate", "1000000", "--warmup", "0s"];
    let run = server.run(&[stalled, &["--duration", "250ms", "--timeout", "1m"]].concat());
    assert_eq!((run.number("/sent"), run.number("/acknowledged")), (250_000, 250_000));

    let silent = Server::start(|_, _| Answer::Nothing);
    let run = silent.attempt(&[stalled, &["--duration", "300ms", "--timeout", "200ms"]].concat());
    assert_eq!((run.number("/sent"), run.number("/errors/timeout")), (300_000, 300_000));
    assert_eq!((run.code, run.json["valid"].as_bool()), (Some(1), Some(false)));
}

/// The bug: large values, at a rate that no server can take, filled gigabytes of memory in seconds.
#[test]
fn what_waits_for_a_silent_server_is_bounded_by_its_bytes() {
    let server = Server::start_taking(1_000_000, |_, _, _| Answer::Nothing);
    let endpoint = server.address.to_string();
    let mut command =
        load(&["--endpoints", &endpoint, "--rate", "10000", "--value-size", "1000000"]);
    command.args(["--warmup", "0s", "--duration", "1s", "--timeout", "1s"]);
    let child = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let mut child = child;
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = status.as_ref().ok().and_then(|s| s.lines().find(|l| l.starts_with("VmHWM:")));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0));
        thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(most > 0, "its memory was never seen");
    assert!(most < 500 << 10, "{} MiB", most >> 10);
}

#[test]
fn a_value_that_the_cluster_never_takes_is_refused_before_the_run() {
    let server = Server::start_telling("# Logdrive\r\ncommand_bytes_max:16384\r\n");
    let attempt = |bytes: &str| {
        let args = ["--duration", "100ms", "--warmup", "0s", "--value-size", bytes, "--endpoints"];
        load(&args).arg(server.address.to_string()).output().unwrap()
    };
    let output = attempt("16367");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(errors, "logdrive: value-size: this cluster takes values of at most 16366 bytes\n");
    assert!(attempt("16366").status.success());
}

#[test]
fn an_interrupt_ends_a_run_with_what_there_is() {
    let server = Server::start(|_, _| Answer::Say("+OK\r\n"));
    let endpoint = server.address.to_string();
    let mut command = load(&["--endpoints", &endpoint, "--warmup", "0s", "--duration", "1h"]);
    let mut child = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("warming up"), "{line}");
    server.wait_for_writes(1_000);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let Output { status, stdout, .. } = child.output();
    errors.read_to_string(&mut line).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(line.contains("cut short") && line.ends_with("logdrive: interrupted\n"), "{line}");
    assert!(text(&stdout).contains("throughput"), "{}", text(&stdout));
}

/// The server's answer to one write.
enum Answer {
    Say(&'static str),
    Tell(String),
    HangUp,
    Nothing,
}

/// A node that owns every slot and answers writes by a rule: the write's slot, and how many came before it.
struct Server {
    address: SocketAddr,
    writes: Arc<std::sync::atomic::AtomicU64>,
}

/// Everything about a server except its answers to writes.
#[derive(Clone, Copy)]
struct Like {
    host: &'static str,
    /// The bytes that every value must have.
    value_bytes: Option<usize>,
    /// Its answer to `INFO`; an error if there is none.
    info: &'static str,
}

impl Default for Like {
    fn default() -> Self {
        Self { host: "127.0.0.1", value_bytes: Some(128), info: "" }
    }
}

struct Run {
    code: Option<i32>,
    json: serde_json::Value,
    hgrm: String,
    stdout: String,
    stderr: String,
}

impl Run {
    fn number(&self, pointer: &str) -> u64 {
        self.json.pointer(pointer).and_then(serde_json::Value::as_u64).expect(pointer)
    }
}

impl Server {
    fn start(rule: impl Fn(u16, u64) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_knowing_itself(move |slot, count, _| rule(slot, count))
    }

    fn start_knowing_itself(
        rule: impl Fn(u16, u64, SocketAddr) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_as("127.0.0.1", rule)
    }

    /// A server that says that its host is `host`.
    fn start_as(
        host: &'static str,
        rule: impl Fn(u16, u64, SocketAddr) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_like(Like { host, ..Like::default() }, rule)
    }

    /// A server that takes values of another size.
    fn start_taking(
        value_bytes: usize,
        rule: impl Fn(u16, u64, SocketAddr) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_like(Like { value_bytes: Some(value_bytes), ..Like::default() }, rule)
    }

    /// A server that answers `INFO` with `info`, and takes all writes.
    fn start_telling(info: &'static str) -> Self {
        let like = Like { value_bytes: None, info, ..Like::default() };
        Self::start_like(like, |_, _, _| Answer::Say("+OK\r\n"))
    }

    fn start_like(
        like: Like,
        rule: impl Fn(u16, u64, SocketAddr) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let writes = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (rule, counter) = (Arc::new(rule), Arc::clone(&writes));
        // The threads end with the test process.
        let accept = move || {
            for stream in listener.incoming() {
                let (rule, counter) = (Arc::clone(&rule), Arc::clone(&counter));
                let serve = move || serve(stream.unwrap(), address, &like, &*rule, &counter);
                thread::Builder::new().name("connection".into()).spawn(serve).unwrap();
            }
        };
        thread::Builder::new().name("accept".into()).spawn(accept).unwrap();
        Self { address, writes }
    }

    fn wait_for_writes(&self, count: u64) {
        while self.writes.load(std::sync::atomic::Ordering::Relaxed) < count {
            thread::yield_now();
        }
    }

    /// A run that must succeed.
    fn run(&self, args: &[&str]) -> Run {
        let run = self.attempt(args);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run
    }

    fn attempt(&self, args: &[&str]) -> Run {
        attempt(&self.address.to_string(), args)
    }
}

fn attempt(endpoint: &str, args: &[&str]) -> Run {
    let files = tempfile::tempdir().unwrap();
    let (json, hgrm) = (files.path().join("run.json"), files.path().join("run.hgrm"));
    let output = load(args)
        .args(["--endpoints", endpoint, "--json"])
        .arg(&json)
        .arg("--hgrm")
        .arg(&hgrm)
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        json: serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap(),
        hgrm: std::fs::read_to_string(&hgrm).unwrap(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

fn serve(
    stream: TcpStream,
    address: SocketAddr,
    like: &Like,
    rule: &dyn Fn(u16, u64, SocketAddr) -> Answer,
    writes: &std::sync::atomic::AtomicU64,
) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    while let Some(args) = request(&mut input) {
        let answer = match args[0].as_slice() {
            b"SET" => {
                let count = writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                assert_eq!(args.len(), 3);
                assert!(like.value_bytes.is_none_or(|bytes| bytes == args[2].len()));
                rule(slot_of(&args[1]), count, address)
            }
            b"CLUSTER" => {
                let (host, bytes, port) = (like.host, like.host.len(), address.port());
                Answer::Tell(format!(
                    "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n${bytes}\r\n{host}\r\n:{port}\r\n"
                ))
            }
            b"INFO" if !like.info.is_empty() => {
                Answer::Tell(format!("${}\r\n{}\r\n", like.info.len(), like.info))
            }
            _ => Answer::Say("-ERR unknown command\r\n"),
        };
        let sent = match &answer {
            Answer::Say(text) => output.write_all(text.as_bytes()),
            Answer::Tell(text) => output.write_all(text.as_bytes()),
            Answer::Nothing => Ok(()),
            Answer::HangUp => {
                let _ = output.shutdown(std::net::Shutdown::Both);
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// One array of bulk strings; `None` at the end of the connection.
fn request(input: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let count = number(input)?;
    let mut args = Vec::new();
    for _ in 0..count {
        let mut arg = vec![0; number(input)? + 2];
        input.read_exact(&mut arg).ok()?;
        arg.truncate(arg.len() - 2);
        args.push(arg);
    }
    Some(args)
}

/// The number after a header's kind.
fn number(input: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    line.get(1..)?.trim_end().parse().ok()
}
