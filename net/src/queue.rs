//! One outbound lane without its socket: frames that wait, their bounds, and what is dropped. No I/O, no clock.
//!
//! In:     batches of messages ([`LaneQueue::send`]), connections that come up and are lost.
//! Out:    bytes in order ([`LaneQueue::waiting`]), of which the caller says how many left ([`LaneQueue::advance`]).
//! Cost:   a message is encoded once, at the end of the bytes that wait. An idle lane holds no large buffer; a busy
//!         one reuses one.
//! Fails:  [`Sent::Dropped`] if there is no connection or the bound is reached; the newest is dropped,
//!         because the bytes before it are already in order on their way.
//! Source: RULES.md invariant 23 (bounds), D1 (slow peers).

use crate::frame::{FRAME_HEADER_BYTES, FrameOrigin, FrameWriter, OpenFrame};
use crate::lane::LaneMessage;
use crate::metrics::LaneStats;
use crate::{Hello, Lane, Sent, Settings};
use bytes::{Buf, BytesMut};
use logdrive_raft::GroupId;

/// The frames of one outbound lane that wait for its socket. The owner moves the bytes.
///
/// The owner also says when a connection came up ([`set_up`](Self::set_up)), when a write on it failed
/// ([`fail`](Self::fail)) and when it is given up ([`set_down`](Self::set_down)). The owner of a bulk lane says, too, when
/// one is being made ([`begin`](Self::begin)) and when one is not needed any more ([`close`](Self::close)).
#[derive(Debug)]
pub struct LaneQueue {
    origin: FrameOrigin,
    body_bytes_max: usize,
    body_bytes_soft: usize,
    waiting_bytes_max: usize,
    connection: Option<Connection>,
    hello: Option<Hello>,
    waiting: BytesMut,
    stats: LaneStats,
}

#[derive(Debug)]
struct Connection {
    writer: FrameWriter,
    /// False while it is being made: what waits are its first frames.
    is_made: bool,
    /// A write failed. The connection takes nothing more, and is lost once its owner says so.
    failed: bool,
}

impl LaneQueue {
    /// The lane of a node that says `me` of itself; it is down. `me.lane` does not matter.
    #[must_use]
    pub fn new(me: &Hello, lane: Lane, settings: &Settings) -> Self {
        let body_bytes_max = settings.body_bytes_max(lane) as usize;
        Self {
            origin: FrameOrigin { cluster: me.cluster, source: me.node, lane },
            body_bytes_max,
            body_bytes_soft: settings.frame_bytes_soft.min(body_bytes_max),
            waiting_bytes_max: match lane {
                Lane::Liveness => settings.liveness_lane_bytes_max,
                Lane::Append => settings.append_lane_bytes_max,
                Lane::Bulk => settings.bulk_lane_bytes_max,
            },
            connection: None,
            hello: None,
            waiting: BytesMut::new(),
            stats: LaneStats::default(),
        }
    }

    /// Frames `messages` behind the bytes that wait. Empties `messages` unless any of them is dropped: their groups
    /// must be told. `oversized` is called with the group and the size of each message that fits no frame.
    pub fn send<M: LaneMessage>(
        &mut self,
        messages: &mut Vec<(GroupId, M)>,
        oversized: impl FnMut(GroupId, usize),
    ) -> Sent {
        if messages.is_empty() {
            return Sent::Taken;
        }
        if !self.is_up() {
            self.stats.dropped_down += messages.len() as u64;
            return Sent::Dropped;
        }
        let taken = self.encode(messages, oversized);
        let dropped = messages.len() - taken;
        self.stats.dropped_full += dropped as u64;
        if dropped > 0 {
            return Sent::Dropped;
        }
        messages.clear();
        Sent::Taken
    }

    /// Adds frames of about the soft bound each; how many messages were taken.
    fn encode<M: LaneMessage>(
        &mut self,
        messages: &[(GroupId, M)],
        mut oversized: impl FnMut(GroupId, usize),
    ) -> usize {
        let Self { waiting, stats, .. } = self;
        let writer = &mut self.connection.as_mut().expect("the lane is up").writer;
        let mut open = None;
        let mut taken = 0;
        for (group, message) in messages {
            let bytes = message.encoded_bytes();
            if bytes > self.body_bytes_max {
                // Skipped, not stopped at: it will be sent again, and must not hold up the others.
                oversized(*group, bytes);
                continue;
            }
            if waiting.len() + FRAME_HEADER_BYTES + bytes > self.waiting_bytes_max {
                break;
            }
            if let Some(frame) = open.take_if(|frame: &mut OpenFrame| {
                frame.body_bytes(waiting) + bytes > self.body_bytes_soft
            }) {
                writer.finish(waiting, frame);
                stats.frames += 1;
            }
            if open.is_none() {
                open = Some(writer.begin(waiting));
            }
            waiting.reserve(bytes);
            message.encode(waiting, *group);
            taken += 1;
        }
        if let Some(frame) = open {
            writer.finish(waiting, frame);
            stats.frames += 1;
        }
        stats.messages += taken as u64;
        taken
    }

    /// The bytes that wait for the socket, oldest first.
    #[must_use]
    pub fn waiting(&self) -> &[u8] {
        &self.waiting
    }

    /// The socket took the first `bytes` of what waits, in one write.
    pub fn advance(&mut self, bytes: usize) {
        self.waiting.advance(bytes);
        self.stats.bytes += bytes as u64;
        self.stats.writes += 1;
        if !self.waiting.is_empty() {
            return;
        }
        // The space already written is won back; a buffer that a slow peer once made large is given up.
        if self.waiting.try_reclaim(IDLE_BUFFER_BYTES_MAX) {
            self.waiting = BytesMut::with_capacity(IDLE_BUFFER_BYTES_MIN);
        } else {
            let _ = self.waiting.try_reclaim(IDLE_BUFFER_BYTES_MIN);
        }
    }

    /// A connection is being made, and from now on messages are taken for it; until it comes up they wait within the lane's
    /// bound. Panics if there is a connection.
    pub fn begin(&mut self) {
        assert!(self.connection.is_none(), "there is a connection");
        let writer = FrameWriter::new(self.origin);
        self.connection = Some(Connection { writer, is_made: false, failed: false });
    }

    /// A connection came up, at whose other end is `hello`. Panics if bytes of an older one still wait.
    pub fn set_up(&mut self, hello: Hello) {
        if self.connection.as_ref().is_none_or(|connection| connection.is_made) {
            assert!(self.waiting.is_empty(), "bytes of an older connection still wait");
            self.connection = None;
            self.begin();
        }
        self.connection.as_mut().expect("it was begun").is_made = true;
        self.hello = Some(hello);
        self.stats.connects += 1;
    }

    /// A write failed: from now on all is dropped, until the next connection comes up.
    pub fn fail(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.failed = true;
        }
    }

    /// The connection was lost, and what waited for it with it.
    pub fn set_down(&mut self) {
        self.close();
        self.stats.losses += 1;
    }

    /// The connection was closed here, or did not come up. The messages that waited for it are lost.
    pub fn close(&mut self) {
        self.connection = None;
        self.waiting = BytesMut::new();
    }

    /// An attempt to connect failed; `refused` by either end, or for another reason.
    pub fn count_failure(&mut self, refused: bool) {
        self.stats.failures += 1;
        self.stats.refusals += u64::from(refused);
    }

    /// True if messages are taken: there is a connection, or one is being made, and no write on it has failed.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.failed)
    }

    pub(crate) fn has_connection(&self) -> bool {
        self.connection.is_some()
    }

    /// The peer's latest hello, even if the peer is away now.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The lane's counts.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        let up = self.connection.as_ref().is_some_and(|connection| connection.is_made);
        LaneStats { up, queued_bytes: self.waiting.len(), ..self.stats }
    }
}

/// An idle lane's buffer is given up from this size on.
const IDLE_BUFFER_BYTES_MAX: usize = 4 << 20;
/// The capacity that an idle lane's buffer begins again with.
const IDLE_BUFFER_BYTES_MIN: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use logdrive_raft::{
        AppendEntries, Entry, EntryBatch, EntryKind, LogId, LogIndex, Message, Term,
    };

    fn hello(node: u64) -> Hello {
        Hello { incarnation: 1, ..Hello::of(node) }
    }

    fn queue(settings: &Settings) -> LaneQueue {
        let mut queue = LaneQueue::new(&hello(1), Lane::Append, settings);
        queue.set_up(hello(2));
        queue
    }

    fn append(group: u64, bytes: usize) -> (GroupId, Message) {
        let mut entries = EntryBatch::new();
        entries.push(Entry {
            term: Term(1),
            index: LogIndex(1),
            kind: EntryKind::Command,
            checksum: 7,
            payload: Bytes::from(vec![1; bytes]),
        });
        let prev_log = LogId { term: Term(0), index: LogIndex(0) };
        let (term, commit) = (Term(1), LogIndex(0));
        (GroupId(group), Message::AppendEntries(AppendEntries { term, prev_log, commit, entries }))
    }

    fn all_fit(_: GroupId, _: usize) {
        panic!("a message fits no frame");
    }

    /// Bytes on the wire of a frame with one such append.
    fn frame_bytes(bytes: usize) -> usize {
        FRAME_HEADER_BYTES + crate::codec::encoded_bytes(&append(1, bytes).1)
    }

    #[test]
    fn a_lane_is_filled_to_its_bound_and_not_one_byte_over() {
        for (bound, taken) in [(2 * frame_bytes(100), 2), (2 * frame_bytes(100) - 1, 1)] {
            let settings = Settings { append_lane_bytes_max: bound, ..Settings::default() };
            let mut queue = queue(&settings);
            for n in 0..2 {
                let sent = queue.send(&mut vec![append(n, 100)], all_fit);
                assert_eq!(sent, if n < taken { Sent::Taken } else { Sent::Dropped });
            }
            assert_eq!((queue.stats().frames, queue.stats().dropped_full), (taken, 2 - taken));
            queue.advance(queue.waiting().len());
            assert_eq!(queue.send(&mut vec![append(9, 100)], all_fit), Sent::Taken);
        }
    }

    #[test]
    fn a_batch_of_which_a_part_is_dropped_is_left_whole_for_its_groups() {
        let settings = Settings { frame_bytes_max: 1_000, ..Settings::default() };
        let mut queue = queue(&settings);
        let mut batch = vec![append(1, 10), append(2, 1_001), append(3, 10)];
        let mut oversized = Vec::new();
        let sent = queue.send(&mut batch, |group, _| oversized.push(group));
        assert_eq!((sent, batch.len(), oversized), (Sent::Dropped, 3, vec![GroupId(2)]));
        assert_eq!(queue.stats().messages, 2, "the others left");
    }

    #[test]
    fn a_batch_is_cut_into_frames_of_about_the_soft_bound() {
        let settings = Settings { frame_bytes_soft: 1_000, ..Settings::default() };
        let mut queue = queue(&settings);
        let mut batch: Vec<_> = (0..10).map(|n| append(n, 400)).collect();
        assert_eq!(queue.send(&mut batch, all_fit), Sent::Taken);
        assert_eq!(queue.stats().frames, 5);
    }

    #[test]
    fn a_failed_or_lost_connection_takes_nothing_and_the_next_begins_anew() {
        let mut queue = queue(&Settings::default());
        assert_eq!(queue.send(&mut vec![append(1, 9)], all_fit), Sent::Taken);
        let first = queue.waiting().to_vec();
        queue.fail();
        assert_eq!(queue.send(&mut vec![append(2, 9)], all_fit), Sent::Dropped);
        assert!(!queue.is_up() && queue.stats().up, "its owner has not said yet that it is lost");
        queue.set_down();
        assert_eq!(queue.send(&mut vec![append(2, 9)], all_fit), Sent::Dropped);
        assert_eq!((queue.waiting(), queue.stats().dropped_down), (&[][..], 2));
        queue.set_up(hello(2));
        assert_eq!(queue.send(&mut vec![append(1, 9)], all_fit), Sent::Taken);
        assert_eq!(queue.waiting(), first, "frames are counted from 0 again");
    }

    #[test]
    fn what_is_sent_while_a_connection_is_made_are_its_first_frames() {
        let mut queue = LaneQueue::new(&hello(1), Lane::Append, &Settings::default());
        queue.begin();
        assert_eq!(queue.send(&mut vec![append(1, 9)], all_fit), Sent::Taken);
        assert!(queue.is_up() && !queue.stats().up, "it is being made");
        let early = queue.waiting().to_vec();
        queue.set_up(hello(2));
        assert!(queue.stats().up);
        assert_eq!(queue.waiting(), early, "they have waited for it");
        assert_eq!(queue.send(&mut vec![append(2, 9)], all_fit), Sent::Taken);
        let mut receiver: crate::Receiver = crate::Receiver::new(&hello(1), &Settings::default());
        assert_eq!(receiver.read(queue.waiting()), queue.waiting().len());
        for group in 1..=2 {
            let messages = receiver.next(|| false).expect("in order").expect("a whole frame");
            assert_eq!(messages, [append(group, 9)]);
        }
        queue.close();
        assert!(queue.waiting().is_empty() && !queue.is_up());
        assert_eq!((queue.stats().connects, queue.stats().losses), (1, 0), "it was not lost");
        // A connection that does not come up takes its first frames with it.
        queue.begin();
        assert_eq!(queue.send(&mut vec![append(3, 9)], all_fit), Sent::Taken);
        queue.close();
        queue.begin();
        assert!(queue.waiting().is_empty());
    }

    #[test]
    fn a_buffer_that_a_slow_peer_made_large_is_given_up() {
        let mut queue = queue(&Settings::default());
        for n in 0..6 {
            assert_eq!(queue.send(&mut vec![append(n, 1 << 20)], all_fit), Sent::Taken);
        }
        queue.advance(queue.waiting().len());
        assert_eq!(queue.waiting.capacity(), IDLE_BUFFER_BYTES_MIN);
    }
}
