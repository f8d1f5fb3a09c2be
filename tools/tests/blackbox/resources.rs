//! Processes that are paused, starved of processor time, or besieged by idle connections (RULES.md rows D4, D5, I3).

use super::{
    support::{eventually, now, report, turn},
    traffic::{Place, Traffic},
    trial::{ELECTION_TIMEOUT, LIVE_MAX, Trial, effort, must},
};
use rustix::process::Signal;
use std::{
    fs,
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// RULES.md D4.
#[test]
fn a_leader_that_was_paused_answers_nothing_stale() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    let mut asked = Vec::new();
    for round in 0..effort() {
        let (busiest, led) = trial.cluster.leads_most();
        trial.cluster.nodes[busiest].signal(Signal::STOP);
        trial.every_group_takes_a_write(&format!("a leader of {led} groups is paused"));
        // The node goes on where it was paused: it believes that it leads, and cannot hear at first that it does not.
        let paused = busiest + 1;
        let others: Vec<usize> = (1..=3).filter(|id| *id != paused).collect();
        trial.links().only(&[&others]);
        let only_there =
            Place { nodes: vec![trial.cluster.nodes[busiest].client], ..trial.place.clone() };
        let first = 2_000 + 8 * round;
        asked.push(Traffic::start(&only_there, first..first + 8));
        std::thread::sleep(ELECTION_TIMEOUT / 2);
        trial.cluster.nodes[busiest].signal(Signal::CONT);
        std::thread::sleep(3 * ELECTION_TIMEOUT);
        trial.links().only(&[&[1, 2, 3]]);
        traffic.wait_for_more(100, LIVE_MAX);
    }
    asked.push(traffic);
    trial.judge(asked);
}

/// RULES.md D5.
#[test]
fn busy_cores_start_no_storm_of_elections() {
    let _turn = turn();
    let trial = Trial::direct(3, GROUPS);
    let traffic = trial.traffic();
    let stop = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().unwrap().get();
    let busy: Vec<_> = (0..cores)
        .map(|core| {
            let stop = Arc::clone(&stop);
            let spin = move || while !stop.load(Ordering::Relaxed) {};
            std::thread::Builder::new().name(format!("busy-{core}")).spawn(spin).unwrap()
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2) * u32::try_from(effort()).unwrap());
    stop.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
    let verdict = trial.judge(vec![traffic]);
    let elections: u64 = verdict.terms.iter().map(|term| term - 1).sum();
    report(format_args!("  {elections} elections beside the first ones of {GROUPS} groups"));
    assert!(
        elections <= 2 * u64::try_from(GROUPS).unwrap() * effort(),
        "{elections} elections: {:?}",
        verdict.terms
    );
}

/// RULES.md I3.
#[test]
fn strangers_that_drip_or_stay_silent_keep_no_peer_out() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    let target = &trial.cluster.nodes[0];
    let (peer, pid) = (target.peer, target.pid());
    let before = (descriptors(pid), target.resident_bytes());
    // Half of the strangers stay silent; half send one more byte of a good beginning now and then.
    let mut strangers: Vec<TcpStream> = Vec::new();
    let mut dripping: Vec<(TcpStream, usize)> = Vec::new();
    let (mut open_max, mut rounds) = (0, 0);
    let start = now();
    let length = Duration::from_secs(2) * u32::try_from(effort()).unwrap();
    // As many strangers as the checks below need, however long they take on this machine.
    while start.elapsed() < length
        || (strangers.len() + dripping.len() <= 2 * STRANGERS_MAX && start.elapsed() < LIVE_MAX)
    {
        for _ in 0..10 {
            strangers.extend(TcpStream::connect(peer));
            dripping.extend(TcpStream::connect(peer).map(|stream| (stream, 0)));
        }
        dripping.retain_mut(|(stranger, said)| {
            *said += 1;
            GOOD_BEGINNING
                .get(*said - 1..*said)
                .is_some_and(|byte| stranger.write_all(byte).is_ok())
        });
        rounds += 1;
        open_max = open_max.max(descriptors(pid));
        // Meanwhile the peers lose their connections, and must get new ones.
        if rounds % 10 == 0 {
            trial.links().reset_all();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let besieged = strangers.len() + dripping.len();
    let resident = trial.cluster.nodes[0].resident_bytes();
    report(format_args!(
        "  {besieged} strangers; descriptors {} before, {open_max} at most; resident {} KiB, before {}",
        before.0,
        resident >> 10,
        before.1 >> 10
    ));
    assert!(besieged > 2 * STRANGERS_MAX, "only {besieged} strangers could connect");
    assert!(
        open_max < before.0 + STRANGERS_MAX + 64,
        "{open_max} descriptors, {} before",
        before.0
    );
    assert!(resident < before.1 + (32 << 20), "resident {resident} bytes, before {}", before.1);
    // Node 1 is needed: with node 3 down, no majority is without it.
    trial.cluster.nodes[2].kill();
    trial.every_group_takes_a_write("besieged, and one node is down");
    drop((strangers, dripping));
    must(LIVE_MAX, "the strangers' descriptors are free again", || {
        descriptors(pid) <= before.0 + 32
    });
    trial.judge(vec![traffic]);
}

/// Open file descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// As [`descriptors`], once the number has stopped changing: connections that ended are closed by then.
pub(crate) fn settled_descriptors(pid: u32) -> usize {
    let mut last = descriptors(pid);
    eventually(Duration::from_secs(5), || {
        std::thread::sleep(Duration::from_millis(200));
        let before = std::mem::replace(&mut last, descriptors(pid));
        before == last
    });
    last
}

const GROUPS: usize = 12;
const GOOD_BEGINNING: &[u8] = b"LOGDRIVE\x01\0\x40\0\x01\0\x01\0";
/// The most connections that the product allows at a time before they have said who they are.
const STRANGERS_MAX: usize = 128;
