//! The life of groups on a node: found in the log or new, given a machine, run, fenced, destroyed.
//!
//! In:     what recovery found; who creates and resumes groups; what the log fences while it runs.
//! Out:    for each group whether it may be created or resumed, and its handle once it runs.
//! Cost:   a lock held for a map look-up.
//! Fails:  [`GroupError`], which says what the group is instead.
//! Source: RULES.md rule 24 (fences), M7 (destroyed groups).

use crate::{Group, GroupError, GroupId, NodeId};
use hashbrown::{HashMap, hash_map::Entry};
use logdrive_wal::{Corrupt, Recovered, RecoveredGroup};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a group comes to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Bootstrap {
    /// It is new: all of `members` create it with the same list. `first_leader` campaigns at once, the others
    /// only if it does not get through.
    New {
        /// The voters, this node among them.
        members: Vec<NodeId>,
        /// The member that should lead first: the same on all members, or several stand against each other at once.
        first_leader: Option<NodeId>,
    },
}

/// Every group that a node knows.
#[derive(Default)]
pub(crate) struct Groups(Mutex<HashMap<GroupId, Known>>);

enum Known {
    /// Found in the log, waiting for its machine.
    Recovered(Box<RecoveredGroup>),
    /// Damaged in the log. No shard runs it, so messages for it are dropped.
    Fenced(Corrupt),
    /// Its id never lives again here.
    Destroyed,
    /// Being created or resumed.
    Starting,
    Running(Group),
}

impl Groups {
    /// Takes in what one shard's log holds.
    pub(crate) fn recovered(&self, recovered: Recovered) {
        let mut groups = self.lock();
        for mut group in recovered.groups {
            let id = group.group;
            let known = match group.fenced.take() {
                Some(corrupt) => Known::Fenced(corrupt),
                None => Known::Recovered(Box::new(group)),
            };
            // Carrying may have found it damaged by now.
            groups.entry(id).or_insert(known);
        }
        let destroyed = recovered.destroyed.into_iter();
        groups.extend(destroyed.map(|gone| (gone.group, Known::Destroyed)));
    }

    /// Groups that wait for their machine, by id.
    pub(crate) fn waiting(&self) -> Vec<GroupId> {
        let groups = self.lock();
        let waits = groups.iter().filter(|(_, known)| matches!(known, Known::Recovered(_)));
        let mut found: Vec<GroupId> = waits.map(|(group, _)| *group).collect();
        found.sort_unstable();
        found
    }

    /// True for a group that was found in the log and waits for its machine.
    pub(crate) fn is_waiting(&self, group: GroupId) -> bool {
        matches!(self.lock().get(&group), Some(Known::Recovered(_)))
    }

    /// Groups that lost something, and where, by id.
    pub(crate) fn fenced(&self) -> Vec<(GroupId, Corrupt)> {
        let groups = self.lock();
        let mut found: Vec<(GroupId, Corrupt)> = groups
            .iter()
            .filter_map(|(group, known)| match known {
                Known::Fenced(corrupt) => Some((*group, corrupt.clone())),
                _ => None,
            })
            .collect();
        found.sort_unstable_by_key(|(group, _)| *group);
        found
    }

    /// True if a group that runs has a leader, as far as this node knows.
    pub(crate) fn is_any_led(&self) -> bool {
        let is_led =
            |known: &Known| matches!(known, Known::Running(group) if group.leader().is_some());
        self.lock().values().any(is_led)
    }

    /// The handle of a group that runs.
    pub(crate) fn running(&self, group: GroupId) -> Option<Group> {
        match self.lock().get(&group) {
            Some(Known::Running(handle)) => Some(handle.clone()),
            _ => None,
        }
    }

    /// A group is to be created; [`Self::started`] follows.
    ///
    /// # Errors
    /// [`GroupError`] if there is one of this id, in whatever state.
    pub(crate) fn begin_create(&self, group: GroupId) -> Result<(), GroupError> {
        match self.lock().entry(group) {
            Entry::Vacant(free) => {
                free.insert(Known::Starting);
                Ok(())
            }
            Entry::Occupied(taken) => Err(match taken.get() {
                Known::Recovered(_) => GroupError::Exists(group),
                Known::Fenced(corrupt) => GroupError::Fenced { group, source: corrupt.clone() },
                Known::Destroyed => GroupError::Destroyed(group),
                Known::Running(_) | Known::Starting => GroupError::Running(group),
            }),
        }
    }

    /// A group that was found is to be run; [`Self::started`] follows.
    ///
    /// # Errors
    /// [`GroupError`] if there is none that waits for its machine.
    pub(crate) fn begin_resume(&self, group: GroupId) -> Result<Box<RecoveredGroup>, GroupError> {
        let mut groups = self.lock();
        let known = groups.get_mut(&group).ok_or(GroupError::Unknown(group))?;
        match std::mem::replace(known, Known::Starting) {
            Known::Recovered(found) => Ok(found),
            other => {
                let why = match &other {
                    Known::Fenced(corrupt) => GroupError::Fenced { group, source: corrupt.clone() },
                    Known::Destroyed => GroupError::Destroyed(group),
                    _ => GroupError::Running(group),
                };
                *known = other;
                Err(why)
            }
        }
    }

    /// The handle of a group that has run, to be given another machine.
    ///
    /// # Errors
    /// [`GroupError`] if there is none.
    pub(crate) fn to_restart(&self, group: GroupId) -> Result<Group, GroupError> {
        match self.lock().get(&group) {
            Some(Known::Running(handle)) => Ok(handle.clone()),
            Some(Known::Starting) => Err(GroupError::Running(group)),
            Some(Known::Recovered(_)) => Err(GroupError::Exists(group)),
            Some(Known::Fenced(corrupt)) => {
                Err(GroupError::Fenced { group, source: corrupt.clone() })
            }
            Some(Known::Destroyed) => Err(GroupError::Destroyed(group)),
            None => Err(GroupError::Unknown(group)),
        }
    }

    /// A group that was being started runs from now on, or is as it was before: found, or unknown. A fence that came
    /// meanwhile stays.
    pub(crate) fn started(
        &self,
        group: GroupId,
        handle: Option<Group>,
        found: Option<Box<RecoveredGroup>>,
    ) {
        let mut groups = self.lock();
        if !matches!(groups.get(&group), Some(Known::Starting)) {
            return;
        }
        groups.remove(&group);
        let known = handle.map(Known::Running).or(found.map(Known::Recovered));
        groups.extend(known.map(|known| (group, known)));
    }

    /// A group lost something in the log while the log ran.
    pub(crate) fn fence(&self, group: GroupId, corrupt: Corrupt) {
        self.lock().insert(group, Known::Fenced(corrupt));
    }

    /// No code panics while it holds this lock; if one did, its data is still whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<GroupId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
