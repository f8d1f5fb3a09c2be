//! What an embedder does with its groups beside writing: lets go of what is durable, so that segments go round.
//!
//! In:     batches that became durable; a write's id is its last entry's index.
//! Out:    [`Wal::release`] for every group when a segment is full, [`Wal::maintain`].
//! Cost:   a record per group and segment.
//! Fails:  with the log's error.

use logdrive_raft::{LogIndex, Term};
use logdrive_wal::{Completed, Wal};
use std::collections::BTreeMap;
use std::io;

/// The last durable entry of each group.
#[derive(Default)]
pub(crate) struct Tenants(BTreeMap<logdrive_raft::GroupId, LogIndex>);

impl Tenants {
    pub(crate) fn note(&mut self, wal: &mut Wal, batch: &Completed) -> io::Result<()> {
        for durable in &batch.durable {
            self.0.insert(durable.group(), LogIndex(durable.upto().0));
        }
        if batch.sealed {
            for (group, last) in &self.0 {
                wal.release(*group, *last, Term(1)).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// What is still needed of a full segment then is at most a write of each group: it is carried here and now.
    pub(crate) fn tidy(wal: &mut Wal) -> io::Result<()> {
        if let Some(plan) = wal.maintain().map_err(io::Error::other)? {
            wal.carried(plan.run()).map_err(io::Error::other)?;
        }
        Ok(())
    }
}
