//! Two nodes, and the way they introduce themselves.

use logdrive_net::stores::Proof;
use logdrive_net::{ClusterId, Hello, Lane};
use logdrive_raft::NodeId;
use std::time::Duration;

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);

pub(crate) fn hello(node: NodeId, lane: Lane) -> Hello {
    Hello {
        cluster: ClusterId::of("blue"),
        cluster_name: "blue".into(),
        node,
        incarnation: 1,
        proof: Proof::default(),
        shard: 0,
        shards: 1,
        command_bytes_founded: 1 << 20,
        settings: 7,
        heartbeat: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        lane,
        client_address: String::new(),
    }
}
