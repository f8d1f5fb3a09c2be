//! An elected leader has every entry that was committed in an earlier term (paper §5.4).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Role;

pub(super) const INVARIANT: Invariant = Invariant { name: "5 leader completeness", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Turned { node, group, status, .. } = event else { return Ok(()) };
    let replica = ghost.replica(*node, *group);
    if status.role != Role::Leader || replica.leads() == Some(status.term) {
        return Ok(());
    }
    let Some(committed) = ghost.committed.get(group) else { return Ok(()) };
    // A leader elected late, by votes of a term that the others have left, may lack the entries committed since then.
    let terms = ghost.committed_in.get(group).map_or(&[][..], Vec::as_slice);
    for (at, mark) in committed.iter().enumerate().filter(|(at, _)| terms[*at] < status.term) {
        let own = replica.state.log.get(at);
        require(own == Some(mark), || {
            let (index, term) = (at + 1, status.term);
            format!("{node:?} leads {group:?} in {term:?} with {own:?} at {index}, not {mark:?}")
        })?;
    }
    Ok(())
}
