//! What `serve` refuses: an exit code that is not 0, one line that says why, and nothing touched.
//!
//! In:     wrong flags, files, directories and addresses.
//! Out:    nothing but failures.

mod serve_support;

use serve_support::{Cluster, Process, bulk, exists, expect, free_ports, ok, run, serve, steadily};
use std::{fs, net::TcpListener, path::Path, process::Command};

/// Runs it and gives its standard error, which must be one line unless clap wrote it.
fn refusal(command: Command) -> String {
    let text = format!("{command:?}");
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success(), "{text} succeeded");
    assert!(output.status.code().is_some(), "{text} died of a signal: {stderr}");
    assert_ne!(output.status.code(), Some(101), "{text} panicked: {stderr}");
    assert!(output.stdout.is_empty(), "{text} wrote to standard output");
    if output.status.code() == Some(1) {
        assert_eq!(stderr.lines().count(), 1, "{text} wrote {stderr:?}");
    }
    stderr
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn flags(dir: &Path, peer: u16, client: u16, more: &[&str]) -> Command {
    let (dir, peers) = (dir.display().to_string(), format!("1=127.0.0.1:{peer}"));
    let listen = format!("127.0.0.1:{client}");
    let mut flags = vec!["--dir", &dir, "--peers", &peers, "--listen", &listen];
    flags.extend(more);
    flags.extend(["--segment-bytes", "4194304"]);
    serve(&flags)
}

#[test]
fn wrong_flags_and_files_are_named() {
    let home = temp();
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
    let home = temp();
    let [peer, client] = free_ports(2)[..] else { panic!("two ports") };

    let empty = home.path().join("empty");
    fs::create_dir(&empty).expect("made");
    let stderr = refusal(flags(&empty, peer, client, &["--id", "1"]));
    assert!(stderr.contains("missing or empty: --init"), "{stderr}");
    assert_eq!(fs::read_dir(&empty).expect("listed").count(), 0, "nothing was made in it");

    let absent = home.path().join("absent");
    refusal(flags(&absent, peer, client, &["--id", "1"]));
    assert!(!exists(&absent), "nothing was made");

    let foreign = home.path().join("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("holiday.jpg"), b"precious").expect("written");
    refusal(flags(&foreign, peer, client, &["--init", "--id", "1"]));
    refusal(flags(&foreign, peer, client, &["--id", "1"]));
    for entry in fs::read_dir(&foreign).expect("listed") {
        let entry = entry.expect("listed");
        // To look safely the log takes a lock, and its file stays; nothing else may.
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
    let home = temp();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let free = free_ports(2);
    let dir = home.path().join("node");
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
        let stderr = refusal(flags(&dir, peer, client, &[&init, more].concat()));
        assert!(stderr.contains(word), "{stderr}");
        assert!(!exists(&dir), "a second try with --init must be possible after: {stderr}");
    }
    let mut node = Process::start(flags(&dir, free[0], free[1], &init));
    node.wait_ready();
    assert!(node.terminate().success());
}

#[test]
fn a_node_that_was_made_and_could_not_be_opened_says_how_to_go_on() {
    let home = temp();
    let ports = free_ports(2);
    let dir = home.path().join("node");
    let init = ["--init", "--id", "1", "--groups", "1"];
    // What surely fails after the directory is made, and nobody can know before: no file may have a segment's size.
    let mut command = Command::new("sh");
    let sh = r#"trap '' XFSZ; ulimit -f 2048; exec "$@""#;
    let real = flags(&dir, ports[0], ports[1], &init);
    command.env("LOGDRIVE_LOG", "error"); // the log warns of it, too
    command.args(["-c", sh, "sh"]).arg(real.get_program()).args(real.get_args());
    let stderr = refusal(command);
    assert!(stderr.contains(&format!("{} is made already", dir.display())), "{stderr}");
    assert!(stderr.contains("start it without --init"), "{stderr}");
    let mut node = Process::start(flags(&dir, ports[0], ports[1], &[]));
    node.wait_ready();
    assert!(node.terminate().success());
}

#[test]
fn what_init_fixed_stays_and_one_process_has_a_directory() {
    let mut cluster = Cluster::start(1, &["--groups", "4", "--segment-bytes", "4194304"]);
    let refused = |cluster: &Cluster, more: &[&str]| {
        let mut flags: Vec<String> = cluster.node_flags(1);
        flags.truncate(8); // --id, --dir, --peers, --listen
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        refusal(serve(&flags.iter().map(String::as_str).collect::<Vec<_>>()))
    };

    refused(&cluster, &[]); // another process runs on it
    // It did not disturb the first.
    steadily("a write", |_| expect(&cluster.nodes[0].connect().call(&["SET", "k", "v"]), &ok()));
    assert!(cluster.nodes[0].terminate().success());

    let stderr = refused(&cluster, &["--init"]);
    assert!(stderr.contains("without --init"), "{stderr}");
    for (flag, value) in [("--groups", "5"), ("--shards", "2"), ("--cluster", "other")] {
        let stderr = refused(&cluster, &[flag, value]);
        let key = flag.trim_start_matches('-');
        assert!(stderr.contains(key) && stderr.contains("cannot change"), "{stderr}");
    }

    cluster.nodes[0] = cluster.spawn(1, &[]);
    cluster.nodes[0].wait_ready();
    // Nothing was lost by being refused.
    steadily("a read", |_| expect(&cluster.nodes[0].connect().call(&["GET", "k"]), &bulk("v")));
}
