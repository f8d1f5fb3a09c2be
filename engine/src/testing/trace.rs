//! The history of a run: a hash of all of it, and if wanted, a line per event.
//!
//! In:     events as the ghost sees them.
//! Out:    [`Trace::hash`]: equal for equal runs; the lines.
//! Cost:   a few multiplications an event; text only if wanted.
//! Source: RULES.md T1 (determinism).

use super::{
    describe::Describe,
    event::{Change, Event, Mark, Proposed, serial_place},
};
use crate::{GroupId, LogIndex, NodeId};
use logdrive_raft::{AppendResult, HardState, LogId, Message, Role, RoomSays};

/// The record of what has happened so far.
#[derive(Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    pub(super) lines: Option<Vec<String>>,
    pub(super) step: u64,
    pub(super) describe: Describe,
}

impl Trace {
    pub(super) fn new(wanted: bool, describe: Describe) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, lines: wanted.then(Vec::new), step: 0, describe }
    }

    /// Notes something that no node did: a fault, the healing.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>6}  {}", self.step, line()));
        }
    }

    /// A command leaves its client.
    pub(super) fn propose(&mut self, node: NodeId, group: GroupId, serial: u64, command: &[u8]) {
        if self.lines.is_some() {
            let command = self.describe.command(command);
            self.note(|| format!("{} {} command {serial}: {command}", name(node), of(group)));
        }
    }

    pub(super) fn see(&mut self, event: &Event<'_>, commands: &[Proposed]) {
        self.hash(event);
        if self.lines.is_some()
            && let Some(text) = text(event, commands, &self.describe)
        {
            self.note(|| text);
        }
    }

    fn hash(&mut self, event: &Event<'_>) {
        self.words(&[self.step]);
        match *event {
            Event::Recovered { node, group, state, .. } => {
                self.words(&[1, node.get(), group.get()]);
                self.hard_state(Some(state.hard_state));
                self.marks(&state.log);
            }
            Event::Written { node, group, change } => {
                self.words(&[2, node.get(), group.get()]);
                self.change(change);
            }
            Event::Withdrawn { node, group, from, last, .. } => {
                self.words(&[22, node.get(), group.get(), from.get(), last.get()]);
            }
            Event::Landed { node, group, change } => {
                self.words(&[3, node.get(), group.get()]);
                self.change(change);
            }
            Event::Sent { node, to, group, message } => {
                self.words(&[4, node.get(), to.get(), group.get()]);
                self.message(message);
            }
            Event::Arrived { node, from, group, message } => {
                self.words(&[5, node.get(), from.get(), group.get()]);
                self.message(message);
            }
            Event::Turned { node, group, status, clock } => {
                let leader = status.leader.map_or(0, NodeId::get);
                self.words(&[6, node.get(), group.get(), clock, status.role as u64, leader]);
                self.words(&[status.term.get(), status.durable.get(), status.commit.get()]);
                self.words(&[status.applying.get(), status.applied.get()]);
                self.log_id(status.last_log);
            }
            Event::Loaded { node, in_flight, .. } => {
                self.words(&[7, node.get(), in_flight as u64]);
            }
            Event::Applied { node, group, applied } => {
                self.words(&[8, node.get(), group.get(), applied.index.get()]);
                let reply = u64::from(crc_fast::crc32_iscsi(&applied.reply));
                self.words(&[applied.term.get(), applied.serial, reply]);
            }
            Event::Opened { node, group, at, digest } => {
                self.words(&[17, node.get(), group.get(), at.get(), digest.unwrap_or(0)]);
            }
            Event::Given { node, group, last } => {
                self.words(&[18, node.get(), group.get(), last.get()]);
            }
            Event::Reached { node, group, at, digest, durable } => {
                self.words(&[19, node.get(), group.get(), at.get()]);
                self.words(&[digest.unwrap_or(0), durable.get()]);
            }
            Event::Answered { serial, outcome } => {
                self.words(&[9, serial]);
                match outcome {
                    Ok(applied) => {
                        let reply = u64::from(crc_fast::crc32_iscsi(&applied.reply));
                        self.words(&[applied.index.get(), reply]);
                    }
                    Err(error) => {
                        let error = crc_fast::crc32_iscsi(format!("{error:?}").as_bytes());
                        self.words(&[0, u64::from(error)]);
                    }
                }
            }
            Event::Impostor { node } => self.words(&[10, node.get()]),
            Event::Poisoned { node, shard } => self.words(&[11, node.get(), shard as u64]),
            Event::Fenced { node, group, .. } => self.words(&[12, node.get(), group.get()]),
            Event::Down { node } => self.words(&[13, node.get()]),
            Event::Stopped { node, group } => self.words(&[14, node.get(), group.get()]),
            Event::GivenBack { node, group, .. } => self.words(&[15, node.get(), group.get()]),
            Event::Restarted { node, group } => self.words(&[24, node.get(), group.get()]),
            Event::AnsweredApart { node, group } => self.words(&[25, node.get(), group.get()]),
            Event::End { .. } => self.words(&[16]),
        }
    }

    /// Hashes all of a message but its payloads, for which their checksums stand.
    fn message(&mut self, message: &Message) {
        self.words(&[message.term().get()]);
        match message {
            Message::PreVote(m) => {
                self.words(&[1]);
                self.log_id(m.last_log);
            }
            Message::PreVoteReply(m) => self.words(&[2, u64::from(m.granted)]),
            Message::RequestVote(m) => {
                self.words(&[3]);
                self.log_id(m.last_log);
            }
            Message::VoteReply(m) => self.words(&[4, u64::from(m.granted)]),
            Message::AppendEntries(m) => {
                self.words(&[5, m.commit.get(), m.entries.len() as u64]);
                self.log_id(m.prev_log);
                for entry in m.entries.as_slice() {
                    self.log_id(entry.id());
                    self.words(&[entry.kind as u64, u64::from(entry.checksum)]);
                }
            }
            Message::AppendReply(m) => match m.result {
                AppendResult::Accepted { match_index } => self.words(&[6, match_index.get()]),
                AppendResult::Taken { match_index } => self.words(&[11, match_index.get()]),
                AppendResult::Rejected { rejected, hint } => {
                    self.words(&[7, rejected.get()]);
                    self.log_id(hint);
                }
            },
            Message::Heartbeat(m) => {
                self.words(&[8, m.commit.get()]);
                self.log_id(m.matched);
            }
            Message::HeartbeatReply(_) => self.words(&[9]),
            Message::Founding(m) => self.words(&[14, m.digest.into(), m.asks.into()]),
            Message::Room(m) => {
                self.words(&[10, m.says as u64, u64::from(m.shard), u64::from(m.shards)]);
            }
            Message::Marked(m) => {
                self.words(&[12, m.mark]);
                self.log_id(m.last_log);
            }
            Message::TermStated(m) => self.words(&[13, m.mark, m.commit.get()]),
        }
    }

    fn change(&mut self, change: &Change) {
        self.hard_state(change.hard_state);
        self.words(&[change.first.get()]);
        self.marks(&change.entries);
    }

    fn hard_state(&mut self, state: Option<HardState>) {
        let Some(state) = state else { return self.words(&[0]) };
        let HardState { term, voted_for, commit, marked } = state;
        let vote = voted_for.map_or(0, NodeId::get);
        self.words(&[1, term.get(), vote, commit.get(), u64::from(marked)]);
    }

    fn marks(&mut self, marks: &[Mark]) {
        self.words(&[marks.len() as u64]);
        marks.iter().for_each(|mark| self.words(&[mark.term.get(), u64::from(mark.checksum)]));
    }

    fn log_id(&mut self, id: LogId) {
        self.words(&[id.index.get(), id.term.get()]);
    }

    fn words(&mut self, words: &[u64]) {
        for word in words {
            self.hash = (self.hash ^ word).wrapping_mul(0x100_0000_01B3).rotate_left(23);
        }
    }
}

fn text(event: &Event<'_>, commands: &[Proposed], describe: &Describe) -> Option<String> {
    Some(match *event {
        Event::Recovered { node, group, state, .. } => format!(
            "{} up: {} has {} entries, term {}, vote {}",
            name(node),
            of(group),
            state.log.len(),
            state.hard_state.term.get(),
            state.hard_state.voted_for.map_or_else(|| "-".to_owned(), name),
        ),
        Event::Written { node, group, change } => {
            format!("{} {} writes {}", name(node), of(group), written(change))
        }
        Event::Withdrawn { node, group, last, .. } => {
            format!("{} {} withdraws what is behind {}", name(node), of(group), last.get())
        }
        Event::Landed { node, group, change } => {
            format!("{} {} durable {}", name(node), of(group), written(change))
        }
        Event::Sent { node, to, group, message } => {
            format!("{} -> {} {} {}", name(node), name(to), of(group), said(message))
        }
        Event::Arrived { node, from, group, message } => {
            format!("{} <- {} {} {}", name(node), name(from), of(group), said(message))
        }
        Event::Turned { node, group, status, .. } => format!(
            "{} {} {} of term {}, last {}, durable {}, commit {}, applied {}",
            name(node),
            of(group),
            match status.role {
                Role::Follower => "follower",
                Role::PreCandidate => "pre-candidate",
                Role::Candidate => "candidate",
                Role::Leader => "LEADER",
            },
            status.term.get(),
            status.last_log.index.get(),
            status.durable.get(),
            status.commit.get(),
            status.applied.get(),
        ),
        Event::Applied { node, group, applied } => format!(
            "{} {} applies {} (command {}): {} -> {}",
            name(node),
            of(group),
            applied.index.get(),
            applied.serial,
            commands
                .get(serial_place(applied.serial))
                .map_or_else(String::new, |proposed| describe.command(&proposed.command)),
            describe.reply(&applied.reply),
        ),
        Event::Opened { node, group, at, .. } => {
            format!("{} {} machine opens at {}", name(node), of(group), at.get())
        }
        Event::Answered { serial, outcome } => match outcome {
            Ok(applied) => format!(
                "command {serial}: yes, at {}: {}",
                applied.index.get(),
                describe.reply(&applied.reply)
            ),
            Err(error) => format!("command {serial}: {:?}: {error}", error.happened()),
        },
        Event::Impostor { node } => format!("{} started on a log that is not its own", name(node)),
        Event::Poisoned { node, shard } => {
            format!("{} a write of shard {shard} failed", name(node))
        }
        Event::Fenced { node, group, .. } => format!("{} {} is fenced", name(node), of(group)),
        Event::Down { node } => format!("{} is down", name(node)),
        Event::Stopped { node, group } => format!("{} {} machine failed", name(node), of(group)),
        Event::Restarted { node, group } => {
            format!("{} {} another machine", name(node), of(group))
        }
        Event::AnsweredApart { node, group } => {
            format!("{} {} acknowledges, founded otherwise", name(node), of(group))
        }
        Event::GivenBack { node, group, .. } => {
            format!("{} {} looked at: a segment was given back", name(node), of(group))
        }
        Event::Given { .. } | Event::Reached { .. } | Event::Loaded { .. } | Event::End { .. } => {
            return None;
        }
    })
}

fn name(node: NodeId) -> String {
    format!("n{}", node.get())
}

fn of(group: GroupId) -> String {
    format!("g{}", group.get())
}

fn written(change: &Change) -> String {
    let state = change.hard_state.map_or_else(String::new, |state| {
        let vote = state.voted_for.map_or_else(|| "-".to_owned(), name);
        let marked = if state.marked { "marked " } else { "" };
        format!("term {} vote {vote} {marked}", state.term.get())
    });
    match change.entries.as_slice() {
        [] => state,
        [first, .., last] if first.term != last.term => format!(
            "{state}{}..={} of terms {} to {}",
            change.first.get(),
            change.first.get() + change.entries.len() as u64 - 1,
            first.term.get(),
            last.term.get()
        ),
        [first, ..] => format!(
            "{state}{}..={} of term {}",
            change.first.get(),
            change.first.get() + change.entries.len() as u64 - 1,
            first.term.get()
        ),
    }
}

fn said(message: &Message) -> String {
    let term = message.term().get();
    match message {
        Message::PreVote(m) => {
            format!("pre-vote for term {term}? log ends {}", at(m.last_log.index, m.last_log.term))
        }
        Message::PreVoteReply(m) => format!("pre-vote {} (term {term})", yes(m.granted)),
        Message::RequestVote(m) => {
            format!("vote in term {term}? log ends {}", at(m.last_log.index, m.last_log.term))
        }
        Message::VoteReply(m) => format!("vote {} (term {term})", yes(m.granted)),
        Message::AppendEntries(m) => format!(
            "append {} after {} (term {term}, commit {})",
            m.entries.len(),
            at(m.prev_log.index, m.prev_log.term),
            m.commit.get()
        ),
        Message::AppendReply(m) => match m.result {
            AppendResult::Accepted { match_index } => {
                format!("has {} (term {term})", match_index.get())
            }
            AppendResult::Taken { match_index } => {
                format!("took {} (term {term})", match_index.get())
            }
            AppendResult::Rejected { rejected, hint } => {
                let hint = at(hint.index, hint.term);
                format!("lacks {}, try {hint} (term {term})", rejected.get())
            }
        },
        Message::Heartbeat(m) => format!(
            "heartbeat (term {term}, commit {}, you have {})",
            m.commit.get(),
            at(m.matched.index, m.matched.term)
        ),
        Message::Marked(m) => {
            format!(
                "which term? marked, log ends {} (term {term})",
                at(m.last_log.index, m.last_log.term)
            )
        }
        Message::TermStated(m) => format!("states term {term}, commit {}", m.commit.get()),
        Message::HeartbeatReply(_) => format!("heartbeat answer (term {term})"),
        Message::Founding(m) => {
            format!("founded with {:08x}{}", m.digest, if m.asks { ", and you?" } else { "" })
        }
        Message::Room(m) => {
            let what = match m.says {
                RoomSays::Asked => "room?",
                RoomSays::Free => "room",
                RoomSays::Full => "no room",
                RoomSays::TooLarge => "too large",
            };
            format!("{what} (shard {} of {})", m.shard, m.shards)
        }
    }
}

fn at(index: LogIndex, term: crate::Term) -> String {
    format!("{}/{}", index.get(), term.get())
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}
