//! `logdrive serve`: one node of a sharded key-value database that embeds the engine and speaks RESP.
//!
//! In:     flags and a file ([`options`]); clients ([`listener`], [`connection`], [`commands`]); signals.
//! Out:    one line on standard output once clients are served; their replies; an error, or nothing.
//! Cost:   two threads beside the engine's: the main one waits for a signal, ctrlc's delivers it.
//! Fails:  [`ServeError`], one line; nothing is touched before the options make sense and both addresses are free, and
//!         clients are served only once every group of this node runs.
//!
//! A request's way: `listener` -> `connection` reads it -> `commands` encodes it -> `slots` finds its group -> the
//! engine -> `machine` applies it -> `connection` answers. `cluster` tells clients where else to go, `info` how it is.

mod cluster;
mod commands;
mod connection;
mod info;
mod listener;
mod machine;
mod options;
mod slots;

pub(crate) use options::{Args, OptionsError, host_port};

use cluster::Cluster;
use logdrive::{Bootstrap, Config, Founding, Group, GroupError, Node, NodeError, OpenError};
use machine::KeyValue;
use options::Options;
use slots::{Placement, group_id};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a node did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ServeError {
    /// The settings make no sense, or not for this directory.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The node's directory, log or peer address cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No node was made there. Making one unasked could replace one that has voted.
    #[error("{0} is missing or empty: --init makes a new node there")]
    NoNode(String),
    /// There is one already.
    #[error("{0} holds a node already: start it without --init")]
    NodeExists(String),
    /// The node made its directory and then could not be opened: what is wrong is not in the directory.
    #[error("{source}; {dir} is made already: start it without --init then")]
    Made {
        /// The directory.
        dir: String,
        /// Why it could not be opened.
        source: OpenError,
    },
    /// An address cannot be listened on.
    #[error("{whose} address {address}: {source}")]
    Listen {
        /// Who would connect there.
        whose: &'static str,
        /// As it was given.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A group does not run.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The node stopped by itself.
    #[error("the node stopped: {0}")]
    Node(#[from] NodeError),
    /// The operating system refused something.
    #[error("{what}: {why}")]
    Os {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        why: String,
    },
}

/// What all connections share.
struct Server {
    node: Node,
    cluster: Cluster,
    clients: Arc<AtomicUsize>,
    clients_max: usize,
    /// What all connections hold of requests that are not complete, and may.
    input_bytes: Arc<AtomicUsize>,
    input_bytes_max: usize,
    client_ids: AtomicU64,
    client_port: u16,
    started: Instant,
}

impl Server {
    fn next_client_id(&self) -> u64 {
        self.client_ids.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Runs one node until it is told to stop.
///
/// # Errors
/// [`ServeError`]: it did not start, or could not go on.
pub(crate) fn run(args: Args) -> Result<(), ServeError> {
    let options = Options::new(args)?;
    let stops = stops(options.exit_with_stdin)?;
    log_to_stderr();
    raise_descriptor_limit(options.clients_max);

    // Before the directory is made: with an address in use the same command must be possible again.
    let (listener, local) = listen(&options.listen)?;
    let advertise = advertise(&options, local)?;
    let founding = found(&options)?;
    let placement = options.check(&founding)?;
    let node = Node::open(config(&options, &advertise)).map_err(|source| {
        // Never removed: a directory that may have been a node, in whoever's hands, is not ours to judge.
        let dir = || options.dir.display().to_string();
        if options.init { ServeError::Made { dir: dir(), source } } else { source.into() }
    })?;

    let served = serve(&options, &node, placement, listener, local, advertise, &stops);
    let closed = node.close();
    served?;
    Ok(closed?)
}

/// Makes the directory if that is asked for, and reads what it was made with.
fn found(options: &Options) -> Result<Founding, ServeError> {
    let dir = || options.dir.display().to_string();
    if options.init {
        if Node::founding(&options.dir).is_ok() {
            return Err(ServeError::NodeExists(dir()));
        }
        let founding = options.founding()?;
        // The node listens there itself; this only asks whether it could.
        let peers = &options.peers[&founding.node];
        bind(peers).map_err(|source| not_listening(PEERS, peers, source))?;
        Node::init(&options.dir, founding)?;
    } else {
        match std::fs::read_dir(&options.dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => return Err(ServeError::NoNode(dir())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ServeError::NoNode(dir()));
            }
            _ => {}
        }
    }
    Ok(Node::founding(&options.dir)?)
}

fn serve(
    options: &Options,
    node: &Node,
    placement: Placement,
    listener: TcpListener,
    local: SocketAddr,
    advertise: String,
    stops: &Receiver<Stop>,
) -> Result<(), ServeError> {
    let groups = start_groups(node, &placement)?;
    let about = node.describe();
    let nodes = placement.nodes().len();
    let (name, here) = (about.cluster.as_str(), groups.iter().flatten().count());
    let cluster =
        Cluster::new(node.clone(), name, placement, groups, &options.peers, advertise.clone());
    #[expect(clippy::disallowed_methods, reason = "uptime, told to people")]
    let started = Instant::now();
    let server = Arc::new(Server {
        node: node.clone(),
        cluster,
        clients: Arc::default(),
        clients_max: options.clients_max,
        input_bytes: Arc::default(),
        input_bytes_max: connection::INPUT_BYTES_MAX,
        client_ids: AtomicU64::new(0),
        client_port: local.port(),
        started,
    });
    listener::start(listener, &server)?;

    let yes = |flag: bool| if flag { "yes" } else { "no" };
    let line = format!(
        "logdrive {VERSION} node {}/{nodes} cluster={name} shards={} groups={here} disk={} direct_io={} \
         registered={} clients={advertise} peers={}\n",
        about.node,
        about.shards,
        about.disk_driver,
        yes(about.direct_io),
        yes(about.registered),
        options.peers[&about.node],
    );
    // Whoever started this may have closed its end; that is no reason to stop.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    drop(stdout);
    wait(node, stops)
}

/// Creates this node's groups, or resumes those the log holds; a crash in between left some of each. One that is
/// fenced is left to its other members: clients are sent there.
fn start_groups(node: &Node, placement: &Placement) -> Result<Vec<Option<Group>>, ServeError> {
    let recovered: BTreeSet<_> = node.recovered().into_iter().collect();
    let fenced = node.fenced();
    for (group, corrupt) in fenced.iter().take(FENCED_NAMED_MAX) {
        tracing::error!(group = group.get(), %corrupt, "this group is fenced here; its other members serve it");
    }
    if let Some(more) = fenced.len().checked_sub(FENCED_NAMED_MAX).filter(|more| *more > 0) {
        tracing::error!(more, "further groups are fenced here");
    }
    let mut groups = Vec::with_capacity(usize::from(placement.groups()));
    for number in 0..placement.groups() {
        let members = placement.members(number);
        if !members.contains(&node.id()) {
            groups.push(None);
            continue;
        }
        let id = group_id(number);
        if fenced.binary_search_by_key(&id, |(group, _)| *group).is_ok() {
            groups.push(None);
            continue;
        }
        let machine = Box::new(KeyValue::default());
        let group = if recovered.contains(&id) {
            node.resume(id, machine)?
        } else {
            let first_leader = Some(placement.first_leader(number));
            node.create(id, Bootstrap::Founding { members, first_leader }, machine)?
        };
        groups.push(Some(group));
    }
    Ok(groups)
}

fn config(options: &Options, advertise: &str) -> Config {
    let mut config = Config::new(&options.dir, options.peers.clone());
    config.client_address = advertise.to_owned();
    config.election_timeout = options.election_timeout;
    config.heartbeat = options.heartbeat;
    config.stall_fatal = Some(options.stall_fatal);
    config.tick = config.tick.min(options.heartbeat);
    config.driver = options.driver;
    config.cores.clone_from(&options.cores);
    config.log_bytes_max = options.log_quota;
    if let Some(bytes) = options.segment_bytes {
        config.segment_bytes = bytes;
    }
    config
}

fn listen(address: &str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let listen = || {
        let socket = bind(address)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    listen().map_err(|source| not_listening(CLIENTS, address, source))
}

/// A socket at the first of the address' meanings that can be had. Fails where somebody listens.
fn bind(address: &str) -> std::io::Result<socket2::Socket> {
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    for place in address.to_socket_addrs()? {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(place),
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )?;
        // A restart must not wait for the last run's connections to be forgotten.
        socket.set_reuse_address(true)?;
        match socket.bind(&place.into()) {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn not_listening(whose: &'static str, address: &str, source: std::io::Error) -> ServeError {
    ServeError::Listen { whose, address: address.to_owned(), source }
}

/// Where clients are sent: as told, else where this node listens.
fn advertise(options: &Options, local: SocketAddr) -> Result<String, ServeError> {
    if let Some(address) = &options.advertise {
        return Ok(address.clone());
    }
    if local.ip().is_unspecified() {
        let why = "no client can be sent there: --advertise HOST:PORT is needed";
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, why);
        return Err(not_listening(CLIENTS, &options.listen, source));
    }
    match host_port(&options.listen) {
        Some((host, _)) if host.contains(':') => Ok(format!("[{host}]:{}", local.port())),
        Some((host, _)) => Ok(format!("{host}:{}", local.port())),
        None => Ok(local.to_string()),
    }
}

/// Reasons to stop that are no failure.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Signal,
    StdinEnded,
}

fn stops(with_stdin: bool) -> Result<Receiver<Stop>, ServeError> {
    let (sender, receiver) = sync_channel(4);
    let on_signal = sender.clone();
    ctrlc::set_handler(move || {
        // A second signal means that stopping takes too long for whoever sent it.
        if SIGNALS.fetch_add(1, Ordering::Relaxed) > 0 {
            process::exit(130);
        }
        let _ = on_signal.try_send(Stop::Signal);
    })
    .map_err(|error| ServeError::Os { what: "signal handler", why: error.to_string() })?;
    if with_stdin {
        watch_parent(sender)?;
    }
    Ok(receiver)
}

/// Two ways to learn that the parent is gone: its end of our standard input closes, and the kernel tells.
fn watch_parent(sender: SyncSender<Stop>) -> Result<(), ServeError> {
    let os = |what, why: String| ServeError::Os { what, why };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|error| os("parent death signal", error.to_string()))?;
    let watch = move || {
        let mut bytes = [0; 256];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = sender.try_send(Stop::StdinEnded);
    };
    thread::Builder::new()
        .name("stdin-watch".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(|error| os("thread", error.to_string()))
}

/// Blocks until there is a reason to stop, and looks now and then whether the node stopped by itself.
fn wait(node: &Node, stops: &Receiver<Stop>) -> Result<(), ServeError> {
    loop {
        match stops.recv_timeout(FAILURE_LOOK) {
            Ok(stop) => {
                tracing::info!(?stop, "stopping");
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(error) = node.failure(Duration::ZERO) {
                    return Err(error.into());
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the signal handler keeps a sender")
            }
        }
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LOGDRIVE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // They would go to the same standard error with a macro that panics where it is broken.
        .log_internal_errors(false);
    // Fails only where a subscriber is set already, and then that one is wanted.
    let _ = subscriber.try_init();
}

/// Every client is a descriptor; shells give a process 1,024.
fn raise_descriptor_limit(clients_max: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = clients_max as u64 + DESCRIPTORS_BESIDE_CLIENTS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // Where it is refused, accepting waits for clients to leave.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    }
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

const CLIENTS: &str = "clients'";
const PEERS: &str = "peers'";
/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1_024;
/// Fenced groups that get a line each.
const FENCED_NAMED_MAX: usize = 16;
/// A failed node has answered its clients already; how much later the process ends matters little.
const FAILURE_LOOK: Duration = Duration::from_millis(250);
/// Segments, peers, rings.
const DESCRIPTORS_BESIDE_CLIENTS: u64 = 1_024;
