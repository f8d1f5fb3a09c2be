//! Real nodes: `logdrive serve` processes on loopback, with their directories.
//!
//! In:     where the directories go, how many groups, flags.
//! Out:    nodes that can be killed (SIGKILL by process id), stopped, restarted and looked into.
//! Cost:   a process and a log per node.
//! Fails:  by panicking with the last lines the nodes wrote.
//!
//! No node outlives its test: dropping kills it, and `--exit-with-stdin` ends it where the test itself was killed.

use super::{
    client::{Client, Connection, Outcome, Reply, slot_of},
    eventually, now,
    process::{BINARY, Process},
};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A directory of its own in cargo's folder for tests: a real file system, where the system's temporary one may be
/// memory. Removed when dropped.
pub(crate) fn directory() -> tempfile::TempDir {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(place).unwrap();
    tempfile::Builder::new().prefix("cluster-").tempdir_in(place).unwrap()
}

/// Three nodes, or as many as asked for.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
}

/// One node; its process comes and goes.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: usize,
    pub(crate) dir: PathBuf,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// Where its standard streams go: output, of its last life alone, and error.
    streams: [PathBuf; 2],
    /// The words that stand before the binary on the node's command line.
    prefix: Vec<String>,
    flags: Vec<String>,
    process: Option<Process>,
}

impl Cluster {
    /// Makes three nodes below `dir` and waits until every slot has a leader.
    pub(crate) fn start(dir: &Path, groups: usize, segment_bytes: usize) -> Self {
        Self::start_logging_to(dir, dir, groups, segment_bytes)
    }

    /// The same, with what they write to their standard streams in another directory.
    pub(crate) fn start_logging_to(
        logs: &Path,
        dir: &Path,
        groups: usize,
        segment_bytes: usize,
    ) -> Self {
        let mut cluster = Self::plan(dir, 3, groups, segment_bytes);
        for node in &mut cluster.nodes {
            node.log_to(logs);
        }
        cluster.init();
        cluster
    }

    /// Nodes that are not started yet.
    pub(crate) fn plan(dir: &Path, nodes: usize, groups: usize, segment_bytes: usize) -> Self {
        let ports = free_ports(2 * nodes);
        let peers: Vec<String> =
            (0..nodes).map(|at| format!("{}=127.0.0.1:{}", at + 1, ports[at])).collect();
        let nodes = (0..nodes)
            .map(|at| {
                let client = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[nodes + at]));
                let home = dir.join(format!("n{}", at + 1));
                let flags = [
                    ("--id", (at + 1).to_string()),
                    ("--dir", home.display().to_string()),
                    ("--peers", peers.join(",")),
                    ("--listen", client.to_string()),
                    ("--groups", groups.to_string()),
                    ("--segment-bytes", segment_bytes.to_string()),
                ];
                Node {
                    id: at + 1,
                    dir: home,
                    client,
                    peer: SocketAddr::from((Ipv4Addr::LOCALHOST, ports[at])),
                    streams: streams(dir, at + 1),
                    prefix: Vec::new(),
                    flags: flags
                        .into_iter()
                        .flat_map(|(flag, value)| [flag.into(), value])
                        .collect(),
                    process: None,
                }
            })
            .collect();
        Self { nodes }
    }

    /// Starts all nodes for the first time, and waits until every slot has a leader.
    pub(crate) fn init(&mut self) {
        for node in &mut self.nodes {
            node.start(&["--init"]);
        }
        self.wait_ready();
    }

    /// The clients' addresses of all nodes, running or not.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.client).collect()
    }

    /// Waits until every running node has said where it takes clients, and says that every slot is served.
    pub(crate) fn wait_ready(&mut self) {
        for at in 0..self.nodes.len() {
            if !self.nodes[at].runs() {
                continue;
            }
            let ready = eventually(READY_MAX, || {
                if let Some(status) = self.nodes[at].exited() {
                    panic!("node {} ended with {status}{}", at + 1, self.last_words());
                }
                self.nodes[at].says_ready()
            });
            assert!(ready, "node {} is not ready after {READY_MAX:?}{}", at + 1, self.last_words());
        }
    }

    /// Kills all running nodes, one right after the other.
    pub(crate) fn kill_all(&mut self) {
        for node in &mut self.nodes {
            // All are told before any is waited for.
            if let Some(process) = &mut node.process {
                process.kill().unwrap();
            }
        }
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            node.kill();
        }
    }

    /// Starts the nodes that do not run, on the directories they have.
    pub(crate) fn restart(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.runs()) {
            node.start(&[]);
        }
        self.wait_ready();
    }

    /// The node that leads most groups, by its place in `nodes`, and how many it leads. All must run. Waited for: at a
    /// single look all leaderships may be on their way.
    pub(crate) fn leads_most(&self) -> (usize, u64) {
        let mut most = (0, 0);
        let somebody = eventually(READY_MAX, || {
            let led = self.nodes.iter().map(Node::groups_led).enumerate();
            most = led.max_by_key(|(_, led)| *led).unwrap();
            most.1 > 0
        });
        assert!(somebody, "nobody leads{}", self.last_words());
        most
    }

    /// Sees to it that this node leads something, and gives how much: while it does not, whoever leads most is stopped,
    /// and started again.
    pub(crate) fn make_lead(&mut self, at: usize) -> u64 {
        let start = now();
        loop {
            let led = self.nodes[at].groups_led();
            if led > 0 {
                return led;
            }
            assert!(
                start.elapsed() < READY_MAX,
                "node {} never leads{}",
                at + 1,
                self.last_words()
            );
            let (busiest, _) = self.leads_most();
            if busiest != at {
                self.nodes[busiest].stop();
                self.restart();
            }
        }
    }

    /// A key of every group, found by its range of slots.
    pub(crate) fn key_per_group(&self, prefix: &str) -> Vec<String> {
        let node = self.nodes.iter().find(|node| node.runs()).expect("no node runs");
        let slots = node.connect().call(&["CLUSTER", "SLOTS"]);
        let ranges = slots.items().iter().map(|range| match range.items() {
            [Reply::Integer(first), Reply::Integer(last), ..] => *first..=*last,
            other => panic!("CLUSTER SLOTS: {other:?}"),
        });
        let key_in = |range: std::ops::RangeInclusive<i64>| {
            (0..)
                .map(|number| format!("{prefix}{number}"))
                .find(|key| range.contains(&i64::from(slot_of(key.as_bytes()))))
                .unwrap()
        };
        ranges.map(key_in).collect()
    }

    /// Writes once to the group of every key; each must take it in time, and give it back.
    pub(crate) fn write_to_all(&self, keys: &[String], value: &str, within: Duration) {
        let mut client = Client::new(&self.addresses());
        for key in keys {
            let outcome = client.put(key, value.as_bytes(), within);
            assert_eq!(outcome, Outcome::Yes, "group of {key}{}", self.last_words());
            let found = client.get(key, within);
            assert_eq!(found, Ok(Some(value.as_bytes().to_vec())), "{key}{}", self.last_words());
        }
    }

    /// The lines that all nodes wrote last, for a panic's message.
    pub(crate) fn last_words(&self) -> String {
        self.nodes
            .iter()
            .map(|node| {
                let text = node.said();
                let skip = text.lines().count().saturating_sub(LAST_LINES);
                let lines: Vec<&str> = text.lines().skip(skip).collect();
                format!("\n-- node {}:\n{}", node.id, lines.join("\n"))
            })
            .collect()
    }

    /// Nobody panicked, in any of the processes there were.
    pub(crate) fn assert_no_panic(&self) {
        for node in &self.nodes {
            let said = node.said();
            assert!(!said.contains("panicked"), "node {} panicked:\n{said}", node.id);
        }
    }
}

impl Node {
    /// Starts the process. It is not ready yet.
    pub(crate) fn start(&mut self, more: &[&str]) {
        assert!(!self.runs(), "node {} runs already", self.id);
        let [output, error] = &self.streams;
        let output = File::create(output).unwrap();
        let error = OpenOptions::new().create(true).append(true).open(error).unwrap();
        let mut command = self.command(more);
        self.process =
            Some(Process::spawn(command.stdin(Stdio::piped()).stdout(output).stderr(error)));
    }

    /// The command line that starts it, without its standard streams.
    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut words = self.prefix.iter().map(String::as_str).chain([BINARY]);
        let mut command = Command::new(words.next().expect("one at least"));
        command.args(words).args(["serve", "--exit-with-stdin"]).args(&self.flags).args(more);
        command
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running().id()
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take().expect("the node does not run"));
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_exit(STOP_MAX)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.running());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Closes its standard input, as a dying parent does, and waits until it has stopped.
    pub(crate) fn close_input(&mut self) -> ExitStatus {
        self.process.as_mut().expect("the node does not run").stdin = None;
        self.wait_exit(STOP_MAX)
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the node does not run")
    }

    /// Waits until the process ends by itself.
    pub(crate) fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let mut status = None;
        eventually(within, || {
            status = self.exited();
            status.is_some()
        });
        self.process = None;
        status.unwrap_or_else(|| {
            panic!("node {} still runs after {within:?}:\n{}", self.id, self.said())
        })
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().expect("the node does not run").try_wait().unwrap()
    }

    /// The standard output of the node's last life: the start-up line, once it is there.
    pub(crate) fn printed(&self) -> String {
        text_in(&self.streams[0])
    }

    /// All it wrote to standard error, in all its lives.
    pub(crate) fn said(&self) -> String {
        text_in(&self.streams[1])
    }

    /// Sets the value of a flag in the node's next lives.
    pub(crate) fn set_flag(&mut self, flag: &str, value: &str) {
        match self.flags.iter().position(|word| word == flag) {
            Some(at) => self.flags[at + 1] = value.to_owned(),
            None => self.flags.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    /// Sets the words that the command lines of the node's next lives start with: a program that becomes the node.
    pub(crate) fn run_behind(&mut self, prefix: Vec<String>) {
        self.prefix = prefix;
    }

    /// Where its next life writes its standard streams to.
    pub(crate) fn log_to(&mut self, dir: &Path) {
        self.streams = streams(dir, self.id);
    }

    /// A connection to it, as a client.
    pub(crate) fn connect(&self) -> Connection {
        let node = Connection::open(self.client);
        node.unwrap_or_else(|error| panic!("connect to node {}: {error}\n{}", self.id, self.said()))
    }

    /// The lines of `INFO`.
    pub(crate) fn info(&self) -> BTreeMap<String, String> {
        let text = self.connect().call(&["INFO"]).text();
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// How many groups it leads now.
    pub(crate) fn groups_led(&self) -> u64 {
        let led = self.info().get("groups_led").and_then(|led| led.parse().ok());
        led.expect("INFO has no groups_led")
    }

    /// Whether it answers a client at all, within a second.
    pub(crate) fn answers(&self) -> bool {
        let node = Connection::within(self.client, Duration::from_secs(1));
        node.and_then(|mut node| node.try_call(&["PING"])).is_ok()
    }

    /// True once the node has printed where it takes clients (the flag may leave the port to the node), and says that
    /// every slot is served.
    pub(crate) fn says_ready(&mut self) -> bool {
        let line = self.printed();
        let rest = line.split_once(" clients=").and_then(|(_, rest)| rest.split_once(' '));
        let Some((client, _)) = rest else { return false };
        self.client = client.parse().unwrap();
        let node = Connection::open(self.client);
        let info = node.and_then(|mut node| node.try_call(&["CLUSTER", "INFO"]));
        info.is_ok_and(|info| info.text().contains("cluster_state:ok"))
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// The newest segment of its log that is made whole and ready to be used, by its number.
    pub(crate) fn segment_made(&self) -> u32 {
        let manifest = fs::read(self.dir.join("shard-000/manifest")).unwrap();
        u32::from_le_bytes(manifest[44..48].try_into().unwrap())
    }

    /// The content of the file that keeps what it has met of its peers.
    pub(crate) fn openings(&self) -> Vec<u8> {
        fs::read(self.dir.join("openings")).unwrap()
    }

    /// Its log's segment files, oldest first.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let mut segments: Vec<PathBuf> = fs::read_dir(self.dir.join("shard-000"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        segments.sort();
        segments
    }
}

fn streams(dir: &Path, id: usize) -> [PathBuf; 2] {
    ["out", "log"].map(|stream| dir.join(format!("n{id}.{stream}")))
}

fn text_in(file: &Path) -> String {
    fs::read(file)
        .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Ports on which nobody listens and which no other test run takes before this process ends: this process holds the UDP
/// port of the same number, which no node uses, as the sign that the TCP port is taken. All are below the range from
/// which the kernel takes ports for outgoing connections, so that a node that was down finds its own ports free again.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static TAKEN: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut take = |port: &u16| {
        let address = (Ipv4Addr::LOCALHOST, *port);
        let Ok(sign) = UdpSocket::bind(address) else { return false };
        let is_free = TcpListener::bind(address).is_ok();
        if is_free {
            taken.push(sign);
        }
        is_free
    };
    let ports: Vec<u16> = PORTS.filter(|port| take(port)).take(count).collect();
    assert_eq!(ports.len(), count, "no free ports");
    ports
}

/// `logdrive load` takes ports for servers of its own from 20,000 on.
const PORTS: std::ops::Range<u16> = 10_000..20_000;
/// Generous: a start takes about a second, a restart an election more.
const READY_MAX: Duration = Duration::from_secs(40);
const STOP_MAX: Duration = Duration::from_secs(20);
const LAST_LINES: usize = 12;
