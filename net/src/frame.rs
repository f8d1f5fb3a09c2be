//! Frames: the unit of a lane, made and checked without I/O.
//!
//! In:     [`FrameWriter`] begins a frame in a buffer, the caller adds a body, the writer closes it;
//!         [`FrameReader`] is fed whatever the socket gave.
//! Out:    bytes to send; checked bodies, split off the read buffer without a copy.
//! Cost:   48 bytes a frame and one pass over the body for its checksum. The read buffer grows with
//!         one large frame, to at most twice the agreed bound, and goes back to its usual size when that is read.
//! Fails:  [`FrameError`]; the connection is over then, for nothing after a bad frame can be trusted.
//! Source: RULES.md N8 (replay), N9 (corruption in transit), I1 (lengths).
//!
//! `net/FORMAT.md` draws the header, and all other bytes of the wire.

use crate::{ClusterId, Lane};
use bytes::{Bytes, BytesMut};
use crc_fast::crc32_iscsi;
use logdrive_raft::NodeId;

/// Why bytes are not a frame of this connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not a frame at all.
    #[error("it begins with {0:#010x}, as no frame does")]
    Magic(u32),
    /// The header was damaged on the way.
    #[error("its header's checksum is {found:#010x} and should be {computed:#010x}")]
    HeaderChecksum {
        /// In the header.
        found: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// Not the version agreed on.
    #[error("it is of protocol version {0}, which this node does not speak")]
    Version(u8),
    /// A flag this version does not know.
    #[error("its flags {0:#x} are unknown")]
    Flags(u32),
    /// No lane, or not this connection's.
    #[error("it is of lane {0}, which is not the lane of this connection")]
    Lane(u8),
    /// Another cluster's frame.
    #[error("it is of cluster {found:?} and should be of {wanted:?}")]
    Cluster {
        /// In the header.
        found: ClusterId,
        /// The connection's.
        wanted: ClusterId,
    },
    /// Another node's frame.
    #[error("it is of node {found} and should be of node {wanted}")]
    Source {
        /// In the header.
        found: NodeId,
        /// The connection's.
        wanted: NodeId,
    },
    /// A frame was lost, repeated or replayed.
    #[error("it is frame number {found} and should be {wanted}")]
    Sequence {
        /// In the header.
        found: u64,
        /// The next of the connection.
        wanted: u64,
    },
    /// A body that is empty or over the bound. Nothing was allocated for it.
    #[error("its body has {bytes} bytes, and may have 1 to {max}")]
    Length {
        /// In the header.
        bytes: u32,
        /// The bound.
        max: u32,
    },
    /// The body was damaged on the way.
    #[error("its body's checksum is {found:#010x} and should be {computed:#010x}")]
    BodyChecksum {
        /// In the header.
        found: u32,
        /// Of the body.
        computed: u32,
    },
}

/// The part of the header that is the same in every frame of one connection.
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
    /// The cluster, node and lane that the frame comes from.
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

    /// Checks that the bytes of a header that have come so far begin like a header.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u32 = 4096;
    const READ: usize = 256;

    fn origin() -> FrameOrigin {
        FrameOrigin { cluster: ClusterId(0x1122), source: NodeId(3), lane: Lane::Append }
    }

    fn reader() -> FrameReader {
        FrameReader::new(origin(), MAX, READ)
    }

    fn framed(writer: &mut FrameWriter, body: &[u8]) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        let frame = writer.begin(&mut buffer);
        buffer.extend_from_slice(body);
        writer.finish(&mut buffer, frame);
        buffer.to_vec()
    }

    /// Feeds `bytes` in pieces no larger than the room offered; the bodies that came out.
    fn read(
        reader: &mut FrameReader,
        mut bytes: &[u8],
        piece: usize,
    ) -> Result<Vec<Bytes>, FrameError> {
        let mut bodies = Vec::new();
        while !bytes.is_empty() {
            let room = reader.room();
            let some = piece.min(room.capacity() - room.len()).min(bytes.len());
            assert!(some > 0, "no room");
            room.extend_from_slice(&bytes[..some]);
            bytes = &bytes[some..];
            while let Some(body) = reader.next_body()? {
                bodies.push(body);
            }
        }
        Ok(bodies)
    }

    fn refused(bytes: &[u8]) -> FrameError {
        read(&mut reader(), bytes, usize::MAX).expect_err("a bad frame")
    }

    /// A header of ours with the bytes at `at` replaced and its checksum made good again.
    fn forged(at: usize, with: &[u8]) -> Vec<u8> {
        let mut frame = framed(&mut FrameWriter::new(origin()), b"body");
        frame[at..at + with.len()].copy_from_slice(with);
        let checksum = crc32_iscsi(&frame[..44]);
        frame[44..48].copy_from_slice(&checksum.to_le_bytes());
        frame
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            bodies in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 1..1500), 1..8),
            piece in 1..2000_usize,
        ) {
            let mut writer = FrameWriter::new(origin());
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed(&mut writer, body)).collect();
            let mut reader = reader();
            let out = read(&mut reader, &bytes, piece).expect("frames of ours");
            prop_assert_eq!(out, bodies);
            prop_assert!(!reader.is_inside_frame());
        }

        #[test]
        fn one_flipped_bit_anywhere_delivers_nothing(
            body in proptest::collection::vec(any::<u8>(), 1..100),
            at in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let mut frame = framed(&mut FrameWriter::new(origin()), &body);
            let at = at.index(frame.len());
            frame[at] ^= 1_u8 << bit;
            prop_assert!(read(&mut reader(), &frame, usize::MAX).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_panic_or_a_large_buffer(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            honest_start in any::<bool>(),
        ) {
            let mut stream = if honest_start { forged(0, b"") } else { Vec::new() };
            stream.extend_from_slice(&bytes);
            let mut reader = reader();
            let _ = read(&mut reader, &stream, 64);
            prop_assert!(reader.room().capacity() <= (MAX as usize + READ) * 2);
        }
    }

    #[test]
    fn the_header_on_the_wire_is_this() {
        let frame = framed(&mut FrameWriter::new(origin()), b"123456789");
        // The published check value of CRC-32C is 0xe3069283, over just this body.
        let fixed = "4c444601 01 02 0000 2211000000000000 0300000000000000 0000000000000000 \
                     09000000 839206e3 00000000"
            .replace(' ', "");
        let hex: String = frame[..44].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, fixed);
        assert_eq!(frame[44..48], crc32_iscsi(&frame[..44]).to_le_bytes());
    }

    #[test]
    fn lengths_are_refused_from_the_header_alone() {
        for bytes in [0, MAX + 1, u32::MAX] {
            let mut reader = reader();
            let header = &forged(32, &bytes.to_le_bytes())[..FRAME_HEADER_BYTES];
            let error = read(&mut reader, header, usize::MAX).expect_err("a bad length");
            assert_eq!(error, FrameError::Length { bytes, max: MAX });
            assert!(reader.buffer.capacity() <= READ, "memory was asked for");
        }
    }

    #[test]
    fn frames_of_others_are_refused_by_name() {
        assert!(matches!(refused(&forged(4, &[2])), FrameError::Version(2)));
        assert!(matches!(refused(&forged(5, &[1])), FrameError::Lane(1)));
        assert!(matches!(refused(&forged(5, &[9])), FrameError::Lane(9)));
        assert!(matches!(refused(&forged(6, &[1])), FrameError::Flags(1)));
        assert!(matches!(refused(&forged(40, &[1])), FrameError::Flags(1)));
        assert!(matches!(refused(&forged(8, &[9])), FrameError::Cluster { .. }));
        assert!(matches!(refused(&forged(16, &[9])), FrameError::Source { .. }));
        assert!(matches!(refused(&forged(24, &[1])), FrameError::Sequence { found: 1, wanted: 0 }));
        assert!(matches!(refused(b"G"), FrameError::Magic(_)));
        assert!(matches!(refused(b"GET / HTTP/1.1\r\n"), FrameError::Magic(_)));
    }

    #[test]
    fn a_repeated_frame_is_refused() {
        let frame = framed(&mut FrameWriter::new(origin()), b"body");
        let mut reader = reader();
        assert_eq!(read(&mut reader, &frame, usize::MAX).expect("the first").len(), 1);
        let error = read(&mut reader, &frame, usize::MAX).expect_err("the second");
        assert_eq!(error, FrameError::Sequence { found: 0, wanted: 1 });
    }

    #[test]
    fn a_big_frames_buffer_is_not_kept() {
        let frame = framed(&mut FrameWriter::new(origin()), &[7; MAX as usize]);
        let mut reader = reader();
        assert_eq!(read(&mut reader, &frame, usize::MAX).expect("a big frame").len(), 1);
        assert!(reader.room().capacity() < 2 * READ, "{} bytes", reader.room().capacity());
    }
}
