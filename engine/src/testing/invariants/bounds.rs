//! Work under way keeps to its bounds (RULES.md invariant 23; ARCHITECTURE.md's table of queues): a log's writes in
//! flight, one append's bytes, appends in flight to one follower of a group, a group's uncommitted bytes.

use super::{Check, Invariant, require};
use crate::LogIndex;
use crate::testing::event::Event;
use crate::testing::ghost::{Ghost, InFlight, Replica, count};
use logdrive_raft::{ENTRY_OVERHEAD_BYTES, Message, Role};

pub(super) const INVARIANT: Invariant = Invariant { name: "23 bounds", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let limits = &ghost.limits;
    match event {
        Event::Loaded { node, in_flight, in_flight_max } => {
            require(in_flight <= in_flight_max, || {
                format!("{node:?} has {in_flight} writes in flight, at most {in_flight_max}")
            })
        }
        Event::Sent { node, to, group, message: Message::AppendEntries(m) } => {
            if m.entries.is_empty() {
                return Ok(());
            }
            let bytes = m.entries.cost_bytes();
            require(bytes <= limits.append_bytes_max || m.entries.len() == 1, || {
                format!("{node:?} appends {bytes} bytes at once to {group:?}")
            })?;
            // An append leaves while the window has some room, and may be larger than that room: its old entries
            // have been read back already.
            let window = ghost.replica(*node, *group).windows.get(to);
            let InFlight { appends, bytes } =
                window.map_or(InFlight::default(), |window| window.before(m));
            let has_room =
                appends < limits.inflight_messages_max && bytes < limits.inflight_bytes_max;
            require(appends == 0 || has_room, || {
                format!(
                    "{node:?} appends to {to:?} of {group:?} over {appends} of {bytes} bytes in flight: \
                     {limits:?}"
                )
            })
        }
        Event::Turned { node, group, status, .. } if status.role == Role::Leader => {
            let replica = ghost.replica(*node, *group);
            if replica.leads() != Some(status.term) {
                return Ok(()); // a leader does not choose the entries it is elected with
            }
            let last = replica.status.map_or(LogIndex::ZERO, |before| before.last_log.index);
            let uncommitted = commands_cost_bytes(replica, status.commit);
            // If nothing else is uncommitted, a batch of commands may be of any size.
            let new = commands_cost_bytes(replica, last.max(status.commit));
            require(
                new == 0 || uncommitted == new || uncommitted <= limits.uncommitted_bytes_max,
                || {
                    format!(
                        "{node:?} took {new} bytes for {group:?}, {uncommitted} not committed: {limits:?}"
                    )
                },
            )
        }
        _ => Ok(()),
    }
}

/// The bytes that the commands behind an index count for. No-ops, which carry no bytes, are left out: a leader appends
/// one for a readmitted replica however much is not committed, because nothing behind it might ever commit otherwise.
fn commands_cost_bytes(replica: &Replica, behind: LogIndex) -> usize {
    let costs = replica.cost_bytes.iter().skip(count(behind));
    costs.filter(|cost| **cost > ENTRY_OVERHEAD_BYTES).sum()
}
