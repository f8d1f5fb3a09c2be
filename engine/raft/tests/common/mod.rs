//! A cluster of replicas whose disks and network do only what a test tells them.
//!
//! Nothing happens by itself: a write is durable when [`Cluster::sync`] says so, a message arrives
//! when [`Cluster::deliver`] says so. Everything that happens is checked by [`ghost`] and told in
//! [`Cluster::trace`].
//!
//! A write need not land whole. The log puts a write's hard state before its entries, closes a batch
//! wherever one is full, and loses all batches behind some place when the power fails. So a crash
//! leaves whole writes and then, of the next one, nothing, its hard state, or its hard state and any
//! of its first entries ([`Cluster::crash_within`]). A release lands with its hard state.
//!
//! A state machine's state is kept durably when [`Cluster::keep`] says so, and a restarted machine begins there. A
//! snapshot that is installed becomes the kept state with the write that tells the disk of it.

#![allow(dead_code)] // each test file uses its part

pub(crate) mod ghost;
pub(crate) mod print;

use bytes::Bytes;
use ghost::Ghost;
use logdrive_raft::{
    Command, Config, Durable, Entry, EntryBatch, EntryKind, Event, Fetch, FetchFor, GroupId,
    HardState, InstallError, Installed, LogId, LogIndex, LogRange, Message, NodeId, Offer,
    Promises, ProposeError, Raft, Ready, Restored, Role, Snapshot, Status, Term, TermRun, Ticks,
    Write, WriteId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

/// The group of every cluster.
pub(crate) const GROUP: GroupId = GroupId(7);

/// The content of a replica's disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) hard_state: HardState,
    /// The last entry that the log has let go of.
    pub(crate) base: LogId,
    /// The entries behind the base.
    pub(crate) entries: Vec<Entry>,
}

impl Image {
    /// A log of which nothing was let go of.
    pub(crate) fn of(hard_state: HardState, entries: Vec<Entry>) -> Self {
        Self { hard_state, base: LogId::ZERO, entries }
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.base.index.forward(self.entries.len() as u64)
    }

    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let behind = index.get().checked_sub(self.base.index.get())?;
        self.entries.get(usize::try_from(behind).unwrap().checked_sub(1)?)
    }

    /// The term at the base or behind it.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        match index == self.base.index {
            true => Some(self.base.term),
            false => self.entry(index).map(|entry| entry.term),
        }
    }

    /// True if `entry` is in the log, or was let go of.
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        entry.index <= self.base.index || self.entry(entry.index) == Some(entry)
    }

    /// Cuts the log behind `last`.
    fn cut(&mut self, last: LogIndex) {
        let kept = last.get().saturating_sub(self.base.index.get());
        self.entries.truncate(usize::try_from(kept).unwrap());
    }

    /// Only the release of `write` lands: it comes before everything else.
    pub(crate) fn release(&mut self, write: &Write) {
        let Some(release) = write.release.as_ref() else { return };
        let base = release.base;
        if base.index <= self.base.index {
            return;
        }
        assert!(release.last >= base.index, "the log ends before its base: {release:?}");
        assert!(write.hard_state.is_some(), "a base without a hard state: {release:?}");
        self.cut(release.last);
        self.entries.retain(|entry| entry.index > base.index);
        self.base = base;
    }

    pub(crate) fn write(&mut self, write: &Write) {
        self.release(write);
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            assert!(
                first.index <= self.last().next(),
                "a hole before {:?} after {:?}",
                first.index,
                self.last()
            );
            self.cut(first.index.prev());
            self.entries.extend(write.entries.as_slice().iter().cloned());
        }
    }

    /// Only the hard state of `write` and the first `entries` of its entries land.
    pub(crate) fn write_part(&mut self, write: &Write, entries: usize) {
        let landed = write.entries.as_slice().iter().take(entries).cloned().collect();
        let entries = EntryBatch::from_entries(landed).expect("they were contiguous");
        let release = write.release.clone();
        let part = Write { id: write.id, release, hard_state: write.hard_state, entries };
        self.write(&part);
    }

    fn restored(&self, applied: LogIndex) -> Restored {
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|run| run.term < entry.term) {
                runs.push(TermRun { first: entry.index, term: entry.term });
            }
        }
        // As the log recovers it: a saved commit index is cut to the log's end.
        let commit = self.hard_state.commit.min(self.last());
        let hard_state = HardState { commit, ..self.hard_state };
        Restored { hard_state, base: self.base, runs, last: self.last(), applied }
    }
}

/// One replica with its disk and its state machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    /// The content that a crash leaves.
    pub(crate) durable: Image,
    /// The writes that are handed to the disk and not durable.
    pub(crate) writes: VecDeque<Write>,
    pub(crate) durable_upto: WriteId,
    pub(crate) promises: VecDeque<Promises>,
    pub(crate) applies: VecDeque<EntryBatch>,
    pub(crate) fetches: VecDeque<Fetch>,
    /// Fetches read from the disk and not yet answered.
    pub(crate) reads: VecDeque<(FetchFor, EntryBatch)>,
    /// Peers that the host was told to bring a snapshot.
    pub(crate) offers: VecDeque<Offer>,
    /// The last entry that the state machine has applied; a crash takes it back to `kept`.
    pub(crate) applied: LogIndex,
    /// The last entry of the state that is kept durably.
    pub(crate) kept: LogIndex,
    /// Snapshots that are installed and whose writes are not durable: each is there, and is no kept state yet.
    pub(crate) staged: BTreeSet<LogIndex>,
}

impl Node {
    /// The log in memory, as far as it was handed out.
    pub(crate) fn memory(&self) -> Image {
        let mut image = self.durable.clone();
        self.writes.iter().for_each(|write| image.write(write));
        image
    }

    pub(crate) fn status(&self) -> Option<Status> {
        self.raft.as_ref().map(Raft::status)
    }

    /// `write` reaches the disk: all of it, or its beginning with that many entries.
    fn land(&mut self, write: &Write, entries: Option<usize>) {
        match entries {
            Some(entries) => self.durable.write_part(write, entries),
            None => self.durable.write(write),
        }
        if let Some(release) = &write.release {
            assert_eq!(release.voters, self.config.voters, "a base without its members");
            if self.staged.contains(&release.base.index) {
                self.kept = self.kept.max(release.base.index);
                self.staged.retain(|snapshot| *snapshot > release.base.index);
            }
            let (base, kept) = (release.base, self.kept);
            assert!(
                base.index <= kept,
                "released up to {base:?}, and the state is kept at {kept:?}"
            );
        }
    }
}

/// A snapshot on its way.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    /// The leader that offered it.
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) snapshot: Snapshot,
}

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) network: Vec<Packet>,
    /// Snapshots under way; nothing but a test moves them, or [`Cluster::bring`].
    pub(crate) transfers: Vec<Transfer>,
    /// Links on which everything is lost, from and to.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    pub(crate) now: Ticks,
    pub(crate) ghost: Ghost,
    pub(crate) trace: String,
}

/// Settings whose bounds are large enough for ordinary tests.
pub(crate) fn config(id: u64, voters: u64) -> Config {
    Config {
        group: GROUP,
        id: NodeId(id),
        voters: (1..=voters).map(NodeId).collect(),
        election_ticks: 10,
        heartbeat_ticks: 3,
        seed: 42,
        inflight_messages_max: 8,
        inflight_bytes_max: 1 << 20,
        append_bytes_max: 1 << 16,
        tail_bytes_max: 1 << 20,
        uncommitted_bytes_max: 1 << 20,
    }
}

pub(crate) fn command(payload: &str) -> Command {
    Command {
        checksum: u32::try_from(payload.len()).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

/// An entry whose payload names its term and index.
pub(crate) fn entry(term: u64, index: u64) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Command,
        checksum: 0,
        payload: Bytes::from(format!("{term}/{index}")),
    }
}

/// A log with entries of these terms.
pub(crate) fn log_of(terms: &[u64]) -> Vec<Entry> {
    terms.iter().zip(1..).map(|(&term, index)| entry(term, index)).collect()
}

impl Cluster {
    /// New replicas 1 to `count`.
    pub(crate) fn new(count: u64) -> Self {
        let mut cluster = Self::empty();
        for id in 1..=count {
            cluster.add(config(id, count), Image::default());
        }
        cluster
    }

    pub(crate) fn empty() -> Self {
        Self {
            nodes: BTreeMap::new(),
            network: Vec::new(),
            transfers: Vec::new(),
            cut: BTreeSet::new(),
            now: Ticks(0),
            ghost: Ghost::default(),
            trace: String::new(),
        }
    }

    /// Three replicas, of which 1 leads in term 3 and has asked its disk for entries that 2 lacks.
    pub(crate) fn fetching() -> Self {
        let mut cluster = Self::empty();
        for id in 1..=3 {
            let hard_state = HardState { term: Term(2), ..HardState::default() };
            let terms: &[u64] = if id == 2 { &[1] } else { &[1, 2, 2] };
            cluster.add(config(id, 3), Image::of(hard_state, log_of(terms)));
        }
        cluster.step(n(1), Event::Campaign);
        while cluster.node(n(1)).fetches.iter().all(|fetch| fetch.purpose != FetchFor::Peer(n(2))) {
            for id in cluster.ids() {
                cluster.collect(id);
                cluster.sync(id, usize::MAX);
            }
            cluster.deliver(|_| true);
        }
        cluster.network.clear();
        cluster
    }

    /// A replica that starts with `image` on its disk.
    pub(crate) fn add(&mut self, config: Config, image: Image) {
        let id = config.id;
        self.ghost.on_image(&image);
        let node = Node {
            config,
            raft: None,
            durable: image,
            writes: VecDeque::new(),
            durable_upto: WriteId::ZERO,
            promises: VecDeque::new(),
            applies: VecDeque::new(),
            fetches: VecDeque::new(),
            reads: VecDeque::new(),
            offers: VecDeque::new(),
            applied: LogIndex::ZERO,
            kept: LogIndex::ZERO,
            staged: BTreeSet::new(),
        };
        self.nodes.insert(id, node);
        self.restart(id);
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn status(&self, id: NodeId) -> Status {
        self.node(id).status().expect("the replica is up")
    }

    pub(crate) fn role(&self, id: NodeId) -> Role {
        self.status(id).role
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The terms of a replica's log, durable or not.
    pub(crate) fn terms(&self, id: NodeId) -> Vec<u64> {
        self.node(id).memory().entries.iter().map(|entry| entry.term.get()).collect()
    }

    pub(crate) fn step(&mut self, id: NodeId, event: Event) {
        let now = self.now;
        if let Some(raft) = self.nodes.get_mut(&id).unwrap().raft.as_mut() {
            raft.step(now, event);
            self.ghost.after_event(id, &self.nodes);
        }
    }

    pub(crate) fn propose(&mut self, id: NodeId, payload: &str) -> Result<LogRange, ProposeError> {
        let raft = self.nodes.get_mut(&id).unwrap().raft.as_mut().expect("the replica is up");
        let range = raft.propose(&mut vec![command(payload)])?;
        self.ghost.on_proposed(range, payload);
        Ok(range)
    }

    /// Takes the work that a replica owes: messages go to the network, the rest waits in the node's queues.
    pub(crate) fn collect(&mut self, id: NodeId) -> bool {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(ready) = node.raft.as_mut().and_then(Raft::ready) else { return false };
        let _ = write!(self.trace, "{}", print::ready(id, &ready));
        let Ready { messages, write, promises, apply, fetch, offers } = ready;
        let status = node.status().expect("it is up");
        if let Some(write) = write {
            self.ghost.on_write(id, &node.memory(), &write, &status);
            node.writes.push_back(write);
        }
        let newest = node.writes.back().map_or(node.durable_upto, |write| write.id);
        if let Some(promises) = promises {
            assert_eq!(promises.after(), newest, "a promise waits for the newest write");
            node.promises.push_back(promises);
        }
        if !apply.is_empty() {
            node.applies.push_back(apply);
        }
        node.fetches.extend(fetch);
        node.offers.extend(offers);
        for out in messages {
            self.ghost.on_message(id, &out);
            self.network.push(Packet { from: id, to: out.to, message: out.message });
        }
        self.ghost.after_event(id, &self.nodes);
        self.release(id);
        true
    }

    /// Makes the oldest `count` writes of a replica durable, one by one, and releases the promises that waited.
    pub(crate) fn sync(&mut self, id: NodeId, count: usize) -> bool {
        let mut any = false;
        for _ in 0..count {
            let node = self.nodes.get_mut(&id).unwrap();
            let Some(write) = node.writes.pop_front() else { break };
            node.land(&write, None);
            node.durable_upto = write.id;
            let _ = writeln!(self.trace, "{id} durable w{}", write.id);
            self.step(id, Event::Durable(Durable::new(GROUP, write.id)));
            self.release(id);
            any = true;
        }
        any
    }

    fn release(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let durable = Durable::new(GROUP, node.durable_upto);
        while node.promises.front().is_some_and(|promises| durable.covers(promises.after())) {
            let promises = node.promises.pop_front().unwrap();
            for out in promises.release(&durable) {
                let _ = writeln!(self.trace, "{id} releases to {}", print::outgoing(&out));
                self.ghost.on_promise(id, &node.durable, &out);
                self.network.push(Packet { from: id, to: out.to, message: out.message });
            }
        }
    }

    /// Delivers packet `at`; over a cut link, or to a replica that is down, it is lost.
    pub(crate) fn deliver_at(&mut self, at: usize) {
        let Packet { from, to, message } = self.network.remove(at);
        let is_up = self.nodes.get(&to).is_some_and(|node| node.raft.is_some());
        let what = print::message(&message);
        if !is_up || self.cut.contains(&(from, to)) {
            let _ = writeln!(self.trace, "{from}->{to} lost: {what}");
            return;
        }
        let _ = writeln!(self.trace, "{from}->{to} {what}");
        self.step(to, Event::Message { from, message });
    }

    /// Delivers, in order, every packet now under way that `wanted` accepts.
    pub(crate) fn deliver(&mut self, wanted: impl Fn(&Packet) -> bool) -> bool {
        let mut any = false;
        let mut at = 0;
        for _ in 0..self.network.len() {
            if wanted(&self.network[at]) {
                self.deliver_at(at);
                any = true;
            } else {
                at += 1;
            }
        }
        any
    }

    /// Loses every packet that `unwanted` accepts.
    pub(crate) fn drop_packets(&mut self, unwanted: impl Fn(&Packet) -> bool) {
        self.network.retain(|packet| !unwanted(packet));
    }

    /// Applies everything a replica was handed.
    pub(crate) fn apply(&mut self, id: NodeId) -> bool {
        let mut any = false;
        while let Some(batch) = self.nodes.get_mut(&id).unwrap().applies.pop_front() {
            let node = self.nodes.get_mut(&id).unwrap();
            for entry in batch.as_slice() {
                assert_eq!(entry.index, node.applied.next(), "{id} applies out of order");
                self.ghost.on_applied(id, entry);
                node.applied = entry.index;
            }
            let applied = node.applied;
            let _ = writeln!(self.trace, "{id} applied {applied}");
            self.step(id, Event::Applied(applied));
            any = true;
        }
        any
    }

    /// Reads what a replica's oldest fetch wants from its durable log; the answer waits in `reads`.
    pub(crate) fn read_fetch(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(fetch) = node.fetches.pop_front() else { return };
        let mut entries = EntryBatch::new();
        let mut bytes = 0;
        for entry in node.durable.entries.iter().skip_while(|entry| entry.index < fetch.first) {
            if entries.is_empty() && entry.index > fetch.first {
                break; // The log has let go of the first one wanted.
            }
            let is_enough = bytes > 0 && bytes + entry.payload.len() > fetch.bytes_max;
            if entry.index > fetch.last || is_enough {
                break;
            }
            bytes += entry.cost_bytes();
            entries.push(entry.clone());
        }
        node.reads.push_back((fetch.purpose, entries));
    }

    /// Gives a replica the answer to its oldest fetch: the entries as they stood when they were read.
    pub(crate) fn answer_fetch(&mut self, id: NodeId) -> bool {
        if self.node(id).reads.is_empty() {
            self.read_fetch(id);
        }
        let node = self.nodes.get_mut(&id).unwrap();
        let Some((purpose, entries)) = node.reads.pop_front() else { return false };
        let first = entries.first().map_or(LogIndex::ZERO, |entry| entry.index);
        let last = entries.last().map_or(LogIndex::ZERO, |entry| entry.index);
        let whom = print::purpose(purpose);
        let _ = writeln!(self.trace, "{id} fetched {first}..={last} for {whom}");
        self.step(id, Event::Fetched { purpose, entries });
        true
    }

    /// Lets everything happen among the replicas `among`, again and again, until nothing is left to happen.
    pub(crate) fn settle_among(&mut self, among: &[NodeId]) {
        for _ in 0..10_000 {
            let mut any = false;
            for &id in among {
                any |= self.collect(id);
                any |= self.sync(id, usize::MAX);
                any |= self.apply(id);
                any |= self.answer_fetch(id);
                any |= self.bring(id, among);
            }
            any |= self.deliver(|p| among.contains(&p.from) && among.contains(&p.to));
            if !any {
                return;
            }
        }
        panic!("the cluster does not come to rest:\n{}", self.trace);
    }

    pub(crate) fn settle(&mut self) {
        self.settle_among(&self.ids());
    }

    /// As [`Cluster::settle`], but all appends with entries are lost.
    pub(crate) fn settle_without_appends(&mut self) {
        let has_entries = |p: &Packet| matches!(&p.message, Message::AppendEntries(m) if m.entries.first().is_some());
        loop {
            let mut any = false;
            for id in self.ids() {
                any |= self.collect(id);
                any |= self.sync(id, usize::MAX);
            }
            self.drop_packets(has_entries);
            if !any & !self.deliver(|_| true) {
                return;
            }
        }
    }

    /// Lets `ticks` pass, one at a time, and tells the replicas whose deadline has come. If `settles`, everything
    /// that follows happens after each tick.
    pub(crate) fn pass(&mut self, ticks: u64, settles: bool) {
        for _ in 0..ticks {
            self.now = self.now.after(1);
            for id in self.ids() {
                let is_due =
                    (self.node(id).raft.as_ref()).is_some_and(|r| r.deadline() <= self.now);
                if is_due {
                    let _ = writeln!(self.trace, "{id} tick {}", self.now);
                    self.step(id, Event::Tick);
                }
            }
            if settles {
                self.settle();
            }
        }
    }

    /// Makes `id` the leader, with every message delivered.
    pub(crate) fn elect(&mut self, id: NodeId) {
        self.step(id, Event::Campaign);
        self.settle();
        assert_eq!(self.role(id), Role::Leader, "{id} did not win:\n{}", self.trace);
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |n: &Node| n.status().is_some_and(|status| status.role == Role::Leader);
        (self.nodes.iter())
            .filter(|(_, node)| leads(node))
            .max_by_key(|(_, node)| node.status().unwrap().term)
            .map(|(id, _)| *id)
    }

    /// The replica dies. Of its writes that are not reported durable, the oldest `kept` are on its disk all the same.
    pub(crate) fn crash(&mut self, id: NodeId, kept: usize) {
        self.crash_within(id, kept, None);
    }

    /// As [`Cluster::crash`]; with `part`, the hard state of the next write and that many of its entries are on
    /// the disk too.
    pub(crate) fn crash_within(&mut self, id: NodeId, kept: usize, part: Option<usize>) {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut writes = std::mem::take(&mut node.writes).into_iter();
        for write in writes.by_ref().take(kept) {
            node.land(&write, None);
        }
        if let (Some(entries), Some(write)) = (part, writes.next()) {
            node.land(&write, Some(entries));
        }
        node.raft = None;
        node.offers.clear();
        node.staged.clear();
        node.promises.clear();
        node.applies.clear();
        node.fetches.clear();
        node.reads.clear();
        node.durable_upto = WriteId::ZERO;
        self.ghost.on_crash(id);
    }

    pub(crate) fn restart(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        assert!(node.raft.is_none(), "{id} is up");
        node.applied = node.kept;
        let restored = node.durable.restored(node.kept);
        self.ghost.on_recovered(id, &node.durable, restored.hard_state.commit);
        self.ghost.on_opened(id, node.kept);
        node.raft = Some(Raft::new(node.config.clone(), restored, now).unwrap());
        self.ghost.after_event(id, &self.nodes);
    }

    /// Cuts every link between the two sides, both ways.
    pub(crate) fn partition(&mut self, one: &[u64], other: &[u64]) {
        for &a in one {
            for &b in other {
                self.cut.insert((NodeId(a), NodeId(b)));
                self.cut.insert((NodeId(b), NodeId(a)));
            }
        }
    }

    /// The state of a replica's machine is kept durably as it is now, unless it goes on from a snapshot that a crash would
    /// take from the log.
    pub(crate) fn keep(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.raft.is_some() && node.staged.is_empty() {
            node.kept = node.kept.max(node.applied);
        }
    }

    /// The host lets a replica's log go up to `to`, as far as the state is kept.
    pub(crate) fn release_log(&mut self, id: NodeId, to: u64) {
        let kept = self.node(id).kept;
        self.step(id, Event::Release { to: LogIndex(to), kept });
    }

    /// The state that `source` keeps, as a snapshot that the leader `from` offers.
    pub(crate) fn snapshot(&self, source: NodeId, from: NodeId) -> Snapshot {
        let node = self.node(source);
        let (last, _) = self.ghost.committed_at(node.kept);
        let term = self.status(from).term;
        Snapshot { last, voters: node.config.voters.clone(), term }
    }

    /// The host of `id` has all of `snapshot`.
    pub(crate) fn install(
        &mut self,
        id: NodeId,
        snapshot: Snapshot,
    ) -> Result<Installed, InstallError> {
        let last = snapshot.last;
        let node = self.nodes.get_mut(&id).unwrap();
        let raft = node.raft.as_mut().expect("the replica is up");
        let before = raft.status();
        let has_it = raft.term_at(last.index) == Ok(last.term);
        let installed = raft.install(snapshot);
        let after = raft.status();
        let _ = writeln!(self.trace, "{id} installs {}: {installed:?}", print::id(last));
        match installed {
            Ok(Installed::Taken { first, last: passed }) => {
                assert_eq!((first, passed), (before.applied.next(), last.index));
                // Paper figure 13.
                let log = if has_it { before.last_log } else { last };
                assert_eq!((raft.base(), after.last_log), (last, log), "{id} installs {last:?}");
                node.staged.insert(last.index);
                node.applied = last.index;
                node.applies.clear();
                self.ghost.on_installed(id, last);
            }
            _ => assert_eq!((after.commit, after.last_log), (before.commit, before.last_log)),
        }
        assert!(after.term >= before.term);
        self.ghost.after_event(id, &self.nodes);
        installed
    }

    /// Brings peers among `among` the snapshots that `id` offers.
    pub(crate) fn bring(&mut self, id: NodeId, among: &[NodeId]) -> bool {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(at) = node.offers.iter().position(|offer| among.contains(&offer.peer)) else {
            return false;
        };
        let Offer { peer, least } = node.offers.remove(at).expect("it is there");
        let _ = writeln!(self.trace, "{id} offers {peer} a snapshot of {least} or later");
        let is_cut = self.cut.contains(&(id, peer));
        if !is_cut && self.node(peer).raft.is_some() {
            let snapshot = self.snapshot(id, id);
            assert!(snapshot.last.index >= least, "{id} has only {snapshot:?}");
            let _ = self.install(peer, snapshot);
        }
        self.step(id, Event::TransferEnded(peer));
        true
    }

    pub(crate) fn fetch_failed(&mut self, id: NodeId) -> bool {
        let Some(fetch) = self.nodes.get_mut(&id).unwrap().fetches.pop_front() else {
            return false;
        };
        self.step(id, Event::FetchFailed { purpose: fetch.purpose });
        true
    }
}

pub(crate) fn n(id: u64) -> NodeId {
    NodeId(id)
}
