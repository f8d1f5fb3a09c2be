//! The state machine a group replicates: the embedder's code, called by a shard.
//!
//! In:     committed commands, in log order, each once per incarnation.
//! Out:    one reply per command, in order.
//! Cost:   runs on the shard's thread: what blocks here blocks every group of the shard.
//! Fails:  an error or a panic stops this group on this node and no other.
//! Source: paper §2, §5.3.

use crate::{LogIndex, MachineError, Term};
use bytes::Bytes;
use logdrive_raft::{Entry, EntryKind};

/// A deterministic machine: the same commands in the same order give the same state everywhere.
pub trait StateMachine: Send {
    /// Says where the machine already is after a restart; commands after it are handed in again.
    /// A machine that lives in memory starts at [`AppliedAt::START`].
    ///
    /// # Errors
    /// [`MachineError`]: the group does not start.
    fn open(&mut self) -> Result<AppliedAt, MachineError> {
        Ok(AppliedAt::START)
    }

    /// Applies a batch of committed commands and pushes one reply for each, in order.
    ///
    /// Runs on the thread of its shard, and must never wait for a disk, a lock that is held long, or the network: all
    /// groups of the shard wait with it. After two election timeouts the node leads nothing any more, and after
    /// [`crate::Config::stall_fatal`] it fails, by default with its process.
    ///
    /// The bytes are lent: a machine copies what it keeps, or it pins the log's memory.
    ///
    /// # Errors
    /// [`MachineError`]: the group stops on this node.
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError>;

    /// A number that stands for the whole state, for tests: the simulator compares the digests of all replicas at the
    /// same place in the log, and of a machine before and after a restart. Never called in production; `None` is
    /// compared with nothing.
    fn digest(&self) -> Option<u64> {
        None
    }

    /// How far the machine is durable by itself; the log keeps what is above it, and everything for a machine that
    /// lives in memory. Not asked for yet: the engine releases nothing before it has snapshots.
    fn durable(&self) -> LogIndex {
        LogIndex::ZERO
    }
}

/// How far a machine has applied the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AppliedAt(pub LogIndex);

impl AppliedAt {
    /// Before the first command.
    pub const START: Self = Self(LogIndex::ZERO);
}

/// Committed entries on their way into a machine. A test makes its own with [`CommittedBuf`].
#[derive(Debug)]
pub struct Committed<'a> {
    entries: &'a [Entry],
}

/// Committed commands that a test makes for a machine: a [`Committed`] borrows from it.
///
/// ```
/// use logdrive::{Committed, CommittedBuf, LogIndex, MachineError, Replies, StateMachine};
///
/// struct Count(u64);
///
/// impl StateMachine for Count {
///     fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
///         for _ in batch.commands() {
///             self.0 += 1;
///             replies.push(self.0.to_string());
///         }
///         Ok(())
///     }
/// }
///
/// let batch = CommittedBuf::new(LogIndex(1), ["a", "b"]);
/// let mut replies = Replies::keeping();
/// Count(0).apply(&batch.committed(), &mut replies)?;
/// assert_eq!(replies.as_slice(), ["1", "2"]);
/// assert_eq!(batch.committed().last(), LogIndex(2));
/// # Ok::<(), MachineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CommittedBuf {
    entries: Vec<Entry>,
}

impl CommittedBuf {
    /// Commands of term 1 that stand one behind the other in the log, the first of them at `first`.
    ///
    /// # Panics
    /// If `first` is zero: the log's first entry is 1.
    #[must_use]
    pub fn new<C: Into<Bytes>>(first: LogIndex, commands: impl IntoIterator<Item = C>) -> Self {
        assert!(first > LogIndex::ZERO, "the log's first entry is 1");
        let entry = |(index, command): (u64, C)| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Command,
            checksum: 0,
            payload: command.into(),
        };
        Self { entries: (first.get()..).zip(commands).map(entry).collect() }
    }

    /// The commands as a machine is given them.
    #[must_use]
    pub fn committed(&self) -> Committed<'_> {
        Committed::new(&self.entries)
    }
}

/// One committed command.
#[derive(Clone, Copy, Debug)]
pub struct CommandRef<'a> {
    /// Where it stands in the group's log.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: Term,
    /// Its bytes, lent.
    pub bytes: &'a Bytes,
}

impl<'a> Committed<'a> {
    pub(crate) fn new(entries: &'a [Entry]) -> Self {
        Self { entries }
    }

    /// The commands, in log order. Entries that are the protocol's own are left out.
    pub fn commands(&self) -> impl Iterator<Item = CommandRef<'a>> + use<'a> {
        self.entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Command)
            .map(|entry| CommandRef { index: entry.index, term: entry.term, bytes: &entry.payload })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// The last entry of the batch: where the machine is once it has applied it.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.entries.last().map_or(LogIndex::ZERO, |entry| entry.index)
    }
}

/// Where a machine puts its replies: one for each command, in order.
#[derive(Debug, Default)]
pub struct Replies {
    replies: Vec<Bytes>,
    pushed: usize,
    wanted: bool,
}

impl Replies {
    /// For machines tested by themselves: keeps every reply.
    #[must_use]
    pub fn keeping() -> Self {
        Self { wanted: true, ..Self::default() }
    }

    pub(crate) fn reset(&mut self, wanted: bool) {
        self.replies.clear();
        self.pushed = 0;
        self.wanted = wanted;
    }

    /// Adds the next command's reply.
    pub fn push(&mut self, reply: impl Into<Bytes>) {
        self.pushed += 1;
        if self.wanted {
            self.replies.push(reply.into());
        }
    }

    /// False where nobody waits (a follower): an expensive reply may then be pushed empty.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.wanted
    }

    /// Replies pushed so far, wanted or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pushed
    }

    /// True before the first push.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pushed == 0
    }

    /// The replies kept, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Bytes] {
        &self.replies
    }

    pub(crate) fn drain(&mut self) -> std::vec::Drain<'_, Bytes> {
        self.replies.drain(..)
    }
}
