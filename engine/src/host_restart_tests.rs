//! A group whose machine failed gets another one, on simulated disks and between two healthy peers; a node goes on from what
//! a power cut left on its disk.
//!
//! In:     where and when a machine fails, how long it is away, what happens meanwhile; which writes have landed.
//! Out:    what the other machine was handed, and what the group does with it.

use super::*;
use crate::shard::Slot;
use logdrive_raft::{AppendEntries, Entry};
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

/// Makes a node's machine fail though it has nothing to apply.
fn fail(trio: &mut Trio, at: usize) {
    let host = trio.nodes[at].host.as_mut().expect("it runs");
    let error = MachineError("told to fail".to_owned());
    host.shard.machine_failed(Slot::behind(0), error, &mut host.answers);
}

/// Proposes to each node that leads, except `but`, until a command succeeds.
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
        // The leader's machine fails, or a follower's. In a third of the runs that node's disk answers only a while later.
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
        assert!(!runs(&trio, at), "seed {seed}: the group did not stop");
        trio.nodes[at].is_stuck = seed % 3 == 0;
        (0..seed).for_each(|_| trio.step());
        trio.nodes[at].is_stuck = false;
        succeed(&mut trio, Some(at));
        assert_ne!(trio.leader(), Some(at), "seed {seed}: it leads without a machine");

        // A machine that claims to have applied more than the log holds is not run.
        let other = Noting::default();
        restart(&trio, at, LogIndex(1 << 40), &other);
        trio.step();
        assert!(!runs(&trio, at), "seed {seed}: a machine from the future runs");
        // Half of the other machines are durable by themselves, and know the log's beginning.
        let seen_before = machines[at].seen.lock().unwrap().clone();
        let knows = if seed % 4 < 2 { LogIndex::ZERO } else { seen_before[0] };
        restart(&trio, at, knows, &other);
        trio.step();
        assert!(runs(&trio, at), "seed {seed}: the group does not run again");
        succeed(&mut trio, None);
        trio.until("all are even", 500, is_even);
        let healthy = machines[(at + 1) % 3].seen.lock().unwrap().clone();
        let rest: Vec<LogIndex> = healthy.iter().copied().filter(|index| *index > knows).collect();
        assert_eq!(*other.seen.lock().unwrap(), rest, "seed {seed}");

        // The restarted replica votes and acknowledges: with one of the others gone, no command succeeds without it.
        let gone = (at + 1 + usize::from(seed % 5 == 0)) % 3;
        trio.nodes[gone].host = None;
        succeed(&mut trio, Some(gone));
        trio.until("it has applied everything", 500, |trio| {
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
        // The node's disk makes no segment, so that writes come to wait.
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
            // The machine had nothing to apply any more, so it did not fail by itself.
            fail(&mut trio, at);
        }
        trio.nodes[at].ticks_per_making_step = 0;
        let last = |trio: &Trio| trio.status(at).map(|status| status.last_log.index);
        let before = last(&trio);
        for _ in 0..60 {
            if seed % 2 == 1 {
                // In every other run the disk then has no room for a segment.
                trio.nodes[at].platter.set_segments_left(Some(0));
            }
            trio.step();
        }
        withdrawn += u32::from(last(&trio) < before);
        trio.nodes[at].platter.set_segments_left(None);
        let other = Noting::default();
        restart(&trio, at, LogIndex::ZERO, &other);
        trio.step();
        assert!(runs(&trio, at), "seed {seed}: the group does not run again");
        succeed(&mut trio, None);
        trio.until("all are even", 2000, is_even);
        let healthy = machines[(at + 1) % 3].seen.lock().unwrap().clone();
        assert_eq!(*other.seen.lock().unwrap(), healthy, "seed {seed}");
    }
    assert!(withdrawn > 5, "only {withdrawn} logs took something back");
}

/// Once all machines have failed no replica leads, and none is heard: the first that stands must do so by its own timer.
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

/// Notes the term and the index of every command that it is handed.
#[derive(Clone, Default)]
struct Terms(Arc<Mutex<Vec<(u64, u64)>>>);

impl StateMachine for Terms {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for command in batch.commands() {
            self.0.lock().unwrap().push((command.term.get(), command.index.get()));
            replies.push(Bytes::new());
        }
        Ok(())
    }
}

/// A node's process begins again on what its disk holds, which is returned.
fn reopen(trio: &mut Trio, at: usize, machine: &Terms) -> logdrive_wal::RecoveredGroup {
    let ids = [1, 2, 3].map(NodeId);
    let node = &mut trio.nodes[at];
    node.host = None;
    let (wal, recovered) = open(&node.platter, &node.identity);
    let found = recovered.groups.into_iter().find(|found| found.group == GROUP).unwrap();
    node.shared = shared(&ids, &node.identity);
    node.arrivals = Rc::new(Arrivals::new(node.shared.inboxes[SHARD].clone()));
    let mut host = ShardHost::new(node.shared.clone(), SHARD, node.arrivals.clone(), wal, 1);
    let restored = Founded {
        membership: None,
        hard_state: found.hard_state,
        runs: found.runs.clone(),
        last: found.last,
        durable: found.durable,
        ..founded(GROUP, &ids, false)
    };
    host.add(restored, Box::new(machine.clone())).unwrap();
    node.host = Some(host);
    found
}

/// Commands of one term, one for each payload's size.
fn append_of(term: Term, prev_log: LogId, commit: u64, sizes: &[usize]) -> AppendEntries {
    let entry = |(bytes, index): (&usize, u64)| {
        let payload = Bytes::from(vec![7; *bytes]);
        let (index, checksum) = (LogIndex(index), logdrive_wal::checksum(&payload));
        Entry { term, index, kind: EntryKind::Command, checksum, payload }
    };
    let entries = sizes.iter().zip(prev_log.index.get() + 1..).map(entry).collect();
    let entries = EntryBatch::from_entries(entries).unwrap();
    AppendEntries { term, prev_log, commit: LogIndex(commit), entries }
}

/// RULES.md B1. The history that broke it:
/// 1. One follower has three entries that nobody committed, and knows a later term.
/// 2. The leader of that term has committed five others in their place. Its append, and a heartbeat of a yet later leader,
///    arrive in one turn. The first of the five does not fit the segment, so the hard state is in the batch before it.
/// 3. That batch lands, and the power fails.
#[test]
fn what_nobody_committed_is_not_applied_after_a_power_cut_between_a_hard_state_and_its_entries() {
    let mut trio = Trio::new(1);
    succeed(&mut trio, None);
    trio.until("all are even", 500, is_even);
    let one = trio.leader().unwrap();
    let (two, three) = ((one + 1) % 3, (one + 2) % 3);
    let ids = [one, two, three].map(|at| trio.nodes[at].id);
    let (status, first) = (trio.status(three).unwrap(), trio.status(three).unwrap().last_log);
    let term = |later: u64| Term(status.term.get() + later);
    let last = first.index.get();
    // 3 hears only what this test says.
    (trio.nodes[one].host, trio.nodes[two].host) = (None, None);
    let say = |trio: &mut Trio, messages: Vec<(NodeId, Message)>, steps: usize| {
        trio.under_way = messages.into_iter().map(|(from, m)| (from, ids[2], m)).collect();
        (0..steps).for_each(|_| trio.step());
    };
    let heartbeat = |later: u64| {
        let (term, commit, matched) = (term(later), LogIndex::ZERO, LogId::ZERO);
        Message::Heartbeat(Heartbeat { term, commit, matched })
    };

    let old = append_of(term(0), first, last, &[20; 3]);
    say(&mut trio, vec![(ids[0], Message::AppendEntries(old))], 8);
    say(&mut trio, vec![(ids[1], heartbeat(1))], 8);
    let status = trio.status(three).unwrap();
    let ends = (status.last_log.index.get(), status.durable.get(), status.commit.get());
    assert_eq!((status.term, ends), (term(1), (last + 3, last + 3, last)));

    let sizes = [50 << 10, 20, 20, 20, 20];
    let new = append_of(term(1), first, last + 5, &sizes);
    trio.nodes[three].is_stuck = true;
    let both = vec![(ids[1], Message::AppendEntries(new.clone())), (ids[0], heartbeat(2))];
    say(&mut trio, both, 1);
    assert_eq!(trio.status(three).unwrap().commit, LogIndex(last + 5));
    trio.nodes[three].platter.complete_nth(0);
    trio.nodes[three].platter.crash_choosing(|_| false);
    let machine = Terms::default();
    let found = reopen(&mut trio, three, &machine);
    // Of that write the hard state has landed, and none of the entries.
    assert_eq!((found.hard_state.term, found.last), (term(2), LogIndex(last + 3)));

    trio.nodes[three].is_stuck = false;
    (0..8).for_each(|_| trio.step());
    let behind = |machine: &Terms| -> Vec<_> {
        machine.0.lock().unwrap().iter().copied().filter(|(_, index)| *index > last).collect()
    };
    assert_eq!(behind(&machine), [], "applied, by term and index");
    // The leader of the last term says what the group was founded with, finds where the logs meet, and sends what was
    // committed.
    let mut append = new;
    append.term = term(2);
    say(&mut trio, vec![(ids[0], heartbeat(2))], 1);
    let asked = trio.under_way.iter().find_map(|(_, to, message)| {
        let is_founding = *to == ids[0] && matches!(message, Message::Founding(_));
        is_founding.then(|| message.clone())
    });
    let answer = asked.expect("3 asks what the group was founded with");
    say(&mut trio, vec![(ids[0], answer), (ids[0], Message::AppendEntries(append))], 8);
    let committed: Vec<_> = (last + 1..=last + 5).map(|index| (term(1).get(), index)).collect();
    assert_eq!(behind(&machine), committed);
}
