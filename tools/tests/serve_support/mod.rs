//! Starts `logdrive serve` processes for the tests, and stops them however a test ends.
//!
//! In:     a number of nodes, further flags.
//! Out:    [`Cluster`] with ready nodes on free ports in a temporary directory; [`Wire`], a raw client.
//! Fails:  by panic, with what the process wrote to standard error.

#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// How long anything may take before the test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The `logdrive` command with `serve` and these flags.
pub(crate) fn serve(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logdrive"));
    command.arg("serve").args(flags);
    command
}

/// Ports nobody listens on now.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    // Below the range the system draws outgoing connections' ports from: no connection takes one
    // before the server does. Each process begins at a place of its own and never goes back.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 1_000 * 10).expect("small");
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

/// Nodes that run until this is dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Process>,
    peers: String,
    flags: Vec<String>,
    /// Below the nodes: they must be gone before their directories are.
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Founds a cluster and waits until every slot has a leader.
    pub(crate) fn start(nodes: usize, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let ports = free_ports(nodes);
        let peers: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(at, port)| format!("{}=127.0.0.1:{port}", at + 1))
            .collect();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut cluster = Self { nodes: Vec::new(), peers: peers.join(","), flags, dir };
        for id in 1..=nodes {
            let process = cluster.spawn(id, &["--init"]);
            cluster.nodes.push(process);
        }
        for node in &mut cluster.nodes {
            node.wait_ready();
        }
        cluster.wait_ok();
        cluster
    }

    /// Flags of node `id` that do not depend on the run.
    pub(crate) fn node_flags(&self, id: usize) -> Vec<String> {
        let mut flags = vec![
            "--id".to_owned(),
            id.to_string(),
            "--dir".to_owned(),
            self.node_dir(id).display().to_string(),
            "--peers".to_owned(),
            self.peers.clone(),
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
        ];
        flags.extend(self.flags.iter().cloned());
        flags
    }

    pub(crate) fn node_dir(&self, id: usize) -> PathBuf {
        self.dir.path().join(format!("n{id}"))
    }

    /// Starts node `id` with its flags and these; it may not be ready yet.
    pub(crate) fn spawn(&self, id: usize, more: &[&str]) -> Process {
        let flags = self.node_flags(id);
        let mut all: Vec<&str> = more.to_vec();
        all.extend(flags.iter().map(String::as_str));
        Process::start(serve(&all))
    }

    fn wait_ok(&self) {
        let start = now();
        for node in &self.nodes {
            while !node.connect().line_of(&["CLUSTER", "INFO"], "cluster_state").contains("ok") {
                assert!(start.elapsed() < PATIENCE, "no leader for every slot");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Where node `id` (from 1) takes clients.
    pub(crate) fn address(&self, id: usize) -> &str {
        &self.nodes[id - 1].address
    }
}

/// One server process. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
    /// The line it printed when it was ready.
    pub(crate) line: String,
    /// Where it takes clients.
    pub(crate) address: String,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        command
            .env("LOGDRIVE_LOG", "error")
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout, line: String::new(), address: String::new() }
    }

    /// Waits for the start-up line.
    pub(crate) fn wait_ready(&mut self) {
        self.stdout.read_line(&mut self.line).expect("standard output");
        let clients = self.line.split(' ').find_map(|word| word.strip_prefix("clients="));
        match clients {
            Some(address) => address.clone_into(&mut self.address),
            None => panic!("it did not start: {:?}", self.line),
        }
    }

    pub(crate) fn connect(&self) -> Wire {
        Wire::connect(&self.address)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kib * 1024
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Asks it to stop as a service manager does.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.wait_end()
    }

    /// Closes its standard input, as a dying parent does.
    pub(crate) fn close_stdin(&mut self) -> ExitStatus {
        self.stdin = None;
        self.wait_end()
    }

    fn wait_end(&mut self) -> ExitStatus {
        let start = now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "process {} does not end", self.child.id());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it printed after the start-up line. It must have ended.
    pub(crate) fn rest_of_stdout(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("UTF-8");
        rest
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that must end by itself.
pub(crate) fn run(mut command: Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let pid = rustix::process::Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::sync_channel::<()>(1);
    // The pipes must be read while it runs, so another thread keeps the time.
    let watch = std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || {
            let ended = ended.recv_timeout(PATIENCE).is_ok();
            if !ended {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            ended
        })
        .expect("a thread");
    let output = child.wait_with_output().expect("output");
    let _ = done.try_send(());
    assert!(watch.join().expect("joined"), "it did not end: {command:?}");
    output
}

/// A client that sends and reads bytes as they are.
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
}

/// A reply, read without a library that might hide its shape.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Self>),
    Map(Vec<(Self, Self)>),
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            other => panic!("{other:?} is no array"),
        }
    }
}

pub(crate) fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

/// What a group answers while its leadership moves, as it may at any time on a busy machine. `UNKNOWN` may have taken
/// effect, the others have not.
pub(crate) fn is_moving(reply: &Reply) -> bool {
    let words = ["MOVED ", "CLUSTERDOWN", "TRYAGAIN", "UNKNOWN"];
    matches!(reply, Reply::Error(text) if words.iter().any(|word| text.starts_with(word)))
}

/// Tries, with the number of the try, until leaderships stay where they are meanwhile: a try that finds that one moves
/// gives `None`.
pub(crate) fn steadily<T>(what: &str, mut attempt: impl FnMut(u32) -> Option<T>) -> T {
    let start = now();
    for number in 0.. {
        if let Some(done) = attempt(number) {
            return done;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: leaderships move all the time");
        std::thread::sleep(Duration::from_millis(20));
    }
    unreachable!("it returns or panics")
}

/// That this is the answer, unless a leadership moves.
pub(crate) fn expect(found: &Reply, wanted: &Reply) -> Option<()> {
    if is_moving(found) {
        return None;
    }
    assert_eq!(found, wanted);
    Some(())
}

pub(crate) fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

/// The request as clients send it.
pub(crate) fn request(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

impl Wire {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("sent");
    }

    /// Sends what the server may no longer want to read.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    pub(crate) fn end_input(&mut self) {
        self.stream.get_mut().shutdown(std::net::Shutdown::Write).expect("a socket");
    }

    pub(crate) fn try_end_input(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().shutdown(std::net::Shutdown::Write)
    }

    pub(crate) fn read_exact(&mut self, bytes: &mut [u8]) {
        self.stream.read_exact(bytes).expect("bytes");
    }

    pub(crate) fn call(&mut self, words: &[&str]) -> Reply {
        self.send(&request(words));
        self.read()
    }

    /// The line of a text reply that starts with `key:`.
    pub(crate) fn line_of(&mut self, words: &[&str], key: &str) -> String {
        let text = self.call(words).text();
        let line = text.lines().find(|line| line.starts_with(&format!("{key}:")));
        line.unwrap_or_default().to_owned()
    }

    pub(crate) fn read(&mut self) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a reply");
        assert!(line.ends_with("\r\n"), "the connection ended: {line:?}");
        let (kind, rest) = line.trim_end().split_at(1);
        let count = || rest.parse::<i64>().unwrap_or_else(|_| panic!("{line:?} has no count"));
        match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(count()),
            "_" => Reply::Null,
            "$" | "*" if count() < 0 => Reply::Null,
            "$" => {
                let mut bytes = vec![0; usize::try_from(count()).expect("a length") + 2];
                self.stream.read_exact(&mut bytes).expect("a bulk string");
                assert!(bytes.ends_with(b"\r\n"), "a bulk string ends with CRLF");
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(bytes)
            }
            "*" => Reply::Array((0..count()).map(|_| self.read()).collect()),
            "%" => Reply::Map((0..count()).map(|_| (self.read(), self.read())).collect()),
            _ => panic!("{line:?} is no reply"),
        }
    }

    /// All that comes until the server closes the connection.
    pub(crate) fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                // It closed while bytes of ours were on their way.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[expect(clippy::disallowed_methods, reason = "bounds how long a test waits, decides nothing")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// True if `path` holds a file or directory.
pub(crate) fn exists(path: &Path) -> bool {
    path.try_exists().expect("readable")
}
