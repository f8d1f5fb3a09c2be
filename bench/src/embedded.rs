//! The embedded run: three nodes in three processes, proposals made in process, closed loop.
//!
//! In:     a [`Shape`]: groups, command size, commands outstanding over all groups, duration.
//! Out:    a [`Report`]: commands committed, synced and applied per second, and their latency.
//! Cost:   one process per node, started from this very program; a directory that is removed.
//! Fails:  a node that does not come up, or an outcome that is an error, ends the run with it.
//! Source: dragonboat's published bench (48 groups, 16 B), for comparison.

use bytes::Bytes;
use hdrhistogram::Histogram;
use logdrive::{
    Bootstrap, Committed, Completions, Config, Founding, Group, GroupId, MachineError, Node,
    NodeId, Outcome, Replies, StateMachine,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The settings of a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Shape {
    /// Nodes, one process each.
    pub nodes: u64,
    /// Groups, led in turn by each node.
    pub groups: u64,
    /// Bytes of one command.
    pub command_bytes: usize,
    /// Commands outstanding over all groups, at least one per group.
    pub outstanding: u64,
    /// Seconds measured, after a fifth as much of warming up.
    pub seconds: f64,
}

/// The results of a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// The settings of the run.
    pub shape: Shape,
    /// Commands answered per second, over all nodes.
    pub per_second: f64,
    /// Median latency, µs.
    pub p50_us: f64,
    /// 99th percentile, µs.
    pub p99_us: f64,
    /// Largest, µs.
    pub max_us: f64,
    /// Of each node the stages: name, mean µs, p50 µs, p99 µs.
    pub stages: Vec<Vec<(String, f64, f64, f64)>>,
    /// How the log reached the disk.
    pub disk_driver: String,
}

/// The results that one node's process prints when it is done.
#[derive(Debug, Deserialize, Serialize)]
struct Part {
    answered: u64,
    seconds: f64,
    latencies: Vec<(u64, u64)>,
    stages: Vec<(String, f64, f64, f64)>,
    disk_driver: String,
}

/// The work of one node's process, as its argument states it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Job {
    shape: Shape,
    dir: PathBuf,
    node: u64,
    peers: BTreeMap<u64, String>,
}

/// Runs `shape` in `dir` (a fresh directory in it, removed afterwards). This program must call
/// [`node`] with the last argument when its first argument is `node`.
///
/// # Errors
/// The failure, in words.
pub fn run(shape: &Shape, dir: &Path) -> Result<Report, String> {
    let home = tempfile::Builder::new()
        .prefix("logdrive-embedded-")
        .tempdir_in(dir)
        .map_err(|error| format!("no directory in {}: {error}", dir.display()))?;
    let peers: BTreeMap<u64, String> = (1..=shape.nodes)
        .map(|node| free_port().map(|port| (node, format!("127.0.0.1:{port}"))))
        .collect::<Result<_, _>>()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut children = Vec::new();
    for node in 1..=shape.nodes {
        let dir = home.path().join(format!("n{node}"));
        let job = Job { shape: shape.clone(), dir, node, peers: peers.clone() };
        let child = Command::new(&program)
            .arg("node")
            .arg(serde_json::to_string(&job).map_err(|error| error.to_string())?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start a node: {error}"))?;
        children.push(Killed(child));
    }
    let mut outputs: Vec<_> = children
        .iter_mut()
        .map(|child| BufReader::new(child.0.stdout.take().expect("piped")).lines())
        .collect();
    let mut next = |node: usize| -> Result<String, String> {
        let line = outputs[node].next().ok_or(format!("node {} ended early", node + 1))?;
        line.map_err(|error| error.to_string())
    };
    for node in 0..children.len() {
        let line = next(node)?;
        if line != "ready" {
            return Err(format!("node {} is not ready: {line}", node + 1));
        }
    }
    for child in &mut children {
        let stdin = child.0.stdin.as_mut().expect("piped");
        writeln!(stdin, "go").map_err(|error| error.to_string())?;
    }
    let mut per_second = 0.0;
    let mut all = histogram();
    let mut stages = Vec::new();
    let mut disk_driver = String::new();
    for node in 0..children.len() {
        let line = next(node)?;
        let part: Part =
            serde_json::from_str(&line).map_err(|_| format!("node {} failed: {line}", node + 1))?;
        per_second += part.answered as f64 / part.seconds;
        for (value, count) in part.latencies {
            all.saturating_record_n(value, count);
        }
        stages.push(part.stages);
        disk_driver = part.disk_driver;
    }
    let us = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Report {
        shape: shape.clone(),
        per_second,
        p50_us: us(0.5),
        p99_us: us(0.99),
        max_us: all.max() as f64 / 1e3,
        stages,
        disk_driver,
    })
}

/// Runs one node's process; `job` is what [`run`] gave it.
///
/// # Errors
/// The failure, in words.
pub fn node(job: &str) -> Result<(), String> {
    let job: Job = serde_json::from_str(job).map_err(|error| error.to_string())?;
    let shape = &job.shape;
    let me = NodeId(job.node);
    let settings = BTreeMap::new();
    let founding = Founding { cluster: "embedded".to_owned(), node: me, shards: 1, settings };
    Node::init(&job.dir, founding).map_err(|error| error.to_string())?;
    let peers = job.peers.iter().map(|(node, at)| (NodeId(*node), at.clone())).collect();
    let node = Node::open(Config::new(&job.dir, peers)).map_err(|error| error.to_string())?;
    let members: Vec<NodeId> = job.peers.keys().copied().map(NodeId).collect();
    let mut groups = Vec::new();
    for group in 0..shape.groups {
        let first = NodeId(group % shape.nodes + 1);
        let bootstrap = Bootstrap::New { members: members.clone(), first_leader: Some(first) };
        let group = node
            .create(GroupId(group), bootstrap, Box::new(Counting))
            .map_err(|error| error.to_string())?;
        groups.push(group);
    }
    let patience = Instant::now() + Duration::from_secs(60);
    while groups.iter().any(|group| group.leader().is_none()) {
        if Instant::now() > patience {
            return Err("a group has no leader after 60 s".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("ready");
    let mut go = String::new();
    std::io::stdin().read_line(&mut go).map_err(|error| error.to_string())?;
    let led: Vec<Group> = groups.into_iter().filter(Group::is_leader).collect();
    let load = Arc::new_cyclic(|me| Load::new(me.clone(), led, shape));
    let starting = load.clone();
    node.spawn_on(0, async move || starting.start()).map_err(|error| error.to_string())?;
    std::thread::sleep(Duration::from_secs_f64(shape.seconds / 5.0));
    node.reset_stages();
    let began = Instant::now();
    load.state.lock().expect("no panic under this lock").measure();
    std::thread::sleep(Duration::from_secs_f64(shape.seconds));
    let seconds = began.elapsed().as_secs_f64();
    let (answered, latencies) = {
        let mut state = load.state.lock().expect("no panic under this lock");
        state.measuring = false;
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        let recorded = state.latency.iter_recorded();
        let latencies = recorded.map(|v| (v.value_iterated_to(), v.count_at_value())).collect();
        (state.latency.len(), latencies)
    };
    let stages = node.stages().into_iter();
    let stages = stages.map(|s| (s.name.to_owned(), s.mean_us, s.p50_us, s.p99_us)).collect();
    let disk_driver = node.describe().disk_driver.to_owned();
    let part = Part { answered, seconds, latencies, stages, disk_driver };
    println!("{}", serde_json::to_string(&part).map_err(|error| error.to_string())?);
    load.stopping.store(true, Ordering::Relaxed);
    // Waits until the parent has heard from every node: one that stopped earlier would take the others' quorum.
    let _ = std::io::stdin().read_line(&mut go);
    node.close().map_err(|error| error.to_string())
}

/// A machine that does nothing, so that the engine is what is measured.
struct Counting;

impl StateMachine for Counting {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        batch.commands().for_each(|_| replies.push(Bytes::new()));
        Ok(())
    }
}

/// A fixed number of commands outstanding per group: each answer is followed by the next command.
struct Load {
    me: Weak<Self>,
    groups: Vec<Group>,
    per_group: u64,
    command: Bytes,
    state: Mutex<State>,
    stopping: AtomicBool,
}

struct State {
    /// When each outstanding command was submitted, ns, by token.
    submitted: Vec<u64>,
    began: Instant,
    latency: Histogram<u64>,
    measuring: bool,
    error: Option<String>,
}

impl State {
    fn measure(&mut self) {
        self.latency.reset();
        self.measuring = true;
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Load {
    fn new(me: Weak<Self>, groups: Vec<Group>, shape: &Shape) -> Self {
        let per_group = (shape.outstanding / shape.groups).max(1);
        let outstanding = usize::try_from(per_group).expect("fits") * groups.len();
        Self {
            me,
            groups,
            per_group,
            command: Bytes::from(vec![0x5a; shape.command_bytes]),
            state: Mutex::new(State {
                submitted: vec![0; outstanding],
                began: Instant::now(),
                latency: histogram(),
                measuring: false,
                error: None,
            }),
            stopping: AtomicBool::new(false),
        }
    }

    fn start(&self) {
        let tokens = (self.groups.len() as u64) * self.per_group;
        for token in 0..tokens {
            self.submit(token);
        }
    }

    fn submit(&self, token: u64) {
        let sink: Arc<dyn Completions> = self.me.upgrade().expect("alive while it is called");
        let group = usize::try_from(token / self.per_group).expect("below the number of groups");
        if let Err(error) = self.groups[group].submit(&sink, token, self.command.clone()) {
            self.state.lock().expect("no panic under this lock").error = Some(error.to_string());
        }
    }
}

impl Completions for Load {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        {
            let mut guard = self.state.lock().expect("no panic under this lock");
            let state = &mut *guard;
            let now = state.now();
            for (token, outcome) in outcomes.iter() {
                let submitted = &mut state.submitted[usize::try_from(*token).expect("a position")];
                match outcome {
                    Ok(_) if state.measuring => state.latency.saturating_record(now - *submitted),
                    Ok(_) => {}
                    Err(error) => state.error = Some(error.to_string()),
                }
                *submitted = now;
            }
        }
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        for (token, _) in outcomes.drain(..) {
            self.submit(token);
        }
    }
}

/// A child that does not outlive the run.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("constant bounds are valid")
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}
