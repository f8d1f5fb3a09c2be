//! The output for people: lines, and a table of segments.
//!
//! In:     what a scan meets.
//! Out:    one line per batch, record, entry and finding.
//! Cost:   nothing is kept but the last batch.
//! Fails:  with the output's error.

use std::fmt::Write as _;
use std::io::{self, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use logdrive_wal::Position;
use logdrive_wal::inspect::{Batch, Event, Finding, Node, Record, Report, Role};

use super::{Filter, Printer, Verdict};

/// For people.
#[derive(Default)]
pub(super) struct Text {
    /// A batch none of whose records has been shown yet.
    batch: Option<Batch>,
}

impl Printer for Text {
    fn node(&mut self, out: &mut dyn Write, node: &Node) -> io::Result<()> {
        let Some(identity) = &node.identity else { return Ok(()) };
        writeln!(
            out,
            "node {} of cluster {:?}, store {:032x}, shards {}, opened {} times",
            identity.node, identity.cluster, identity.store, identity.shards, identity.incarnation
        )
    }

    fn stream(&mut self, out: &mut dyn Write, report: &Report) -> io::Result<()> {
        let owner = &report.owner;
        let disk: u64 = report.segments.iter().map(|segment| segment.bytes).sum();
        writeln!(
            out,
            "\nshard {} of node {}, cluster {:?}, store {:032x}\n\
             {} groups, {} entries in {} batches; {} segments, {} bytes\n\
             ends at {:?}, where {:?} was known durable; {}",
            owner.shard,
            owner.node,
            owner.cluster,
            owner.store,
            report.groups.len(),
            report.entries,
            report.batches,
            report.segments.len(),
            disk,
            report.end,
            report.durable,
            if report.closed { "closed in order" } else { "not closed: in use, or it crashed" },
        )?;
        if report.segments.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        let header =
            ["segment", "role", "id", "opened", "bytes", "used", "live", "dead", "batches"];
        table.set_header(header.map(Cell::new));
        for segment in &report.segments {
            let dead = segment.used_bytes.saturating_sub(segment.live_bytes);
            let numbers =
                [segment.bytes, segment.used_bytes, segment.live_bytes, dead, segment.batches];
            let mut row = vec![
                Cell::new(segment.segment.0).set_alignment(CellAlignment::Right),
                Cell::new(role(segment.role)),
                Cell::new(format!("{:032x}", segment.id)),
                Cell::new(segment.incarnation).set_alignment(CellAlignment::Right),
            ];
            row.extend(numbers.map(|number| Cell::new(number).set_alignment(CellAlignment::Right)));
            table.add_row(row);
        }
        writeln!(out, "{table}")
    }

    fn event(&mut self, out: &mut dyn Write, filter: &Filter, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Batch(batch) if filter.is_all() => print_batch(out, batch),
            Event::Batch(batch) => {
                self.batch = Some((*batch).clone());
                Ok(())
            }
            Event::Record(position, record) => {
                if !filter.takes(record) {
                    return Ok(());
                }
                if let Some(batch) = self.batch.take() {
                    print_batch(out, &batch)?;
                }
                write!(out, "  {position:?}  ")?;
                print_record(out, filter, record)
            }
            Event::Finding(finding) => self.finding(out, finding),
        }
    }

    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> io::Result<()> {
        let kind = if finding.damage { "DAMAGE" } else { "note" };
        write!(
            out,
            "{kind} {}: {} at byte {}: {}",
            finding.label,
            finding.file.display(),
            finding.offset,
            finding.what
        )?;
        if !finding.groups.is_empty() {
            let (shown, rest) = finding.groups.split_at(finding.groups.len().min(GROUPS_SHOWN));
            let shown: Vec<String> = shown.iter().map(|group| group.get().to_string()).collect();
            write!(out, "; groups {}", shown.join(", "))?;
            if !rest.is_empty() {
                write!(out, " and {} more", rest.len())?;
            }
        }
        writeln!(out)
    }

    fn verdict(&mut self, out: &mut dyn Write, verdict: &Verdict) -> io::Result<()> {
        let sound = if verdict.damage == 0 { "sound" } else { "DAMAGED" };
        writeln!(
            out,
            "{sound}: streams {}, batches {}, entries {}, damaged places {}, notes {}",
            verdict.streams, verdict.batches, verdict.entries, verdict.damage, verdict.notes
        )
    }
}

fn print_batch(out: &mut dyn Write, batch: &Batch) -> io::Result<()> {
    writeln!(
        out,
        "{:?}  batch {}  bytes {}  records {}  durable {:?}",
        batch.position, batch.number, batch.bytes, batch.records, batch.durable
    )
}

fn print_record(out: &mut dyn Write, filter: &Filter, record: &Record<'_>) -> io::Result<()> {
    match record {
        Record::Start { end, .. } if *end == Position::ZERO => {
            writeln!(out, "start  of the stream")
        }
        Record::Start { end, cut } => {
            let cut = if *cut { ", cut there" } else { "" };
            writeln!(out, "start  goes on from {end:?}{cut}")
        }
        Record::Membership { group, bytes } => {
            write!(out, "membership  group {group}  ")?;
            print_payload(out, filter, bytes)
        }
        Record::HardState { group, state } => {
            let vote = state.voted_for.map_or("nobody".to_owned(), |node| node.to_string());
            let (term, commit) = (state.term, state.commit);
            let marked = if state.marked { "  marked" } else { "" };
            writeln!(
                out,
                "hard state  group {group}  term {term}  voted for {vote}  commit {commit}{marked}"
            )
        }
        Record::Entries(run) | Record::Carried(run) => {
            let what = if let Record::Carried(_) = record { "carried" } else { "entries" };
            let (first, last) = (run.first, run.last());
            writeln!(out, "{what}  group {}  term {}  {first} to {last}", run.group, run.term)?;
            for entry in run.entries().filter(|entry| filter.takes_index(entry.index)) {
                let index = entry.index;
                write!(out, "    {index}  {}  ", super::kind(entry.kind))?;
                print_payload(out, filter, entry.payload)?;
            }
            Ok(())
        }
        Record::Release { group, index, term, last } => {
            writeln!(out, "release  group {group}  up to {index}  of term {term}  last {last}")
        }
        Record::Tombstone { group, since } => {
            writeln!(out, "tombstone  group {group}  since {since}")
        }
        Record::Fence { group, position } => {
            writeln!(out, "fence  group {group}  damage at {position:?}")
        }
        Record::Snapshot { group, mark, .. } => {
            let place = if mark.is_in_log { "in the log" } else { "in files" };
            let (index, term, bytes) = (mark.at.index, mark.at.term, mark.bytes);
            writeln!(
                out,
                "snapshot  group {group}  at {index}  of term {term}  digest {:032x}  {bytes} bytes {place}",
                mark.digest
            )
        }
        Record::Installing { group, installing } => {
            let (index, term) = (installing.at.index, installing.at.term);
            let digest = installing.digest;
            writeln!(
                out,
                "installing  group {group}  at {index}  of term {term}  digest {digest:032x}"
            )
        }
        Record::Footer => writeln!(out, "footer  closed in order"),
        Record::Optional => writeln!(out, "of a kind this version does not know"),
    }
}

/// Length and beginning, or all of it in hexadecimal digits.
fn print_payload(out: &mut dyn Write, filter: &Filter, bytes: &[u8]) -> io::Result<()> {
    if filter.payloads {
        return writeln!(out, "{} bytes  {}", bytes.len(), hex(bytes));
    }
    let shown = &bytes[..bytes.len().min(PREFIX_BYTES)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    writeln!(out, "{} bytes  \"{}\"{more}", bytes.len(), shown.escape_ascii())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Sealed => "sealed",
        Role::Active => "active",
        Role::Spare => "spare",
        Role::Void => "void",
        Role::Damaged => "damaged",
    }
}

const PREFIX_BYTES: usize = 32;
const GROUPS_SHOWN: usize = 20;
