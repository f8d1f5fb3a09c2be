//! One pipelined connection to one node.
//!
//! In:     encoded requests, appended to its output; readiness.
//! Out:    each operation with its reply, in the order in which the operations were sent.
//! Cost:   one write and one read per wake-up, however many operations these carry; no allocation per operation.
//! Fails:  any socket error or bad byte loses the connection: everything pending is handed back, and the node is
//!         dialled again with back-off.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::recorder::Times;
use super::target::Endpoint;
use crate::resp;

/// One operation in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) times: Times,
    pub(super) key: u32,
    /// How often the operation was redirected.
    pub(super) moves: u32,
}

/// The node's reply to a `SET`.
pub(super) enum Outcome<'a> {
    /// `+OK`.
    Ok,
    /// An error's text, which begins with the error's code.
    Error(&'a [u8]),
    /// A reply that no `SET` has.
    Strange(&'a [u8]),
}

pub(super) struct Connection {
    endpoint: Endpoint,
    link: Link,
    /// Why the connection could not be made at the last attempt; `None` once it was made.
    pub(super) failure: Option<io::Error>,
    retry_after: Duration,
    input: Box<[u8]>,
    input_len: usize,
    /// Encoded requests; the bytes before `output_sent` were handed to the kernel.
    pub(super) output: Vec<u8>,
    output_sent: usize,
    /// Operations that were sent and are unanswered, oldest first.
    pub(super) pending: VecDeque<Pending>,
}

enum Link {
    Open(TcpStream),
    Dialling(Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>),
}

impl Connection {
    /// A connection that starts to dial when first polled.
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            link: Link::Dialling(Box::pin(dial(endpoint.clone(), Duration::ZERO))),
            endpoint,
            failure: None,
            retry_after: RETRY_MIN,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            input_len: 0,
            output: Vec::with_capacity(INPUT_BYTES),
            output_sent: 0,
            pending: VecDeque::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.link, Link::Open(_))
    }

    /// Bytes that wait for the socket.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.output.len() - self.output_sent
    }

    /// Brings the connection up. Ready once, when the connection has just opened.
    pub(super) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Link::Dialling(dialling) = &mut self.link else { return Poll::Pending };
            match ready!(dialling.as_mut().poll(context)) {
                Ok(stream) => {
                    self.link = Link::Open(stream);
                    self.retry_after = RETRY_MIN;
                    self.failure = None;
                    return Poll::Ready(());
                }
                Err(error) => {
                    self.failure = Some(error);
                    self.redial();
                }
            }
        }
    }

    /// Reads once and hands each complete reply to `on_reply` with its operation. Ready with the number of replies.
    pub(super) fn poll_replies(
        &mut self,
        context: &mut Context<'_>,
        on_reply: &mut dyn FnMut(Pending, Outcome<'_>),
    ) -> Poll<io::Result<usize>> {
        let Link::Open(stream) = &mut self.link else { return Poll::Pending };
        let mut buffer = ReadBuf::new(&mut self.input[self.input_len..]);
        ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.input_len += read;
        let mut at = 0;
        let mut count = 0;
        loop {
            let bytes = &self.input[at..self.input_len];
            let (outcome, taken) = if bytes.starts_with(OK) {
                (Outcome::Ok, OK.len())
            } else {
                match resp::reply_len(bytes).map_err(io::Error::other)? {
                    None => break,
                    Some(len) if bytes[0] == b'-' => (Outcome::Error(&bytes[1..len - 2]), len),
                    Some(len) => (Outcome::Strange(&bytes[..len]), len),
                }
            };
            let Some(pending) = self.pending.pop_front() else {
                return Poll::Ready(Err(io::Error::other("a reply nothing asked for")));
            };
            on_reply(pending, outcome);
            at += taken;
            count += 1;
        }
        self.input.copy_within(at..self.input_len, 0);
        self.input_len -= at;
        if self.input_len == self.input.len() {
            return Poll::Ready(Err(io::Error::other(
                "a reply longer than any this client asks for",
            )));
        }
        Poll::Ready(Ok(count))
    }

    /// Writes as much as the socket takes; wakes the task when the socket takes more.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Link::Open(stream) = &mut self.link else { return Ok(()) };
        while self.output_sent < self.output.len() {
            match Pin::new(&mut *stream).poll_write(context, &self.output[self.output_sent..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => self.output_sent += written,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if self.output_sent == self.output.len() {
            self.output.clear();
            self.output_sent = 0;
        } else if self.output_sent >= OUTPUT_MOVE_BYTES.max(self.output.len() / 2) {
            self.output.drain(..self.output_sent);
            self.output_sent = 0;
        }
        Ok(())
    }

    /// Drops the socket and dials again after a pause. Hands back the operations that were pending.
    pub(super) fn lose(&mut self) -> VecDeque<Pending> {
        self.input_len = 0;
        self.output.clear();
        self.output_sent = 0;
        self.redial();
        std::mem::take(&mut self.pending)
    }

    fn redial(&mut self) {
        self.link = Link::Dialling(Box::pin(dial(self.endpoint.clone(), self.retry_after)));
        self.retry_after = (self.retry_after * 2).min(RETRY_MAX);
    }
}

async fn dial(endpoint: Endpoint, pause: Duration) -> io::Result<TcpStream> {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let stream = tokio::time::timeout(DIAL_MAX, endpoint.connect()).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

const OK: &[u8] = b"+OK\r\n";
/// Room for thousands of `+OK`s at once; also the bound of the longest reply that can be read.
const INPUT_BYTES: usize = 64 << 10;
/// The output of a stalled socket is moved down only when the move frees at least this much, and at least half of the
/// output.
const OUTPUT_MOVE_BYTES: usize = 1 << 20;
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);
const DIAL_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::{Read, Write};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn pending(key: u32) -> Pending {
        Pending { times: Times { intended_ns: 0, started_ns: 0, sent_ns: 0 }, key, moves: 0 }
    }

    async fn open(listener: &std::net::TcpListener) -> (Connection, std::net::TcpStream) {
        let mut connection = Connection::new(listener.local_addr().unwrap().into());
        poll_fn(|context| connection.poll_open(context)).await;
        assert!(connection.is_open());
        (connection, listener.accept().unwrap().0)
    }

    async fn replies(connection: &mut Connection) -> io::Result<Vec<(u32, String)>> {
        let mut seen = Vec::new();
        let mut on_reply = |pending: Pending, outcome: Outcome<'_>| {
            seen.push((
                pending.key,
                match outcome {
                    Outcome::Ok => "ok".to_owned(),
                    Outcome::Error(text) => String::from_utf8_lossy(text).into_owned(),
                    Outcome::Strange(_) => "strange".to_owned(),
                },
            ));
        };
        poll_fn(|context| connection.poll_replies(context, &mut on_reply)).await?;
        Ok(seen)
    }

    #[test]
    fn replies_meet_their_operations_in_order_even_when_cut() {
        runtime().block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let (mut connection, mut server) = open(&listener).await;
            connection.output.extend_from_slice(b"PING\r\n");
            connection.pending.extend((1..=4).map(pending));
            poll_fn(|context| Poll::Ready(connection.poll_flush(context))).await.unwrap();
            assert_eq!(connection.backlog_bytes(), 0);
            let mut asked = [0; 6];
            server.read_exact(&mut asked).unwrap();
            assert_eq!(&asked, b"PING\r\n");

            server.write_all(b"+OK\r\n-ERR no\r\n+O").unwrap();
            let seen = replies(&mut connection).await.unwrap();
            assert_eq!(seen, [(1, "ok".to_owned()), (2, "ERR no".to_owned())]);
            server.write_all(b"K\r\n:3\r\n").unwrap();
            let seen = replies(&mut connection).await.unwrap();
            assert_eq!(seen, [(3, "ok".to_owned()), (4, "strange".to_owned())]);

            server.write_all(b"+OK\r\n").unwrap();
            assert!(replies(&mut connection).await.is_err(), "a reply nothing asked for");
        });
    }

    #[test]
    fn a_lost_connection_hands_back_its_operations_and_dials_again() {
        runtime().block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let (mut connection, server) = open(&listener).await;
            connection.pending.extend([pending(1), pending(2)]);
            connection.output.extend_from_slice(b"half a request");
            drop(server);
            assert!(replies(&mut connection).await.is_err());
            let lost = connection.lose();
            assert_eq!(lost.iter().map(|pending| pending.key).collect::<Vec<_>>(), [1, 2]);
            assert!(!connection.is_open() && connection.backlog_bytes() == 0);
            poll_fn(|context| connection.poll_open(context)).await;
            assert!(connection.is_open() && connection.pending.is_empty());
        });
    }
}
