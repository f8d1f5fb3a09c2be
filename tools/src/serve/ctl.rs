//! The node's side of `logdrive ctl`: answers questions over the socket in the node's directory.
//!
//! In:     requests of a few words, as clients send them (RESP arrays of bulk strings).
//! Out:    one bulk string of JSON each (`ctl/report.rs`), or an error.
//! Cost:   a thread of its own, which sleeps; no shard's thread does more for it than answer one question for each group
//!         or shard asked for.
//! Fails:  a socket that cannot be made is logged, and the node serves without it. A connection that sends what is no
//!         request, or more than [`REQUEST_BYTES_MAX`], is told so and closed; one that is silent, or does not read, is
//!         closed after [`SILENCE_MAX`]. Connections are answered one after the other: nobody but the node's own user can
//!         open any.

use super::Server;
use crate::{
    ctl::{
        report::{
            GroupCounts, GroupLine, GroupShown, Holder, Peer, Replica, ShardLog, Space, State,
            Status,
        },
        socket,
    },
    resp,
};
use bytes::BytesMut;
use logdrive::{Gone, Group, GroupId, GroupState, Later, LogUsage, NodeId};
use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

/// The socket, as long as the node serves.
pub(super) struct Ctl {
    path: PathBuf,
}

impl Ctl {
    /// Begins to answer. `None` if that is not possible.
    pub(super) fn start(dir: &Path, server: &Arc<Server>) -> Option<Self> {
        let begin = || {
            let listener = socket::listen(dir)?;
            let server = Arc::clone(server);
            let name = "ctl".to_owned();
            thread::Builder::new().name(name).spawn(move || accept(&listener, &server))?;
            Ok::<_, io::Error>(())
        };
        match begin() {
            Ok(()) => Some(Self { path: dir.join(socket::NAME) }),
            Err(error) => {
                tracing::warn!(%error, "there is no control socket: `logdrive ctl` cannot ask this node");
                None
            }
        }
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        // Left there, it would only say that nobody listens.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, server: &Server) {
    loop {
        match listener.accept() {
            // An error is the end of one connection, whose other end sees it.
            Ok((stream, _)) => drop(converse(stream, server)),
            // Out of descriptors or memory: trying at once would spin.
            Err(error) => {
                tracing::warn!(%error, "a connection to the control socket could not be accepted");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Answers what one connection asks, until it ends.
fn converse(mut stream: UnixStream, server: &Server) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut chunk = [0; 512];
    loop {
        output.clear();
        match resp::parse_request(&mut input) {
            Ok(Some(request)) => {
                let words: Vec<_> = request.args().map(String::from_utf8_lossy).collect();
                let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
                match answer(server, &words) {
                    Ok(json) => resp::write_bulk(&mut output, json.as_bytes()),
                    Err(why) => resp::write_error(&mut output, &format!("ERR {why}")),
                }
                stream.write_all(&output)?;
                continue;
            }
            Ok(None) if input.len() < REQUEST_BYTES_MAX => {}
            Ok(None) => {
                let why = format!("ERR a request of more than {REQUEST_BYTES_MAX} bytes");
                resp::write_error(&mut output, &why);
                return stream.write_all(&output);
            }
            Err(error) => {
                resp::write_error(&mut output, &format!("ERR {error}"));
                return stream.write_all(&output);
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => input.extend_from_slice(&chunk[..count]),
        }
    }
}

/// The answer in JSON, or why there is none.
fn answer(server: &Server, words: &[&str]) -> Result<String, String> {
    let json = match words {
        ["status"] => serde_json::to_string(&status(server)?),
        ["group", "list"] => serde_json::to_string(&groups(server)),
        ["group", "list", "troubled"] => {
            let mut groups = groups(server);
            groups.retain(|line| line.is_troubled());
            serde_json::to_string(&groups)
        }
        ["group", "show", group] => serde_json::to_string(&group_shown(server, number(group)?)?),
        ["log", count] => serde_json::to_string(&logs(server, number(count)?)?),
        _ => return Err(format!("this version does not know the question {:?}", words.join(" "))),
    };
    Ok(json.expect("names and numbers"))
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is no number, or too large"))
}

fn status(server: &Server) -> Result<Status, String> {
    let node = server.node.describe();
    let mut groups = GroupCounts::default();
    for line in self::groups(server) {
        groups.here += 1;
        groups.led += usize::from(line.state == State::Leads);
        groups.leaderless += usize::from(line.leader.is_none());
        groups.marked += usize::from(line.state == State::Marked);
        groups.stopped += usize::from(line.state == State::Stopped);
    }
    let peer = |node: NodeId| Peer { node: node.get(), heard: server.node.hears(node) };
    let mut log = Space::default();
    for shard in logs(server, 0)? {
        log.add(&shard.space);
    }
    Ok(Status {
        version: super::VERSION.to_owned(),
        cluster: node.cluster,
        node: node.node.get(),
        process_id: process::id(),
        uptime_seconds: server.started.elapsed().as_secs(),
        advertise: server.cluster.advertise().to_owned(),
        clients: server.clients.load(Ordering::Relaxed),
        clients_max: server.clients_max,
        shards: server.node.shards(),
        disk_driver: node.disk_driver.to_string(),
        direct_io: node.direct_io,
        groups,
        peers: server.cluster.peers().map(peer).collect(),
        log,
    })
}

impl GroupLine {
    fn of(server: &Server, group: &Group) -> Self {
        let (state, why) = match group.state() {
            GroupState::Stopped(cause) => (State::Stopped, Some(cause.to_string())),
            GroupState::Marked => (State::Marked, None),
            _ if group.is_leader() => (State::Leads, None),
            _ => (State::Follows, None),
        };
        let leader = group.leader().filter(|_| state != State::Stopped);
        let leader = leader.filter(|leader| *leader != server.node.id() || state == State::Leads);
        let (group, shard) = (group.id().get(), Some(group.shard()));
        Self { group, shard, state, leader: leader.map(NodeId::get), why }
    }

    /// It serves no more here, takes no part in votes, or knows no leader.
    fn is_troubled(&self) -> bool {
        matches!(self.state, State::Marked | State::Stopped) || self.leader.is_none()
    }
}

/// All groups that this node carries, and those that it would if they were sound, by number.
fn groups(server: &Server) -> Vec<GroupLine> {
    let carried = server.cluster.carried();
    let mut lines: Vec<_> = carried.map(|group| GroupLine::of(server, group)).collect();
    for (group, corrupt) in server.node.fenced() {
        let group = group.get();
        if !lines.iter().any(|line| line.group == group) {
            let (state, why) = (State::Stopped, Some(corrupt.to_string()));
            lines.push(GroupLine { group, shard: None, state, leader: None, why });
        }
    }
    lines.sort_unstable_by_key(|line| line.group);
    lines
}

fn group_shown(server: &Server, group: u64) -> Result<GroupShown, String> {
    let line = groups(server).into_iter().find(|line| line.group == group);
    let line = line.ok_or_else(|| format!("this node does not carry a group {group}"))?;
    let running = server.node.group(GroupId(group));
    let running = running.filter(|_| line.state != State::Stopped);
    let replica = running.map(|group| {
        let status = answered(group.status(), group.shard())?;
        Ok::<_, String>(Replica {
            term: status.term.get(),
            last: status.last.get(),
            durable: status.durable.get(),
            commit: status.commit.get(),
            applied: status.applied.get(),
        })
    });
    Ok(GroupShown { line, replica: replica.transpose()? })
}

fn logs(server: &Server, count: usize) -> Result<Vec<ShardLog>, String> {
    let asked: Vec<_> =
        (0..server.node.shards()).map(|shard| server.node.log(shard, count)).collect();
    let logs = asked.into_iter().enumerate().map(|(shard, log)| {
        let log = answered(log, shard)?;
        let heaviest = log.holders.heaviest.iter().map(|holder| Holder {
            group: holder.group.get(),
            bytes: holder.bytes,
            released: holder.released.get(),
            last: holder.last.get(),
            in_oldest: holder.is_in_oldest,
        });
        Ok(ShardLog {
            shard,
            space: Space::of(&log.usage),
            segments: log.segments,
            oldest_segment: log.holders.oldest.0.into(),
            groups: log.holders.groups,
            groups_in_oldest: log.holders.in_oldest,
            heaviest: heaviest.collect(),
        })
    });
    logs.collect()
}

impl Space {
    fn of(usage: &LogUsage) -> Self {
        let LogUsage { bytes, bytes_max, written, live, snapshots } = *usage;
        Self { bytes, bytes_max, written, live, snapshots }
    }

    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.bytes_max = other.bytes_max.map(|max| self.bytes_max.unwrap_or(0) + max);
        self.written += other.written;
        self.live += other.live;
        self.snapshots += other.snapshots;
    }
}

/// The answer of a shard, unless it takes too long.
fn answered<T>(later: Later<T>, shard: usize) -> Result<T, String> {
    match later.wait_timeout(ANSWER_MAX) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Gone)) => Err(format!("shard {shard} has stopped")),
        Err(_) => Err(format!("shard {shard} does not answer")),
    }
}

const REQUEST_BYTES_MAX: usize = 4 << 10;
const SILENCE_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
