//! One group here: its Raft, the proposals that wait on it, the promises that wait on the disk.

use super::{founding::Founding, proposals::Proposals};
use crate::{NodeEvent, ProposeError, StopCause, events::News};
use bytes::Bytes;
use logdrive_raft::{Durable, GroupId, LogIndex, NodeId, Promises, Raft, Ticks};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The facts of a replica that handles on other threads may know without asking its shard.
#[derive(Debug, Default)]
pub(crate) struct GroupView {
    /// The node id of the leader or, for a fenced replica, of a node to ask instead; 0 if none is known.
    leader: AtomicU64,
    /// True once the replica will never serve again here.
    stopped: AtomicBool,
    group: GroupId,
    /// Counts the changes of all groups of the node.
    moves: Arc<AtomicU64>,
    /// Tells them to those that follow the node's events.
    news: Arc<News>,
    /// It lacks entries that it had acknowledged.
    marked: AtomicBool,
    /// Why it does not serve here any more. Set before `stopped` is.
    cause: Mutex<Option<StopCause>>,
    /// Another machine is on its way to it.
    is_restarting: AtomicBool,
    /// The last entry that was handed to a machine, once it has stopped because of that.
    handed: AtomicU64,
}

impl GroupView {
    /// One whose changes of leader are counted in `moves` and told to `news`.
    pub(crate) fn of(group: GroupId, moves: &Arc<AtomicU64>, news: &Arc<News>) -> Self {
        Self { group, moves: Arc::clone(moves), news: Arc::clone(news), ..Self::default() }
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        match self.leader.load(Ordering::Acquire) {
            0 => None,
            id => Some(NodeId(id)),
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Why it does not serve here any more, if so. The first reason stays.
    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        self.cause().clone()
    }

    /// No code panics while it holds this lock.
    fn cause(&self) -> MutexGuard<'_, Option<StopCause>> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Acquire)
    }

    fn set_leader(&self, leader: Option<NodeId>) {
        if self.swap_leader(leader) {
            self.news.tell(|| NodeEvent::LeaderChanged { group: self.group, leader });
        }
    }

    /// True if it was another one before.
    fn swap_leader(&self, leader: Option<NodeId>) -> bool {
        let id = leader.map_or(0, NodeId::get);
        let is_other = self.leader.swap(id, Ordering::AcqRel) != id;
        if is_other {
            self.moves.fetch_add(1, Ordering::Release);
        }
        is_other
    }

    /// It serves again, with another machine.
    fn set_running(&self) {
        let mut cause = self.cause();
        *cause = None;
        self.is_restarting.store(false, Ordering::Release);
        self.stopped.store(false, Ordering::Release);
        drop(cause);
        self.news.tell(|| NodeEvent::GroupRestarted { group: self.group });
    }

    /// Takes the right to give it another machine: one at a time, and only where its machine was what failed. Gives the
    /// last entry that any machine was handed; a replica that runs gives `None`.
    ///
    /// # Errors
    /// The reason why it cannot be run again here.
    pub(crate) fn begin_restart(&self) -> Option<Result<LogIndex, StopCause>> {
        let cause = self.cause();
        Some(match cause.as_ref()? {
            cause if !cause.is_machines() => Err(cause.clone()),
            _ if self.is_restarting.swap(true, Ordering::AcqRel) => return None,
            _ => Ok(LogIndex(self.handed.load(Ordering::Acquire))),
        })
    }

    /// Notes the last entry that was handed to a machine, before it stops because of that.
    pub(super) fn set_handed(&self, last: LogIndex) {
        self.handed.store(last.get(), Ordering::Release);
    }

    /// The other machine did not come, or cannot be run.
    pub(crate) fn end_restart(&self) {
        self.is_restarting.store(false, Ordering::Release);
    }

    /// It serves no more. The first reason stays, unless it is one that another machine could mend and this one is not.
    /// That the node stops is one event, and none of each group.
    fn set_stopped(&self, cause: StopCause) {
        let mut known = self.cause();
        let gives_way = |known: &StopCause| known.is_machines() && cause.is_for_good();
        if !known.as_ref().is_none_or(gives_way) {
            return;
        }
        *known = Some(cause.clone());
        drop(known);
        if !matches!(cause, StopCause::Node(_)) {
            self.news.tell(|| NodeEvent::GroupStopped { group: self.group, cause });
        }
    }
}

/// One group on this shard.
pub(super) struct Replica {
    pub(super) group: GroupId,
    pub(super) raft: Raft,
    pub(super) proposals: Proposals,
    pub(super) promises: VecDeque<Promises>,
    /// Proof of the writes that are on disk.
    pub(super) durable: Durable,
    /// To be put in the log beside the next write: the group is new.
    pub(super) membership: Option<Bytes>,
    /// It has something to do in the next gathering.
    pub(super) dirty: bool,
    /// It stands in the queue of the groups that have something to apply.
    pub(super) is_applier: bool,
    /// The tick the wheel will wake it at.
    pub(super) wake_at: Ticks,
    pub(super) founding: Founding,
    /// It should campaign as soon as it could win, once.
    pub(super) first_leader: bool,
    /// Peers whose segments are too small for one of its entries, until their connection breaks.
    pub(super) too_large_for: Vec<NodeId>,
    /// A leader's entry was too large for this log, and that was logged.
    pub(super) has_met_too_large: bool,
    /// Its machine failed, its log lost something, or it was founded otherwise elsewhere: it does nothing more here.
    pub(super) stopped: bool,
    /// It has stopped because of its machine, and may get another one. Until then its Raft hears of its own writes, so
    /// that it knows what the log holds, and of nothing else.
    pub(super) awaits_machine: bool,
    /// Bytes that its log held in memory when they were last counted.
    pub(super) tail_bytes: usize,
    pub(super) view: Arc<GroupView>,
    leads: bool,
    leader: Option<NodeId>,
    marked: bool,
}

/// A change between two looks at a replica.
pub(super) enum Change {
    /// Nothing that concerns anyone else.
    Nothing,
    /// It led and does not lead that term any more; `commit` is what it knows committed.
    LostLeadership { commit: LogIndex },
}

impl Replica {
    pub(super) fn new(
        group: GroupId,
        raft: Raft,
        durable: Durable,
        membership: Option<Bytes>,
        first_leader: bool,
        view: Arc<GroupView>,
    ) -> Self {
        Self {
            founding: Founding::new(raft.voters()),
            group,
            raft,
            proposals: Proposals::default(),
            promises: VecDeque::new(),
            durable,
            membership,
            dirty: false,
            is_applier: false,
            wake_at: Ticks(u64::MAX),
            first_leader,
            too_large_for: Vec::new(),
            has_met_too_large: false,
            stopped: false,
            awaits_machine: false,
            tail_bytes: 0,
            view,
            leads: false,
            leader: None,
            marked: false,
        }
    }

    /// Compares with the last look and tells the handles.
    pub(super) fn look(&mut self) -> Change {
        let leader = self.raft.leader();
        if leader != self.leader {
            self.leader = leader;
            self.view.set_leader(leader);
            self.first_leader &= leader.is_none();
        }
        if self.raft.is_marked() != self.marked {
            self.look_at_mark();
        }
        let led = std::mem::replace(&mut self.leads, self.raft.is_leader());
        if led && !self.leads {
            return Change::LostLeadership { commit: self.raft.status().commit };
        }
        Change::Nothing
    }

    /// A leader has told it that it lacks what it acknowledged, or it is readmitted (RULES.md C3, W8).
    #[cold]
    fn look_at_mark(&mut self) {
        let status = self.raft.status();
        self.marked = status.marked;
        self.view.marked.store(status.marked, Ordering::Release);
        let (group, last) = (self.group.get(), status.last_log.index.get());
        if status.marked {
            tracing::error!(
                group,
                last,
                "this disk has lost entries that it had reported durable: the replica takes entries, but neither \
                 acknowledges, votes nor stands until it has what is committed and every other member has stated its term"
            );
        } else {
            tracing::info!(
                group,
                last,
                "the replica has what it had lost, and acknowledges and votes again"
            );
        }
    }

    /// Its log has lost something: it serves no more, and its handles name another member, which knows who leads.
    pub(super) fn fence(&mut self, me: NodeId, cause: StopCause) {
        let voters = self.raft.voters();
        let behind = voters.iter().skip_while(|voter| **voter != me).skip(1);
        let other = behind.chain(voters).copied().find(|voter| *voter != me);
        match other {
            Some(other) if !self.view.is_stopped() => {
                self.rest(cause);
                self.view.set_leader(Some(other));
            }
            _ => self.stop(cause),
        }
    }

    /// The refusal of a proposal once the replica serves no more.
    pub(super) fn refusal(&self) -> ProposeError {
        match self.view.leader() {
            Some(other) => ProposeError::NotLeader { hint: Some(other) },
            None => ProposeError::Stopped(self.view.stop_cause().unwrap_or(StopCause::Absent)),
        }
    }

    /// It was founded with other members on `peer`: it serves no more, and only says what it was founded with.
    pub(super) fn refuse_founding(&mut self, peer: NodeId) {
        self.stop(StopCause::OtherMembers(peer));
    }

    /// It was founded with other members on a peer.
    pub(super) fn differs(&self) -> bool {
        matches!(*self.view.cause(), Some(StopCause::OtherMembers(_)))
    }

    /// It has a machine again: it starts as after a restart of its node, with nobody waiting and no leader known.
    pub(super) fn run_again(&mut self) {
        self.stopped = false;
        self.awaits_machine = false;
        self.wake_at = Ticks(u64::MAX);
        self.leads = false;
        self.leader = None;
        if !logdrive_raft::bug!("restarted_group_refuses_commands") {
            self.view.set_running();
        }
    }

    /// It serves no more: its handles say so.
    pub(super) fn stop(&mut self, cause: StopCause) {
        let is_nodes = matches!(cause, StopCause::Node(_));
        self.rest(cause);
        match is_nodes {
            true => _ = self.view.swap_leader(None),
            false => self.view.set_leader(None),
        }
        self.view.stopped.store(true, Ordering::Release);
    }

    fn rest(&mut self, cause: StopCause) {
        self.stopped = true;
        self.promises.clear();
        self.view.set_stopped(cause);
        self.awaits_machine = self.view.cause().as_ref().is_some_and(StopCause::is_machines);
    }
}
