//! FORMAT.md, compared with the bytes that are sent and with what the readers take.
//!
//! The examples at the page's end are what the encoders write, cut into fields by the layouts that the page draws: a field
//! that is wrong in the page, or a byte that has changed, makes them differ. `GOLDEN=write` writes them anew.

#![forbid(unsafe_code)]

mod examples;

use bytes::{Bytes, BytesMut};
use logdrive_net::codec::{self, CodecError};
use logdrive_net::frame::{FRAME_HEADER_BYTES, FrameOrigin, FrameWriter};
use logdrive_net::handshake::{
    self, CLIENT_ADDRESS_BYTES_MAX, CLUSTER_NAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, SHARDS_MAX, Said,
};
use logdrive_net::snapshots::{self, SnapshotMessage};
use logdrive_net::{Hello, LaneMessage, Refusal, Settings};
use logdrive_raft::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../FORMAT.md");
const APPEND_ENTRIES: u8 = 5;
const TO: NodeId = NodeId(9);
const GROUP: GroupId = GroupId(7);

/// Where a drawing of the page begins: the first one behind these words.
const PREFIX: &str = "## Handshake messages";
const HELLO: &str = "### Hello";
const REFUSAL: &str = "### Refusal";
const FRAME: &str = "## Frame";
const MESSAGE: &str = "## Messages";
const ENTRY: &str = "An entry of kind 5";
const EXAMPLES: &str = "## Examples";

#[test]
fn the_examples_of_the_page_are_the_bytes_that_are_sent() {
    let expected: String = example_lines().iter().map(|line| format!("{line}\n")).collect();
    if std::env::var("GOLDEN").is_ok_and(|golden| golden == "write") {
        let page = PAGE.replacen(drawing(EXAMPLES), &expected, 1);
        let start = PAGE.find(EXAMPLES).expect("it is there");
        // An empty drawing is found everywhere.
        let page = match drawing(EXAMPLES) {
            "" => {
                PAGE[..start].to_owned()
                    + &PAGE[start..].replacen("```text\n", &format!("```text\n{expected}"), 1)
            }
            _ => page,
        };
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/FORMAT.md"), page).unwrap();
        return;
    }
    assert_eq!(drawing(EXAMPLES), expected);
}

#[test]
fn each_drawing_begins_where_the_one_before_it_ends() {
    let mut at = 0;
    for drawn in [PREFIX, HELLO] {
        at = checked(at, drawn);
    }
    assert_eq!(at, 138);
    assert_eq!(checked(16, REFUSAL), 16 + 1 + 16 + 4);
    assert_eq!(checked(0, FRAME), FRAME_HEADER_BYTES);
    assert_eq!(checked(0, MESSAGE), codec::MESSAGE_HEADER_BYTES);
    assert_eq!(checked(0, ENTRY), codec::ENTRY_HEADER_BYTES);
}

#[test]
fn the_page_has_every_kind_of_message_and_no_other() {
    let read: BTreeSet<u8> = (0..=u8::MAX)
        .filter(|kind| {
            let body = [&GROUP.get().to_le_bytes()[..], &[*kind]].concat();
            let is_unknown = |error| matches!(error, CodecError::UnknownMessage { .. });
            let of_raft = codec::decode(Bytes::from(body.clone())).is_err_and(is_unknown);
            let of_snapshots = SnapshotMessage::decode(body.into()).is_err_and(is_unknown);
            assert!(of_raft || of_snapshots, "each kind travels on lanes of one sort");
            !(of_raft && of_snapshots)
        })
        .collect();
    let drawn: BTreeSet<u8> = kinds().into_keys().collect();
    assert_eq!(read, drawn);
    let shown: BTreeSet<u8> = messages().into_iter().map(|(_, body)| body[8]).collect();
    assert_eq!(shown, drawn, "each kind has an example");
}

#[test]
fn the_sizes_of_messages_are_those_of_the_page() {
    let kinds = kinds();
    for (name, body) in messages() {
        let Kind { widths, bytes } = &kinds[&body[8]];
        let fixed = codec::MESSAGE_HEADER_BYTES + widths.iter().sum::<usize>();
        match bytes.split_once(' ') {
            None => assert_eq!((fixed, body.len()), (number(bytes), number(bytes)), "{name}"),
            Some((least, _)) => {
                assert_eq!(fixed, number(least), "{name}");
                assert!(body.len() >= fixed, "{name}");
            }
        }
    }
}

#[test]
fn the_versions_and_reasons_are_those_of_the_page() {
    let hello = examples::hello().encode(TO);
    let version = u16::from_le_bytes([hello[12], hello[13]]);
    assert_eq!(hello[12..14], hello[14..16], "one version");
    assert!(PAGE.contains(&format!("Every byte between two nodes, protocol version {version}.")));
    assert!(PAGE.contains(&format!("This node speaks version {version} and no other.")));
    let (_, table) = PAGE.split_once("| reason |").expect("the table of reasons");
    let (table, _) = table.split_once("\n\n").expect("its end");
    for reason in 0..=u8::MAX {
        let said = handshake::parse(&Refusal::Other(reason).encode(7)).expect("a refusal");
        let Said::Refusal { refusal, store: 7 } = said else { panic!("{said:?}") };
        let row = table.lines().find(|line| line.starts_with(&format!("| {reason} | ")));
        let expected = match refusal {
            Refusal::Other(_) => None,
            known => Some(format!("| {reason} | {known} |")),
        };
        assert_eq!(row, expected.as_deref());
    }
}

#[test]
fn the_bounds_are_those_of_the_page() {
    let bounds = [
        ("bytes of a handshake message", HANDSHAKE_BYTES_MAX as u64),
        ("bytes of a cluster's name", CLUSTER_NAME_BYTES_MAX as u64),
        ("bytes of a client address", CLIENT_ADDRESS_BYTES_MAX as u64),
        ("shards of a node", u64::from(SHARDS_MAX)),
        (
            "bytes of a frame's body, unless set otherwise for the whole cluster",
            u64::from(Settings::default().frame_bytes_max),
        ),
        ("bytes of the body of a bulk lane's frame", snapshots::BULK_BODY_BYTES_MAX.into()),
        ("a term, an index", codec::NUMBER_MAX),
        ("bytes of all parts of a snapshot", snapshots::SNAPSHOT_BYTES_MAX),
        ("bytes of a part or of a table", snapshots::PART_BYTES_MAX.into()),
        ("bytes of a range of a part", snapshots::RANGE_BYTES_MAX.into()),
        ("bytes of a membership in an offer", snapshots::MEMBERSHIP_BYTES_MAX as u64),
    ];
    let section = PAGE.split_once("## Bounds").expect("it is there").1;
    let section = section.split_once("## ").expect("another one follows").0;
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let expected: Vec<String> =
        bounds.iter().map(|(what, most)| format!("| {what} | {} |", with_commas(*most))).collect();
    assert_eq!(rows, expected);
}

/// The text of the first drawing behind `words`.
fn drawing(words: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(words).unwrap_or_else(|| panic!("no {words:?} in the page"));
    let (_, rest) = rest.split_once("```text\n").expect("a drawing follows");
    rest.split_once("```").expect("it ends").0
}

/// A field of a drawing: where it begins, if that is fixed, and its width, likewise.
#[derive(Clone, Copy)]
struct Field {
    at: Option<usize>,
    width: Option<usize>,
}

fn fields(words: &str) -> Vec<Field> {
    let field = |line: &str| {
        let mut parts = line.split_whitespace();
        let (at, width) = (parts.next()?, parts.next()?);
        let at = at.parse().ok();
        let width = match (width, parts.next()) {
            ("...", _) => None,
            (kind, _) if kind.starts_with('u') => Some(width_of(kind)),
            (count, _) => Some(number(count)),
        };
        Some(Field { at, width })
    };
    drawing(words).lines().filter_map(field).collect()
}

/// Where the fixed fields of a drawing end, the first of which stands at `at`.
fn checked(mut at: usize, words: &str) -> usize {
    for field in fields(words) {
        let Some(drawn) = field.at else { break };
        assert_eq!(drawn, at, "in the drawing behind {words:?}");
        at += field.width.unwrap_or(0);
    }
    at
}

/// Bytes of a number called `u8` to `u128`.
fn width_of(kind: &str) -> usize {
    number(kind.strip_prefix('u').unwrap_or_else(|| panic!("no number is called {kind}"))) / 8
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// A row of the table of messages.
struct Kind {
    widths: Vec<usize>,
    bytes: String,
}

fn kinds() -> BTreeMap<u8, Kind> {
    let (_, table) = PAGE.split_once("| kind | message |").expect("the table of messages");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [kind, _, fields, bytes] = columns[..] else { panic!("{row}") };
        let named = fields.split(", ").filter_map(|field| field.split_once(' '));
        let widths = named.map(|(_, kind)| width_of(kind.rsplit(' ').next().expect("a word")));
        let kind = kind.parse().unwrap_or_else(|_| panic!("{row}"));
        (kind, Kind { widths: widths.collect(), bytes: bytes.to_owned() })
    })
    .collect()
}

/// One message of each kind, as a body.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    fn bytes<M: LaneMessage>((name, message): (&'static str, M)) -> (&'static str, Vec<u8>) {
        let mut body = BytesMut::new();
        message.encode(&mut body, GROUP);
        assert_eq!(body.len(), message.encoded_bytes(), "{name}");
        (name, body.to_vec())
    }
    let snapshots = examples::snapshot_messages().into_iter().map(bytes);
    examples::messages().into_iter().map(bytes).chain(snapshots).collect()
}

fn example_lines() -> Vec<String> {
    let hello = examples::hello();
    let mut lines = vec![
        format!("hello             {}", cut_hello(&hello, &hello.encode(TO))),
        format!("introduction      {}", cut_hello(&hello, &hello.encode_introduced(TO))),
    ];
    let refusal = Refusal::WrongNode.encode(7);
    let widths = [widths(PREFIX), widths(REFUSAL)].concat();
    lines.push(format!("refusal           {}", cut(&refusal, &widths)));
    let messages = messages();
    let frame = frame_of(&hello, &messages[0].1);
    lines.push(format!("frame             {}", cut(&frame, &self::widths(FRAME))));
    let kinds = kinds();
    for (name, body) in &messages {
        let mut widths = [vec![8, 1], kinds[&body[8]].widths.clone()].concat();
        while body[8] == APPEND_ENTRIES && widths.iter().sum::<usize>() < body.len() {
            let at = widths.iter().sum::<usize>() + codec::ENTRY_HEADER_BYTES;
            let length = body[at - 4..].first_chunk().expect("an entry");
            widths.extend(self::widths(ENTRY));
            widths.push(u32::from_le_bytes(*length) as usize);
        }
        lines.push(format!("{name:17} {}", cut(body, &widths)));
    }
    lines
}

fn frame_of(hello: &Hello, body: &[u8]) -> Vec<u8> {
    let origin = FrameOrigin { cluster: hello.cluster, source: hello.node, lane: hello.lane };
    let mut buffer = BytesMut::new();
    let mut writer = FrameWriter::new(origin);
    let open = writer.begin(&mut buffer);
    buffer.extend_from_slice(body);
    writer.finish(&mut buffer, open);
    buffer.to_vec()
}

/// The widths of a drawing's fields that have one.
fn widths(words: &str) -> Vec<usize> {
    fields(words)
        .iter()
        .filter(|field| field.at.is_some())
        .filter_map(|field| field.width)
        .collect()
}

fn cut_hello(hello: &Hello, bytes: &[u8]) -> String {
    let texts = [hello.cluster_name.len(), 1, hello.client_address.len(), 4];
    cut(bytes, &[widths(PREFIX), widths(HELLO), texts.to_vec()].concat())
}

/// Hexadecimal, a word for each field; what is left over is the last one. A long run of one byte is told as such.
fn cut(mut bytes: &[u8], widths: &[usize]) -> String {
    let mut words = Vec::new();
    let mut word = |field: &[u8]| match field {
        [] => {}
        [first, ..] if field.len() > 16 && field.iter().all(|byte| byte == first) => {
            words.push(format!("{first:02x}*{}", field.len()));
        }
        field => words.push(field.iter().map(|byte| format!("{byte:02x}")).collect()),
    };
    for width in widths {
        let (field, rest) = bytes.split_at_checked(*width).expect("as long as the page says");
        word(field);
        bytes = rest;
    }
    word(bytes);
    words.join(" ")
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let ends = (0..digits.len()).rev().step_by(3).map(|at| at + 1);
    let mut parts: Vec<&str> = ends.map(|end| &digits[end.saturating_sub(3)..end]).collect();
    parts.reverse();
    parts.join(",")
}
