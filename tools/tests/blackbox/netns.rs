//! A network of its own for each node: namespaces on one bridge, and packets dropped one way.
//!
//! In:     how many nodes.
//! Out:    [`Network`]: a namespace and an address per node, and one [`Namespace`] from which all are reached.
//! Cost:   some dozen calls of `ip`.
//! Fails:  making one says why it cannot be (not root, no `ip`); then the test is skipped.
//!
//! Dropping it removes the namespaces, and with them all that is in them, also when a test fails half-way.

use super::support::process::run;
use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
};

/// Nodes 1 to n on one bridge.
#[derive(Debug)]
pub(crate) struct Network {
    /// Where the clients are.
    pub(crate) outside: Arc<Namespace>,
    nodes: Vec<Namespace>,
}

/// A network namespace, by name.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Network {
    /// Makes it, or says why that cannot be done here.
    pub(crate) fn new(nodes: usize) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make network namespaces".to_owned());
        }
        let me = std::process::id();
        let outside = Arc::new(Namespace::new(format!("ld{me}x"))?);
        outside.ip(&["link", "add", "bridge", "type", "bridge"])?;
        outside.ip(&["link", "set", "bridge", "up"])?;
        outside.ip(&["addr", "add", &format!("{}/24", address(OUTSIDE)), "dev", "bridge"])?;
        let mut network = Self { outside, nodes: Vec::new() };
        for node in 1..=nodes {
            let namespace = Namespace::new(format!("ld{me}n{node}"))?;
            let port = format!("port{node}");
            network.outside.ip(&[
                "link",
                "add",
                &port,
                "type",
                "veth",
                "peer",
                "name",
                "eth",
                "netns",
                &namespace.name,
            ])?;
            network.outside.ip(&["link", "set", &port, "master", "bridge"])?;
            network.outside.ip(&["link", "set", &port, "up"])?;
            namespace.ip(&["addr", "add", &format!("{}/24", address(node)), "dev", "eth"])?;
            namespace.ip(&["link", "set", "eth", "up"])?;
            network.nodes.push(namespace);
        }
        Ok(network)
    }

    /// A node's address with this port.
    pub(crate) fn socket(&self, node: usize, port: u16) -> SocketAddr {
        SocketAddr::from((address(node), port))
    }

    /// The words that a command line starts with to run as this node.
    pub(crate) fn prefix(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.nodes[node - 1].name].map(str::to_owned).to_vec()
    }

    /// Every packet that one node sends to the other is lost.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        let rule = ["rule", "add", "to", &address(to).to_string(), "blackhole"];
        self.nodes[from - 1].ip(&rule).unwrap();
    }

    /// All packets arrive again.
    pub(crate) fn heal(&self) {
        for namespace in &self.nodes {
            while namespace.ip(&["rule", "del", "blackhole"]).is_ok() {}
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Clients of a test that failed may still hold this namespace, so it is not dropped with the others.
        self.outside.remove();
    }
}

impl Namespace {
    fn new(name: String) -> Result<Self, String> {
        run("ip", &["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Moves the calling thread here.
    pub(crate) fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).unwrap();
    }

    fn remove(&self) {
        let _ = run("ip", &["netns", "del", &self.name]);
    }

    fn ip(&self, words: &[&str]) -> Result<String, String> {
        run("ip", &[&["-n", &self.name], words].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.remove();
    }
}

fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(node).unwrap())
}

const OUTSIDE: usize = 254;
