//! The properties that the RESP decoders must have, whatever the bytes are.
//!
//! In:     a fuzzer's input: the size of a piece, then all bytes of a connection.
//! Out:    nothing.
//! Fails:  by panicking: what is read must be the same in pieces, the same when it is written and read again, and within
//!         the bounds.
//! Source: RULES.md rows I1, I5, I8.
//!
//! Shared by the fuzz targets here and by `tests/corpus.rs`, which replays the corpus and changes of it. A file
//! that includes this one includes the codec beside it, as `resp`.

use super::resp::{self, ARGS_MAX, FRAME_BYTES_MAX, Reply, Request, RespError};
use bytes::{Bytes, BytesMut};

type Args = Vec<Vec<u8>>;

/// Checks the decoder of requests, which clients send.
pub(crate) fn requests(input: &[u8]) {
    let [piece, stream @ ..] = input else { return };
    let next = |buffer: &mut BytesMut| {
        let before = buffer.clone();
        Ok(resp::parse_request(buffer)?.map(|request| {
            as_the_library_reads_it(&before[..before.len() - buffer.len()], &request);
            assert!(request.len() <= ARGS_MAX, "{} arguments", request.len());
            for at in 0..request.len() {
                assert_eq!(request.arg(at), request.bytes(at));
            }
            request.args().map(<[u8]>::to_vec).collect::<Args>()
        }))
    };
    let all = same_in_pieces(stream, *piece, next);
    let mut written = BytesMut::new();
    for request in &all {
        let args: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
        resp::write_request(&mut written, &args);
    }
    let again = same_in_pieces(&written, u8::MAX, next);
    assert_eq!(again, all, "written and read again");
}

/// Checks that the library reads a request that came as an array as the same array, and that only empty bytes give an
/// empty request.
fn as_the_library_reads_it(taken: &[u8], request: &Request) {
    let is_nothing = || {
        let line = str::from_utf8(taken).ok()?;
        match line.strip_prefix('*') {
            Some(count) => Some(count.strip_suffix("\r\n")?.parse::<i64>().ok()? <= 0),
            None => Some(line.trim_ascii().is_empty()),
        }
    };
    let nothing = is_nothing().unwrap_or(false);
    assert_eq!(request.is_empty(), nothing, "{} is empty", taken.escape_ascii());
    if nothing || taken[0] != b'*' {
        return;
    }
    let read = redis_protocol::resp2::decode::decode_bytes(&Bytes::copy_from_slice(taken));
    let Ok(Some((Reply::Array(words), length))) = read else {
        panic!("the library makes {read:?} of {}", taken.escape_ascii());
    };
    assert_eq!(length, taken.len(), "the library's array has another length");
    let words: Vec<Bytes> = words
        .into_iter()
        .map(|word| match word {
            Reply::BulkString(word) => word,
            other => panic!("{other:?} is taken for an argument"),
        })
        .collect();
    assert!(words.iter().eq(request.args()), "{words:?} are not the arguments");
}

/// Checks the decoder of replies, which servers send.
pub(crate) fn replies(input: &[u8]) {
    let [piece, stream @ ..] = input else { return };
    let all = same_in_pieces(stream, *piece, resp::parse_reply);
    let mut written = BytesMut::new();
    for reply in &all {
        write(&mut written, reply);
    }
    let again = same_in_pieces(&written, u8::MAX, resp::parse_reply);
    let expected: Vec<Reply> = all.into_iter().map(on_one_line).collect();
    assert_eq!(again, expected, "written and read again");
}

/// Feeds the stream at once and in pieces. Returns the values that came out, the same both times.
fn same_in_pieces<T: std::fmt::Debug + PartialEq>(
    stream: &[u8],
    piece: u8,
    next: impl Fn(&mut BytesMut) -> Result<Option<T>, RespError>,
) -> Vec<T> {
    let read = |piece: usize| {
        let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
        for bytes in stream.chunks(piece) {
            buffer.extend_from_slice(bytes);
            assert!(buffer.len() <= FRAME_BYTES_MAX, "{} bytes wait", buffer.len());
            loop {
                match next(&mut buffer) {
                    Ok(Some(one)) => all.push(one),
                    Ok(None) => break,
                    Err(error) => return (all, Some(error)),
                }
            }
        }
        (all, None)
    };
    let at_once = read(stream.len().max(1));
    assert_eq!(at_once, read(usize::from(piece) + 1), "at once, and in pieces of {piece}");
    at_once.0
}

fn write(out: &mut BytesMut, reply: &Reply) {
    match reply {
        Reply::SimpleString(text) => match str::from_utf8(text) {
            Ok(text) => resp::write_simple(out, text),
            Err(_) => out.extend_from_slice(&[b"+", &text[..], b"\r\n"].concat()),
        },
        Reply::Error(text) => resp::write_error(out, text),
        Reply::Integer(number) => resp::write_int(out, *number),
        Reply::BulkString(bytes) => resp::write_bulk(out, bytes),
        Reply::Null => resp::write_null(out, resp::Proto::Resp2),
        Reply::Array(values) => {
            resp::write_array_len(out, values.len());
            values.iter().for_each(|value| write(out, value));
        }
    }
}

/// The reply that is read after `reply` was written: line ends within a line become spaces.
fn on_one_line(reply: Reply) -> Reply {
    let spaced = |byte: u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte };
    match reply {
        Reply::SimpleString(text) if str::from_utf8(&text).is_ok() => {
            Reply::SimpleString(text.iter().copied().map(spaced).collect::<Vec<u8>>().into())
        }
        Reply::SimpleString(text) => Reply::SimpleString(Bytes::copy_from_slice(&text)),
        Reply::Error(text) => Reply::Error(text.replace(['\r', '\n'], " ").into()),
        Reply::Array(values) => Reply::Array(values.into_iter().map(on_one_line).collect()),
        other => other,
    }
}
