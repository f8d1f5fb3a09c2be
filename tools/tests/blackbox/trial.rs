//! One trial: a cluster, what lies between its nodes, its clients, and the judgement at the end.
//!
//! In:     how many nodes and groups, and what is to lie between them.
//! Out:    [`Trial`], whose nodes and links the scenario torments; [`Trial::judge`]: heals everything, reads every key
//!         back, stops the nodes, merges their logs and holds the clients' history against them.
//! Cost:   processes, a proxy thread, client threads; about two seconds beside what the scenario does.
//! Fails:  by panicking with what could not be explained, and the nodes' last words.

use super::{
    checker::{self, History},
    merged::{NodeLog, merge},
    netns::Network,
    proxy::Links,
    support::{
        client::slot_of,
        cluster::{Cluster, directory},
        eventually, now, report,
    },
    traffic::{Place, Recorder, Traffic, name_of},
};
use rustix::process::Signal;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

/// Fields are dropped in their order, so that processes end before the links, networks and directories that they use.
pub(crate) struct Trial {
    pub(crate) cluster: Cluster,
    pub(crate) links: Option<Links>,
    pub(crate) network: Option<Network>,
    pub(crate) place: Place,
    groups: usize,
    probe: Recorder,
    dir: tempfile::TempDir,
}

/// The facts that the logs show at the end, beside that they are right.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Of each group the highest term on any node.
    pub(crate) terms: Vec<u64>,
}

impl Trial {
    /// Nodes that reach each other directly.
    pub(crate) fn direct(nodes: usize, groups: usize) -> Self {
        Self::start(nodes, groups, |_| (None, None))
    }

    /// Nodes with the fault proxy between them.
    pub(crate) fn proxied(nodes: usize, groups: usize) -> Self {
        Self::start(nodes, groups, |cluster| {
            let listen: Vec<(usize, SocketAddr)> =
                cluster.nodes.iter().map(|node| (node.id, node.peer)).collect();
            let links = Links::start(&listen, seed());
            for node in &mut cluster.nodes {
                let peers: Vec<String> = listen
                    .iter()
                    .map(|(id, address)| match *id == node.id {
                        true => format!("{id}={address}"),
                        false => format!("{id}={}", links.address((node.id, *id))),
                    })
                    .collect();
                node.set_flag("--peers", &peers.join(","));
            }
            (Some(links), None)
        })
    }

    /// Nodes with a network namespace each. Moves the calling thread to where the clients are.
    pub(crate) fn in_namespaces(network: Network, nodes: usize, groups: usize) -> Self {
        Self::start(nodes, groups, |cluster| {
            network.outside.enter();
            let peers: Vec<String> = cluster
                .nodes
                .iter()
                .map(|node| format!("{}={}", node.id, network.socket(node.id, node.peer.port())))
                .collect();
            for node in &mut cluster.nodes {
                node.client = network.socket(node.id, node.client.port());
                node.set_flag("--listen", &node.client.to_string());
                node.set_flag("--peers", &peers.join(","));
                node.run_behind(network.prefix(node.id));
            }
            (None, Some(network))
        })
    }

    fn start(
        nodes: usize,
        groups: usize,
        between: impl FnOnce(&mut Cluster) -> (Option<Links>, Option<Network>),
    ) -> Self {
        let dir = directory();
        let mut cluster = Cluster::plan(dir.path(), nodes, groups, SEGMENT_BYTES);
        let (links, network) = between(&mut cluster);
        for node in &mut cluster.nodes {
            node.set_flag("--election-timeout", &format!("{}ms", ELECTION_TIMEOUT.as_millis()));
            node.set_flag("--heartbeat", &format!("{}ms", ELECTION_TIMEOUT.as_millis() / 10));
        }
        cluster.init();
        let place = Place {
            nodes: cluster.addresses(),
            keys: KEYS,
            seed: seed(),
            patience: PATIENCE,
            namespace: network.as_ref().map(|network| Arc::clone(&network.outside)),
        };
        let probe = Recorder::new(&place, PROBE);
        Self { cluster, links, network, place, groups, probe, dir }
    }

    /// Clients at work.
    pub(crate) fn traffic(&self) -> Traffic {
        let traffic = Traffic::start(&self.place, 1..CLIENTS + 1);
        traffic.wait_for_more(50, LIVE_MAX);
        traffic
    }

    /// The links between the nodes.
    pub(crate) fn links(&self) -> &Links {
        self.links.as_ref().expect("a proxied trial")
    }

    /// Writes once to every group, each of which must take it in time. Says how long the slowest took.
    pub(crate) fn every_group_takes_a_write(&mut self, when: &str) -> Duration {
        let start = now();
        for group in 0..self.groups {
            let key = (0..KEYS)
                .find(|key| {
                    usize::from(slot_of(name_of(*key).as_bytes())) * self.groups / 16_384 == group
                })
                .expect("the keys meet every group");
            let taken = self.probe.insist(LIVE_MAX, |probe| probe.write(key));
            assert!(taken, "{when}: group {group} takes no write{}", self.cluster.last_words());
        }
        let took = start.elapsed();
        report(format_args!("  {when}: every group took a write within {took:?}"));
        took
    }

    /// Writes and reads, none of which may be answered.
    pub(crate) fn nothing_is_served(&mut self, when: &str) {
        for key in 0..4 {
            assert!(!self.probe.write(key), "{when}: a write is acknowledged");
            assert!(!self.probe.read(key), "{when}: a read is answered");
        }
        report(format_args!("  {when}: nothing is served"));
    }

    /// Heals everything, reads all back, stops the nodes, and judges.
    pub(crate) fn judge(mut self, traffic: Vec<Traffic>) -> Verdict {
        if let Some(links) = &self.links {
            report(format_args!("  carried: {}", links.summary()));
            links.heal();
        }
        if let Some(network) = &self.network {
            network.heal();
        }
        self.cluster.restart();
        self.every_group_takes_a_write("healed");
        let mut history = std::mem::take(&mut self.probe.history);
        for traffic in traffic {
            history.operations.extend(traffic.finish().operations);
        }
        for key in 0..KEYS {
            let read = self.probe.insist(LIVE_MAX, |probe| probe.read(key));
            assert!(read, "key {key} cannot be read{}", self.cluster.last_words());
        }
        history.operations.append(&mut self.probe.history.operations);
        self.cluster.assert_no_panic();
        self.stop_all();
        let scratch = self.dir.path();
        let logs: Vec<NodeLog> =
            self.cluster.nodes.iter().map(|node| NodeLog::read(node, scratch)).collect();
        self.hold_against(&history, &logs);
        let mut terms: BTreeMap<_, u64> = BTreeMap::new();
        for (group, log) in logs.iter().flat_map(|log| &log.groups) {
            let term = terms.entry(*group).or_default();
            *term = log.term.max(*term);
        }
        Verdict { terms: terms.into_values().collect() }
    }

    /// Tells all nodes to stop before it waits for any, so that none is elected meanwhile.
    fn stop_all(&mut self) {
        for node in &self.cluster.nodes {
            node.signal(Signal::TERM);
        }
        for node in &mut self.cluster.nodes {
            let status = node.wait_exit(STOP_MAX);
            assert!(status.success(), "node {} ended with {status}: {}", node.id, node.said());
        }
    }

    fn hold_against(&self, history: &History, logs: &[NodeLog]) {
        let log = merge(logs);
        let wrong = checker::check(history, &log);
        let count = |of: fn(&checker::What) -> bool| {
            history.operations.iter().filter(|operation| of(&operation.what)).count()
        };
        let written = count(|what| matches!(what, checker::What::Written(_)));
        report(format_args!(
            "  history: {written} writes acknowledged, {} unknown, {} refused, {} reads; {} in the merged log",
            count(|what| matches!(what, checker::What::Unknown(_))),
            count(|what| matches!(what, checker::What::Refused(_))),
            count(|what| matches!(what, checker::What::Read(_))),
            log.len(),
        ));
        assert!(written > 0, "nothing was acknowledged: the check would be empty");
        let shown: Vec<&str> = wrong.iter().take(20).map(String::as_str).collect();
        assert!(
            wrong.is_empty(),
            "{} operations cannot be explained (seed {}):\n{}{}",
            wrong.len(),
            seed(),
            shown.join("\n"),
            self.cluster.last_words()
        );
    }
}

/// How many times the usual rounds a scenario is to run.
pub(crate) fn effort() -> u64 {
    number_from("LOGDRIVE_BLACKBOX")
}

/// The seed that the faults are drawn from.
pub(crate) fn seed() -> u64 {
    number_from("LOGDRIVE_SEED")
}

fn number_from(variable: &str) -> u64 {
    let text = std::env::var(variable).unwrap_or_else(|_| "1".to_owned());
    text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number"))
}

/// Waits until `so` holds, or fails with `what`.
pub(crate) fn must(within: Duration, what: &str, so: impl FnMut() -> bool) {
    assert!(eventually(within, so), "not within {within:?}: {what}");
}

pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(400);
/// A leader that hears no majority steps down within one election timeout; the rest is for a machine that is shared.
pub(crate) const STEP_DOWN_MAX: Duration = ELECTION_TIMEOUT.saturating_mul(10);
/// Far longer than a few elections take, also on a machine that is shared.
pub(crate) const LIVE_MAX: Duration = Duration::from_secs(30);
const KEYS: u32 = 64;
const CLIENTS: u64 = 6;
/// The probe's number as a client.
const PROBE: u64 = 1_000;
const PATIENCE: Duration = Duration::from_millis(1_500);
const STOP_MAX: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: usize = 1 << 20;
