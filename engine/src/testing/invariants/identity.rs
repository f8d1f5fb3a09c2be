//! A node starts on its own log or not at all: a node that lost its log, or has another node's, could vote twice in a
//! term (RULES.md P6, C7, invariant 20).

use super::{Check, Invariant};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;

pub(super) const INVARIANT: Invariant = Invariant { name: "20 identity", check };

fn check(_: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::Impostor { node } => {
            Err(format!("{node:?} started on a log that is missing or another's"))
        }
        _ => Ok(()),
    }
}
