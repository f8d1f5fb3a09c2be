//! What is under way keeps to its bounds: writes in flight, and the bytes of one append
//! (FAULTS.md §4, 23).

use super::{Check, Invariant, require};
use crate::limits::APPEND_BYTES_MAX;
use crate::testing::ghost::{Event, Ghost};
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "23 bounds", check };

fn check(_: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::Loaded { node, in_flight, in_flight_max } => {
            require(in_flight <= in_flight_max, || {
                format!("{node:?} has {in_flight} writes in flight, at most {in_flight_max}")
            })
        }
        Event::Sent { node, group, message: Message::AppendEntries(m), .. } => {
            let bytes = m.entries.cost_bytes();
            require(bytes <= APPEND_BYTES_MAX || m.entries.len() == 1, || {
                format!("{node:?} appends {bytes} bytes at once to {group:?}")
            })
        }
        _ => Ok(()),
    }
}
