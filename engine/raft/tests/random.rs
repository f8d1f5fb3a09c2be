//! Random runs of whole clusters with loss, reordering, duplication, partitions and crashes that
//! lose what was not durable, whole writes and parts of writes. In most of them logs are released and
//! snapshots installed, early, late and twice. [`common::ghost`] checks every
//! event; then faults end and the cluster must come together. A failing run names its seed
//! (`LOGDRIVE_SEED=7` runs that seed alone, `LOGDRIVE_SEEDS=5000` that many seeds).

mod common;

use common::{Cluster, Image, Packet, Transfer, config, log_of, n};
use logdrive_raft::{
    Event, HardState, Installed, LogIndex, Message, NodeId, Raft, Role, Term, Write,
};

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The faults of one run, in percent, and its sizes. They are drawn from the seed, so runs differ.
struct Swarm {
    voters: u64,
    loss: u64,
    duplicates: u64,
    reorder: u64,
    crashes: u64,
    /// Turns that the last replica leaves out. So it takes more messages in one turn, and answers them after
    /// one write.
    slow_turns: u64,
    elections: u64,
    /// Entries of the last replica's log, at the beginning, that nobody else has.
    leftover: usize,
    cuts: u64,
    slow_disk: u64,
    slow_apply: u64,
    /// How often a state is kept, a log released, or a snapshot moved.
    snapshots: u64,
    /// How often an append to the last replica is lost.
    deaf: u64,
}

/// The outcome of a run.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    commands: usize,
    term: u64,
    released: u64,
    installed: u64,
    late: u64,
}

fn cluster(random: &mut Random, swarm: &Swarm) -> Cluster {
    let mut cluster = Cluster::empty();
    for id in 1..=swarm.voters {
        let mut config = config(id, swarm.voters);
        config.seed = random.next();
        config.inflight_messages_max = 1 + random.index(4);
        config.inflight_bytes_max = 40 + random.index(400);
        config.append_bytes_max = 40 + random.index(200);
        config.tail_bytes_max = 1 + random.index(400);
        config.uncommitted_bytes_max = 100 + random.index(1000);
        let mut image = Image::default();
        if swarm.leftover > 0 {
            // In term 2 the last replica led and reached nobody; what it had is still on its disk.
            let own = if id == swarm.voters { swarm.leftover } else { 0 };
            let terms = std::iter::repeat_n(1, 3).chain(std::iter::repeat_n(2, own));
            image.entries = log_of(&terms.collect::<Vec<_>>());
            image.hard_state = HardState { term: Term(2), commit: LogIndex(3), ..image.hard_state };
        }
        cluster.add(config, image);
    }
    cluster
}

fn snapshot_action(cluster: &mut Cluster, random: &mut Random, tally: &mut Tally) {
    let ids = cluster.ids();
    let id = ids[random.index(ids.len())];
    match random.below(12) {
        0..=2 => {
            cluster.apply(id);
            cluster.keep(id);
        }
        3..=5 => {
            let base = |cluster: &Cluster| cluster.node(id).raft.as_ref().map(Raft::base);
            let before = base(cluster);
            // Sometimes further than the state is kept.
            let kept = cluster.node(id).kept.get();
            cluster.release_log(id, kept + 2 - random.below((kept + 3).min(6)));
            tally.released += u64::from(base(cluster) != before);
        }
        6..=8 => {
            // Any replica that has enough may be the source. Some leaders offer what nobody needs.
            let Some(leader) = cluster.leader() else { return };
            let offer = cluster.nodes.get_mut(&leader).unwrap().offers.pop_front();
            let up = ids.iter().filter(|id| cluster.node(**id).raft.is_some());
            let behind = up.min_by_key(|id| cluster.status(**id).commit);
            let to = if random.chance(50) { *behind.expect("a leader is up") } else { id };
            let (to, least) = offer.map_or((to, LogIndex(1)), |offer| (offer.peer, offer.least));
            let sources = ids.into_iter().filter(|&s| cluster.node(s).kept >= least);
            let sources: Vec<NodeId> = sources.collect();
            if sources.is_empty() {
                return;
            }
            let snapshot = cluster.snapshot(sources[random.index(sources.len())], leader);
            cluster.transfers.push(Transfer { from: leader, to, snapshot });
        }
        _ => {
            if cluster.transfers.is_empty() {
                return;
            }
            let newest = cluster.transfers.len() - 1;
            let at = if random.chance(60) { newest } else { random.index(newest + 1) };
            let Transfer { from, to, snapshot } = cluster.transfers[at].clone();
            if random.chance(80) && cluster.node(to).raft.is_some() {
                match cluster.install(to, snapshot) {
                    Ok(Installed::Taken { .. }) => tally.installed += 1,
                    Ok(Installed::Late) => tally.late += 1,
                    Err(_) => assert_eq!(cluster.role(to), Role::Leader),
                }
            }
            // Some are installed again, much later.
            if random.chance(60) {
                cluster.transfers.swap_remove(at);
                cluster.step(from, Event::TransferEnded(to));
            }
        }
    }
}

fn one_action(cluster: &mut Cluster, random: &mut Random, swarm: &Swarm, proposals: &mut u64) {
    let ids = cluster.ids();
    let id = ids[random.index(ids.len())];
    let is_up = cluster.node(id).raft.is_some();
    match random.below(100) {
        0..=11 => {
            cluster.now = cluster.now.after(1);
            for id in ids {
                let due = (cluster.node(id).raft.as_ref())
                    .is_some_and(|raft| raft.deadline() <= cluster.now);
                // A late tick, now and then.
                if due && !random.chance(10) {
                    cluster.step(id, Event::Tick);
                }
            }
        }
        12..=29 => {
            let is_last = id == n(swarm.voters) && swarm.voters > 2;
            if !(is_last && random.chance(swarm.slow_turns)) && cluster.collect(id) {
                maybe_crash_within(cluster, random, id);
            }
        }
        30..=39 => {
            if !random.chance(swarm.slow_disk) {
                let count = 1 + random.index(3);
                cluster.sync(id, count);
            }
        }
        40..=79 => {
            if !cluster.network.is_empty() {
                let len = cluster.network.len();
                let at = if random.chance(swarm.reorder) { random.index(len) } else { 0 };
                if random.chance(swarm.duplicates) && len < 200 {
                    let copy = cluster.network[at].clone();
                    cluster.network.push(copy);
                }
                let Packet { to, message, .. } = &cluster.network[at];
                let is_unheard =
                    *to == n(swarm.voters) && matches!(message, Message::AppendEntries(_));
                if random.chance(swarm.loss) || is_unheard && random.chance(swarm.deaf) {
                    let lost = cluster.network.remove(at);
                    if random.chance(50) {
                        cluster.step(lost.from, Event::Unreachable(lost.to));
                    }
                } else {
                    cluster.deliver_at(at);
                }
            }
        }
        80..=89 => {
            let leader = cluster.leader().unwrap_or(id);
            if cluster.node(leader).raft.is_some() {
                *proposals += 1;
                let text = format!("p{proposals}{}", "x".repeat(random.index(60)));
                let _ = cluster.propose(leader, &text);
            }
        }
        90..=93 => {
            if !random.chance(swarm.slow_apply) {
                cluster.apply(id);
            }
        }
        94..=95 => match random.below(4) {
            0 => {
                cluster.fetch_failed(id);
            }
            1 => cluster.read_fetch(id),
            _ => {
                cluster.answer_fetch(id);
            }
        },
        96 => {
            if random.chance(swarm.crashes) && is_up {
                let kept = random.index(3);
                // Half of the crashes come within a write.
                let part = random.chance(50).then(|| random.index(4));
                cluster.crash_within(id, kept, part);
            }
        }
        97 => {
            if !is_up {
                cluster.restart(id);
            }
        }
        98 => {
            if random.chance(swarm.cuts) {
                let other = ids[random.index(ids.len())];
                cluster.cut.insert((id, other));
                if random.chance(50) {
                    cluster.cut.insert((other, id));
                }
            }
        }
        _ => {
            if random.chance(30) {
                cluster.cut.clear();
            } else if random.chance(swarm.elections) {
                if let Some(leader) = cluster.leader() {
                    cluster.step(leader, Event::GiveWay);
                }
                cluster.step(id, Event::Campaign);
            }
        }
    }
}

/// Now and then the power fails while a write with a hard state and entries lands.
fn maybe_crash_within(cluster: &mut Cluster, random: &mut Random, id: NodeId) {
    let writes = &cluster.node(id).writes;
    let is_both = |write: &Write| write.hard_state.is_some() && !write.entries.is_empty();
    if writes.back().is_some_and(is_both) && random.chance(50) {
        let (before, entries) = (writes.len() - 1, writes[writes.len() - 1].entries.len());
        cluster.crash_within(id, before, Some(random.index(entries)));
    }
}

/// Ends the faults. There must come to be one leader, and every replica must have and apply all that is committed.
fn heal(cluster: &mut Cluster, seed: u64) {
    cluster.cut.clear();
    for id in cluster.ids() {
        if cluster.node(id).raft.is_none() {
            cluster.restart(id);
        }
    }
    for Transfer { from, to, .. } in std::mem::take(&mut cluster.transfers) {
        cluster.step(from, Event::TransferEnded(to));
    }
    let is_whole = |cluster: &Cluster| {
        let statuses: Vec<_> = cluster.ids().iter().map(|&id| cluster.status(id)).collect();
        let leader = statuses.iter().find(|status| status.role == Role::Leader);
        leader.is_some_and(|leader| {
            statuses.iter().all(|status| {
                status.term == leader.term
                    && status.last_log == leader.last_log
                    && status.applied == leader.last_log.index
            })
        })
    };
    for _ in 0..300 {
        cluster.pass(1, true);
        if is_whole(cluster) {
            break;
        }
    }
    assert!(is_whole(cluster), "seed {seed}: not whole\n{}", tail(&cluster.trace));
    let before = cluster.ghost.commands_committed();
    let leader = cluster.leader().unwrap();
    cluster.propose(leader, "after the storm").unwrap();
    let term = cluster.status(leader).term;
    cluster.pass(40, true);
    assert!(is_whole(cluster), "seed {seed}: not whole again\n{}", tail(&cluster.trace));
    assert_eq!(cluster.ghost.commands_committed(), before + 1, "seed {seed}");
    assert_eq!(cluster.status(leader).term, term, "seed {seed}: the term moved without a fault");
}

fn tail(trace: &str) -> &str {
    &trace[trace.len().saturating_sub(4000)..]
}

fn run(seed: u64) -> Tally {
    let mut random = Random(seed);
    let mut actions = 3000;
    let mut swarm = Swarm {
        voters: [1, 2, 3, 3, 3, 4, 5, 5][random.index(8)],
        loss: random.below(15),
        duplicates: random.below(20),
        reorder: random.below(60),
        crashes: random.below(40),
        slow_turns: [0, 90, 95, 98][random.index(4)],
        elections: [0, 10, 30, 60][random.index(4)],
        leftover: [0, 1, 3, 8][random.index(4)],
        cuts: random.below(30),
        slow_disk: random.below(80),
        slow_apply: random.below(80),
        snapshots: [0, 5, 15, 30][random.index(4)],
        deaf: [0, 0, 70, 100][random.index(4)],
    };
    if swarm.snapshots > 0 && random.chance(40) {
        // Much is committed, and the last replica has most of it by snapshots.
        actions = 6000;
        swarm.voters = 3;
        swarm.deaf = [60, 100, 100][random.index(3)];
        swarm = Swarm { elections: 0, cuts: 0, slow_disk: 10, slow_apply: 10, ..swarm };
        swarm.crashes /= 4;
    }
    let mut cluster = cluster(&mut random, &swarm);
    let mut proposals = 0;
    let mut tally = Tally::default();
    for _ in 0..actions {
        if random.chance(swarm.snapshots) {
            snapshot_action(&mut cluster, &mut random, &mut tally);
        }
        one_action(&mut cluster, &mut random, &swarm, &mut proposals);
        cluster.trace.clear();
    }
    heal(&mut cluster, seed);
    tally.term = cluster.status(n(1)).term.get();
    tally.commands = cluster.ghost.commands_committed();
    tally
}

#[test]
fn clusters_are_safe_under_faults_and_come_together_after_them() {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    let seeds = match number("LOGDRIVE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOGDRIVE_SEEDS").unwrap_or(1000),
    };
    let mut all = Tally::default();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        // A panic's message does not name the seed.
        let result = std::panic::catch_unwind(|| run(seed));
        let run = result.unwrap_or_else(|_| panic!("replay with LOGDRIVE_SEED={seed}"));
        all.commands += run.commands;
        all.term += run.term;
        all.released += run.released;
        all.installed += run.installed;
        all.late += run.late;
    }
    println!("{count} runs: {all:?}");
    // If the faults let nothing be committed, the runs test nothing.
    assert!(count < 100 || all.commands as u64 > 20 * count, "{all:?}");
    assert!(count < 100 || all.term > 3 * count, "{all:?}");
    assert!(count < 100 || all.released > 5 * count && all.installed > count, "{all:?}");
    assert!(count < 100 || all.late > count / 10, "{all:?}");
}

/// The simulator of whole nodes cannot reach these mutations while nothing there releases a log.
#[cfg(feature = "bug-bank")]
#[test]
fn a_mutation_of_the_base_is_caught() {
    for bug in [
        "release_past_durable",
        "release_without_membership",
        "install_acknowledged_before_durable",
        "late_snapshot_cuts_newer_entries",
        "conflicting_entry_kept",
    ] {
        logdrive_raft::hooks::switch_on(Some(bug));
        let caught = (0..100).find(|&seed| std::panic::catch_unwind(|| run(seed)).is_err());
        logdrive_raft::hooks::switch_on(None);
        println!("{bug}: seed {caught:?}");
        assert!(caught.is_some(), "{bug} is not caught");
    }
}

#[test]
fn the_same_seed_runs_the_same() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
