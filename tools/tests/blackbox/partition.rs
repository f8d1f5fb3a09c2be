//! Partitions made by the kernel: a network namespace per node, packets dropped one way or both (RULES.md rows N1 to N3).
//!
//! In the proxy's partitions both kernels still reach the proxy; here retransmissions, keep-alives and time-outs take part.

use super::{
    netns::Network,
    support::{skipped, turn},
    trial::{ELECTION_TIMEOUT, LIVE_MAX, STEP_DOWN_MAX, Trial, effort, must},
};

/// RULES.md N1, N2, N3.
#[test]
fn nothing_acknowledged_is_lost_when_the_kernel_drops_packets_one_way_or_both_ways() {
    let _turn = turn();
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(why) => {
            skipped(
                "nothing_acknowledged_is_lost_when_the_kernel_drops_packets_one_way_or_both_ways",
                why,
            );
            return;
        }
    };
    let mut trial = Trial::in_namespaces(network, 3, GROUPS);
    let traffic = trial.traffic();
    for _ in 0..effort() {
        for (what, sends, hears) in
            [("is cut off", false, false), ("is deaf", true, false), ("is mute", false, true)]
        {
            let (leader, led) = trial.cluster.leads_most();
            let cut = leader + 1;
            let network = trial.network.as_ref().unwrap();
            for other in (1..=3).filter(|other| *other != cut) {
                if !sends {
                    network.cut(cut, other);
                }
                if !hears {
                    network.cut(other, cut);
                }
            }
            trial.every_group_takes_a_write(&format!("node {cut} {what}, led {led} groups"));
            let node = &trial.cluster.nodes[leader];
            must(STEP_DOWN_MAX, "it leads nothing", || node.groups_led() == 0);
            std::thread::sleep(ELECTION_TIMEOUT);
            trial.network.as_ref().unwrap().heal();
            traffic.wait_for_more(50, LIVE_MAX);
        }
    }
    trial.judge(vec![traffic]);
}

const GROUPS: usize = 12;
