//! Frames: the unit of a lane, made and checked without I/O.
//!
//! In:     [`FrameWriter`] begins a frame in a buffer, the caller adds a body, the writer closes it;
//!         [`FrameReader`] is fed whatever the socket gave.
//! Out:    bytes to send; checked bodies, split off the read buffer without a copy.
//! Cost:   48 bytes a frame and one pass over the body for its checksum. The read buffer grows to one
//!         frame of at most the agreed bound, and goes back to its usual size when that is read.
//! Fails:  [`FrameError`]; the connection is over then, for nothing after a bad frame can be trusted.
//! Source: FAULTS.md N8 (replay), N9 (corruption in transit), I1 (lengths).
//!
//! Little-endian:
//!
//! ```text
//!  0  u32  magic, "LDF" and 1 on the wire
//!  4  u8   protocol version
//!  5  u8   lane: 1 liveness, 2 append
//!  6  u16  zero; other values are flags this version does not know
//!  8  u64  cluster id
//! 16  u64  source node
//! 24  u64  sequence: 0 for a connection's first frame, then one more each
//! 32  u32  body bytes, 1 to the agreed bound
//! 36  u32  body's CRC-32C
//! 40  u32  zero
//! 44  u32  CRC-32C of bytes 0..44
//! 48       the body: messages (see `codec`)
//! ```

use crate::{ClusterId, Lane};
use bytes::{Bytes, BytesMut};
use crc_fast::crc32_iscsi;
use logdrive_raft::NodeId;

/// Why bytes are not a frame of this connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame at all.
    #[error("no frame begins with {0:#010x}")]
    Magic(u32),
    /// The header was damaged on the way.
    #[error("header checksum is {found:#010x}, should be {computed:#010x}")]
    HeaderChecksum {
        /// In the header.
        found: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// Not the version agreed on.
    #[error("protocol version {0}")]
    Version(u8),
    /// A flag this version does not know.
    #[error("unknown flags {0:#x}")]
    Flags(u32),
    /// No lane, or not this connection's.
    #[error("lane {0}")]
    Lane(u8),
    /// Another cluster's frame.
    #[error("cluster {found:?}, should be {wanted:?}")]
    Cluster {
        /// In the header.
        found: ClusterId,
        /// The connection's.
        wanted: ClusterId,
    },
    /// Another node's frame.
    #[error("source {found:?}, should be {wanted:?}")]
    Source {
        /// In the header.
        found: NodeId,
        /// The connection's.
        wanted: NodeId,
    },
    /// A frame was lost, repeated or replayed.
    #[error("frame {found}, should be {wanted}")]
    Sequence {
        /// In the header.
        found: u64,
        /// The next of the connection.
        wanted: u64,
    },
    /// A body that is empty or over the bound. Nothing was allocated for it.
    #[error("body of {bytes} bytes, allowed are 1 to {max}")]
    Length {
        /// In the header.
        bytes: u32,
        /// The bound.
        max: u32,
    },
    /// The body was damaged on the way.
    #[error("body checksum is {found:#010x}, should be {computed:#010x}")]
    BodyChecksum {
        /// In the header.
        found: u32,
        /// Of the body.
        computed: u32,
    },
}

/// What every frame of one connection says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameOrigin {
    /// The cluster.
    pub cluster: ClusterId,
    /// The sender.
    pub source: NodeId,
    /// The connection's lane.
    pub lane: Lane,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    /// Whose frame it is.
    pub origin: FrameOrigin,
    /// Its place on the connection.
    pub sequence: u64,
    /// Length of the body.
    pub body_bytes: u32,
    /// CRC-32C of the body.
    pub body_checksum: u32,
}

impl FrameHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.origin.lane as u8;
        bytes[8..16].copy_from_slice(&self.origin.cluster.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.origin.source.get().to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.body_checksum.to_le_bytes());
        let checksum = crc32_iscsi(&bytes[..44]);
        bytes[44..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header that claims nothing a frame of this version may not claim. Whether it belongs
    /// to a connection is [`FrameReader`]'s to say.
    ///
    /// # Errors
    /// [`FrameError`], of which `Length` is checked last and before anything is allocated.
    pub fn decode(
        bytes: &[u8; FRAME_HEADER_BYTES],
        body_bytes_max: u32,
    ) -> Result<Self, FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes(field(bytes, at));
        let u64_at = |at: usize| u64::from_le_bytes(field(bytes, at));
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic(u32::from_be_bytes(field(bytes, 0))));
        }
        let (found, computed) = (u32_at(44), crc32_iscsi(&bytes[..44]));
        if found != computed {
            return Err(FrameError::HeaderChecksum { found, computed });
        }
        if bytes[4] != VERSION {
            return Err(FrameError::Version(bytes[4]));
        }
        let flags = u32::from(u16::from_le_bytes(field(bytes, 6)));
        if flags != 0 || u32_at(40) != 0 {
            return Err(FrameError::Flags(flags | u32_at(40)));
        }
        let lane = Lane::from_byte(bytes[5]).ok_or(FrameError::Lane(bytes[5]))?;
        let body_bytes = u32_at(32);
        if body_bytes == 0 || body_bytes > body_bytes_max {
            return Err(FrameError::Length { bytes: body_bytes, max: body_bytes_max });
        }
        Ok(Self {
            origin: FrameOrigin { cluster: ClusterId(u64_at(8)), source: NodeId(u64_at(16)), lane },
            sequence: u64_at(24),
            body_bytes,
            body_checksum: u32_at(36),
        })
    }
}

/// Puts frames of one connection into a buffer.
#[derive(Debug)]
pub struct FrameWriter {
    origin: FrameOrigin,
    sequence: u64,
}

impl FrameWriter {
    /// The writer of a new connection.
    #[must_use]
    pub fn new(origin: FrameOrigin) -> Self {
        Self { origin, sequence: 0 }
    }

    /// Leaves room for a header at the buffer's end. The body is appended after it.
    pub fn begin(&self, buffer: &mut BytesMut) -> OpenFrame {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        OpenFrame { start }
    }

    /// Fills in the header of the frame that ends where the buffer ends. Panics if its body is empty
    /// or does not fit 32 bits.
    pub fn finish(&mut self, buffer: &mut BytesMut, frame: OpenFrame) {
        let body = &buffer[frame.start + FRAME_HEADER_BYTES..];
        assert!(!body.is_empty(), "a frame without messages");
        let header = FrameHeader {
            origin: self.origin,
            sequence: self.sequence,
            body_bytes: u32::try_from(body.len()).expect("a body fits 32 bits"),
            body_checksum: crc32_iscsi(body),
        };
        buffer[frame.start..frame.start + FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        self.sequence += 1;
    }
}

/// A frame that has room for its header but not yet its header.
#[derive(Debug)]
#[must_use = "finish the frame"]
pub struct OpenFrame {
    start: usize,
}

impl OpenFrame {
    /// Bytes of body so far.
    #[must_use]
    pub fn body_bytes(&self, buffer: &BytesMut) -> usize {
        buffer.len() - self.start - FRAME_HEADER_BYTES
    }
}

/// Splits a connection's bytes into the bodies of its frames.
#[derive(Debug)]
pub struct FrameReader {
    origin: FrameOrigin,
    body_bytes_max: u32,
    read_bytes: usize,
    sequence: u64,
    /// The header of the frame whose body is being read.
    open: Option<FrameHeader>,
    buffer: BytesMut,
    /// The buffer was made larger than `read_bytes` for one big frame.
    grown: bool,
}

impl FrameReader {
    /// A reader of a connection on which everything is of `origin`. `read_bytes` is the room usually
    /// offered to the socket.
    #[must_use]
    pub fn new(origin: FrameOrigin, body_bytes_max: u32, read_bytes: usize) -> Self {
        assert!(read_bytes >= FRAME_HEADER_BYTES, "no room for a header in {read_bytes} bytes");
        Self {
            origin,
            body_bytes_max,
            read_bytes,
            sequence: 0,
            open: None,
            buffer: BytesMut::new(),
            grown: false,
        }
    }

    /// Where the next bytes go, with room for the rest of the frame that has begun.
    pub fn room(&mut self) -> &mut BytesMut {
        if self.grown && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.grown = false;
        }
        let spare = self.buffer.capacity() - self.buffer.len();
        let missing = match &self.open {
            Some(header) => (header.body_bytes as usize).saturating_sub(self.buffer.len()),
            None => FRAME_HEADER_BYTES.saturating_sub(self.buffer.len()),
        };
        // A quarter of the usual room is enough to go on with: the buffer is replaced four times
        // less often than by topping it up at every read.
        if spare < missing.max(self.read_bytes / 4) {
            self.grown |= missing > self.read_bytes;
            self.buffer.reserve(missing.max(self.read_bytes));
        }
        &mut self.buffer
    }

    /// The body of the next whole frame, checked against its checksum; `None` if more bytes are
    /// needed first.
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed. A bad length is found before the body has come.
    pub fn next_body(&mut self) -> Result<Option<Bytes>, FrameError> {
        let header = match self.open {
            Some(header) => header,
            None => {
                let Some(bytes) = self.buffer.first_chunk::<FRAME_HEADER_BYTES>() else {
                    return self.check_magic();
                };
                let header = FrameHeader::decode(bytes, self.body_bytes_max)?;
                self.check_belongs(&header)?;
                let _ = self.buffer.split_to(FRAME_HEADER_BYTES);
                self.open = Some(header);
                header
            }
        };
        let body_bytes = header.body_bytes as usize;
        if self.buffer.len() < body_bytes {
            return Ok(None);
        }
        let body = self.buffer.split_to(body_bytes).freeze();
        let (found, computed) = (header.body_checksum, crc32_iscsi(&body));
        if found != computed {
            return Err(FrameError::BodyChecksum { found, computed });
        }
        self.open = None;
        self.sequence += 1;
        Ok(Some(body))
    }

    /// True if a frame has begun and not ended.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.open.is_some() || !self.buffer.is_empty()
    }

    /// Bytes of body the frame that has begun promises, if its header is here.
    #[must_use]
    pub fn open_body_bytes(&self) -> Option<u32> {
        self.open.map(|header| header.body_bytes)
    }

    /// What has come of a header must at least begin like one.
    fn check_magic(&self) -> Result<Option<Bytes>, FrameError> {
        let seen = self.buffer.len().min(MAGIC.len());
        if self.buffer[..seen] == MAGIC[..seen] {
            return Ok(None);
        }
        let mut magic = [0; 4];
        magic[..seen].copy_from_slice(&self.buffer[..seen]);
        Err(FrameError::Magic(u32::from_be_bytes(magic)))
    }

    fn check_belongs(&self, header: &FrameHeader) -> Result<(), FrameError> {
        let (found, wanted) = (header.origin, self.origin);
        if found.cluster != wanted.cluster {
            return Err(FrameError::Cluster { found: found.cluster, wanted: wanted.cluster });
        }
        if found.source != wanted.source {
            return Err(FrameError::Source { found: found.source, wanted: wanted.source });
        }
        if found.lane != wanted.lane {
            return Err(FrameError::Lane(found.lane as u8));
        }
        if header.sequence != self.sequence {
            return Err(FrameError::Sequence { found: header.sequence, wanted: self.sequence });
        }
        Ok(())
    }
}

fn field<const N: usize>(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk::<N>().expect("fields lie inside the header")
}

/// Bytes of a frame before its body.
pub const FRAME_HEADER_BYTES: usize = 48;

const MAGIC: [u8; 4] = *b"LDF\x01";
const VERSION: u8 = 1;
