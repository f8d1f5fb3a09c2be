//! The client addresses and the times that peers state when they connect, compared with those of the other nodes.
//!
//! In:     the hello of each connection with a peer, either way.
//! Out:    the nodes' client addresses; a line in the log for each peer whose address or times do not go with those of
//!         another node.
//! Cost:   a lock held for a moment; a walk over the nodes per connection.
//! Fails:  never. A fault is told once for each process of the peer, and again when it has become another one.
//! Source: RULES.md P13, P14.

use crate::NodeId;
use logdrive_net::Hello;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The client address of each node, as it states it, and the faults that were told of each peer.
pub(crate) struct Introductions {
    me: NodeId,
    heartbeat: Duration,
    election_timeout: Duration,
    /// Without those that have none.
    client_addresses: Mutex<BTreeMap<NodeId, String>>,
    /// By peer: its process, and what was told of it.
    told: Mutex<BTreeMap<NodeId, (u64, Vec<Fault>)>>,
}

/// Something in which a peer does not go with another node.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Fault {
    /// Its clients are sent to the address of this node, which may be our own.
    SameAddress(NodeId),
    /// Its heartbeats, in an interval of this length, are too slow for our election timeout.
    SlowHeartbeats(Duration),
    /// Its election timeout, of this length, is too short for our heartbeats.
    ShortPatience(Duration),
}

impl Introductions {
    pub(crate) fn new(
        me: NodeId,
        client_address: &str,
        heartbeat: Duration,
        election_timeout: Duration,
    ) -> Self {
        let own = (!client_address.is_empty()).then(|| (me, client_address.to_owned()));
        let client_addresses = Mutex::new(own.into_iter().collect());
        Self { me, heartbeat, election_timeout, client_addresses, told: Mutex::default() }
    }

    /// Where the clients of `node` go, if that is known.
    pub(crate) fn client_address(&self, node: NodeId) -> Option<String> {
        lock(&self.client_addresses).get(&node).cloned()
    }

    /// Takes in what a peer says of itself. True if its client address is a new one.
    pub(crate) fn note(&self, peer: &Hello) -> bool {
        for fault in self.faults_to_tell(peer) {
            self.tell(peer, &fault);
        }
        if peer.client_address.is_empty() {
            return false;
        }
        let address = peer.client_address.clone();
        let before = lock(&self.client_addresses).insert(peer.node, address);
        before.as_ref() != Some(&peer.client_address)
    }

    /// The faults of a peer, unless they were told of this process of it.
    fn faults_to_tell(&self, peer: &Hello) -> Vec<Fault> {
        let faults = self.faults(peer);
        let now = (peer.incarnation, faults.clone());
        let before = lock(&self.told).insert(peer.node, now);
        match before {
            Some((incarnation, told)) if incarnation == peer.incarnation && told == faults => {
                Vec::new()
            }
            _ => faults,
        }
    }

    fn faults(&self, peer: &Hello) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (node, address) in &*lock(&self.client_addresses) {
            if *node != peer.node && *address == peer.client_address {
                faults.push(Fault::SameAddress(*node));
            }
        }
        if peer.heartbeat.saturating_mul(HEARTBEATS_MIN) > self.election_timeout {
            faults.push(Fault::SlowHeartbeats(peer.heartbeat));
        }
        if self.heartbeat.saturating_mul(HEARTBEATS_MIN) > peer.election_timeout {
            faults.push(Fault::ShortPatience(peer.election_timeout));
        }
        faults
    }

    fn tell(&self, peer: &Hello, fault: &Fault) {
        let (node, ours) = (peer.node, self);
        match fault {
            Fault::SameAddress(other) if *other == ours.me => {
                let address = &peer.client_address;
                tracing::error!(peer = %node, %address, "a peer sends its clients to this node's own client address: clients cannot be sent to both. Each node needs an address of its own (serve --advertise)");
            }
            Fault::SameAddress(other) => {
                let address = &peer.client_address;
                tracing::error!(peer = %node, %other, %address, "two peers send their clients to the same address: clients cannot be sent to both. Each node needs an address of its own (serve --advertise)");
            }
            Fault::SlowHeartbeats(heartbeat) => {
                let election_timeout = ours.election_timeout;
                tracing::warn!(peer = %node, ?heartbeat, ?election_timeout, "this node's election timeout is less than three heartbeats of a peer: while that peer leads, this node often takes it for gone, asks for elections and knows no leader. Election timeouts must fit the slowest heartbeat of the cluster");
            }
            Fault::ShortPatience(election_timeout) => {
                let heartbeat = ours.heartbeat;
                tracing::warn!(peer = %node, ?election_timeout, ?heartbeat, "a peer's election timeout is less than three heartbeats of this node: while this node leads, the peer often takes it for gone, asks for elections and knows no leader. Election timeouts must fit the slowest heartbeat of the cluster");
            }
        }
    }
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An election timeout has at least so many heartbeats: of a node's own ([`crate::Config`]), and of its peers.
pub(crate) const HEARTBEATS_MIN: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use logdrive_net::{ClusterId, Lane, stores::Proof};

    fn hello(node: u64, address: &str, times: (u64, u64)) -> Hello {
        Hello {
            cluster: ClusterId::of("c"),
            cluster_name: "c".to_owned(),
            node: NodeId(node),
            incarnation: 1,
            proof: Proof::default(),
            shard: 0,
            shards: 1,
            command_bytes_founded: 1,
            settings: 0,
            heartbeat: Duration::from_millis(times.0),
            election_timeout: Duration::from_millis(times.1),
            lane: Lane::Append,
            client_address: address.to_owned(),
        }
    }

    fn ours() -> Introductions {
        let ms = Duration::from_millis;
        Introductions::new(NodeId(1), "a:1", ms(100), ms(1000))
    }

    /// RULES.md P13.
    #[test]
    fn times_that_do_not_go_together_are_told_on_both_sides() {
        let ms = Duration::from_millis;
        // The settings of a node that is to be quicker, or slower, than its peers.
        for (times, wanted) in [
            ((100, 1000), vec![]),
            ((333, 300), vec![]),
            ((10, 299), vec![Fault::ShortPatience(ms(299))]),
            ((334, 5000), vec![Fault::SlowHeartbeats(ms(334))]),
        ] {
            let peer = hello(2, "b:1", times);
            assert_eq!(ours().faults_to_tell(&peer), wanted, "{times:?}");
            let theirs = Introductions::new(NodeId(2), "b:1", ms(times.0), ms(times.1));
            let told = theirs.faults_to_tell(&hello(1, "a:1", (100, 1000)));
            assert_eq!(told.len(), wanted.len(), "{times:?} {told:?}");
        }
    }

    /// RULES.md P14.
    #[test]
    fn a_fault_of_a_peer_is_told_once_for_each_of_its_processes() {
        let ours = ours();
        let peer = hello(2, "a:1", (100, 1000));
        let same = [Fault::SameAddress(NodeId(1))];
        assert_eq!(ours.faults_to_tell(&peer), same);
        assert!(ours.note(&peer) && !ours.note(&peer));
        assert_eq!(ours.faults_to_tell(&peer), []);
        // Of another peer that has the address of both.
        let third = hello(3, "a:1", (100, 1000));
        let both = [Fault::SameAddress(NodeId(1)), Fault::SameAddress(NodeId(2))];
        assert_eq!(ours.faults_to_tell(&third), both);
        let again = Hello { incarnation: 2, ..peer };
        assert_eq!(ours.faults_to_tell(&again), same);
        let mended = Hello { incarnation: 3, client_address: "b:1".to_owned(), ..again };
        assert_eq!(ours.faults_to_tell(&mended), []);
        assert!(ours.note(&mended));
        assert_eq!(ours.client_address(NodeId(2)).as_deref(), Some("b:1"));
        // No address is nobody's.
        let silent = Hello { client_address: String::new(), ..hello(4, "", (100, 1000)) };
        assert_eq!((ours.faults_to_tell(&silent), ours.note(&silent)), (vec![], false));
    }
}
