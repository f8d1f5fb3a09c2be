//! `logdrive serve`: one node of a sharded key-value database that embeds the engine and speaks RESP.
//!
//! In:     flags and a file ([`options`]); clients ([`listener`], [`connection`], [`commands`]); signals.
//! Out:    one line on standard output once clients are served; their replies; an error, or nothing.
//! Cost:   two threads beside the engine's: one waits for signals, the main one for what it says.
//! Fails:  [`ServeError`], one line; nothing is touched before the options make sense and both addresses are free, and
//!         the clients' port is closed until every group of this node runs: a client that connects before is refused at
//!         once. An address that another process takes meanwhile is an error like any other after the directory is made.
//!
//! A request's way: `listener` -> `connection` reads it -> `commands` encodes it -> `slots` finds its group -> the
//! engine -> `machine` applies it -> `connection` answers. `cluster` tells clients where else to go, `info` how it is, and
//! `ctl` tells operators.

mod cluster;
mod commands;
mod connection;
mod ctl;
mod info;
mod listener;
mod log_output;
mod machine;
mod options;
mod slots;
mod work;

pub(crate) use options::{Args, OptionsError, host_port};

use crate::signals::Signals;
use cluster::{Carried, Cluster};
use ctl::Ctl;
use log_output::LogOutput;
use logdrive::{Bootstrap, Config, Founding, GroupError, Node, NodeError, OpenError, SpawnError};
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
    #[error("{source}. The directory {dir} is made already: start it without --init then")]
    Made {
        /// The directory.
        dir: String,
        /// Why it could not be opened, or its clients not be listened to.
        source: Box<Self>,
    },
    /// An address cannot be listened on.
    #[error("the {whose} address {address} cannot be used: {source}")]
    Listen {
        /// The kind of connections to the address: `clients'` or `peers'`.
        whose: &'static str,
        /// As it was given.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not even one client could be served.
    #[error(
        "the limit of {limit} open files is too low: this node needs {own} for itself; raise it (ulimit -n)"
    )]
    Descriptors {
        /// The process's limit.
        limit: u64,
        /// Descriptors that the log, the peers and the rest of the node may need.
        own: u64,
    },
    /// A group does not run.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The node stopped by itself.
    #[error("the node stopped: {0}")]
    Node(#[from] NodeError),
    /// The node stopped before it served.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The operating system refused something.
    #[error("{what}: {why}")]
    Os {
        /// The request to the system.
        what: &'static str,
        /// The answer.
        why: String,
    },
}

/// The state that all connections share.
struct Server {
    node: Node,
    cluster: Cluster,
    clients: Arc<AtomicUsize>,
    clients_max: usize,
    /// Bytes of incomplete requests that all connections hold, and the most that they may.
    input_bytes: Arc<AtomicUsize>,
    input_bytes_max: usize,
    /// Bytes of replies, over all connections, that clients have not read.
    output_bytes: Arc<AtomicUsize>,
    client_idle_max: Option<Duration>,
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
    let mut log_output = LogOutput::begin()?;

    // Before the directory is made: with an address in use the same command must be possible again. Nobody is listened
    // to yet: a client would wait for as long as the log takes to open.
    let sockets =
        bind(&options.listen).map_err(|source| not_listening(CLIENTS, &options.listen, source))?;
    let local = local_address(&options, &sockets)?;
    let advertise = advertise(&options, local)?;
    let founding = found(&options, &sockets)?;
    let placement = options.check(&founding)?;
    let seats = seats(&options, founding.shards)?;
    let node = Node::open(config(&options, &advertise, &seats))
        .map_err(|source| made(&options, source.into()))?;

    let place = Place { sockets, port: local.port(), advertise };
    let served = serve(&options, &node, placement, place, &seats)
        .and_then(|_ctl| wait(&node, &stops, &mut log_output));
    let closed = node.close();
    served?;
    Ok(closed?)
}

/// The error of a start that failed once the directory was made: after `--init`, the same command fails because the
/// directory is there.
fn made(options: &Options, source: ServeError) -> ServeError {
    if !options.init {
        return source;
    }
    // Never removed: a directory that may have been a node, in whoever's hands, is not ours to judge.
    ServeError::Made { dir: options.dir.display().to_string(), source: Box::new(source) }
}

/// Makes the directory if that is asked for, and reads what it was made with.
fn found(options: &Options, clients: &[socket2::Socket]) -> Result<Founding, ServeError> {
    let dir = || options.dir.display().to_string();
    if options.init {
        if Node::founding(&options.dir).is_ok() {
            return Err(ServeError::NodeExists(dir()));
        }
        let founding = options.founding()?;
        // The node listens there itself; this only asks whether it could.
        let peers = &options.peers[&founding.node];
        let bound = bind(peers).and_then(|peers| match share_a_place(&peers, clients) {
            true => Err(std::io::ErrorKind::AddrInUse.into()),
            false => Ok(()),
        });
        bound.map_err(|source| not_listening(PEERS, peers, source))?;
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

/// Starts the groups, and then listens to clients and to operators.
fn serve(
    options: &Options,
    node: &Node,
    placement: Placement,
    place: Place,
    seats: &Seats,
) -> Result<Option<Ctl>, ServeError> {
    let Place { sockets, port, advertise } = place;
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
        clients_max: seats.clients_max,
        input_bytes: Arc::default(),
        input_bytes_max: connection::INPUT_BYTES_MAX,
        output_bytes: Arc::default(),
        client_idle_max: options.client_idle_max,
        client_ids: AtomicU64::new(0),
        client_port: port,
        started,
    });
    for socket in sockets {
        let listener = listen(socket, options)?;
        listener::start(listener, &server)?;
    }
    let ctl = Ctl::start(&options.dir, &server);

    let yes = |flag: bool| if flag { "yes" } else { "no" };
    let line = format!(
        "logdrive {VERSION} node {}/{nodes} cluster={name} shards={} groups={here} disk={} direct_io={} \
         registered={} clients_max={seats} clients={advertise} peers={}\n",
        about.node,
        about.shards,
        about.disk_driver,
        yes(about.direct_io),
        yes(about.registered),
        options.peers[&about.node],
    );
    // The process that started this one may have closed its end of the pipe; that is no reason to stop.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    Ok(ctl)
}

/// Creates this node's groups, or resumes those the log holds; a crash in between left some of each. One that is
/// fenced is left to its other members: clients are sent there.
fn start_groups(node: &Node, placement: &Placement) -> Result<Vec<Option<Carried>>, ServeError> {
    let recovered: BTreeSet<_> = node.recovered().into_iter().collect();
    let fenced = node.fenced();
    for (group, corrupt) in fenced.iter().take(FENCED_NAMED_MAX) {
        tracing::error!(group = group.get(), %corrupt, "this group is fenced here; its other members serve it");
    }
    if let Some(more) = fenced.len().checked_sub(FENCED_NAMED_MAX).filter(|more| *more > 0) {
        tracing::error!(
            more,
            "further groups are fenced here; `logdrive wal check` names the damage"
        );
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
        let keys = machine.keys();
        let group = if recovered.contains(&id) {
            node.resume(id, machine)?
        } else {
            let first_leader = Some(placement.first_leader(number));
            node.create(id, Bootstrap::New { members, first_leader }, machine)?
        };
        groups.push(Some(Carried { group, keys }));
    }
    Ok(groups)
}

fn config(options: &Options, advertise: &str, seats: &Seats) -> Config {
    let mut config = Config::new(&options.dir, options.peers.clone());
    config.client_address = advertise.to_owned();
    config.election_timeout = options.election_timeout;
    config.heartbeat = options.heartbeat;
    config.stall_fatal = Some(options.stall_fatal);
    config.tick = config.tick.min(options.heartbeat);
    config.driver = options.driver;
    config.cores.clone_from(&options.cores);
    config.log_bytes_max = options.log_quota;
    config.strangers_max = seats.strangers_max;
    if let Some(bytes) = options.segment_bytes {
        config.segment_bytes = bytes;
    }
    config
}

/// Where clients find this node.
struct Place {
    sockets: Vec<socket2::Socket>,
    port: u16,
    advertise: String,
}

/// A socket for each of the address' meanings, of IPv4 and of IPv6, that this machine has; all with the same port. Fails
/// where somebody listens. Nobody listens on these yet.
fn bind(address: &str) -> std::io::Result<Vec<socket2::Socket>> {
    let mut sockets: Vec<socket2::Socket> = Vec::new();
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    let places: BTreeSet<SocketAddr> = address.to_socket_addrs()?.collect();
    let several = places.len() > 1;
    let mut port = 0;
    for mut place in places {
        if place.port() == 0 {
            place.set_port(port);
        }
        let bound = (|| {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(place),
                socket2::Type::STREAM,
                Some(socket2::Protocol::TCP),
            )?;
            // A restart must not wait for the last run's connections to be forgotten.
            socket.set_reuse_address(true)?;
            if several && place.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&place.into())?;
            Ok(socket)
        })();
        match bound {
            Ok(socket) => {
                port = socket.local_addr()?.as_socket().map_or(0, |local| local.port());
                sockets.push(socket);
            }
            // A family that this machine does not have.
            Err(error) if is_no_such_address(&error) => last = error,
            Err(error) if several => {
                return Err(std::io::Error::new(error.kind(), format!("{place}: {error}")));
            }
            Err(error) => return Err(error),
        }
    }
    if sockets.is_empty() { Err(last) } else { Ok(sockets) }
}

/// Begins to listen where [`bind`] has only asked: another process may have begun to meanwhile.
fn listen(socket: socket2::Socket, options: &Options) -> Result<TcpListener, ServeError> {
    let listening = socket.listen(BACKLOG).and_then(|()| socket.set_nonblocking(true));
    match listening {
        Ok(()) => Ok(TcpListener::from(socket)),
        Err(source) => Err(made(options, not_listening(CLIENTS, &options.listen, source))),
    }
}

/// Whether two would listen at one place. The system says so only once one does.
fn share_a_place(some: &[socket2::Socket], others: &[socket2::Socket]) -> bool {
    let places = |sockets: &[socket2::Socket]| -> Vec<SocketAddr> {
        sockets.iter().filter_map(|socket| socket.local_addr().ok()?.as_socket()).collect()
    };
    let others = places(others);
    places(some).iter().any(|a| {
        let is_same = |b: &SocketAddr| {
            a.port() == b.port()
                && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
        };
        others.iter().any(is_same)
    })
}

fn is_no_such_address(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

fn local_address(options: &Options, sockets: &[socket2::Socket]) -> Result<SocketAddr, ServeError> {
    let local = sockets[0].local_addr().and_then(|local| {
        local.as_socket().ok_or_else(|| std::io::ErrorKind::AddrNotAvailable.into())
    });
    local.map_err(|source| not_listening(CLIENTS, &options.listen, source))
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
        let why = "clients cannot be told to come there; add --advertise HOST:PORT";
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
    let os = |why: std::io::Error| ServeError::Os {
        what: "the signals that stop a node cannot be watched",
        why: why.to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(os)?;
    // From here on a signal is an orderly end.
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(os)?
    };
    let on_signal = sender.clone();
    let watch = move || {
        runtime.block_on(async {
            signals.wait().await;
            let _ = on_signal.try_send(Stop::Signal);
            // A second signal means that stopping takes too long for whoever sent it.
            signals.wait().await;
            process::exit(130)
        })
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(os)?;
    if with_stdin {
        watch_parent(sender)?;
    }
    Ok(receiver)
}

/// Two ways to learn that the parent is gone: its end of our standard input closes, and the kernel tells.
fn watch_parent(sender: SyncSender<Stop>) -> Result<(), ServeError> {
    let os = |what, why: String| ServeError::Os { what, why };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM)).map_err(
        |error| os("the death of the parent process cannot be watched", error.to_string()),
    )?;
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
        .map_err(|error| os("a thread cannot be started", error.to_string()))
}

/// Blocks until there is a reason to stop, and looks now and then whether the node stopped by itself.
fn wait(node: &Node, stops: &Receiver<Stop>, log_output: &mut LogOutput) -> Result<(), ServeError> {
    loop {
        log_output.report_lost_lines();
        match stops.recv_timeout(FAILURE_LOOK) {
            Ok(stop) => {
                tracing::info!(?stop, "told to stop: the node closes");
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

/// How many connections there may be, by the limit of open files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seats {
    clients_max: usize,
    /// The number that was asked for.
    clients_wanted: usize,
    /// Connections to the peers' port that have not said who they are.
    strangers_max: usize,
    limit: u64,
}

impl Seats {
    /// Shares out what `limit` descriptors leave once the node has its `own`: to strangers at the peers' port an eighth at
    /// most, the rest to clients. `None` if that is nothing.
    fn new(limit: u64, own: u64, clients_wanted: usize) -> Option<Self> {
        let left = limit.checked_sub(own).filter(|left| *left >= 2)?;
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let strangers_max = (left / 8).clamp(1, STRANGERS_MAX);
        let clients_max = clients_wanted.min(left - strangers_max);
        Some(Self { clients_max, clients_wanted, strangers_max, limit })
    }
}

impl std::fmt::Display for Seats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { clients_max, clients_wanted, limit, .. } = self;
        write!(f, "{clients_max}")?;
        match clients_max < clients_wanted {
            true => write!(f, " clients_wanted={clients_wanted} open_files_max={limit}"),
            false => Ok(()),
        }
    }
}

/// Raises the limit of open files to what the node may need, and says what it leaves to clients. Shells give a process
/// 1,024; every client is one, and the log, which fails the node where it cannot open its next file, must never find
/// that clients have them all.
fn seats(options: &Options, shards: u32) -> Result<Seats, ServeError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (shards, peers) = (u64::from(shards), options.peers.len() as u64 - 1);
    let own = descriptors(shards, peers);
    let wanted = own + STRANGERS_MAX as u64 + options.clients_max as u64;
    let limit = getrlimit(Resource::Nofile);
    let mut now = limit.current;
    if now.is_some_and(|now| now < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).is_ok() {
            now = Some(current);
        }
    }
    let limit = now.unwrap_or(u64::MAX);
    let seats = Seats::new(limit, own, options.clients_max);
    let seats = seats.ok_or(ServeError::Descriptors { limit, own })?;
    if seats.clients_max < seats.clients_wanted {
        let Seats { clients_max, clients_wanted, .. } = seats;
        tracing::warn!(
            clients_max,
            clients_wanted,
            limit,
            "the limit of open files allows fewer clients than asked for; raise it (ulimit -n)"
        );
    }
    Ok(seats)
}

/// Descriptors that a node needs for itself. A peer may have more shards than this node, and says how many only when it
/// connects: it is counted with [`PEER_SHARDS`].
fn descriptors(shards: u64, peers: u64) -> u64 {
    let lanes = shards + shards.max(PEER_SHARDS);
    DESCRIPTORS_OF_NODE + shards * DESCRIPTORS_OF_SHARD + peers * lanes * DESCRIPTORS_OF_LANES
}

const CLIENTS: &str = "clients'";
const PEERS: &str = "peers'";
/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1_024;
/// Fenced groups that get a line each.
const FENCED_NAMED_MAX: usize = 16;
/// A failed node has answered its clients already; how much later the process ends matters little.
const FAILURE_LOOK: Duration = Duration::from_millis(250);
/// Standard streams, listening sockets, signals, the directory and its lock, name look-ups, what `logdrive wal` and
/// operators' tools open in this process' name, the control socket and its connection: some 17, and as many again.
const DESCRIPTORS_OF_NODE: u64 = 32;
/// A ring, a runtime (3), the lock, segments in use, made ahead, being made, read and carried: some 16, and as many again.
const DESCRIPTORS_OF_SHARD: u64 = 32;
/// Of a shard here and each peer, and of a peer's shard and this node: three lanes, and those they replace while both are
/// open.
const DESCRIPTORS_OF_LANES: u64 = 6;
/// Shards that a peer may have beyond those of this node.
const PEER_SHARDS: u64 = 16;
/// Connections to the peers' port that have not said who they are.
const STRANGERS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn clients_have_what_the_limit_leaves_beside_the_log_and_the_peers() {
        for (limit, clients_max, strangers_max, says) in [
            (65, None, 0, ""),
            (66, Some(1), 1, "1 clients_wanted=10000 open_files_max=66"),
            (128, Some(56), 8, "56 clients_wanted=10000 open_files_max=128"),
            (1_024, Some(840), 120, "840 clients_wanted=10000 open_files_max=1024"),
            (20_000, Some(10_000), 128, "10000"),
        ] {
            let seats = Seats::new(limit, 64, 10_000);
            assert_eq!(seats.map(|seats| seats.clients_max), clients_max);
            let Some(seats) = seats else { continue };
            assert_eq!((seats.strangers_max, seats.to_string().as_str()), (strangers_max, says));
            let taken = 64 + seats.clients_max + seats.strangers_max;
            assert!(taken as u64 <= limit, "{taken} of {limit}");
        }
    }

    /// A node of one shard had room for one lane of each peer; a peer of sixteen shards has as many.
    #[test]
    fn a_peer_of_more_shards_than_this_node_finds_its_descriptors() {
        for (shards, peers, peer_shards) in [(1, 2, 16), (4, 4, 16), (32, 2, 32), (1, 0, 0)] {
            let out_and_in = peers * (3 * shards + 3 * peer_shards);
            let own = DESCRIPTORS_OF_NODE + shards * DESCRIPTORS_OF_SHARD;
            assert_eq!(descriptors(shards, peers), own + 2 * out_and_in, "{shards} {peers}");
        }
    }

    /// The system lets two sockets have one address until one of them listens.
    #[test]
    fn an_address_that_is_taken_after_the_directory_is_made_says_that_it_is_made() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        let sockets = bind("127.0.0.1:0").unwrap();
        let place = sockets[0].local_addr().unwrap().as_socket().unwrap().to_string();
        let words = "serve --init --id 1 --dir n1 --peers 1=127.0.0.1:7001 --listen";
        let cli = Cli::parse_from(words.split(' ').chain([&place[..]]));
        let options = Options::new(cli.args).unwrap();
        let _other = TcpListener::bind(&options.listen).unwrap();
        for socket in sockets {
            let said = listen(socket, &options).unwrap_err().to_string();
            assert!(said.contains(&options.listen) && said.contains("in use"), "{said}");
            assert!(said.contains("is made already: start it without --init"), "{said}");
        }
    }

    #[test]
    fn a_name_of_both_families_is_bound_on_both_with_one_port() {
        let sockets = bind("localhost:0").unwrap();
        let ports: BTreeSet<u16> = (sockets.iter())
            .map(|socket| socket.local_addr().unwrap().as_socket().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 1, "{ports:?}");
        let meanings: BTreeSet<_> = "localhost:0".to_socket_addrs().unwrap().collect();
        let here = |place: &SocketAddr| TcpListener::bind(place).is_ok();
        assert_eq!(sockets.len(), meanings.iter().filter(|place| here(place)).count());
    }
}
