//! `logdrive load`: what a cluster can do, without coordinated omission.
//!
//! In:     a pace (a rate, or a number outstanding), a shape of data, and a cluster: one that runs, or, without
//!         `--endpoints`, one started for the run on this machine.
//! Out:    a table, and JSON and `.hgrm` files if asked for.
//! Cost:   one thread; about a microsecond of it per write, since the servers usually share the machine.
//! Fails:  errors of writes are results, counted by kind. A cluster that does not come up, or a server that dies, is a
//!         [`LoadError`]. However a run ends, the servers that it started are stopped and the files that it made for
//!         them are removed.

mod cluster;
mod connection;
mod recorder;
mod report;
mod run;
mod schedule;
mod target;
mod workload;

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use rustix::thread::{CpuSet, sched_getaffinity};

use cluster::{Cluster, ClusterError};
use report::{Facts, Report};
use run::{Generator, Pace, Plan, RunError, Watch};
use target::{Endpoint, NodeInfo, SlotMap, TargetError};
use workload::{COMMAND_BYTES_BESIDE, SLOTS, VALUE_BYTES_MAX, Workload};

use crate::signals::Signals;
use crate::time::Time;

/// Measure write throughput and latency.
///
/// Without --endpoints, three servers are started on loopback, with their data in a temporary directory inside the
/// working directory (which should be on a real disk), and stopped and removed at the end.
///
/// Exits with 0 if the run came to its end and any write was acknowledged: refused and lost writes are results, listed
/// by kind. With 1 if none was, if the cluster did not come up or a server died, and when interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Servers to start.
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=9))]
    nodes: usize,
    /// Raft groups to make on them.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=SLOTS as i64))]
    groups: u32,
    /// Drive a running cluster instead: nodes to learn it from.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…", conflicts_with_all = ["nodes", "groups"])]
    endpoints: Vec<String>,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = RangedU64ValueParser::<usize>::new().range(0..=VALUE_BYTES_MAX as u64))]
    value_size: usize,
    /// Distinct keys, chosen uniformly.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    keys: u32,
    /// Open loop: this many writes per second, on a fixed schedule; latency counts from the intended start.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "concurrency", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Closed loop: this many writes outstanding over all. This is the default, with 1,000.
    #[arg(long, value_name = "COUNT", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    concurrency: Option<usize>,
    /// How long to measure.
    #[arg(long, default_value = "20s")]
    duration: Time,
    /// How long to run before measuring.
    #[arg(long, default_value = "5s")]
    warmup: Time,
    /// A write without an answer after this long is an error.
    #[arg(long, default_value = "10s")]
    timeout: Time,
    /// Connections to each node.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    connections: usize,
    /// Gather an open loop's sends for this long. Half of it is added to the median; each halving of it costs the
    /// machine more wake-ups.
    #[arg(long, hide = true, default_value = "200us")]
    pacing: Time,
    /// Let the system move the servers it starts between cores; else one stays on each core, and only further ones
    /// and the generator go where there is room.
    #[arg(long)]
    no_pin: bool,
    /// Chooses keys and values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the latency distribution for HdrHistogram's plotter.
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
}

/// Why a run has no result, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("{0}")]
    Run(#[from] RunError),
    #[error("endpoints: '{0}' is not HOST:PORT")]
    Endpoint(String),
    #[error("the cluster serves only {covered} of its {SLOTS} slots; a load needs all of them")]
    Uncovered { covered: usize },
    #[error("value-size: this cluster takes values of at most {max} bytes")]
    Value { max: usize },
    #[error("{key}: must be more than no time at all")]
    Nothing { key: &'static str },
    #[error("json and hgrm name the same file: one would replace the other")]
    OneFile,
    #[error("cannot write {file}: {error}")]
    File { file: PathBuf, error: io::Error },
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("interrupted")]
    Interrupted,
}

/// Runs one load to its end.
pub(crate) fn run(args: Args) -> Result<(), LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(session(args));
    // The runtime does not wait for a name that is still being looked up.
    runtime.shutdown_background();
    ended
}

async fn session(args: Args) -> Result<(), LoadError> {
    // The signals are set up first of all, so that from here on a signal ends the run in order.
    let mut signals = Signals::new()?;
    let mut stop = tokio::spawn(async move { signals.wait().await });
    for (key, time) in [("duration", args.duration), ("timeout", args.timeout)] {
        if time.0.is_zero() {
            return Err(LoadError::Nothing { key });
        }
    }
    if args.json.is_some() && args.json == args.hgrm {
        return Err(LoadError::OneFile);
    }
    // The files are opened before the run, so that a bad path costs no run.
    let json = args.json.clone().map(Output::open).transpose()?;
    let hgrm = args.hgrm.clone().map(Output::open).transpose()?;

    let mut cluster = if args.endpoints.is_empty() { Some(start(&args)?) } else { None };
    let map = tokio::select! {
        biased;
        _ = &mut stop => return Err(LoadError::Interrupted),
        map = connect(&args, cluster.as_mut()) => map?,
    };
    let pace = match (args.rate, args.concurrency) {
        (Some(rate_per_s), _) => Pace::Open { rate_per_s },
        (None, concurrency) => {
            Pace::Closed { concurrency: concurrency.unwrap_or(CONCURRENCY_DEFAULT) }
        }
    };
    let nodes = map.nodes.clone();
    let live = io::stderr().is_terminal();
    let plan = Plan {
        pace,
        warmup: args.warmup.0,
        duration: args.duration.0,
        timeout: args.timeout.0,
        connections_per_node: args.connections,
        pacing: args.pacing.0,
        live,
    };
    let workload = Workload::new(args.keys, args.value_size, args.seed);
    say(format_args!("warming up for {}, then measuring for {}", args.warmup, args.duration));
    let mut generator = Generator::new(plan, workload, map);
    let mut watch = Screen { cluster: cluster.as_mut(), live };
    let mut ended = tokio::select! {
        biased;
        _ = &mut stop => Err(LoadError::Interrupted),
        ended = generator.run(&mut watch) => ended.map_err(LoadError::from),
    };
    generator.finish();
    if live {
        let _ = write!(io::stderr(), "{CLEAR_LINE}");
    }
    let infos = if ended.is_ok() { ask_all(&nodes).await } else { Vec::new() };

    let facts = Facts {
        pace,
        warmup_s: args.warmup.0.as_secs_f64(),
        keys: args.keys,
        value_bytes: args.value_size,
        seed: args.seed,
        nodes: nodes.len(),
        groups: cluster.as_ref().map(|_| u64::from(args.groups)),
        infos: &infos,
        cpu_used_ns: generator.cpu_used_ns,
        interrupted: ended.is_err(),
    };
    let report = Report::new(&generator.recorder, &facts);
    if generator.recorder.sent > 0 {
        let mut out = io::stdout().lock();
        let text = format!("{}\n{}\n", report.text(), report.waterfall(&infos));
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader of the output that went away is not an error of the run; a full disk is.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe && ended.is_ok() => {
                ended = Err(LoadError::File { file: "standard output".into(), error });
            }
            _ => {}
        }
    }
    if let Some(text) = &generator.first_other {
        say(format_args!("warning: an error reply was: {text}"));
    }
    for (node, error) in generator.unreached() {
        say(format_args!("warning: no connection to {node}: {error}"));
    }
    if let Some(warning) = report.warning() {
        say(format_args!("warning: {warning}"));
    }
    if ended.is_ok() && generator.recorder.acknowledged == 0 {
        ended = Err(RunError::Server("no write was acknowledged".to_owned()).into());
    }
    if let Some(output) = json {
        output.fill(|file| file.write_all(report.json().as_bytes()))?;
    }
    if let Some(output) = hgrm {
        output.fill(|file| report::write_hgrm(&generator.recorder.response, file))?;
    }
    ended
}

fn start(args: &Args) -> Result<Cluster, LoadError> {
    if cfg!(debug_assertions) {
        say("warning: this is a debug build; its figures mean nothing");
    }
    let place = std::env::current_dir()?;
    let cores = if args.no_pin { Vec::new() } else { cores() };
    let cluster =
        Cluster::start(&std::env::current_exe()?, args.nodes, args.groups, &cores, &place)?;
    let (kind, in_memory) = cluster::file_system(cluster.directory());
    let place = cluster.directory().display();
    let Args { nodes, groups, .. } = args;
    say(format_args!("{nodes} servers with {groups} groups, data in {place} ({kind})"));
    if in_memory {
        say(format_args!(
            "warning: {kind} is memory: nothing is durable there, and the figures are not a disk's"
        ));
    }
    Ok(cluster)
}

/// The cores that this process may use; none if there is no choice.
fn cores() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    if cores.len() < 2 { Vec::new() } else { cores }
}

async fn connect(args: &Args, cluster: Option<&mut Cluster>) -> Result<SlotMap, LoadError> {
    let endpoints = match cluster {
        Some(cluster) => {
            cluster.ready(READY_MAX).await?;
            cluster.endpoints()
        }
        None => {
            let parse = |text: &String| {
                Endpoint::parse(text).ok_or_else(|| LoadError::Endpoint(text.clone()))
            };
            args.endpoints.iter().map(parse).collect::<Result<_, _>>()?
        }
    };
    let map = target::fetch_slots(&endpoints, 0).await?;
    for node in &map.nodes {
        node.resolve().await?;
    }
    if let covered @ 0..SLOTS = map.covered() {
        return Err(LoadError::Uncovered { covered });
    }
    match command_bytes_max(&map).await {
        Some(max) if args.value_size + COMMAND_BYTES_BESIDE > max => {
            Err(LoadError::Value { max: max.saturating_sub(COMMAND_BYTES_BESIDE) })
        }
        _ => Ok(map),
    }
}

/// The largest command that the cluster takes, if the cluster's first node says so in time.
async fn command_bytes_max(map: &SlotMap) -> Option<usize> {
    let info = tokio::time::timeout(ASK_MAX, target::fetch_info(map.nodes.first()?)).await;
    info.ok()?.ok()?.field("command_bytes_max").parse().ok()
}

/// The answer of each node to `INFO`; an empty one for a node that does not answer.
async fn ask_all(nodes: &[Endpoint]) -> Vec<NodeInfo> {
    let mut infos = Vec::new();
    for node in nodes {
        infos.push(target::fetch_info(node).await.unwrap_or_default());
    }
    infos
}

/// The terminal, and the servers this run started.
struct Screen<'a> {
    cluster: Option<&'a mut Cluster>,
    live: bool,
}

impl Watch for Screen<'_> {
    fn status(&mut self, seconds: u64, line: &str) {
        if self.live {
            let _ = write!(io::stderr(), "{CLEAR_LINE}{seconds:>4} s {line}");
        }
    }

    fn check(&mut self) -> Result<(), String> {
        self.cluster
            .as_mut()
            .map_or(Ok(()), |cluster| cluster.check().map_err(|error| error.to_string()))
    }
}

/// Writes a line to standard error. A broken standard error is no reason to lose the results, so its errors are
/// ignored.
fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A file for results, known to be writable. The old contents of a file stay until there are new results; a file that
/// was made for the run and got no results is removed.
struct Output {
    path: PathBuf,
    file: File,
    made: bool,
}

impl Output {
    fn open(path: PathBuf) -> Result<Self, LoadError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        match options.clone().create_new(true).open(&path) {
            Ok(file) => Ok(Self { path, file, made: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match options.open(&path) {
                    Ok(file) => Ok(Self { path, file, made: false }),
                    Err(error) => Err(LoadError::File { file: path, error }),
                }
            }
            Err(error) => Err(LoadError::File { file: path, error }),
        }
    }

    fn fill(
        mut self,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), LoadError> {
        self.made = false;
        let fill = || {
            // Pipes and terminals have no length.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
            let mut file = BufWriter::new(&self.file);
            write(&mut file)?;
            file.flush()
        };
        fill().map_err(|error| LoadError::File { file: self.path.clone(), error })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

const CONCURRENCY_DEFAULT: usize = 1_000;
/// The time in which every server must start and every group elect a leader.
const READY_MAX: Duration = Duration::from_secs(60);
/// The time for a question whose answer is good to know before a run, but without which the run goes on.
const ASK_MAX: Duration = Duration::from_secs(1);
const CLEAR_LINE: &str = "\r\x1b[K";
