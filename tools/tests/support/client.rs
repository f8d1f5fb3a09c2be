//! A plain RESP client: one request, one answer, three outcomes.
//!
//! In:     addresses of nodes; keys and values.
//! Out:    [`Outcome`]: yes, no, or unknown; values read.
//! Cost:   blocks its thread; one connection per node.
//! Fails:  a connection that breaks after a request went out makes that request's outcome unknown. Redirections and
//!         refusals are no outcome: the request is sent again, to the leader of that moment, until its time is over.
//!
//! Deliberately not the product's own codec: a mistake in it would cancel itself out.

use super::now;
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Error, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// One answer, as RESP2 has them, and RESP3's maps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Self>),
    Map(Vec<(Self, Self)>),
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{other:?} is no text"),
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            other => panic!("{other:?} is no array"),
        }
    }
}

/// A request as clients send it.
pub(crate) fn request(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The fate of a write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Acknowledged: it must never be lost.
    Yes,
    /// It did not happen, and will not.
    No(String),
    /// It may have happened, or may yet, but not after a later write was acknowledged.
    Unknown(String),
    /// As `Unknown`, but the node that has the request is alive and may act on it at any time.
    Late,
}

/// A connection to one node.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> std::io::Result<Self> {
        Self::within(address, ANSWER_MAX)
    }

    /// A connection on which nothing takes longer than `patience`.
    pub(crate) fn within(address: SocketAddr, patience: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_MAX.min(patience))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends nothing more.
    pub(crate) fn end_input(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().shutdown(Shutdown::Write)
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn try_call(&mut self, words: &[impl AsRef<[u8]>]) -> std::io::Result<Reply> {
        self.send(&request(words))?;
        self.reply()
    }

    /// The same on a connection that must not break.
    pub(crate) fn call(&mut self, words: &[&str]) -> Reply {
        let shown = &words[..words.len().min(2)];
        self.try_call(words).unwrap_or_else(|error| panic!("{shown:?}: {error}"))
    }

    /// Reads the next answer.
    pub(crate) fn reply(&mut self) -> std::io::Result<Reply> {
        let bad = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(ErrorKind::UnexpectedEof.into());
        };
        let line = std::str::from_utf8(line).map_err(|_| bad("a reply line is not text"))?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| bad("an empty reply line"))?;
        let number = || rest.parse::<i64>().map_err(|_| bad(&format!("no number: {line}")));
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Reply::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    if !bytes.ends_with(b"\r\n") {
                        return Err(bad("a bulk string without its end"));
                    }
                    bytes.truncate(length);
                    Reply::Bulk(bytes)
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Reply::Nil,
                Ok(length) => {
                    Reply::Array((0..length).map(|_| self.reply()).collect::<Result<_, _>>()?)
                }
            },
            "%" => {
                let pair = |_| std::io::Result::Ok((self.reply()?, self.reply()?));
                Reply::Map((0..number()?).map(pair).collect::<Result<_, _>>()?)
            }
            _ => return Err(bad(&format!("no reply: {line}"))),
        })
    }

    /// Fills `bytes` with what comes, whatever it is.
    pub(crate) fn read_exact(&mut self, bytes: &mut [u8]) {
        self.stream.read_exact(bytes).expect("bytes");
    }

    /// All that comes until the server closes the connection, which it must.
    pub(crate) fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            // The server closed the connection while bytes of this client were on their way.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            ended => drop(ended.expect("the connection stays open")),
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A client of the whole cluster, for one thread.
#[derive(Debug)]
pub(crate) struct Client {
    nodes: Vec<SocketAddr>,
    connections: HashMap<SocketAddr, Connection>,
    /// For each slot, the node that answered for it last.
    leaders: HashMap<u16, SocketAddr>,
    /// The node that was asked last for a slot whose leader is not known.
    next: usize,
    /// Once it is true, a request that was refused is not sent again.
    stop: Arc<AtomicBool>,
    answer_max: Duration,
}

impl Client {
    pub(crate) fn new(nodes: &[SocketAddr]) -> Self {
        Self::until(nodes, Arc::default())
    }

    /// A client that gives up once `stop` is set, instead of asking whether there is a leader now.
    pub(crate) fn until(nodes: &[SocketAddr], stop: Arc<AtomicBool>) -> Self {
        Self {
            nodes: nodes.to_vec(),
            connections: HashMap::new(),
            leaders: HashMap::new(),
            next: 0,
            stop,
            answer_max: ANSWER_MAX,
        }
    }

    /// A client that waits no longer than this for an answer: then the outcome is [`Outcome::Late`].
    pub(crate) fn impatient(nodes: &[SocketAddr], answer_max: Duration) -> Self {
        Self { answer_max, ..Self::new(nodes) }
    }

    /// Writes, and says what became of it within the time.
    pub(crate) fn set(&mut self, key: &str, value: &[u8], within: Duration) -> Outcome {
        match self.ask(key, &[b"SET", key.as_bytes(), value], within, false) {
            Asked::Answered(Reply::Status(ok)) if ok == "OK" => Outcome::Yes,
            Asked::Answered(Reply::Error(error)) if error.starts_with("UNKNOWN") => {
                Outcome::Unknown(error)
            }
            Asked::Answered(other) => panic!("SET {key} was answered {other:?}"),
            Asked::Refused(why) => Outcome::No(why),
            Asked::Broken(why) => Outcome::Unknown(why),
            Asked::Silent => Outcome::Late,
        }
    }

    /// Writes until the write is acknowledged, again if its outcome is unknown: leaderships may move at any time on a busy
    /// machine. For values that may be written twice.
    pub(crate) fn put(&mut self, key: &str, value: &[u8], within: Duration) -> Outcome {
        let start = now();
        loop {
            match self.set(key, value, within.saturating_sub(start.elapsed()).max(PAUSE)) {
                Outcome::Unknown(_) | Outcome::Late if start.elapsed() < within => {}
                outcome => return outcome,
            }
        }
    }

    /// Reads; a read can always be asked again. The error is the last refusal.
    pub(crate) fn get(&mut self, key: &str, within: Duration) -> Result<Option<Vec<u8>>, String> {
        match self.ask(key, &[b"GET", key.as_bytes()], within, true) {
            Asked::Answered(Reply::Bulk(value)) => Ok(Some(value)),
            Asked::Answered(Reply::Nil) => Ok(None),
            Asked::Answered(other) => panic!("GET {key} was answered {other:?}"),
            Asked::Refused(why) | Asked::Broken(why) => Err(why),
            Asked::Silent => Err("no answer".to_owned()),
        }
    }

    fn ask(&mut self, key: &str, words: &[&[u8]], within: Duration, repeatable: bool) -> Asked {
        let slot = slot_of(key.as_bytes());
        let start = now();
        let mut last = "nobody could be asked".to_owned();
        let mut asked = false;
        while start.elapsed() < within && !(asked && self.stop.load(Ordering::Relaxed)) {
            asked = true;
            let node = self.leaders.get(&slot).copied().unwrap_or_else(|| self.any());
            let connection = match self.connections.remove(&node) {
                Some(connection) => Ok(connection),
                None => Connection::within(node, self.answer_max),
            };
            let mut connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    last = format!("connect to {node}: {error}");
                    self.leaders.remove(&slot);
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            let reply = match connection.try_call(words) {
                Ok(reply) => reply,
                Err(error) => {
                    self.leaders.remove(&slot);
                    last = format!("{node}: {error}");
                    let silent =
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    match (repeatable, silent) {
                        (true, _) => std::thread::sleep(PAUSE),
                        (false, true) => return Asked::Silent,
                        (false, false) => return Asked::Broken(last),
                    }
                    continue;
                }
            };
            self.connections.insert(node, connection);
            let Reply::Error(error) = reply else {
                self.leaders.insert(slot, node);
                return Asked::Answered(reply);
            };
            let mut parts = error.split(' ');
            match parts.next().unwrap_or_default() {
                "MOVED" => {
                    let place = parts.nth(1).and_then(|place| place.parse().ok());
                    let place: SocketAddr =
                        place.unwrap_or_else(|| panic!("a redirection to nowhere: {error}"));
                    // A node that names itself is asked again after a pause. A node that is gone may be named for a
                    // while: no connection to it comes about, and then another one is asked.
                    if place == node {
                        std::thread::sleep(PAUSE);
                    }
                    self.leaders.insert(slot, place);
                }
                "CLUSTERDOWN" | "TRYAGAIN" | "DISKFULL" => {
                    self.leaders.remove(&slot);
                    std::thread::sleep(PAUSE);
                }
                "UNKNOWN" if repeatable => {}
                // A node that is stopping: its log failed, or it was told to stop.
                "ERR" if error.contains("does not run here") => {
                    self.leaders.remove(&slot);
                    std::thread::sleep(PAUSE);
                }
                _ => return Asked::Answered(Reply::Error(error)),
            }
            last = format!("{node}: {error}");
        }
        Asked::Refused(last)
    }

    fn any(&mut self) -> SocketAddr {
        self.next = (self.next + 1) % self.nodes.len();
        self.nodes[self.next]
    }
}

enum Asked {
    Answered(Reply),
    Refused(String),
    Broken(String),
    Silent,
}

/// CRC-16/XMODEM over the key, modulo 16,384, as the Redis cluster specification has it (no hash tags here).
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for byte in key {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % 16_384
}

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Far beyond every time-out of the product: a request it took is answered one way or the other.
const ANSWER_MAX: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

#[test]
fn slots_are_those_of_the_specification() {
    assert_eq!(slot_of(b"123456789"), 0x31C3);
}
