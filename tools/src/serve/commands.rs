//! The commands: which there are, what they take, and those that a node answers by itself.
//!
//! In:     one parsed request.
//! Out:    for SET, GET, DEL, UNLINK, EXISTS and TOUCH a slot and a command for its group's log; for the others the reply.
//! Cost:   SET and GET are told apart before the table is looked at.
//! Fails:  [`Refusal`]: an error reply; the connection stays.
//! Source: Redis 7 command reference, for names, arities and the shapes of replies.

use super::{
    Server, info,
    machine::{Encoder, SET_GET, SET_NX, SET_XX},
    slots::slot_of,
    work,
};
use crate::resp::{self, Proto, Request};
use bytes::{Bytes, BytesMut};
use std::{borrow::Cow, net::SocketAddr};

/// The Redis version clients are told: the command set is a part of that one's.
pub(crate) const REDIS_VERSION: &str = "7.4.0";

/// The identity of a connection, and its dialect.
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) proto: Proto,
    peer: SocketAddr,
    name: Bytes,
}

impl Session {
    pub(crate) fn new(id: u64, peer: SocketAddr) -> Self {
        Self { id, proto: Proto::default(), peer, name: Bytes::new() }
    }
}

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum After {
    Continue,
    Close,
}

/// An error reply: the command did not happen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal(Cow<'static, str>);

impl Refusal {
    /// The text that the client is told, its code first.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// A container command's second word is not known.
    pub(crate) fn subcommand(command: &str, word: &[u8]) -> Self {
        Self(Cow::Owned(format!("ERR unknown subcommand '{}' of {command}", shown(word))))
    }
}

const fn refusal(text: &'static str) -> Refusal {
    Refusal(Cow::Borrowed(text))
}

/// Too few or too many arguments.
pub(crate) fn wrong_arity(command: &str) -> Refusal {
    Refusal(Cow::Owned(format!("ERR wrong number of arguments for '{command}' command")))
}

/// A client's word in an error: printable, and not longer than helps.
fn shown(word: &[u8]) -> String {
    let text = word[..word.len().min(64)].escape_ascii().to_string();
    text.replace("\\'", "'")
}

/// A client's word in lower case, as far as it can matter: no name that is looked for is as long as what is left of a longer
/// one, and a word of megabytes must not cost more than a name.
pub(crate) fn lower(word: &[u8]) -> String {
    let word = &word[..word.len().min(WORD_BYTES_MAX + 1)];
    String::from_utf8_lossy(word).to_ascii_lowercase()
}

/// A request, sorted by who answers it.
#[derive(Debug)]
pub(crate) enum Data {
    /// The slot's group does.
    Command { slot: u16, command: Bytes },
    /// A data command that cannot be right.
    Refused(Refusal),
    /// This node, by [`run`].
    Other,
}

/// Encodes SET, GET, DEL, UNLINK, EXISTS and TOUCH for a group's log.
pub(crate) fn data(request: &Request, encoder: &mut Encoder) -> Data {
    let name = request.arg(0);
    let encoded = if name.eq_ignore_ascii_case(b"SET") {
        set(request, encoder)
    } else if name.eq_ignore_ascii_case(b"GET") {
        if request.len() == 2 {
            let key = request.arg(1);
            Ok((slot_of(key), encoder.get(key)))
        } else {
            Err(wrong_arity("get"))
        }
    } else if name.eq_ignore_ascii_case(b"DEL") {
        keys(request, "del").map(|(slot, keys)| (slot, encoder.del(keys)))
    } else if name.eq_ignore_ascii_case(b"EXISTS") {
        keys(request, "exists").map(|(slot, keys)| (slot, encoder.exists(keys)))
    } else if name.eq_ignore_ascii_case(b"UNLINK") {
        // UNLINK is here because clients choose it by the version of Redis that this server names. It does the same as
        // DEL: the value is gone at once.
        keys(request, "unlink").map(|(slot, keys)| (slot, encoder.del(keys)))
    } else if name.eq_ignore_ascii_case(b"TOUCH") {
        keys(request, "touch").map(|(slot, keys)| (slot, encoder.exists(keys)))
    } else {
        return Data::Other;
    };
    match encoded {
        Ok((slot, command)) => Data::Command { slot, command },
        Err(refusal) => Data::Refused(refusal),
    }
}

fn set(request: &Request, encoder: &mut Encoder) -> Result<(u16, Bytes), Refusal> {
    if request.len() < 3 {
        return Err(wrong_arity("set"));
    }
    let mut flags = 0;
    for at in 3..request.len() {
        let option = request.arg(at);
        let is_any = |names: &[&[u8]]| names.iter().any(|name| option.eq_ignore_ascii_case(name));
        if is_any(&[b"NX"]) {
            flags |= SET_NX;
        } else if is_any(&[b"XX"]) {
            flags |= SET_XX;
        } else if is_any(&[b"GET"]) {
            flags |= SET_GET;
        } else if is_any(&[b"EX", b"PX", b"EXAT", b"PXAT", b"KEEPTTL"]) {
            return Err(refusal("ERR expiry is not supported"));
        } else {
            return Err(refusal("ERR syntax error"));
        }
    }
    if flags & SET_NX != 0 && flags & SET_XX != 0 {
        return Err(refusal("ERR syntax error"));
    }
    let key = request.arg(1);
    Ok((slot_of(key), encoder.set(flags, key, request.arg(2))))
}

/// All arguments as keys of one slot.
fn keys<'a>(
    request: &'a Request,
    name: &str,
) -> Result<(u16, impl ExactSizeIterator<Item = &'a [u8]>), Refusal> {
    if request.len() < 2 {
        return Err(wrong_arity(name));
    }
    let slot = slot_of(request.arg(1));
    if (2..request.len()).any(|at| slot_of(request.arg(at)) != slot) {
        return Err(refusal("CROSSSLOT Keys in request don't hash to the same slot"));
    }
    Ok((slot, (1..request.len()).map(|at| request.arg(at))))
}

/// Answers what needs no log.
pub(crate) fn run(
    server: &Server,
    session: &mut Session,
    request: &Request,
    out: &mut BytesMut,
) -> After {
    let name = lower(request.arg(0));
    // A browser's request has such a line: a page must not make the browser send commands in a request's body.
    if matches!(name.as_str(), "post" | "host:") {
        resp::write_error(out, "ERR this is not an HTTP server");
        return After::Close;
    }
    let Some(spec) = COMMANDS.iter().find(|spec| spec.name == name) else {
        let words: Vec<String> =
            request.args().skip(1).take(3).map(|word| format!("'{}'", shown(word))).collect();
        let (name, words) = (shown(request.arg(0)), words.join(" "));
        let text = format!("ERR unknown command '{name}', with args beginning with: {words}");
        resp::write_error(out, &text);
        return After::Continue;
    };
    let start = out.len();
    let done = if spec.takes(request.len()) {
        answer(server, session, spec.name, request, out)
    } else {
        Err(wrong_arity(spec.name))
    };
    if let Err(refusal) = done {
        assert_eq!(out.len(), start, "{name} was refused after its reply was begun");
        resp::write_error(out, refusal.text());
    }
    if name == "quit" { After::Close } else { After::Continue }
}

fn answer(
    server: &Server,
    session: &mut Session,
    name: &str,
    request: &Request,
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    match name {
        "ping" => match request.len() {
            1 => resp::write_simple(out, "PONG"),
            _ => resp::write_bulk(out, request.arg(1)),
        },
        "echo" => resp::write_bulk(out, request.arg(1)),
        "hello" => return hello(session, request, out),
        "select" if request.arg(1) == b"0" => resp::write_ok(out),
        "select" => return Err(refusal("ERR SELECT is not allowed in cluster mode")),
        // Reads go to the leader all the same, so both modes are the same here.
        "quit" | "readonly" | "readwrite" => resp::write_ok(out),
        "command" => return command(session.proto, request, out),
        "client" => return client(session, request, out),
        "config" => return config(server, session.proto, request, out),
        "info" => {
            let sections: Vec<String> = request.args().skip(1).map(lower).collect();
            resp::write_bulk(out, info::text(server, &sections).as_bytes());
        }
        "cluster" => return server.cluster.command(request, session.proto, out),
        "dbsize" => resp::write_int(out, server.cluster.keys_led()),
        _ => unreachable!("{name} is in the table, and answered by no one"),
    }
    Ok(())
}

fn hello(session: &mut Session, request: &Request, out: &mut BytesMut) -> Result<(), Refusal> {
    let mut proto = session.proto;
    if request.len() > 1 {
        proto = match request.arg(1) {
            b"2" => Proto::Resp2,
            b"3" => Proto::Resp3,
            version if version.iter().all(u8::is_ascii_digit) => {
                return Err(refusal("NOPROTO unsupported protocol version"));
            }
            _ => {
                return Err(refusal("ERR Protocol version is not an integer or out of range"));
            }
        };
    }
    let mut name = None;
    let mut at = 2;
    while at < request.len() {
        let option = request.arg(at);
        if option.eq_ignore_ascii_case(b"SETNAME") && at + 1 < request.len() {
            name = Some(client_name(request, at + 1)?);
            at += 2;
        } else if option.eq_ignore_ascii_case(b"AUTH") && at + 2 < request.len() {
            return Err(refusal("ERR this server has no passwords"));
        } else {
            return Err(refusal("ERR Syntax error in HELLO"));
        }
    }
    session.proto = proto;
    if let Some(name) = name {
        session.name = name;
    }
    resp::write_map_len(out, proto, 7);
    let version = if proto == Proto::Resp3 { 3 } else { 2 };
    resp::write_bulk(out, b"server");
    resp::write_bulk(out, b"redis");
    resp::write_bulk(out, b"version");
    resp::write_bulk(out, REDIS_VERSION.as_bytes());
    resp::write_bulk(out, b"proto");
    resp::write_int(out, version);
    resp::write_bulk(out, b"id");
    resp::write_int(out, number(session.id));
    resp::write_bulk(out, b"mode");
    resp::write_bulk(out, b"cluster");
    resp::write_bulk(out, b"role");
    resp::write_bulk(out, b"master");
    resp::write_bulk(out, b"modules");
    resp::write_array_len(out, 0);
    Ok(())
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn client_name(request: &Request, at: usize) -> Result<Bytes, Refusal> {
    let name = request.arg(at);
    if name.len() > CLIENT_NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
        return Err(refusal(
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ));
    }
    // Copied: a slice would keep the whole receive buffer as long as the connection lives.
    Ok(Bytes::copy_from_slice(name))
}

fn client(session: &mut Session, request: &Request, out: &mut BytesMut) -> Result<(), Refusal> {
    let word = lower(request.arg(1));
    let arity = match word.as_str() {
        "id" | "getname" | "info" | "list" => 2..=2,
        "setname" | "no-evict" | "no-touch" => 3..=3,
        "reply" => 3..=3,
        "setinfo" => 4..=4,
        _ => return Err(Refusal::subcommand("CLIENT", request.arg(1))),
    };
    if !arity.contains(&request.len()) {
        return Err(wrong_arity(&format!("client|{word}")));
    }
    match word.as_str() {
        "id" => resp::write_int(out, number(session.id)),
        "getname" if session.name.is_empty() => resp::write_null(out, session.proto),
        "getname" => resp::write_bulk(out, &session.name),
        // Of the other connections nothing is said: they live on other threads.
        "info" | "list" => {
            let Session { id, peer, name, proto } = session;
            let version = if *proto == Proto::Resp3 { 3 } else { 2 };
            let name = name.escape_ascii();
            let line = format!("id={id} addr={peer} name={name} db=0 resp={version}\n");
            resp::write_bulk(out, line.as_bytes());
        }
        "setname" => {
            session.name = client_name(request, 2)?;
            resp::write_ok(out);
        }
        "reply" if !request.arg(2).eq_ignore_ascii_case(b"ON") => {
            return Err(refusal("ERR every request is replied to"));
        }
        _ => resp::write_ok(out),
    }
    Ok(())
}

fn config(
    server: &Server,
    proto: Proto,
    request: &Request,
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    let word = request.arg(1);
    if word.eq_ignore_ascii_case(b"RESETSTAT") {
        if request.len() != 2 {
            return Err(wrong_arity("config|resetstat"));
        }
        server.node.reset_stages();
        work::forget_longest();
        resp::write_ok(out);
        return Ok(());
    }
    if word.eq_ignore_ascii_case(b"SET") {
        return Err(refusal(
            "ERR settings are flags and the file of --config; none changes at run time",
        ));
    }
    if !word.eq_ignore_ascii_case(b"GET") {
        return Err(Refusal::subcommand("CONFIG", word));
    }
    if request.len() < 3 {
        return Err(wrong_arity("config|get"));
    }
    let settings = [
        // Every acknowledged write is on disk: what Redis calls appendonly with appendfsync always.
        ("appendfsync", "always".to_owned()),
        ("appendonly", "yes".to_owned()),
        ("cluster-enabled", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", server.clients_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", resp::BULK_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", server.client_idle_max.map_or(0, |max| max.as_secs().max(1)).to_string()),
    ];
    let patterns = || request.args().skip(2);
    if request.len() - 2 > PATTERNS_MAX || patterns().any(|word| word.len() > WORD_BYTES_MAX) {
        return Err(refusal("ERR too many or too long patterns"));
    }
    let patterns: Vec<Vec<u8>> = patterns().map(<[u8]>::to_ascii_lowercase).collect();
    let wanted: Vec<&(&str, String)> = settings
        .iter()
        .filter(|(key, _)| patterns.iter().any(|pattern| matches(pattern, key.as_bytes())))
        .collect();
    resp::write_map_len(out, proto, wanted.len());
    for (key, value) in wanted {
        resp::write_bulk(out, key.as_bytes());
        resp::write_bulk(out, value.as_bytes());
    }
    Ok(())
}

/// Redis's patterns as far as settings need them: `*` is any run of bytes, `?` any byte.
///
/// Goes back only to the last `*`, so a hostile pattern costs no more than its length times the text's.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn command(proto: Proto, request: &Request, out: &mut BytesMut) -> Result<(), Refusal> {
    if request.len() == 1 {
        resp::write_array_len(out, COMMANDS.len());
        COMMANDS.iter().for_each(|spec| spec.write(out));
        return Ok(());
    }
    let named = |at: usize| {
        let name = lower(request.arg(at));
        COMMANDS.iter().find(|spec| spec.name == name)
    };
    match lower(request.arg(1)).as_str() {
        "count" if request.len() == 2 => resp::write_int(out, COMMANDS.len() as i64),
        "list" if request.len() == 2 => {
            resp::write_array_len(out, COMMANDS.len());
            for spec in COMMANDS {
                resp::write_bulk(out, spec.name.as_bytes());
            }
        }
        "info" if request.len() == 2 => {
            resp::write_array_len(out, COMMANDS.len());
            COMMANDS.iter().for_each(|spec| spec.write(out));
        }
        "info" => {
            resp::write_array_len(out, request.len() - 2);
            for at in 2..request.len() {
                match named(at) {
                    Some(spec) => spec.write(out),
                    None if proto == Proto::Resp3 => resp::write_null(out, proto),
                    None => out.extend_from_slice(b"*-1\r\n"),
                }
            }
        }
        "docs" => {
            let specs: Vec<&Spec> = match request.len() {
                2 => COMMANDS.iter().collect(),
                _ => (2..request.len()).filter_map(named).collect(),
            };
            resp::write_map_len(out, proto, specs.len());
            for spec in specs {
                resp::write_bulk(out, spec.name.as_bytes());
                resp::write_map_len(out, proto, 3);
                for (key, value) in
                    [("summary", spec.summary), ("since", "1.0.0"), ("group", spec.group())]
                {
                    resp::write_bulk(out, key.as_bytes());
                    resp::write_bulk(out, value.as_bytes());
                }
            }
        }
        "getkeys" if request.len() > 2 => {
            let Some(spec) = named(2) else {
                return Err(refusal("ERR Invalid command specified"));
            };
            let words = request.len() - 2;
            if !spec.takes(words) {
                return Err(refusal("ERR Invalid number of arguments specified for command"));
            }
            let last = match spec.keys {
                Keys::None => {
                    return Err(refusal("ERR The command has no key arguments"));
                }
                Keys::First => 1,
                Keys::All => words - 1,
            };
            resp::write_array_len(out, last);
            for at in 1..=last {
                resp::write_bulk(out, request.arg(2 + at));
            }
        }
        "count" | "list" | "getkeys" => return Err(wrong_arity("command")),
        _ => return Err(Refusal::subcommand("COMMAND", request.arg(1))),
    }
    Ok(())
}

/// One row of the table.
#[derive(Debug)]
struct Spec {
    name: &'static str,
    /// Words, the name among them; negative: at least so many.
    arity: i64,
    /// Words at most, where Redis's arity does not say it.
    words_max: usize,
    flags: &'static [&'static str],
    keys: Keys,
    summary: &'static str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Keys {
    None,
    First,
    All,
}

impl Spec {
    fn takes(&self, words: usize) -> bool {
        let least = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        words >= least && words <= self.words_max && (self.arity < 0 || words == least)
    }

    fn group(&self) -> &'static str {
        match (self.keys, self.name) {
            (Keys::First, _) => "string",
            (Keys::All, _) => "generic",
            (Keys::None, "cluster" | "readonly" | "readwrite") => "cluster",
            (Keys::None, "command" | "config" | "dbsize" | "info") => "server",
            (Keys::None, _) => "connection",
        }
    }

    /// The ten fields of Redis 7's `COMMAND`.
    fn write(&self, out: &mut BytesMut) {
        resp::write_array_len(out, 10);
        resp::write_bulk(out, self.name.as_bytes());
        resp::write_int(out, self.arity);
        resp::write_array_len(out, self.flags.len());
        for flag in self.flags {
            resp::write_simple(out, flag);
        }
        let (first, last, step) = match self.keys {
            Keys::None => (0, 0, 0),
            Keys::First => (1, 1, 1),
            Keys::All => (1, -1, 1),
        };
        for number in [first, last, step] {
            resp::write_int(out, number);
        }
        // Access categories, tips, key specifications, subcommands: none are told.
        for _ in 0..4 {
            resp::write_array_len(out, 0);
        }
    }
}

const fn row(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: Keys,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, words_max: usize::MAX, flags, keys, summary }
}

const NODE: &[&str] = &["loading", "stale", "fast"];

const COMMANDS: &[Spec] = &[
    row("client", -2, NODE, Keys::None, "Says or asks something of this connection."),
    row("cluster", -2, NODE, Keys::None, "Tells who leads which slots."),
    row("command", -1, NODE, Keys::None, "Describes the commands."),
    row(
        "config",
        -2,
        &["admin", "loading", "stale"],
        Keys::None,
        "Tells settings; RESETSTAT starts measuring anew.",
    ),
    row("dbsize", 1, NODE, Keys::None, "Tells how many keys the groups have that this node leads."),
    row(
        "del",
        -2,
        &["write"],
        Keys::All,
        "Deletes keys of one slot and tells how many there were.",
    ),
    row("echo", 2, NODE, Keys::None, "Sends the message back."),
    row(
        "exists",
        -2,
        &["readonly", "fast"],
        Keys::All,
        "Tells how many of these keys of one slot there are.",
    ),
    row("get", 2, &["readonly", "fast"], Keys::First, "Tells a key's value, linearizably."),
    row("hello", -1, NODE, Keys::None, "Chooses RESP2 or RESP3 and tells what this server is."),
    row("info", -1, &["loading", "stale"], Keys::None, "Tells this node's state and latencies."),
    Spec { words_max: 2, ..row("ping", -1, NODE, Keys::None, "Tells that the node is there.") },
    row("quit", -1, NODE, Keys::None, "Closes the connection."),
    row("readonly", 1, NODE, Keys::None, "Changes nothing: reads go to the leader."),
    row("readwrite", 1, NODE, Keys::None, "Changes nothing: reads go to the leader."),
    row("select", 2, NODE, Keys::None, "There is one database, 0."),
    row(
        "set",
        -3,
        &["write", "denyoom"],
        Keys::First,
        "Sets a key's value; acknowledged once a majority has it on disk.",
    ),
    row(
        "touch",
        -2,
        &["readonly", "fast"],
        Keys::All,
        "Is EXISTS: nothing here has a last access.",
    ),
    row("unlink", -2, &["write", "fast"], Keys::All, "Is DEL."),
];

const CLIENT_NAME_BYTES_MAX: usize = 256;
/// Names of commands, their words, sections and settings are shorter.
const WORD_BYTES_MAX: usize = 64;
/// Patterns of one CONFIG GET, each of which is held against every setting.
const PATTERNS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Request {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut wire = BytesMut::new();
        resp::write_request(&mut wire, &words);
        resp::parse_request(&mut wire).expect("well formed").expect("complete")
    }

    fn sorted(words: &[&str]) -> Result<Option<(u16, Bytes)>, String> {
        match data(&request(words), &mut Encoder::default()) {
            Data::Command { slot, command } => Ok(Some((slot, command))),
            Data::Refused(refusal) => Err(refusal.text().to_owned()),
            Data::Other => Ok(None),
        }
    }

    #[test]
    fn data_commands_are_known_in_any_case() {
        let mut encoder = Encoder::default();
        assert_eq!(sorted(&["sEt", "foo", "v"]), Ok(Some((12_182, encoder.set(0, b"foo", b"v")))));
        assert_eq!(sorted(&["get", "foo"]), Ok(Some((12_182, encoder.get(b"foo")))));
        assert_eq!(
            sorted(&["SET", "foo", "v", "get", "nx"]),
            Ok(Some((12_182, encoder.set(SET_GET | SET_NX, b"foo", b"v"))))
        );
        assert_eq!(
            sorted(&["Del", "{foo}1", "{foo}2"]),
            Ok(Some((12_182, encoder.del([&b"{foo}1"[..], b"{foo}2"].into_iter()))))
        );
        for (name, same) in [("unlink", "del"), ("touch", "exists")] {
            let [as_said, as_known] = [name, same].map(|name| sorted(&[name, "{foo}1", "{foo}2"]));
            assert!(matches!(as_said, Ok(Some(_))) && as_said == as_known, "{name}: {as_said:?}");
        }
        assert_eq!(sorted(&["ping"]), Ok(None));
        assert_eq!(sorted(&["settle"]), Ok(None));
    }

    #[test]
    fn data_commands_that_cannot_be_right_are_refused_before_the_log() {
        for (words, code) in [
            (&["set", "k"][..], "ERR wrong number of arguments for 'set' command"),
            (&["get"], "ERR wrong number of arguments for 'get' command"),
            (&["get", "a", "b"], "ERR wrong number of arguments for 'get' command"),
            (&["unlink"], "ERR wrong number of arguments for 'unlink' command"),
            (&["del"], "ERR wrong number of arguments for 'del' command"),
            (&["exists"], "ERR wrong number of arguments for 'exists' command"),
            (&["set", "k", "v", "nx", "xx"], "ERR syntax error"),
            (&["set", "k", "v", "maybe"], "ERR syntax error"),
            (&["set", "k", "v", "ex", "10"], "ERR expiry is not supported"),
            (&["set", "k", "v", "keepttl"], "ERR expiry is not supported"),
            (&["del", "foo", "bar"], "CROSSSLOT Keys in request don't hash to the same slot"),
            (&["exists", "a", "b"], "CROSSSLOT Keys in request don't hash to the same slot"),
        ] {
            assert_eq!(sorted(words), Err(code.to_owned()), "{words:?}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_names_every_data_command() {
        assert!(COMMANDS.is_sorted_by_key(|spec| spec.name));
        for name in ["set", "get", "del", "exists", "unlink", "touch"] {
            assert!(COMMANDS.iter().any(|spec| spec.name == name && spec.keys != Keys::None));
        }
    }

    #[test]
    fn patterns_match_as_redis_says() {
        for (pattern, text, expected) in [
            ("*", "save", true),
            ("save", "save", true),
            ("sav", "save", false),
            ("s*e", "save", true),
            ("s?ve", "save", true),
            ("s?e", "save", false),
            ("max*", "maxclients", true),
            ("*a*a*", "banana", true),
            ("*x*", "banana", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_long_word_is_no_name_and_costs_no_more_than_one() {
        assert_eq!(lower(b"PiNg"), "ping");
        let long = [b"ping".as_slice(), &[0xFF; 1 << 20]].concat();
        assert_eq!(lower(&long).chars().count(), WORD_BYTES_MAX + 1);
        for spec in COMMANDS {
            assert!(spec.name.len() <= WORD_BYTES_MAX, "{}", spec.name);
        }
    }

    #[test]
    fn hello_tells_a_map_and_changes_the_dialect_only_if_it_is_taken() {
        let mut session = Session::new(7, SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut out = BytesMut::new();
        hello(&mut session, &request(&["hello", "3", "setname", "me"]), &mut out).expect("taken");
        assert!(out.starts_with(b"%7\r\n$6\r\nserver\r\n"), "{out:?}");
        assert_eq!((session.proto, &session.name[..]), (Proto::Resp3, &b"me"[..]));
        for words in [
            &["hello", "4"][..],
            &["hello", "x"],
            &["hello", "2", "auth", "a", "b"],
            &["hello", "2", "setname"],
            &["hello", "2", "setname", "a b"],
        ] {
            out.clear();
            hello(&mut session, &request(words), &mut out).expect_err("refused");
            assert!(out.is_empty() && session.proto == Proto::Resp3, "{words:?}");
        }
    }

    #[test]
    fn a_clients_word_in_an_error_is_short_and_printable() {
        assert_eq!(shown(b"a\r\n\xff"), "a\\r\\n\\xff");
        assert_eq!(shown(&[b'x'; 1_000]).len(), 64);
    }
}
