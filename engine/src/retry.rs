//! Trying a command again: at the node that the last answer named, after a pause that grows, and never so that it may
//! happen twice unless that does no harm.
//!
//! In:     the members of a group; the error of each attempt.
//! Out:    the node to ask next and how long to wait before, or the error that is true of all attempts together.
//! Cost:   nothing but the waiting, which is the caller's.
//! Fails:  with what the last attempt said, unless an earlier one may have happened: then with that.

use crate::{Happened, NodeId, Outcome, ProposeError, blocking};
use std::time::Duration;

/// The tries of one command, from its first to the error that ends them. It sends nothing and waits for nothing itself, so
/// it serves any transport and any runtime:
///
/// ```
/// use logdrive::{NodeId, Outcome, Retry};
/// use std::time::Duration;
///
/// # async fn ask(node: NodeId) -> Outcome { Err(logdrive::ProposeError::LogFull) }
/// # async fn sleep(time: Duration) {}
/// async fn propose(members: &[NodeId]) -> Outcome {
///     let mut retry = Retry::new(members);
///     loop {
///         match ask(retry.node()).await {
///             Ok(applied) => return Ok(applied),
///             Err(error) => sleep(retry.after(error)?).await,
///         }
///     }
/// }
/// ```
///
/// An attempt that was sent and got no answer, for its connection broke or its time was over, is
/// [`ProposeError::OutcomeUnknown`]; [`ProposeError::NotLeader`] without a hint stands for a node only if nothing was sent
/// to it.
///
/// [`Retry::run`] is the same for threads. An attempt of unknown outcome ends the tries, because the command might happen
/// twice; with [`Retry::idempotent`] they go on, and if none succeeds, the error says still that it may have happened.
#[derive(Clone, Debug)]
pub struct Retry {
    members: Vec<NodeId>,
    node: NodeId,
    is_idempotent: bool,
    attempts_left: u32,
    /// Leaders followed since the last pause.
    redirects: usize,
    pause: Duration,
    /// An attempt that may have happened.
    unknown: Option<ProposeError>,
}

impl Retry {
    /// Tries at `members`, the first of them first: best the leader that was known last. Twenty attempts, with pauses that
    /// double from 10 ms to 1 s: some thirteen seconds.
    ///
    /// # Panics
    /// If there are no members.
    #[must_use]
    pub fn new(members: &[NodeId]) -> Self {
        Self {
            node: *members.first().expect("a group has members"),
            members: members.to_vec(),
            is_idempotent: false,
            attempts_left: ATTEMPTS,
            redirects: 0,
            pause: PAUSE_MIN,
            unknown: None,
        }
    }

    /// The command may happen more than once without harm: an unknown outcome is tried again too.
    #[must_use]
    pub fn idempotent(self) -> Self {
        Self { is_idempotent: true, ..self }
    }

    /// So many attempts in all, at least one.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts_left: attempts, ..self }
    }

    /// The node to ask now.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Takes the error of an attempt at [`Self::node`]; gives the pause before the next, which may be another node's.
    ///
    /// # Errors
    /// The end of the tries: an error that is true of all of them. Where it says that the command did not happen
    /// ([`ProposeError::happened`]), no attempt did.
    pub fn after(&mut self, error: ProposeError) -> Result<Duration, ProposeError> {
        let is_unknown = error.happened() == Happened::Unknown;
        let never_fits =
            matches!(error, ProposeError::TooLarge { .. } | ProposeError::BatchTooLarge { .. });
        self.attempts_left = self.attempts_left.saturating_sub(1);
        if self.attempts_left == 0 || never_fits || (is_unknown && !self.is_idempotent) {
            return Err(self.unknown.take().unwrap_or(error));
        }
        match &error {
            ProposeError::NotLeader { hint: Some(leader) } if *leader != self.node => {
                self.node = *leader;
                self.redirects += 1;
                // Nodes that know different leaders could send us to and fro.
                if self.redirects <= self.members.len() {
                    return Ok(Duration::ZERO);
                }
            }
            // It leads, and may have room soon.
            ProposeError::Overloaded { .. } | ProposeError::DiskFull | ProposeError::LogFull => {}
            _ => self.node = self.next_member(),
        }
        let least = match error {
            ProposeError::Overloaded { retry_after } => retry_after,
            _ => Duration::ZERO,
        };
        if is_unknown {
            self.unknown.get_or_insert(error);
        }
        self.redirects = 0;
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        Ok(pause.max(least))
    }

    /// Tries until `ask` succeeds or the tries end, and sleeps in between.
    ///
    /// # Errors
    /// As [`Self::after`].
    ///
    /// # Panics
    /// On a shard's thread, which it would hold up.
    pub fn run(mut self, mut ask: impl FnMut(NodeId) -> Outcome) -> Outcome {
        blocking::assert_may_block("trying again");
        loop {
            match ask(self.node) {
                Ok(applied) => return Ok(applied),
                Err(error) => std::thread::sleep(self.after(error)?),
            }
        }
    }

    fn next_member(&self) -> NodeId {
        let at = self.members.iter().position(|member| *member == self.node);
        self.members[at.map_or(0, |at| (at + 1) % self.members.len())]
    }
}

const ATTEMPTS: u32 = 20;
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Applied, Bytes, LogIndex, StopCause};

    const UNKNOWN: ProposeError = ProposeError::OutcomeUnknown("leadership moved");

    fn members() -> [NodeId; 3] {
        [1, 2, 3].map(NodeId)
    }

    fn not_leader(hint: Option<u64>) -> ProposeError {
        ProposeError::NotLeader { hint: hint.map(NodeId) }
    }

    #[test]
    fn a_hint_is_followed_at_once_and_nodes_that_point_at_each_other_are_not_asked_in_a_rush() {
        let mut retry = Retry::new(&members());
        assert_eq!(retry.after(not_leader(Some(3))), Ok(Duration::ZERO));
        assert_eq!(retry.node(), NodeId(3));
        let mut pauses = 0;
        for at in 0..8 {
            pauses += u32::from(!retry.after(not_leader(Some(1 + at % 2))).unwrap().is_zero());
        }
        assert_eq!(pauses, 2);
    }

    #[test]
    fn without_a_hint_the_members_are_asked_in_turn_with_growing_pauses() {
        let mut retry = Retry::new(&members());
        let stopped = ProposeError::Stopped(StopCause::Absent);
        for (error, node, pause_ms) in
            [(not_leader(None), 2, 10), (not_leader(Some(2)), 3, 20), (stopped, 1, 40)]
        {
            assert_eq!(retry.after(error), Ok(Duration::from_millis(pause_ms)));
            assert_eq!(retry.node(), NodeId(node));
        }
        let retry_after = Duration::from_secs(5);
        assert_eq!(retry.after(ProposeError::Overloaded { retry_after }), Ok(retry_after));
        assert_eq!(retry.node(), NodeId(1), "a busy leader is still the leader");
        for _ in 0..10 {
            assert!(retry.after(ProposeError::DiskFull).unwrap() <= PAUSE_MAX);
        }
    }

    #[test]
    fn what_may_have_happened_is_not_tried_again_unless_it_does_no_harm() {
        let mut asked = 0;
        let outcome = Retry::new(&members()).run(|_| {
            asked += 1;
            Err(UNKNOWN)
        });
        assert_eq!((asked, outcome), (1, Err(UNKNOWN)));
        let applied = Applied { index: LogIndex(7), reply: Bytes::new() };
        let mut answers = vec![Ok(applied.clone()), Err(UNKNOWN)];
        let outcome = Retry::new(&members()).idempotent().run(|_| answers.pop().unwrap());
        assert_eq!(outcome, Ok(applied));
    }

    /// The last attempt did not happen; the first one may have.
    #[test]
    fn an_unknown_attempt_is_not_forgotten_by_the_end() {
        let too_large = ProposeError::TooLarge { bytes: 2, max: 1 };
        for last in [not_leader(None), too_large] {
            let mut answers = vec![Err(last), Err(not_leader(None)), Err(UNKNOWN)];
            let retry = Retry::new(&members()).idempotent().attempts(3);
            assert_eq!(retry.run(|_| answers.pop().unwrap()), Err(UNKNOWN));
        }
        let retry = Retry::new(&members()).idempotent().attempts(1);
        assert_eq!(retry.run(|_| Err(not_leader(None))), Err(not_leader(None)));
    }
}
