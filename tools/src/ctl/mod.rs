//! `logdrive ctl`: asks a node that runs on this machine how it is.
//!
//! In:     a command line; the node's answer, JSON in a RESP bulk string, over the socket in the node's directory.
//! Out:    tables for people, the node's JSON for programs.
//! Cost:   one connection, one question, one answer.
//! Fails:  exit code 1 says that the node refused the question, 2 that no node could be asked, or that the command line is
//!         none.

pub(crate) mod report;
pub(crate) mod socket;
mod text;

use crate::resp;
use bytes::BytesMut;
use clap::{Args as ClapArgs, Subcommand};
use redis_protocol::resp2::types::BytesFrame as Reply;
use serde::de::DeserializeOwned;
use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// Ask a node that runs on this machine how it is.
///
/// The node is asked over a Unix socket in its directory, which only the node's user may use.
///
/// Exit codes: 0 the node has answered, 1 it has refused the question (there is no such group, a shard does not answer), 2 it
/// could not be asked: it does not run, the directory is none, the socket is another user's, or the command line is wrong.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The node's directory, as for `logdrive serve`
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Print the node's answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the node, its peers, its groups in numbers, and the space of its log.
    Status,
    /// Look at the groups that the node carries.
    #[command(subcommand)]
    Group(GroupVerb),
    /// Print each shard's log, and the groups that hold most of it.
    ///
    /// A segment is given up, oldest first, once nothing in it is needed: what its groups need in it is released by
    /// them, or written again.
    Log(Log),
}

#[derive(Debug, Subcommand)]
enum GroupVerb {
    /// Print all of them, a line each.
    List(List),
    /// Print one with its term and its places in the log.
    Show(Show),
}

#[derive(Debug, ClapArgs)]
struct List {
    /// Only groups that serve no more here, take no part in votes, or know no leader
    #[arg(long)]
    troubled: bool,
}

#[derive(Debug, ClapArgs)]
struct Show {
    /// The group's number
    #[arg(value_name = "GROUP")]
    group: u64,
}

#[derive(Debug, ClapArgs)]
struct Log {
    /// Groups to print for each shard
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: u16,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error("{0}: there is no such directory")]
    NoDirectory(String),
    #[error("no node runs on {0}")]
    NotRunning(String),
    #[error("the node's socket in {0} belongs to another user: {1}")]
    Denied(String, io::Error),
    #[error("the node on {0} cannot be asked: {1}")]
    Unreachable(String, io::Error),
    #[error("the node on {0} did not answer within {1} s")]
    Silent(String, u64),
    #[error("the node on {0} gave an answer that this version does not understand: {1}")]
    NotUnderstood(String, String),
    /// The node's own words.
    #[error("{0}")]
    Refused(String),
}

pub(crate) fn run(args: &Args) -> ExitCode {
    match ask(args) {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&format!("standard output: {error}"), 2),
        },
        Err(CtlError::Refused(why)) => failed(&why, 1),
        Err(error) => failed(&error.to_string(), 2),
    }
}

fn failed(why: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "logdrive: {why}");
    ExitCode::from(code)
}

/// Asks, and puts the answer into words.
fn ask(args: &Args) -> Result<String, CtlError> {
    let number;
    let words: &[&str] = match &args.verb {
        Verb::Status => &["status"],
        Verb::Group(GroupVerb::List(List { troubled: false })) => &["group", "list"],
        Verb::Group(GroupVerb::List(List { troubled: true })) => &["group", "list", "troubled"],
        Verb::Group(GroupVerb::Show(show)) => {
            number = show.group.to_string();
            &["group", "show", &number]
        }
        Verb::Log(log) => {
            number = log.top.to_string();
            &["log", &number]
        }
    };
    let answer = exchange(&args.dir, words)?;
    if args.json {
        return Ok(answer + "\n");
    }
    match &args.verb {
        Verb::Status => Ok(text::status(&understand(&args.dir, &answer)?)),
        Verb::Group(GroupVerb::List(_)) => {
            Ok(text::groups(&understand::<Vec<_>>(&args.dir, &answer)?))
        }
        Verb::Group(GroupVerb::Show(_)) => Ok(text::group(&understand(&args.dir, &answer)?)),
        Verb::Log(_) => Ok(text::logs(&understand::<Vec<_>>(&args.dir, &answer)?)),
    }
}

fn understand<T: DeserializeOwned>(dir: &Path, answer: &str) -> Result<T, CtlError> {
    let what = |error: serde_json::Error| CtlError::NotUnderstood(name(dir), error.to_string());
    serde_json::from_str(answer).map_err(what)
}

/// One question and its answer.
fn exchange(dir: &Path, words: &[&str]) -> Result<String, CtlError> {
    if !dir.is_dir() {
        return Err(CtlError::NoDirectory(name(dir)));
    }
    let mut stream = socket::connect(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            CtlError::NotRunning(name(dir))
        }
        io::ErrorKind::PermissionDenied => CtlError::Denied(name(dir), error),
        _ => CtlError::Unreachable(name(dir), error),
    })?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            CtlError::Silent(name(dir), ANSWER_MAX.as_secs())
        }
        _ => CtlError::Unreachable(name(dir), error),
    };
    stream.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
    let mut bytes = BytesMut::new();
    let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
    resp::write_request(&mut bytes, &words);
    stream.write_all(&bytes).map_err(failed)?;
    bytes.clear();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let not_understood = |what: String| CtlError::NotUnderstood(name(dir), what);
        match resp::parse_reply(&mut bytes).map_err(|error| not_understood(error.to_string()))? {
            Some(Reply::BulkString(json)) => {
                return String::from_utf8(json.to_vec())
                    .map_err(|error| not_understood(error.to_string()));
            }
            Some(Reply::Error(why)) => {
                return Err(CtlError::Refused(why.trim_start_matches("ERR ").to_owned()));
            }
            Some(_) => return Err(not_understood("a reply of another kind".to_owned())),
            None => {}
        }
        let count = stream.read(&mut chunk).map_err(failed)?;
        if count == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes.extend_from_slice(&chunk[..count]);
    }
}

fn name(dir: &Path) -> String {
    dir.display().to_string()
}

/// A node that is asked gives each of its shards less than that.
const ANSWER_MAX: Duration = Duration::from_secs(30);
