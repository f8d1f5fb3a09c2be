//! The refusals of `serve`: an exit code that is not 0, one line that says why, and nothing touched.
//!
//! In:     wrong flags, files, directories and addresses.
//! Out:    nothing but failures.

#![forbid(unsafe_code)]

mod support;

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};
use support::{
    client::{Client, Outcome},
    cluster::{Cluster, Node, directory, free_ports},
    process::{BINARY, refusal},
};

fn serve(flags: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("serve").args(flags);
    command
}

fn flags(dir: &Path, peer: u16, client: u16, more: &[&str]) -> Command {
    let (dir, peers) = (dir.display().to_string(), format!("1=127.0.0.1:{peer}"));
    let listen = format!("127.0.0.1:{client}");
    let mut flags = vec!["--dir", &dir, "--peers", &peers, "--listen", &listen];
    flags.extend(more);
    flags.extend(["--segment-bytes", "4194304"]);
    serve(&flags)
}

/// A node alone that is not started yet.
fn plan(dir: &Path, groups: usize) -> Cluster {
    Cluster::plan(dir, 1, groups, 4 << 20)
}

#[test]
fn wrong_flags_and_files_are_named() {
    let home = directory();
    let dir = home.path().join("node");
    let [peer, client] = free_ports(2)[..] else { panic!("two ports") };
    for (more, word) in [
        (&["--groups", "0", "--id", "1", "--init"][..], "groups"),
        (&["--groups", "16385", "--id", "1", "--init"], "groups"),
        (&["--groups", "many", "--id", "1", "--init"], "--groups"),
        (&["--replicas", "2", "--id", "1", "--init"], "replicas"),
        (&["--shards", "0", "--id", "1", "--init"], "shards"),
        (&["--id", "2", "--init"], "id 2"),
        (&["--init"], "--id"),
        (&["--id", "1", "--init", "--advertise", "nowhere"], "advertise"),
        (&["--id", "1", "--init", "--heartbeat", "900ms"], "heartbeat"),
        (&["--id", "1", "--init", "--no-such-flag"], "--no-such-flag"),
        (&["--config", "/nonexistent.toml"], "/nonexistent.toml"),
    ] {
        let stderr = refusal(flags(&dir, peer, client, more));
        assert!(stderr.contains(word), "{more:?}: {stderr}");
    }
    let file = home.path().join("node.toml");
    for (text, word) in
        [("colour = \"red\"\n", "colour"), ("groups = true\n", "line 1"), ("id = [", "line 1")]
    {
        fs::write(&file, text).expect("written");
        let name = file.display().to_string();
        let stderr =
            refusal(flags(&dir, peer, client, &["--init", "--id", "1", "--config", &name]));
        assert!(stderr.contains(word), "{text}: {stderr}");
    }
    let stderr = refusal(serve(&[]));
    assert!(stderr.contains("dir"), "{stderr}");
}

#[test]
fn a_directory_that_is_not_this_nodes_is_refused() {
    let home = directory();
    let [peer, client] = free_ports(2)[..] else { panic!("two ports") };

    let empty = home.path().join("empty");
    fs::create_dir(&empty).expect("made");
    let stderr = refusal(flags(&empty, peer, client, &["--id", "1"]));
    assert!(stderr.contains("missing or empty: --init"), "{stderr}");
    assert_eq!(fs::read_dir(&empty).expect("listed").count(), 0, "nothing was made in it");

    let absent = home.path().join("absent");
    refusal(flags(&absent, peer, client, &["--id", "1"]));
    assert!(!fs::exists(&absent).unwrap(), "nothing was made");

    let half = home.path().join("half");
    fs::create_dir_all(half.join("shard-000")).expect("made");
    let stderr = refusal(flags(&half, peer, client, &["--id", "1"]));
    assert!(stderr.contains("cut short") && stderr.contains("--init"), "{stderr}");

    let foreign = home.path().join("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("holiday.jpg"), b"precious").expect("written");
    refusal(flags(&foreign, peer, client, &["--init", "--id", "1"]));
    refusal(flags(&foreign, peer, client, &["--id", "1"]));
    for entry in fs::read_dir(&foreign).expect("listed") {
        let entry = entry.expect("listed");
        // To look into the directory safely the log takes a lock, whose file stays. Nothing else may be made there.
        let made = entry.file_name() != "holiday.jpg" && entry.file_name() != "lock";
        assert!(!made, "{:?} was made", entry.path());
    }
    assert_eq!(fs::read(foreign.join("holiday.jpg")).expect("there"), b"precious");

    let file = home.path().join("file");
    fs::write(&file, b"not a directory").expect("written");
    refusal(flags(&file, peer, client, &["--init", "--id", "1"]));
    assert_eq!(fs::read(&file).expect("there"), b"not a directory");

    // Nobody may write there, root included.
    refusal(flags(Path::new("/proc/logdrive"), peer, client, &["--init", "--id", "1"]));
}

#[test]
fn a_first_start_that_is_refused_can_be_repeated_as_it_is() {
    let home = directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let mut cluster = plan(home.path(), 1);
    let Node { dir, peer, client, .. } = &cluster.nodes[0];
    let free = [peer.port(), client.port()];
    let init = ["--init", "--id", "1", "--groups", "1"];
    let long = format!("{}:7001", "h".repeat(251));
    let in_use = format!("127.0.0.1:{port}");
    let same = format!("127.0.0.1:{}", free[0]);
    for (peer, client, more, word) in [
        (free[0], port, &[][..], in_use.as_str()),
        (port, free[0], &[], &in_use),
        (free[0], free[0], &[], &same),
        (free[0], free[1], &["--log-quota", "25165823"], "25165824"),
        (free[0], free[1], &["--advertise", &long], "advertise must be at most 255 bytes"),
    ] {
        let stderr = refusal(flags(dir, peer, client, &[&init, more].concat()));
        assert!(stderr.contains(word), "{stderr}");
        let made = fs::exists(dir).unwrap();
        assert!(!made, "a second try with --init must be possible after: {stderr}");
    }
    cluster.init();
    assert!(cluster.nodes[0].stop().success());
}

#[test]
fn a_node_that_was_made_and_could_not_be_opened_says_how_to_go_on() {
    let home = directory();
    let mut cluster = plan(home.path(), 1);
    let node = &mut cluster.nodes[0];
    // The node cannot know it before the directory is made, but its open must fail: no file may be as large as a segment.
    let sh = r#"ulimit -f 2048; exec "$@""#;
    node.run_behind(["sh", "-c", sh, "sh"].map(str::to_owned).to_vec());
    let mut command = node.command(&["--init"]);
    command.env("LOGDRIVE_LOG", "error"); // the log warns of it, too
    let stderr = refusal(command);
    assert!(stderr.contains(&format!("{} is made already", node.dir.display())), "{stderr}");
    assert!(stderr.contains("start it without --init"), "{stderr}");
    node.run_behind(Vec::new());
    cluster.restart();
    assert!(cluster.nodes[0].stop().success());
}

#[test]
fn what_init_fixed_stays_and_one_process_has_a_directory() {
    let home = directory();
    let mut cluster = plan(home.path(), 4);
    cluster.init();
    let addresses = cluster.addresses();
    let Node { dir, peer, .. } = &cluster.nodes[0];
    let (dir, peer) = (dir.clone(), peer.port());
    let refused = |more: &[&str]| refusal(flags(&dir, peer, 0, &[&["--id", "1"], more].concat()));

    refused(&[]); // another process runs on it
    // The refused process did not disturb the first.
    let outcome = Client::new(&addresses).put("k", b"v", LIVE_MAX);
    assert_eq!(outcome, Outcome::Yes);
    assert!(cluster.nodes[0].stop().success());

    let stderr = refused(&["--init"]);
    assert!(stderr.contains("without --init"), "{stderr}");
    for (flag, value) in [("--groups", "5"), ("--shards", "2"), ("--cluster", "other")] {
        let stderr = refused(&[flag, value]);
        let key = flag.trim_start_matches('-');
        assert!(stderr.contains(key) && stderr.contains("cannot change"), "{stderr}");
    }

    cluster.restart();
    // Nothing was lost by being refused.
    assert_eq!(Client::new(&addresses).get("k", LIVE_MAX), Ok(Some(b"v".to_vec())));
}

const LIVE_MAX: Duration = Duration::from_secs(30);
