//! Processes come and go: killed, restarted, told to stop (RULES.md rows P1 to P5 and P10).

use super::{
    proxy::Random,
    support::{now, report, turn},
    trial::{ELECTION_TIMEOUT, LIVE_MAX, STEP_DOWN_MAX, Trial, effort, must, seed},
};
use rustix::process::Signal;
use std::time::Duration;

/// RULES.md P1.
#[test]
fn nothing_acknowledged_is_lost_when_the_busiest_leader_is_killed_again_and_again() {
    let _turn = turn();
    let mut trial = Trial::direct(3, GROUPS);
    let traffic = trial.traffic();
    for round in 1..=2 * effort() {
        let (busiest, led) = trial.cluster.leads_most();
        trial.cluster.nodes[busiest].kill();
        trial.every_group_takes_a_write(&format!("round {round}, {led} leaders killed"));
        trial.cluster.restart();
        traffic.wait_for_more(50, LIVE_MAX);
    }
    trial.judge(vec![traffic]);
}

/// RULES.md P2.
#[test]
fn a_rolling_restart_loses_nothing_and_the_others_serve() {
    let _turn = turn();
    let mut trial = Trial::direct(3, GROUPS);
    let traffic = trial.traffic();
    for round in 0..3 * effort() {
        let node = usize::try_from(round).unwrap() % 3;
        let status = trial.cluster.nodes[node].stop();
        assert!(status.success(), "node {} stopped with {status}", node + 1);
        trial.every_group_takes_a_write(&format!("node {} is away", node + 1));
        trial.cluster.restart();
        traffic.wait_for_more(50, LIVE_MAX);
    }
    trial.judge(vec![traffic]);
}

/// RULES.md P3.
#[test]
fn a_storm_of_restarts_ends_in_calm_and_terms_stay_small() {
    let _turn = turn();
    let mut trial = Trial::direct(3, GROUPS);
    let traffic = trial.traffic();
    let mut random = Random::new(seed());
    let start = now();
    let length = Duration::from_secs(4) * u32::try_from(effort()).unwrap();
    // When each node is bounced next.
    let mut due: Vec<Duration> =
        (0..3).map(|_| Duration::from_millis(random.below(1_500))).collect();
    let mut bounces = 0;
    // At least `BOUNCES_MIN` restarts, however long they take on this machine.
    while start.elapsed() < length || bounces < BOUNCES_MIN {
        for (at, due) in due.iter_mut().enumerate() {
            if start.elapsed() < *due {
                continue;
            }
            let node = &mut trial.cluster.nodes[at];
            if random.below(2) == 0 {
                node.kill();
            } else {
                node.signal(Signal::TERM);
                node.wait_exit(STOP_MAX);
            }
            node.start(&[]);
            bounces += 1;
            *due = start.elapsed() + Duration::from_millis(1_000 + random.below(2_000));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let calm = trial.every_group_takes_a_write("the storm is over");
    let verdict = trial.judge(vec![traffic]);
    let highest = verdict.terms.iter().max().unwrap();
    report(format_args!("  {bounces} restarts, highest term {highest}, calm after {calm:?}"));
    assert!(*highest <= 2 * bounces + 6, "term {highest} after {bounces} restarts");
}

/// RULES.md P4.
#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_die_at_once() {
    let _turn = turn();
    let mut trial = Trial::direct(3, GROUPS);
    let traffic = trial.traffic();
    for round in 1..=2 * effort() {
        trial.cluster.kill_all();
        trial.cluster.restart();
        trial.every_group_takes_a_write(&format!("round {round}, all were killed"));
        traffic.wait_for_more(100, LIVE_MAX);
    }
    trial.judge(vec![traffic]);
}

/// RULES.md P5.
#[test]
fn a_minority_left_alone_serves_nothing_and_loses_nothing() {
    let _turn = turn();
    let mut trial = Trial::direct(3, GROUPS);
    let traffic = trial.traffic();
    let (left, led) = trial.cluster.leads_most();
    for gone in (0..3).filter(|node| *node != left) {
        trial.cluster.nodes[gone].kill();
    }
    let node = &trial.cluster.nodes[left];
    must(STEP_DOWN_MAX, "the last node leads nothing", || node.groups_led() == 0);
    // Answers that came before that may be counted a moment later.
    std::thread::sleep(ELECTION_TIMEOUT);
    let acknowledged = traffic.acknowledged();
    trial.nothing_is_served(&format!("node {} is alone, led {led} groups", left + 1));
    assert_eq!(traffic.acknowledged(), acknowledged, "a node alone acknowledges writes");
    trial.cluster.restart();
    trial.every_group_takes_a_write("the others are back");
    traffic.wait_for_more(50, LIVE_MAX);
    trial.judge(vec![traffic]);
}

/// RULES.md P10.
#[test]
fn a_node_told_to_stop_stops_whatever_it_is_doing() {
    let _turn = turn();
    let mut trial = Trial::direct(3, GROUPS);
    let traffic = trial.traffic();
    let mut random = Random::new(seed());
    let mut slowest = Duration::ZERO;
    for round in 0..6 * effort() {
        // At first the node is told to stop under load; later while it starts, or while its groups look for leaders.
        let node = &mut trial.cluster.nodes[usize::try_from(round).unwrap() % 3];
        let early = !node.runs();
        if early {
            node.start(&[]);
            std::thread::sleep(Duration::from_millis(random.below(400)));
        }
        let told = now();
        node.signal(Signal::TERM);
        let status = node.wait_exit(STOP_MAX);
        slowest = slowest.max(told.elapsed());
        // A node that does not listen for signals yet is ended by the signal, and has touched nothing.
        let at_once = early && std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        assert!(status.success() || at_once, "ended with {status}: {}", node.said());
        if round % 3 == 2 {
            trial.cluster.restart();
        }
    }
    report(format_args!("  the slowest stop took {slowest:?}"));
    trial.judge(vec![traffic]);
}

const GROUPS: usize = 12;
const STOP_MAX: Duration = Duration::from_secs(30);
const BOUNCES_MIN: u64 = 4;
