//! Real nodes and clients of every kind: many, idle, greedy, vanished, or on IPv6.
//!
//! In:     real nodes; sockets that speak RESP by hand.
//! Out:    nothing but failures; SKIPPED where this machine has no IPv6.

#![forbid(unsafe_code)]

mod support;

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};
use support::{
    client::{Client, Connection, Outcome, Reply, request},
    cluster::{Cluster, Node, directory, free_ports},
    eventually, report, skipped,
};

/// The bug: the write of a log line to a full pipe blocked, and with it the thread that logged. So one dead peer, about
/// which a line is logged now and then, ended every other node in time.
#[test]
fn a_standard_error_that_nobody_reads_holds_up_nothing() {
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 1, 4, 64 << 10);
    // A pipe that is full from the beginning. The node has something to say when it stops, at the latest.
    let full = "exec 2> >(exec sleep 60); head -c 65536 /dev/zero >&2; \
                export LOGDRIVE_LOG=debug; exec \"$@\"";
    cluster.nodes[0].run_behind(["bash", "-c", full, "bash"].map(str::to_owned).to_vec());
    cluster.init();
    let mut client = Client::new(&cluster.addresses());
    for n in 0..100 {
        assert_eq!(client.put(&format!("k{n}"), &[b'v'; 2_000], LIVE_MAX), Outcome::Yes, "{n}");
    }
    assert!(cluster.nodes[0].stop().success());
}

/// The bug: idle clients took all descriptors; then the log's next file could not be made, and the node ended.
#[test]
fn idle_clients_leave_the_log_its_descriptors() {
    const LIMIT: usize = 128;
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 1, 4, 64 << 10);
    cluster.nodes[0].run_behind(behind(&format!("ulimit -n {LIMIT}")));
    cluster.init();
    let node = &cluster.nodes[0];
    let line = node.printed();
    let told = " clients_max=56 clients_wanted=10000 open_files_max=128 ";
    assert!(line.contains(told), "{line:?} lacks {told:?}");
    let mut client = Client::new(&cluster.addresses());
    assert_eq!(client.put("first", b"1", LIVE_MAX), Outcome::Yes);
    let idle: Vec<TcpStream> = (0..2 * LIMIT)
        .flat_map(|_| [node.client, node.peer])
        .filter_map(|place| TcpStream::connect(place).ok())
        .collect();
    assert!(idle.len() > LIMIT, "only {} connections were begun", idle.len());
    // Enough writes for some thirty segments.
    for n in 0..120 {
        let outcome = client.put(&format!("k{n}"), &[b'v'; 15_000], LIVE_MAX);
        assert_eq!(outcome, Outcome::Yes, "write {n}{}", cluster.last_words());
    }
    let open = fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    report(format_args!("  {open} of {LIMIT} descriptors are open"));
    drop(idle);
    let late = || node.connect().try_call(&["PING"]).is_ok_and(|pong| pong.text() == "PONG");
    assert!(eventually(LIVE_MAX, late), "no client is let in again{}", cluster.last_words());
    assert_eq!(cluster.nodes[0].exited(), None);
}

/// The bug: a client that sends its whole pipeline before it reads the first reply waited for ever, because the server had
/// stopped reading.
#[test]
fn pipelines_that_are_sent_whole_come_to_their_end() {
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 1, 4, 16 << 20);
    cluster.init();
    let node = &cluster.nodes[0];
    let value = vec![b'v'; 1_024];
    let mut client = Client::new(&cluster.addresses());
    assert_eq!(client.put("value", &value, LIVE_MAX), Outcome::Yes);
    for (words, count, reply) in [
        (&["GET", "value"][..], 60_000, Reply::Bulk(value)),
        (&["SET", "small", "0123456789abcdef"], 400_000, Reply::Status("OK".to_owned())),
        (&["ECHO", "0123456789abcdef"], 400_000, Reply::Bulk(b"0123456789abcdef".to_vec())),
    ] {
        let mut wire = node.connect();
        wire.send(&request(words).repeat(count)).unwrap_or_else(|error| {
            panic!("{words:?}: the requests are not taken: {error}");
        });
        for n in 0..count {
            let came = wire.reply();
            assert!(came.as_ref().is_ok_and(|came| *came == reply), "{words:?} {n}: {came:?}");
        }
    }
    let info = node.info();
    for kept in ["client_unread_reply_bytes", "client_unfinished_request_bytes"] {
        assert_eq!(info[kept], "0", "{kept}");
    }
}

#[test]
fn clients_that_say_nothing_are_asked_and_may_have_a_limit() {
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 1, 4, 1 << 20);
    cluster.nodes[0].set_flag("--client-idle-max", "500ms");
    cluster.init();
    let node = &cluster.nodes[0];
    let silent = TcpStream::connect(node.client).unwrap();
    let (ours, theirs) = (silent.local_addr().unwrap().port(), node.client.port());
    let mut timer = String::new();
    let found = eventually(LIVE_MAX, || {
        timer = timer_of(theirs, ours).unwrap_or_default();
        timer == KEEPALIVE_TIMER
    });
    assert!(found, "the timer of the node's end of a client's connection is {timer:?}");
    // A client that asks now and then keeps its connection, for longer than a silent one may.
    let mut lively = node.connect();
    let mut beats = 0;
    let gone = eventually(LIVE_MAX, || {
        assert_eq!(lively.call(&["PING"]).text(), "PONG");
        beats += 1;
        std::thread::sleep(Duration::from_millis(80));
        beats > 25 && timer_of(theirs, ours).is_none()
    });
    assert!(gone, "a client that says nothing stays");
    assert_eq!(lively.call(&["CONFIG", "GET", "timeout"]).items()[1].text(), "1");
}

#[test]
fn a_hangup_ends_a_node_unless_it_was_told_to_ignore_it() {
    use rustix::process::Signal;
    // Processes inherit ignored signals from their parent, and a node cannot tell whether its user or this test ignores one.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    if u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1 {
        eprintln!(
            "SKIPPED: the test was started with SIGHUP ignored (nohup), which its nodes inherit"
        );
        return;
    }
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 1, 4, 1 << 20);
    cluster.nodes[0].run_behind(behind("trap '' HUP"));
    cluster.init();
    let node = &mut cluster.nodes[0];
    node.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(node.exited(), None, "nohup's signal ended it");
    assert!(node.stop().success());
    node.run_behind(Vec::new());
    cluster.restart();
    cluster.nodes[0].signal(Signal::HUP);
    assert!(cluster.nodes[0].wait_exit(LIVE_MAX).success());
}

/// The bug: clients that had refreshed their map went on asking a node that was gone.
#[test]
fn a_node_that_is_gone_is_marked_and_keys_are_counted_by_those_that_lead_them() {
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), 12, 1 << 20);
    let keys = cluster.key_per_group("counted");
    cluster.write_to_all(&keys, "v", LIVE_MAX);
    let counted = |cluster: &Cluster| {
        let sizes = cluster.nodes.iter().filter(|node| node.runs());
        sizes
            .map(|node| match node.connect().call(&["DBSIZE"]) {
                Reply::Integer(keys) => keys,
                other => panic!("DBSIZE: {other:?}"),
            })
            .sum::<i64>()
    };
    assert!(eventually(LIVE_MAX, || counted(&cluster) == 12), "{} of 12 keys", counted(&cluster));
    let told = |node: &Node, gone: u16| {
        let mut wire = node.connect();
        let nodes = wire.call(&["CLUSTER", "NODES"]).text();
        let line = nodes.lines().find(|line| line.contains(&format!(":{gone}@"))).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let slots = wire.call(&["CLUSTER", "SLOTS"]);
        let is_gone = |member: &&Reply| member.items()[1] == Reply::Integer(gone.into());
        let members = slots.items().iter().flat_map(|range| &range.items()[2..]);
        let named = members.filter(is_gone).count();
        let shards = format!("{:?}", wire.call(&["CLUSTER", "SHARDS"]));
        let failed = shards.matches(&format!("{:?}", Reply::Bulk(b"fail".to_vec()))).count();
        (words[2].contains("fail"), words[7].to_owned(), named, failed)
    };
    let gone = cluster.nodes[2].client.port();
    let everybody = (false, "connected".to_owned(), 12, 0);
    assert!(eventually(LIVE_MAX, || told(&cluster.nodes[0], gone) == everybody));
    let marked = |cluster: &Cluster| {
        for at in [0, 1] {
            let mut last = None;
            let marked = eventually(LIVE_MAX, || {
                last = Some(told(&cluster.nodes[at], gone));
                last == Some((true, "disconnected".to_owned(), 0, 12))
            });
            assert!(marked, "node {} says of the one that is gone: {last:?}", at + 1);
        }
    };
    // A node whose process is stopped keeps its connections.
    cluster.nodes[2].signal(rustix::process::Signal::STOP);
    marked(&cluster);
    cluster.nodes[2].signal(rustix::process::Signal::CONT);
    assert!(eventually(LIVE_MAX, || told(&cluster.nodes[0], gone) == everybody));
    cluster.nodes[2].kill();
    marked(&cluster);
    cluster.restart();
    assert!(eventually(LIVE_MAX, || told(&cluster.nodes[0], gone) == everybody));
    for node in &cluster.nodes {
        let said = node.said();
        assert!(said.contains("lane is down") || node.id == 3, "node {} logged nothing", node.id);
        let odd = said.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(odd, None, "more than text in a log file:\n{}", said.escape_debug());
    }
}

/// RULES.md P14. The bug: a client was sent from a node to itself, for ever.
#[test]
fn nodes_with_one_address_for_clients_say_so_and_send_nobody_in_a_circle() {
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 3, 6, 1 << 20);
    let shared = cluster.nodes[0].client;
    cluster.nodes[1].set_flag("--advertise", &shared.to_string());
    cluster.init();
    // Of the six groups node 2 leads two.
    let mut wire = cluster.nodes[0].connect();
    let to_itself = format!(":{}", shared.port());
    let mut refused = String::new();
    let is_refused = eventually(LIVE_MAX, || {
        let replies = (0..100).map(|n| wire.call(&["SET", &format!("k{n}"), "v"]));
        let errors = replies.filter_map(|reply| match reply {
            Reply::Error(text) => Some(text),
            _ => None,
        });
        for error in errors {
            let is_circle = error.starts_with("MOVED ") && error.ends_with(&to_itself);
            assert!(!is_circle, "node 1 sends its clients to itself: {error}");
            if error.starts_with("ERR ") {
                refused = error;
            }
        }
        !refused.is_empty()
    });
    assert!(
        is_refused && refused.contains("node 2") && refused.contains("--advertise"),
        "{refused}"
    );
    for (at, words) in [(0, "this node's own"), (1, "this node's own"), (2, "two peers send")] {
        let said = || cluster.nodes[at].said();
        assert!(
            eventually(LIVE_MAX, || said().contains(words)),
            "node {} says:\n{}",
            at + 1,
            said()
        );
    }
    let lines = cluster.nodes[0].said().matches("this node's own").count();
    assert_eq!(lines, 1, "one peer, one line");
}

/// RULES.md P13. The bug: a node whose election timeout was below its peers' heartbeat asked for elections for ever, and
/// nobody said why.
#[test]
fn nodes_whose_times_do_not_go_together_say_so_on_both_sides() {
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 3, 6, 1 << 20);
    cluster.nodes[2].set_flag("--heartbeat", "90ms");
    cluster.nodes[2].set_flag("--election-timeout", "290ms");
    cluster.init();
    let own = "this node's election timeout is less than three heartbeats of a peer";
    let theirs = "a peer's election timeout is less than three heartbeats of this node";
    for (at, words, lines) in [(0, theirs, 1), (1, theirs, 1), (2, own, 2)] {
        let said = || cluster.nodes[at].said();
        let told = || said().matches(words).count();
        assert!(eventually(LIVE_MAX, || told() == lines), "node {} says:\n{}", at + 1, said());
        assert!(said().contains("290ms") && said().contains("100ms"), "{}", said());
    }
}

/// Clients take what stands before the last colon for the host, as Redis writes it.
#[test]
fn redirections_to_ipv6_name_an_address_without_brackets() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return skipped("redirections_to_ipv6_name_an_address_without_brackets", "no IPv6 here");
    }
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 3, 6, 1 << 20);
    for node in &mut cluster.nodes {
        node.client = SocketAddr::from((Ipv6Addr::LOCALHOST, node.client.port()));
        node.set_flag("--listen", &node.client.to_string());
    }
    cluster.init();
    let mut wire = cluster.nodes[0].connect();
    let mut moved = None;
    let found = eventually(LIVE_MAX, || {
        moved = (0..100).find_map(|n| match wire.call(&["SET", &format!("k{n}"), "v"]) {
            Reply::Error(text) if text.starts_with("MOVED ") => Some(text),
            _ => None,
        });
        moved.is_some()
    });
    assert!(found, "no group is led elsewhere");
    let moved = moved.unwrap();
    let place = moved.rsplit(' ').next().unwrap();
    let (host, port) = place.rsplit_once(':').unwrap();
    assert_eq!(host.parse(), Ok(Ipv6Addr::LOCALHOST), "{moved}");
    let slots = wire.call(&["CLUSTER", "SLOTS"]);
    assert_eq!(slots.items()[0].items()[2].items()[0].text(), host);
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port.parse().unwrap()));
    assert_eq!(Connection::open(address).unwrap().call(&["PING"]).text(), "PONG");
}

/// The bug: a node listened only on the first address of a name; if the name had addresses of both families, a client that
/// tried the other one was refused.
#[test]
fn a_name_is_listened_on_at_all_its_addresses() {
    use std::net::ToSocketAddrs;
    let dir = directory();
    let port = free_ports(1)[0];
    let mut cluster = Cluster::plan(dir.path(), 1, 1, 1 << 20);
    cluster.nodes[0].set_flag("--listen", &format!("localhost:{port}"));
    cluster.nodes[0].set_flag("--advertise", &format!("127.0.0.1:{port}"));
    cluster.init();
    let here = |place: &SocketAddr| TcpListener::bind((place.ip(), 0)).is_ok();
    for place in ("localhost", port).to_socket_addrs().unwrap().filter(here) {
        let pong = Connection::open(place).and_then(|mut wire| wire.try_call(&["PING"]));
        assert!(pong.is_ok(), "{place}: {pong:?}");
    }
}

/// The bug: a client that connected while the log was being opened got no answer, for minutes if the log was large.
#[test]
fn until_the_log_is_open_the_port_is_closed() {
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 1, 64, 1 << 20);
    cluster.init();
    let node = &mut cluster.nodes[0];
    node.kill();
    node.start(&[]);
    let mut refused = 0;
    let served = eventually(LIVE_MAX, || match Connection::within(node.client, ANSWER_MAX) {
        Ok(mut wire) => {
            let answer = wire.try_call(&["PING"]);
            assert!(answer.is_ok(), "connected, and then silence: {answer:?}");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            refused += 1;
            false
        }
    });
    assert!(served && node.printed().contains(" clients="), "{}", node.said());
    report(format_args!("  refused {refused} times before"));
}

/// A command line that runs something in a shell, which then becomes the node.
fn behind(command: &str) -> Vec<String> {
    ["sh", "-c", &format!("{command}; exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// The kind of timer that a connection between two ports of this machine has, as the kernel numbers them; `None` if
/// there is no such connection.
fn timer_of(local: u16, remote: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16);
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (is_local, is_remote) = (port(words[1]) == Ok(local), port(words[2]) == Ok(remote));
        let is_established = words[3] == "01";
        (is_local && is_remote && is_established)
            .then(|| words[5].split(':').next().unwrap().to_owned())
    })
}

const KEEPALIVE_TIMER: &str = "02";
const LIVE_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);
