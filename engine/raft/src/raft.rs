//! One replica: settles an event's term, hands it to the role.
//!
//! In:     [`Raft::propose`], [`Raft::step`].
//! Out:    [`Raft::ready`]. Replicated entries, heartbeats and fetches are worked out there, once for
//!         all that happened since the last call, so a round's proposals leave in one append.
//! Cost:   a message costs its entries and a few comparisons; a tick that is not due, nothing.
//! Fails:  what a peer may not say is ignored, before anything of it is believed ([`Raft::is_sound`]);
//!         what the host may not do (a durable write that was never handed out) panics.
//! Source: paper figure 2; thesis §3.8, §6.2, §9.6.

use crate::candidate::Tally;
use crate::leader::Leader;
use crate::log::Log;
use crate::mark::Mark;
use crate::{
    ApplyMax, Command, Config, ConfigError, Durable, EntryBatch, Fetch, FetchFor, HardState, LogId,
    LogIndex, LogRange, Message, NoTerm, NodeId, Offer, Outgoing, Promises, ProposeError, Ready,
    Restored, Term, Ticks, WriteId, rules,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;

/// Something that happened to a replica.
#[derive(Debug)]
pub enum Event {
    /// Time has passed; see [`Raft::deadline`].
    Tick,
    /// As [`Self::Tick`], while messages that have arrived wait unread, perhaps a leader's among them. So the leader's
    /// silence counts only once it has lasted an election timeout longer than usual. Then it counts, however many
    /// messages still wait: otherwise messages without end would keep this replica from ever standing. A leader is no
    /// more patient than usual: without a majority it must be silent.
    TickUnread,
    /// A message arrived.
    Message {
        /// The sender.
        from: NodeId,
        /// The message.
        message: Message,
    },
    /// Writes are on disk.
    Durable(Durable),
    /// The state machine has applied up to here.
    Applied(LogIndex),
    /// Entries a [`crate::Fetch`] asked for, from its `first` on; perhaps fewer than asked.
    Fetched {
        /// The reason for which the entries were wanted.
        purpose: FetchFor,
        /// The entries.
        entries: EntryBatch,
    },
    /// A [`crate::Fetch`] could not be answered (it may be asked again).
    FetchFailed {
        /// The reason for which the entries were wanted.
        purpose: FetchFor,
    },
    /// The disk has no room for this write and those handed out after it. Their entries are taken back, as a crash
    /// would take them, and a leader steps down; a hard state among them is handed out again in a write of its own. So
    /// a vote never waits for entries, and no write overtakes another of its group. The host must drop [`Promises`]
    /// that wait for one of these writes.
    Withdrawn(WriteId),
    /// Whether this peer takes entries. While it does not, it is sent none.
    Room {
        /// The peer.
        peer: NodeId,
        /// Whether it does.
        has_room: bool,
    },
    /// A connection to this peer broke or a message to it was dropped: what is in flight may be lost.
    Unreachable(NodeId),
    /// Campaign now (pre-vote first), unless there is a leader; a candidate asks those again that have not answered.
    Campaign,
    /// Lead nothing and stand for nothing until [`Event::Stand`]: this node's disk does not answer, and a
    /// leader that cannot write must not keep the others from electing one that can.
    Resign,
    /// The end of [`Event::Resign`].
    Stand,
    /// The log lets go of all entries up to `to`, as far as they are applied, durable here and kept outside the log. The
    /// disk is told with the next write.
    Release {
        /// The last entry that is not needed any more.
        to: LogIndex,
        /// The state up to here is durable outside the log: the machine, or a snapshot of it, opens there or later.
        kept: LogIndex,
    },
    /// The transfer of a snapshot that was offered to this peer ([`Ready::offers`]) has ended, or was given up.
    TransferEnded(NodeId),
    /// Lead no more for now, and leave the next election to the others, who may have what this node lacks
    /// (room for entries). If none of them wins it, it may lead again.
    GiveWay,
}

/// The role of a replica in its group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Answers leaders and candidates.
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Replicates its log.
    Leader,
}

/// A replica, from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if it knows one.
    pub leader: Option<NodeId>,
    /// The last entry of its log, durable or not.
    pub last_log: LogId,
    /// The last entry durable here.
    pub durable: LogIndex,
    /// The last entry known committed.
    pub commit: LogIndex,
    /// The last entry handed to the state machine.
    pub applying: LogIndex,
    /// The last entry the state machine has applied.
    pub applied: LogIndex,
    /// The log lacks entries that this replica had acknowledged: it takes entries, and neither acknowledges, votes nor
    /// stands until it is readmitted.
    pub marked: bool,
}

/// One replica of one group.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) term: Term,
    pub(crate) voted_for: Option<NodeId>,
    /// `term` or `voted_for` is newer than any write handed out.
    pub(crate) is_hard_state_new: bool,
    /// The log's base is newer than any write handed out.
    pub(crate) is_base_new: bool,
    pub(crate) log: Log,
    pub(crate) state: State,
    /// The leader of `term`, if known.
    pub(crate) leader: Option<NodeId>,
    /// When that leader was last heard.
    pub(crate) leader_heard_at: Ticks,
    pub(crate) now: Ticks,
    /// When a follower loses patience, or a candidate tries again.
    pub(crate) election_at: Ticks,
    /// Peers that take no entries now.
    pub(crate) without_room: Vec<NodeId>,
    /// Neither leads nor stands, until [`Event::Stand`].
    pub(crate) is_resigned: bool,
    /// The log lacks entries that were acknowledged. Else there is none.
    pub(crate) mark: Option<Box<Mark>>,
    /// Entries to apply could not be read; they are fetched again at this time. Else [`NEVER`].
    pub(crate) apply_fetch_at: Ticks,
    pub(crate) messages: Vec<Outgoing>,
    pub(crate) promises: Vec<Outgoing>,
    pub(crate) fetches_owed: Vec<Fetch>,
    /// Fetches not yet answered. Outlives terms and roles: the host answers each.
    pub(crate) fetches_out: Vec<FetchFor>,
    /// An answered [`FetchFor::Apply`], for the next [`Ready`].
    pub(crate) fetched_to_apply: EntryBatch,
    random: u64,
}

/// The role of a replica, with the state that only that role has.
#[derive(Debug)]
pub(crate) enum State {
    Follower,
    PreCandidate(Tally),
    Candidate(Tally),
    Leader(Leader),
}

impl Raft {
    /// A replica as recovery found it: a follower that knows no leader.
    ///
    /// # Errors
    /// [`ConfigError`] if the settings contradict each other or what was found.
    pub fn new(config: Config, restored: Restored, now: Ticks) -> Result<Self, ConfigError> {
        config.check()?;
        restored.check()?;
        let HardState { term, voted_for, marked, .. } = restored.hard_state;
        let random = config.seed ^ config.group.get().rotate_left(32) ^ config.id.get();
        let mut raft = Self {
            config,
            term,
            voted_for: rules::restored_vote(voted_for),
            is_hard_state_new: false,
            is_base_new: false,
            log: Log::restore(restored),
            state: State::Follower,
            leader: None,
            leader_heard_at: now,
            now,
            election_at: now,
            without_room: Vec::new(),
            is_resigned: false,
            mark: None,
            apply_fetch_at: NEVER,
            messages: Vec::new(),
            promises: Vec::new(),
            fetches_owed: Vec::new(),
            fetches_out: Vec::new(),
            fetched_to_apply: EntryBatch::new(),
            random,
        };
        raft.restart_election_timer();
        raft.mark = marked.then(|| Box::new(Mark::new(raft.next_random())));
        Ok(raft)
    }

    /// Appends commands to this group's log, draining `commands`, and says where they landed.
    /// Nothing is durable yet. Takes all commands or none. A leader with nothing uncommitted takes them
    /// whatever their size: otherwise a proposal over the bound could never be made.
    ///
    /// # Errors
    /// [`ProposeError`]: it did not happen, and `commands` is untouched.
    ///
    /// # Panics
    /// If `commands` is empty: it would land nowhere.
    pub fn propose(&mut self, commands: &mut Vec<Command>) -> Result<LogRange, ProposeError> {
        self.on_propose(commands)
    }

    /// Takes one event. Never blocks, never fails.
    ///
    /// # Panics
    /// If the host breaks its word: a [`Durable`] of another group or of a write never handed out,
    /// an [`Event::Applied`] of entries never handed out.
    pub fn step(&mut self, now: Ticks, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Tick => self.on_tick(0),
            Event::TickUnread => self.on_tick(self.config.election_ticks),
            Event::Message { from, message } => self.on_message(from, message),
            Event::Durable(durable) => self.on_durable(durable),
            Event::Applied(index) => self.log.applied_to(index),
            Event::Fetched { purpose, entries } => self.on_fetched(purpose, entries),
            Event::FetchFailed { purpose } => self.on_fetch_failed(purpose),
            Event::Withdrawn(from) => self.on_withdrawn(from),
            Event::Room { peer, has_room } => self.on_room(peer, has_room),
            Event::Unreachable(peer) => self.on_unreachable(peer),
            Event::Campaign => {
                if !self.hears_a_leader() {
                    self.campaign_or_ask_again();
                }
            }
            Event::Resign => self.on_resign(),
            Event::Stand => self.is_resigned = false,
            Event::Release { to, kept } => self.on_release(to, kept),
            Event::TransferEnded(peer) => self.on_transfer_ended(peer),
            Event::GiveWay => self.on_give_way(),
        }
    }

    /// Another machine takes the place of the one that failed: it has applied everything up to `applied`, and is handed
    /// what is committed behind that again. Messages that were not handed out yet are dropped, which to the peers is a lost
    /// message. False, and nothing has changed, if no machine was ever handed that much, or if the log has let go of entries
    /// that the machine lacks.
    pub fn replace_machine(&mut self, applied: LogIndex) -> bool {
        if applied > self.log.applying() || applied < self.log.base().index {
            return false;
        }
        // As after a restart of the node: the leader that was known may be gone.
        self.leader = None;
        self.restart_election_timer();
        self.log.reapply_from(applied);
        self.fetched_to_apply = EntryBatch::new();
        self.apply_fetch_at = NEVER;
        self.messages.clear();
        self.promises.clear();
        true
    }

    /// The work now owed; `None` if nothing is. To be asked for after every event and proposal, or
    /// after a round of them: what it says is then owed once for all.
    pub fn ready(&mut self) -> Option<Ready> {
        let offers = self.replicate();
        let apply = self.next_apply(APPLY_MAX, APPLY_MAX);
        self.owed_with(offers, apply)
    }

    /// [`Self::ready`] without entries to apply: a host that runs many groups takes these with [`Self::next_apply`], when
    /// the group's state machine has its turn.
    pub fn ready_but_apply(&mut self) -> Option<Ready> {
        let offers = self.replicate();
        self.owed_with(offers, EntryBatch::new())
    }

    fn owed_with(&mut self, offers: Vec<Offer>, apply: EntryBatch) -> Option<Ready> {
        self.forget();
        // First, because more than half of all times it is nothing: after an apply or a durable write, mostly.
        let is_nothing = self.messages.is_empty()
            && self.promises.is_empty()
            && !self.is_hard_state_new
            && !self.log.has_to_submit()
            && apply.is_empty()
            && self.fetches_owed.is_empty()
            && offers.is_empty();
        if is_nothing {
            return None;
        }
        let hard_state = core::mem::take(&mut self.is_hard_state_new).then(|| self.hard_state());
        let release = if hard_state.is_some() { self.owed_release() } else { None };
        let write = self.log.submit(hard_state, release);
        let promises = (!self.promises.is_empty()).then(|| {
            // These promises wait for the newest write that was handed out: everything that was
            // decided before now is in that write or in an earlier one.
            let messages = core::mem::take(&mut self.promises);
            Promises::new(self.config.group, self.log.newest_write(), messages)
        });
        let messages = core::mem::take(&mut self.messages);
        let fetch = core::mem::take(&mut self.fetches_owed);
        Some(Ready { messages, write, promises, apply, fetch, offers })
    }

    /// Takes back the list in which a [`Ready`] gave messages out. The next messages are put into it, so that they cost no
    /// allocation. A host may leave this out.
    #[inline]
    pub fn reuse_messages(&mut self, list: Vec<Outgoing>) {
        reuse(list, &mut self.messages);
    }

    /// As [`Self::reuse_messages`], for a list that [`Promises::release`] gave.
    #[inline]
    pub fn reuse_promises(&mut self, list: Vec<Outgoing>) {
        reuse(list, &mut self.promises);
    }

    /// When this replica wants its next [`Event::Tick`]. Earlier ones are harmless.
    pub fn deadline(&self) -> Ticks {
        let role_at = match &self.state {
            State::Leader(leader) => leader.deadline(),
            _ => self.election_at,
        };
        self.apply_fetch_at.min(role_at)
    }

    /// Role, term, leader and cursors.
    pub fn status(&self) -> Status {
        let role = match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        };
        Status {
            role,
            term: self.term,
            leader: self.leader,
            last_log: self.log.last(),
            durable: self.log.durable(),
            commit: self.log.commit(),
            applying: self.log.applying(),
            applied: self.log.applied(),
            marked: self.is_marked(),
        }
    }

    /// True if this replica leads; see [`Raft::status`].
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.state, State::Leader(_))
    }

    /// The leader of the replica's term, if it knows one; see [`Raft::status`].
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The voters of the group, this replica among them.
    pub fn voters(&self) -> &[NodeId] {
        &self.config.voters
    }

    /// True if this leads, and so many voters take no entries that nothing new can be committed.
    pub fn lacks_room(&self) -> bool {
        let voters = self.config.voters.len();
        self.is_leader() && self.without_room.len() >= voters.div_ceil(2)
    }

    /// The term of the entry at `index`, from [`Raft::base`] on.
    ///
    /// # Errors
    /// [`NoTerm`]: the log has let go of the entry, or ends before it.
    pub fn term_at(&self, index: LogIndex) -> Result<Term, NoTerm> {
        self.log.term_at(index)
    }

    /// The last entry that the log has let go of; `ZERO` if none.
    #[must_use]
    pub fn base(&self) -> LogId {
        self.log.base()
    }

    /// Swaps the payloads of entries still held in memory, from `first` on, for equal bytes that
    /// live elsewhere (the log's image), so that no second copy is kept. An entry whose term is not
    /// `term` or whose length or checksum differs (it was replaced since) is left alone.
    pub fn rehome(&mut self, first: LogIndex, payloads: impl Iterator<Item = (Term, u32, Bytes)>) {
        self.log.rehome(first, payloads);
    }

    /// Copies the payloads of entries still held in memory to memory of their own, so that what
    /// they were borrowed from can be used again. Each is copied once; how many bytes were.
    pub fn own_tail(&mut self) -> usize {
        self.log.own_tail()
    }

    /// Bytes of the entries held in memory, as they count against [`Config::tail_bytes_max`].
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.log.tail_bytes()
    }

    /// Lets go of entries beyond `bytes_max`, as [`Config::tail_bytes_max`] has it done beyond that: peers that still
    /// need them get them by a fetch.
    pub fn trim_tail(&mut self, bytes_max: usize) {
        self.log.forget(LogIndex::ZERO, bytes_max);
    }

    /// `patience`: how many ticks longer than usual a leader must be silent before this replica stands.
    fn on_tick(&mut self, patience: u64) {
        if self.apply_fetch_at <= self.now {
            self.apply_fetch_at = NEVER;
        }
        if matches!(self.state, State::Leader(_)) {
            self.on_leader_tick();
        } else if self.now >= self.election_at.after(patience) {
            self.campaign();
        }
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        if !self.is_sound(from, &message) {
            crate::reached!("impossible message ignored");
            return;
        }
        let term = message.term();
        match message {
            // These change no term, or look at it themselves.
            Message::PreVote(m) => return self.on_pre_vote(from, m),
            Message::PreVoteReply(m) => return self.on_pre_vote_reply(from, m),
            Message::Marked(m) => return self.on_marked(from, m),
            Message::TermStated(m) => return self.on_term_stated(from, m),
            // A replica that hears a leader helps nobody to depose it, not even by taking the term
            // (thesis §4.2.3). The candidate's own term reaches the leader by its answers.
            Message::RequestVote(_) if term > self.term && self.hears_a_leader() => {
                crate::reached!("vote request ignored, a leader is heard");
                return;
            }
            _ => {}
        }
        if term > self.term {
            self.become_follower(term, None);
        }
        if rules::is_of_old_term(&message, term, self.term) {
            return self.refuse_old_term(from, &message);
        }
        match message {
            Message::RequestVote(m) => self.on_request_vote(from, m),
            Message::VoteReply(m) => self.on_vote_reply(from, m),
            Message::AppendEntries(m) => {
                self.follow(from);
                self.on_append_entries(from, m);
            }
            Message::Heartbeat(m) => {
                self.follow(from);
                self.on_heartbeat(from, m);
            }
            Message::AppendReply(m) => self.on_append_reply(from, m.result),
            Message::HeartbeatReply(_) => self.on_heartbeat_reply(from),
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Room(_)
            | Message::Founding(_)
            | Message::Marked(_)
            | Message::TermStated(_) => unreachable!("answered above, or not sound"),
        }
    }

    /// Tells the sender of an older term the term of this replica. A refusal is no promise, so it waits
    /// for no write: the sender only learns a term from it, and makes that term durable itself before
    /// it acts in it.
    fn refuse_old_term(&mut self, from: NodeId, message: &Message) {
        match message {
            Message::RequestVote(_) => self.refuse_vote(from),
            Message::AppendEntries(m) => self.refuse_append(from, m.prev_log),
            Message::Heartbeat(_) => self.answer_heartbeat(from),
            Message::AppendReply(m) if self.would_count(m.result) => {
                crate::reached!("acknowledgement of an earlier term not counted");
            }
            // Answers to questions of an older term, for which nothing waits any more.
            _ => {}
        }
    }

    /// Whether a correct replica of this group could have sent `message` to us.
    ///
    /// A message that no correct replica sends is dropped here, before its term or anything else of it counts:
    /// no panic, no answer, no change (RULES.md I5, I7). A replica that sends nothing else counts as silent.
    fn is_sound(&self, from: NodeId, message: &Message) -> bool {
        if from == self.config.id || !self.config.voters.contains(&from) {
            return false;
        }
        let term = message.term();
        // Each election uses up one term. A jump that no cluster can have made would bring the last
        // possible term near, so it is neither adopted nor passed on.
        if term > TERM_MAX || term.get().saturating_sub(self.term.get()) > TERM_JUMP_MAX {
            return false;
        }
        let is_log_id = |id: LogId| (id.index == LogIndex::ZERO) == (id.term == Term::ZERO);
        let is_after_zero = term > Term::ZERO;
        match message {
            Message::PreVote(m) => is_after_zero && m.last_log.term < term && is_log_id(m.last_log),
            Message::RequestVote(m) => {
                is_after_zero && m.last_log.term < term && is_log_id(m.last_log)
            }
            Message::AppendEntries(m) => {
                let is_chain = match (m.entries.first(), m.entries.last()) {
                    (Some(first), Some(last)) => {
                        m.prev_log.index < INDEX_MAX
                            && first.index == m.prev_log.index.next()
                            && first.term >= m.prev_log.term
                            && first.term > Term::ZERO
                            && last.term <= term
                            && last.index <= INDEX_MAX
                    }
                    _ => m.prev_log.term <= term,
                };
                is_after_zero
                    && is_log_id(m.prev_log)
                    && is_chain
                    && (term < self.term
                        || (self.may_lead(from, term)
                            && self.agrees_with_commit(m.prev_log, &m.entries)))
            }
            Message::Heartbeat(m) => {
                is_after_zero
                    && is_log_id(m.matched)
                    && m.matched.term <= term
                    && m.matched.index <= INDEX_MAX
                    && rules::is_commit_within_match(m)
                    && (term < self.term
                        || (self.may_lead(from, term)
                            && self.agrees_with_commit(m.matched, &EntryBatch::new())))
            }
            Message::Marked(m) => {
                is_log_id(m.last_log) && m.last_log.index <= INDEX_MAX && m.last_log.term <= term
            }
            Message::TermStated(m) => m.commit <= INDEX_MAX,
            Message::PreVoteReply(m) => !m.granted || is_after_zero,
            // A yes is an answer to what we said in that term, so we have been in it.
            Message::VoteReply(m) => is_after_zero && (!m.granted || term <= self.term),
            Message::AppendReply(m) => is_after_zero && self.is_sound_append_reply(m),
            Message::HeartbeatReply(_) => is_after_zero,
            // For the host, which knows the log that the groups share, and what they were founded with.
            Message::Room(_) | Message::Founding(_) => false,
        }
    }

    /// A term has one leader.
    fn may_lead(&self, from: NodeId, term: Term) -> bool {
        term > self.term || self.leader.is_none_or(|leader| leader == from)
    }

    /// Every committed entry is in the log of every later leader (paper §5.4.3).
    fn agrees_with_commit(&self, prev_log: LogId, entries: &EntryBatch) -> bool {
        let commit = self.log.commit();
        if prev_log.index > commit {
            return true;
        }
        self.log.agrees_with(prev_log)
            && (entries.as_slice().iter())
                .take_while(|entry| entry.index <= commit)
                .all(|entry| self.log.agrees_with(entry.id()))
    }

    fn on_durable(&mut self, durable: Durable) {
        assert!(
            durable.group() == self.config.group,
            "a write of {:?} finished in {:?}",
            durable.group(),
            self.config.group
        );
        let hard_state = self.log.on_durable(durable.upto());
        if let Some(HardState { term, voted_for, .. }) = hard_state
            && (term, voted_for) == (self.term, Some(self.config.id))
        {
            self.on_own_vote_durable();
        }
        self.advance_commit(self.log.durable());
    }

    /// A candidate stands no more: it has asked for votes with a log that it does not have any more.
    fn on_withdrawn(&mut self, from: WriteId) {
        crate::reached!("entries withdrawn for want of room");
        if self.log.withdraw(from) {
            self.is_hard_state_new = true;
            // The withdrawn writes may have told the disk of the base. To tell it again does no harm.
            self.is_base_new = self.log.base() != LogId::ZERO;
        }
        self.note_withdrawn();
        // A promise made since may be about an entry that is gone. To the peers a dropped promise is a lost message.
        self.promises.clear();
        match &self.state {
            State::Leader(_) if rules::withdrawal_ends_leadership() => {
                self.on_give_way();
                self.become_follower(self.term, None);
            }
            State::Leader(_) => {}
            _ => self.state = State::Follower,
        }
    }

    /// Enters `term` if it is new, and follows `leader` or waits for one.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "term {term:?} is before {:?}", self.term);
        if term > self.term {
            self.enter_term(term, None);
        }
        if matches!(self.state, State::Leader(_)) {
            self.restart_election_timer();
        }
        self.state = State::Follower;
        self.leader = leader;
    }

    pub(crate) fn enter_term(&mut self, term: Term, voted_for: Option<NodeId>) {
        assert!(term > self.term, "term {term:?} is not after {:?}", self.term);
        self.term = term;
        self.voted_for = voted_for;
        self.is_hard_state_new = true;
        rules::drop_promises_of_old_term(&mut self.promises);
    }

    /// True within the time in which the leader's followers do not call for an election.
    pub(crate) fn hears_a_leader(&self) -> bool {
        match &self.state {
            State::Leader(_) => self.now < self.quorum_lost_at(),
            _ => {
                self.leader.is_some()
                    && self.now.since(self.leader_heard_at) < self.config.election_ticks
            }
        }
    }

    pub(crate) fn restart_election_timer(&mut self) {
        let ticks = self.config.election_ticks;
        self.election_at = self.now.after(ticks.saturating_add(self.next_random() % ticks));
    }

    /// Splitmix64 (Steele, Lea, Flood 2014).
    pub(crate) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = NodeId> {
        let id = self.config.id;
        self.config.voters.iter().copied().filter(move |&voter| voter != id)
    }

    pub(crate) fn say(&mut self, to: NodeId, message: Message) {
        self.messages.push(Outgoing { to, message });
    }

    /// The message leaves when all that was decided before now is durable.
    pub(crate) fn promise(&mut self, to: NodeId, message: Message) {
        if rules::may_leave_before_durable(&message) {
            return self.say(to, message);
        }
        self.promises.push(Outgoing { to, message });
    }

    /// The hard state to be saved.
    fn hard_state(&self) -> HardState {
        let commit = rules::commit_to_save(&self.log);
        let voted_for = rules::vote_to_save(self.voted_for, self.config.id);
        HardState { term: self.term, voted_for, commit, marked: self.is_marked() }
    }

    /// True if [`Self::next_apply`] has entries to give, or has to ask for some of them.
    #[inline]
    pub fn has_to_apply(&self) -> bool {
        self.log.applying() < self.log.appliable()
            && self.apply_fetch_at == NEVER
            && !self.fetches_out.contains(&FetchFor::Apply)
    }

    /// The next entries for the state machine, in order, each handed out once per incarnation; answer with
    /// [`Event::Applied`]. No more than `max`, except that entries which a fetch has brought come all together. If the
    /// entries are not in memory there are none, and the next [`Self::ready`] has a fetch of no more than `fetch_max`.
    pub fn next_apply(&mut self, max: ApplyMax, fetch_max: ApplyMax) -> EntryBatch {
        if !self.fetched_to_apply.is_empty() {
            let entries = core::mem::take(&mut self.fetched_to_apply);
            let bytes = entries.cost_bytes();
            return self.hand_out(entries, bytes);
        }
        let last = self.log.appliable();
        let is_at_bound = max.entries == 0 || self.log.handed_out_bytes() >= HANDED_OUT_BYTES_MAX;
        if self.log.applying() >= last || is_at_bound {
            return EntryBatch::new();
        }
        let first = self.log.applying().next();
        if first < self.log.tail_first() {
            let last = fetch_max.last_from(first).min(last).min(self.log.tail_first().prev());
            if self.apply_fetch_at == NEVER {
                self.owe_fetch(FetchFor::Apply, first, last, fetch_max.bytes);
            }
            return EntryBatch::new();
        }
        let last = max.last_from(first).min(last);
        let (entries, bytes) = self.log.copy(first, last, max.bytes, true);
        self.hand_out(entries, bytes)
    }

    fn hand_out(&mut self, entries: EntryBatch, bytes: usize) -> EntryBatch {
        let last = entries.last().expect("at least one entry is handed out").index;
        self.log.hand_out(last, bytes);
        entries
    }
}

/// Gives `to` the memory of `list`, if it has none of its own. A burst must not cost a group its memory for ever.
#[inline]
fn reuse(mut list: Vec<Outgoing>, to: &mut Vec<Outgoing>) {
    if to.capacity() == 0 && list.capacity() <= KEPT_MESSAGES {
        list.clear();
        core::mem::swap(&mut list, to);
    }
}

/// A list's memory is kept if it has room for this many messages or fewer. A list that begins with one message has room for
/// four.
const KEPT_MESSAGES: usize = 4;

/// Terms further ahead of ours than this are not believed.
pub(crate) const TERM_JUMP_MAX: u64 = 1 << 40;

/// No term is after this, so that there is always a next one.
pub(crate) const TERM_MAX: Term = Term(u64::MAX / 2);

/// No entry is after this, so that there is always a next place.
pub(crate) const INDEX_MAX: LogIndex = LogIndex(u64::MAX / 2);

/// No tick comes at this time.
pub(crate) const NEVER: Ticks = Ticks(u64::MAX);

/// The portions in which [`Raft::ready`] hands entries to the state machine.
const APPLY_MAX: ApplyMax = ApplyMax { entries: usize::MAX, bytes: 1 << 20 };

/// With this much handed out and not applied, the state machine gets no more.
const HANDED_OUT_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupId;

    const NOW: Ticks = Ticks(1);

    /// Carries out all but the applying.
    fn settle(raft: &mut Raft) -> Vec<Fetch> {
        let mut fetches = Vec::new();
        while let Some(ready) = raft.ready_but_apply() {
            assert!(ready.apply.is_empty());
            fetches.extend(ready.fetch);
            if let Some(write) = ready.write {
                raft.step(NOW, Event::Durable(Durable::new(GroupId(7), write.id)));
            }
        }
        fetches
    }

    #[test]
    fn a_short_list_of_messages_is_used_again_and_that_of_a_burst_is_not_kept() {
        let reply = Message::HeartbeatReply(crate::HeartbeatReply { term: Term(1) });
        let list = |len| {
            let outgoing = || Outgoing { to: NodeId(2), message: reply.clone() };
            core::iter::repeat_with(outgoing).take(len).collect::<Vec<_>>()
        };
        let (mut to, short) = (Vec::new(), list(KEPT_MESSAGES));
        let memory = short.as_ptr();
        reuse(list(KEPT_MESSAGES + 1), &mut to);
        assert_eq!(to.capacity(), 0, "a burst's memory is kept");
        reuse(short, &mut to);
        assert!(to.is_empty() && to.as_ptr() == memory, "an old message would be sent again");
        to.extend(list(1));
        reuse(list(1), &mut to);
        assert!(to.len() == 1 && to.as_ptr() == memory, "a new message is lost");
    }

    #[test]
    fn a_host_takes_what_is_committed_in_portions_and_has_it_read_in_portions() {
        let config = Config {
            group: GroupId(7),
            id: NodeId(1),
            voters: [NodeId(1)].into(),
            election_ticks: 10,
            heartbeat_ticks: 3,
            seed: 1,
            inflight_messages_max: 1,
            inflight_bytes_max: 1,
            append_bytes_max: 1,
            tail_bytes_max: 1,
            uncommitted_bytes_max: 1 << 20,
        };
        let mut raft = Raft::new(config, Restored::default(), NOW).unwrap();
        raft.step(NOW, Event::Campaign);
        settle(&mut raft);
        let command = Command { checksum: 0, payload: Bytes::from_static(b"x") };
        raft.propose(&mut core::iter::repeat_n(command, 9).collect()).unwrap();
        assert_eq!(settle(&mut raft), []);
        let max = |entries| ApplyMax { entries, bytes: 1 << 20 };
        let mut handed = Vec::new();
        assert!(raft.next_apply(max(0), max(1)).is_empty());
        while raft.has_to_apply() {
            let entries = raft.next_apply(max(4), max(1));
            handed.push(entries.len());
            raft.step(NOW, Event::Applied(entries.last().unwrap().index));
            settle(&mut raft);
        }
        assert_eq!(handed, [4, 4, 2], "the no-op and nine commands");
        // Another machine has nothing, and nothing is in memory.
        assert!(raft.replace_machine(LogIndex::ZERO) && raft.has_to_apply());
        assert!(raft.next_apply(max(4), max(3)).is_empty() && !raft.has_to_apply());
        let (first, last) = (LogIndex(1), LogIndex(3));
        let fetch = Fetch { purpose: FetchFor::Apply, first, last, bytes_max: 1 << 20 };
        assert_eq!(settle(&mut raft), [fetch]);
    }
}
