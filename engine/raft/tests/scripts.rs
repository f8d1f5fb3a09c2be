//! Plays the transcripts in `tests/scripts`: commands with their arguments, `----`, and what they led to.
//!
//! Each opens with a paragraph that says what it replays. `LOGDRIVE_REWRITE=1` writes down what
//! happens instead of comparing; read the difference before you commit it.
//!
//! ```text
//! cluster 3                      new replicas 1 to 3
//! node 1 of 3 term 6 log 1,1,4   a replica that starts with this log
//! set 1 append_bytes_max 100     before `node` or `cluster`: settings of replica 1 (or `*`)
//! campaign 1                     Event::Campaign;  `resign`, `stand` likewise
//! propose 1 a b                  commands, in one proposal
//! pass 10                        ticks for all, one by one; `pass 10 settle`: with all that follows
//! ready 1                        takes and shows the work that replica 1 owes
//! durable 1 [count]              the oldest writes are on disk
//! deliver [1->2 [count]]         packets arrive; `*` is any replica
//! drop 1->2 [count]              packets are lost
//! cut 1,2 3,4 | heal             links are cut, or all restored
//! settle [1,2]                   everything happens, among these
//! lose 1->2                      the link is cut one way
//! append 2->1 3 1/4 0 2,3        a made-up AppendEntries: term, prev_log, commit, terms of the entries
//! ack 2->1 3 4                   an AppendReply that accepts: term, match
//! vote 2->1 3 1/4                a RequestVote: term, last_log;  `pre-vote` likewise
//! heartbeat 2->1 3 0             a Heartbeat: term, commit, and the matched entry if there is one
//! quietly <command>              its output is not shown
//! apply 1 | fetched 1 | fetch-failed 1 | unreachable 1 2 | crash 1 [kept] | restart 1
//! status | logs | net            shows the replicas, their logs, the packets under way
//! ```

mod common;

use common::{Cluster, Image, config, log_of, print};
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, Config, EntryBatch, Event, HardState, Heartbeat,
    LogId, LogIndex, Message, NodeId, PreVote, RequestVote, Role, Term,
};
use std::fmt::Write as _;

struct Player {
    cluster: Cluster,
    settings: Vec<(String, String, usize)>,
}

fn node(text: &str) -> NodeId {
    NodeId(text.parse().unwrap_or_else(|_| panic!("{text} is not a replica")))
}

fn nodes(text: &str) -> Vec<NodeId> {
    text.split(',').map(node).collect()
}

/// `1->2`, either side perhaps `*`.
fn link(text: &str) -> impl Fn(&common::Packet) -> bool {
    let (from, to) = text.split_once("->").unwrap_or_else(|| panic!("{text} is not a link"));
    let side = |text: &str| (text != "*").then(|| node(text));
    let (from, to) = (side(from), side(to));
    move |packet| from.is_none_or(|id| id == packet.from) && to.is_none_or(|id| id == packet.to)
}

fn ends(text: &str) -> (NodeId, NodeId) {
    let (from, to) = text.split_once("->").unwrap_or_else(|| panic!("{text} is not a link"));
    (node(from), node(to))
}

/// `term/index`.
fn log_id(text: &str) -> LogId {
    let (term, index) = text.split_once('/').unwrap_or_else(|| panic!("{text} is not an entry"));
    LogId { term: Term(term.parse().unwrap()), index: LogIndex(index.parse().unwrap()) }
}

/// The message a command spells out after its link.
fn message(words: &[&str]) -> Message {
    let term = Term(words[2].parse().unwrap());
    match words[0] {
        "vote" => Message::RequestVote(RequestVote { term, last_log: log_id(words[3]) }),
        "pre-vote" => Message::PreVote(PreVote { term, last_log: log_id(words[3]) }),
        "heartbeat" => {
            let commit = LogIndex(words[3].parse().unwrap());
            let matched = words.get(4).map_or(LogId::ZERO, |id| log_id(id));
            Message::Heartbeat(Heartbeat { term, commit, matched })
        }
        "ack" => {
            let match_index = LogIndex(words[3].parse().unwrap());
            let result = AppendResult::Accepted { match_index };
            Message::AppendReply(AppendReply { term, result })
        }
        _ => {
            let prev_log = log_id(words[3]);
            let commit = LogIndex(words[4].parse().unwrap());
            let terms: Vec<_> =
                words.get(5).map(|list| list.split(',').collect()).unwrap_or_default();
            let entries = (terms.iter().zip(prev_log.index.get() + 1..))
                .map(|(term, index)| common::entry(term.parse().unwrap(), index))
                .collect();
            let entries = EntryBatch::from_entries(entries).unwrap();
            Message::AppendEntries(AppendEntries { term, prev_log, commit, entries })
        }
    }
}

impl Player {
    fn config(&self, id: u64, voters: u64) -> Config {
        let mut config = config(id, voters);
        for (who, name, value) in &self.settings {
            if who != "*" && *who != id.to_string() {
                continue;
            }
            match name.as_str() {
                "inflight_messages_max" => config.inflight_messages_max = *value,
                "inflight_bytes_max" => config.inflight_bytes_max = *value,
                "append_bytes_max" => config.append_bytes_max = *value,
                "tail_bytes_max" => config.tail_bytes_max = *value,
                "uncommitted_bytes_max" => config.uncommitted_bytes_max = *value,
                other => panic!("no setting {other}"),
            }
        }
        config
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let count = |at: usize| words.get(at).map_or(usize::MAX, |word| word.parse().unwrap());
        let id = || node(words[1]);
        let cluster = &mut self.cluster;
        match words[0] {
            "set" => {
                let value = words[3].parse().unwrap();
                self.settings.push((words[1].to_owned(), words[2].to_owned(), value));
            }
            "cluster" => {
                let voters = words[1].parse().unwrap();
                for id in 1..=voters {
                    let config = self.config(id, voters);
                    self.cluster.add(config, Image::default());
                }
            }
            "node" => {
                let number = |name: &str| {
                    let at = words.iter().position(|word| *word == name)?;
                    words[at + 1].parse::<u64>().ok()
                };
                let log: Vec<u64> = match words.iter().position(|word| *word == "log") {
                    Some(at) => words[at + 1].split(',').map(|t| t.parse().unwrap()).collect(),
                    None => Vec::new(),
                };
                let term = Term(number("term").unwrap_or(0));
                let hard_state = HardState { term, ..HardState::default() };
                let config = self.config(id().get(), number("of").unwrap());
                self.cluster.add(config, Image::of(hard_state, log_of(&log)));
            }
            "campaign" => cluster.step(id(), Event::Campaign),
            "resign" => cluster.step(id(), Event::Resign),
            "stand" => cluster.step(id(), Event::Stand),
            "propose" => {
                let raft = cluster.nodes.get_mut(&id()).unwrap().raft.as_mut().unwrap();
                let mut commands = words[2..].iter().map(|word| common::command(word)).collect();
                match raft.propose(&mut commands) {
                    Ok(range) => {
                        return format!(
                            "{}..={} of term {}\n",
                            range.first, range.last, range.term
                        );
                    }
                    Err(error) => return format!("{error}\n"),
                }
            }
            "pass" => cluster.pass(words[1].parse().unwrap(), words.get(2) == Some(&"settle")),
            "ready" => {
                cluster.collect(id());
            }
            "durable" => {
                cluster.sync(id(), count(2));
            }
            "deliver" => {
                let wanted = link(words.get(1).unwrap_or(&"*->*"));
                let left = std::cell::Cell::new(count(2));
                cluster.deliver(|packet| {
                    let yes = wanted(packet) && left.get() > 0;
                    left.set(left.get() - usize::from(yes));
                    yes
                });
            }
            "drop" => {
                let wanted = link(words[1]);
                let mut left = count(2);
                let mut text = String::new();
                cluster.network.retain(|packet| {
                    if !wanted(packet) || left == 0 {
                        return true;
                    }
                    left -= 1;
                    let what = print::message(&packet.message);
                    let _ = writeln!(text, "{}->{} dropped: {what}", packet.from, packet.to);
                    false
                });
                return text;
            }
            "cut" => {
                for one in nodes(words[1]) {
                    for other in nodes(words[2]) {
                        cluster.cut.insert((one, other));
                        cluster.cut.insert((other, one));
                    }
                }
            }
            "lose" => {
                let (from, to) = ends(words[1]);
                cluster.cut.insert((from, to));
            }
            "append" | "ack" | "vote" | "pre-vote" | "heartbeat" => {
                let (from, to) = ends(words[1]);
                let packet = common::Packet { from, to, message: message(&words) };
                cluster.network.push(packet);
                cluster.deliver_at(cluster.network.len() - 1);
            }
            "heal" => cluster.cut.clear(),
            "settle" => match words.get(1) {
                Some(among) => cluster.settle_among(&nodes(among)),
                None => cluster.settle(),
            },
            "apply" => {
                cluster.apply(id());
            }
            "fetched" => {
                cluster.answer_fetch(id());
            }
            "fetch-failed" => {
                cluster.fetch_failed(id());
            }
            "unreachable" => cluster.step(id(), Event::Unreachable(node(words[2]))),
            "crash" => cluster.crash(id(), words.get(2).map_or(0, |word| word.parse().unwrap())),
            "restart" => cluster.restart(id()),
            "quietly" => {
                let inner = line.trim_start().strip_prefix("quietly").unwrap().trim();
                let _ = self.run(inner);
                self.cluster.trace.clear();
                return String::new();
            }
            "status" => {}
            "logs" => {
                let mut text = String::new();
                for id in cluster.ids() {
                    let terms: Vec<_> = cluster.terms(id).iter().map(u64::to_string).collect();
                    let _ = writeln!(text, "{id}: {}", terms.join(","));
                }
                return text;
            }
            "net" => {
                let mut text = String::new();
                for packet in &cluster.network {
                    let what = print::message(&packet.message);
                    let _ = writeln!(text, "{}->{} {what}", packet.from, packet.to);
                }
                return text;
            }
            other => panic!("no command {other}"),
        }
        let mut text = std::mem::take(&mut self.cluster.trace);
        if words[0] == "status" {
            for id in self.cluster.ids() {
                let Some(status) = self.cluster.node(id).status() else {
                    let _ = writeln!(text, "{id}: down");
                    continue;
                };
                let role = match status.role {
                    Role::Follower => "follower",
                    Role::PreCandidate => "pre-candidate",
                    Role::Candidate => "candidate",
                    Role::Leader => "leader",
                };
                let leader = status.leader.map_or("-".to_owned(), |id| id.to_string());
                let _ = writeln!(
                    text,
                    "{id}: {role} term {} leader {leader} last {} durable {} commit {} applied {}",
                    status.term,
                    print::id(status.last_log),
                    status.durable,
                    status.commit,
                    status.applied
                );
            }
        }
        text
    }
}

/// Plays one transcript and returns it as it would be written now.
pub(crate) fn play(text: &str) -> String {
    let mut player = Player { cluster: Cluster::empty(), settings: Vec::new() };
    let mut played = String::new();
    for block in text.split("\n\n") {
        let block = block.trim_matches('\n');
        if block.is_empty() {
            continue;
        }
        let mut commands = Vec::new();
        let mut has_output = false;
        for line in block.lines() {
            if line == "----" {
                has_output = true;
                break;
            }
            commands.push(line);
        }
        if !has_output {
            assert!(
                commands.iter().all(|line| line.starts_with('#')),
                "a block is commands and `----`, or all comment: {block}"
            );
            let _ = writeln!(played, "{block}\n");
            continue;
        }
        let mut output = String::new();
        for line in &commands {
            let _ = writeln!(played, "{line}");
            if !line.starts_with('#') {
                output.push_str(&player.run(line));
            }
        }
        let _ = writeln!(played, "----\n{output}");
    }
    played.truncate(played.trim_end().len());
    played.push('\n');
    played
}

#[test]
fn transcripts_are_what_happens() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let rewrites = std::env::var_os("LOGDRIVE_REWRITE").is_some();
    let mut files: Vec<_> = (std::fs::read_dir(&folder).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "only {} transcripts", files.len());
    let mut differs = Vec::new();
    for path in files {
        let expected = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(expected.starts_with("# "), "{name} does not say what it replays");
        let played = play(&expected);
        if rewrites {
            std::fs::write(&path, played).unwrap();
        } else if played != expected {
            let line = expected.lines().zip(played.lines()).position(|(a, b)| a != b);
            println!("---- {name}, from line {:?}, is now:\n{played}", line.map(|line| line + 1));
            differs.push(name);
        }
    }
    assert!(differs.is_empty(), "not what is written down: {differs:?}");
}
