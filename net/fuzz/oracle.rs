//! The properties that the decoders of bytes from the network must have, whatever the bytes are.
//!
//! In:     a fuzzer's input; its first byte says what is repaired before the rest is read: checksums (bit 0), which hardly
//!         any change to the bytes would pass, and other fields that would end a connection early (bit 1).
//! Out:    nothing.
//! Fails:  by panicking if an input is accepted that would be written differently, is read differently in pieces, or takes
//!         more memory than its bytes can account for.
//! Source: RULES.md rows I1, I5, N9.
//!
//! Shared by the fuzz targets here and by `tests/corpus.rs`, which replays the corpus and changes of it.

use bytes::{Bytes, BytesMut};
use crc_fast::crc32_iscsi;
use logdrive_net::{
    ClusterId, Lane, LaneMessage,
    frame::{FRAME_HEADER_BYTES, FrameError, FrameOrigin, FrameReader, FrameWriter},
    handshake::{self, HANDSHAKE_BYTES_MAX, Said},
    snapshots::SnapshotMessage,
};
use logdrive_raft::{GroupId, Message, NodeId};

/// The connection that the frames are read on.
pub(crate) fn origin() -> FrameOrigin {
    FrameOrigin { cluster: ClusterId::of("fuzz"), source: NodeId(2), lane: Lane::Append }
}

/// Input: whether to repair, the size of a piece, then all bytes of a connection.
pub(crate) fn frame(input: &[u8]) {
    let [repair, piece, stream @ ..] = input else { return };
    let mut stream = stream.to_vec();
    if repair % 2 == 1 {
        repair_frames(&mut stream, repair & 2 == 2);
    }
    let (bodies, end) = read_frames(&stream, usize::MAX);
    let (pieces, end_in_pieces) = read_frames(&stream, usize::from(*piece) + 1);
    assert_eq!(bodies, pieces, "read at once, and in pieces of {piece}");
    assert_eq!(
        end.as_ref().map(std::mem::discriminant),
        end_in_pieces.as_ref().map(std::mem::discriminant),
        "{end:?} at once, {end_in_pieces:?} in pieces"
    );
    let mut writer = FrameWriter::new(origin());
    let mut written = BytesMut::new();
    for body in &bodies {
        let open = writer.begin(&mut written);
        written.extend_from_slice(body);
        writer.finish(&mut written, open);
    }
    assert!(stream.starts_with(&written), "what was read is not what would be written");
}

/// Input: whether to repair, then one message.
pub(crate) fn handshake(input: &[u8]) {
    let [repair, message @ ..] = input else { return };
    let mut message = message.to_vec();
    if repair % 2 == 1 {
        repair_handshake(&mut message);
    }
    let said = handshake::parse(&message);
    if said.is_ok() {
        assert!(message.len() <= HANDSHAKE_BYTES_MAX, "{} bytes are taken", message.len());
        for short in 0..message.len() {
            assert!(handshake::parse(&message[..short]).is_err(), "{short} bytes are taken too");
        }
    }
    match said {
        Ok(Said::Hello { hello, to }) => {
            assert_eq!(hello.check(), Ok(()), "taken, though out of bounds");
            let again = handshake::parse(&hello.encode(to));
            assert_eq!(again, Ok(Said::Hello { hello, to }));
        }
        Ok(Said::Introduced { hello, to }) => {
            let again = handshake::parse(&hello.encode_introduced(to));
            assert_eq!(again, Ok(Said::Introduced { hello, to }));
        }
        Ok(Said::Refusal { refusal, store }) => {
            let again = handshake::parse(&refusal.encode(store));
            assert_eq!(again, Ok(Said::Refusal { refusal, store }));
        }
        Err(error) => {
            let _ = (handshake::refusal_of(&error), error.to_string());
        }
    }
}

/// Input: the body of a frame with Raft's messages.
pub(crate) fn messages(body: &[u8]) {
    body_of::<Message>(body, 17);
}

/// Input: the body of a bulk lane's frame.
pub(crate) fn snapshots(body: &[u8]) {
    body_of::<SnapshotMessage>(body, 26);
}

/// `least` is the length of the shortest message.
fn body_of<M: LaneMessage>(body: &[u8], least: usize) {
    match M::decode(Bytes::copy_from_slice(body)) {
        Ok(messages) => {
            let owned = messages.capacity() * size_of::<(GroupId, M)>();
            // A list may have twice the room it needs.
            let cost_per_byte = 2 * size_of::<(GroupId, M)>() / least + 1;
            let bound = cost_per_byte * body.len() + 4_096;
            assert!(owned <= bound, "{owned} bytes for a body of {}", body.len());
            let mut written = BytesMut::new();
            let mut bytes = 0;
            for (group, message) in &messages {
                message.encode(&mut written, *group);
                bytes += message.encoded_bytes();
            }
            assert!(written == body, "what was read is not what would be written");
            assert_eq!(bytes, body.len(), "the bytes counted for the messages are not the body's");
        }
        Err(error) => drop(error.to_string()),
    }
}

/// Feeds `stream` in pieces that fit the room offered. Returns the bodies that came out, and the error that ended it.
fn read_frames(mut stream: &[u8], piece: usize) -> (Vec<Bytes>, Option<FrameError>) {
    let mut reader = FrameReader::new(origin(), BODY_BYTES_MAX, READ_BYTES);
    let mut bodies = Vec::new();
    while !stream.is_empty() {
        let room = reader.room();
        let capacity = room.capacity();
        // A buffer that grows may grow to twice what is asked of it.
        assert!(
            capacity <= 2 * (BODY_BYTES_MAX as usize + FRAME_HEADER_BYTES) + READ_BYTES,
            "room of {capacity} bytes for bodies of up to {BODY_BYTES_MAX}"
        );
        let some = piece.min(capacity - room.len()).min(stream.len());
        assert!(some > 0, "no room");
        room.extend_from_slice(&stream[..some]);
        stream = &stream[some..];
        loop {
            match reader.next_body() {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => break,
                Err(error) => return (bodies, Some(error)),
            }
        }
    }
    (bodies, None)
}

/// Repairs what looks like frames: lengths that reach past the input's end, and checksums; with `all`, the other fields of
/// the headers too.
fn repair_frames(stream: &mut [u8], all: bool) {
    let honest = {
        let mut buffer = BytesMut::new();
        let mut writer = FrameWriter::new(origin());
        let open = writer.begin(&mut buffer);
        buffer.extend_from_slice(b"x");
        writer.finish(&mut buffer, open);
        buffer
    };
    let (mut at, mut sequence) = (0, 0_u64);
    while let Some(rest) = stream.get_mut(at..).filter(|rest| rest.len() > FRAME_HEADER_BYTES) {
        let (header, body) = rest.split_at_mut(FRAME_HEADER_BYTES);
        // A length that is possible stays as it is, so that most frames end where the input's author meant.
        let length = u32::from_le_bytes(header[32..36].try_into().expect("four bytes")) as usize;
        let length = if (1..=body.len()).contains(&length) { length } else { body.len() };
        if all {
            header[..24].copy_from_slice(&honest[..24]);
            header[24..32].copy_from_slice(&sequence.to_le_bytes());
            header[40..44].fill(0);
        }
        header[32..36].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        header[36..40].copy_from_slice(&crc32_iscsi(&body[..length]).to_le_bytes());
        let checksum = crc32_iscsi(&header[..44]);
        header[44..].copy_from_slice(&checksum.to_le_bytes());
        at += FRAME_HEADER_BYTES + length;
        sequence += 1;
    }
}

/// Sets the length and the checksum to those of the message, and the cluster's id to that of its name.
fn repair_handshake(message: &mut [u8]) {
    let length = message.len();
    if length < 20 {
        return;
    }
    message[..8].copy_from_slice(b"LOGDRIVE");
    message[10..12].copy_from_slice(&u16::try_from(length - 16).unwrap_or(u16::MAX).to_le_bytes());
    if let Some(name) = message.get(121).map(|name| usize::from(*name))
        && let Some(name) = message.get(122..122 + name)
        && let Ok(name) = str::from_utf8(name)
    {
        let id = ClusterId::of(name).0;
        message[24..32].copy_from_slice(&id.to_le_bytes());
    }
    let checksum = crc32_iscsi(&message[..length - 4]);
    message[length - 4..].copy_from_slice(&checksum.to_le_bytes());
}

/// Small, so that inputs reach the bound.
const BODY_BYTES_MAX: u32 = 4_096;
const READ_BYTES: usize = 256;
