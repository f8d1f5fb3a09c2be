//! Snapshots as the protocol sees them: the log lets go of what one has, and a follower begins behind one.
//!
//! The state itself never passes through here. The host keeps it, moves it, checks it and restores the machine from it;
//! the protocol knows its last entry, and the members there.
//!
//! * *Release.* The host says how far the state is kept outside the log, durably ([`Event::Release`](crate::Event::Release)).
//!   The log's base moves up at once; the disk is told with the next write ([`Release`]).
//! * *Offer.* A leader whose log begins behind the next entry that a peer needs cannot append. It tells its host
//!   ([`Ready::offers`](crate::Ready::offers)), which brings the peer a snapshot; `progress.rs` has the peer's states.
//! * *Install.* The host of the peer has the state, whole, verified and durable, and calls [`Raft::install`]. The log is
//!   replaced, or keeps what is behind the snapshot. One write tells the disk the new base, the hard state and the members
//!   together. The acknowledgement is a promise behind this write, and ordinary: "my log agrees with the leader's up to
//!   the snapshot's last entry". A snapshot that comes late changes nothing, and is acknowledged likewise.
//! * *Restart.* What was released is committed. The machine must open at the base or behind it, and at most at the log's
//!   end; a host whose machine is behind the base restores it first.
//!
//! Why an acknowledged snapshot may count. Its last entry is committed, and the leader of the snapshot's term has it.
//! A replica that installs it is in that term or a later one, so every leader that the acknowledgement can reach has the
//! entry too (paper §5.4.3), and all before it.
//!
//! Terms and votes are as before an install, but for a snapshot of a later term, which is taken over as from any message.
//!
//! In:     how far the state is kept; a snapshot that the host has; the end of a transfer.
//! Out:    a base further on, [`Release`] in the next write, an acknowledgement behind it, [`Installed`].
//! Cost:   of what the log lets go of; nothing in proportion to the state.
//! Fails:  [`InstallError`]: the snapshot cannot be this group's, or a leader was told to install one. Nothing has changed.
//! Source: paper §7 and figure 13. RULES.md rule 10.

use crate::raft::{INDEX_MAX, NEVER, State, TERM_JUMP_MAX, TERM_MAX};
use crate::{LogId, LogIndex, NodeId, Raft, Release, Term, rules};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A snapshot of the group's state that the host has, durably and whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The last entry that the state contains.
    pub last: LogId,
    /// The voters at that entry.
    pub voters: Vec<NodeId>,
    /// A term whose leader knew `last` to be committed: that of the leader which offered the snapshot.
    pub term: Term,
}

/// The outcome of [`Raft::install`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Installed {
    /// The replica knows all of it to be committed, and goes on with its log and its machine as they are.
    Late,
    /// The log begins behind the snapshot. The host restores the machine from it, and hands that machine nothing that was
    /// handed out before.
    Taken {
        /// The first entry that was not applied.
        first: LogIndex,
        /// The last entry of the snapshot. The entries from `first` to this one are not handed out: of a command that
        /// waits for one of them, the outcome is unknown.
        last: LogIndex,
    },
}

/// Why a snapshot was not installed. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InstallError {
    /// This replica leads, so it has all that is committed.
    #[error("the replica leads its group, and needs no snapshot")]
    Leads,
    /// The members of the group are others.
    #[error("the snapshot is of a group of {found:?}, and this group has {voters:?}")]
    OtherVoters {
        /// The voters in the snapshot.
        found: Vec<NodeId>,
        /// The group's voters.
        voters: Vec<NodeId>,
    },
    /// No group has such a snapshot, or its last entry contradicts what is committed here.
    #[error("no correct replica of the group has this snapshot: {0}")]
    Impossible(&'static str),
}

impl Raft {
    /// Begins behind a snapshot, of which the host has all, verified and durable. The write that follows from this is in the
    /// next [`Raft::ready`]; only once it is durable may the snapshot before this one be given up.
    ///
    /// # Errors
    /// [`InstallError`]: nothing has changed.
    pub fn install(&mut self, snapshot: Snapshot) -> Result<Installed, InstallError> {
        self.check_snapshot(&snapshot)?;
        let Snapshot { last, term, .. } = snapshot;
        if term > self.term {
            self.become_follower(term, None);
        }
        let installed = match last.index <= self.log.commit() {
            true => Installed::Late,
            false => self.begin_behind(last),
        };
        if let Some(leader) = self.leader {
            self.acknowledge_install(leader, last.index);
            if self.is_marked() {
                self.note_taken(last.index);
                self.seek_readmission();
            }
        }
        Ok(installed)
    }

    fn begin_behind(&mut self, last: LogId) -> Installed {
        crate::reached!("snapshot installed");
        // A candidate has asked for votes with a log that it does not have any more.
        if !matches!(self.state, State::Follower) {
            self.become_follower(self.term, self.leader);
        }
        let first = self.log.applied().next();
        self.log.install(last, rules::keeps_entries_behind(&self.log, last));
        self.is_base_new = true;
        self.is_hard_state_new = true;
        self.fetched_to_apply = crate::EntryBatch::new();
        self.apply_fetch_at = NEVER;
        Installed::Taken { first, last: last.index }
    }

    fn check_snapshot(&self, snapshot: &Snapshot) -> Result<(), InstallError> {
        let Snapshot { last, voters, term } = snapshot;
        let impossible = |why| Err(InstallError::Impossible(why));
        if last.index == LogIndex::ZERO || last.term == Term::ZERO || last.index > INDEX_MAX {
            return impossible("its last entry cannot be one");
        }
        if last.term > *term || *term > TERM_MAX {
            return impossible("its terms cannot be");
        }
        if term.get().saturating_sub(self.term.get()) > TERM_JUMP_MAX {
            return impossible("its term is too far ahead");
        }
        let is_here = |voter| self.config.voters.contains(voter);
        if voters.len() != self.config.voters.len() || !voters.iter().all(is_here) {
            let (found, voters) = (voters.clone(), self.config.voters.clone());
            return Err(InstallError::OtherVoters { found, voters });
        }
        let commit = self.log.commit();
        let agrees = match last.index <= commit {
            true => self.log.agrees_with(*last),
            false => self.log.term_at(commit).is_ok_and(|committed| committed <= last.term),
        };
        if !agrees {
            return impossible("its last entry contradicts what is committed");
        }
        match self.is_leader() && *term <= self.term {
            true => Err(InstallError::Leads),
            false => Ok(()),
        }
    }

    /// The state up to `kept` is durable outside the log, and the log is not needed up to `to`.
    pub(crate) fn on_release(&mut self, to: LogIndex, kept: LogIndex) {
        let to = rules::released_up_to(&self.log, to, kept);
        if to > self.log.base().index {
            crate::reached!("log released");
            self.log.release(to);
            self.is_base_new = true;
            self.is_hard_state_new = true;
        }
    }

    /// The disk is to be told of a new base.
    pub(crate) fn owed_release(&mut self) -> Option<Box<Release>> {
        core::mem::take(&mut self.is_base_new).then(|| {
            let voters = rules::voters_at_base(&self.config.voters);
            Box::new(Release { base: self.log.base(), last: self.log.submitted(), voters })
        })
    }
}
