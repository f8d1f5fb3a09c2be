//! An acknowledged command stays at its index; a refused command never happens; every command is answered, and none
//! twice (RULES.md invariant 10).

use super::{Check, Invariant, require};
use crate::testing::event::{Event, Known, Proposed, known};
use crate::testing::ghost::Ghost;

pub(super) const INVARIANT: Invariant = Invariant { name: "10 client durability", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::Answered { serial, outcome } => {
            let at = usize::try_from(*serial).expect("a position");
            let command = &ghost.commands[at];
            require(command.known == Known::Waiting, || {
                format!("command {serial} is answered {outcome:?}, but was {command:?}")
            })?;
            if let Ok(answer) = outcome {
                let applied = ghost.applied.get(&(command.group, answer.index));
                return require(applied.is_some_and(|applied| applied.serial == *serial), || {
                    format!("command {serial} has {answer:?}, but there stands {applied:?}")
                });
            }
            let happened = ghost.applied_serials.contains(serial);
            require(known(outcome) != Known::No || !happened, || {
                format!("command {serial} is refused ({outcome:?}), but was applied")
            })
        }
        Event::End { at } => {
            for ((group, index), serial) in &ghost.acknowledged {
                for (node, _) in at.alive.get(group).into_iter().flatten() {
                    let applied = ghost.replica(*node, *group).applied;
                    require(applied >= Some(*index), || {
                        format!(
                            "{node:?} lacks command {serial}, acknowledged at {index:?} of \
                             {group:?}; it has applied {applied:?}"
                        )
                    })?;
                }
            }
            // A client whose process has ended knows that the outcome is unknown, and waits no more.
            let mut commands = ghost.commands.iter().enumerate();
            let waits = commands.find(|(_, command)| command.known == Known::Waiting);
            require(waits.is_none(), || {
                let (serial, Proposed { node, group, command, .. }) = waits.expect("one waits");
                let command = ghost.describe.command(command);
                format!("command {serial} of {group:?} at {node:?} was never answered: {command}")
            })
        }
        _ => Ok(()),
    }
}
