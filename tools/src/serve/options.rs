//! The settings of `logdrive serve`: flags over a TOML file over defaults, checked before anything is touched.
//!
//! In:     [`Args`], and the file that `--config` names, with the same keys.
//! Out:    [`Options`]; for `--init` the [`Founding`] they make, else a check against the one that is there.
//! Fails:  [`OptionsError`], one line that names the key.
//!
//! Group count, replicas, node ids, shards, cluster name and this node's id are fixed by `--init`: keys would be
//! looked for in other groups otherwise. Addresses and times may change with every start.

use super::slots::{Placement, SLOTS};
use crate::time::Time;
use logdrive::{
    BLOCK_BYTES, CLIENT_ADDRESS_BYTES_MAX, DriverChoice, Founding, NodeId, QUOTA_SEGMENTS_MIN,
    SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SHARDS_MAX,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// The flags of `logdrive serve`. Every one but `--init` and `--config` is also a key of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Make the directory and its identity first; refused where there is one
    #[arg(long)]
    pub(crate) init: bool,
    /// TOML file with the same keys as these flags, without the dashes in front; flags win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) keys: Box<Keys>,
    /// Stop when standard input ends, and when the parent process dies
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// The settings that may stand in the file and on the command line.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Keys {
    /// This node's id, above 0; fixed by --init
    #[arg(long, value_name = "N")]
    id: Option<u64>,
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// All nodes and where they listen for each other, e.g. 1=10.0.0.1:7001,2=10.0.0.2:7001; ids fixed by --init
    #[arg(long, value_name = "ID=HOST:PORT,..")]
    peers: Option<Peers>,
    /// Where to listen for clients [default: 127.0.0.1:6379]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where clients are told to find this node [default: what --listen says]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Raft groups the 16,384 slots are spread over; fixed by --init [default: 1000]
    #[arg(long, value_name = "N")]
    groups: Option<u64>,
    /// Nodes that carry each group; fixed by --init [default: all]
    #[arg(long, value_name = "R")]
    replicas: Option<u64>,
    /// Threads, each with its own log; fixed by --init. More threads than the node has cores to itself make it slower
    /// [default: 1]
    #[arg(long, value_name = "N")]
    shards: Option<u64>,
    /// The cluster's name, the same on all nodes; fixed by --init [default: default]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// A follower that hears no leader stands for election after one to two of these; at least three heartbeats of every
    /// node. To make times longer, restart all nodes with the longer election timeout, one by one, and then with the
    /// longer heartbeat; to make them shorter, the other way round [default: 1s]
    #[arg(long, value_name = "TIME")]
    election_timeout: Option<Time>,
    /// A leader says at least this often that it is alive [default: 100ms]
    #[arg(long, value_name = "TIME")]
    heartbeat: Option<Time>,
    /// A disk that has not answered for this long ends the process [default: 20s]
    #[arg(long, value_name = "TIME")]
    stall_fatal: Option<Time>,
    /// Size of the log's segment files, in bytes [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// The most bytes that the log's files may take, at least six segments per shard. Once there, writes and
    /// reads are refused for good, because reads go through the log and nothing is released yet [default: no bound]
    #[arg(long, value_name = "BYTES")]
    log_quota: Option<u64>,
    /// How the log reaches the disk: auto, io_uring or portable [default: auto]
    #[arg(long, value_name = "NAME")]
    driver: Option<Driver>,
    /// Cores the shard threads stay on, as in 0,2,4; shards go round them [default: the system moves the threads]
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// The most client connections at a time; a further one gets an error and is closed. The limit of open files may
    /// allow fewer: the start-up line says how many [default: 10000]
    #[arg(long, value_name = "N")]
    clients_max: Option<u64>,
    /// Close a client's connection on which nothing has moved for this long, at the latest after twice as long. If the
    /// client's host has vanished, or it does not read its replies, that happens after two minutes [default: never]
    #[arg(long, value_name = "TIME")]
    client_idle_max: Option<Time>,
}

/// Settings that make sense together.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) init: bool,
    pub(crate) exit_with_stdin: bool,
    pub(crate) dir: PathBuf,
    pub(crate) peers: BTreeMap<NodeId, String>,
    pub(crate) listen: String,
    pub(crate) advertise: Option<String>,
    pub(crate) election_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) stall_fatal: Duration,
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) log_quota: Option<u64>,
    pub(crate) driver: DriverChoice,
    pub(crate) cores: Vec<usize>,
    pub(crate) clients_max: usize,
    pub(crate) client_idle_max: Option<Duration>,
    /// The settings that `--init` fixes, as far as they were given.
    pub(crate) fixed: Fixed,
}

/// The settings that `--init` fixes, as far as they were given; after `--init` none need be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Fixed {
    id: Option<NodeId>,
    groups: Option<u16>,
    replicas: Option<usize>,
    shards: Option<u32>,
    cluster: Option<String>,
}

/// A setting that is missing, unreadable or impossible. Nothing was touched.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OptionsError(pub(super) String);

fn fail<T>(why: impl Into<String>) -> Result<T, OptionsError> {
    Err(OptionsError(why.into()))
}

impl Options {
    /// Merges and checks. Reads the file of `--config`, and nothing else.
    pub(crate) fn new(args: Args) -> Result<Self, OptionsError> {
        let keys = match &args.config {
            Some(path) => args.keys.over(Keys::read(path)?),
            None => *args.keys,
        };
        let Some(dir) = keys.dir else {
            return fail("dir is missing: say --dir DIR");
        };
        let Some(peers) = keys.peers else {
            return fail("peers are missing: say --peers 1=HOST:PORT,2=HOST:PORT,..");
        };
        let peers = peers.check()?;
        let id = keys.id.map(NodeId);
        if let Some(id) = id
            && !peers.contains_key(&id)
        {
            return fail(format!("id {id} has no address in peers"));
        }
        let groups = match keys.groups.map(u16::try_from) {
            None => None,
            Some(Ok(groups)) if (1..=SLOTS).contains(&groups) => Some(groups),
            Some(_) => return fail(format!("groups must be from 1 to {SLOTS}")),
        };
        let replicas = match keys.replicas.map(usize::try_from) {
            None => None,
            Some(Ok(replicas)) if (1..=peers.len()).contains(&replicas) => Some(replicas),
            Some(_) => {
                return fail(format!("replicas must be from 1 to the {} nodes", peers.len()));
            }
        };
        let shards = match keys.shards.map(u32::try_from) {
            None => None,
            Some(Ok(shards)) if (1..=SHARDS_MAX).contains(&shards) => Some(shards),
            Some(_) => return fail(format!("shards must be from 1 to {SHARDS_MAX}")),
        };
        if let Some(name) = &keys.cluster
            && !is_name(name)
        {
            return fail("cluster must be 1 to 64 letters, digits, '-', '_' or '.'");
        }
        let listen = keys.listen.unwrap_or_else(|| LISTEN.to_owned());
        client_address("listen", &listen)?;
        if let Some(advertise) = &keys.advertise
            && client_address("advertise", advertise)? == 0
        {
            return fail("advertise needs a port above 0");
        }
        let clients_max = match usize::try_from(keys.clients_max.unwrap_or(CLIENTS_MAX)) {
            Ok(clients_max) if clients_max > 0 => clients_max,
            _ => return fail("clients-max must be above 0"),
        };
        let election_timeout =
            bounded("election-timeout", keys.election_timeout, ELECTION_TIMEOUT)?;
        let heartbeat = bounded("heartbeat", keys.heartbeat, HEARTBEAT)?;
        if heartbeat * 3 > election_timeout {
            return fail("heartbeat must be at most a third of election-timeout");
        }
        let client_idle_max = keys
            .client_idle_max
            .map(|time| bounded("client-idle-max", Some(time), time.0))
            .transpose()?;
        let stall_fatal = bounded("stall-fatal", keys.stall_fatal, STALL_FATAL)?;
        if stall_fatal <= election_timeout * 2 {
            return fail("stall-fatal must be more than two election-timeouts");
        }
        if let Some(bytes) = keys.segment_bytes
            && !((SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
                && bytes.is_multiple_of(BLOCK_BYTES as u64))
        {
            return fail(format!(
                "segment-bytes must be a multiple of {BLOCK_BYTES} from {SEGMENT_BYTES_MIN} to \
                 {SEGMENT_BYTES_MAX}"
            ));
        }
        // How many shards a directory has that was made before is not known yet; it has one at least.
        let quota_min = QUOTA_SEGMENTS_MIN
            * keys.segment_bytes.unwrap_or(SEGMENT_BYTES_DEFAULT)
            * u64::from(shards.unwrap_or(1));
        if let Some(quota) = keys.log_quota
            && quota < quota_min
        {
            return fail(format!(
                "log-quota must be at least {quota_min}: {QUOTA_SEGMENTS_MIN} segments per shard"
            ));
        }
        Ok(Self {
            init: args.init,
            exit_with_stdin: args.exit_with_stdin,
            dir,
            peers,
            listen,
            advertise: keys.advertise,
            election_timeout,
            heartbeat,
            stall_fatal,
            segment_bytes: keys.segment_bytes,
            log_quota: keys.log_quota,
            driver: keys.driver.map_or(DriverChoice::Auto, |driver| driver.0),
            cores: keys.cores.map_or(Vec::new(), |cores| cores.0),
            clients_max,
            client_idle_max,
            fixed: Fixed { id, groups, replicas, shards, cluster: keys.cluster },
        })
    }

    /// The facts that `--init` writes down.
    pub(crate) fn founding(&self) -> Result<Founding, OptionsError> {
        let Some(node) = self.fixed.id else {
            return fail("id is missing: with --init say --id N");
        };
        let groups = self.fixed.groups.unwrap_or(GROUPS);
        let replicas = self.fixed.replicas.unwrap_or(self.peers.len());
        let settings = BTreeMap::from([
            (GROUPS_KEY.to_owned(), groups.to_string()),
            (REPLICAS_KEY.to_owned(), replicas.to_string()),
            (NODES_KEY.to_owned(), ids(self.peers.keys())),
        ]);
        Ok(Founding {
            cluster: self.fixed.cluster.clone().unwrap_or_else(|| CLUSTER.to_owned()),
            node,
            shards: self.fixed.shards.unwrap_or(1),
            settings,
        })
    }

    /// Compares what was said now with what the directory was made with, and places the groups by the latter.
    pub(crate) fn check(&self, founding: &Founding) -> Result<Placement, OptionsError> {
        let setting = |key: &str| founding.settings.get(key).map_or("nothing", String::as_str);
        let said = &self.fixed;
        differs("id", said.id, founding.node)?;
        differs("cluster", said.cluster.as_ref(), &founding.cluster)?;
        differs("shards", said.shards, founding.shards)?;
        differs(GROUPS_KEY, said.groups.map(|n| n.to_string()).as_deref(), setting(GROUPS_KEY))?;
        differs(
            "replicas",
            said.replicas.map(|n| n.to_string()).as_deref(),
            setting(REPLICAS_KEY),
        )?;
        differs("the ids in peers", Some(ids(self.peers.keys()).as_str()), setting(NODES_KEY))?;
        let foreign = || OptionsError("the directory was not made by logdrive serve".to_owned());
        let groups = setting(GROUPS_KEY).parse().map_err(|_| foreign())?;
        let replicas = setting(REPLICAS_KEY).parse().map_err(|_| foreign())?;
        if !(1..=SLOTS).contains(&groups) || !(1..=self.peers.len()).contains(&replicas) {
            return Err(foreign());
        }
        Ok(Placement::new(self.peers.keys().copied().collect(), groups, replicas))
    }
}

fn bounded(key: &str, said: Option<Time>, default: Duration) -> Result<Duration, OptionsError> {
    match said.map_or(default, |time| time.0) {
        time if TIMES.contains(&time) => Ok(time),
        time => fail(format!(
            "{key} of {} is not between {} and {}",
            Time(time),
            Time(*TIMES.start()),
            Time(*TIMES.end())
        )),
    }
}

fn differs<T: PartialEq + std::fmt::Display>(
    key: &str,
    said: Option<T>,
    made: T,
) -> Result<(), OptionsError> {
    match said {
        Some(said) if said != made => fail(format!(
            "{key} is {said}, but the directory was made with {made}: it cannot change"
        )),
        _ => Ok(()),
    }
}

fn ids<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> String {
    nodes.map(|node| node.get().to_string()).collect::<Vec<_>>().join(",")
}

impl Keys {
    fn read(path: &Path) -> Result<Self, OptionsError> {
        let text = fs::read_to_string(path)
            .map_err(|error| OptionsError(format!("config {}: {error}", path.display())))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let place = line.map_or(String::new(), |line| format!(" line {line}"));
            OptionsError(format!("config {}{place}: {}", path.display(), error.message().trim()))
        })
    }

    fn over(self, file: Self) -> Self {
        Self {
            id: self.id.or(file.id),
            dir: self.dir.or(file.dir),
            peers: self.peers.or(file.peers),
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            groups: self.groups.or(file.groups),
            replicas: self.replicas.or(file.replicas),
            shards: self.shards.or(file.shards),
            cluster: self.cluster.or(file.cluster),
            election_timeout: self.election_timeout.or(file.election_timeout),
            heartbeat: self.heartbeat.or(file.heartbeat),
            stall_fatal: self.stall_fatal.or(file.stall_fatal),
            segment_bytes: self.segment_bytes.or(file.segment_bytes),
            log_quota: self.log_quota.or(file.log_quota),
            driver: self.driver.or(file.driver),
            cores: self.cores.or(file.cores),
            clients_max: self.clients_max.or(file.clients_max),
            client_idle_max: self.client_idle_max.or(file.client_idle_max),
        }
    }
}

/// Ids and addresses as they were written: `1=a:1,2=b:2`, or in the file also a table `1 = "a:1"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Peers {
    List(String),
    Table(BTreeMap<String, String>),
}

impl std::str::FromStr for Peers {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::List(text.to_owned()))
    }
}

impl Peers {
    fn check(&self) -> Result<BTreeMap<NodeId, String>, OptionsError> {
        let pairs: Vec<(&str, &str)> = match self {
            Self::Table(table) => table.iter().map(|(id, at)| (id.as_str(), at.as_str())).collect(),
            Self::List(list) => {
                let mut pairs = Vec::new();
                for part in list.split(',') {
                    let Some(pair) = part.split_once('=') else {
                        return fail(format!("peers: '{part}' is not ID=HOST:PORT"));
                    };
                    pairs.push(pair);
                }
                pairs
            }
        };
        let mut peers = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for (id, address) in pairs {
            let (id, address) = (id.trim(), address.trim());
            let node = match id.parse() {
                Ok(number) if number > 0 => NodeId(number),
                _ => return fail(format!("peers: id '{id}' is no number above 0")),
            };
            if host_port(address).is_none_or(|(_, port)| port == 0) {
                return Err(bad_address("peers", address));
            }
            if peers.insert(node, address.to_owned()).is_some() {
                return fail(format!("peers: id {id} is named twice"));
            }
            if !addresses.insert(address) {
                return fail(format!("peers: address {address} is named twice"));
            }
        }
        if peers.is_empty() {
            return fail("peers are missing: say --peers 1=HOST:PORT,2=HOST:PORT,..");
        }
        Ok(peers)
    }
}

/// Splits `host:port`; an IPv6 host stands in brackets and is given without them.
pub(crate) fn host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
    plain.then_some((host, port))
}

/// Checks an address that other nodes are told; its port.
fn client_address(key: &str, address: &str) -> Result<u16, OptionsError> {
    let Some((_, port)) = host_port(address) else {
        return Err(bad_address(key, address));
    };
    // A port that the system chooses may be longer than the 0 that asks for it.
    let bytes = address.len() + if port == 0 { PORT_DIGITS_MAX - 1 } else { 0 };
    if bytes > CLIENT_ADDRESS_BYTES_MAX {
        return fail(format!("{key} must be at most {CLIENT_ADDRESS_BYTES_MAX} bytes"));
    }
    Ok(port)
}

fn bad_address(key: &str, address: &str) -> OptionsError {
    OptionsError(format!("{key}: '{address}' is not HOST:PORT"))
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Cores by number, as in `0,2,4`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Cores(Vec<usize>);

impl std::str::FromStr for Cores {
    type Err = OptionsError;
    fn from_str(text: &str) -> Result<Self, OptionsError> {
        let cores = text.split(',').map(|core| core.trim().parse());
        match cores.collect::<Result<Vec<usize>, _>>() {
            Ok(cores) if cores.iter().all(|core| *core < CORES_MAX) => Ok(Self(cores)),
            _ => fail(format!("cores '{text}' are no list of numbers below {CORES_MAX}")),
        }
    }
}

impl TryFrom<String> for Cores {
    type Error = OptionsError;
    fn try_from(text: String) -> Result<Self, OptionsError> {
        text.parse()
    }
}

/// How the log reaches the disk.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Driver(DriverChoice);

impl std::str::FromStr for Driver {
    type Err = OptionsError;
    fn from_str(text: &str) -> Result<Self, OptionsError> {
        match text {
            "auto" => Ok(Self(DriverChoice::Auto)),
            "io_uring" => Ok(Self(DriverChoice::Uring)),
            "portable" => Ok(Self(DriverChoice::Portable)),
            _ => fail(format!("driver '{text}' is not auto, io_uring or portable")),
        }
    }
}

impl TryFrom<String> for Driver {
    type Error = OptionsError;
    fn try_from(text: String) -> Result<Self, OptionsError> {
        text.parse()
    }
}

const LISTEN: &str = "127.0.0.1:6379";
const CLUSTER: &str = "default";
const GROUPS: u16 = 1_000;
const CLIENTS_MAX: u64 = 10_000;
const CORES_MAX: usize = 1_024;
const PORT_DIGITS_MAX: usize = 5;
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_millis(100);
const STALL_FATAL: Duration = Duration::from_secs(20);
const TIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3_600);
const GROUPS_KEY: &str = "groups";
const REPLICAS_KEY: &str = "replicas";
const NODES_KEY: &str = "nodes";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::Write;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    const PEERS: &str = "1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003";

    fn options(flags: &str) -> Result<Options, OptionsError> {
        let cli = Cli::try_parse_from(std::iter::once("serve").chain(flags.split_whitespace()))
            .map_err(|error| OptionsError(error.to_string()))?;
        Options::new(cli.args)
    }

    fn refusal(flags: &str) -> String {
        match options(flags) {
            Ok(options) => panic!("{flags} was taken as {options:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn with_file(text: &str, flags: &str) -> Result<Options, OptionsError> {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(text.as_bytes()).expect("written");
        options(&format!("--config {} {flags}", file.path().display()))
    }

    #[test]
    fn flags_alone_are_enough() {
        let options = options(&format!(
            "--init --id 2 --dir d --peers {PEERS} --listen 127.0.0.1:6372 --groups 48"
        ))
        .expect("taken");
        assert!(options.init);
        assert_eq!(options.peers.len(), 3);
        assert_eq!(options.election_timeout, Duration::from_secs(1));
        assert_eq!(options.heartbeat, Duration::from_millis(100));
        let founding = options.founding().expect("complete");
        assert_eq!(founding.node, NodeId(2));
        assert_eq!(founding.shards, 1);
        assert_eq!(founding.cluster, "default");
        let placement = options.check(&founding).expect("agrees with itself");
        assert_eq!(placement.groups(), 48);
        assert_eq!(placement.members(0).len(), 3);
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = format!(
            "id = 1\ndir = \"d\"\npeers = \"{PEERS}\"\ngroups = 10\nelection-timeout = \"2s\"\n\
             heartbeat = \"50ms\"\nstall-fatal = \"1.5m\"\nlisten = \"127.0.0.1:1\"\ndriver = \"portable\"\n"
        );
        let options = with_file(&file, "--id 3 --heartbeat 20ms").expect("taken");
        assert_eq!(options.fixed.id, Some(NodeId(3)));
        assert_eq!(options.fixed.groups, Some(10));
        assert_eq!(options.heartbeat, Duration::from_millis(20));
        assert_eq!(options.election_timeout, Duration::from_secs(2));
        assert_eq!(options.stall_fatal, Duration::from_secs(90));
        assert_eq!(options.driver, DriverChoice::Portable);
    }

    #[test]
    fn peers_may_be_a_table_in_the_file() {
        let file = "dir = \"d\"\n[peers]\n1 = \"a:1\"\n2 = \"[::1]:2\"\n";
        let options = with_file(file, "").expect("taken");
        assert_eq!(options.peers[&NodeId(2)], "[::1]:2");
    }

    #[test]
    fn unknown_and_mistyped_keys_of_the_file_are_named() {
        let unknown =
            with_file("dir = \"d\"\nshard = 1\n", "").expect_err("unknown key").to_string();
        assert!(unknown.contains("line 2") && unknown.contains("shard"), "{unknown}");
        for text in [
            "init = true\n",
            "groups = \"many\"\n",
            "groups = -1\n",
            "id =\n",
            "heartbeat = \"1d\"\n",
        ] {
            let error = with_file(text, "").expect_err(text).to_string();
            assert!(error.contains("line 1") && !error.contains('\n'), "{error}");
        }
        assert!(refusal("--config /nonexistent/file").contains("/nonexistent/file"));
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let base = format!("--dir d --peers {PEERS}");
        for (flags, word) in [
            (format!("--peers {PEERS}"), "dir"),
            ("--dir d".to_owned(), "peers"),
            (format!("{base} --id 4"), "id 4"),
            (format!("{base} --groups 0"), "groups"),
            (format!("{base} --groups 16385"), "groups"),
            (format!("{base} --groups 70000"), "groups"),
            (format!("{base} --replicas 4"), "replicas"),
            (format!("{base} --replicas 0"), "replicas"),
            (format!("{base} --shards 0"), "shards"),
            (format!("{base} --cluster a/b"), "cluster"),
            (format!("{base} --listen nowhere"), "listen"),
            (format!("{base} --advertise host:0"), "advertise"),
            (format!("{base} --clients-max 0"), "clients-max"),
            (format!("{base} --client-idle-max 2h"), "client-idle-max of 2h"),
            (format!("{base} --heartbeat 0ms"), "heartbeat of 0s is not between 1ms and 1h"),
            (format!("{base} --heartbeat 999us"), "heartbeat of 999us"),
            (format!("{base} --stall-fatal 1.1h"), "stall-fatal of 66m"),
            (format!("{base} --heartbeat 1"), "150ms"),
            (format!("{base} --heartbeat 400ms"), "a third"),
            (format!("{base} --stall-fatal 2s"), "stall-fatal"),
            (format!("{base} --segment-bytes 4096"), "segment-bytes"),
            (format!("{base} --segment-bytes 70000"), "segment-bytes"),
            (format!("{base} --cores 0,x"), "cores"),
            (format!("{base} --cores 4096"), "cores"),
            (format!("{base} --driver tape"), "driver"),
            ("--dir d --peers 1=a:1,1=b:1".to_owned(), "twice"),
            ("--dir d --peers 1=a:1,2=a:1".to_owned(), "twice"),
            ("--dir d --peers 0=a:1".to_owned(), "id '0'"),
            ("--dir d --peers 1=a:0".to_owned(), "a:0"),
            ("--dir d --peers a:1".to_owned(), "ID=HOST:PORT"),
        ] {
            let error = refusal(&flags);
            assert!(error.contains(word), "{flags}: {error}");
        }
    }

    /// Names and addresses that nodes tell each other have bounds; past these bounds no peer would let this node in.
    #[test]
    fn names_and_addresses_that_no_handshake_carries_are_refused() {
        let base = format!("--dir d --peers {PEERS}");
        let host = |bytes: usize| "h".repeat(bytes);
        for (key, port) in [("listen", "7001"), ("advertise", "7001"), ("listen", "0")] {
            // The longest port has five digits, and there is the colon.
            let most = 255 - 1 - if port == "0" { 5 } else { port.len() };
            options(&format!("{base} --{key} {}:{port}", host(most))).expect("taken");
            let error = refusal(&format!("{base} --{key} {}:{port}", host(most + 1)));
            assert_eq!(error, format!("{key} must be at most 255 bytes"));
        }
        options(&format!("{base} --cluster {}", host(64))).expect("taken");
        let error = refusal(&format!("{base} --cluster {}", host(65)));
        assert!(error.contains("cluster must be 1 to 64 letters"), "{error}");
    }

    #[test]
    fn a_quota_that_no_log_can_keep_is_refused() {
        let base = format!("--dir d --peers {PEERS}");
        for (flags, least) in [
            ("", (6 * 64) << 20),
            ("--segment-bytes 65536", 6 * 65_536),
            ("--segment-bytes 65536 --shards 3", 18 * 65_536),
        ] {
            options(&format!("{base} {flags} --log-quota {least}")).expect("taken");
            let error = refusal(&format!("{base} {flags} --log-quota {}", least - 1));
            assert!(error.contains(&format!("log-quota must be at least {least}")), "{error}");
        }
    }

    #[test]
    fn what_init_fixed_cannot_change() {
        let made =
            options(&format!("--init --id 1 --dir d --peers {PEERS} --groups 10 --replicas 3"))
                .expect("taken")
                .founding()
                .expect("complete");
        let base = "--dir d --peers 1=x:1,2=y:1,3=z:1";
        options(base).expect("taken").check(&made).expect("addresses may change");
        for (flags, word) in [
            (format!("{base} --id 2"), "id is 2"),
            (format!("{base} --groups 11"), "groups is 11"),
            (format!("{base} --replicas 1"), "replicas is 1"),
            (format!("{base} --shards 2"), "shards is 2"),
            (format!("{base} --cluster other"), "cluster is other"),
            ("--dir d --peers 1=x:1,2=y:1,4=z:1".to_owned(), "1,2,4"),
        ] {
            let error =
                options(&flags).expect("taken").check(&made).expect_err("differs").to_string();
            assert!(error.contains(word) && error.contains("cannot change"), "{flags}: {error}");
        }
    }

    #[test]
    fn init_needs_an_id() {
        let options = options(&format!("--init --dir d --peers {PEERS}")).expect("taken");
        assert!(options.founding().expect_err("no id").to_string().contains("--id"));
    }

    #[test]
    fn addresses_split_at_the_last_colon() {
        assert_eq!(host_port("a.b:1"), Some(("a.b", 1)));
        assert_eq!(host_port("[::1]:65535"), Some(("::1", 65_535)));
        for bad in ["", ":", ":1", "a", "a:", "a:65536", "::1:5", "[::1:5", "a b:1"] {
            assert_eq!(host_port(bad), None, "{bad}");
        }
    }
}
