//! The output for programs: one JSON object on a line, named by its `type`.
//!
//! In:     what a scan meets.
//! Out:    `node`, `stream`, `segment`, `batch`, `record`, `entry`, `finding` and `verdict` objects.
//! Cost:   one object at a time.
//! Fails:  with the output's error.

use std::io::{self, Write};

use logdrive_wal::Position;
use logdrive_wal::inspect::{Event, Finding, Node, Record, Report};
use serde_json::{Value, json};

use super::text::{hex, role};
use super::{Filter, Printer, Verdict};

/// For programs.
pub(super) struct Json;

impl Printer for Json {
    fn node(&mut self, out: &mut dyn Write, node: &Node) -> io::Result<()> {
        let Some(identity) = &node.identity else { return Ok(()) };
        let value = json!({
            "type": "node",
            "cluster": identity.cluster,
            "node": identity.node.get(),
            "store": format!("{:032x}", identity.store),
            "shards": identity.shards,
            "incarnation": identity.incarnation,
            "settings": identity.settings,
        });
        line(out, &value)
    }

    fn stream(&mut self, out: &mut dyn Write, report: &Report) -> io::Result<()> {
        let owner = &report.owner;
        let value = json!({
            "type": "stream",
            "cluster": owner.cluster,
            "node": owner.node.get(),
            "store": format!("{:032x}", owner.store),
            "shard": owner.shard,
            "groups": report.groups.len(),
            "entries": report.entries,
            "batches": report.batches,
            "segments": report.segments.len(),
            "bytes": report.segments.iter().map(|segment| segment.bytes).sum::<u64>(),
            "end": place(report.end),
            "durable": place(report.durable),
            "closed": report.closed,
            "damage": report.damage,
            "notes": report.notes,
        });
        line(out, &value)?;
        for segment in &report.segments {
            let value = json!({
                "type": "segment",
                "shard": owner.shard,
                "segment": segment.segment.0,
                "file": segment.file.to_string_lossy(),
                "role": role(segment.role),
                "id": format!("{:032x}", segment.id),
                "incarnation": segment.incarnation,
                "bytes": segment.bytes,
                "used_bytes": segment.used_bytes,
                "live_bytes": segment.live_bytes,
                "batches": segment.batches,
            });
            line(out, &value)?;
        }
        Ok(())
    }

    fn event(&mut self, out: &mut dyn Write, filter: &Filter, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Batch(batch) if filter.is_all() => line(
                out,
                &json!({
                    "type": "batch",
                    "position": place(batch.position),
                    "number": batch.number,
                    "bytes": batch.bytes,
                    "records": batch.records,
                    "durable": place(batch.durable),
                    "groups": batch.groups.iter().map(|group| group.get()).collect::<Vec<_>>(),
                }),
            ),
            Event::Batch(_) => Ok(()),
            Event::Record(position, record) if filter.takes(record) => {
                line(out, &record_value(*position, filter, record))?;
                if let Record::Entries(run) | Record::Carried(run) = record {
                    for entry in run.entries().filter(|entry| filter.takes_index(entry.index)) {
                        let mut value = json!({
                            "type": "entry",
                            "group": run.group.get(),
                            "index": entry.index.get(),
                            "term": run.term.get(),
                            "kind": super::kind(entry.kind),
                            "checksum": format!("{:08x}", entry.checksum),
                        });
                        payload(&mut value, filter, entry.payload);
                        line(out, &value)?;
                    }
                }
                Ok(())
            }
            Event::Record(..) => Ok(()),
            Event::Finding(finding) => self.finding(out, finding),
        }
    }

    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> io::Result<()> {
        let groups: Vec<u64> = finding.groups.iter().map(|group| group.get()).collect();
        let value = json!({
            "type": "finding",
            "case": finding.label,
            "damage": finding.damage,
            "file": finding.file.to_string_lossy(),
            "offset": finding.offset,
            "groups": groups,
            "what": finding.what,
        });
        line(out, &value)
    }

    fn verdict(&mut self, out: &mut dyn Write, verdict: &Verdict) -> io::Result<()> {
        let value = json!({
            "type": "verdict",
            "sound": verdict.damage == 0,
            "streams": verdict.streams,
            "batches": verdict.batches,
            "entries": verdict.entries,
            "damage": verdict.damage,
            "notes": verdict.notes,
        });
        line(out, &value)
    }
}

fn record_value(position: Position, filter: &Filter, record: &Record<'_>) -> Value {
    let mut value = match record {
        Record::Start { end, cut } => {
            json!({ "kind": "start", "end": place(*end), "cut": cut })
        }
        Record::Membership { bytes, .. } => {
            let mut value = json!({ "kind": "membership" });
            payload(&mut value, filter, bytes);
            value
        }
        Record::HardState { state, .. } => json!({
            "kind": "hard_state",
            "term": state.term.get(),
            "voted_for": state.voted_for.map(logdrive::NodeId::get),
            "commit": state.commit.get(),
            "marked": state.marked,
        }),
        Record::Entries(run) | Record::Carried(run) => json!({
            "kind": if let Record::Carried(_) = record { "carried" } else { "entries" },
            "term": run.term.get(),
            "first": run.first.get(),
            "last": run.last().get(),
        }),
        Record::Release { index, term, last, .. } => json!({
            "kind": "release",
            "index": index.get(),
            "term": term.get(),
            "last": last.get(),
        }),
        Record::Tombstone { since, .. } => {
            json!({ "kind": "tombstone", "since": since.get() })
        }
        Record::Fence { position, .. } => {
            json!({ "kind": "fence", "damage": place(*position) })
        }
        Record::Snapshot { mark, .. } => json!({
            "kind": "snapshot",
            "index": mark.at.index.get(),
            "term": mark.at.term.get(),
            "digest": format!("{:032x}", mark.digest),
            "bytes": mark.bytes,
            "in_log": mark.is_in_log,
        }),
        Record::Installing { installing, .. } => json!({
            "kind": "installing",
            "index": installing.at.index.get(),
            "term": installing.at.term.get(),
            "digest": format!("{:032x}", installing.digest),
        }),
        Record::Footer => json!({ "kind": "footer" }),
        Record::Optional => json!({ "kind": "unknown" }),
    };
    value["type"] = "record".into();
    value["position"] = place(position);
    if let Some(group) = record.group() {
        value["group"] = group.get().into();
    }
    value
}

fn payload(value: &mut Value, filter: &Filter, bytes: &[u8]) {
    value["bytes"] = bytes.len().into();
    if filter.payloads {
        value["payload"] = hex(bytes).into();
    }
}

fn place(position: Position) -> Value {
    json!({ "segment": position.segment().0, "offset": position.offset() })
}

fn line(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}
