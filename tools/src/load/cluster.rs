//! A cluster of `serve` processes on loopback, for as long as a run lasts.
//!
//! In:     the program, the numbers of nodes and groups, and the directory in which the nodes' directories are made.
//! Out:    running processes that serve every slot, and their addresses.
//! Cost:   a process and a directory per node.
//! Fails:  with [`ClusterError`], which names the node and ends with the last lines that the node wrote.
//!
//! Nothing is left behind: dropping the cluster stops the processes and removes the directory. If this process dies
//! before it drops the cluster, the kernel closes the pipes that are the servers' standard inputs, and
//! `serve --exit-with-stdin` ends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::schedule::now_ns;
use super::target::{Endpoint, is_ready};

/// A cluster that did not come up, or did not stay up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("cannot make a directory for the servers in {place}: {error}")]
    Directory { place: PathBuf, error: io::Error },
    #[error("cannot find a free port on loopback: {0}")]
    Port(io::Error),
    #[error("cannot start {program}: {error}")]
    Start { program: PathBuf, error: io::Error },
    #[error("server {node} ended with {status}{said}")]
    Ended { node: usize, status: ExitStatus, said: Said },
    #[error("the cluster was not ready after {waited:?}: server {node} is not{said}")]
    NotReady { node: usize, waited: Duration, said: Said },
}

/// The last lines a server wrote, as the end of an error's line.
#[derive(Debug)]
pub(crate) struct Said(String);

impl std::fmt::Display for Said {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            out.write_str("; it wrote nothing")
        } else {
            write!(out, "; its last words: {}", self.0)
        }
    }
}

/// Running servers. Dropping a cluster stops its servers and removes their files.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    directory: TempDir,
    /// Open sockets that tell other runs that the servers' ports are taken.
    _signs: Vec<UdpSocket>,
}

struct Node {
    child: Child,
    log: PathBuf,
    client: Endpoint,
}

impl Cluster {
    /// Starts `nodes` servers with their files in a new directory inside `place`; as long as there are `cores`, each
    /// server in turn stays on a core of its own.
    pub(super) fn start(
        program: &Path,
        nodes: usize,
        groups: u32,
        cores: &[usize],
        place: &Path,
    ) -> Result<Self, ClusterError> {
        let directory = tempfile::Builder::new()
            .prefix(DIRECTORY_PREFIX)
            .tempdir_in(place)
            .map_err(|error| ClusterError::Directory { place: place.to_owned(), error })?;
        let (ports, signs) = free_ports(2 * nodes).map_err(ClusterError::Port)?;
        let (peers, clients) = ports.split_at(nodes);
        let peer_list: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(at, port)| format!("{}=127.0.0.1:{port}", at + 1))
            .collect();
        // Each node is added to the cluster as it starts, so that a failed start stops the nodes before it.
        let mut cluster = Self { nodes: Vec::with_capacity(nodes), directory, _signs: signs };
        for (at, &port) in clients.iter().enumerate() {
            let id = (at + 1).to_string();
            let client = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut command = Command::new(program);
            command.args(["serve", "--init", "--exit-with-stdin", "--id", &id, "--dir"]);
            command.arg(cluster.directory.path().join(format!("n{id}")));
            command.args(["--peers", &peer_list.join(","), "--listen", &client.to_string()]);
            command.args(["--groups", &groups.to_string()]);
            if let Some(core) = cores.get(at) {
                command.args(["--cores", &core.to_string()]);
            }
            let log = cluster.directory.path().join(format!("n{id}.log"));
            let child = spawn(&mut command, &log)
                .map_err(|error| ClusterError::Start { program: program.to_owned(), error })?;
            cluster.nodes.push(Node { child, log, client: client.into() });
        }
        Ok(cluster)
    }

    /// Where the servers keep their files.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where clients connect, in node order.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// Waits until every node says that every slot is served.
    pub(super) async fn ready(&mut self, within: Duration) -> Result<(), ClusterError> {
        let start = now_ns();
        for at in 0..self.nodes.len() {
            while !is_ready(&self.nodes[at].client).await.unwrap_or(false) {
                self.check()?;
                if u128::from(now_ns() - start) > within.as_nanos() {
                    let said = last_words(&self.nodes[at].log);
                    return Err(ClusterError::NotReady { node: at + 1, waited: within, said });
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
        Ok(())
    }

    /// An error if a server has ended.
    pub(super) fn check(&mut self) -> Result<(), ClusterError> {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if let Ok(Some(status)) = node.child.try_wait() {
                return Err(ClusterError::Ended {
                    node: at + 1,
                    status,
                    said: last_words(&node.log),
                });
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            drop(node.child.stdin.take());
            if let Ok(None) = node.child.try_wait() {
                // The child was not yet waited for, so the id is still that of the child.
                let _ = kill_process(pid(&node.child), Signal::TERM);
            }
        }
        let deadline = now_ns() + nanoseconds(STOP_MAX);
        for node in &mut self.nodes {
            while let Ok(None) = node.child.try_wait() {
                if now_ns() > deadline {
                    let _ = node.child.kill();
                    let _ = node.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // The drop of `directory`, which comes next, removes the files.
    }
}

/// The name of a directory's file system, and whether that file system is memory: nothing is durable in memory.
pub(super) fn file_system(directory: &Path) -> (&'static str, bool) {
    let Ok(stat) = rustix::fs::statfs(directory) else { return ("unknown file system", false) };
    match stat.f_type as u64 & 0xffff_ffff {
        0x0102_1994 => ("tmpfs", true),
        0x8584_58f6 => ("ramfs", true),
        0xef53 => ("ext4", false),
        0x5846_5342 => ("xfs", false),
        0x9123_683e => ("btrfs", false),
        0x2fc1_2fc1 => ("zfs", false),
        0x794c_7630 => ("overlayfs", false),
        _ => ("another file system", false),
    }
}

fn spawn(command: &mut Command, log: &Path) -> io::Result<Child> {
    let log = File::create(log)?;
    command
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C at the terminal is meant for this process, which then stops the servers in order.
        .process_group(0)
        .spawn()
}

/// Ports on which nobody listens and which no other run takes as long as the returned sockets live: sockets that hold
/// the UDP ports of the same numbers, which no server uses. Such a sign is needed because nobody can listen on the TCP
/// ports for the servers before the servers start, and two runs that look at the same time would find the same ports.
fn free_ports(count: usize) -> io::Result<(Vec<u16>, Vec<UdpSocket>)> {
    // The ports are below the range from which the system draws outgoing connections' ports, or an outgoing connection
    // could take a port between this look and the server's start. Each process begins its search at a place of its own.
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    let (mut ports, mut signs) = (Vec::new(), Vec::new());
    for port in first..first + 2_000 {
        if ports.len() < count
            && let Ok(sign) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            signs.push(sign);
            ports.push(port);
        }
    }
    if ports.len() < count {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "no free ports on loopback"));
    }
    Ok((ports, signs))
}

fn last_words(log: &Path) -> Said {
    let bytes = std::fs::read(log).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Said(lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join(" | "))
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid_t"))
        .expect("children have ids above zero")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("seconds")
}

const DIRECTORY_PREFIX: &str = "logdrive-load-";
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A server that has not ended this long after it was told to is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
const LAST_WORDS_BYTES: usize = 4 << 10;
const LAST_WORDS_LINES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that runs `script`, whatever the program's arguments are.
    fn program(place: &Path, script: &str) -> PathBuf {
        let path = place.join("server.sh");
        // The file is written by another process: a file that this process has open for writing while some test's
        // thread starts a child cannot be executed for a moment.
        let write = r##"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""##;
        let status = Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(script).status();
        assert!(status.unwrap().success());
        path
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn left_in(place: &Path) -> usize {
        std::fs::read_dir(place)
            .unwrap()
            .filter(|entry| {
                entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(DIRECTORY_PREFIX)
            })
            .count()
    }

    /// Several runs look for ports side by side, before any of them has started its servers.
    #[test]
    fn ports_are_taken_once_as_long_as_their_signs_live() {
        let (first, signs) = free_ports(6).unwrap();
        let (second, _signs) = free_ports(6).unwrap();
        assert!(second.iter().all(|port| !first.contains(port)), "{first:?} {second:?}");
        drop(signs);
        // Another test of this process may hold some of them for a while.
        let given_again = (0..3_000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            free_ports(1).unwrap().0 == first[..1]
        });
        assert!(given_again, "{first:?}");
    }

    #[test]
    fn a_server_that_fails_to_start_is_named_with_its_last_words() {
        let place = tempfile::tempdir().unwrap();
        let program = program(place.path(), "echo one; echo the disk is on fire >&2; exit 3");
        let mut cluster = Cluster::start(&program, 2, 10, &[], place.path()).unwrap();
        let error = block_on(cluster.ready(Duration::from_secs(20))).unwrap_err().to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("the disk is on fire"),
            "{error}"
        );
        drop(cluster);
        assert_eq!(left_in(place.path()), 0);
    }

    #[test]
    fn a_cluster_that_never_serves_is_given_up_and_cleaned_away() {
        let place = tempfile::tempdir().unwrap();
        let program = program(place.path(), "echo \"$@\" >&2; exec sleep 600");
        let mut cluster = Cluster::start(&program, 3, 77, &[5, 7], place.path()).unwrap();
        // Wait for the arguments first, so that the error surely shows them.
        while std::fs::read(&cluster.nodes[0].log).unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pids: Vec<Pid> = cluster.nodes.iter().map(|node| pid(&node.child)).collect();
        let error = block_on(cluster.ready(Duration::ZERO)).unwrap_err().to_string();
        for part in [
            "server 1",
            "serve --init",
            "--id 1",
            "/n1 --peers 1=127.0.0.1:",
            ",3=127.0.0.1:",
            "--groups 77",
            "--cores 5",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        drop(cluster);
        assert_eq!(left_in(place.path()), 0);
        for pid in pids {
            assert!(rustix::process::test_kill_process(pid).is_err(), "{pid:?} still runs");
        }
    }

    #[test]
    fn a_server_that_ignores_the_signal_still_learns_that_we_are_gone() {
        let place = tempfile::tempdir().unwrap();
        let program = program(place.path(), "trap '' TERM; echo up >&2; read line; echo gone >&2");
        let cluster = Cluster::start(&program, 1, 1, &[], place.path()).unwrap();
        while std::fs::read(&cluster.nodes[0].log).unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(cluster); // ends by the closed pipe: `kill` would need STOP_MAX
        assert_eq!(left_in(place.path()), 0);
    }

    #[test]
    fn a_missing_program_is_an_error_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let error = Cluster::start(Path::new("/nonexistent/logdrive"), 1, 1, &[], place.path())
            .err()
            .unwrap();
        assert!(error.to_string().contains("/nonexistent/logdrive"), "{error}");
        assert_eq!(left_in(place.path()), 0);
    }
}
