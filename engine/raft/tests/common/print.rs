//! Messages and events as words that are short enough to compare.

use logdrive_raft::{
    AppendResult, EntryBatch, EntryKind, FetchFor, LogId, Message, NodeId, Outgoing, Ready,
};
use std::fmt::Write as _;

pub(crate) fn id(id: LogId) -> String {
    format!("{}/{}", id.term, id.index)
}

pub(crate) fn entries(batch: &EntryBatch) -> String {
    let mut text = String::from("[");
    for (at, entry) in batch.as_slice().iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        let _ = write!(text, "{space}{}", id(entry.id()));
        match entry.kind {
            EntryKind::Noop => text.push_str(":noop"),
            EntryKind::Config => text.push_str(":config"),
            EntryKind::End => text.push_str(":end"),
            EntryKind::Command => {
                let payload = String::from_utf8_lossy(&entry.payload);
                if payload != id(entry.id()) {
                    let _ = write!(text, ":{payload}");
                }
            }
        }
    }
    text.push(']');
    text
}

pub(crate) fn message(message: &Message) -> String {
    let yes = |granted: bool| if granted { "yes" } else { "no" };
    match message {
        Message::PreVote(m) => format!("PreVote t{} last {}", m.term, id(m.last_log)),
        Message::PreVoteReply(m) => format!("PreVoteReply t{} {}", m.term, yes(m.granted)),
        Message::RequestVote(m) => format!("RequestVote t{} last {}", m.term, id(m.last_log)),
        Message::VoteReply(m) => format!("VoteReply t{} {}", m.term, yes(m.granted)),
        Message::AppendEntries(m) => format!(
            "AppendEntries t{} prev {} commit {} {}",
            m.term,
            id(m.prev_log),
            m.commit,
            entries(&m.entries)
        ),
        Message::AppendReply(m) => match m.result {
            AppendResult::Accepted { match_index } => {
                format!("AppendReply t{} accepted {match_index}", m.term)
            }
            AppendResult::Taken { match_index } => {
                format!("AppendReply t{} taken {match_index}", m.term)
            }
            AppendResult::Rejected { rejected, hint } => {
                format!("AppendReply t{} rejected {rejected} hint {}", m.term, id(hint))
            }
        },
        Message::Heartbeat(m) if m.matched.index == m.commit => {
            format!("Heartbeat t{} commit {}", m.term, m.commit)
        }
        Message::Heartbeat(m) => {
            format!("Heartbeat t{} commit {} matched {}", m.term, m.commit, id(m.matched))
        }
        Message::HeartbeatReply(m) => format!("HeartbeatReply t{}", m.term),
        Message::Room(m) => format!("{m:?}"),
        Message::Founding(m) => format!("{m:?}"),
        Message::Marked(m) => format!("Marked t{} last {}", m.term, id(m.last_log)),
        Message::TermStated(m) => format!("TermStated t{} commit {}", m.term, m.commit),
    }
}

pub(crate) fn outgoing(out: &Outgoing) -> String {
    format!("{} {}", out.to, message(&out.message))
}

pub(crate) fn purpose(purpose: FetchFor) -> String {
    match purpose {
        FetchFor::Apply => "itself".to_owned(),
        FetchFor::Peer(peer) => peer.to_string(),
    }
}

/// A line for each piece of work that a replica owes.
pub(crate) fn ready(node: NodeId, ready: &Ready) -> String {
    let mut text = String::new();
    for out in &ready.messages {
        let _ = writeln!(text, "{node} sends to {}", outgoing(out));
    }
    if let Some(write) = &ready.write {
        let _ = write!(text, "{node} writes w{}", write.id);
        if let Some(release) = &write.release {
            let _ = write!(text, " base {} last {}", id(release.base), release.last);
        }
        if let Some(saved) = write.hard_state {
            let voted = saved.voted_for.map_or("-".to_owned(), |id| id.to_string());
            let _ = write!(text, " term {} vote {voted} commit {}", saved.term, saved.commit);
            text.push_str(if saved.marked { " marked" } else { "" });
        }
        let _ = writeln!(text, " {}", entries(&write.entries));
    }
    if let Some(promises) = &ready.promises {
        let _ = writeln!(text, "{node} promises after w{}", promises.after());
    }
    if !ready.apply.is_empty() {
        let _ = writeln!(text, "{node} applies {}", entries(&ready.apply));
    }
    for fetch in &ready.fetch {
        let purpose = purpose(fetch.purpose);
        let _ = writeln!(text, "{node} fetches {}..={} for {purpose}", fetch.first, fetch.last);
    }
    for offer in &ready.offers {
        let _ = writeln!(text, "{node} owes {} a snapshot of {} or later", offer.peer, offer.least);
    }
    text
}
