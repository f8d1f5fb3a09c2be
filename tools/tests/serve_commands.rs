//! Three `serve` processes, and every command, as clients see them.
//!
//! In:     requests over sockets, by the `redis` crate and byte by byte.
//! Out:    nothing but failures.

mod serve_support;

use redis::Commands;
use serve_support::{
    Cluster, PATIENCE, Reply, Wire, bulk, expect, is_moving, now, ok, request, steadily,
};
use std::collections::BTreeSet;

const GROUPS: &str = "24";

fn start() -> Cluster {
    Cluster::start(3, &["--groups", GROUPS, "--segment-bytes", "4194304", "--cluster", "test"])
}

/// Follows redirections, as a cluster client does.
fn call(cluster: &Cluster, words: &[&str]) -> Reply {
    let mut wire = Wire::connect(cluster.address(1));
    let start = now();
    while start.elapsed() < PATIENCE {
        let reply = wire.call(words);
        match &reply {
            Reply::Error(text) if text.starts_with("MOVED ") => {
                wire = Wire::connect(text.split(' ').nth(2).expect("an address"));
            }
            Reply::Error(text)
                if text.starts_with("CLUSTERDOWN") || text.starts_with("TRYAGAIN") =>
            {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            _ => return reply,
        }
    }
    panic!("{words:?} found no leader");
}

/// The same for what may be done twice: again where nobody knows whether it happened.
fn insist(cluster: &Cluster, words: &[&str]) -> Reply {
    steadily("an answer", |_| Some(call(cluster, words)).filter(|reply| !is_moving(reply)))
}

/// A connection to the node that leads `key`'s slot.
fn leader_of(cluster: &Cluster, key: &str) -> Wire {
    steadily("a leader", |_| {
        (1..=cluster.nodes.len())
            .map(|id| Wire::connect(cluster.address(id)))
            .find_map(|mut wire| (!is_moving(&wire.call(&["GET", key]))).then_some(wire))
    })
}

/// One cluster for all that does not disturb it: starting processes is what takes time here.
#[test]
fn a_cluster_answers_every_command() {
    let mut cluster = start();
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
    let flags = ["--groups", "6", "--replicas", "2", "--segment-bytes", "4194304"];
    let cluster = Cluster::start(3, &flags);
    for node in &cluster.nodes {
        assert!(node.line.contains(" groups=4 "), "two thirds of 6: {:?}", node.line);
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

fn start_up_line(cluster: &Cluster) {
    for (at, node) in cluster.nodes.iter().enumerate() {
        let id = at + 1;
        let start = format!(
            "logdrive {} node {id}/3 cluster=test shards=1 groups={GROUPS} disk=",
            env!("CARGO_PKG_VERSION")
        );
        assert!(node.line.starts_with(&start), "{:?}", node.line);
        for word in ["direct_io=", "registered=", "clients=127.0.0.1:", "peers=127.0.0.1:"] {
            assert!(node.line.contains(word), "{:?} lacks {word}", node.line);
        }
    }
}

fn data_commands(cluster: &Cluster) {
    steadily("data commands", |number| {
        let is = |words: &[&str], wanted: Reply| expect(&call(cluster, words), &wanted);
        let k = format!("k{number}");
        let (k, same_slot, other) = (k.as_str(), format!("{{{k}}}"), format!("{{{k}}}2"));
        is(&["GET", k], Reply::Null)?;
        is(&["SET", k, "v1"], ok())?;
        is(&["GET", k], bulk("v1"))?;
        is(&["SET", k, "v2", "NX"], Reply::Null)?;
        is(&["SET", k, "v2", "XX", "GET"], bulk("v1"))?;
        is(&["SET", "absent", "v", "XX"], Reply::Null)?;
        is(&["EXISTS", &same_slot, k, k], Reply::Int(2))?;
        is(&["DEL", k, &other], Reply::Int(1))?;
        is(&["EXISTS", k], Reply::Int(0))?;
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
            wire.send(piece);
        }
        for (at, expected) in expected.into_iter().enumerate() {
            let reply = wire.read();
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
    assert_eq!(slot, Reply::Int(12_182));
    steadily("one node leads the slot, and the others name that one", |_| {
        let mut moved = BTreeSet::new();
        let mut served = 0;
        for id in 1..=3 {
            match Wire::connect(cluster.address(id)).call(&["SET", "foo", "bar"]) {
                Reply::Error(text) if text.starts_with("MOVED ") => {
                    moved.insert(text);
                }
                reply => {
                    expect(&reply, &ok())?;
                    served += 1;
                    moved.insert(format!("MOVED 12182 {}", cluster.address(id)));
                }
            }
        }
        (served == 1 && moved.len() == 1).then_some(())
    });
}

fn wrong_requests_are_refused_and_the_connection_stays(cluster: &Cluster) {
    let mut wire = Wire::connect(cluster.address(2));
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
    assert_eq!(wire.call(&["PING"]), Reply::Simple("PONG".to_owned()));
}

fn connection_commands(cluster: &Cluster) {
    let mut wire = Wire::connect(cluster.address(3));
    assert_eq!(wire.call(&["PING", "hi"]), bulk("hi"));
    assert_eq!(wire.call(&["SELECT", "0"]), ok());
    assert_eq!(wire.call(&["CLIENT", "GETNAME"]), Reply::Null);
    assert_eq!(wire.call(&["CLIENT", "SETNAME", "me"]), ok());
    assert_eq!(wire.call(&["CLIENT", "GETNAME"]), bulk("me"));
    assert_eq!(wire.call(&["CLIENT", "SETINFO", "LIB-NAME", "x"]), ok());
    let Reply::Int(id) = wire.call(&["CLIENT", "ID"]) else { panic!("no id") };
    assert!(id > 0);
    assert_eq!(wire.call(&["READONLY"]), ok());
    assert_eq!(wire.call(&["HELLO"]).items().len(), 14, "RESP2: a flat array");
    let Reply::Map(about) = wire.call(&["HELLO", "3"]) else { panic!("RESP3: a map") };
    assert!(about.contains(&(bulk("proto"), Reply::Int(3))), "{about:?}");
    assert!(about.contains(&(bulk("mode"), bulk("cluster"))), "{about:?}");
    assert!(matches!(wire.call(&["CONFIG", "GET", "save"]), Reply::Map(map) if map.len() == 1));
    // The dialect changes between two pipelined requests, not before the first is answered.
    let mut wire = steadily("two dialects", |_| {
        let mut wire = leader_of(cluster, "{none}");
        let get = request(&["GET", "{none}"]);
        wire.send(&[get.clone(), request(&["HELLO", "3"]), get].concat());
        let mut raw = [0; 5];
        wire.read_exact(&mut raw);
        if raw[0] == b'-' {
            return None;
        }
        assert_eq!(&raw, b"$-1\r\n");
        assert!(matches!(wire.read(), Reply::Map(_)));
        let mut raw = [0; 3];
        wire.read_exact(&mut raw);
        if raw[0] == b'-' {
            return None;
        }
        assert_eq!(&raw, b"_\r\n");
        Some(wire)
    });
    wire.send(b"ping\r\n\r\nECHO typed\n");
    assert_eq!(wire.read(), Reply::Simple("PONG".to_owned()));
    assert_eq!(wire.read(), bulk("typed"));
    wire.send(&[request(&["QUIT"]), request(&["PING"])].concat());
    assert_eq!(wire.read_to_end(), "+OK\r\n");
    let mut wire = Wire::connect(cluster.address(1));
    wire.send(&request(&["ECHO", "last"]));
    wire.end_input();
    assert_eq!(wire.read_to_end(), "$4\r\nlast\r\n", "who stops sending is still answered");
}

fn server_commands(cluster: &Cluster) {
    let mut wire = Wire::connect(cluster.address(1));
    let Reply::Int(count) = wire.call(&["COMMAND", "COUNT"]) else { panic!("no count") };
    let all = wire.call(&["COMMAND"]);
    assert_eq!(all.items().len(), usize::try_from(count).expect("a count"));
    for command in all.items() {
        assert_eq!(command.items().len(), 10, "{command:?}");
    }
    let get = wire.call(&["COMMAND", "INFO", "get", "nothing"]);
    assert_eq!(get.items()[0].items()[1], Reply::Int(2));
    assert_eq!(get.items()[1], Reply::Null);
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
    for id in 1..=3 {
        let mut wire = Wire::connect(cluster.address(id));
        let own = wire.call(&["CLUSTER", "MYID"]).text();
        assert_eq!(own.len(), 40);
        let nodes = wire.call(&["CLUSTER", "NODES"]).text();
        let mine = nodes.lines().find(|line| line.contains("myself")).expect("this node");
        assert!(mine.starts_with(&format!("{own} {}@", cluster.address(id))), "{mine}");
        assert_eq!(nodes.lines().count(), 3, "{nodes}");
        ids.insert(own);
    }
    assert_eq!(ids.len(), 3, "every node has its own id");
    steadily("every group has one leader, and everybody knows", |_| {
        let mut led = 0;
        for id in 1..=3 {
            let mut wire = Wire::connect(cluster.address(id));
            let line = wire.line_of(&["INFO"], "groups_led");
            led += line["groups_led:".len()..].parse::<u32>().expect("a number");
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
                let [Reply::Int(first), Reply::Int(last), nodes @ ..] = range.items() else {
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
    let url = format!("redis://{}/", cluster.address(2));
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
        // Again, where nobody knows whether it is gone.
        settled(connection.set::<_, _, ()>("key:0", 0))?;
        settled(connection.del("key:0"))
    });
    assert_eq!(count, 1);
    // RESP3 from the first word on.
    let url = format!("redis://{}/?protocol=resp3", cluster.address(1));
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_connection().expect("HELLO 3 is understood");
    let pong: String = redis::cmd("PING").query(&mut connection).expect("answered");
    assert_eq!(pong, "PONG");
}

/// What a cluster client got; `None` while leaderships move for longer than it asks again, or nobody knows.
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
        wire.send(&set.repeat(100));
        wire.send(&set[..set.len() / 2]);
    }
    assert_eq!(insist(cluster, &["SET", "{gone}", "y"]), ok());
    assert_eq!(insist(cluster, &["GET", "{gone}"]), bulk("y"));
}

fn hostile_bytes(cluster: &Cluster) {
    let peer = cluster.nodes[0].line.trim_end().rsplit_once("peers=").expect("told").1.to_owned();
    let before = cluster.nodes[0].resident_bytes();
    for address in [cluster.address(1), peer.as_str()] {
        for bytes in [
            &b"*1000000000\r\n"[..],
            b"*1\r\n$9999999999\r\n",
            b"*3\r\n$3\r\nSET\r\n$-5\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            &[0xFF; 100_000],
        ] {
            let mut wire = Wire::connect(address);
            wire.try_send(bytes);
            // Bytes that are no whole request, and lines that are not commands, keep the connection: end it.
            wire.try_send(b"\r\n*1\r\n$4\r\nQUIT\r\n");
            let _ = wire.try_end_input();
            let reply = wire.read_to_end();
            let told = reply.starts_with("-ERR");
            assert!(told || reply.is_empty() || address == peer, "{reply:?}");
        }
    }
    let mut get = Wire::connect(cluster.address(1));
    get.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(get.read_to_end().starts_with("-ERR wrong number of arguments"));
    let halves: Vec<Wire> = (0..50)
        .map(|_| {
            let mut wire = Wire::connect(cluster.address(1));
            wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4000000\r\nhalf");
            wire
        })
        .collect();
    assert_eq!(Wire::connect(cluster.address(1)).call(&["PING"]).text(), "PONG");
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
        wire.send(&request(&["GET", "{big}"]).repeat(50));
        (0..50).try_for_each(|_| expect(&wire.read(), &whole))
    });
    let value = "x".repeat(2 << 20);
    let Reply::Error(text) = call(cluster, &["SET", "{big}", &value]) else {
        panic!("a value over the bound was taken")
    };
    assert!(text.starts_with("ERR ") && text.contains("over the bound"), "{text}");
}

fn a_stopped_node_comes_back_with_what_it_had(cluster: &mut Cluster) {
    assert_eq!(insist(cluster, &["SET", "kept", "safe"]), ok());
    for id in 1..=3 {
        let node = &mut cluster.nodes[id - 1];
        assert!(node.terminate().success(), "SIGTERM is a clean stop");
        assert_eq!(node.rest_of_stdout(), "", "one line on standard output, no more");
    }
    for id in 1..=3 {
        cluster.nodes[id - 1] = cluster.spawn(id, &[]);
    }
    for node in &mut cluster.nodes {
        node.wait_ready();
    }
    assert_eq!(insist(cluster, &["GET", "kept"]), bulk("safe"));
    let status = cluster.nodes[2].close_stdin();
    assert!(status.success(), "the end of standard input is a clean stop: {status}");
}
