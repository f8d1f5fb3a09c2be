//! The pure core of one thread's worth of groups: inputs in, batches out.
//!
//! Nothing here reads a clock, a random source, a file or a socket: the driver
//! (`engine/src/driver.rs`) and the simulator (`engine/src/testing`) run the same code.

mod core;
mod founding;
mod group_lines;
mod log_room;
mod proposals;
mod replica;
mod room;
mod round;
mod slot;
mod timers;

pub(crate) use self::core::{Founded, Shard, Timing};
pub(crate) use log_room::is_withdrawn;
pub(crate) use proposals::{Answer, Commands, Cost, Stamps, Submission};
pub(crate) use replica::GroupView;
pub(crate) use room::ShardOf;
pub(crate) use round::{ApplyJob, FetchJob, Round, WriteJob};
pub(crate) use slot::Slot;
