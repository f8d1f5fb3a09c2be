//! Runs state machines, in batches, on the shard's own thread.
//!
//! In:     an [`ApplyJob`]'s committed entries.
//! Out:    one reply per command where someone waits.
//! Cost:   the machine's; it runs between the log and the answers, so it must not block.
//! Fails:  an error, a panic or a missing reply is a [`MachineError`]: the group stops here alone.
//! Source: RULES.md P9, invariant 21.

use crate::{
    Committed, LogIndex, MachineError, Replies, StateMachine, panics::caught, shard::ApplyJob,
};

/// Applies one job's entries.
#[cfg_attr(feature = "counts", inline(never))]
pub(crate) fn run(
    machine: &mut dyn StateMachine,
    job: &ApplyJob,
    replies: &mut Replies,
) -> Result<(), MachineError> {
    replies.reset(job.wanted);
    let batch = Committed::new(job.entries.as_slice());
    let commands = batch.commands().count();
    caught(|| machine.apply(&batch, replies))?;
    if replies.len() != commands {
        let pushed = replies.len();
        return Err(MachineError(format!("it pushed {pushed} replies for {commands} commands")));
    }
    Ok(())
}

/// Asks a machine where it is, in a log that ends at `last`.
pub(crate) fn open(
    machine: &mut dyn StateMachine,
    last: LogIndex,
) -> Result<LogIndex, MachineError> {
    let applied = caught(|| machine.open())?.0;
    if applied > last {
        return Err(MachineError(format!("it is at {applied}, but the log ends at {last}")));
    }
    if logdrive_raft::bug!("reopened_machine_starts_over") {
        return Ok(LogIndex::ZERO);
    }
    if logdrive_raft::bug!("reopened_machine_misses_a_command") && LogIndex::ZERO < applied {
        return Ok(applied.next().min(last));
    }
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Nanos, shard::Slot};
    use bytes::Bytes;
    use logdrive_raft::{Entry, EntryBatch, EntryKind, Term};

    struct Odd(fn(&Committed<'_>, &mut Replies) -> Result<(), MachineError>);

    impl StateMachine for Odd {
        fn apply(&mut self, batch: &Committed<'_>, to: &mut Replies) -> Result<(), MachineError> {
            self.0(batch, to)
        }
    }

    fn job() -> ApplyJob {
        let entry = |index, kind| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind,
            checksum: 0,
            payload: Bytes::new(),
        };
        let entries = vec![entry(1, EntryKind::Noop), entry(2, EntryKind::Command)];
        let entries = EntryBatch::from_entries(entries).unwrap();
        ApplyJob { slot: Slot::behind(0), entries, wanted: true, committed: Nanos::ZERO }
    }

    fn outcome(
        odd: fn(&Committed<'_>, &mut Replies) -> Result<(), MachineError>,
    ) -> Result<(), String> {
        run(&mut Odd(odd), &job(), &mut Replies::default()).map_err(|error| error.0)
    }

    #[test]
    fn a_reply_for_each_command_and_none_for_a_noop() {
        assert_eq!(
            outcome(|batch, replies| {
                batch.commands().for_each(|_| replies.push("ok"));
                Ok(())
            }),
            Ok(())
        );
    }

    /// RULES.md P9.
    #[test]
    fn a_panic_is_an_error_of_the_group() {
        let error = outcome(|_, _| panic!("index out of bounds")).unwrap_err();
        assert_eq!(error, "it panicked: index out of bounds");
    }

    struct At(u64);

    impl StateMachine for At {
        fn open(&mut self) -> Result<crate::AppliedAt, MachineError> {
            Ok(crate::AppliedAt(LogIndex(self.0)))
        }

        fn apply(&mut self, _: &Committed<'_>, _: &mut Replies) -> Result<(), MachineError> {
            unreachable!("nothing is applied")
        }
    }

    #[test]
    fn a_machine_opens_up_to_the_logs_end_and_no_further() {
        let open = |at| open(&mut At(at), LogIndex(5)).map_err(|error| error.0);
        assert_eq!(open(5), Ok(LogIndex(5)));
        assert_eq!(open(6).unwrap_err(), "it is at 6, but the log ends at 5");
    }

    #[test]
    fn a_missing_reply_is_an_error() {
        assert_eq!(outcome(|_, _| Ok(())).unwrap_err(), "it pushed 0 replies for 1 commands");
    }
}
