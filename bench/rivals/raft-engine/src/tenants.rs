//! The work of an embedder beside writing: it releases durable entries, so that their segments can be used again.
//!
//! In:     batches that became durable; a write's id is its last entry's index.
//! Out:    [`Wal::release`] for every group when a segment is full, [`Wal::maintain`].
//! Cost:   a record per group and segment; a thread that reads what is to be carried, as in a node.
//! Fails:  with the log's error.

use crate::sleeper::Sleeper;
use logdrive_raft::{LogId, LogIndex, Term};
use logdrive_wal::{CarryDone, CarryPlan, Completed, Release, Wal};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

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
                let release = Release {
                    group: *group,
                    write: None,
                    base: LogId { term: Term(1), index: *last },
                    membership: &[],
                    hard_state: None,
                    snapshot: None,
                };
                wal.release(&release).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

/// The thread that reads what the log carries. It ends with its owner.
pub(crate) struct Reader {
    plans: SyncSender<CarryPlan>,
    done: Receiver<CarryDone>,
}

impl Reader {
    pub(crate) fn start(sleeper: Arc<Sleeper>) -> io::Result<Self> {
        // A log has one plan out at a time.
        let (plans, plans_out) = sync_channel::<CarryPlan>(1);
        let (done_in, done) = sync_channel(1);
        std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
            while let Ok(plan) = plans_out.recv() {
                if done_in.send(plan.run()).is_err() || sleeper.kick().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { plans, done })
    }

    /// Lets the log carry what a full segment still has that is needed: at most one write of each group.
    pub(crate) fn tidy(&mut self, wal: &mut Wal) -> io::Result<()> {
        if let Ok(done) = self.done.try_recv() {
            wal.carried(done).map_err(io::Error::other)?;
        }
        if let Some(plan) = wal.maintain().map_err(io::Error::other)? {
            self.plans.send(plan).map_err(io::Error::other)?;
        }
        Ok(())
    }
}
