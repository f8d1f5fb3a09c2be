//! A node says at its start what the system has refused to its log: io_uring, registered memory, or a disk below it.
//!
//! The node runs as a user without rights or a name, because the kernel can be told to refuse io_uring to such users. This
//! needs root, and a binary that every user may run; without them the tests say SKIPPED. `kernel.io_uring_disabled` holds
//! for the whole machine; it is put back as it was.

#![forbid(unsafe_code)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use support::{
    client::{Client, Outcome},
    cluster::{Cluster, directory},
    process::BINARY,
    skipped, turn,
};

#[test]
fn a_kernel_that_refuses_io_uring_gets_plain_writes_and_the_first_line_says_so() {
    let _turn = turn();
    let made = Disabled::new().and_then(|disabled| Ok((start_as_stranger(&[])?, disabled)));
    let ((_dir, mut cluster), disabled) = match made {
        Ok(made) => made,
        Err(why) => {
            skipped(
                "a_kernel_that_refuses_io_uring_gets_plain_writes_and_the_first_line_says_so",
                why,
            );
            return;
        }
    };
    assert_eq!(serves_with(&mut cluster), "disk=portable direct_io=yes registered=no");
    // A node that insists on io_uring does not start.
    cluster.nodes[0].stop();
    cluster.nodes[0].set_flag("--driver", "io_uring");
    cluster.nodes[0].start(&[]);
    assert_eq!(cluster.nodes[0].wait_exit(WITHIN).code(), Some(1));
    assert!(cluster.nodes[0].said().contains("not permitted"), "{}", cluster.nodes[0].said());
    // Once io_uring is allowed again, the same directory goes on with it.
    drop(disabled);
    cluster.nodes[0].set_flag("--driver", "auto");
    cluster.restart();
    assert_eq!(serves_with(&mut cluster), "disk=io_uring direct_io=yes registered=yes");
}

#[test]
fn a_process_that_may_lock_no_memory_writes_without_registering_it_and_says_so() {
    let _turn = turn();
    match start_as_stranger(&["prlimit", "--memlock=65536:65536"]) {
        Ok((_dir, mut cluster)) => {
            assert_eq!(serves_with(&mut cluster), "disk=io_uring direct_io=yes registered=no");
        }
        Err(why) => skipped(
            "a_process_that_may_lock_no_memory_writes_without_registering_it_and_says_so",
            why,
        ),
    }
}

/// In memory all that was acknowledged is gone when the machine stops, whatever was synced.
#[test]
fn a_node_whose_log_is_in_memory_says_so_and_no_other_does() {
    let _turn = turn();
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        skipped("a_node_whose_log_is_in_memory_says_so_and_no_other_does", "no /dev/shm");
        return;
    };
    for dir in [memory, directory()] {
        let is_memory = rustix::fs::statfs(dir.path()).unwrap().f_type == TMPFS_MAGIC;
        let mut cluster = Cluster::plan(dir.path(), 1, 4, 1 << 20);
        cluster.init();
        let said = cluster.nodes[0].said();
        let is_why = |line: &&str| {
            line.contains("WARN")
                && line.contains("the log is lost when the machine stops")
                && line.contains(&*dir.path().to_string_lossy())
        };
        assert_eq!(said.lines().filter(is_why).count(), usize::from(is_memory), "{said}");
    }
}

/// The words of the last start-up line about the disk, once the node has taken a write and given it back.
fn serves_with(cluster: &mut Cluster) -> String {
    cluster.wait_ready();
    let mut client = Client::new(&cluster.addresses());
    assert_eq!(client.put("key", b"value", WITHIN), Outcome::Yes);
    assert_eq!(client.get("key", WITHIN), Ok(Some(b"value".to_vec())));
    let line = cluster.nodes[0].printed();
    let start = line.find("disk=").expect("a start-up line");
    let words: Vec<&str> = line[start..].split(' ').take(3).collect();
    words.join(" ")
}

/// Starts one node as another user, with `words` in front of its command line. Each test has a user of its own: locked
/// memory is counted for all processes of a user together, and a ring's for a moment longer than its process lives.
fn start_as_stranger(words: &[&str]) -> Result<(tempfile::TempDir, Cluster), String> {
    static USERS: AtomicU32 = AtomicU32::new(0);
    if !rustix::process::geteuid().is_root() {
        return Err("only root can become somebody else".to_owned());
    }
    let step = std::process::id() * 2 + USERS.fetch_add(1, Ordering::Relaxed);
    let user = USER_MIN + step % USERS_MAX;
    let dir = directory();
    let home = dir.path().join("theirs");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(user), Some(user)).unwrap();
    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
    let under: Vec<&str> = [uid.as_str(), gid.as_str(), "--clear-groups"]
        .into_iter()
        .chain(words.iter().copied())
        .collect();
    let may_run = Command::new("setpriv").args(&under).args([BINARY, "--version"]).output();
    match may_run {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => return Err(format!("setpriv: {error}")),
    }
    let mut cluster = Cluster::plan(&home, 1, 4, 1 << 20);
    cluster.nodes[0].log_to(dir.path());
    let prefix = std::iter::once("setpriv").chain(under).map(str::to_owned);
    cluster.nodes[0].run_behind(prefix.collect());
    cluster.nodes[0].start(&["--init"]);
    Ok((dir, cluster))
}

/// io_uring is refused to all but root while this lives.
struct Disabled(String);

impl Disabled {
    fn new() -> Result<Self, String> {
        let was = fs::read_to_string(SWITCH).map_err(|error| format!("{SWITCH}: {error}"))?;
        if was.trim() == "2" {
            return Err("io_uring is refused to everybody here".to_owned());
        }
        fs::write(SWITCH, "1").map_err(|error| format!("{SWITCH}: {error}"))?;
        Ok(Self(was))
    }
}

impl Drop for Disabled {
    fn drop(&mut self) {
        fs::write(SWITCH, &self.0).expect("it could be written before");
    }
}

/// Of statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;
const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
/// With `USERS_MAX` it spans ids that are above the users that systems make, and below `nobody`, 65,534.
const USER_MIN: u32 = 61_200;
const USERS_MAX: u32 = 4_000;
const WITHIN: Duration = Duration::from_secs(30);
