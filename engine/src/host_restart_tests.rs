//! A group whose machine failed gets another one, on simulated disks and between two healthy peers.
//!
//! In:     where and when a machine fails, how long it is away, what happens meanwhile.
//! Out:    what the other machine was handed, and what the group does with it.

use super::*;
use crate::shard::Slot;
use std::sync::atomic::{AtomicBool, Ordering};

/// Notes the entries whose commands it is handed, and fails when it is told to.
#[derive(Clone, Default)]
struct Noting {
    seen: Arc<Mutex<Vec<LogIndex>>>,
    fails: Arc<AtomicBool>,
}

impl StateMachine for Noting {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(MachineError("told to fail".to_owned()));
        }
        for command in batch.commands() {
            self.seen.lock().unwrap().push(command.index);
            replies.push(Bytes::new());
        }
        Ok(())
    }
}

fn noting(trio: &mut Trio) -> Vec<Noting> {
    let put = |(node, machine): (&mut Node, &Noting)| {
        let host = node.host.as_mut().expect("it runs");
        host.machines[0] = Box::new(machine.clone());
    };
    let all: Vec<Noting> = (0..3).map(|_| Noting::default()).collect();
    trio.nodes.iter_mut().zip(&all).for_each(put);
    all
}

fn restart(trio: &Trio, at: usize, applied: LogIndex, machine: &Noting) {
    let control = Control::Restart(GROUP, applied, Box::new(machine.clone()));
    trio.nodes[at].arrivals.inbox().control(control, false).unwrap();
}

fn runs(trio: &Trio, at: usize) -> bool {
    let host = trio.nodes[at].host.as_ref().expect("its node runs on");
    !host.shard.is_stopped(Slot::behind(0))
}

/// Its machine fails though it has nothing to apply.
fn fail(trio: &mut Trio, at: usize) {
    let host = trio.nodes[at].host.as_mut().expect("it runs");
    let error = MachineError("told to fail".to_owned());
    host.shard.machine_failed(Slot::behind(0), error, &mut host.answers);
}

/// Proposes until a command is answered with success, whoever leads by then.
fn succeed(trio: &mut Trio, but: Option<usize>) {
    for _ in 0..20 * TAKE_OVER_TICKS {
        if let Some(leader) = trio.leader().filter(|at| Some(*at) != but)
            && trio.now.is_multiple_of(5)
        {
            trio.propose(leader);
        }
        trio.step();
        if trio.outcomes().iter().any(Result::is_ok) {
            return;
        }
    }
    panic!("no command succeeded");
}

fn is_even(trio: &Trio) -> bool {
    let cursors = |at| trio.status(at).map(|s| (s.last_log.index, s.commit, s.applied));
    let first = cursors(0);
    (0..3).all(|at| cursors(at) == first && cursors(at).is_some_and(|c| c.0 == c.2))
}

/// RULES.md P9.
#[test]
fn a_group_with_another_machine_is_handed_all_of_its_log_in_order_and_counts_again() {
    for seed in 0..40 {
        let mut trio = Trio::new(seed);
        let machines = noting(&mut trio);
        succeed(&mut trio, None);
        trio.until("all are even", 500, is_even);
        // The leader's machine, or a follower's; and its disk may answer only once the machine is gone.
        let leader = trio.leader().unwrap();
        let at = if seed % 2 == 0 { leader } else { (leader + 1) % 3 };
        machines[at].fails.store(true, Ordering::Relaxed);
        trio.propose(leader);
        for step in 0..200 {
            if !runs(&trio, at) {
                break;
            }
            if step % 3 == 0 {
                trio.propose(leader);
            }
            trio.step();
        }
        assert!(!runs(&trio, at), "seed {seed}: it stopped");
        trio.nodes[at].is_stuck = seed % 3 == 0;
        (0..seed).for_each(|_| trio.step());
        trio.nodes[at].is_stuck = false;
        succeed(&mut trio, Some(at));
        assert_ne!(trio.leader(), Some(at), "seed {seed}: it leads without a machine");

        // A machine that is further than any was is not run.
        let other = Noting::default();
        restart(&trio, at, LogIndex(1 << 40), &other);
        trio.step();
        assert!(!runs(&trio, at), "seed {seed}: a machine from the future runs");
        // Half of the other machines are durable by themselves, and know the log's beginning.
        let seen_before = machines[at].seen.lock().unwrap().clone();
        let knows = if seed % 4 < 2 { LogIndex::ZERO } else { seen_before[0] };
        restart(&trio, at, knows, &other);
        trio.step();
        assert!(runs(&trio, at), "seed {seed}: it runs again");
        succeed(&mut trio, None);
        trio.until("all are even", 500, is_even);
        let healthy = machines[(at + 1) % 3].seen.lock().unwrap().clone();
        let rest: Vec<LogIndex> = healthy.iter().copied().filter(|index| *index > knows).collect();
        assert_eq!(*other.seen.lock().unwrap(), rest, "seed {seed}");

        // It votes and acknowledges: without one of the others nothing succeeds but with it.
        let gone = (at + 1 + usize::from(seed % 5 == 0)) % 3;
        trio.nodes[gone].host = None;
        succeed(&mut trio, Some(gone));
        trio.until("it has applied it", 500, |trio| {
            let third = 3 - at - gone;
            trio.status(at).map(|s| s.applied) == trio.status(third).map(|s| s.last_log.index)
        });
    }
}

/// The log of a group without a machine goes on: writes that were given to it land, or are taken back for want of room.
#[test]
fn what_is_written_or_withdrawn_without_a_machine_is_known_to_the_next() {
    let mut withdrawn = 0;
    for seed in 0..40 {
        let mut trio = Trio::new(seed);
        let machines = noting(&mut trio);
        succeed(&mut trio, None);
        let leader = trio.leader().unwrap();
        let at = if seed % 4 < 2 { leader } else { (leader + 1) % 3 };
        // Its disk makes no segment, so that writes come to wait.
        trio.nodes[at].ticks_per_making_step = 1 << 40;
        let large = Bytes::from(vec![7; 6 << 10]);
        for step in 0..60 {
            if step == 12 + seed % 12 {
                machines[at].fails.store(true, Ordering::Relaxed);
            }
            if trio.leader() == Some(leader) {
                trio.propose_payload(leader, large.clone());
            }
            trio.step();
        }
        if runs(&trio, at) {
            // It had nothing to apply any more.
            fail(&mut trio, at);
        }
        trio.nodes[at].ticks_per_making_step = 0;
        let last = |trio: &Trio| trio.status(at).map(|status| status.last_log.index);
        let before = last(&trio);
        for _ in 0..60 {
            if seed % 2 == 1 {
                // And then it can make none.
                trio.nodes[at].platter.set_segments_left(Some(0));
            }
            trio.step();
        }
        withdrawn += u32::from(last(&trio) < before);
        trio.nodes[at].platter.set_segments_left(None);
        let other = Noting::default();
        restart(&trio, at, LogIndex::ZERO, &other);
        trio.step();
        assert!(runs(&trio, at), "seed {seed}: it runs again");
        succeed(&mut trio, None);
        trio.until("all are even", 2000, is_even);
        let healthy = machines[(at + 1) % 3].seen.lock().unwrap().clone();
        assert_eq!(*other.seen.lock().unwrap(), healthy, "seed {seed}");
    }
    assert!(withdrawn > 5, "only {withdrawn} logs took something back");
}

/// Nobody leads then, and nobody is heard: the replica that stands first must do so by its own timer.
#[test]
fn a_group_whose_machines_have_all_failed_goes_on_with_others() {
    for seed in 0..10 {
        let mut trio = Trio::new(seed);
        noting(&mut trio);
        succeed(&mut trio, None);
        (0..3).for_each(|at| fail(&mut trio, at));
        (0..100).for_each(|_| trio.step());
        let others: Vec<Noting> = (0..3).map(|_| Noting::default()).collect();
        for (at, other) in others.iter().enumerate() {
            restart(&trio, at, LogIndex::ZERO, other);
        }
        succeed(&mut trio, None);
        trio.until("all are even", 500, is_even);
        let seen: Vec<Vec<LogIndex>> =
            others.iter().map(|other| other.seen.lock().unwrap().clone()).collect();
        assert!(seen[0].len() >= 2 && seen[1..].iter().all(|other| *other == seen[0]), "{seen:?}");
    }
}
