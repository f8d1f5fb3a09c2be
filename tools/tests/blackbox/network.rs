//! The faults of a network, through the fault proxy (RULES.md rows N1 to N5, N8 to N10, N13).

use super::{
    proxy::{Fault, Links},
    resources::{descriptors, settled_descriptors},
    support::{eventually, now, report, turn},
    trial::{ELECTION_TIMEOUT, LIVE_MAX, STEP_DOWN_MAX, Trial, effort, must},
};
use std::time::Duration;

/// RULES.md N1.
#[test]
fn a_minority_that_leads_is_cut_off_and_the_majority_goes_on() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    for _ in 0..effort() {
        let (leader, led) = trial.cluster.leads_most();
        let [alone, a, b] = ids_from(leader);
        trial.links().only(&[&[a, b]]);
        trial.every_group_takes_a_write(&format!("node {alone} is alone, led {led} groups"));
        let node = &trial.cluster.nodes[leader];
        must(STEP_DOWN_MAX, "a leader without a majority steps down", || node.groups_led() == 0);
        trial.links().only(&[&[alone, a, b]]);
        traffic.wait_for_more(50, LIVE_MAX);
    }
    trial.judge(vec![traffic]);
}

/// RULES.md N2.
#[test]
fn a_leader_that_is_heard_but_hears_nothing_steps_down() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    for _ in 0..effort() {
        let (leader, led) = trial.cluster.leads_most();
        let [deaf, a, b] = ids_from(leader);
        trial.links().set((a, deaf), |rules| rules.open = false);
        trial.links().set((b, deaf), |rules| rules.open = false);
        trial.every_group_takes_a_write(&format!("node {deaf} is deaf, led {led} groups"));
        let node = &trial.cluster.nodes[leader];
        must(STEP_DOWN_MAX, "a deaf leader steps down", || node.groups_led() == 0);
        trial.links().only(&[&[deaf, a, b]]);
        traffic.wait_for_more(50, LIVE_MAX);
    }
    trial.judge(vec![traffic]);
}

/// RULES.md N3.
#[test]
fn a_follower_that_is_heard_but_hears_nothing_disturbs_nobody() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    // No message reaches node 1, so it stands again and again in every group.
    trial.links().set((2, 1), |rules| rules.open = false);
    trial.links().set((3, 1), |rules| rules.open = false);
    trial.every_group_takes_a_write("node 1 is deaf");
    let led = |trial: &Trial| -> Vec<u64> {
        trial.cluster.nodes[1..].iter().map(|node| node.groups_led()).collect()
    };
    let mut before = Vec::new();
    must(LIVE_MAX, "nodes 2 and 3 lead all groups", || {
        before = led(&trial);
        before.iter().sum::<u64>() == u64::try_from(GROUPS).unwrap()
    });
    std::thread::sleep(7 * ELECTION_TIMEOUT * u32::try_from(effort()).unwrap());
    traffic.wait_for_more(50, LIVE_MAX);
    report(format_args!("  groups led by nodes 2 and 3: {before:?}, later {:?}", led(&trial)));
    let verdict = trial.judge(vec![traffic]);
    // Only groups that node 1 led had to elect another leader. Without pre-votes node 1 would have begun four terms or more
    // in every group.
    let mut terms = verdict.terms;
    terms.sort_unstable();
    assert!(terms[terms.len() / 2] <= 2, "terms grew: {terms:?}");
}

/// RULES.md N4, N5.
#[test]
fn the_hub_of_a_broken_mesh_leads() {
    let _turn = turn();
    let mut trial = Trial::proxied(5, GROUPS);
    let traffic = trial.traffic();
    let led = |trial: &Trial, id: usize| trial.cluster.nodes[id - 1].groups_led();
    // N5. Node 1 reaches only the bridge, node 5, and still believes that it leads; node 2 is down. The others need the
    // bridge, and the bridge must not take node 1 for a leader for ever.
    trial.cluster.make_lead(0);
    trial.links().only(&[&[1, 5], &[3, 4, 5]]);
    trial.cluster.nodes[1].kill();
    trial.every_group_takes_a_write("node 5 is the bridge to the old leader");
    must(STEP_DOWN_MAX, "node 1 leads nothing", || led(&trial, 1) == 0);
    trial.links().only(&[&[1, 2, 3, 4, 5]]);
    trial.cluster.restart();

    // N4. Only the hub is connected to a majority.
    let hub = 5;
    let spokes: Vec<[usize; 2]> = (1..hub).map(|spoke| [spoke, hub]).collect();
    let spokes: Vec<&[usize]> = spokes.iter().map(<[usize; 2]>::as_slice).collect();
    trial.links().only(&spokes);
    trial.every_group_takes_a_write("only node 5 is connected to all");
    must(LIVE_MAX, "the hub leads all groups", || led(&trial, hub) == GROUPS as u64);
    trial.judge(vec![traffic]);
}

/// RULES.md N8.
#[test]
fn late_repeated_lost_and_replayed_frames_do_no_harm() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    trial.links().set_all(|rules| {
        rules.delay_ms_max = 12;
        rules.faults = vec![
            (Fault::Replay, 200),
            (Fault::Repeat, 8),
            (Fault::Lose, 8),
            (Fault::Reset, 4),
            (Fault::Stall, 4),
        ];
    });
    storm(&mut trial, Duration::from_secs(2), |links| {
        let faults = [Fault::Replay, Fault::Repeat, Fault::Lose, Fault::Reset, Fault::Stall];
        faults.into_iter().all(|fault| links.count(fault) > 0)
    });
    all_spoilt_are_refused(trial.links());
    trial.judge(vec![traffic]);
}

/// RULES.md N9.
#[test]
fn a_damaged_frame_ends_its_connection_and_is_not_delivered() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    trial.links().set_all(|rules| rules.faults = vec![(Fault::Corrupt, 30)]);
    storm(&mut trial, Duration::from_secs(1), |links| links.count(Fault::Corrupt) >= 20);
    all_spoilt_are_refused(trial.links());
    // No log may hold a value of a damaged frame: the check at the end would not know it.
    trial.judge(vec![traffic]);
}

/// RULES.md N10.
#[test]
fn connections_that_flap_leave_nothing_behind() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    let measure = |trial: &Trial| -> Vec<(usize, u64)> {
        let nodes = trial.cluster.nodes.iter();
        nodes.map(|node| (settled_descriptors(node.pid()), node.resident_bytes())).collect()
    };
    let before = measure(&trial);
    let long = Duration::from_millis(800) * u32::try_from(effort()).unwrap();
    let (start, mut flaps) = (now(), 0);
    while start.elapsed() < long {
        trial.links().reset_all();
        flaps += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    // Then connections live long enough for a frame to be cut in two.
    trial.links().set_all(|rules| {
        rules.faults = vec![(Fault::Reset, 300), (Fault::HalfOpen, 100)];
    });
    std::thread::sleep(2 * long);
    must(LIVE_MAX, "a frame is cut in two", || trial.links().count(Fault::Reset) > 0);
    report(format_args!("  {flaps} flaps of all links; {}", trial.links().summary()));
    trial.links().heal();
    trial.every_group_takes_a_write("the links are steady again");
    for (node, (was, is)) in before.iter().zip(measure(&trial)).enumerate() {
        report(format_args!(
            "  node {}: descriptors {} and then {}, resident {} KiB and then {}",
            node + 1,
            was.0,
            is.0,
            was.1 >> 10,
            is.1 >> 10
        ));
        let node = &trial.cluster.nodes[node];
        must(LIVE_MAX, "what was held for lost connections is given back", || {
            descriptors(node.pid()) <= was.0 + 8 && node.resident_bytes() <= was.1 + (24 << 20)
        });
    }
    trial.judge(vec![traffic]);
}

/// RULES.md N13.
#[test]
fn an_address_that_leads_to_another_node_is_refused() {
    let _turn = turn();
    let mut trial = Trial::proxied(3, GROUPS);
    let traffic = trial.traffic();
    // The address that node 1 takes for node 2's leads to node 3 now.
    let other = trial.cluster.nodes[2].peer;
    trial.cluster.nodes[0].kill();
    trial.links().set((1, 2), |rules| rules.target = other);
    // The start is not waited for: of a group that node 1 leads from now on, node 2 knows no leader.
    trial.cluster.nodes[0].start(&[]);
    let node = &trial.cluster.nodes[0];
    must(LIVE_MAX, "node 1 is told that it reached another node", || {
        node.said().contains("the address leads to another node")
    });
    trial.every_group_takes_a_write("node 1 reaches node 3 under node 2's address");
    trial.judge(vec![traffic]);
}

/// Lets the faults go on for `length`, and then until `enough` holds, because machines differ in how much passes in a time.
/// Every group must take a write under the faults.
fn storm(trial: &mut Trial, length: Duration, enough: impl Fn(&Links) -> bool) {
    std::thread::sleep(length * u32::try_from(effort()).unwrap());
    let links = trial.links();
    assert!(eventually(LIVE_MAX, || enough(links)), "too few faults: {}", links.summary());
    trial.every_group_takes_a_write("in the storm");
    report(format_args!("  carried: {}", trial.links().summary()));
    trial.links().set_all(|rules| rules.faults.clear());
}

/// Checks that the acceptor ended every connection on which a frame went out that must not be taken.
fn all_spoilt_are_refused(links: &Links) {
    must(LIVE_MAX, "a connection with a bad frame on it is ended", || {
        let (spoilt, refused) = links.spoilt_and_refused();
        spoilt == refused
    });
    let (spoilt, _) = links.spoilt_and_refused();
    assert!(spoilt > 0, "no frame was spoilt");
    report(format_args!("  {spoilt} connections with a bad frame, all ended by the acceptor"));
}

/// The ids of three nodes: first of the one at `place`, then of the two others.
fn ids_from(place: usize) -> [usize; 3] {
    [place + 1, (place + 1) % 3 + 1, (place + 2) % 3 + 1]
}

const GROUPS: usize = 12;
