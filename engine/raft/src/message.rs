//! The messages between replicas of one group: one struct per call, one enum over them.
//!
//! Sender, receiver and group stand outside: the network batches messages of many groups and
//! addresses them once. Every message carries its sender's term (paper figure 2), but for [`RoomNotice`], which is about
//! the sender's log and no group.

use crate::{EntryBatch, LogId, LogIndex, NodeId, Term};

/// A message between two replicas of one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// "Would you vote for me?" Changes no term (thesis §9.6).
    PreVote(PreVote),
    /// The answer to a [`PreVote`].
    PreVoteReply(PreVoteReply),
    /// "Vote for me" (paper §5.2).
    RequestVote(RequestVote),
    /// The answer to a [`RequestVote`].
    VoteReply(VoteReply),
    /// Entries, or none as a probe (paper §5.3).
    AppendEntries(AppendEntries),
    /// The answer to [`AppendEntries`].
    AppendReply(AppendReply),
    /// "I still lead." Carries no entries and asks for no disk (paper §5.2).
    Heartbeat(Heartbeat),
    /// The answer to a [`Heartbeat`].
    HeartbeatReply(HeartbeatReply),
    /// Whether the sender's log takes entries. For the host: [`crate::Raft`] is told by [`crate::Event::Room`].
    Room(RoomNotice),
    /// The members that the sender's replica was founded with. For the host, which compares it before anything else is heard.
    Founding(FoundingNotice),
    /// "I lack entries that I acknowledged. Which term are you in?" Changes no term (RULES.md C3).
    Marked(Marked),
    /// The answer to [`Marked`].
    TermStated(TermStated),
}

/// Asks whether an election could be won, before any term is spent on it (thesis §9.6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PreVote {
    /// The term the sender would campaign in: its own plus one.
    pub term: Term,
    /// The last entry of the sender's log.
    pub last_log: LogId,
}

/// Answers a [`PreVote`]. Not a promise: nothing is written for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PreVoteReply {
    /// If granted the term that was asked about, else the answerer's own term, so that a sender
    /// behind the times learns it (RULES.md M8).
    pub term: Term,
    /// True if the answerer would vote for the sender.
    pub granted: bool,
}

/// Asks for a vote (paper figure 2). A promise: it leaves when the sender's own term and vote are durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestVote {
    /// The candidate's term.
    pub term: Term,
    /// The last entry of the candidate's log.
    pub last_log: LogId,
}

/// Answers a [`RequestVote`]. A promise when granted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VoteReply {
    /// The answerer's term.
    pub term: Term,
    /// True if the vote is the candidate's.
    pub granted: bool,
}

/// Replicates entries (paper figure 2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The entry just before `entries`.
    pub prev_log: LogId,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// The entries that follow `prev_log`; none in a probe, or in an append that only tells of a commit.
    pub entries: EntryBatch,
}

/// Answers [`AppendEntries`]. A promise when accepted: the entries up to `match_index` are durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AppendReply {
    /// The answerer's term.
    pub term: Term,
    /// The outcome of the call.
    pub result: AppendResult,
}

/// The outcome of an [`AppendEntries`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AppendResult {
    /// The answerer's log agrees with the leader's up to here, and that much is durable.
    Accepted {
        /// The last entry of the call.
        match_index: LogIndex,
    },
    /// The same, of a replica that is marked: it has the entries, and does not vouch for them.
    Taken {
        /// The last entry of the call.
        match_index: LogIndex,
    },
    /// `prev_log` is not in the answerer's log.
    Rejected {
        /// `prev_log.index` of the call, so that a late answer is known for one.
        rejected: LogIndex,
        /// The answerer's last entry before `rejected` whose term is at most `prev_log.term`: none
        /// after it can be the leader's. The leader in its turn goes on from its own last entry there
        /// whose term is at most the hint's, so a round skips a whole term (end of paper §5.3).
        hint: LogId,
    },
}

/// The leader is alive (paper §5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// The leader's commit index, at most the receiver's known match.
    pub commit: LogIndex,
    /// The last entry that the receiver has told this leader, in this term, to be on its disk. A receiver that
    /// does not have it has lost it (RULES.md W8).
    pub matched: LogId,
}

/// The answer to a [`Heartbeat`]; says nothing about the log (RULES.md M13).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeartbeatReply {
    /// The answerer's term.
    pub term: Term,
}

/// Says what a group was founded with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FoundingNotice {
    /// Stands for the members.
    pub digest: u32,
    /// The receiver is asked to say the same of its own.
    pub asks: bool,
}

/// Says, or asks, whether a log takes entries. The log is shared by all groups of its shard: the notice names the shard,
/// and the group that it is addressed to is one of that shard's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RoomNotice {
    /// The statement or the question.
    pub says: RoomSays,
    /// The shard whose log it is; of the receiver if it is a question.
    pub shard: u32,
    /// Shards of that node: group *g* is on shard *g* modulo `shards`.
    pub shards: u32,
}

/// The statement of a [`RoomNotice`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RoomSays {
    /// "Do you take entries again?"
    Asked,
    /// "My log takes entries."
    Free,
    /// "My log takes no entries now": they were dropped, and are to be sent again when there is room.
    Full,
    /// "No segment of my log can hold this group's next entry."
    TooLarge,
}

/// A replica that lacks what it acknowledged asks a voter for its term. A promise: the sender's mark is durable.
///
/// The receiver no longer counts acknowledgements that the sender gave before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Marked {
    /// The sender's term.
    pub term: Term,
    /// Names this question among those of the sender's earlier marks and lives.
    pub mark: u64,
    /// The last entry of the sender's log.
    pub last_log: LogId,
}

/// Answers [`Marked`]. A promise: the answerer's term is durable, and acknowledgements that the marked replica
/// gave before count for nothing more that the answerer commits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TermStated {
    /// The answerer's term.
    pub term: Term,
    /// As in the question.
    pub mark: u64,
    /// The answerer's commit index.
    pub commit: LogIndex,
}

/// A message and whom it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outgoing {
    /// The receiver.
    pub to: NodeId,
    /// The message.
    pub message: Message,
}

impl Message {
    /// The sender's term (for a pre-vote, the term asked about; zero for a [`RoomNotice`] or a [`FoundingNotice`]).
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Self::PreVote(m) => m.term,
            Self::PreVoteReply(m) => m.term,
            Self::RequestVote(m) => m.term,
            Self::VoteReply(m) => m.term,
            Self::AppendEntries(m) => m.term,
            Self::AppendReply(m) => m.term,
            Self::Heartbeat(m) => m.term,
            Self::HeartbeatReply(m) => m.term,
            Self::Room(_) | Self::Founding(_) => Term::ZERO,
            Self::Marked(m) => m.term,
            Self::TermStated(m) => m.term,
        }
    }

    /// True for what must get through when appends are clogged: votes and heartbeats.
    #[must_use]
    pub fn is_liveness(&self) -> bool {
        !matches!(self, Self::AppendEntries(_) | Self::AppendReply(_))
    }
}
