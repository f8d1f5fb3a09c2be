//! Questions to the servers: which node owns which slot, whether the servers are ready, what they run on.
//!
//! In:     endpoints of nodes; a host may be a name, which is looked up at each connection.
//! Out:    a [`SlotMap`] from `CLUSTER SLOTS`; `CLUSTER INFO`; the `# logdrive` part of `INFO`.
//! Cost:   a connection per question: none is asked on the path of an operation.
//! Fails:  with [`TargetError`], which names the node and the command. Every answer is bounded in time and size.
//! Source: the Redis cluster specification.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::workload::SLOTS;
use crate::resp::{self, Reply};
use crate::serve::host_port;

/// Why a question to a node got no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// There was no connection, or the connection broke, or the answer did not come in time.
    #[error("{command} to {address}: {error}")]
    Io { address: Endpoint, command: String, error: io::Error },
    /// An error reply.
    #[error("{command} to {address} was refused: {text}")]
    Refused { address: Endpoint, command: String, text: String },
    /// An answer of the wrong shape.
    #[error("{command} to {address}: the answer is not one of a Redis cluster node")]
    Shape { address: Endpoint, command: String },
    /// The cluster sends its clients to a name that this machine does not know.
    #[error("a node is said to be at {endpoint}, which cannot be looked up: {error}")]
    Name { endpoint: Endpoint, error: io::Error },
    /// None of the endpoints answered; holds the error of the last endpoint.
    #[error("no endpoint answered: {0}")]
    Nobody(String),
}

/// The address of a node, as the cluster states it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    /// A name or an IP address; an IP address has no brackets.
    host: Arc<str>,
    port: u16,
}

impl Endpoint {
    /// Reads `host:port`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = host_port(text)?;
        Some(Self { host: host.into(), port })
    }

    /// The endpoint that a node names for itself or for another node. An empty host, or `?`, means the node that was
    /// asked.
    fn announced(host: &[u8], port: u16, asked: &Self) -> Option<Self> {
        if host.is_empty() || host == b"?" {
            return Some(Self { host: Arc::clone(&asked.host), port });
        }
        let host = str::from_utf8(host).ok()?.trim_matches(['[', ']']);
        let plain =
            !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
        plain.then(|| Self { host: host.into(), port })
    }

    /// Connects to the first of the name's addresses that answers.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect((&*self.host, self.port)).await
    }

    /// An error if the host has no address.
    pub(super) async fn resolve(&self) -> Result<(), TargetError> {
        let found = tokio::net::lookup_host((&*self.host, self.port)).await;
        let none = || io::ErrorKind::NotFound.into();
        let first = found.and_then(|mut places| places.next().ok_or_else(none));
        first.map(drop).map_err(|error| TargetError::Name { endpoint: self.clone(), error })
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string().into(), port: address.port() }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(out, "[{host}]:{port}")
        } else {
            write!(out, "{host}:{port}")
        }
    }
}

/// Which node owns each slot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SlotMap {
    /// The owners of slots, in order of appearance.
    pub(super) nodes: Vec<Endpoint>,
    owner: Vec<Option<u16>>,
}

impl SlotMap {
    fn new() -> Self {
        Self { nodes: Vec::new(), owner: vec![None; SLOTS] }
    }

    /// The place in `nodes` of the slot's owner, if the slot has an owner.
    pub(super) fn owner(&self, slot: usize) -> Option<usize> {
        self.owner[slot].map(usize::from)
    }

    /// The number of slots that have an owner.
    pub(super) fn covered(&self) -> usize {
        self.owner.iter().flatten().count()
    }

    /// Gives one slot to `owner`; returns the place of `owner` in `nodes`.
    pub(super) fn assign(&mut self, slot: usize, owner: Endpoint) -> usize {
        let place = self.place(owner);
        self.owner[slot] = Some(u16::try_from(place).expect("fewer nodes than slots"));
        place
    }

    fn place(&mut self, node: Endpoint) -> usize {
        if let Some(place) = self.nodes.iter().position(|known| *known == node) {
            return place;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Takes the owners in `newer`. Nodes keep their places in `nodes`, because connections are kept by place.
    pub(super) fn update(&mut self, newer: &Self) {
        let places: Vec<u16> = newer
            .nodes
            .iter()
            .map(|node| u16::try_from(self.place(node.clone())).expect("fewer nodes than slots"))
            .collect();
        for (slot, owner) in newer.owner.iter().enumerate() {
            self.owner[slot] = owner.map(|place| places[usize::from(place)]);
        }
    }

    /// Reads the answer to `CLUSTER SLOTS`. An empty host means the node that answered.
    fn from_reply(reply: &Reply, asked: &Endpoint) -> Option<Self> {
        let mut map = Self::new();
        let Reply::Array(ranges) = reply else { return None };
        for range in ranges {
            let Reply::Array(fields) = range else { return None };
            let [Reply::Integer(first), Reply::Integer(last), Reply::Array(node), ..] = &fields[..]
            else {
                return None;
            };
            let [Reply::BulkString(host), Reply::Integer(port), ..] = &node[..] else {
                return None;
            };
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            if first > last || last >= SLOTS {
                return None;
            }
            let owner = Endpoint::announced(host, u16::try_from(*port).ok()?, asked)?;
            let place = u16::try_from(map.place(owner)).ok()?;
            map.owner[first..=last].fill(Some(place));
        }
        Some(map)
    }
}

/// The slot and node in the text of a `MOVED` error, if the text is one.
pub(super) fn parse_moved(text: &[u8], asked: &Endpoint) -> Option<(usize, Endpoint)> {
    let text = str::from_utf8(text).ok()?;
    let mut words = text.strip_prefix("MOVED ")?.split(' ');
    let slot = words.next()?.parse().ok().filter(|&slot: &usize| slot < SLOTS)?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    Some((slot, Endpoint::announced(host.as_bytes(), port.parse().ok()?, asked)?))
}

/// Asks each endpoint in turn, beginning with number `first`, until one gives its slot map.
pub(super) async fn fetch_slots(
    endpoints: &[Endpoint],
    first: usize,
) -> Result<SlotMap, TargetError> {
    let mut error = None;
    for turn in 0..endpoints.len() {
        let address = &endpoints[(first + turn) % endpoints.len()];
        match ask(address, &["CLUSTER", "SLOTS"]).await {
            Ok(reply) => match SlotMap::from_reply(&reply, address) {
                Some(map) => return Ok(map),
                None => error = Some(shape(address, "CLUSTER SLOTS")),
            },
            Err(failed) => error = Some(failed),
        }
    }
    Err(TargetError::Nobody(
        error.map_or("there are no endpoints".to_owned(), |error| error.to_string()),
    ))
}

/// Whether the node says that every slot is served.
pub(super) async fn is_ready(address: &Endpoint) -> Result<bool, TargetError> {
    let text = text(address, &["CLUSTER", "INFO"]).await?;
    Ok(text.lines().any(|line| line.trim_end() == "cluster_state:ok"))
}

/// The `# logdrive` lines of one node's `INFO`. Empty for other servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeInfo {
    pub(super) fields: BTreeMap<String, String>,
    /// The stages in the order in which the node lists them, which is the order of a proposal's path.
    pub(super) stages: Vec<Stage>,
}

/// One stage's latencies on one node, in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) mean: f64,
    pub(super) count: u64,
}

impl NodeInfo {
    /// The value of `field`, or `unknown`.
    pub(super) fn field(&self, field: &str) -> &str {
        self.fields.get(field).map_or("unknown", String::as_str)
    }

    fn parse(text: &str) -> Self {
        let mut info = Self::default();
        let mut ours = false;
        for line in text.lines().map(str::trim_end) {
            if let Some(section) = line.strip_prefix('#') {
                ours = section.trim().eq_ignore_ascii_case("logdrive");
                continue;
            }
            let Some((name, value)) = line.split_once(':').filter(|_| ours) else { continue };
            match name.strip_prefix("stage_").and_then(|name| name.strip_suffix("_us")) {
                Some(stage) => info.stages.push(Stage::parse(stage, value)),
                None => {
                    info.fields.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        info
    }
}

impl Stage {
    fn parse(name: &str, values: &str) -> Self {
        let mut stage = Self { name: name.to_owned(), ..Self::default() };
        for (key, value) in values.split(',').filter_map(|pair| pair.split_once('=')) {
            match key {
                "p50" => stage.p50 = value.parse().unwrap_or_default(),
                "p99" => stage.p99 = value.parse().unwrap_or_default(),
                "mean" => stage.mean = value.parse().unwrap_or_default(),
                "count" => stage.count = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        stage
    }
}

/// Asks a node for its `INFO`, which says what the node runs on.
pub(super) async fn fetch_info(address: &Endpoint) -> Result<NodeInfo, TargetError> {
    Ok(NodeInfo::parse(&text(address, &["INFO"]).await?))
}

async fn text(address: &Endpoint, command: &[&str]) -> Result<String, TargetError> {
    match ask(address, command).await? {
        Reply::BulkString(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        _ => Err(shape(address, &command.join(" "))),
    }
}

/// Asks one question on a connection of its own.
async fn ask(address: &Endpoint, command: &[&str]) -> Result<Reply, TargetError> {
    let name = || command.join(" ");
    let exchange = async {
        let mut stream = address.connect().await?;
        let mut buffer = BytesMut::new();
        let args: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
        resp::write_request(&mut buffer, &args);
        stream.write_all_buf(&mut buffer).await?;
        loop {
            if let Some(reply) = resp::parse_reply(&mut buffer).map_err(io::Error::other)? {
                return Ok(reply);
            }
            if buffer.len() > resp::FRAME_BYTES_MAX {
                return Err(io::Error::other("the answer is too long"));
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    let answer = tokio::time::timeout(ANSWER_MAX, exchange).await;
    match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(Reply::Error(text)) => Err(TargetError::Refused {
            address: address.clone(),
            command: name(),
            text: text.to_string(),
        }),
        Ok(reply) => Ok(reply),
        Err(error) => Err(TargetError::Io { address: address.clone(), command: name(), error }),
    }
}

fn shape(address: &Endpoint, command: &str) -> TargetError {
    TargetError::Shape { address: address.clone(), command: command.to_owned() }
}

/// A node that takes longer than this to say which node owns which slot is taken for dead.
const ANSWER_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap()
    }

    fn slots(wire: &[u8]) -> Option<SlotMap> {
        let reply = resp::parse_reply(&mut BytesMut::from(wire)).unwrap().unwrap();
        SlotMap::from_reply(&reply, &address("127.0.0.1:7000"))
    }

    #[test]
    fn a_slot_map_is_read_and_updated_in_place() {
        let mut map = slots(
            b"*2\r\n*3\r\n:0\r\n:99\r\n*3\r\n$9\r\n127.0.0.1\r\n:7001\r\n$1\r\nx\r\n\
              *4\r\n:100\r\n:16383\r\n*2\r\n$0\r\n\r\n:7000\r\n*2\r\n$0\r\n\r\n:7005\r\n",
        )
        .unwrap();
        assert_eq!(map.nodes, [address("127.0.0.1:7001"), address("127.0.0.1:7000")]);
        assert_eq!((map.owner(99), map.owner(100), map.covered()), (Some(0), Some(1), SLOTS));

        let newer = slots(b"*1\r\n*3\r\n:5\r\n:6\r\n*2\r\n$9\r\n127.0.0.1\r\n:7000\r\n").unwrap();
        map.update(&newer);
        assert_eq!((map.owner(5), map.owner(7), map.covered()), (Some(1), None, 2));
        assert_eq!(map.assign(9, address("127.0.0.2:1")), 2);
        assert_eq!(map.owner(9), Some(2));
    }

    #[test]
    fn a_slot_map_that_makes_no_sense_is_refused() {
        for wire in [
            &b"+OK\r\n"[..],
            b"*1\r\n:1\r\n",
            b"*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$9\r\n127.0.0.1\r\n:7001\r\n",
            b"*1\r\n*3\r\n:9\r\n:8\r\n*2\r\n$9\r\n127.0.0.1\r\n:7001\r\n",
            b"*1\r\n*3\r\n:0\r\n:8\r\n*2\r\n$9\r\n127.0.0.1\r\n:70010\r\n",
            b"*1\r\n*3\r\n:0\r\n:8\r\n*2\r\n$4\r\nh st\r\n:7001\r\n",
        ] {
            assert_eq!(slots(wire), None, "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn moved_names_a_slot_and_a_node() {
        let asked = address("127.0.0.1:7000");
        let moved = |text: &str| parse_moved(text.as_bytes(), &asked);
        assert_eq!(moved("MOVED 3999 127.0.0.1:6381"), Some((3_999, address("127.0.0.1:6381"))));
        assert_eq!(moved("MOVED 1 :7002"), Some((1, address("127.0.0.1:7002"))));
        assert_eq!(moved("MOVED 1 [::1]:7002"), Some((1, address("[::1]:7002"))));
        assert_eq!(moved("MOVED 1 db-2.local:7002"), Some((1, address("db-2.local:7002"))));
        for text in
            ["ERR no", "MOVED", "MOVED x 1.1.1.1:1", "MOVED 16384 1.1.1.1:1", "MOVED 1 nowhere"]
        {
            assert_eq!(moved(text), None, "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_shown_as_it_is_written() {
        for text in ["127.0.0.1:1", "[::1]:65535", "db-2.local:7002"] {
            assert_eq!(address(text).to_string(), text);
        }
        let v6 = Endpoint::from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 7)));
        assert_eq!(v6, address("[::1]:7"));
    }

    #[test]
    fn info_is_read_from_its_own_section_only() {
        let info = NodeInfo::parse(
            "# Server\r\ndisk_driver:no\r\n\r\n# logdrive\r\ndisk_driver:io_uring\r\ndirect_io:yes\r\n\
             stage_write_us:p50=110.5,p99=300,mean=120,count=7\r\nstage_reply_us:p50=x\r\n# Other\r\na:b\r\n",
        );
        assert_eq!(info.field("disk_driver"), "io_uring");
        assert_eq!(info.field("a"), "unknown");
        let write = Stage { name: "write".into(), p50: 110.5, p99: 300.0, mean: 120.0, count: 7 };
        assert_eq!(info.stages[0], write);
        assert_eq!((info.stages[1].name.as_str(), info.stages[1].p50), ("reply", 0.0));
    }
}
