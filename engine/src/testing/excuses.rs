//! The cases that look like failures and that the simulator does not count as failures: each such rule has a name.
//!
//! In:     the name of an excuse, at the place that wants to make it.
//! Out:    whether the excuse is made, and how often each one was: a campaign prints these counts at its end.
//!
//! The list should become shorter: `sim --without-excuse NAME` does not make that excuse, and shows what it covers.

use std::collections::{BTreeMap, BTreeSet};

/// A rule by which a case is not counted as a failure.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    /// Its name.
    pub name: &'static str,
    /// The case that the excuse covers.
    pub what: &'static str,
}

const fn excuse(name: &'static str, what: &'static str) -> Excuse {
    Excuse { name, what }
}

/// A replica whose log lost the end of what it had acknowledged votes before it has heard a leader that knows.
pub(super) const VOTE_OF_ONE_UNTOLD: &str = "vote of one untold";
pub(super) const MACHINE_OF_A_LOST_LOG: &str = "machine of a lost log";
pub(super) const UNMET_DIRECTORY: &str = "unmet directory";
pub(super) const DAMAGED_LOG: &str = "damaged log";
pub(super) const NO_ROOM_TO_START: &str = "no room to start";
pub(super) const FAILED_WHILE_STARTING: &str = "failed while starting";
pub(super) const NO_MAJORITY_WHOLE: &str = "no majority whole";
pub(super) const SPACE_OF_HARMED: &str = "space of a harmed log";

/// All of them.
pub const EXCUSES: &[Excuse] = &[
    excuse(
        UNMET_DIRECTORY,
        "no directory is made anew or becomes an old copy while a peer has not met the node, or not since the copy: to \
         that peer it is the node's (P6, C7)",
    ),
    excuse(
        VOTE_OF_ONE_UNTOLD,
        "a group is judged no more once a replica that has lost what it acknowledged, with nothing on its disk that tells, votes before \
         a leader that knows could tell it: nobody can know then (C3; engine/raft/src/mark.rs says what is covered)",
    ),
    excuse(
        MACHINE_OF_A_LOST_LOG,
        "a group is judged no more once a machine that is durable by itself opens at an entry in whose place its log, \
         having lost its end, has an older one: a machine says its place without a term (C3)",
    ),
    excuse(
        DAMAGED_LOG,
        "a node refuses to start on a log with damage that it cannot limit to groups (rule 24)",
    ),
    excuse(
        NO_ROOM_TO_START,
        "a node does not start while its disk has no room for one more segment (W9)",
    ),
    excuse(
        FAILED_WHILE_STARTING,
        "a node does not start when an operation of its disk fails meanwhile, and is started again (W6)",
    ),
    excuse(
        NO_MAJORITY_WHOLE,
        "a group need not serve when harm to its replicas leaves no majority of them (C13)",
    ),
    excuse(
        SPACE_OF_HARMED,
        "what a log with known damage gives back is not opened once more to be compared (C1)",
    ),
];

/// The excuses of one run.
#[derive(Debug, Default)]
pub(super) struct Excuses {
    strict: BTreeSet<&'static str>,
    pub(super) made: BTreeMap<&'static str, u64>,
}

impl Excuses {
    /// The excuses of `strict` are not made.
    pub(super) fn new(strict: BTreeSet<&'static str>) -> Self {
        Self { strict, made: BTreeMap::new() }
    }

    /// Makes an excuse, if it may be made.
    pub(super) fn make(&mut self, name: &'static str) -> bool {
        debug_assert!(EXCUSES.iter().any(|excuse| excuse.name == name), "{name} is in EXCUSES");
        if self.is_strict(name) {
            return false;
        }
        *self.made.entry(name).or_default() += 1;
        true
    }

    /// True if the excuse must not be made.
    pub(super) fn is_strict(&self, name: &'static str) -> bool {
        self.strict.contains(name)
    }
}
