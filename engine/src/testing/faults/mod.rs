//! What can go wrong, a file each.
//!
//! In:     a run, and what the seed drew for this fault when it made the schedule.
//! Out:    the run with the fault in it; each ends by itself, by step or by a restart.
//! Source: FAULTS.md §1.2.
//!
//! To add one: a file with a `FAULT`, and its line in [`ALL`]. What a fault does depends only on its
//! arguments and the run, so that a schedule with others left out still makes sense.

mod broken_machine;
mod clog;
mod crash;
mod damage;
mod disk_full;
mod flap;
mod forgetful_leader;
mod gust;
mod kill;
mod last_word;
mod old_frames;
mod one_way;
mod partition;
mod pause;
mod pause_leaders;
mod power_loss;
mod shuffle;
mod slow_disk;
mod swap;
mod wipe;
mod write_error;

use super::{random::Random, run::Run, shape::Shape};

/// What a fault was drawn with; each says what they are.
pub(super) type Args = [u64; 3];

/// A kind of fault.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// At most about so many in a run.
    pub(super) often: u64,
    pub(super) draw: fn(&mut Random, &Shape) -> Args,
    pub(super) inject: fn(&mut Run, Args),
}

pub(super) static ALL: &[Fault] = &[
    crash::FAULT,
    kill::FAULT,
    power_loss::FAULT,
    pause::FAULT,
    pause_leaders::FAULT,
    shuffle::FAULT,
    partition::FAULT,
    one_way::FAULT,
    clog::FAULT,
    gust::FAULT,
    flap::FAULT,
    old_frames::FAULT,
    slow_disk::FAULT,
    disk_full::FAULT,
    write_error::FAULT,
    damage::FAULT,
    wipe::FAULT,
    swap::FAULT,
    broken_machine::FAULT,
    last_word::FAULT,
    forgetful_leader::FAULT,
];

/// A node's place, from an argument.
fn node(at: u64) -> usize {
    usize::try_from(at).expect("a few nodes")
}
