//! A leader that hears no majority for an election timeout is silent (thesis §6.2; RULES.md N2, N5).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "25 leader without quorum", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Sent { node, group, message, .. } = event else { return Ok(()) };
    if !matches!(message, Message::Heartbeat(_) | Message::AppendEntries(_)) {
        return Ok(());
    }
    let replica = ghost.replica(*node, *group);
    if replica.leads() != Some(message.term()) {
        return Ok(()); // it has led for less than a turn
    }
    // The leader and `needed` peers make a majority. The times at which each peer was last heard:
    let mut heard: Vec<u64> = (ghost.nodes.iter())
        .filter(|peer| *peer != node)
        .map(|peer| replica.heard.get(peer).copied().unwrap_or(replica.leads_since))
        .collect();
    heard.sort_unstable();
    let needed = ghost.majority() - 1;
    let Some(at) = heard.len().checked_sub(needed).filter(|_| needed > 0) else { return Ok(()) };
    let silent = replica.clock.saturating_sub(heard[at]);
    // A replica looks at its ticks when its turn gives out, which a busy disk delays by up to a heartbeat (`host.rs`).
    require(silent <= ghost.election_ticks + DELAY_TICKS, || {
        format!("{node:?} leads {group:?} and has heard no majority for {silent} of its ticks")
    })
}

/// The longest heartbeat by the fastest clock, and a turn on either side of the timeout.
const DELAY_TICKS: u64 = 5 + 8;
