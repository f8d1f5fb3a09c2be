//! The messages by which a replica pulls a snapshot: their bytes, their bounds, and what fits together. No I/O.
//!
//! In:     [`SnapshotMessage`]s to write; bodies of a bulk lane's frames to read.
//! Out:    bytes; checked messages, whose contents are slices of the body.
//! Cost:   a content is copied out once and never in. Nothing is allocated for what a message claims, only for what is there.
//! Fails:  [`CodecError`] for a message that cannot be, [`PullError`] for one that does not fit what was offered or asked.
//! Source: RULES.md I1, I5; rules 28, 29; paper §7.
//!
//! A leader whose log begins behind what a follower needs (`logdrive_raft::Offer`) *offers* a snapshot. The follower answers
//! whether it wants it now, and asks for parts that it lacks, in ranges, of any replica that has them; each range is
//! answered with its bytes, or with "I do not have this". An install is acknowledged by the protocol itself
//! (`engine/raft/src/snapshot.rs`), on the append lane.
//!
//! A snapshot is a table and parts, each named by a digest of 128 bits; the table names the parts, and the table's digest
//! names the snapshot. The table is asked for in ranges like a part. So an offer has the same size for any state, and the
//! wire looks into neither tables nor contents: they are the owner's of the parts (`logdrive_wal::parts`).

use crate::codec::{CodecError, MESSAGE_HEADER_BYTES, Reader};
use crate::lane::{Lane, LaneMessage};
use bytes::{BufMut, Bytes, BytesMut};
use logdrive_raft::{GroupId, LogId, LogIndex, Term};

/// A message of a bulk lane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SnapshotMessage {
    /// "I have a snapshot of this group for you."
    Offer(SnapshotOffer),
    /// The answer to an offer.
    Answer(SnapshotAnswer),
    /// "Send me this range of that part."
    Ask(PartRange),
    /// The range that was asked for.
    Part(PartBytes),
    /// "I cannot send you that part."
    Lack(PartLack),
}

/// Names a snapshot of a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotId {
    /// The last entry that the state contains.
    pub last: LogId,
    /// The digest of the table.
    pub digest: u128,
}

/// A snapshot that the sender has, for a replica that cannot be brought up to date from the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SnapshotOffer {
    /// The leader's term.
    pub term: Term,
    /// The snapshot.
    pub id: SnapshotId,
    /// The bytes of all parts together.
    pub bytes: u64,
    /// The length of the table, 1 to [`PART_BYTES_MAX`].
    pub table_bytes: u32,
    /// The group's membership at the last entry, at most [`MEMBERSHIP_BYTES_MAX`] bytes that the engine reads.
    pub membership: Bytes,
}

/// The answer to a [`SnapshotOffer`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotAnswer {
    /// The snapshot that was offered.
    pub id: SnapshotId,
    /// The receiver's decision.
    pub says: OfferAnswer,
}

/// A receiver's decision on an offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OfferAnswer {
    /// The replica needs no snapshot, or has this one.
    Have,
    /// There is no room for it now: it may be offered again later.
    NotNow,
    /// The replica asks for parts from now on.
    Wanted {
        /// Bytes that it asks for before they have come, at most; at least 1.
        bytes_max: u32,
    },
}

/// A range of a part, or of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartRange {
    /// The part's digest, or the table's.
    pub part: u128,
    /// Where the range begins.
    pub at: u32,
    /// Its length, 1 to [`RANGE_BYTES_MAX`].
    pub bytes: u32,
}

/// A range of a part with its content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PartBytes {
    /// The part's digest, or the table's.
    pub part: u128,
    /// The length of the whole part.
    pub total: u32,
    /// Where the range begins.
    pub at: u32,
    /// Its bytes, 1 to [`RANGE_BYTES_MAX`].
    pub content: Bytes,
}

/// A part that the sender cannot send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartLack {
    /// The part's digest, or the table's.
    pub part: u128,
    /// Why.
    pub why: Lack,
}

/// Why a part cannot be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lack {
    /// The sender does not have it, or not any more.
    Absent = 0,
    /// The sender has it and cannot read it: its bytes are damaged, or the disk fails.
    Unreadable = 1,
}

/// Why something that a peer sent does not fit what was offered or asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// It is about another group.
    #[error("it is of group {found}, and group {asked} was asked about")]
    OtherGroup {
        /// The group that was asked about.
        asked: GroupId,
        /// The group of the answer.
        found: GroupId,
    },
    /// It is about another part.
    #[error("it is of part {found:032x}, and part {asked:032x} was asked for")]
    OtherPart {
        /// The part that was asked for.
        asked: u128,
        /// The part of the answer.
        found: u128,
    },
    /// The part has another length than the table says.
    #[error("the part has {found} bytes, and should have {listed}")]
    OtherLength {
        /// In the table.
        listed: u32,
        /// In the answer.
        found: u32,
    },
    /// It is another range of the part.
    #[error(
        "it is {found_bytes} bytes from byte {found_at}, and {bytes} from byte {at} were asked for"
    )]
    OtherRange {
        /// Where the range begins that was asked for.
        at: u32,
        /// Its length.
        bytes: u32,
        /// Where the range of the answer begins.
        found_at: u32,
        /// Its length.
        found_bytes: u32,
    },
    /// The answer is about another snapshot than the offer.
    #[error("it answers an offer of another snapshot")]
    OtherSnapshot,
}

impl SnapshotOffer {
    /// Checks that an answer is one to this offer to `group`.
    ///
    /// # Errors
    /// [`PullError::OtherGroup`], [`PullError::OtherSnapshot`].
    pub fn check_answer(
        &self,
        group: GroupId,
        (found, answer): (GroupId, &SnapshotAnswer),
    ) -> Result<(), PullError> {
        match answer.id == self.id {
            _ if found != group => Err(PullError::OtherGroup { asked: group, found }),
            true => Ok(()),
            false => Err(PullError::OtherSnapshot),
        }
    }
}

impl PartRange {
    /// Checks that an answer is the range of `group`'s part that was asked for by this; `listed` is the part's length.
    ///
    /// # Errors
    /// [`PullError`]: the answer must not be used. Its content is not compared with the part's digest here.
    pub fn check_answer(
        &self,
        group: GroupId,
        listed: u32,
        (found, answer): (GroupId, &PartBytes),
    ) -> Result<(), PullError> {
        if found != group {
            return Err(PullError::OtherGroup { asked: group, found });
        }
        if answer.part != self.part {
            return Err(PullError::OtherPart { asked: self.part, found: answer.part });
        }
        if answer.total != listed {
            return Err(PullError::OtherLength { listed, found: answer.total });
        }
        if answer.at != self.at || answer.content.len() != self.bytes as usize {
            return Err(PullError::OtherRange {
                at: self.at,
                bytes: self.bytes,
                found_at: answer.at,
                found_bytes: u32::try_from(answer.content.len()).unwrap_or(u32::MAX),
            });
        }
        Ok(())
    }
}

impl LaneMessage for SnapshotMessage {
    fn travels_on(lane: Lane) -> bool {
        lane == Lane::Bulk
    }

    fn encoded_bytes(&self) -> usize {
        MESSAGE_HEADER_BYTES
            + match self {
                Self::Offer(m) => OFFER_FIELDS_BYTES + m.membership.len(),
                Self::Answer(_) => ANSWER_FIELDS_BYTES,
                Self::Ask(_) => ASK_FIELDS_BYTES,
                Self::Part(m) => PART_FIELDS_BYTES + m.content.len(),
                Self::Lack(_) => LACK_FIELDS_BYTES,
            }
    }

    /// Appends the message to a body. Panics if its own bounds do not hold: the other end would not read it.
    fn encode(&self, body: &mut BytesMut, group: GroupId) {
        if let Some(Bad { what, found, .. }) = self.first_bad() {
            panic!("{group:?}: a message of our own has {what} {found}, which is out of range");
        }
        body.reserve(self.encoded_bytes());
        let kind = match self {
            Self::Offer(_) => KIND_OFFER,
            Self::Answer(_) => KIND_ANSWER,
            Self::Ask(_) => KIND_ASK,
            Self::Part(_) => KIND_PART,
            Self::Lack(_) => KIND_LACK,
        };
        body.put_u64_le(group.get());
        body.put_u8(kind);
        match self {
            Self::Offer(m) => {
                body.put_u64_le(m.term.get());
                put_id(body, m.id);
                body.put_u64_le(m.bytes);
                body.put_u32_le(m.table_bytes);
                body.put_u16_le(u16::try_from(m.membership.len()).expect("checked above"));
                body.put_slice(&m.membership);
            }
            Self::Answer(m) => {
                put_id(body, m.id);
                let (says, bytes_max) = match m.says {
                    OfferAnswer::Have => (0, 0),
                    OfferAnswer::NotNow => (1, 0),
                    OfferAnswer::Wanted { bytes_max } => (2, bytes_max),
                };
                body.put_u8(says);
                body.put_u32_le(bytes_max);
            }
            Self::Ask(m) => {
                body.put_u128_le(m.part);
                body.put_u32_le(m.at);
                body.put_u32_le(m.bytes);
            }
            Self::Part(m) => {
                body.put_u128_le(m.part);
                body.put_u32_le(m.total);
                body.put_u32_le(m.at);
                body.put_u32_le(u32::try_from(m.content.len()).expect("checked above"));
                body.put_slice(&m.content);
            }
            Self::Lack(m) => {
                body.put_u128_le(m.part);
                body.put_u8(m.why as u8);
            }
        }
    }

    fn decode(body: Bytes) -> Result<Vec<(GroupId, Self)>, CodecError> {
        let mut reader = Reader::new(body);
        // Most often a range of a part is alone in its frame, whatever the frame's length.
        let mut messages = Vec::new();
        while reader.left() > 0 {
            let start = reader.at();
            let group = GroupId(reader.u64()?);
            let message = read(&mut reader)?;
            if let Some(Bad { what, at, found }) = message.first_bad() {
                return Err(CodecError::OutOfRange { what, at: start + at, found });
            }
            messages.push((group, message));
        }
        Ok(messages)
    }
}

/// A field out of its bounds.
struct Bad {
    what: &'static str,
    /// Where it stands in its message.
    at: usize,
    found: u64,
}

impl SnapshotMessage {
    /// The first field that is out of its bounds, or does not fit those before it. Terms and indexes are within theirs when
    /// they have been read.
    fn first_bad(&self) -> Option<Bad> {
        let bad = |is_bad: bool, what, at, found| is_bad.then_some(Bad { what, at, found });
        match self {
            Self::Offer(m) => {
                let SnapshotOffer { term, id: SnapshotId { last, .. }, bytes, table_bytes, .. } =
                    *m;
                let is_table = (1..=PART_BYTES_MAX).contains(&table_bytes);
                let membership = m.membership.len();
                bad(last.index == LogIndex::ZERO, "last index", 25, 0)
                    .or_else(|| bad(last.term > term, "last term", 17, last.term.get()))
                    .or_else(|| bad(!is_table, "length of the table", 57, table_bytes.into()))
                    .or_else(|| bad(bytes > SNAPSHOT_BYTES_MAX, "length", 49, bytes))
                    .or_else(|| {
                        let is_bad = membership > MEMBERSHIP_BYTES_MAX;
                        bad(is_bad, "length of the membership", 61, membership as u64)
                    })
            }
            Self::Answer(m) => {
                let is_nothing = m.says == OfferAnswer::Wanted { bytes_max: 0 };
                bad(m.id.last.index == LogIndex::ZERO, "last index", 17, 0)
                    .or_else(|| bad(is_nothing, "bytes at a time", 42, 0))
            }
            Self::Ask(m) => {
                let end = u64::from(m.at) + u64::from(m.bytes);
                let is_bad = !(1..=RANGE_BYTES_MAX).contains(&m.bytes);
                bad(is_bad, "length of a range", 29, m.bytes.into())
                    .or_else(|| bad(end > PART_BYTES_MAX.into(), "end of a range", 25, end))
            }
            Self::Part(m) => {
                let bytes = m.content.len() as u64;
                let end = u64::from(m.at) + bytes;
                let is_bad = !(1..=u64::from(RANGE_BYTES_MAX)).contains(&bytes);
                bad(m.total > PART_BYTES_MAX, "length of a part", 25, m.total.into())
                    .or_else(|| bad(is_bad, "length of a range", 33, bytes))
                    .or_else(|| bad(end > m.total.into(), "end of a range", 29, end))
            }
            Self::Lack(_) => None,
        }
    }
}

fn read(reader: &mut Reader) -> Result<SnapshotMessage, CodecError> {
    let at = reader.at();
    Ok(match reader.u8()? {
        KIND_OFFER => SnapshotMessage::Offer(SnapshotOffer {
            term: reader.begun_term()?,
            id: read_id(reader)?,
            bytes: reader.u64()?,
            table_bytes: reader.u32()?,
            membership: {
                let bytes = reader.u16()?;
                reader.payload(bytes.into())?
            },
        }),
        KIND_ANSWER => SnapshotMessage::Answer(SnapshotAnswer {
            id: read_id(reader)?,
            says: {
                let at = reader.at();
                match (reader.u8()?, reader.u32()?) {
                    (0, 0) => OfferAnswer::Have,
                    (1, 0) => OfferAnswer::NotNow,
                    (2, bytes_max) => OfferAnswer::Wanted { bytes_max },
                    (0 | 1, found) => {
                        let (what, at, found) = ("bytes at a time", at + 1, found.into());
                        return Err(CodecError::OutOfRange { what, at, found });
                    }
                    (found, _) => {
                        let (what, found) = ("answer", found.into());
                        return Err(CodecError::OutOfRange { what, at, found });
                    }
                }
            },
        }),
        KIND_ASK => SnapshotMessage::Ask(PartRange {
            part: reader.u128()?,
            at: reader.u32()?,
            bytes: reader.u32()?,
        }),
        KIND_PART => SnapshotMessage::Part(PartBytes {
            part: reader.u128()?,
            total: reader.u32()?,
            at: reader.u32()?,
            content: {
                let bytes = reader.u32()?;
                reader.payload(bytes)?
            },
        }),
        KIND_LACK => SnapshotMessage::Lack(PartLack {
            part: reader.u128()?,
            why: {
                let at = reader.at();
                match reader.u8()? {
                    0 => Lack::Absent,
                    1 => Lack::Unreadable,
                    found => {
                        let (what, found) = ("reason", found.into());
                        return Err(CodecError::OutOfRange { what, at, found });
                    }
                }
            },
        }),
        kind => return Err(CodecError::UnknownMessage { at, kind }),
    })
}

fn read_id(reader: &mut Reader) -> Result<SnapshotId, CodecError> {
    Ok(SnapshotId { last: reader.id()?, digest: reader.u128()? })
}

fn put_id(body: &mut BytesMut, id: SnapshotId) {
    body.put_u64_le(id.last.term.get());
    body.put_u64_le(id.last.index.get());
    body.put_u128_le(id.digest);
}

/// Bytes of a range of a part, at most: one message, and little enough for a thread to check between two turns.
pub const RANGE_BYTES_MAX: u32 = 256 << 10;
/// Bytes of a part or of a table, at most.
pub const PART_BYTES_MAX: u32 = 8 << 20;
/// Bytes of all parts of a snapshot together, at most.
pub const SNAPSHOT_BYTES_MAX: u64 = 1 << 40;
/// Bytes of a membership in an offer, at most.
pub const MEMBERSHIP_BYTES_MAX: usize = 4 << 10;
/// Bytes of a bulk lane's frame, at most, without its header: those of the longest message.
pub const BULK_BODY_BYTES_MAX: u32 = 37 + RANGE_BYTES_MAX;

const ID_BYTES: usize = 32;
const OFFER_FIELDS_BYTES: usize = 8 + ID_BYTES + 8 + 4 + 2;
const ANSWER_FIELDS_BYTES: usize = ID_BYTES + 1 + 4;
const ASK_FIELDS_BYTES: usize = 16 + 4 + 4;
const PART_FIELDS_BYTES: usize = 16 + 4 + 4 + 4;
const LACK_FIELDS_BYTES: usize = 16 + 1;

const _: () = assert!(MESSAGE_HEADER_BYTES + PART_FIELDS_BYTES == 37);
const _: () = assert!(
    MESSAGE_HEADER_BYTES + OFFER_FIELDS_BYTES + MEMBERSHIP_BYTES_MAX
        <= BULK_BODY_BYTES_MAX as usize
);

// `codec` has the kinds before these.
const KIND_OFFER: u8 = 15;
const KIND_ANSWER: u8 = 16;
const KIND_ASK: u8 = 17;
const KIND_PART: u8 = 18;
const KIND_LACK: u8 = 19;

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
