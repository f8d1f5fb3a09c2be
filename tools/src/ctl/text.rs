//! The reports as tables.
//!
//! In:     what the node answered.
//! Out:    text that ends with a line.
//! Cost:   that of its lines.

use super::report::{GroupLine, GroupShown, Peer, ShardLog, Space, State, Status};
use comfy_table::{Cell, CellAlignment, Table, presets::NOTHING};

pub(super) fn status(status: &Status) -> String {
    let Status { groups, log, .. } = status;
    let peer = |peer: &Peer| {
        let how = if peer.heard { "answers" } else { "does not answer" };
        format!("{} {how}", peer.node)
    };
    let direct = if status.direct_io { "direct" } else { "through the page cache" };
    let lines = [
        ("node", format!("{} of cluster {}", status.node, status.cluster)),
        ("version", status.version.clone()),
        ("process", format!("{}, up {}", status.process_id, time(status.uptime_seconds))),
        (
            "clients",
            format!("{} of {} at {}", status.clients, status.clients_max, status.advertise),
        ),
        ("disk", format!("{}, {direct}, {} shards", status.disk_driver, status.shards)),
        ("peers", or_none(status.peers.iter().map(peer))),
        (
            "groups",
            format!(
                "{} here, {} led, {} without a leader, {} marked, {} stopped",
                groups.here, groups.led, groups.leaderless, groups.marked, groups.stopped
            ),
        ),
        ("log", space(log)),
    ];
    pairs(lines)
}

pub(super) fn groups(groups: &[GroupLine]) -> String {
    let mut table = table(&["group", "shard", "state", "leader", ""], 2);
    for line in groups {
        table.add_row(vec![
            right(line.group),
            right(or_dash(line.shard)),
            Cell::new(state(line.state)),
            right(or_dash(line.leader)),
            Cell::new(line.why.as_deref().unwrap_or_default()),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

pub(super) fn group(shown: &GroupShown) -> String {
    let GroupShown { line, replica } = shown;
    let mut lines = vec![
        ("group", line.group.to_string()),
        ("shard", or_dash(line.shard)),
        ("state", state(line.state).to_owned()),
        ("leader", or_dash(line.leader)),
    ];
    lines.extend(line.why.clone().map(|why| ("why", why)));
    if let Some(replica) = replica {
        lines.extend([
            ("term", replica.term.to_string()),
            ("last entry", replica.last.to_string()),
            ("durable here", replica.durable.to_string()),
            ("committed", replica.commit.to_string()),
            ("applied here", replica.applied.to_string()),
        ]);
    }
    pairs(lines)
}

pub(super) fn logs(logs: &[ShardLog]) -> String {
    let mut text = String::new();
    for log in logs {
        let lines = [
            ("shard", log.shard.to_string()),
            ("log", space(&log.space)),
            ("segments", format!("{}, the oldest is {}", log.segments, log.oldest_segment)),
            (
                "groups",
                format!("{}; the oldest segment is needed by {}", log.groups, log.groups_in_oldest),
            ),
        ];
        text += &pairs(lines);
        let mut table = table(&["group", "MiB", "released", "last entry", "in the oldest"], 0);
        for holder in &log.heaviest {
            table.add_row(vec![
                right(holder.group),
                right(mib(holder.bytes)),
                right(holder.released),
                right(holder.last),
                right(if holder.in_oldest { "yes" } else { "no" }),
            ]);
        }
        text += &format!("{}\n\n", table.trim_fmt());
    }
    text
}

/// The log's bytes in words.
fn space(space: &Space) -> String {
    let quota = match space.bytes_max {
        Some(max) => format!(" of at most {}", mib(max)),
        None => String::new(),
    };
    format!(
        "{}{quota} MiB of files; {} MiB of records, {} of them needed, {} of snapshots",
        mib(space.bytes),
        mib(space.written),
        mib(space.live),
        mib(space.snapshots)
    )
}

fn state(state: State) -> &'static str {
    match state {
        State::Leads => "leads",
        State::Follows => "follows",
        State::Marked => "marked",
        State::Stopped => "stopped",
    }
}

fn pairs(lines: impl IntoIterator<Item = (&'static str, String)>) -> String {
    lines.into_iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}

/// The columns from `right_from` on, but for the words, are numbers.
fn table(names: &[&str], words_at: usize) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let is_words = |at: usize| words_at > 0 && (at == words_at || at + 1 == names.len());
    let head = names.iter().enumerate().map(|(at, name)| match is_words(at) {
        true => Cell::new(name),
        false => right(name),
    });
    table.set_header(head);
    table
}

fn right(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn or_none(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn time(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {} s", seconds % 60),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} days {hours} h"),
    }
}
