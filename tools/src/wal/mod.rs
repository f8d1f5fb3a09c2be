//! `logdrive wal`: what a log on disk holds, and what is wrong with it.
//!
//! In:     a node's directory, or one stream's: stopped, running, or a copy.
//! Out:    a table or lines for people, JSON lines for programs.
//! Cost:   one pass over the log; nothing is written, locked or made.
//! Fails:  exit code 1 says that the log is damaged, 2 that there was nothing to look at.

mod json;
mod text;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use logdrive::{GroupId, LogIndex};
use logdrive_wal::inspect::{self, EntryKind, Event, Finding, InspectError, Node, Record, Report};

/// Look into a node's log on disk, without changing it.
///
/// DIR is a node's directory, or one of its shard-NNN directories. Nothing is opened for writing and no lock is taken:
/// the node may be running, and the directory may be a copy, or on a file system that is mounted read-only. To copy a
/// running node's log file by file, take the manifest first, then the segments from the newest to the oldest; if one was
/// finished or given up meanwhile, the copy may look damaged: copy again.
///
/// Exit codes: 0 the log is sound (a torn tail, as a crash or a running node leaves it, is no damage), 1 it is damaged, 2 it
/// or a part of it cannot be read, or is none.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the node that the log belongs to, its segments, and how much is in it.
    Info(Info),
    /// Read the whole log, and print each damage with its place.
    Check(Check),
    /// Print its batches and records, in order.
    Dump(Dump),
}

#[derive(Debug, ClapArgs)]
struct Common {
    /// A node's directory, or one stream's.
    dir: PathBuf,
    /// Only this shard's stream.
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    /// Print JSON, one object on a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct Info {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, ClapArgs)]
struct Check {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, ClapArgs)]
struct Dump {
    #[command(flatten)]
    common: Common,
    /// Only what belongs to this group.
    #[arg(long, value_name = "ID")]
    group: Option<u64>,
    /// Only entries from this index on.
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Only entries up to this index.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Print payloads whole, as hexadecimal digits.
    #[arg(long)]
    payloads: bool,
}

/// Which records are shown, and how.
#[derive(Default)]
struct Filter {
    group: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    payloads: bool,
}

impl Filter {
    /// Nothing in particular was asked for.
    fn is_all(&self) -> bool {
        self.group.is_none() && !self.is_range()
    }

    fn is_range(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    fn takes(&self, record: &Record<'_>) -> bool {
        let of_group = self.group.is_none() || record.group().map(GroupId::get) == self.group;
        let in_range = match record.range() {
            Some(entries) => {
                entries.start().get() <= self.to.unwrap_or(u64::MAX)
                    && self.from.unwrap_or(0) <= entries.end().get()
            }
            None => !self.is_range(),
        };
        of_group && in_range
    }

    fn takes_index(&self, index: LogIndex) -> bool {
        (self.from.unwrap_or(0)..=self.to.unwrap_or(u64::MAX)).contains(&index.get())
    }
}

/// Where what is found goes.
trait Printer {
    fn node(&mut self, out: &mut dyn Write, node: &Node) -> io::Result<()>;
    fn stream(&mut self, out: &mut dyn Write, report: &Report) -> io::Result<()>;
    fn event(&mut self, out: &mut dyn Write, filter: &Filter, event: &Event<'_>) -> io::Result<()>;
    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> io::Result<()>;
    fn verdict(&mut self, out: &mut dyn Write, verdict: &Verdict) -> io::Result<()>;
}

/// The result of a check, in counts.
#[derive(Default)]
struct Verdict {
    streams: u64,
    batches: u64,
    entries: u64,
    damage: u64,
    notes: u64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum WalToolError {
    #[error("{0}")]
    Inspect(#[from] InspectError),
    #[error("{} has no shard {shard}", dir.display())]
    NoShard { dir: PathBuf, shard: u32 },
    #[error("{} is one stream, not a node's directory: leave --shard out", .0.display())]
    OneStream(PathBuf),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Runs one verb to its end.
pub(crate) fn run(args: &Args) -> ExitCode {
    let (common, verb) = match &args.verb {
        Verb::Info(info) => (&info.common, &args.verb),
        Verb::Check(check) => (&check.common, &args.verb),
        Verb::Dump(dump) => (&dump.common, &args.verb),
    };
    let mut verdict = Verdict::default();
    let result = look(common, verb, &mut verdict);
    match result {
        // The reader of the output has seen enough (`logdrive wal dump DIR | head`).
        Err(WalToolError::Inspect(InspectError::Stopped(error)) | WalToolError::Output(error))
            if error.kind() == io::ErrorKind::BrokenPipe =>
        {
            // But nobody was told that all of the log is sound.
            if matches!(verb, Verb::Check(_)) && verdict.damage == 0 {
                return ExitCode::from(UNREADABLE);
            }
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "logdrive: {error}");
            return ExitCode::from(UNREADABLE);
        }
        Ok(()) => {}
    }
    if verdict.damage > 0 { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS }
}

fn look(common: &Common, verb: &Verb, verdict: &mut Verdict) -> Result<(), WalToolError> {
    let mut printer: Box<dyn Printer> =
        if common.json { Box::new(json::Json) } else { Box::new(text::Text::default()) };
    let mut out = BufWriter::new(io::stdout().lock());
    let node = Node::look(&common.dir)?;
    if matches!(verb, Verb::Info(_)) {
        printer.node(&mut out, &node)?;
    }
    for finding in &node.findings {
        verdict.count(finding);
        printer.finding(&mut out, finding)?;
    }
    let filter = match verb {
        Verb::Dump(dump) => {
            Filter { group: dump.group, from: dump.from, to: dump.to, payloads: dump.payloads }
        }
        _ => Filter::default(),
    };
    let mut found = false;
    let mut unread: Option<InspectError> = None;
    for stream in &node.streams {
        if let Some(wanted) = common.shard {
            let Some(shard) = stream.shard else {
                return Err(WalToolError::OneStream(common.dir.clone()));
            };
            if shard != wanted {
                continue;
            }
        }
        found = true;
        let owner = node.identity.as_ref().zip(stream.shard);
        let scanned = inspect::scan(&stream.dir, owner, &mut |event| {
            if let Event::Finding(finding) = event {
                verdict.count(finding);
                // In a dump, a note about a file that holds nothing is in the way.
                let shown = finding.damage || finding.offset > 0 || !matches!(verb, Verb::Dump(_));
                return if shown { printer.finding(&mut out, finding) } else { Ok(()) };
            }
            match verb {
                Verb::Dump(_) => printer.event(&mut out, &filter, &event),
                _ => Ok(()),
            }
        });
        let report = match scanned {
            Ok(report) => report,
            Err(error @ InspectError::Stopped(_)) => return Err(error.into()),
            // The other streams may have something to say all the same.
            Err(error) => {
                if let Some(earlier) = unread.replace(error) {
                    let _ = writeln!(io::stderr(), "logdrive: {earlier}");
                }
                continue;
            }
        };
        verdict.streams += 1;
        verdict.batches += report.batches;
        verdict.entries += report.entries;
        if matches!(verb, Verb::Info(_)) {
            printer.stream(&mut out, &report)?;
        }
    }
    if let Some(shard) = common.shard.filter(|_| !found) {
        return Err(WalToolError::NoShard { dir: common.dir.clone(), shard });
    }
    if let Some(error) = unread {
        out.flush()?;
        return Err(error.into());
    }
    if matches!(verb, Verb::Check(_)) {
        printer.verdict(&mut out, verdict)?;
    }
    Ok(out.flush()?)
}

impl Verdict {
    fn count(&mut self, finding: &Finding) {
        if finding.damage {
            self.damage += 1;
        } else {
            self.notes += 1;
        }
    }
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Noop => "no-op",
        EntryKind::Command => "command",
        EntryKind::Config => "config",
        EntryKind::End => "end",
    }
}

const DAMAGED: u8 = 1;
const UNREADABLE: u8 = 2;
