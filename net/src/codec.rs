//! A frame's body: messages of many groups, one after the other, to and from bytes.
//!
//! In:     [`encode`] takes a group and its message; [`decode`] takes a whole body.
//! Out:    [`encode`] appends to the caller's buffer; [`decode`] gives the messages in the body's order.
//! Cost:   a message is assembled on the stack and appended once; payloads are copied out once and
//!         never in: decoded entries are slices of the body. Checksums of payloads travel as they are.
//! Fails:  [`CodecError`] says what is wrong and at which byte; nothing of such a body is given out.
//!         Memory asked for is at most a small multiple of the bytes that are really there.
//! Source: RULES.md I5 (hostile fields); paper figure 2 (the fields).
//!
//! `net/FORMAT.md` draws each message, and has the rule for what a reader does not know.

use crate::lane::{Lane, LaneMessage};
use bytes::{BufMut, Bytes, BytesMut};
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, BatchError, Entry, EntryBatch, EntryKind,
    FoundingNotice, GroupId, Heartbeat, HeartbeatReply, LogId, LogIndex, Marked, Message, PreVote,
    PreVoteReply, RequestVote, RoomNotice, RoomSays, Term, TermStated, VoteReply,
};

/// Why a body cannot be read. `at` counts bytes from the body's start.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The body ends inside a message.
    #[error("the body ends inside a message, {wanted} bytes short of the field at byte {at}")]
    Short {
        /// Where the field begins.
        at: usize,
        /// Bytes that are missing.
        wanted: usize,
    },
    /// No message has this kind byte.
    #[error("unknown message kind {kind} at byte {at}")]
    UnknownMessage {
        /// Where it stands.
        at: usize,
        /// The byte.
        kind: u8,
    },
    /// No entry has this kind byte.
    #[error("unknown entry kind {kind} at byte {at}")]
    UnknownEntry {
        /// Where it stands.
        at: usize,
        /// The byte.
        kind: u8,
    },
    /// A yes-or-no byte is neither 0 nor 1.
    #[error("byte {at} is {found}, and should be 0 or 1")]
    NotABool {
        /// Where it stands.
        at: usize,
        /// The byte.
        found: u8,
    },
    /// More entries are claimed than the rest of the body could hold.
    #[error("{count} entries are claimed at byte {at}, but only {left} bytes follow")]
    Count {
        /// Where the count stands.
        at: usize,
        /// The count.
        count: u32,
        /// Bytes after it.
        left: usize,
    },
    /// A term or an index that no honest cluster reaches, or a term of zero where one has begun.
    #[error("{what} {found} at byte {at} is out of range")]
    OutOfRange {
        /// Which field.
        what: &'static str,
        /// Where it stands.
        at: usize,
        /// The value of the field.
        found: u64,
    },
    /// A term without an index, or an index without a term.
    #[error("the entry id at byte {at} has term {term} and index {index}: both are zero, or none")]
    HalfAnId {
        /// Where it stands.
        at: usize,
        /// Its term.
        term: u64,
        /// Its index.
        index: u64,
    },
    /// An entry's term is above its leader's, or the first entry's below that of `prev_log`.
    #[error("the entry at byte {at} has term {found}, and should have one from {low} to {high}")]
    EntryTerm {
        /// Where the entry begins.
        at: usize,
        /// Its term.
        found: Term,
        /// The term of `prev_log`.
        low: Term,
        /// The leader's term.
        high: Term,
    },
    /// A no-op has no payload, and an empty payload's checksum is zero.
    #[error(
        "the entry at byte {at} must have no payload, and has {bytes} bytes with checksum {checksum:#x}"
    )]
    NotEmpty {
        /// Where the entry begins.
        at: usize,
        /// The payload's length.
        bytes: u32,
        /// The checksum beside it.
        checksum: u32,
    },
    /// The entries do not follow one another.
    #[error("the entries do not follow one another: {0}")]
    Entries(#[from] BatchError),
}

impl LaneMessage for Message {
    fn travels_on(lane: Lane) -> bool {
        lane != Lane::Bulk
    }

    fn encoded_bytes(&self) -> usize {
        encoded_bytes(self)
    }

    fn encode(&self, body: &mut BytesMut, group: GroupId) {
        encode(body, group, self);
    }

    fn decode(body: Bytes) -> Result<Vec<(GroupId, Self)>, CodecError> {
        decode(body)
    }
}

/// Appends one message to a body. Panics if entries do not follow `prev_log`: they could not be
/// given an index at the other end.
pub fn encode(body: &mut BytesMut, group: GroupId, message: &Message) {
    match message {
        Message::PreVote(m) => put_vote_request(body, group, KIND_PRE_VOTE, m.term, m.last_log),
        Message::PreVoteReply(m) => put_vote(body, group, KIND_PRE_VOTE_REPLY, m.term, m.granted),
        Message::RequestVote(m) => {
            put_vote_request(body, group, KIND_REQUEST_VOTE, m.term, m.last_log);
        }
        Message::VoteReply(m) => put_vote(body, group, KIND_VOTE_REPLY, m.term, m.granted),
        Message::AppendEntries(m) => put_append_entries(body, group, m),
        Message::AppendReply(m) => match m.result {
            AppendResult::Accepted { match_index } => {
                put(body, group, KIND_APPEND_ACCEPTED, [m.term.get(), match_index.get()], &[]);
            }
            AppendResult::Taken { match_index } => {
                put(body, group, KIND_APPEND_TAKEN, [m.term.get(), match_index.get()], &[]);
            }
            AppendResult::Rejected { rejected, hint } => {
                let fields = [m.term.get(), rejected.get(), hint.term.get(), hint.index.get()];
                put(body, group, KIND_APPEND_REJECTED, fields, &[]);
            }
        },
        Message::Heartbeat(m) => {
            let matched = m.matched;
            let fields = [m.term.get(), m.commit.get(), matched.term.get(), matched.index.get()];
            put(body, group, KIND_HEARTBEAT, fields, &[]);
        }
        Message::HeartbeatReply(m) => {
            put(body, group, KIND_HEARTBEAT_REPLY, [m.term.get()], &[]);
        }
        Message::Room(m) => {
            let place = u64::from(m.shards) << 32 | u64::from(m.shard);
            put(body, group, KIND_ROOM, [place], &[m.says as u8]);
        }
        Message::Founding(m) => {
            put(body, group, KIND_FOUNDING, [], &founding_bytes(*m));
        }
        Message::Marked(m) => {
            let last = m.last_log;
            let fields = [m.term.get(), m.mark, last.term.get(), last.index.get()];
            put(body, group, KIND_MARKED, fields, &[]);
        }
        Message::TermStated(m) => {
            put(body, group, KIND_TERM_STATED, [m.term.get(), m.mark, m.commit.get()], &[]);
        }
    }
}

/// Bytes [`encode`] appends for `message`.
#[must_use]
pub fn encoded_bytes(message: &Message) -> usize {
    let fields = match message {
        Message::PreVote(_) | Message::RequestVote(_) => 24,
        Message::PreVoteReply(_) | Message::VoteReply(_) => 9,
        Message::AppendEntries(m) => {
            let entries = m.entries.as_slice();
            let payloads: usize = entries.iter().map(|entry| entry.payload.len()).sum();
            APPEND_FIELDS_BYTES + entries.len() * ENTRY_HEADER_BYTES + payloads
        }
        Message::AppendReply(m) => match m.result {
            AppendResult::Accepted { .. } | AppendResult::Taken { .. } => 16,
            AppendResult::Rejected { .. } => 32,
        },
        Message::Heartbeat(_) | Message::Marked(_) => 32,
        Message::HeartbeatReply(_) => 8,
        Message::Room(_) => 9,
        Message::Founding(_) => 5,
        Message::TermStated(_) => 24,
    };
    MESSAGE_HEADER_BYTES + fields
}

/// Reads a whole body. Payloads stay where they are: they are slices of `body`.
///
/// # Errors
/// [`CodecError`] at the first thing that is wrong; no message of the body is given out then.
pub fn decode(body: Bytes) -> Result<Vec<(GroupId, Message)>, CodecError> {
    let guess = (body.len() / TYPICAL_MESSAGE_BYTES + 1).min(MESSAGES_GUESS_MAX);
    let mut messages = Vec::with_capacity(guess);
    let mut reader = Reader::new(body);
    while reader.left() > 0 {
        let group = GroupId(reader.u64()?);
        let message = reader.message()?;
        messages.push((group, message));
    }
    Ok(messages)
}

fn put_vote_request(body: &mut BytesMut, group: GroupId, kind: u8, term: Term, last: LogId) {
    put(body, group, kind, [term.get(), last.term.get(), last.index.get()], &[]);
}

fn put_vote(body: &mut BytesMut, group: GroupId, kind: u8, term: Term, granted: bool) {
    put(body, group, kind, [term.get()], &[u8::from(granted)]);
}

fn founding_bytes(m: FoundingNotice) -> [u8; 5] {
    let [a, b, c, d] = m.digest.to_le_bytes();
    [a, b, c, d, u8::from(m.asks)]
}

fn put_append_entries(body: &mut BytesMut, group: GroupId, m: &AppendEntries) {
    let entries = m.entries.as_slice();
    if let Some(first) = entries.first() {
        assert!(
            first.index == m.prev_log.index.next(),
            "{group:?}: entries begin at {:?}, after {:?}",
            first.index,
            m.prev_log.index
        );
    }
    let count = u32::try_from(entries.len()).expect("a message's entries fit 32 bits");
    let fields = [m.term.get(), m.prev_log.term.get(), m.prev_log.index.get(), m.commit.get()];
    put(body, group, KIND_APPEND_ENTRIES, fields, &count.to_le_bytes());
    for entry in entries {
        let payload_bytes =
            u32::try_from(entry.payload.len()).expect("an entry's payload fits 32 bits");
        let mut header = [0; ENTRY_HEADER_BYTES];
        header[..8].copy_from_slice(&entry.term.get().to_le_bytes());
        header[8] = entry.kind as u8;
        header[9..13].copy_from_slice(&entry.checksum.to_le_bytes());
        header[13..].copy_from_slice(&payload_bytes.to_le_bytes());
        body.put_slice(&header);
        body.put_slice(&entry.payload);
    }
}

/// One append to the buffer per message: its growth check is what small messages would cost most.
fn put<const N: usize>(
    body: &mut BytesMut,
    group: GroupId,
    kind: u8,
    fields: [u64; N],
    tail: &[u8],
) {
    let mut message = [0; SMALL_MESSAGE_BYTES_MAX];
    message[..8].copy_from_slice(&group.get().to_le_bytes());
    message[8] = kind;
    for (i, field) in fields.iter().enumerate() {
        let at = MESSAGE_HEADER_BYTES + i * 8;
        message[at..at + 8].copy_from_slice(&field.to_le_bytes());
    }
    let end = MESSAGE_HEADER_BYTES + N * 8;
    message[end..end + tail.len()].copy_from_slice(tail);
    body.put_slice(&message[..end + tail.len()]);
}

/// Reads the fields of a body, one after the other.
pub(crate) struct Reader {
    body: Bytes,
    at: usize,
}

impl Reader {
    pub(crate) fn new(body: Bytes) -> Self {
        Self { body, at: 0 }
    }

    /// Where the next field begins.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    fn message(&mut self) -> Result<Message, CodecError> {
        let at = self.at;
        Ok(match self.u8()? {
            KIND_PRE_VOTE => {
                Message::PreVote(PreVote { term: self.begun_term()?, last_log: self.id()? })
            }
            // A node that has seen no term yet refuses with term zero.
            KIND_PRE_VOTE_REPLY => {
                Message::PreVoteReply(PreVoteReply { term: self.term()?, granted: self.bool()? })
            }
            KIND_REQUEST_VOTE => {
                Message::RequestVote(RequestVote { term: self.begun_term()?, last_log: self.id()? })
            }
            KIND_VOTE_REPLY => {
                Message::VoteReply(VoteReply { term: self.begun_term()?, granted: self.bool()? })
            }
            KIND_APPEND_ENTRIES => Message::AppendEntries(self.append_entries()?),
            KIND_APPEND_ACCEPTED => Message::AppendReply(AppendReply {
                term: self.begun_term()?,
                result: AppendResult::Accepted { match_index: self.index("match index")? },
            }),
            KIND_APPEND_REJECTED => Message::AppendReply(AppendReply {
                term: self.begun_term()?,
                result: AppendResult::Rejected {
                    rejected: self.index("rejected index")?,
                    // Only a place to look next: a hint whose term is not known is still one.
                    hint: LogId { term: self.term()?, index: self.index("hint")? },
                },
            }),
            KIND_HEARTBEAT => Message::Heartbeat(Heartbeat {
                term: self.begun_term()?,
                commit: self.index("commit index")?,
                matched: self.id()?,
            }),
            KIND_HEARTBEAT_REPLY => {
                Message::HeartbeatReply(HeartbeatReply { term: self.begun_term()? })
            }
            KIND_ROOM => Message::Room(self.room()?),
            KIND_FOUNDING => {
                Message::Founding(FoundingNotice { digest: self.u32()?, asks: self.bool()? })
            }
            KIND_APPEND_TAKEN => Message::AppendReply(AppendReply {
                term: self.begun_term()?,
                result: AppendResult::Taken { match_index: self.index("match index")? },
            }),
            KIND_MARKED => Message::Marked(Marked {
                term: self.begun_term()?,
                mark: self.u64()?,
                last_log: self.id()?,
            }),
            // A node that has lost all of its log may have seen no term.
            KIND_TERM_STATED => Message::TermStated(TermStated {
                term: self.term()?,
                mark: self.u64()?,
                commit: self.index("commit index")?,
            }),
            kind => return Err(CodecError::UnknownMessage { at, kind }),
        })
    }

    fn room(&mut self) -> Result<RoomNotice, CodecError> {
        let at = self.at;
        let (shard, shards) = (self.u32()?, self.u32()?);
        if shard >= shards {
            return Err(CodecError::OutOfRange { what: "shard", at, found: shard.into() });
        }
        let at = self.at;
        let says = match self.u8()? {
            0 => RoomSays::Asked,
            1 => RoomSays::Free,
            2 => RoomSays::Full,
            3 => RoomSays::TooLarge,
            found => {
                return Err(CodecError::OutOfRange { what: "notice", at, found: found.into() });
            }
        };
        Ok(RoomNotice { says, shard, shards })
    }

    fn append_entries(&mut self) -> Result<AppendEntries, CodecError> {
        let term = self.begun_term()?;
        let prev_log = self.id()?;
        let commit = self.index("commit index")?;
        let at = self.at;
        let count = self.u32()?;
        let left = self.left();
        let fit = left / ENTRY_HEADER_BYTES;
        let count = match usize::try_from(count) {
            Ok(entries) if entries <= fit => entries,
            _ => return Err(CodecError::Count { at, count, left }),
        };
        let mut entries = Vec::with_capacity(count);
        let mut before = prev_log;
        for _ in 0..count {
            let entry = self.entry(before, term)?;
            before = entry.id();
            entries.push(entry);
        }
        Ok(AppendEntries { term, prev_log, commit, entries: EntryBatch::from_entries(entries)? })
    }

    fn entry(&mut self, before: LogId, leader_term: Term) -> Result<Entry, CodecError> {
        let at = self.at;
        let header: [u8; ENTRY_HEADER_BYTES] = self.array()?;
        let [t0, t1, t2, t3, t4, t5, t6, t7, kind, c0, c1, c2, c3, l0, l1, l2, l3] = header;
        let term = Term(u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]));
        if term < before.term || term > leader_term {
            let (low, high) = (before.term, leader_term);
            return Err(CodecError::EntryTerm { at, found: term, low, high });
        }
        let index = LogIndex(before.index.get() + 1);
        if index.get() > NUMBER_MAX {
            return Err(CodecError::OutOfRange { what: "entry index", at, found: index.get() });
        }
        let Some(kind) = EntryKind::from_byte(kind) else {
            return Err(CodecError::UnknownEntry { at: at + 8, kind });
        };
        let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
        let bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        if (kind == EntryKind::Noop || bytes == 0) && (bytes != 0 || checksum != 0) {
            return Err(CodecError::NotEmpty { at, bytes, checksum });
        }
        let payload = self.payload(bytes)?;
        Ok(Entry { term, index, kind, checksum, payload })
    }

    pub(crate) fn payload(&mut self, bytes: u32) -> Result<Bytes, CodecError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > self.left() {
            return Err(CodecError::Short { at: self.at, wanted: bytes - self.left() });
        }
        let payload = self.body.slice(self.at..self.at + bytes);
        self.at += bytes;
        Ok(payload)
    }

    /// An entry's id, or `ZERO`.
    pub(crate) fn id(&mut self) -> Result<LogId, CodecError> {
        let at = self.at;
        let id = LogId { term: self.term()?, index: self.index("index")? };
        if (id.term == Term::ZERO) != (id.index == LogIndex::ZERO) {
            let (term, index) = (id.term.get(), id.index.get());
            return Err(CodecError::HalfAnId { at, term, index });
        }
        Ok(id)
    }

    /// A term that someone campaigned in.
    pub(crate) fn begun_term(&mut self) -> Result<Term, CodecError> {
        let at = self.at;
        match self.term()? {
            Term::ZERO => Err(CodecError::OutOfRange { what: "term", at, found: 0 }),
            term => Ok(term),
        }
    }

    fn term(&mut self) -> Result<Term, CodecError> {
        Ok(Term(self.number("term")?))
    }

    fn index(&mut self, what: &'static str) -> Result<LogIndex, CodecError> {
        Ok(LogIndex(self.number(what)?))
    }

    fn number(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let at = self.at;
        let found = self.u64()?;
        if found > NUMBER_MAX {
            return Err(CodecError::OutOfRange { what, at, found });
        }
        Ok(found)
    }

    fn bool(&mut self) -> Result<bool, CodecError> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(CodecError::NotABool { at, found }),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, CodecError> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let Some(bytes) = self.body[self.at..].first_chunk::<N>() else {
            return Err(CodecError::Short { at: self.at, wanted: N - self.left() });
        };
        self.at += N;
        Ok(*bytes)
    }

    pub(crate) fn left(&self) -> usize {
        self.body.len() - self.at
    }
}

/// The highest term and index taken from a peer. At a billion a second it is reached in 146 years,
/// and sums of two of them still fit, so no arithmetic on a peer's numbers can overflow.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Bytes before a message's fields: group and kind.
pub const MESSAGE_HEADER_BYTES: usize = 9;
/// Bytes before an entry's payload.
pub const ENTRY_HEADER_BYTES: usize = 17;

const APPEND_FIELDS_BYTES: usize = 36;
const SMALL_MESSAGE_BYTES_MAX: usize = 48;
const _: () = assert!(MESSAGE_HEADER_BYTES + APPEND_FIELDS_BYTES <= SMALL_MESSAGE_BYTES_MAX);

const TYPICAL_MESSAGE_BYTES: usize = 32;
const MESSAGES_GUESS_MAX: usize = 1024;

// Zero is no kind, so that zeros never read as a message.
const KIND_PRE_VOTE: u8 = 1;
const KIND_PRE_VOTE_REPLY: u8 = 2;
const KIND_REQUEST_VOTE: u8 = 3;
const KIND_VOTE_REPLY: u8 = 4;
const KIND_APPEND_ENTRIES: u8 = 5;
const KIND_APPEND_ACCEPTED: u8 = 6;
const KIND_APPEND_REJECTED: u8 = 7;
const KIND_HEARTBEAT: u8 = 8;
const KIND_HEARTBEAT_REPLY: u8 = 9;
const KIND_ROOM: u8 = 10;
const KIND_APPEND_TAKEN: u8 = 11;
const KIND_MARKED: u8 = 12;
const KIND_TERM_STATED: u8 = 13;
const KIND_FOUNDING: u8 = 14;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn term() -> impl Strategy<Value = Term> {
        prop_oneof![1..5_u64, Just(NUMBER_MAX), 1..NUMBER_MAX].prop_map(Term)
    }

    fn index() -> impl Strategy<Value = LogIndex> {
        prop_oneof![0..5_u64, Just(NUMBER_MAX), 0..NUMBER_MAX].prop_map(LogIndex)
    }

    fn id() -> impl Strategy<Value = LogId> {
        prop_oneof![
            Just(LogId::ZERO),
            (term(), index())
                .prop_map(|(term, index)| LogId { term, index: LogIndex(index.get().max(1)) })
        ]
    }

    /// Entries with terms that rise now and then, as after elections.
    fn append_entries() -> impl Strategy<Value = Message> {
        let payload = proptest::collection::vec(any::<u8>(), 0..40);
        let entry = (any::<bool>(), 0..3_u64, payload, any::<u32>());
        let entries = proptest::collection::vec(entry, 0..6);
        (0..1000_u64, 0..1000_u64, index(), 0..3_u64, entries).prop_map(
            |(prev_term, prev_index, commit, above, entries)| {
                let prev_log = match (prev_term, prev_index) {
                    (0, _) | (_, 0) => LogId::ZERO,
                    (term, index) => LogId { term: Term(term), index: LogIndex(index) },
                };
                let mut term = Term(prev_log.term.get().max(1));
                let mut index = prev_log.index;
                let mut batch = EntryBatch::new();
                for (noop, rise, payload, checksum) in entries {
                    (term, index) = (Term(term.get() + rise), index.next());
                    let kind = if noop { EntryKind::Noop } else { EntryKind::Command };
                    let payload = if noop { Bytes::new() } else { Bytes::from(payload) };
                    let checksum = if payload.is_empty() { 0 } else { checksum };
                    batch.push(Entry { term, index, kind, checksum, payload });
                }
                let term = Term(term.get() + above);
                Message::AppendEntries(AppendEntries { term, prev_log, commit, entries: batch })
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            (term(), id())
                .prop_map(|(term, last_log)| Message::PreVote(PreVote { term, last_log })),
            (index(), any::<bool>()).prop_map(|(term, granted)| {
                Message::PreVoteReply(PreVoteReply { term: Term(term.get()), granted })
            }),
            (term(), id())
                .prop_map(|(term, last_log)| Message::RequestVote(RequestVote { term, last_log })),
            (term(), any::<bool>())
                .prop_map(|(term, granted)| Message::VoteReply(VoteReply { term, granted })),
            append_entries(),
            (term(), index()).prop_map(|(term, match_index)| {
                let result = AppendResult::Accepted { match_index };
                Message::AppendReply(AppendReply { term, result })
            }),
            (term(), index(), id()).prop_map(|(term, rejected, hint)| {
                let result = AppendResult::Rejected { rejected, hint };
                Message::AppendReply(AppendReply { term, result })
            }),
            (term(), index(), id()).prop_map(|(term, commit, matched)| {
                Message::Heartbeat(Heartbeat { term, commit, matched })
            }),
            (term(), index()).prop_map(|(term, match_index)| {
                let result = AppendResult::Taken { match_index };
                Message::AppendReply(AppendReply { term, result })
            }),
            (term(), any::<u64>(), id()).prop_map(|(term, mark, last_log)| {
                Message::Marked(Marked { term, mark, last_log })
            }),
            (term(), any::<u64>(), index()).prop_map(|(term, mark, commit)| {
                Message::TermStated(TermStated { term, mark, commit })
            }),
            term().prop_map(|term| Message::HeartbeatReply(HeartbeatReply { term })),
            (any::<u32>(), any::<bool>())
                .prop_map(|(digest, asks)| { Message::Founding(FoundingNotice { digest, asks }) }),
            (0..4_u32, 1..=4_u32, 0..4_usize).prop_map(|(shard, more, says)| {
                use RoomSays::{Asked, Free, Full, TooLarge};
                let says = [Asked, Free, Full, TooLarge][says];
                Message::Room(RoomNotice { says, shard, shards: shard + more })
            }),
        ]
    }

    fn messages() -> impl Strategy<Value = Vec<(GroupId, Message)>> {
        proptest::collection::vec((any::<u64>().prop_map(GroupId), message()), 0..12)
    }

    fn encoded(messages: &[(GroupId, Message)]) -> Bytes {
        let mut body = BytesMut::new();
        for (group, message) in messages {
            encode(&mut body, *group, message);
        }
        body.freeze()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(messages in messages()) {
            let body = encoded(&messages);
            let bytes: usize = messages.iter().map(|(_, message)| encoded_bytes(message)).sum();
            prop_assert_eq!(body.len(), bytes);
            prop_assert_eq!(decode(body), Ok(messages));
        }

        #[test]
        fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(Bytes::from(body));
        }

        /// A damaged body that can still be read is one of ours: encoding its messages gives the damaged bytes.
        #[test]
        fn damaged_bodies_are_refused_or_mean_what_they_say(
            messages in messages(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
            does_cut in any::<bool>(),
        ) {
            let mut body = encoded(&messages).to_vec();
            prop_assume!(!body.is_empty());
            for (at, byte) in damage {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if does_cut {
                body.truncate(cut.index(body.len()));
            }
            if let Ok(read) = decode(Bytes::from(body.clone())) {
                prop_assert_eq!(encoded(&read).to_vec(), body);
            }
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn append(prev: u64, entries: Vec<Entry>) -> Message {
        Message::AppendEntries(AppendEntries {
            term: Term(3),
            prev_log: LogId { term: Term(2), index: LogIndex(prev) },
            commit: LogIndex(4),
            entries: EntryBatch::from_entries(entries).expect("entries of a test"),
        })
    }

    fn command(term: u64, index: u64) -> Entry {
        Entry {
            term: Term(term),
            index: LogIndex(index),
            kind: EntryKind::Command,
            checksum: 0xaabb_ccdd,
            payload: Bytes::from_static(b"hi"),
        }
    }

    #[test]
    fn the_bytes_on_the_wire_are_these() {
        let matched = LogId { term: Term(1), index: LogIndex(259) };
        let commit = LogIndex(258);
        let heartbeat = Message::Heartbeat(Heartbeat { term: Term(2), commit, matched });
        assert_eq!(
            hex(&encoded(&[(GroupId(7), heartbeat)])),
            "0700000000000000 08 0200000000000000 0201000000000000 0100000000000000 \
             0301000000000000"
                .replace(' ', "")
        );
        let stated = TermStated { term: Term(2), mark: u64::MAX, commit };
        assert_eq!(
            hex(&encoded(&[(GroupId(7), Message::TermStated(stated))])),
            "0700000000000000 0d 0200000000000000 ffffffffffffffff 0201000000000000"
                .replace(' ', "")
        );
        let vote = Message::VoteReply(VoteReply { term: Term(9), granted: true });
        assert_eq!(
            hex(&encoded(&[(GroupId(1), vote)])),
            "0100000000000000 04 0900000000000000 01".replace(' ', "")
        );
        assert_eq!(
            hex(&encoded(&[(GroupId(7), append(5, vec![command(3, 6)]))])),
            "0700000000000000 05 0300000000000000 0200000000000000 0500000000000000 \
             0400000000000000 01000000 0300000000000000 02 ddccbbaa 02000000 6869"
                .replace(' ', "")
        );
        let hint = LogId { term: Term(1), index: LogIndex(3) };
        let result = AppendResult::Rejected { rejected: LogIndex(5), hint };
        let reply = Message::AppendReply(AppendReply { term: Term(4), result });
        assert_eq!(
            hex(&encoded(&[(GroupId(2), reply)])),
            "0200000000000000 07 0400000000000000 0500000000000000 0100000000000000 \
             0300000000000000"
                .replace(' ', "")
        );
    }

    #[test]
    fn payloads_are_slices_of_the_body() {
        let body = encoded(&[(GroupId(7), append(5, vec![command(3, 6)]))]);
        let Some((_, Message::AppendEntries(m))) = decode(body.clone()).expect("ours").pop() else {
            panic!("another message came back");
        };
        let payload = &m.entries.as_slice()[0].payload;
        assert!(body.as_ptr_range().contains(&payload.as_ptr()), "the payload was copied");
    }

    /// The body of one append with the bytes at `at` replaced.
    fn tampered(at: usize, with: &[u8]) -> Result<Vec<(GroupId, Message)>, CodecError> {
        let mut body = encoded(&[(GroupId(7), append(5, vec![command(3, 6)]))]).to_vec();
        body[at..at + with.len()].copy_from_slice(with);
        decode(Bytes::from(body))
    }

    #[test]
    fn hostile_fields_are_refused_by_name() {
        let max = u64::MAX.to_le_bytes();
        let zero = [0; 8];
        assert!(matches!(tampered(8, &[0]), Err(CodecError::UnknownMessage { at: 8, kind: 0 })));
        assert!(matches!(tampered(8, &[15]), Err(CodecError::UnknownMessage { at: 8, kind: 15 })));
        for at in [9, 17, 25, 33] {
            let error = tampered(at, &max).expect_err("a number no cluster reaches");
            assert!(matches!(error, CodecError::OutOfRange { at: a, .. } if a == at), "{error}");
        }
        assert!(matches!(tampered(9, &zero), Err(CodecError::OutOfRange { what: "term", .. })));
        assert!(matches!(tampered(17, &zero), Err(CodecError::HalfAnId { at: 17, .. })));
        let last = NUMBER_MAX.to_le_bytes();
        assert!(matches!(tampered(25, &last), Err(CodecError::OutOfRange { at: 45, .. })));
        for count in [3, 1 << 31, u32::MAX] {
            let error = tampered(41, &count.to_le_bytes()).expect_err("entries that are not there");
            assert_eq!(error, CodecError::Count { at: 41, count, left: 19 });
        }
        assert!(matches!(tampered(45, &[4]), Err(CodecError::EntryTerm { at: 45, .. })));
        assert!(matches!(tampered(45, &[1]), Err(CodecError::EntryTerm { at: 45, .. })));
        assert!(matches!(tampered(53, &[9]), Err(CodecError::UnknownEntry { at: 53, kind: 9 })));
        assert!(matches!(tampered(53, &[1]), Err(CodecError::NotEmpty { at: 45, .. })));
        let error = tampered(58, &u32::MAX.to_le_bytes()).expect_err("bytes that are not there");
        assert_eq!(error, CodecError::Short { at: 62, wanted: u32::MAX as usize - 2 });
        assert!(matches!(tampered(58, &[1]), Err(CodecError::Short { .. })));
    }

    #[test]
    fn a_yes_is_one_and_nothing_else() {
        let vote = Message::VoteReply(VoteReply { term: Term(9), granted: true });
        let mut body = encoded(&[(GroupId(1), vote)]).to_vec();
        body[17] = 2;
        let refused = decode(Bytes::from(body));
        assert_eq!(refused, Err(CodecError::NotABool { at: 17, found: 2 }));
    }

    #[test]
    #[should_panic(expected = "entries begin at")]
    fn entries_that_do_not_follow_prev_log_are_not_encoded() {
        encoded(&[(GroupId(7), append(5, vec![command(3, 7)]))]);
    }
}
