//! Helpers that turn a log over: a group writes entries and releases them, and the log gives their segments back.

use super::{Sim, entries, released, write};
use logdrive_wal::{SegmentSeq, Wal, WalError};

/// Lets the log give back every segment that it will, and lets all operations finish.
pub(crate) fn give_back(sim: &Sim, wal: &mut Wal) {
    let mut quiet = 0;
    for step in 0.. {
        if quiet == 3 {
            break;
        }
        assert!(step < 2000, "no end of giving back: {:?} {:?}", wal.usage(), wal.metrics());
        let before = wal.metrics();
        let plan = wal.maintain().unwrap();
        quiet = if plan.is_some() { 0 } else { quiet + 1 };
        if let Some(plan) = plan {
            wal.carried(plan.run()).unwrap();
        }
        sim.settle(wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
        if wal.metrics().retired != before.retired {
            quiet = 0;
        }
    }
}

/// One group that writes and releases, so that the log turns over.
pub(crate) struct Busy {
    pub(crate) group: u64,
    pub(crate) next: u64,
}

impl Busy {
    pub(crate) fn new(group: u64) -> Self {
        Self { group, next: 1 }
    }

    pub(crate) fn write(
        &mut self,
        wal: &mut Wal,
        count: u64,
        bytes: usize,
    ) -> Result<(), WalError> {
        let run = entries(self.group, 1, self.next, count, bytes);
        wal.append(&write(self.group, self.next, &run))?;
        self.next += count;
        Ok(())
    }

    pub(crate) fn release_all(&self, wal: &mut Wal) -> Result<(), WalError> {
        wal.release(&released(self.group, self.next - 1, 1))
    }
}

/// Writes, releases, and lets the log give back some space. Fails if the simulated power fails meanwhile.
pub(crate) fn turn_over(sim: &Sim, wal: &mut Wal, busy: &mut Busy) -> Result<(), WalError> {
    busy.write(wal, 10, 1000)?;
    busy.release_all(wal)?;
    let mut completed = Vec::new();
    for _ in 0..4 {
        if let Some(plan) = wal.maintain()? {
            wal.carried(plan.run())?;
        }
        wal.submit(0)?;
        sim.platter.complete_all();
        wal.poll(0, &mut completed)?;
    }
    Ok(())
}

pub(crate) fn find(sim: &Sim, segment: SegmentSeq, needle: &[u8]) -> Option<usize> {
    let bytes = sim.platter.segment(segment);
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// Takes turns in which nothing is written; returns how many reads carrying asked for.
pub(crate) fn idle_turns(sim: &Sim, wal: &mut Wal, turns: u32) -> u32 {
    let mut reads = 0;
    for _ in 0..turns {
        if let Some(plan) = wal.maintain().unwrap() {
            reads += 1;
            wal.carried(plan.run()).unwrap();
        }
        wal.submit(0).unwrap();
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    reads
}
