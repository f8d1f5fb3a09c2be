//! The Redis protocol (RESP2, and the RESP3 replies that differ), one codec for `serve` and `load`.
//!
//! In:     bytes as they came off a socket: any number of requests or replies, the last one perhaps cut short.
//! Out:    [`Request`]s and [`Reply`]s that point into those bytes; replies and requests appended to a `BytesMut`.
//! Cost:   a request is one pass over its headers, one split of the buffer and no allocation up to four arguments.
//! Fails:  [`RespError`], after which the connection cannot be trusted and is closed. Every length is checked
//!         against its bound when its header is seen, before anything is allocated for it.
//! Source: the Redis serialization protocol specification; the bounds are ours.
//!
//! Replies are decoded by `redis-protocol`. Requests are not: they are always an array of bulk strings, which one
//! loop reads in a third of the time (`SET key 128B`, pipelined, key and value taken as `Bytes`, on 2 shared cores:
//! 100 ns here, 310 ns there, where every argument costs a frame and the array a `Vec`).

use bytes::{BufMut, Bytes, BytesMut};

/// One bulk string, in bytes.
pub(crate) const BULK_BYTES_MAX: usize = 4 << 20;
/// One whole request or reply, headers included, in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 20;
/// The most arguments a request may have. A request that comes in pieces is scanned from its start at each piece, so
/// this bounds what a client that drips costs the others of its shard.
pub(crate) const ARGS_MAX: usize = 4 << 10;
/// An inline request, or a simple string or error in a reply, in bytes.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;
/// Values of one reply, at every depth together.
pub(crate) const REPLY_VALUES_MAX: usize = 1 << 20;
/// Arrays inside arrays in one reply.
pub(crate) const REPLY_DEPTH_MAX: usize = 16;

const _: () = assert!(BULK_BYTES_MAX < FRAME_BYTES_MAX && LINE_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize); // spans are u32

/// Bytes that are not the protocol, or exceed one of its bounds. The text is what a client may be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum RespError {
    /// A length that is no decimal number, or is not ended by CRLF.
    #[error("Protocol error: invalid length")]
    BadLength,
    /// A request's array holds something other than bulk strings.
    #[error("Protocol error: expected '$'")]
    NotBulk,
    /// A bulk string is not followed by CRLF.
    #[error("Protocol error: bulk string without CRLF")]
    Unterminated,
    /// A bulk string above [`BULK_BYTES_MAX`].
    #[error("Protocol error: invalid bulk length, at most {BULK_BYTES_MAX} bytes are taken")]
    BulkTooLong,
    /// A request of more than [`ARGS_MAX`] arguments.
    #[error("Protocol error: invalid multibulk length, at most {ARGS_MAX} arguments are taken")]
    TooManyArgs,
    /// A request or reply above [`FRAME_BYTES_MAX`].
    #[error("Protocol error: too big a request, at most {FRAME_BYTES_MAX} bytes are taken")]
    FrameTooLong,
    /// A line above [`LINE_BYTES_MAX`].
    #[error("Protocol error: too big inline request, at most {LINE_BYTES_MAX} bytes are taken")]
    LineTooLong,
    /// A reply of an unknown kind, nested deeper or longer than the bounds, or malformed.
    #[error("Protocol error: bad reply")]
    BadReply,
}

/// The dialect a connection speaks; `HELLO 3` moves it to the second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Proto {
    /// The dialect that every connection starts with.
    #[default]
    Resp2,
    /// Nulls and maps have kinds of their own.
    Resp3,
}

/// A decoded RESP2 reply. Its bytes point into the receive buffer.
pub(crate) type Reply = redis_protocol::resp2::types::BytesFrame;

/// One request: its arguments, the command's name first. An empty line and an empty array are a request of none.
#[derive(Debug)]
pub(crate) struct Request {
    frame: Bytes,
    count: usize,
    head: [Span; SPANS_INLINE],
    rest: Vec<Span>,
}

impl Request {
    /// How many arguments, the command's name included.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// True for an empty line and an empty array: there is nothing to run and nothing to answer, as with Redis.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Argument `at`, borrowed. Panics past the end.
    pub(crate) fn arg(&self, at: usize) -> &[u8] {
        let span = self.span(at);
        &self.frame[span.start as usize..span.end as usize]
    }

    /// Argument `at`, sharing the receive buffer's memory. Panics past the end.
    pub(crate) fn bytes(&self, at: usize) -> Bytes {
        let span = self.span(at);
        self.frame.slice(span.start as usize..span.end as usize)
    }

    /// Every argument in order.
    pub(crate) fn args(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|at| self.arg(at))
    }

    fn span(&self, at: usize) -> Span {
        assert!(at < self.count, "argument {at} of {}", self.count);
        if at < SPANS_INLINE { self.head[at] } else { self.rest[at - SPANS_INLINE] }
    }
}

/// Takes one request off the front of `buffer`; `None` if it is not all there yet (nothing is taken then).
///
/// Both forms are read: the array of bulk strings that clients send, and a line of words typed by hand (without
/// quoting: a quote is a byte like any other). An empty one is taken too, and is a request without arguments: a run of
/// them costs time like any other requests, which only the caller can bound.
pub(crate) fn parse_request(buffer: &mut BytesMut) -> Result<Option<Request>, RespError> {
    let mut spans = Spans::default();
    let scanned = match buffer.first() {
        None => return Ok(None),
        Some(b'*') => scan_array(buffer, &mut spans)?,
        Some(_) => scan_line(buffer, &mut spans)?,
    };
    let Some(end) = scanned else { return Ok(None) };
    let frame = buffer.split_to(end).freeze();
    let Spans { count, head, rest } = spans;
    Ok(Some(Request { frame, count, head, rest }))
}

/// Takes one RESP2 reply off the front of `buffer`; `None` if it is not all there yet (nothing is taken then).
pub(crate) fn parse_reply(buffer: &mut BytesMut) -> Result<Option<Reply>, RespError> {
    let Some(end) = reply_len(buffer)? else { return Ok(None) };
    // The library allocates by the lengths it reads; reply_len has held every one of them against bytes that are here.
    let frame = buffer.split_to(end).freeze();
    match redis_protocol::resp2::decode::decode_bytes(&frame) {
        Ok(Some((reply, taken))) if taken == end => Ok(Some(reply)),
        _ => Err(RespError::BadReply),
    }
}

/// Length in bytes of the RESP2 reply at the front of `bytes`; `None` if its end is not there yet.
pub(crate) fn reply_len(bytes: &[u8]) -> Result<Option<usize>, RespError> {
    let mut owed = [0_usize; REPLY_DEPTH_MAX]; // values still to come of each open array
    let mut depth = 0;
    let mut values = 0;
    let mut at = 0;
    loop {
        values += 1;
        if values > REPLY_VALUES_MAX {
            return Err(RespError::BadReply);
        }
        let opened = match bytes.get(at) {
            None => return Ok(None),
            Some(b'+' | b'-' | b':') => {
                let Some(next) = line_end(&bytes[at..])? else { return Ok(None) };
                at += next;
                0
            }
            Some(b'$') => {
                let Some((len, next)) = read_len(bytes, at + 1)? else { return Ok(None) };
                at = next;
                if len != NULL_LEN {
                    let Some(next) = bulk_end(bytes, at, len)? else { return Ok(None) };
                    at = next;
                }
                0
            }
            Some(b'*') => {
                let Some((len, next)) = read_len(bytes, at + 1)? else { return Ok(None) };
                at = next;
                match usize::try_from(len) {
                    Ok(len) if len > REPLY_VALUES_MAX => return Err(RespError::BadReply),
                    Ok(len) => len,
                    Err(_) if len == NULL_LEN => 0,
                    Err(_) => return Err(RespError::BadLength),
                }
            }
            Some(_) => return Err(RespError::BadReply),
        };
        if opened > 0 {
            if depth == REPLY_DEPTH_MAX {
                return Err(RespError::BadReply);
            }
            owed[depth] = opened;
            depth += 1;
            continue;
        }
        // A value ended here: so does every array whose last value it was.
        while depth > 0 {
            owed[depth - 1] -= 1;
            if owed[depth - 1] > 0 {
                break;
            }
            depth -= 1;
        }
        if depth == 0 {
            return Ok(Some(at));
        }
    }
}

/// Appends a request: an array of bulk strings.
pub(crate) fn write_request(out: &mut BytesMut, args: &[&[u8]]) {
    write_array_len(out, args.len());
    for arg in args {
        write_bulk(out, arg);
    }
}

/// Appends `+OK`.
pub(crate) fn write_ok(out: &mut BytesMut) {
    out.put_slice(b"+OK\r\n");
}

/// Appends a simple string. Line ends in `text` become spaces: they would end the reply.
pub(crate) fn write_simple(out: &mut BytesMut, text: &str) {
    write_line(out, b'+', text);
}

/// Appends an error, whose first word is its code (`ERR`, `MOVED`). Line ends in `text` become spaces.
pub(crate) fn write_error(out: &mut BytesMut, text: &str) {
    write_line(out, b'-', text);
}

/// Appends an integer.
pub(crate) fn write_int(out: &mut BytesMut, value: i64) {
    out.put_u8(b':');
    if value < 0 {
        out.put_u8(b'-');
    }
    write_decimal(out, value.unsigned_abs());
    out.put_slice(b"\r\n");
}

/// Appends a bulk string.
pub(crate) fn write_bulk(out: &mut BytesMut, value: &[u8]) {
    out.reserve(value.len() + 2 * HEADER_BYTES_MAX);
    write_header(out, b'$', value.len());
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Appends an array's header; `count` values must follow.
pub(crate) fn write_array_len(out: &mut BytesMut, count: usize) {
    write_header(out, b'*', count);
}

/// Appends a map's header; `pairs` keys and values must follow, in turn. RESP2 has no maps: a flat array there.
pub(crate) fn write_map_len(out: &mut BytesMut, proto: Proto, pairs: usize) {
    match proto {
        Proto::Resp2 => write_header(out, b'*', pairs * 2),
        Proto::Resp3 => write_header(out, b'%', pairs),
    }
}

/// Appends "no such value".
pub(crate) fn write_null(out: &mut BytesMut, proto: Proto) {
    out.put_slice(match proto {
        Proto::Resp2 => b"$-1\r\n".as_slice(),
        Proto::Resp3 => b"_\r\n".as_slice(),
    });
}

fn write_line(out: &mut BytesMut, kind: u8, text: &str) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    let start = out.len();
    out.put_slice(text.as_bytes());
    for byte in &mut out[start..] {
        if matches!(*byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.put_slice(b"\r\n");
}

fn write_header(out: &mut BytesMut, kind: u8, count: usize) {
    out.put_u8(kind);
    write_decimal(out, count as u64);
    out.put_slice(b"\r\n");
}

fn write_decimal(out: &mut BytesMut, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(value % 10) as usize];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// Reads `*N` and its N bulk strings. Says where they end, or that the end is not there yet.
fn scan_array(bytes: &[u8], spans: &mut Spans) -> Result<Option<usize>, RespError> {
    let Some((count, mut at)) = read_len(bytes, 1)? else { return Ok(None) };
    // Redis takes a null array for an empty one.
    if count > ARGS_MAX as i64 {
        return Err(RespError::TooManyArgs);
    }
    for _ in 0..count {
        match bytes.get(at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(_) => return Err(RespError::NotBulk),
        }
        let Some((len, start)) = read_len(bytes, at + 1)? else { return Ok(None) };
        let Some(end) = bulk_end(bytes, start, len)? else { return Ok(None) };
        spans.push(start, end - 2);
        at = end;
    }
    Ok(Some(at))
}

/// Reads a line of words.
fn scan_line(bytes: &[u8], spans: &mut Spans) -> Result<Option<usize>, RespError> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        return if window.len() < LINE_BYTES_MAX { Ok(None) } else { Err(RespError::LineTooLong) };
    };
    let mut start = None;
    for (at, byte) in window[..=end].iter().enumerate() {
        match (start, byte.is_ascii_whitespace()) {
            (None, false) => start = Some(at),
            (Some(from), true) => {
                spans.push(from, at);
                start = None;
            }
            _ => {}
        }
    }
    if spans.count > ARGS_MAX {
        return Err(RespError::TooManyArgs);
    }
    Ok(Some(end + 1))
}

/// The end of a line that starts at `bytes[0]`, past its CRLF.
fn line_end(bytes: &[u8]) -> Result<Option<usize>, RespError> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match window.windows(2).position(|pair| pair == b"\r\n") {
        Some(at) => Ok(Some(at + 2)),
        None if window.len() < LINE_BYTES_MAX => Ok(None),
        None => Err(RespError::LineTooLong),
    }
}

/// The end of a bulk string of `len` bytes that starts at `start`, past its CRLF.
fn bulk_end(bytes: &[u8], start: usize, len: i64) -> Result<Option<usize>, RespError> {
    let len = usize::try_from(len).map_err(|_| RespError::BulkTooLong)?;
    if len > BULK_BYTES_MAX {
        return Err(RespError::BulkTooLong);
    }
    let end = start + len + 2;
    if end > FRAME_BYTES_MAX {
        return Err(RespError::FrameTooLong);
    }
    match bytes.get(end - 2..end) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some(end)),
        Some(_) => Err(RespError::Unterminated),
    }
}

/// A decimal number and its CRLF at `at`: the number, and where the next thing starts.
fn read_len(bytes: &[u8], at: usize) -> Result<Option<(i64, usize)>, RespError> {
    let negative = bytes.get(at) == Some(&b'-');
    let digits = at + usize::from(negative);
    let mut value = 0_i64;
    let mut next = digits;
    loop {
        match bytes.get(next) {
            None => return Ok(None),
            Some(digit @ b'0'..=b'9') if next - digits < LEN_DIGITS_MAX => {
                value = value * 10 + i64::from(digit - b'0');
                next += 1;
            }
            Some(b'\r') if next > digits => break,
            Some(_) => return Err(RespError::BadLength),
        }
    }
    match bytes.get(next + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((if negative { -value } else { value }, next + 2))),
        Some(_) => Err(RespError::BadLength),
    }
}

/// Where one argument lies in its request's bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// Arguments found so far. Grows with bytes that arrived, never with a count that was announced.
#[derive(Default)]
struct Spans {
    count: usize,
    head: [Span; SPANS_INLINE],
    rest: Vec<Span>,
}

impl Spans {
    fn push(&mut self, start: usize, end: usize) {
        let place = |at: usize| u32::try_from(at).expect("a frame is bounded by FRAME_BYTES_MAX");
        let span = Span { start: place(start), end: place(end) };
        match self.head.get_mut(self.count) {
            Some(slot) => *slot = span,
            None => self.rest.push(span),
        }
        self.count += 1;
    }
}

/// `SET key value NX` fits: requests of the hot path allocate nothing.
const SPANS_INLINE: usize = 4;
/// Above every bound, below overflow.
const LEN_DIGITS_MAX: usize = 11;
/// A kind, twenty digits, CRLF.
const HEADER_BYTES_MAX: usize = 23;
/// The length that says "null".
const NULL_LEN: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn args(request: &Request) -> Vec<Vec<u8>> {
        request.args().map(<[u8]>::to_vec).collect()
    }

    fn parse_all(bytes: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, RespError> {
        let mut buffer = BytesMut::from(bytes);
        let mut all = Vec::new();
        while let Some(request) = parse_request(&mut buffer)? {
            all.push(args(&request));
        }
        all.retain(|request| !request.is_empty());
        Ok(all)
    }

    #[test]
    fn pipelined_requests_come_out_one_by_one() {
        let all =
            parse_all(b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPI").unwrap();
        assert_eq!(all, [vec![b"PING".to_vec()], vec![b"GET".to_vec(), b"a".to_vec()]]);
    }

    #[test]
    fn an_incomplete_request_takes_nothing() {
        let whole = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n";
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            assert!(parse_request(&mut buffer).unwrap().is_none(), "cut at {cut}");
            assert_eq!(&buffer[..], &whole[..cut]);
        }
    }

    #[test]
    fn inline_commands_are_words_of_a_line() {
        let all = parse_all(b"PING\r\n\r\n  set  a\tb \nQUIT\r\n").unwrap();
        let words =
            |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(all, [words("PING"), words("set a b"), words("QUIT")]);
    }

    #[test]
    fn empty_requests_come_out_one_by_one_too() {
        let mut buffer = BytesMut::from(&b"*0\r\n*-1\r\n\r\n\n  \n*1\r\n$4\r\nPING\r\n"[..]);
        for _ in 0..5 {
            assert!(parse_request(&mut buffer).unwrap().unwrap().is_empty());
        }
        assert_eq!(args(&parse_request(&mut buffer).unwrap().unwrap()), [b"PING"]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn hostile_lengths_are_refused_at_their_header() {
        for (bytes, error) in [
            (&b"*1000000000\r\n"[..], RespError::TooManyArgs),
            (b"*1\r\n$9999999999\r\n", RespError::BulkTooLong),
            (b"*1\r\n$-1\r\n", RespError::BulkTooLong),
            (b"*99999999999999999999\r\n", RespError::BadLength),
            (b"*\r\n", RespError::BadLength),
            (b"*1\r\n$\r\n", RespError::BadLength),
            (b"*x\r\n", RespError::BadLength),
            (b"*1\n$4\n", RespError::BadLength),
            (b"*1\r\n:1\r\n", RespError::NotBulk),
            (b"*1\r\n$1\r\nabc", RespError::Unterminated),
        ] {
            let mut buffer = BytesMut::from(bytes);
            assert_eq!(
                parse_request(&mut buffer).unwrap_err(),
                error,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_request_above_the_frame_bound_is_refused_before_its_bytes_arrive() {
        let mut buffer = BytesMut::from(&b"*9\r\n"[..]);
        for _ in 0..3 {
            write_bulk(&mut buffer, &vec![b'x'; BULK_BYTES_MAX]);
        }
        assert!(parse_request(&mut buffer).unwrap().is_none());
        write_header(&mut buffer, b'$', BULK_BYTES_MAX);
        assert_eq!(parse_request(&mut buffer).unwrap_err(), RespError::FrameTooLong);
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_its_bound() {
        let mut buffer = BytesMut::from(&vec![b'a'; LINE_BYTES_MAX - 1][..]);
        assert!(parse_request(&mut buffer).unwrap().is_none());
        buffer.put_u8(b'a');
        assert_eq!(parse_request(&mut buffer).unwrap_err(), RespError::LineTooLong);
    }

    #[test]
    fn replies_decode() {
        let mut buffer = BytesMut::from(
            &b"+OK\r\n-MOVED 3 127.0.0.1:1\r\n:-7\r\n$2\r\nhi\r\n$-1\r\n*2\r\n*1\r\n:1\r\n$0\r\n\r\n*0\r\n*-1\r\n"[..],
        );
        let mut replies = Vec::new();
        while let Some(reply) = parse_reply(&mut buffer).unwrap() {
            replies.push(reply);
        }
        assert!(buffer.is_empty());
        assert_eq!(
            replies,
            [
                Reply::SimpleString(Bytes::from_static(b"OK")),
                Reply::Error("MOVED 3 127.0.0.1:1".into()),
                Reply::Integer(-7),
                Reply::BulkString(Bytes::from_static(b"hi")),
                Reply::Null,
                Reply::Array(vec![
                    Reply::Array(vec![Reply::Integer(1)]),
                    Reply::BulkString(Bytes::from_static(b"")),
                ]),
                Reply::Array(vec![]),
                Reply::Null,
            ]
        );
    }

    #[test]
    fn hostile_replies_are_refused() {
        let deep = b"*1\r\n".repeat(REPLY_DEPTH_MAX + 1);
        for bytes in
            [&b"*1000000000\r\n"[..], b"$9999999999\r\n", b"$-2\r\n", b"*-2\r\n", b"!3\r\n", &deep]
        {
            assert!(parse_reply(&mut BytesMut::from(bytes)).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_error_text_cannot_end_its_reply_early() {
        let mut out = BytesMut::new();
        write_error(&mut out, "ERR a\r\n+OK");
        assert_eq!(&out[..], b"-ERR a  +OK\r\n");
    }

    #[test]
    fn the_two_dialects_differ_in_nulls_and_maps() {
        let mut out = BytesMut::new();
        write_null(&mut out, Proto::Resp2);
        write_null(&mut out, Proto::Resp3);
        write_map_len(&mut out, Proto::Resp2, 3);
        write_map_len(&mut out, Proto::Resp3, 3);
        write_int(&mut out, i64::MIN);
        write_simple(&mut out, "PONG");
        assert_eq!(&out[..], b"$-1\r\n_\r\n*6\r\n%3\r\n:-9223372036854775808\r\n+PONG\r\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn requests_round_trip_however_they_are_cut(
            requests in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..9), 1..6),
            cut in 1_usize..50,
        ) {
            let mut wire = BytesMut::new();
            for request in &requests {
                let args: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
                write_request(&mut wire, &args);
            }
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for chunk in wire.chunks(cut) {
                buffer.put_slice(chunk);
                while let Some(request) = parse_request(&mut buffer).unwrap() {
                    prop_assert_eq!(request.bytes(0), request.arg(0));
                    read.push(args(&request));
                }
            }
            prop_assert_eq!(read, requests);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(
            prop::sample::select(b"*$:+-0123456789\r\n\r\naZ\0\xff".to_vec()), 0..200)) {
            let mut buffer = BytesMut::from(&noise[..]);
            while let Ok(Some(request)) = parse_request(&mut buffer) {
                prop_assert!(request.len() <= noise.len() && request.rest.capacity() <= noise.len());
            }
            let mut buffer = BytesMut::from(&noise[..]);
            while let Ok(Some(_)) = parse_reply(&mut buffer) {}
        }

        #[test]
        fn our_view_of_a_replys_end_is_the_librarys(noise in prop::collection::vec(
            prop::sample::select(b"*$:+-0123\r\n\r\n\r\na".to_vec()), 0..60)) {
            if let Ok(Some(end)) = reply_len(&noise)
                && let Ok(Some((_, taken))) = redis_protocol::resp2::decode::decode_range(&noise)
            {
                prop_assert_eq!(end, taken);
            }
        }
    }
}
