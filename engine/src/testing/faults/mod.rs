//! The faults that can strike a run, one file each.
//!
//! In:     a simulation, and the arguments that the seed drew for this fault when it made the schedule.
//! Out:    the run with the fault in it; each fault ends by itself, after some steps or by a restart.
//! Source: RULES.md, the rows of faults.
//!
//! To add one: a file with a `FAULT`, and its line in [`ADDED`]. A line in [`ALL`] would change what every seed draws
//! after it. The act of a fault depends only on its arguments and the run, so that a schedule still makes sense if
//! other faults are left out.

mod bad_sector;
mod broken_machine;
mod calm;
mod clog;
mod close;
mod crash;
mod crash_loop;
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
mod votes_on_full_disks;
mod wipe;
mod wiped_member;
mod write_error;

use super::{random::Random, shape::Shape, sim::Sim};

/// The arguments that a fault was drawn with; the head of each fault's file names them.
pub(super) type Args = [u64; 3];

/// A kind of fault.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// It strikes a run about so many times at most.
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

/// The faults that destroy durable bytes for good. A schedule draws at most two kinds of them: a majority of nodes
/// must stay whole, so further kinds would find nothing that they may destroy.
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

/// The fault that comes before each staged fault below.
pub(super) static CALM: Fault = calm::FAULT;

/// A fault of several acts in a row. If a run stages it, no other fault strikes for so many steps.
pub(super) struct Staged {
    pub(super) fault: Fault,
    pub(super) steps: fn(Args, &Shape) -> u64,
}

/// The faults that runs of so many nodes may stage: each leads to a situation that needs so many nodes.
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

/// A fault that is drawn apart from all others, from a random stream of its own: runs that it does not strike keep the
/// histories that they had before this fault was added.
pub(super) struct Added {
    pub(super) fault: Fault,
    /// It strikes one in so many of the runs whose shape allows it.
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
    /// The fault is staged for so many steps at the beginning of the run: faults of the schedule that would come
    /// before that time ends are left out. A run has one such fault at most.
    Staged(fn(Args, &Shape) -> u64),
}

/// Staged faults come first in this list: the others strike a run only after its staged fault.
pub(super) static ADDED: &[Added] = &[
    told_loss::ADDED,
    votes_at_the_quota::ADDED,
    votes_on_full_disks::ADDED,
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
    crash_loop::ADDED,
];

/// A node's place among all nodes, from a fault's argument.
fn node(at: u64) -> usize {
    usize::try_from(at).expect("a few nodes")
}
