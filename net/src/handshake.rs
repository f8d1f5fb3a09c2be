//! The first message each way on a connection: who is there, and whether we go on. No I/O.
//!
//! In:     a [`Hello`] of our own, and the bytes of the other end.
//! Out:    the other end's [`Hello`], or a typed [`Refusal`] it can log.
//! Cost:   at most [`HANDSHAKE_BYTES_MAX`] bytes each way; nothing larger is allocated before success.
//! Fails:  [`HandshakeError`] for bytes that are no handshake, at the first byte that shows it.
//! Source: RULES.md I2, I6 (strangers), N13 (wrong address), P6 and C7 (see `stores`), I13.
//!
//! The dialer speaks first. `net/FORMAT.md` draws the messages.
//!
//! A refusal may end after its reason, so that any version can say that it speaks no other. It carries no secret, because
//! whoever is refused has not shown to be a peer.

use crate::stores::{Proof, get_opening, put_opening};
use crate::{Lane, NetError};
use bytes::BufMut;
use crc_fast::{CrcAlgorithm, checksum, crc32_iscsi};
use logdrive_raft::NodeId;
use std::fmt;
use std::time::Duration;

/// A cluster's name, made short enough for every frame.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// The id of the cluster called `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(checksum(CrcAlgorithm::Crc64Nvme, name.as_bytes()))
    }
}

/// The statement that an end of a connection makes about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// [`ClusterId::of`] `cluster_name`.
    pub cluster: ClusterId,
    /// The cluster's name, 1 to [`CLUSTER_NAME_BYTES_MAX`] bytes.
    pub cluster_name: String,
    /// The node.
    pub node: NodeId,
    /// Which of the node's lives this is: higher after every restart.
    pub incarnation: u64,
    /// That it is the directory which the receiver knows; see [`crate::stores`].
    pub proof: Proof,
    /// The dialer's shard; in an answer, the shard that reads the connection.
    pub shard: u32,
    /// How many shards the node has, 1 to [`SHARDS_MAX`].
    pub shards: u32,
    /// The largest command that the node's directory was founded for, in bytes: the segments of its peers must hold as much.
    pub command_bytes_founded: u32,
    /// The checksum of the settings that the embedder fixes for the whole cluster: nodes that were founded with other
    /// settings are refused.
    pub settings: u32,
    /// A leader on the node says at least this often that it is alive.
    pub heartbeat: Duration,
    /// A follower on the node that hears no leader stands after one to two of these.
    pub election_timeout: Duration,
    /// The purpose of the connection.
    pub lane: Lane,
    /// Where the node's clients should go, at most [`CLIENT_ADDRESS_BYTES_MAX`] bytes. May be empty.
    pub client_address: String,
}

#[cfg(test)]
impl Hello {
    /// For tests: the node of that number, of one shard, in its fifth life, with no proof.
    pub(crate) fn of(node: u64) -> Self {
        Self {
            cluster: ClusterId::of("blue"),
            cluster_name: "blue".into(),
            node: NodeId(node),
            incarnation: 5,
            proof: Proof::default(),
            shard: 0,
            shards: 1,
            command_bytes_founded: 1 << 20,
            settings: 7,
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            lane: Lane::Append,
            client_address: String::new(),
        }
    }
}

impl Hello {
    /// Says which field is not within its bounds, if any.
    ///
    /// # Errors
    /// [`HandshakeError::Field`].
    pub fn check(&self) -> Result<(), HandshakeError> {
        let name = self.cluster_name.len();
        if name == 0
            || name > CLUSTER_NAME_BYTES_MAX
            || self.cluster != ClusterId::of(&self.cluster_name)
        {
            return Err(HandshakeError::Field("cluster name"));
        }
        if self.node == NodeId(0) {
            return Err(HandshakeError::Field("node"));
        }
        if self.shards == 0 || self.shards > SHARDS_MAX || self.shard >= self.shards {
            return Err(HandshakeError::Field("shard"));
        }
        if self.client_address.len() > CLIENT_ADDRESS_BYTES_MAX {
            return Err(HandshakeError::Field("client address"));
        }
        Ok(())
    }

    /// The bytes that say this to the node `to`. Panics if [`Hello::check`] fails.
    #[must_use]
    pub fn encode(&self, to: NodeId) -> Vec<u8> {
        self.encode_as(KIND_HELLO, to)
    }

    /// [`Self::encode`], for a dialer that was introduced and must dial again. Panics likewise.
    #[must_use]
    pub fn encode_introduced(&self, to: NodeId) -> Vec<u8> {
        self.encode_as(KIND_INTRODUCED, to)
    }

    fn encode_as(&self, kind: u8, to: NodeId) -> Vec<u8> {
        if let Err(error) = self.check() {
            panic!("a hello of our own is out of bounds: {error}");
        }
        let mut bytes = prefix(kind);
        bytes.put_u64_le(to.get());
        bytes.put_u64_le(self.cluster.0);
        bytes.put_u64_le(self.node.get());
        bytes.put_u64_le(self.incarnation);
        bytes.put_u128_le(self.proof.store);
        bytes.put_u64_le(self.proof.nonce);
        put_opening(&mut bytes, self.proof.noted);
        bytes.put_u128_le(self.proof.noted_by);
        bytes.put_u32_le(self.command_bytes_founded);
        bytes.put_u32_le(self.settings);
        bytes.put_u32_le(self.shard);
        bytes.put_u32_le(self.shards);
        for time in [self.heartbeat, self.election_timeout] {
            bytes.put_u64_le(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
        bytes.put_u8(self.lane as u8);
        for text in [&self.cluster_name, &self.client_address] {
            bytes.put_u8(u8::try_from(text.len()).expect("checked above"));
            bytes.put_slice(text.as_bytes());
        }
        seal(bytes)
    }
}

/// Why a connection was not accepted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// No common protocol version.
    Version,
    /// The clusters' names differ.
    Cluster,
    /// The directories of the two nodes were made with different settings of the embedder.
    OtherSettings,
    /// The dialer is not among the nodes known here.
    UnknownNode,
    /// The dialer has the acceptor's own node id.
    Itself,
    /// The dialer meant another node than the one it reached.
    WrongNode,
    /// The node has been heard in a later life, or another copy of its directory has been.
    EarlierLife,
    /// The dialer's hello could not be read.
    Malformed,
    /// The node is known with another directory: this one was made anew under its id.
    OtherStore,
    /// A later opening of the node's directory is known: this one is an old copy, or another of two copies.
    Copy,
    /// The dialer is sure that the acceptor remembers it, and it does not: the acceptor has lost its own directory.
    Forgotten,
    /// The segments of the node that refuses do not hold the largest command that the other node takes from clients.
    SmallSegments,
    /// A reason this version does not know.
    Other(u8),
}

impl Refusal {
    /// The bytes by which the node with the directory `store` says this.
    #[must_use]
    pub fn encode(self, store: u128) -> Vec<u8> {
        let mut bytes = prefix(KIND_REFUSAL);
        bytes.put_u8(self.code());
        bytes.put_u128_le(store);
        seal(bytes)
    }

    /// True if the refused directory must not be used any more: it has forgotten what its node promised.
    #[must_use]
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::OtherStore | Self::Copy)
    }

    fn code(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::UnknownNode => 3,
            Self::Itself => 4,
            Self::WrongNode => 5,
            Self::EarlierLife => 6,
            Self::Malformed => 7,
            Self::OtherStore => 9,
            Self::Copy => 10,
            Self::Forgotten => 11,
            Self::SmallSegments => 12,
            Self::OtherSettings => 13,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::UnknownNode,
            4 => Self::Itself,
            5 => Self::WrongNode,
            6 => Self::EarlierLife,
            7 => Self::Malformed,
            9 => Self::OtherStore,
            10 => Self::Copy,
            11 => Self::Forgotten,
            12 => Self::SmallSegments,
            13 => Self::OtherSettings,
            code => Self::Other(code),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "the two nodes have no protocol version in common",
            Self::Cluster => "the cluster names of the two nodes differ",
            Self::OtherSettings => {
                "the directories of the two nodes were made with different settings of the cluster"
            }
            Self::UnknownNode => "the node is not among the peers that the other was given",
            Self::Itself => "the node has the same id as the one it dialled",
            Self::WrongNode => "the address leads to another node",
            Self::EarlierLife => {
                "a later start of the node, or of another copy of its directory, has been heard"
            }
            Self::Malformed => "the hello could not be read",
            Self::OtherStore => "the node is known with another directory than this one",
            Self::Copy => "the node is known with a later state of its directory",
            Self::Forgotten => {
                "the other node has forgotten this one, so it must have lost its directory"
            }
            Self::SmallSegments => {
                "the segments of the node that refuses do not hold the largest command of the other"
            }
            Self::Other(code) => {
                return write!(f, "reason {code}, which this version does not know");
            }
        })
    }
}

/// Why bytes are not a handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Something else speaks here (HTTP, TLS, noise).
    #[error("it does not begin as a handshake does")]
    Magic,
    /// The connection ended inside the message.
    #[error("the connection ended after {0} bytes of it")]
    Ended(usize),
    /// Longer than any handshake, or not as long as its own fields.
    #[error("it cannot be {0} bytes long")]
    Length(usize),
    /// Damaged on the way.
    #[error(
        "its checksum is {found:#010x} and should be {computed:#010x}: it was damaged on the way"
    )]
    Checksum {
        /// In the message.
        found: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// Neither hello nor refusal.
    #[error("it is of the unknown kind {0}")]
    Kind(u8),
    /// Versions that we do not speak.
    #[error("it offers the protocol versions {low} to {high}, and this node speaks {VERSION}")]
    Version {
        /// The lowest it speaks.
        low: u16,
        /// The highest it speaks.
        high: u16,
    },
    /// A field out of its bounds, or an answer that does not fit the question.
    #[error("a field is out of its bounds or does not fit: {0}")]
    Field(&'static str),
}

/// A message from the other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Said {
    /// The other end's hello.
    Hello {
        /// The other end's statement about itself.
        hello: Hello,
        /// The node that the other end means to speak to.
        to: NodeId,
    },
    /// The hello of an acceptor that did not remember the dialer's opening but does now.
    Introduced {
        /// The acceptor's statement about itself.
        hello: Hello,
        /// The node that the acceptor means to speak to.
        to: NodeId,
    },
    /// The other end's refusal of our connection.
    Refusal {
        /// The reason.
        refusal: Refusal,
        /// The directory of the node that refuses; 0 if it does not say.
        store: u128,
    },
}

/// Reads one whole handshake message.
///
/// # Errors
/// [`HandshakeError`] if it is none; a version we do not speak is found before the fields that a
/// later version may have changed.
pub fn parse(message: &[u8]) -> Result<Said, HandshakeError> {
    let length = message_bytes(message)?;
    if message.len() != length {
        return Err(HandshakeError::Ended(message.len()));
    }
    let (body, found) = message.split_at(length - CHECKSUM_BYTES);
    let mut fields = Fields { bytes: found };
    let found = u32::from_le_bytes(fields.array()?);
    let computed = crc32_iscsi(body);
    if found != computed {
        return Err(HandshakeError::Checksum { found, computed });
    }
    fields.bytes = &body[8..];
    let [kind, _zero] = fields.array()?;
    let _length: [u8; 2] = fields.array()?;
    let low = u16::from_le_bytes(fields.array()?);
    let high = u16::from_le_bytes(fields.array()?);
    match kind {
        // Read whatever the versions are: it may be about them.
        KIND_REFUSAL => {
            let [code] = fields.array()?;
            let store = if fields.bytes.is_empty() { [0; 16] } else { fields.array()? };
            let (refusal, store) = (Refusal::from_code(code), u128::from_le_bytes(store));
            return Ok(Said::Refusal { refusal, store });
        }
        KIND_HELLO | KIND_INTRODUCED => {}
        kind => return Err(HandshakeError::Kind(kind)),
    }
    if low > VERSION || high < VERSION {
        return Err(HandshakeError::Version { low, high });
    }
    let to = NodeId(u64::from_le_bytes(fields.array()?));
    let cluster = ClusterId(u64::from_le_bytes(fields.array()?));
    let node = NodeId(u64::from_le_bytes(fields.array()?));
    let incarnation = u64::from_le_bytes(fields.array()?);
    let store = u128::from_le_bytes(fields.array()?);
    let nonce = u64::from_le_bytes(fields.array()?);
    let noted: [u8; 16] = fields.array()?;
    let noted_by = u128::from_le_bytes(fields.array()?);
    let proof = Proof { store, nonce, noted: get_opening(&mut &noted[..]), noted_by };
    let command_bytes_founded = u32::from_le_bytes(fields.array()?);
    let settings = u32::from_le_bytes(fields.array()?);
    let shard = u32::from_le_bytes(fields.array()?);
    let shards = u32::from_le_bytes(fields.array()?);
    let heartbeat = Duration::from_nanos(u64::from_le_bytes(fields.array()?));
    let election_timeout = Duration::from_nanos(u64::from_le_bytes(fields.array()?));
    let [lane] = fields.array()?;
    let lane = Lane::from_byte(lane).ok_or(HandshakeError::Field("lane"))?;
    let cluster_name = fields.text("cluster name")?;
    let client_address = fields.text("client address")?;
    if !fields.bytes.is_empty() {
        return Err(HandshakeError::Length(length));
    }
    let hello = Hello {
        cluster,
        cluster_name,
        node,
        incarnation,
        proof,
        shard,
        shards,
        command_bytes_founded,
        settings,
        heartbeat,
        election_timeout,
        lane,
        client_address,
    };
    hello.check()?;
    match kind {
        KIND_INTRODUCED => Ok(Said::Introduced { hello, to }),
        _ => Ok(Said::Hello { hello, to }),
    }
}

/// Judges a dialer's hello; `known` are the nodes that may dial.
///
/// # Errors
/// The [`Refusal`] to send back.
pub fn judge(me: &Hello, known: &[NodeId], hello: &Hello, to: NodeId) -> Result<(), Refusal> {
    if hello.cluster != me.cluster || hello.cluster_name != me.cluster_name {
        return Err(Refusal::Cluster);
    }
    if hello.node == me.node {
        return Err(Refusal::Itself);
    }
    if to != me.node {
        return Err(Refusal::WrongNode);
    }
    if !known.contains(&hello.node) {
        return Err(Refusal::UnknownNode);
    }
    if hello.settings != me.settings {
        return Err(Refusal::OtherSettings);
    }
    Ok(())
}

/// The refusal that answers a hello which could not be read; `None` if the other end speaks something
/// else and would not understand one.
#[must_use]
pub fn refusal_of(error: &HandshakeError) -> Option<Refusal> {
    match error {
        HandshakeError::Magic | HandshakeError::Ended(_) => None,
        HandshakeError::Version { .. } => Some(Refusal::Version),
        _ => Some(Refusal::Malformed),
    }
}

/// The answer to a hello, from the node that the dialer meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The connection is open.
    Welcome(Hello),
    /// The acceptor did not remember this opening of the dialer's directory, and does now.
    Introduced(Hello),
    /// The connection is closed.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The acceptor's directory; 0 if it does not say.
        store: u128,
    },
}

/// Reads the answer to the hello `me`, which was for `peer`. Whether the acceptor's directory is the one that the peer is
/// known with is for [`crate::stores::Acquaintances::hear`].
///
/// # Errors
/// [`NetError`]: the connection must be closed; the acceptor is told nothing.
pub fn judge_answer(me: &Hello, peer: NodeId, answer: &[u8]) -> Result<Answer, NetError> {
    let (hello, to, is_welcome) = match parse(answer)? {
        Said::Hello { hello, to } => (hello, to, true),
        Said::Introduced { hello, to } => (hello, to, false),
        Said::Refusal { refusal, store } => return Ok(Answer::Refused { refusal, store }),
    };
    if hello.cluster_name != me.cluster_name {
        return Err(NetError::Refused(Refusal::Cluster));
    }
    if hello.node != peer || to != me.node {
        return Err(NetError::Refused(Refusal::WrongNode));
    }
    if hello.settings != me.settings {
        return Err(NetError::Refused(Refusal::OtherSettings));
    }
    if hello.lane != me.lane {
        return Err(HandshakeError::Field("lane").into());
    }
    Ok(if is_welcome { Answer::Welcome(hello) } else { Answer::Introduced(hello) })
}

/// Collects the bytes of one message, and not one byte more.
#[derive(Debug)]
pub struct MessageReader {
    message: [u8; HANDSHAKE_BYTES_MAX],
    have: usize,
    wanted: usize,
}

impl MessageReader {
    /// Has read nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { message: [0; HANDSHAKE_BYTES_MAX], have: 0, wanted: PREFIX_BYTES }
    }

    /// Where the next bytes go. Empty only once the message is whole.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.message[self.have..self.wanted]
    }

    /// Counts `bytes` that were put into the room, none if the connection ended. Returns the message once it is whole.
    ///
    /// # Errors
    /// [`HandshakeError`] at the first byte that no handshake has.
    pub fn filled(&mut self, bytes: usize) -> Result<Option<&[u8]>, HandshakeError> {
        if bytes == 0 {
            return Err(HandshakeError::Ended(self.have));
        }
        self.have += bytes;
        let seen = self.have.min(MAGIC.len());
        if self.message[..seen] != MAGIC[..seen] {
            return Err(HandshakeError::Magic);
        }
        if self.have == PREFIX_BYTES {
            self.wanted = message_bytes(&self.message[..self.have])?;
        }
        Ok((self.have == self.wanted).then_some(&self.message[..self.have]))
    }
}

impl Default for MessageReader {
    fn default() -> Self {
        Self::new()
    }
}

/// Length of the message that begins with `start`, prefix included.
fn message_bytes(start: &[u8]) -> Result<usize, HandshakeError> {
    if start.len() < PREFIX_BYTES {
        return Err(HandshakeError::Ended(start.len()));
    }
    if !start.starts_with(&MAGIC) {
        return Err(HandshakeError::Magic);
    }
    let length = PREFIX_BYTES + usize::from(u16::from_le_bytes([start[10], start[11]]));
    if !(PREFIX_BYTES + 1 + CHECKSUM_BYTES..=HANDSHAKE_BYTES_MAX).contains(&length) {
        return Err(HandshakeError::Length(length));
    }
    Ok(length)
}

fn prefix(kind: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HANDSHAKE_BYTES_MAX);
    bytes.put_slice(&MAGIC);
    bytes.put_u8(kind);
    bytes.put_u8(0);
    bytes.put_u16_le(0);
    bytes.put_u16_le(VERSION);
    bytes.put_u16_le(VERSION);
    bytes
}

/// Fills in the length and adds the checksum.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let after =
        u16::try_from(bytes.len() + CHECKSUM_BYTES - PREFIX_BYTES).expect("bounded by its fields");
    bytes[10..12].copy_from_slice(&after.to_le_bytes());
    let checksum = crc32_iscsi(&bytes);
    bytes.put_u32_le(checksum);
    bytes
}

struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], HandshakeError> {
        let (field, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(HandshakeError::Field("length: fields are missing"))?;
        self.bytes = rest;
        Ok(*field)
    }

    fn text(&mut self, what: &'static str) -> Result<String, HandshakeError> {
        let [length] = self.array()?;
        let (text, rest) =
            self.bytes.split_at_checked(usize::from(length)).ok_or(HandshakeError::Field(what))?;
        self.bytes = rest;
        let text = std::str::from_utf8(text).map_err(|_| HandshakeError::Field(what))?;
        // It will be printed in logs and told to clients.
        if text.chars().any(char::is_control) {
            return Err(HandshakeError::Field(what));
        }
        Ok(text.to_owned())
    }
}

/// No handshake message is longer.
pub const HANDSHAKE_BYTES_MAX: usize = 512;
/// A cluster's name is at most this long.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// An advertised client address is at most this long.
pub const CLIENT_ADDRESS_BYTES_MAX: usize = 255;
/// A node has at most this many shards, so that a peer cannot make us keep a place for each of 2^32.
pub const SHARDS_MAX: u32 = 1024;

const MAGIC: [u8; 8] = *b"LOGDRIVE";
const VERSION: u16 = 4;
const PREFIX_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
const PROOF_BYTES: usize = 2 * 16 + 3 * 8;
const HELLO_FIXED_BYTES: usize =
    PREFIX_BYTES + 4 * 8 + PROOF_BYTES + 4 * 4 + 2 * 8 + 3 + CHECKSUM_BYTES;
const _: () = assert!(
    HELLO_FIXED_BYTES + CLUSTER_NAME_BYTES_MAX + CLIENT_ADDRESS_BYTES_MAX <= HANDSHAKE_BYTES_MAX
);

const KIND_HELLO: u8 = 1;
const KIND_REFUSAL: u8 = 2;
const KIND_INTRODUCED: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::Opening;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            proof: Proof {
                store: 7,
                nonce: 8,
                noted: Some(Opening { incarnation: 4, nonce: 9 }),
                noted_by: 10,
            },
            shard: 1,
            shards: 4,
            client_address: "10.0.0.2:6379".into(),
            ..Hello::of(2)
        }
    }

    /// `message` with the bytes at `at` replaced and its checksum made good again.
    fn forged(mut message: Vec<u8>, at: usize, with: &[u8]) -> Result<Said, HandshakeError> {
        message[at..at + with.len()].copy_from_slice(with);
        message.truncate(message.len() - CHECKSUM_BYTES);
        let checksum = crc32_iscsi(&message);
        message.put_u32_le(checksum);
        parse(&message)
    }

    #[test]
    fn a_hello_reads_as_it_was_written() {
        for (name, address) in [("b", ""), ("blue", "x:1"), (&"n".repeat(64), &"a".repeat(255))] {
            let hello = Hello {
                cluster: ClusterId::of(name),
                cluster_name: name.into(),
                client_address: address.into(),
                ..hello()
            };
            let bytes = hello.encode(NodeId(9));
            assert!(bytes.len() <= HANDSHAKE_BYTES_MAX);
            let introduced = hello.encode_introduced(NodeId(9));
            let said = Said::Introduced { hello: hello.clone(), to: NodeId(9) };
            assert_eq!(parse(&introduced), Ok(said));
            assert_eq!(parse(&bytes), Ok(Said::Hello { hello, to: NodeId(9) }));
        }
    }

    #[test]
    fn the_bytes_on_the_wire_are_these() {
        let bytes = hello().encode(NodeId(9));
        // CRC-64/NVME of "123456789", as published: the hash of the name is this and no other.
        assert_eq!(ClusterId::of("123456789"), ClusterId(0xae8b_1486_0a79_9888));
        let fixed = "4c4f474452495645 01 00 9000 0400 0400 0900000000000000".replace(' ', "");
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&bytes[..24]), fixed);
        let fixed = "0200000000000000 0500000000000000 07000000000000000000000000000000 \
                     0800000000000000 0400000000000000 0900000000000000 \
                     0a000000000000000000000000000000 00001000 07000000 \
                     01000000 04000000 00e1f50500000000 00ca9a3b00000000 02 04 626c7565 0d"
            .replace(' ', "");
        assert_eq!(hex(&bytes[32..143]), fixed);
        assert_eq!(bytes.len(), 16 + 0x90);
    }

    #[test]
    fn refusals_read_as_they_were_written() {
        for code in 0..=u8::MAX {
            let refusal = Refusal::from_code(code);
            assert_eq!(refusal.code(), code);
            let said = Said::Refusal { refusal, store: u128::MAX - 1 };
            assert_eq!(parse(&refusal.encode(u128::MAX - 1)), Ok(said));
        }
    }

    #[test]
    fn a_refusal_is_read_whatever_its_version() {
        let said = |store| Ok(Said::Refusal { refusal: Refusal::Version, store });
        let refusal = Refusal::Version.encode(5);
        assert_eq!(forged(refusal.clone(), 12, &[7, 0, 9, 0]), said(5));
        // Versions 1 and 2 do not say their store.
        let mut short = [&refusal[..17], &[0; CHECKSUM_BYTES]].concat();
        short[10] = 5;
        assert_eq!(forged(short, 12, &[1, 0, 2, 0]), said(0));
    }

    #[test]
    fn other_versions_are_refused_and_ranges_that_meet_are_not() {
        let bytes = hello().encode(NodeId(9));
        let error = forged(bytes.clone(), 12, &[5, 0, 9, 0]).expect_err("versions 5 to 9");
        assert_eq!(error, HandshakeError::Version { low: 5, high: 9 });
        assert_eq!(refusal_of(&error), Some(Refusal::Version));
        assert!(forged(bytes, 12, &[1, 0, 9, 0]).is_ok());
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        let bytes = hello().encode(NodeId(9));
        let field = |at, with: &[u8]| match forged(bytes.clone(), at, with) {
            Err(HandshakeError::Field(name)) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(24, &[0; 8]), "cluster name");
        assert_eq!(field(32, &[0; 8]), "node");
        assert_eq!(field(112, &[4]), "shard");
        assert_eq!(field(116, &[0; 4]), "shard");
        assert_eq!(field(116, &[0xff; 4]), "shard");
        assert_eq!(field(136, &[4]), "lane");
        assert_eq!(field(137, &[200]), "cluster name");
        assert_eq!(field(143, b"\n"), "client address");
        assert_eq!(forged(bytes.clone(), 8, &[4]), Err(HandshakeError::Kind(4)));
        assert!(matches!(forged(bytes.clone(), 10, &[0, 2]), Err(HandshakeError::Length(528))));
        assert!(matches!(forged(bytes.clone(), 10, &[0, 0]), Err(HandshakeError::Length(16))));
    }

    #[test]
    fn strangers_are_told_why() {
        let me = Hello { node: NodeId(9), ..hello() };
        let known = [NodeId(2), NodeId(9)];
        let judged = |hello: &Hello, to| judge(&me, &known, hello, NodeId(to));
        assert_eq!(judged(&hello(), 9), Ok(()));
        assert_eq!(judged(&hello(), 8), Err(Refusal::WrongNode));
        assert_eq!(judged(&Hello { node: NodeId(9), ..hello() }, 9), Err(Refusal::Itself));
        assert_eq!(judged(&Hello { node: NodeId(4), ..hello() }, 9), Err(Refusal::UnknownNode));
        let red = Hello { cluster: ClusterId::of("red"), cluster_name: "red".into(), ..hello() };
        assert_eq!(judged(&red, 9), Err(Refusal::Cluster));
        let other = Hello { settings: 8, ..hello() };
        assert_eq!(judged(&other, 9), Err(Refusal::OtherSettings));
    }

    #[test]
    fn a_message_is_collected_from_pieces_and_not_one_byte_more() {
        let sent = hello().encode(NodeId(9));
        for piece in [1, 7, 16, 17, HANDSHAKE_BYTES_MAX] {
            let mut stream = [&sent[..], b"the first frame"].concat();
            let mut reader = MessageReader::new();
            let message = loop {
                let bytes = piece.min(stream.len()).min(reader.room().len());
                reader.room()[..bytes].copy_from_slice(&stream[..bytes]);
                stream.drain(..bytes);
                if let Some(message) = reader.filled(bytes).expect("a hello of ours") {
                    break message.to_vec();
                }
            };
            assert_eq!((message, stream), (sent.clone(), b"the first frame".to_vec()));
        }
        let mut reader = MessageReader::new();
        reader.room()[..2].copy_from_slice(b"LX");
        assert_eq!(reader.filled(2), Err(HandshakeError::Magic), "at the first byte that shows it");
        assert_eq!(MessageReader::new().filled(0), Err(HandshakeError::Ended(0)));
    }

    #[test]
    fn a_dialer_takes_no_other_node_or_lane_for_its_peer() {
        let me = Hello { node: NodeId(9), ..hello() };
        let judged = |answer: &Hello, to| judge_answer(&me, NodeId(2), &answer.encode(NodeId(to)));
        assert_eq!(judged(&hello(), 9).expect("the peer"), Answer::Welcome(hello()));
        let introduced = judge_answer(&me, NodeId(2), &hello().encode_introduced(NodeId(9)));
        assert_eq!(introduced.expect("the peer"), Answer::Introduced(hello()));
        let red = Hello { cluster: ClusterId::of("red"), cluster_name: "red".into(), ..hello() };
        assert!(matches!(judged(&red, 9), Err(NetError::Refused(Refusal::Cluster))));
        let other = Hello { settings: 8, ..hello() };
        assert!(matches!(judged(&other, 9), Err(NetError::Refused(Refusal::OtherSettings))));
        assert!(matches!(judged(&hello(), 8), Err(NetError::Refused(Refusal::WrongNode))));
        let other = Hello { node: NodeId(3), ..hello() };
        assert!(matches!(judged(&other, 9), Err(NetError::Refused(Refusal::WrongNode))));
        let other = Hello { lane: Lane::Liveness, ..hello() };
        assert!(matches!(
            judged(&other, 9),
            Err(NetError::Handshake(HandshakeError::Field("lane")))
        ));
        let refused = judge_answer(&me, NodeId(2), &Refusal::UnknownNode.encode(3));
        let said = Answer::Refused { refusal: Refusal::UnknownNode, store: 3 };
        assert_eq!(refused.expect("an answer"), said);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            honest_start in any::<bool>(),
        ) {
            let mut message = if honest_start { MAGIC.to_vec() } else { Vec::new() };
            message.extend_from_slice(&bytes);
            prop_assert!(parse(&message).is_err());
        }

        #[test]
        fn damage_behind_a_good_checksum_is_read_without_panic(
            at in 0..130_usize,
            with in proptest::collection::vec(any::<u8>(), 1..6),
        ) {
            if let Ok(Said::Hello { hello, to }) = forged(hello().encode(NodeId(9)), at, &with) {
                prop_assert!(hello.check().is_ok());
                let again = parse(&hello.encode(to));
                prop_assert_eq!(again, Ok(Said::Hello { hello, to }));
            }
        }
    }
}
