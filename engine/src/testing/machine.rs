//! The simulated state machine: remembers what it was told, in order, where the judge can see it.

use crate::{Committed, LogIndex, MachineError, Replies, StateMachine, Term};
use std::sync::{Arc, Mutex, PoisonError};

/// A command of the simulation is its serial number.
pub(super) type Serial = u64;

/// What one incarnation of one replica's machine has applied.
#[derive(Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<Vec<(LogIndex, Term, Serial)>>>);

impl Clone for Ledger {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Ledger {
    /// What was applied since position `from` of the ledger.
    pub(super) fn since(&self, from: usize) -> Vec<(LogIndex, Term, Serial)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[from..].to_vec()
    }
}

/// Writes every command into its ledger; the reply is the command.
pub(super) struct Recorder(pub(super) Ledger);

impl StateMachine for Recorder {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        let mut ledger = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        for command in batch.commands() {
            let (serial, _) = command.bytes.split_first_chunk().ok_or_else(|| {
                MachineError(format!("a command of {} bytes", command.bytes.len()))
            })?;
            ledger.push((command.index, command.term, Serial::from_le_bytes(*serial)));
            replies.push(command.bytes.clone());
        }
        Ok(())
    }
}
