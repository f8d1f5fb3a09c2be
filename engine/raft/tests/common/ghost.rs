//! The invariants of every run, judged from outside (RULES.md has them; their numbers stand in brackets).

use super::{Image, Node};
use logdrive_raft::{
    AppendResult, Entry, EntryKind, HardState, LogId, LogIndex, LogRange, Message, NodeId,
    Outgoing, Raft, Role, Status, Term, Write,
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that happened in a run and that nothing later may contradict.
#[derive(Debug, Default)]
pub(crate) struct Ghost {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Every entry ever written, with the term of the entry before it: two entries of the same index and term must have
    /// the same term before them.
    entries: BTreeMap<(LogIndex, Term), (Entry, Term)>,
    /// The entry that was committed at each index, and the term in which a replica first knew.
    pub(crate) committed: Vec<(Entry, Term)>,
    applied: BTreeMap<NodeId, LogIndex>,
    seen: BTreeMap<NodeId, Status>,
    proposed: BTreeMap<(LogIndex, Term), String>,
    /// Replicas that have said that they are marked.
    marked: BTreeSet<NodeId>,
    /// The base of each leader's log and the terms behind it, as far as it was handed to its disk.
    leader_logs: BTreeMap<Term, (LogIndex, Vec<Term>)>,
}

impl Ghost {
    pub(crate) fn on_proposed(&mut self, range: LogRange, payload: &str) {
        self.proposed.insert((range.first, range.term), payload.to_owned());
    }

    /// Takes note of a log that a replica starts with: the entries up to its saved commit index are committed.
    pub(crate) fn on_image(&mut self, image: &Image) {
        let HardState { term, commit, .. } = image.hard_state;
        for entry in &image.entries {
            self.on_entry(image, entry);
            let is_news = entry.index.get() > self.committed.len() as u64;
            if is_news && entry.index <= commit {
                self.committed.push((entry.clone(), term));
            }
        }
    }

    /// [7], [12] after a crash: a replica calls committed what was committed, and nothing else.
    pub(crate) fn on_recovered(&self, id: NodeId, durable: &Image, commit: LogIndex) {
        assert!(
            commit <= durable.last(),
            "[12] {id} recovers commit {commit:?} past its log's end"
        );
        assert!(commit >= durable.base.index, "{id} recovers commit {commit:?} before its base");
        assert_eq!(self.committed_at(durable.base.index).0, durable.base, "[7] {id}'s base");
        for entry in durable.entries.iter().take_while(|entry| entry.index <= commit) {
            let at = usize::try_from(entry.index.get()).unwrap() - 1;
            let committed = self.committed.get(at).map(|(entry, _)| entry);
            assert_eq!(Some(entry), committed, "[7] {id} recovers commit {commit:?}");
        }
    }

    /// The committed entry at `index`, and the term in which a replica first knew that it is.
    pub(crate) fn committed_at(&self, index: LogIndex) -> (LogId, Term) {
        let Some(at) = usize::try_from(index.get()).unwrap().checked_sub(1) else {
            return (LogId::ZERO, Term::ZERO);
        };
        let (entry, term) = self.committed.get(at).expect("it was never committed");
        (entry.id(), *term)
    }

    /// The machine of `id` begins with the state at `kept`.
    pub(crate) fn on_opened(&mut self, id: NodeId, kept: LogIndex) {
        self.applied.insert(id, kept);
    }

    /// [24] the machine of `id` goes on from a snapshot, which is the state at a committed entry.
    pub(crate) fn on_installed(&mut self, id: NodeId, last: LogId) {
        assert_eq!(
            self.committed_at(last.index).0,
            last,
            "[24] {id} installs what was not committed"
        );
        self.applied.insert(id, last.index);
    }

    /// [4] log matching, [13] no holes.
    fn on_entry(&mut self, image: &Image, entry: &Entry) {
        let before = image.term_at(entry.index.prev()).expect("no hole");
        let key = (entry.index, entry.term);
        let known = self.entries.entry(key).or_insert_with(|| (entry.clone(), before));
        assert_eq!(*known, (entry.clone(), before), "two entries {key:?}");
        if let Some(payload) = self.proposed.get(&key) {
            assert_eq!(entry.payload, payload.as_bytes(), "{key:?} is not what was proposed");
        }
    }

    pub(crate) fn on_write(&mut self, id: NodeId, memory: &Image, write: &Write, status: &Status) {
        if let Some(first) = write.entries.first()
            && status.role == Role::Leader
        {
            assert_eq!(first.index, memory.last().next(), "[3] leader {id} rewrites its log");
        }
        let mut released = memory.clone();
        released.release(write);
        let mut after = memory.clone();
        after.write(write);
        assert_eq!(after.last(), status.last_log.index, "{id}'s write is not its log");
        if status.role == Role::Leader {
            let terms = after.entries.iter().map(|entry| entry.term).collect();
            self.leader_logs.insert(status.term, (after.base.index, terms));
        }
        for entry in write.entries.as_slice() {
            assert!(entry.term <= after.hard_state.term, "rule 12: {entry:?} before its term");
            self.on_entry(&after, entry);
        }
        if let Some(saved) = write.hard_state {
            // The log may land this hard state before its own entries, or before entries of an earlier write.
            let first = write.entries.first().map_or(released.last().next(), |entry| entry.index);
            assert!(saved.commit < first, "[12] {id} saves {saved:?} before entry {first:?}");
            assert_eq!(saved.term, status.term, "{id} saves another term than its own");
            assert!(saved.term >= memory.hard_state.term, "[11] {id}'s term falls");
        }
    }

    pub(crate) fn on_crash(&mut self, id: NodeId) {
        self.seen.remove(&id);
        self.applied.remove(&id);
    }

    /// A message leaves `id` at once, whatever is durable.
    pub(crate) fn on_message(&self, id: NodeId, out: &Outgoing) {
        let is_promise = match &out.message {
            Message::Marked(_) | Message::TermStated(_) => true,
            Message::VoteReply(m) => m.granted,
            Message::AppendReply(m) => !matches!(m.result, AppendResult::Rejected { .. }),
            _ => false,
        };
        assert!(!is_promise, "[9] {id} does not wait for its disk: {out:?}");
    }

    /// A promise leaves `id`, whose disk is `durable`.
    pub(crate) fn on_promise(&mut self, id: NodeId, durable: &Image, out: &Outgoing) {
        let saved = durable.hard_state;
        let mut on_vote = |term: Term, candidate: NodeId| {
            assert!(!saved.marked, "[18] {id} votes in {term:?}, and is marked");
            let voted = *self.votes.entry((id, term)).or_insert(candidate);
            assert_eq!(voted, candidate, "[2] {id} votes twice in {term:?}");
            assert!(saved.term >= term, "[2] {id} votes in {term:?}, durable is {saved:?}");
            if saved.term == term {
                assert_eq!(saved.voted_for, Some(candidate), "[2] {id}'s vote is not durable");
            }
        };
        match &out.message {
            Message::RequestVote(m) => on_vote(m.term, id),
            Message::VoteReply(m) => {
                assert!(m.granted, "a refusal need not wait");
                on_vote(m.term, out.to);
            }
            Message::AppendReply(m) => {
                let match_index = match m.result {
                    AppendResult::Accepted { match_index } => {
                        assert!(!saved.marked, "[18] {id} acknowledges, and is marked: {m:?}");
                        match_index
                    }
                    AppendResult::Taken { match_index } => {
                        // It may be readmitted in the same write.
                        let was_marked = saved.marked || self.marked.contains(&id);
                        assert!(was_marked, "{id} was never marked durably: {m:?}");
                        match_index
                    }
                    AppendResult::Rejected { .. } => panic!("a refusal need not wait: {m:?}"),
                };
                assert!(saved.term >= m.term, "[9] {id} acknowledges {m:?}, durable is {saved:?}");
                assert!(match_index <= durable.last(), "[9] {id} acknowledges past durable: {m:?}");
                // A test that makes up messages may have leaders that do not exist.
                if let Some((base, terms)) = self.leader_logs.get(&m.term) {
                    let leaders = match match_index.get().checked_sub(base.get() + 1) {
                        Some(at) => terms.get(usize::try_from(at).unwrap()).copied(),
                        None => Some(self.committed_at(match_index).0.term),
                    };
                    let own = match match_index < durable.base.index {
                        true => Some(self.committed_at(match_index).0.term),
                        false => durable.term_at(match_index),
                    };
                    assert_eq!(own, leaders, "[9] {id} acknowledges another entry: {m:?}");
                }
            }
            Message::Marked(m) => {
                assert!(saved.marked, "{id} is not marked durably: {m:?}");
                self.marked.insert(id);
            }
            Message::TermStated(m) => {
                assert!(saved.term >= m.term, "{id} states {m:?}, durable is {saved:?}");
            }
            other => panic!("no promise: {other:?}"),
        }
    }

    /// [6] state machine safety.
    pub(crate) fn on_applied(&mut self, id: NodeId, entry: &Entry) {
        let at = usize::try_from(entry.index.get()).unwrap();
        assert!(at <= self.committed.len(), "[6] {id} applies {entry:?}, which nobody committed");
        assert_eq!(*entry, self.committed[at - 1].0, "[6] {id} applies something else");
        let applied = self.applied.entry(id).or_default();
        assert_eq!(entry.index, applied.next(), "[6] {id} applies out of order");
        *applied = entry.index;
    }

    /// Checks what an event did to a replica.
    pub(crate) fn after_event(&mut self, id: NodeId, nodes: &BTreeMap<NodeId, Node>) {
        let node = &nodes[&id];
        let Some(status) = node.status() else { return };
        let before = self.seen.insert(id, status);
        assert!(status.applied <= status.applying, "[12] {status:?}");
        let base = node.raft.as_ref().map_or(LogId::ZERO, Raft::base);
        assert!(base.index <= status.applied, "base {base:?} {status:?}");
        let durable = status.durable.max(base.index);
        assert!(status.applying <= status.commit.min(durable), "[12] {status:?}");
        assert!(status.commit <= status.last_log.index, "[12] {status:?}");
        assert!(status.durable <= status.last_log.index, "[12] {status:?}");
        let Some(before) = before else {
            self.on_commit(id, status.commit, &status, nodes, false);
            return;
        };
        assert!(before.term <= status.term, "[11] {before:?} {status:?}");
        assert!(before.commit <= status.commit, "[11] {before:?} {status:?}");
        assert!(before.applying <= status.applying, "[11] {before:?} {status:?}");
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(id);
            assert_eq!(leader, id, "[1] two leaders in {:?}", status.term);
        }
        if status.role == Role::Leader && before.role != Role::Leader {
            self.on_elected(id, node, status.term);
        }
        if status.commit > before.commit {
            let by_count = status.role == Role::Leader && before.role == Role::Leader;
            self.on_commit(id, status.commit, &status, nodes, by_count);
        }
        self.check_durable(id, node, &status);
    }

    /// [5] leader completeness. A leader's log at its election is what it has handed to its disk, because
    /// all of it was handed out before its own vote was durable.
    fn on_elected(&self, id: NodeId, node: &Node, term: Term) {
        let saved = node.durable.hard_state;
        assert_eq!((saved.term, saved.voted_for), (term, Some(id)), "rule 11: not durably its own");
        let memory = node.memory();
        for (entry, committed_in) in &self.committed {
            if *committed_in < term {
                assert!(memory.holds(entry), "[5] leader {id} of {term:?} lacks {entry:?}");
            }
        }
    }

    /// [7] what is committed stays, [8] and was on a majority's disks when a leader counted it.
    fn on_commit(
        &mut self,
        id: NodeId,
        commit: LogIndex,
        status: &Status,
        nodes: &BTreeMap<NodeId, Node>,
        by_count: bool,
    ) {
        let memory = nodes[&id].memory();
        if by_count {
            let entry = memory.entry(commit).expect("committed before it was written").clone();
            assert_eq!(entry.term, status.term, "[8] {id} commits an entry of an older term");
            let holders = nodes.values().filter(|n| n.durable.holds(&entry));
            assert!(holders.count() * 2 > nodes.len(), "[8] {commit:?} is not on a majority");
            let own = nodes[&id].durable.entry(commit) == Some(&entry);
            assert!(nodes.len() > 1 || own, "[8] M12: committed before its own write");
        }
        for index in (memory.base.index.get() + 1..=commit.get()).map(LogIndex) {
            // A follower may learn of a commit in the append that brings the entry; such an entry is
            // checked when it is handed to the disk.
            let Some(entry) = memory.entry(index) else { break };
            let at = usize::try_from(index.get()).unwrap() - 1;
            match self.committed.get(at) {
                Some((known, _)) if known.term == entry.term => {
                    assert_eq!(known, entry, "[7] {index:?} differs");
                }
                // Entries in memory may already be replaced by entries that are not handed out yet.
                Some((known, _)) => assert!(
                    index > status.durable || nodes[&id].raft.is_none(),
                    "[7] {id} has {entry:?} for {known:?}"
                ),
                None if by_count => self.committed.push((entry.clone(), status.term)),
                None => break,
            }
        }
    }

    /// Every entry that a replica calls durable is on its disk.
    fn check_durable(&self, id: NodeId, node: &Node, status: &Status) {
        assert!(
            status.durable <= node.durable.last(),
            "{id} says {:?} is durable, its disk ends at {:?}",
            status.durable,
            node.durable.last()
        );
        if node.raft.is_none() {
            return;
        }
        // [7], on the disk: what is committed and durable is what was committed.
        let upto = status.commit.min(status.durable).get();
        for index in (1..=upto).rev().take(3).map(LogIndex) {
            let at = usize::try_from(index.get()).unwrap() - 1;
            if let Some((known, _)) = self.committed.get(at) {
                assert!(node.durable.holds(known), "[7] {id}'s disk lacks {known:?}");
            }
        }
    }

    /// How many commands of those proposed are committed.
    pub(crate) fn commands_committed(&self) -> usize {
        self.committed.iter().filter(|(entry, _)| entry.kind == EntryKind::Command).count()
    }
}
