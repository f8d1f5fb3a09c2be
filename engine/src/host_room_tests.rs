//! Logs without room: what their nodes are sent, what waits, and who is answered.
//!
//! In:     disks that are full, quotas, segments that are made slowly.
//! Out:    bytes sent in vain, votes, outcomes.
//! Source: RULES.md W9, W10.

use super::*;
use crate::ProposeError;

const SEGMENT_BYTES: u64 = 64 << 10;

/// Takes a step in which the disks of the nodes `full` say again that they are full, as a real disk's maker does.
fn step_with_full(trio: &mut Trio, full: &[usize]) {
    full.iter().for_each(|at| trio.nodes[*at].platter.set_segments_left(Some(0)));
    trio.step();
}

/// Appends that a step sent to a node.
struct Sent {
    entry_bytes: usize,
    /// Appends without entries.
    probes: usize,
}

fn sent_to(trio: &Trio, at: usize) -> Sent {
    let to_it = trio.under_way.iter().filter(|(_, to, _)| *to == trio.nodes[at].id);
    let appends = to_it.filter_map(|(_, _, message)| match message {
        Message::AppendEntries(append) => Some(append.entries.cost_bytes()),
        _ => None,
    });
    let (empty, full): (Vec<_>, Vec<_>) = appends.partition(|bytes| *bytes == 0);
    Sent { entry_bytes: full.iter().sum(), probes: empty.len() }
}

/// Commands that were answered.
struct Answered {
    unknown: usize,
    all: usize,
}

fn outcomes_of(trio: &Trio) -> Answered {
    let outcomes = trio.outcomes.0.lock().unwrap();
    let is_unknown = |outcome: &&Outcome| matches!(outcome, Err(ProposeError::OutcomeUnknown(_)));
    Answered { unknown: outcomes.iter().filter(is_unknown).count(), all: outcomes.len() }
}

/// Bytes of entries that a follower is sent.
struct SentToOne {
    /// In tenths of the bytes that are committed meanwhile.
    tenths: usize,
    /// After that, in 400 ticks in which nothing is proposed.
    bytes_when_idle: usize,
}

/// The state of a follower's disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FollowersDisk {
    Healthy,
    Full,
    Stuck,
}

fn sent_to_one(disk: FollowersDisk, payload: usize) -> SentToOne {
    let mut trio = Trio::new(1);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let one = (leader + 1) % 3;
    let is_full = disk == FollowersDisk::Full;
    let full = if is_full { &[one][..] } else { &[] };
    trio.nodes[one].is_stuck = disk == FollowersDisk::Stuck;
    for _ in 0..100 {
        trio.propose_payload(leader, Bytes::from(vec![1; payload]));
        step_with_full(&mut trio, full);
    }
    trio.outcomes();
    let (mut sent, mut committed) = (0, 0);
    while committed < 2 << 20 {
        (0..4).for_each(|_| trio.propose_payload(leader, Bytes::from(vec![1; payload])));
        step_with_full(&mut trio, full);
        sent += sent_to(&trio, one).entry_bytes;
        committed += trio.outcomes().iter().filter(|outcome| outcome.is_ok()).count() * payload;
        assert!(trio.now < 20_000, "{committed} bytes are committed");
    }
    let (mut after, mut empty) = (0, 0);
    for _ in 0..400 {
        step_with_full(&mut trio, full);
        let sent = sent_to(&trio, one);
        (after, empty) = (after + sent.entry_bytes, empty + sent.probes);
    }
    assert_eq!(trio.leader(), Some(leader));
    assert!(empty <= 400, "{empty} probes in 400 ticks");
    if is_full {
        // The disk has room again, and the follower gets everything that it lacks.
        trio.nodes[one].platter.set_segments_left(None);
        let last = trio.status(leader).unwrap().last_log;
        trio.until("it has caught up", 20_000, |trio| trio.status(one).unwrap().last_log == last);
    }
    SentToOne { tenths: sent * 10 / committed, bytes_when_idle: after }
}

/// RULES.md W9, B2.
/// The bug: entries that a follower had no room for were sent again as soon as it had answered, which took 90 % of a core
/// and 700 MB/s for as long as its disk was full. A healthy follower that was behind for a moment got all entries up to 3.5
/// times.
#[test]
fn a_follower_without_room_is_sent_no_more_than_it_can_take() {
    for payload in [1 << 10, 4 << 10, 16 << 10, 30 << 10] {
        for disk in [FollowersDisk::Full, FollowersDisk::Healthy, FollowersDisk::Stuck] {
            let SentToOne { tenths, bytes_when_idle } = sent_to_one(disk, payload);
            let (tenths_max, when_idle_max) = match disk {
                FollowersDisk::Full => (1, 0),
                FollowersDisk::Healthy => (12, crate::limits::INFLIGHT_BYTES_MAX),
                FollowersDisk::Stuck => (usize::MAX, crate::limits::INFLIGHT_BYTES_MAX),
            };
            assert!(tenths <= tenths_max, "{disk:?}, {payload}: {tenths} tenths");
            assert!(
                bytes_when_idle <= when_idle_max,
                "{disk:?}, {payload}: {bytes_when_idle} idle"
            );
        }
    }
}

/// RULES.md W9, B2.
/// The follower's notice that it has room again is lost, and the leader asks for it.
#[test]
fn a_lost_notice_of_room_is_made_good_by_a_question() {
    let mut trio = Trio::new(2);
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let leader = trio.leader().unwrap();
    let full = (leader + 1) % 3;
    for _ in 0..200 {
        trio.propose_payload(leader, Bytes::from(vec![1; 4 << 10]));
        step_with_full(&mut trio, &[full]);
    }
    let is_room = |message: &Message| matches!(message, Message::Room(_));
    trio.nodes[full].platter.set_segments_left(None);
    let is_free = |trio: &Trio| {
        trio.nodes[full].host.as_ref().unwrap().wal.as_ref().unwrap().room() == Room::Free
    };
    for _ in 0..500 {
        let told_before = is_free(&trio);
        trio.step();
        trio.under_way.retain(|(_, _, message)| !is_room(message));
        if told_before {
            break;
        }
    }
    let last = trio.status(leader).unwrap().last_log;
    trio.until("it has caught up", 2000, |trio| trio.status(full).unwrap().last_log == last);
}

/// Proposes to the leader until it gives way, then nothing for 50 election timeouts. Returns in how many ticks of these some
/// node led.
fn led_when_left_alone(mut trio: Trio, full: usize, payload: usize, each: usize) -> u64 {
    trio.until("a leader", 100, |trio| trio.leader().is_some());
    let old = trio.leader().unwrap();
    // Segments are made ahead first, as they are before a disk fills up.
    (0..20).for_each(|_| trio.step());
    let full: Vec<_> = (0..full).map(|at| (old + at) % 3).collect();
    let mut proposed = 0;
    while trio.leader() == Some(old) {
        (0..each).for_each(|_| trio.propose_payload(old, Bytes::from(vec![1; payload])));
        proposed += each;
        step_with_full(&mut trio, &full);
        assert!(trio.now < 5000, "it does not give way");
    }
    let mut led = 0;
    for _ in 0..50 * TIMING.election_ticks {
        step_with_full(&mut trio, &full);
        led += u64::from(trio.leader().is_some());
    }
    assert_eq!(outcomes_of(&trio).all, proposed, "all are answered");
    full.iter().for_each(|at| trio.nodes[*at].platter.set_segments_left(None));
    trio.until("a leader", 1000, |trio| trio.leader().is_some());
    led
}

/// RULES.md W10, B5.
/// The bug: all three nodes held the same write for want of room, and their votes waited behind it.
#[test]
fn at_the_quota_somebody_is_elected() {
    for payload in [4 << 10, 16 << 10, 30 << 10] {
        for seed in 0..10 {
            let trio = Trio::with_quota(seed, Some(8 * SEGMENT_BYTES));
            let led = led_when_left_alone(trio, 0, payload, 1);
            assert!(led > 0, "seed {seed}, {payload} bytes: nobody leads");
        }
    }
}

/// RULES.md W10, B5.
/// The same bug, and another: a batch waited for a segment that could not be made, and held up the votes of all groups.
#[test]
fn with_full_disks_and_entries_in_flight_somebody_is_elected() {
    for (payload, each) in [(1 << 10, 4), (4 << 10, 4), (16 << 10, 1), (16 << 10, 4)] {
        for full in [2, 3] {
            for seed in 0..10 {
                let led = led_when_left_alone(Trio::new(seed), full, payload, each);
                assert!(led > 0, "seed {seed}, {full} full, {each} x {payload}: nobody leads");
            }
        }
    }
}

/// RULES.md W10.
/// Both followers are full, and the leader is not: proposals cannot be committed. A command that is in the log
/// by then is answered *unknown* in time and counts until it is settled, and every later command is refused.
#[test]
fn if_no_majority_has_room_everyone_is_answered() {
    for seed in 0..10 {
        let mut trio = Trio::new(seed);
        trio.until("a leader", 100, |trio| trio.leader().is_some());
        let leader = trio.leader().unwrap();
        let full = [(leader + 1) % 3, (leader + 2) % 3];
        let mut proposed = 0;
        for _ in 0..300 {
            trio.propose_payload(leader, Bytes::from(vec![1; 4 << 10]));
            proposed += 1;
            step_with_full(&mut trio, &full);
        }
        let refused = |outcome: &Outcome| matches!(outcome, Err(ProposeError::DiskFull));
        assert!(trio.outcomes.0.lock().unwrap().iter().any(refused), "seed {seed}");
        let patience = (limits::ANSWER_ELECTIONS + 2) * TIMING.election_ticks;
        (0..patience).for_each(|_| step_with_full(&mut trio, &full));
        let Answered { unknown, all } = outcomes_of(&trio);
        assert_eq!(all, proposed, "seed {seed}");
        assert_eq!(trio.leader(), Some(leader), "seed {seed}");
        let waiting = trio.nodes[leader].arrivals.inbox().waiting();
        assert!(unknown > 0 && waiting.commands == unknown, "seed {seed}: {unknown}, {waiting:?}");
        full.iter().for_each(|at| trio.nodes[*at].platter.set_segments_left(None));
        trio.until("it is settled", 2000, |trio| {
            trio.nodes[leader].arrivals.inbox().waiting() == Cost::default()
        });
        assert_eq!(outcomes_of(&trio).all, proposed, "seed {seed}: a client is answered twice");
    }
}

/// RULES.md W9.
/// The history that broke it:
/// 1. A log near its quota has room, but not for a write as large as the next one.
/// 2. The log held that write and took smaller ones. It told nobody that it was full, and no leader gave way.
/// 3. Nothing is released, so the client of the large write waited for ever.
#[test]
fn a_write_that_has_no_room_near_the_quota_is_withdrawn_and_its_client_answered() {
    for seed in 0..5 {
        let mut trio = Trio::with_quota(seed, Some(8 * SEGMENT_BYTES));
        trio.until("a leader", 100, |trio| trio.leader().is_some());
        let leader = trio.leader().unwrap();
        let mut proposed = 0;
        while trio.status(leader).unwrap().role == Role::Leader {
            trio.propose_payload(leader, Bytes::from(vec![1; 30 << 10]));
            proposed += 1;
            for _ in 0..10 {
                trio.step();
            }
            assert!(trio.now < 1000, "seed {seed}: it does not give way");
        }
        let patience = 2 * TIMING.election_ticks;
        trio.until("all are answered", patience, |trio| outcomes_of(trio).all == proposed);
        let held = &trio.nodes[leader].host.as_ref().unwrap().held;
        assert!(held.iter().all(|job| job.write.entries.is_empty()), "entries are held");
    }
}
