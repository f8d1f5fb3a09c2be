//! One accepted connection without its socket: from bytes to the messages that may be delivered. No I/O, no clock.
//!
//! In:     bytes, in pieces of any size, put where [`Receiver::room`] says; whether the connection was replaced.
//! Out:    [`Receiver::next`], the messages of one frame at a time.
//! Cost:   bodies are not copied. Memory is one frame of at most `frame_bytes_max`, beside the usual buffer.
//! Fails:  the first bad byte ends the connection, and so does its replacement; nothing of its frame is given out.
//! Source: RULES.md N8, N9, I1, I3, I5.

use crate::frame::{FrameOrigin, FrameReader};
use crate::{Hello, Lane, LaneMessage, NetError, Settings};
use bytes::BytesMut;
use logdrive_raft::{GroupId, Message};
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

/// The reading end of one connection without its socket.
#[derive(Debug)]
pub struct Receiver<M = Message> {
    frames: FrameReader,
    progress_timeout: Duration,
    messages: PhantomData<M>,
}

impl<M: LaneMessage> Receiver<M> {
    /// Of a connection just let in, whose dialer says `hello` of itself.
    #[must_use]
    pub fn new(hello: &Hello, settings: &Settings) -> Self {
        let origin = FrameOrigin { cluster: hello.cluster, source: hello.node, lane: hello.lane };
        let read_bytes = match hello.lane {
            Lane::Liveness => LIVENESS_READ_BYTES,
            Lane::Append | Lane::Bulk => LARGE_READ_BYTES,
        };
        Self {
            frames: FrameReader::new(origin, settings.body_bytes_max(hello.lane), read_bytes),
            progress_timeout: settings.progress_timeout,
            messages: PhantomData,
        }
    }

    /// Where the next bytes go: at most as many as there is capacity for.
    pub fn room(&mut self) -> &mut BytesMut {
        self.frames.room()
    }

    /// Takes as many of `bytes` as there is room for, as a socket's read would; how many.
    pub fn read(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let taken = bytes.len().min(room.capacity() - room.len());
        room.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// All messages of the next whole frame, decoded and checked; `None` if more bytes are needed first.
    /// `is_replaced` is asked after all the work and right before the delivery: the caller must deliver with no wait
    /// in between.
    ///
    /// # Errors
    /// [`NetError::Frame`], [`NetError::Codec`] and [`NetError::Replaced`]: the connection must be closed.
    pub fn next(
        &mut self,
        is_replaced: impl FnOnce() -> bool,
    ) -> Result<Option<Vec<(GroupId, M)>>, NetError> {
        let Some(body) = self.frames.next_body()? else { return Ok(None) };
        let messages = M::decode(body)?;
        if is_replaced() && !logdrive_raft::bug!("old_connections_frames_delivered") {
            return Err(NetError::Replaced);
        }
        Ok(Some(messages))
    }

    /// The error of a connection whose other end sends nothing more.
    #[must_use]
    pub fn ended(&self) -> NetError {
        match self.is_inside_frame() {
            true => NetError::Io(io::ErrorKind::UnexpectedEof.into()),
            false => NetError::Closed,
        }
    }

    /// True if a frame has begun and not ended.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.frames.is_inside_frame()
    }

    /// How long the frame that has begun may take: slow is allowed, a drip is not.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let bytes = self.frames.open_body_bytes().unwrap_or(0);
        self.progress_timeout + Duration::from_secs(u64::from(bytes) / BYTES_PER_SECOND_MIN)
    }
}

const LIVENESS_READ_BYTES: usize = 64 << 10;
const LARGE_READ_BYTES: usize = 256 << 10;
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LaneQueue, Sent};
    use logdrive_raft::{Heartbeat, LogId, LogIndex, Term};

    fn hello() -> Hello {
        Hello { lane: Lane::Liveness, ..Hello::of(2) }
    }

    fn receiver() -> Receiver {
        Receiver::new(&hello(), &Settings::default())
    }

    fn heartbeats(groups: u64) -> Vec<(GroupId, Message)> {
        let beat = |n| {
            Message::Heartbeat(Heartbeat {
                term: Term(1),
                commit: LogIndex(n),
                matched: LogId::ZERO,
            })
        };
        (0..groups).map(|n| (GroupId(n), beat(n))).collect()
    }

    /// The frames of one connection, a batch each.
    fn sent(batches: &[Vec<(GroupId, Message)>]) -> Vec<u8> {
        let mut queue = LaneQueue::new(&hello(), Lane::Liveness, &Settings::default());
        queue.set_up(hello());
        for batch in batches {
            assert_eq!(queue.send(&mut batch.clone(), |_, _| panic!("too large")), Sent::Taken);
        }
        queue.waiting().to_vec()
    }

    #[test]
    fn what_a_lane_sends_is_what_is_delivered_however_it_is_cut() {
        let batches = [heartbeats(3), heartbeats(1), heartbeats(9)];
        let bytes = sent(&batches);
        for piece in [1, 47, 100, bytes.len()] {
            let (mut receiver, mut delivered) = (receiver(), Vec::new());
            for mut some in bytes.chunks(piece) {
                while !some.is_empty() {
                    some = &some[receiver.read(some)..];
                    delivered.extend(std::iter::from_fn(|| receiver.next(|| false).expect("ours")));
                }
            }
            assert_eq!(delivered, batches);
            assert!(matches!(receiver.ended(), NetError::Closed));
        }
    }

    #[test]
    fn nothing_is_delivered_once_the_connection_was_replaced() {
        let bytes = sent(&[heartbeats(1), heartbeats(2)]);
        let mut receiver = receiver();
        assert_eq!(receiver.read(&bytes), bytes.len());
        assert!(receiver.next(|| false).expect("its time").is_some());
        assert!(matches!(receiver.next(|| true), Err(NetError::Replaced)));
    }

    #[test]
    fn nothing_of_a_bad_frame_is_delivered_and_what_stood_before_it_is() {
        let mut bytes = sent(&[heartbeats(1), heartbeats(2)]);
        *bytes.last_mut().expect("frames") ^= 1;
        let mut receiver = receiver();
        assert_eq!(receiver.read(&bytes), bytes.len());
        assert_eq!(receiver.next(|| false).expect("whole"), Some(heartbeats(1)));
        assert!(matches!(receiver.next(|| false), Err(NetError::Frame(_))));
    }

    #[test]
    fn an_end_within_a_frame_is_no_close() {
        let mut receiver = receiver();
        receiver.read(&sent(&[heartbeats(1)])[..60]);
        assert!(receiver.next(|| false).expect("the start is good").is_none());
        assert!(matches!(receiver.ended(), NetError::Io(_)));
    }
}
