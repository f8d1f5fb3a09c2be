//! The faults that can strike a run, a file each.
//!
//! In:     a simulation, and what the seed drew for this fault when it made the schedule.
//! Out:    the run with the fault in it; each ends by itself, by step or by a restart.
//! Source: RULES.md, the rows of faults.
//!
//! To add one: a file with a `FAULT`, and its line in [`ADDED`]. A line in [`ALL`] would change what every seed draws
//! after it. The act of a fault depends only on its arguments and the run, so that a schedule with others left out
//! still makes sense.

mod bad_sector;
mod broken_machine;
mod calm;
mod clog;
mod close;
mod crash;
mod damage;
mod disk_full;
mod end_within_machine;
mod failing_operation;
mod false_success;
mod flap;
mod forgetful_leader;
mod full_again;
mod full_followers;
mod gust;
mod kill;
mod last_word;
mod late_news;
mod lost_end;
mod lying_disk;
mod metadata;
mod old_frames;
mod one_way;
mod other_founding;
mod partition;
mod pause;
mod pause_leaders;
mod power_loss;
mod replaced_machine;
mod restored_directory;
mod rot_at_work;
mod short_write;
mod shuffle;
mod slow_disk;
mod small_memory;
mod stray_read;
mod stray_write;
mod stuck_thread;
mod swap;
mod told_loss;
mod votes_at_the_quota;
mod wipe;
mod wiped_member;
mod write_error;

use super::{random::Random, shape::Shape, sim::Sim};

/// The arguments that a fault was drawn with; each fault says what they are.
pub(super) type Args = [u64; 3];

/// A kind of fault.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// At most about so many in a run.
    pub(super) often: u64,
    pub(super) draw: fn(&mut Random, &Shape) -> Args,
    pub(super) inject: fn(&mut Sim, Args),
}

pub(super) static ALL: &[Fault] = &[
    crash::FAULT,
    kill::FAULT,
    close::FAULT,
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
    short_write::FAULT,
    failing_operation::FAULT,
    metadata::FAULT,
    swap::FAULT,
    broken_machine::FAULT,
    last_word::FAULT,
    forgetful_leader::FAULT,
    end_within_machine::FAULT,
    stuck_thread::FAULT,
];

/// Those that take durable bytes for good. A run has two kinds of them at most: a majority must be whole, so more of
/// them would only find that there is nothing left to take.
pub(super) static IMPAIRING: &[Fault] = &[
    damage::FAULT,
    bad_sector::FAULT,
    stray_read::FAULT,
    stray_write::FAULT,
    lying_disk::FAULT,
    false_success::FAULT,
    lost_end::FAULT,
    wipe::FAULT,
    wiped_member::FAULT,
    restored_directory::FAULT,
];

/// The fault that goes before each staged fault below.
pub(super) static CALM: Fault = calm::FAULT;

/// A fault that takes several things in a row, and for how many steps it has the stage if a run gives it to it.
pub(super) struct Staged {
    pub(super) fault: Fault,
    pub(super) steps: fn(Args, &Shape) -> u64,
}

/// Those that runs of so many nodes let have the stage: the situations they lead to take so many.
pub(super) fn staged(nodes: usize) -> &'static [Staged] {
    static OF_THREE: &[Staged] = &[
        last_word::STAGED,
        last_word::STAGED,
        last_word::STAGED,
        forgetful_leader::STAGED,
        late_news::STAGED,
    ];
    static OF_FOUR: &[Staged] = &[forgetful_leader::STAGED, late_news::STAGED];
    static OF_FIVE: &[Staged] = &[shuffle::STAGED];
    match nodes {
        3 => OF_THREE,
        4 => OF_FOUR,
        5 => OF_FIVE,
        _ => &[],
    }
}

/// A fault that is drawn beside all others, from a stream of its own: runs that it does not strike have the histories
/// that they had before there was such a fault.
pub(super) struct Added {
    pub(super) fault: Fault,
    /// It strikes one run in so many, of those whose shape allows it.
    pub(super) once_in: u64,
    pub(super) strikes: fn(&Shape) -> bool,
    pub(super) when: When,
}

/// When an added fault strikes.
pub(super) enum When {
    /// Before the first step.
    First,
    /// At any step, up to [`Fault::often`] times.
    Anytime,
    /// It has the stage for so many steps, at the beginning of the run: faults of the schedule that would come before its
    /// end are left out. A run has one such fault at most.
    Staged(fn(Args, &Shape) -> u64),
}

/// Those that have the stage come first: the others come behind it.
pub(super) static ADDED: &[Added] = &[
    told_loss::ADDED,
    votes_at_the_quota::ADDED,
    Added {
        fault: shuffle::FAULT,
        once_in: 2,
        strikes: |shape| shape.nodes.len() == 5,
        when: When::Staged(shuffle::STAGED.steps),
    },
    Added {
        fault: forgetful_leader::FAULT,
        once_in: 12,
        strikes: |shape| [3, 4].contains(&shape.nodes.len()),
        when: When::Staged(forgetful_leader::STAGED.steps),
    },
    other_founding::ADDED,
    small_memory::ADDED,
    replaced_machine::ADDED,
    rot_at_work::ADDED,
    full_followers::ADDED,
    full_again::ADDED,
    Added { fault: stray_write::FAULT, once_in: 3, strikes: |_| true, when: When::Anytime },
];

/// A node's place, from an argument.
fn node(at: u64) -> usize {
    usize::try_from(at).expect("a few nodes")
}
