//! Three `serve` processes, and every command, as clients see them.
//!
//! In:     requests over sockets, by the `redis` crate and byte by byte.
//! Out:    nothing but failures.

#![forbid(unsafe_code)]

mod support;

use redis::Commands;
use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};
use support::{
    client::{Connection, Reply, request},
    cluster::{Cluster, Node, directory},
    eventually, now,
};

fn ok() -> Reply {
    Reply::Status("OK".to_owned())
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

fn open(address: &str) -> Connection {
    let address: SocketAddr = address.parse().expect("an address");
    Connection::open(address).expect("it listens")
}

/// True for the errors of a group whose leadership moves, as it may at any time on a busy machine. A command that got
/// `UNKNOWN` may have taken effect, commands that got the others have not.
fn is_moving(reply: &Reply) -> bool {
    let words = ["MOVED ", "CLUSTERDOWN", "TRYAGAIN", "UNKNOWN"];
    matches!(reply, Reply::Error(text) if words.iter().any(|word| text.starts_with(word)))
}

/// Repeats `attempt`, which is given the number of the try, until no leadership moves during it: a try that finds that one
/// moves gives `None`.
fn steadily<T>(what: &str, mut attempt: impl FnMut(u32) -> Option<T>) -> T {
    let (mut number, mut done) = (0, None);
    let is_done = eventually(PATIENCE, || {
        done = attempt(number);
        number += 1;
        done.is_some()
    });
    assert!(is_done, "{what}: leaderships move all the time");
    done.expect("it is done")
}

/// Asserts that `found` is the wanted answer; gives `None` if it says that a leadership moves.
fn expect(found: &Reply, wanted: &Reply) -> Option<()> {
    if is_moving(found) {
        return None;
    }
    assert_eq!(found, wanted);
    Some(())
}

const GROUPS: usize = 24;

/// Three nodes that choose their clients' ports themselves.
fn start(dir: &Path, groups: usize, flag: &str, value: &str) -> Cluster {
    let mut cluster = Cluster::plan(dir, 3, groups, 4 << 20);
    for node in &mut cluster.nodes {
        node.set_flag("--listen", "127.0.0.1:0");
        node.set_flag(flag, value);
    }
    cluster.init();
    cluster
}

/// Follows redirections, as a cluster client does.
fn call(cluster: &Cluster, words: &[&str]) -> Reply {
    let mut wire = cluster.nodes[0].connect();
    let start = now();
    while start.elapsed() < PATIENCE {
        let reply = wire.call(words);
        let Reply::Error(text) = &reply else { return reply };
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["MOVED", _, leader] => wire = open(leader),
            ["CLUSTERDOWN" | "TRYAGAIN", ..] => std::thread::sleep(Duration::from_millis(20)),
            _ => return reply,
        }
    }
    panic!("{words:?} found no leader");
}

/// As [`call`], for commands that may be given twice: repeats one whose outcome is unknown.
fn insist(cluster: &Cluster, words: &[&str]) -> Reply {
    steadily("an answer", |_| Some(call(cluster, words)).filter(|reply| !is_moving(reply)))
}

/// A connection to the node that leads `key`'s slot.
fn leader_of(cluster: &Cluster, key: &str) -> Connection {
    steadily("a leader", |_| {
        let mut wires = cluster.nodes.iter().map(Node::connect);
        wires.find_map(|mut wire| (!is_moving(&wire.call(&["GET", key]))).then_some(wire))
    })
}

/// One cluster for all checks that do not disturb it, because starting processes takes most of the time here.
#[test]
fn a_cluster_answers_every_command() {
    let dir = directory();
    let mut cluster = start(dir.path(), GROUPS, "--cluster", "test");
    start_up_line(&cluster);
    data_commands(&cluster);
    pipelined_replies_keep_their_order(&cluster);
    other_nodes_redirect(&cluster);
    wrong_requests_are_refused_and_the_connection_stays(&cluster);
    connection_commands(&cluster);
    server_commands(&cluster);
    cluster_commands(&cluster);
    a_cluster_client_finds_its_way(&cluster);
    clients_that_leave_in_the_middle_do_no_harm(&cluster);
    hostile_bytes(&cluster);
    big_values_come_back_whole(&cluster);
    a_stopped_node_comes_back_with_what_it_had(&mut cluster);
}

/// With fewer replicas than nodes, a node without a group's replica knows only who has one.
#[test]
fn a_node_without_the_group_sends_clients_to_one_with_it() {
    let dir = directory();
    let cluster = start(dir.path(), 6, "--replicas", "2");
    for node in &cluster.nodes {
        let line = node.printed();
        assert!(line.contains(" groups=4 "), "two thirds of 6: {line:?}");
        assert_eq!(node.connect().call(&["CLUSTER", "SLOTS"]).items().len(), 6);
    }
    for n in 0..60 {
        let key = format!("key:{n}");
        assert_eq!(insist(&cluster, &["SET", &key, &key]), ok());
        assert_eq!(insist(&cluster, &["GET", &key]), bulk(&key));
        steadily("one node leads, two send clients on", |_| {
            let mut turned_away = 0;
            for node in &cluster.nodes {
                match node.connect().call(&["GET", &key]) {
                    Reply::Error(text) if text.starts_with("MOVED ") => turned_away += 1,
                    reply => expect(&reply, &bulk(&key))?,
                }
            }
            (turned_away == 2).then_some(())
        });
    }
}

/// Seven nodes carry three replicas of each group: whichever is asked first, no client is sent round in a circle.
#[test]
fn with_many_more_nodes_than_replicas_every_node_leads_to_the_leader() {
    let dir = directory();
    let mut cluster = Cluster::plan(dir.path(), 7, 14, 1 << 20);
    for node in &mut cluster.nodes {
        node.set_flag("--replicas", "3");
    }
    cluster.init();
    for key in cluster.key_per_group("far") {
        for node in &cluster.nodes {
            steadily("two hops at most", |_| {
                let mut wire = node.connect();
                for _ in 0..=2 {
                    match wire.call(&["SET", &key, "v"]) {
                        Reply::Error(text) if text.starts_with("MOVED ") => {
                            wire = open(text.rsplit(' ').next().expect("an address"));
                        }
                        reply => return expect(&reply, &ok()),
                    }
                }
                None
            });
        }
    }
}

fn start_up_line(cluster: &Cluster) {
    for node in &cluster.nodes {
        let (id, line) = (node.id, node.printed());
        let start = format!(
            "logdrive {} node {id}/3 cluster=test shards=1 groups={GROUPS} disk=",
            env!("CARGO_PKG_VERSION")
        );
        assert!(line.starts_with(&start), "{line:?}");
        for word in ["direct_io=", "registered=", "clients=127.0.0.1:", "peers=127.0.0.1:"] {
            assert!(line.contains(word), "{line:?} lacks {word}");
        }
    }
}

fn data_commands(cluster: &Cluster) {
    steadily("data commands", |number| {
        let is = |words: &[&str], wanted: Reply| expect(&call(cluster, words), &wanted);
        let k = format!("k{number}");
        let (k, same_slot, other) = (k.as_str(), format!("{{{k}}}"), format!("{{{k}}}2"));
        is(&["GET", k], Reply::Nil)?;
        is(&["SET", k, "v1"], ok())?;
        is(&["GET", k], bulk("v1"))?;
        is(&["SET", k, "v2", "NX"], Reply::Nil)?;
        is(&["SET", k, "v2", "XX", "GET"], bulk("v1"))?;
        is(&["SET", "absent", "v", "XX"], Reply::Nil)?;
        is(&["EXISTS", &same_slot, k, k], Reply::Integer(2))?;
        is(&["DEL", k, &other], Reply::Integer(1))?;
        is(&["EXISTS", k], Reply::Integer(0))?;
        is(&["SET", "", ""], ok())?;
        is(&["GET", ""], bulk(""))
    });
}

fn pipelined_replies_keep_their_order(cluster: &Cluster) {
    steadily("a pipeline", |number| {
        let key = format!("{{order{number}}}");
        let mut wire = leader_of(cluster, &key);
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for n in 0..2_000 {
            let value = n.to_string();
            bytes.extend(request(&["SET", &key, &value]));
            expected.push(ok());
            bytes.extend(request(&["ECHO", &value]));
            expected.push(bulk(&value));
            bytes.extend(request(&["GET", &key]));
            expected.push(bulk(&value));
            if n % 100 == 0 {
                bytes.extend(request(&["DEL", &key, "other"]));
                expected.push(Reply::Error(
                    "CROSSSLOT Keys in request don't hash to the same slot".to_owned(),
                ));
            }
        }
        // Uneven pieces, so that requests are cut anywhere.
        for piece in bytes.chunks(4_099) {
            wire.send(piece).unwrap();
        }
        for (at, expected) in expected.into_iter().enumerate() {
            let reply = wire.reply().unwrap();
            if is_moving(&reply) {
                return None;
            }
            assert_eq!(reply, expected, "reply {at}");
        }
        Some(())
    });
}

fn other_nodes_redirect(cluster: &Cluster) {
    let slot = call(cluster, &["CLUSTER", "KEYSLOT", "foo"]);
    assert_eq!(slot, Reply::Integer(12_182));
    steadily("one node leads the slot, and the others name that one", |_| {
        let mut moved = BTreeSet::new();
        let mut served = 0;
        for node in &cluster.nodes {
            match node.connect().call(&["SET", "foo", "bar"]) {
                Reply::Error(text) if text.starts_with("MOVED ") => {
                    moved.insert(text);
                }
                reply => {
                    expect(&reply, &ok())?;
                    served += 1;
                    moved.insert(format!("MOVED 12182 {}", node.client));
                }
            }
        }
        (served == 1 && moved.len() == 1).then_some(())
    });
}

fn wrong_requests_are_refused_and_the_connection_stays(cluster: &Cluster) {
    let mut wire = cluster.nodes[1].connect();
    for (words, start) in [
        (&["GET"][..], "ERR wrong number of arguments for 'get'"),
        (&["SET", "a"], "ERR wrong number of arguments for 'set'"),
        (&["SET", "a", "b", "EX", "5"], "ERR expiry is not supported"),
        (&["SET", "a", "b", "NX", "XX"], "ERR syntax error"),
        (&["PING", "a", "b"], "ERR wrong number of arguments for 'ping'"),
        (&["ECHO"], "ERR wrong number of arguments for 'echo'"),
        (&["DEL", "a", "b"], "CROSSSLOT"),
        (&["FLUSHALL"], "ERR unknown command 'FLUSHALL'"),
        (&["SELECT", "1"], "ERR SELECT is not allowed in cluster mode"),
        (&["HELLO", "9"], "NOPROTO"),
        (&["CLIENT", "KILL", "x"], "ERR unknown subcommand 'KILL'"),
        (&["CLUSTER"], "ERR wrong number of arguments for 'cluster'"),
        (&["CLUSTER", "RESET"], "ERR unknown subcommand 'RESET'"),
        (&["CLUSTER", "KEYSLOT"], "ERR wrong number of arguments for 'cluster|keyslot'"),
        (&["CONFIG", "SET", "a", "b"], "ERR"),
        (&["COMMAND", "NOTHING"], "ERR unknown subcommand 'NOTHING'"),
    ] {
        match wire.call(words) {
            Reply::Error(text) => assert!(text.starts_with(start), "{words:?}: {text}"),
            other => panic!("{words:?} was answered {other:?}"),
        }
    }
    assert_eq!(wire.call(&["PING"]), Reply::Status("PONG".to_owned()));
}

fn connection_commands(cluster: &Cluster) {
    let mut wire = cluster.nodes[2].connect();
    assert_eq!(wire.call(&["PING", "hi"]), bulk("hi"));
    assert_eq!(wire.call(&["SELECT", "0"]), ok());
    assert_eq!(wire.call(&["CLIENT", "GETNAME"]), Reply::Nil);
    assert_eq!(wire.call(&["CLIENT", "SETNAME", "me"]), ok());
    assert_eq!(wire.call(&["CLIENT", "GETNAME"]), bulk("me"));
    assert_eq!(wire.call(&["CLIENT", "SETINFO", "LIB-NAME", "x"]), ok());
    let Reply::Integer(id) = wire.call(&["CLIENT", "ID"]) else { panic!("no id") };
    assert!(id > 0);
    assert_eq!(wire.call(&["READONLY"]), ok());
    assert_eq!(wire.call(&["HELLO"]).items().len(), 14, "RESP2: a flat array");
    let Reply::Map(about) = wire.call(&["HELLO", "3"]) else { panic!("RESP3: a map") };
    assert!(about.contains(&(bulk("proto"), Reply::Integer(3))), "{about:?}");
    assert!(about.contains(&(bulk("mode"), bulk("cluster"))), "{about:?}");
    assert!(matches!(wire.call(&["CONFIG", "GET", "save"]), Reply::Map(map) if map.len() == 1));
    // The dialect changes between two pipelined requests, not before the first is answered.
    let mut wire = steadily("two dialects", |_| {
        let mut wire = leader_of(cluster, "{none}");
        let get = request(&["GET", "{none}"]);
        wire.send(&[get.clone(), request(&["HELLO", "3"]), get].concat()).unwrap();
        let mut raw = [0; 5];
        wire.read_exact(&mut raw);
        if raw[0] == b'-' {
            return None;
        }
        assert_eq!(&raw, b"$-1\r\n");
        assert!(matches!(wire.reply().unwrap(), Reply::Map(_)));
        let mut raw = [0; 3];
        wire.read_exact(&mut raw);
        if raw[0] == b'-' {
            return None;
        }
        assert_eq!(&raw, b"_\r\n");
        Some(wire)
    });
    wire.send(b"ping\r\n\r\nECHO typed\n").unwrap();
    assert_eq!(wire.reply().unwrap(), Reply::Status("PONG".to_owned()));
    assert_eq!(wire.reply().unwrap(), bulk("typed"));
    wire.send(&[request(&["QUIT"]), request(&["PING"])].concat()).unwrap();
    assert_eq!(wire.read_to_end(), "+OK\r\n");
    let mut wire = cluster.nodes[0].connect();
    wire.send(&request(&["ECHO", "last"])).unwrap();
    wire.end_input().unwrap();
    assert_eq!(wire.read_to_end(), "$4\r\nlast\r\n", "a client that stops sending is answered");
}

fn server_commands(cluster: &Cluster) {
    let mut wire = cluster.nodes[0].connect();
    let Reply::Integer(count) = wire.call(&["COMMAND", "COUNT"]) else { panic!("no count") };
    let all = wire.call(&["COMMAND"]);
    assert_eq!(all.items().len(), usize::try_from(count).expect("a count"));
    for command in all.items() {
        assert_eq!(command.items().len(), 10, "{command:?}");
    }
    let get = wire.call(&["COMMAND", "INFO", "get", "nothing"]);
    assert_eq!(get.items()[0].items()[1], Reply::Integer(2));
    assert_eq!(get.items()[1], Reply::Nil);
    assert_eq!(wire.call(&["COMMAND", "DOCS", "set"]).items().len(), 2);
    let keys = wire.call(&["COMMAND", "GETKEYS", "del", "a", "b"]);
    assert_eq!(keys.items(), [bulk("a"), bulk("b")]);
    assert_eq!(wire.call(&["CONFIG", "GET", "save"]).items(), [bulk("save"), bulk("")]);
    assert_eq!(wire.call(&["CONFIG", "GET", "append*"]).items().len(), 4);
    assert_eq!(wire.call(&["CONFIG", "RESETSTAT"]), ok());
    let info = wire.call(&["INFO", "everything"]).text();
    for part in [
        "# Server\r\n",
        "redis_version:7.",
        "# Cluster\r\ncluster_enabled:1\r\n",
        "# Logdrive\r\n",
        "disk_driver:",
        "direct_io:",
        "registered:",
        "shards:1\r\n",
        "groups:24\r\n",
        "groups_led:",
        "logdrive_version:",
        "stage_total_us:count=",
    ] {
        assert!(info.contains(part), "{info} lacks {part:?}");
    }
    let section = wire.call(&["INFO", "cluster"]).text();
    assert_eq!(section, "# Cluster\r\ncluster_enabled:1\r\n");
}

fn cluster_commands(cluster: &Cluster) {
    let mut ids = BTreeSet::new();
    for node in &cluster.nodes {
        let mut wire = node.connect();
        let own = wire.call(&["CLUSTER", "MYID"]).text();
        assert_eq!(own.len(), 40);
        let nodes = wire.call(&["CLUSTER", "NODES"]).text();
        let mine = nodes.lines().find(|line| line.contains("myself")).expect("this node");
        assert!(mine.starts_with(&format!("{own} {}@", node.client)), "{mine}");
        assert_eq!(nodes.lines().count(), 3, "{nodes}");
        ids.insert(own);
    }
    assert_eq!(ids.len(), 3, "every node has its own id");
    steadily("every group has one leader, and everybody knows", |_| {
        let mut led = 0;
        for node in &cluster.nodes {
            let mut wire = node.connect();
            led += node.groups_led();
            let (slots, shards) =
                (wire.call(&["CLUSTER", "SLOTS"]), wire.call(&["CLUSTER", "SHARDS"]));
            let info = wire.call(&["CLUSTER", "INFO"]).text();
            // A range whose leader is not known is not named.
            if [slots.items().len(), shards.items().len()] != [24, 24]
                || !info.contains("cluster_state:ok")
            {
                return None;
            }
            let mut next = 0;
            for range in slots.items() {
                let [Reply::Integer(first), Reply::Integer(last), nodes @ ..] = range.items()
                else {
                    panic!("{range:?}")
                };
                assert_eq!(*first, next, "ranges in order, without a gap");
                assert_eq!(nodes.len(), 3, "a leader and two others");
                next = last + 1;
            }
            assert_eq!(next, 16_384);
            for line in ["cluster_slots_assigned:16384", "cluster_known_nodes:3"] {
                assert!(info.contains(line), "{info}");
            }
        }
        (led == 24).then_some(())
    });
}

fn a_cluster_client_finds_its_way(cluster: &Cluster) {
    let url = format!("redis://{}/", cluster.nodes[1].client);
    let client = redis::cluster::ClusterClient::new(vec![url.as_str()]).expect("a URL");
    let mut connection = client.get_connection().expect("connected");
    for n in 0..300 {
        let () = steadily("set", |_| settled(connection.set(format!("key:{n}"), n)));
    }
    for n in 0..300 {
        let value: i64 = steadily("get", |_| settled(connection.get(format!("key:{n}"))));
        assert_eq!(value, n);
    }
    let count: i64 = steadily("delete", |_| {
        // Set anew in each try: the outcome of an earlier deletion may be unknown.
        settled(connection.set::<_, _, ()>("key:0", 0))?;
        settled(connection.del("key:0"))
    });
    assert_eq!(count, 1);
    // RESP3 from the first word on.
    let url = format!("redis://{}/?protocol=resp3", cluster.nodes[0].client);
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_connection().expect("HELLO 3 is understood");
    let pong: String = redis::cmd("PING").query(&mut connection).expect("answered");
    assert_eq!(pong, "PONG");
}

/// The answer that a cluster client got; `None` if leaderships moved for longer than it asks again, or if the outcome is
/// unknown.
fn settled<T>(answer: redis::RedisResult<T>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            let text = error.to_string();
            let words =
                ["MOVED", "Moved", "CLUSTERDOWN", "ClusterDown", "TRYAGAIN", "TryAgain", "UNKNOWN"];
            assert!(words.iter().any(|word| text.contains(word)), "{error:?}");
            None
        }
    }
}

fn clients_that_leave_in_the_middle_do_no_harm(cluster: &Cluster) {
    for _ in 0..20 {
        let mut wire = leader_of(cluster, "{gone}");
        let set = request(&["SET", "{gone}", "x"]);
        wire.send(&set.repeat(100)).unwrap();
        wire.send(&set[..set.len() / 2]).unwrap();
    }
    assert_eq!(insist(cluster, &["SET", "{gone}", "y"]), ok());
    assert_eq!(insist(cluster, &["GET", "{gone}"]), bulk("y"));
}

fn hostile_bytes(cluster: &Cluster) {
    let line = cluster.nodes[0].printed();
    let peer = line.trim_end().rsplit_once("peers=").expect("told").1;
    assert_eq!(peer, cluster.nodes[0].peer.to_string());
    let before = cluster.nodes[0].resident_bytes();
    for address in [cluster.nodes[0].client, cluster.nodes[0].peer] {
        for bytes in [
            &b"*1000000000\r\n"[..],
            b"*1\r\n$9999999999\r\n",
            b"*3\r\n$3\r\nSET\r\n$-5\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            &[0xFF; 100_000],
        ] {
            let mut wire = Connection::open(address).unwrap();
            let _ = wire.send(bytes);
            // Bytes that are no whole request, and lines that are not commands, leave the connection open: this ends it.
            let _ = wire.send(b"\r\n*1\r\n$4\r\nQUIT\r\n");
            let _ = wire.end_input();
            let reply = wire.read_to_end();
            let told = reply.starts_with("-ERR");
            assert!(told || reply.is_empty() || address == cluster.nodes[0].peer, "{reply:?}");
        }
    }
    let mut get = cluster.nodes[0].connect();
    get.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(get.read_to_end().starts_with("-ERR wrong number of arguments"));
    let halves: Vec<Connection> = (0..50)
        .map(|_| {
            let mut wire = cluster.nodes[0].connect();
            wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4000000\r\nhalf").unwrap();
            wire
        })
        .collect();
    assert_eq!(cluster.nodes[0].connect().call(&["PING"]).text(), "PONG");
    let grown = cluster.nodes[0].resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more are resident");
    drop(halves);
}

fn big_values_come_back_whole(cluster: &Cluster) {
    let value = "0123456789abcdef".repeat(40_000);
    assert_eq!(insist(cluster, &["SET", "{big}", &value]), ok());
    let whole = bulk(&value);
    steadily("big values", |_| {
        let mut wire = leader_of(cluster, "{big}");
        // More than any buffer holds, before the first is read: the server must wait, not grow or drop.
        wire.send(&request(&["GET", "{big}"]).repeat(50)).unwrap();
        (0..50).try_for_each(|_| expect(&wire.reply().unwrap(), &whole))
    });
    let value = "x".repeat(2 << 20);
    let Reply::Error(text) = call(cluster, &["SET", "{big}", &value]) else {
        panic!("a value over the bound was taken")
    };
    assert!(text.starts_with("ERR ") && text.contains("over the bound"), "{text}");
}

fn a_stopped_node_comes_back_with_what_it_had(cluster: &mut Cluster) {
    assert_eq!(insist(cluster, &["SET", "kept", "safe"]), ok());
    for node in &mut cluster.nodes {
        assert!(node.stop().success(), "SIGTERM is a clean stop");
        assert_eq!(node.printed().lines().count(), 1, "one line on standard output, no more");
    }
    cluster.restart();
    assert_eq!(insist(cluster, &["GET", "kept"]), bulk("safe"));
    let status = cluster.nodes[2].close_input();
    assert!(status.success(), "the end of standard input is a clean stop: {status}");
}

const PATIENCE: Duration = Duration::from_secs(30);
