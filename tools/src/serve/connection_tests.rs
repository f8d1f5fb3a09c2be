//! A connection driven by hand: its bounds of memory and time.
//!
//! In:     a node in this process; clients that send and read as each test says.
//! Out:    nothing but failures.

use super::*;
use logdrive::{Applied, LogIndex};
use std::{sync::atomic::AtomicU32, task::Wake};

#[derive(Default)]
struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn outcome(token: u64) -> (u64, Outcome) {
    (token, Ok(Applied { index: LogIndex(token), reply: Bytes::new() }))
}

#[test]
fn outcomes_that_come_before_the_task_looks_wake_it_once() {
    let sink = Sink::default();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut taken = Vec::new();
    sink.take(&mut taken, &waker);
    for run in [vec![outcome(0), outcome(1)], vec![outcome(2)]] {
        let mut run = run;
        sink.complete(&mut run);
        assert!(run.is_empty(), "the engine gets an empty buffer back");
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    sink.take(&mut taken, &waker);
    assert_eq!(taken.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2]);
    taken.clear();
    sink.complete(&mut vec![outcome(3)]);
    assert_eq!(count.0.load(Ordering::Relaxed), 2, "it was looked at in between");
}

#[test]
fn seats_are_given_back() {
    let taken = Arc::new(AtomicUsize::new(0));
    let first = Seat::take(&taken, 1);
    assert!(first.is_some());
    assert!(Seat::take(&taken, 1).is_none());
    drop(first);
    assert!(Seat::take(&taken, 1).is_some());
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

#[test]
fn shares_are_given_back() {
    let taken = Arc::new(AtomicUsize::new(0));
    let (mut first, mut second) = (Share::of(&taken, 10), Share::of(&taken, 10));
    let all = |left| left;
    assert!(first.set(7, all) && second.set(3, all));
    assert!(!second.set(4, all) && second.bytes == 3, "a share that is refused stays as it was");
    assert!(first.set(6, all) && second.set(4, all) && second.set(4, all));
    assert!(!first.set(usize::MAX, all));
    assert!(first.set(5, |_| 0), "less than it was");
    drop(second);
    assert!(first.set(10, all));
    drop(first);
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

/// A node with so many groups and no clients, that allows `input_bytes_max`.
fn server(dir: &std::path::Path, groups: u16, input_bytes_max: usize) -> Server {
    use crate::serve::{cluster::Cluster, slots::Placement};
    use logdrive::{Config, DriverChoice, Founding, Node, NodeId};
    use std::{collections::BTreeMap, sync::atomic::AtomicU64};
    let founding = Founding {
        cluster: "test".to_owned(),
        node: NodeId(1),
        shards: 1,
        settings: BTreeMap::new(),
    };
    Node::init(dir, founding).unwrap();
    let peers = BTreeMap::from([(NodeId(1), "127.0.0.1:0".to_owned())]);
    let mut config = Config::new(dir, peers.clone());
    config.driver = DriverChoice::Portable;
    config.segment_bytes = 1 << 20;
    let node = Node::open(config).unwrap();
    let placement = Placement::new(vec![NodeId(1)], groups, 1);
    let advertise = "127.0.0.1:1".to_owned();
    let groups = crate::serve::start_groups(&node, &placement).unwrap();
    let first = groups.iter().flatten().next().unwrap().group.clone();
    first.wait_for_leader(Duration::from_secs(30)).unwrap();
    let cluster = Cluster::new(node.clone(), "test", placement, groups, &peers, advertise);
    #[expect(clippy::disallowed_methods, reason = "uptime, told to people")]
    let started = std::time::Instant::now();
    Server {
        node,
        cluster,
        clients: Arc::default(),
        clients_max: CLIENTS,
        input_bytes: Arc::default(),
        input_bytes_max,
        output_bytes: Arc::default(),
        client_idle_max: None,
        client_ids: AtomicU64::new(0),
        client_port: 1,
        started,
    }
}

const CLIENTS: usize = 100;

/// A client and its connection.
fn connect(server: &Arc<Server>) -> (std::net::TcpStream, Connection) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    for end in [&client, &stream] {
        end.set_nonblocking(true).unwrap();
    }
    let seat = Seat::take(&server.clients, CLIENTS).unwrap();
    (client, Connection::new(stream, peer, Arc::clone(server), seat).unwrap())
}

/// Time that this thread has had of its core.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

/// Clients that pipeline whatever costs most, on a thread that has heartbeats to send.
#[test]
fn no_pipeline_keeps_a_thread_from_its_events_for_long() {
    use std::io::{Read, Write};
    const PIPELINED: usize = 4_000;
    const ROUNDS: usize = 40;
    const MIB: usize = 1 << 20;
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1_000, INPUT_BYTES_MAX));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let many_keys = format!("DEL{}", " {t}k".repeat(4_000));
    let mut worst = Vec::new();
    for request in [
        "CLUSTER SLOTS",
        "CLUSTER SHARDS",
        "CLUSTER NODES",
        "CLUSTER INFO",
        "INFO",
        "COMMAND DOCS",
        "DBSIZE",
        "NONSENSE",
        &many_keys,
    ] {
        let pipeline = format!("{request}\r\n").repeat(PIPELINED.min((8 << 20) / request.len()));
        let (mut longest, mut answered) = (Duration::ZERO, 0);
        runtime.block_on(async {
            let mut clients: Vec<_> = (0..10).map(|_| (connect(&server), 0)).collect();
            // The answers of a group come from another thread, which may be without a core for a while.
            for round in 0..30_000 {
                if round >= ROUNDS {
                    if answered > 0 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                for ((client, _), sent) in &mut clients {
                    *sent += client.write(&pipeline.as_bytes()[*sent..]).unwrap_or(0);
                }
                tokio::task::yield_now().await; // the thread looks at its events
                let began = thread_time();
                for ((_, connection), _) in &mut clients {
                    let cx = &mut Context::from_waker(Waker::noop());
                    assert!(Pin::new(connection).poll(cx).is_pending());
                }
                longest = longest.max(thread_time() - began);
                let mut replies = vec![0; 1 << 20];
                for ((client, _), _) in &mut clients {
                    answered += client.read(&mut replies).unwrap_or(0);
                }
            }
        });
        assert!(answered > 0, "{request:.20} is not answered");
        worst.push((longest, request.get(..20).unwrap_or(request)));
    }
    // Requests gathered while the client was held cost little each, and may be all that a connection can read ahead.
    let large = format!("*2\r\n$3\r\nGET\r\n${MIB}\r\n{}\r\n", "k".repeat(MIB));
    for gathered in ["\n", "*0\r\n", &large] {
        let mut input = gathered.repeat((32 << 20) / gathered.len());
        input.push_str("PING\r\n");
        let (mut longest, mut answer) = (Duration::ZERO, Vec::new());
        runtime.block_on(async {
            let (mut client, mut connection) = connect(&server);
            connection.input = BytesMut::from(input.as_bytes());
            connection.held = Held::ForLook;
            while !answer.ends_with(b"+PONG\r\n") {
                tokio::task::yield_now().await;
                let began = thread_time();
                let cx = &mut Context::from_waker(Waker::noop());
                assert!(Pin::new(&mut connection).poll(cx).is_pending());
                longest = longest.max(thread_time() - began);
                let _ = client.read_to_end(&mut answer); // as much as there is
            }
        });
        worst.push((longest, gathered.get(..20).unwrap_or(gathered)));
    }
    worst.sort_unstable();
    assert!(worst[worst.len() - 1].0 < LONGEST, "of the thread's time: {worst:?}");
    server.node.close().unwrap();
}

/// A quarter of a heartbeat, in a test build. It is 1 ms and one request (1.0 to 2.2 ms, 12 where all is cold), and was
/// 0.8 s.
const LONGEST: Duration = Duration::from_millis(25);

/// Clients that read nothing of what they ask for came to 1 MiB each, whatever the others had.
#[test]
fn unread_replies_of_all_connections_have_a_bound_and_are_given_back() {
    use std::io::Write;
    const MIB: usize = 1 << 20;
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1, INPUT_BYTES_MAX));
    let unread = || server.output_bytes.load(Ordering::Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let echo = [&b"*2\r\n$4\r\nECHO\r\n$16384\r\n"[..], &[b'e'; 16_384], b"\r\n"].concat();
    runtime.block_on(async {
        let held_by = async |others: usize| {
            let (mut client, mut connection) = connect(&server);
            server.output_bytes.fetch_add(others, Ordering::Relaxed);
            let (mut sent, mut still) = (0, 0);
            while still < 100 {
                let took = client.write(&echo[sent % echo.len()..]).unwrap_or(0);
                (sent, still) = (sent + took, if took == 0 { still + 1 } else { 0 });
                tokio::task::yield_now().await;
                let cx = &mut Context::from_waker(Waker::noop());
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    break; // it asked for too much
                }
            }
            let held = unread() - others;
            server.output_bytes.fetch_sub(others, Ordering::Relaxed);
            held
        };
        let alone = held_by(0).await;
        assert!((MIB / 2..2 * MIB).contains(&alone), "{alone} bytes for one that has all");
        let beside = held_by(OUTPUT_BYTES_OF_ALL_MAX).await;
        assert!(beside < 4 * OUTPUT_BYTES_FREE, "{beside} bytes for one where all is taken");
    });
    assert_eq!(unread(), 0);
    server.node.close().unwrap();
}

/// Four clients that sent what they may ahead of the replies that they did not read had all of it, for ever.
#[test]
fn clients_that_read_nothing_leave_room_for_a_large_request() {
    use std::io::Write;
    use tokio::io::AsyncWriteExt;
    const MIB: usize = 1 << 20;
    let home = tempfile::tempdir().unwrap();
    let max = FRAME_ROOM_BYTES + 8 * MIB;
    let server = Arc::new(server(&home.path().join("n1"), 1, max));
    let taken = || server.input_bytes.load(Ordering::Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let echo = [&b"*2\r\n$4\r\nECHO\r\n$16384\r\n"[..], &[b'e'; 16_384], b"\r\n"].concat();
    let mut large = b"*2\r\n$4\r\nECHO\r\n$4194304\r\n".to_vec();
    large.resize(large.len() + 4 * MIB, b'e');
    large.extend_from_slice(b"\r\n");
    runtime.block_on(async {
        let mut silent = Vec::new();
        let is_refused = 'all: loop {
            if silent.len() == 50 {
                break false;
            }
            let (mut client, mut connection) = connect(&server);
            let mut sent = 0;
            while connection.share.bytes < MIB / 2 {
                sent += client.write(&echo[sent % echo.len()..]).unwrap_or(0);
                tokio::task::yield_now().await;
                let cx = &mut Context::from_waker(Waker::noop());
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    break 'all true;
                }
            }
            silent.push((client, connection));
        };
        assert!(is_refused && silent.len() > 3, "{} have {}", silent.len(), taken());
        assert!(taken() <= max - FRAME_ROOM_BYTES, "{} are taken of {max}", taken());

        let (client, connection) = connect(&server);
        let (mut reads, mut writes) = TcpStream::from_std(client).unwrap().into_split();
        let mut echoed = vec![0; 4 * MIB + "$4194304\r\n\r\n".len()];
        let client = async {
            let write = async { writes.write_all(&large).await.unwrap() };
            let ((), read) = tokio::join!(write, reads.read_exact(&mut echoed));
            read.unwrap();
        };
        tokio::select! {
            () = client => {}
            () = connection => panic!("it was turned away"),
        }
        assert!(echoed.starts_with(b"$4194304\r\neee"));
    });
    assert_eq!(taken(), 0);
    server.node.close().unwrap();
}

/// Reads so many replies. Some may be TRYAGAIN.
async fn read_replies(client: &mut TcpStream, count: usize) {
    let (mut bytes, mut read) = (BytesMut::new(), 0);
    while read < count {
        match resp::parse_reply(&mut bytes).unwrap() {
            Some(_) => read += 1,
            None => assert!(client.read_buf(&mut bytes).await.unwrap() > 0, "after {read}"),
        }
    }
}

/// The replies of a burst come when all of it has been submitted, and a client that has read its replies holds none.
#[test]
fn unread_replies_are_counted_when_they_come_and_when_they_go() {
    use tokio::io::AsyncWriteExt;
    const VALUE_BYTES: usize = 2_048;
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1, INPUT_BYTES_MAX));
    let unread = || server.output_bytes.load(Ordering::Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let set = format!("SET k {}\r\n", "v".repeat(VALUE_BYTES));
    runtime.block_on(async {
        let (client, mut connection) = connect(&server);
        let mut client = TcpStream::from_std(client).unwrap();
        let gets = "GET k\r\n".repeat(PENDING_MAX - 1);
        client.write_all(format!("{set}{gets}").as_bytes()).await.unwrap();
        // Until all requests that were run are answered. Requests that could not run before the first replies are held.
        std::future::poll_fn(|cx| {
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
            let has_run = connection.input.is_empty() || connection.held == Held::ForClient;
            let waits = |pending: &Pending| matches!(pending.answer, Answer::Waiting);
            let is_waiting = connection.pending.is_empty() || connection.pending.iter().any(waits);
            if has_run && !is_waiting { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let held = connection.output.len() + connection.pending_bytes;
        assert!(held > OUTPUT_BYTES_MAX, "{held} bytes wait");
        assert_eq!(unread(), held - OUTPUT_BYTES_FREE);

        // While that is all there may be, another has one request under way.
        server.output_bytes.fetch_add(OUTPUT_BYTES_OF_ALL_MAX, Ordering::Relaxed);
        let (other, mut beside) = connect(&server);
        let mut other = TcpStream::from_std(other).unwrap();
        other.write_all("GET k\r\n".repeat(100).as_bytes()).await.unwrap();
        let most = std::cell::Cell::new(0);
        let run = std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut beside).poll(cx);
            most.set(most.get().max(beside.pending.len()));
            polled
        });
        tokio::select! {
            () = read_replies(&mut other, 100) => {}
            () = run => panic!("it ended"),
        }
        assert_eq!(most.get(), 1, "under way at once");
        server.output_bytes.fetch_sub(OUTPUT_BYTES_OF_ALL_MAX, Ordering::Relaxed);

        // Both are open still, and have read all.
        tokio::select! {
            () = read_replies(&mut client, PENDING_MAX) => {}
            () = &mut connection => panic!("it ended"),
        }
        for connection in [&mut connection, &mut beside] {
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(Pin::new(connection).poll(cx).is_pending());
        }
        assert_eq!(unread(), 0);
    });
    server.node.close().unwrap();
}

/// Each of many clients that reset at once was a line of the log.
#[test]
fn a_client_that_is_gone_before_it_is_served_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1, INPUT_BYTES_MAX));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    runtime.block_on(async {
        let seat = Seat::take(&server.clients, CLIENTS).unwrap();
        Connection::new(stream, peer, Arc::clone(&server), seat).unwrap().await;
    });
    assert_eq!(server.clients.load(Ordering::Relaxed), 0);
    server.node.close().unwrap();
}

/// Four patterns of 4 MiB, each held against every setting, took a fifth of a second.
#[test]
fn patterns_that_name_no_setting_are_refused_before_they_are_tried() {
    let home = tempfile::tempdir().unwrap();
    let server = server(&home.path().join("n1"), 1, INPUT_BYTES_MAX);
    let mut session = Session::new(1, SocketAddr::from(([127, 0, 0, 1], 1)));
    let mut answer = |patterns: &[&[u8]]| {
        let (mut wire, mut out) = (BytesMut::new(), BytesMut::new());
        resp::write_request(&mut wire, &[&[&b"CONFIG"[..], b"GET"], patterns].concat());
        let request = resp::parse_request(&mut wire).unwrap().unwrap();
        commands::run(&server, &mut session, &request, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    let (long, longest) = (vec![b'*'; 65], vec![b'*'; resp::BULK_BYTES_MAX - 64]);
    for patterns in [&[&longest[..]; 3][..], &[&b"save"[..], &long], &[&b"*"[..]; 65]] {
        assert!(answer(patterns).starts_with("-ERR too many or too long patterns"));
    }
    assert_eq!(answer(&[b"maxmemory", &long[..64]]).lines().next(), Some("*20"));
    server.node.close().unwrap();
}

/// Each of three floods is more than the thread has time for. The runtime wakes the task first that yielded last: of the
/// three the second never ran.
#[test]
fn clients_that_never_pause_share_the_time() {
    const REPLIES: usize = 300_000;
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1, INPUT_BYTES_MAX));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let pings = "PING\r\n".repeat(100_000);
    let counts = runtime.block_on(async {
        let counts: [_; 3] = std::array::from_fn(|_| Arc::new(AtomicUsize::new(0)));
        for count in &counts {
            let count = Arc::clone(count);
            let (client, connection) = connect(&server);
            let (client, pings) = (TcpStream::from_std(client).unwrap(), pings.clone());
            tokio::task::spawn_local(connection);
            tokio::task::spawn_local(async move {
                let (mut sent, mut replies) = (0, vec![0; 1 << 20]);
                loop {
                    // Whole requests come to a round: what was not taken of one is sent next.
                    sent += client.try_write(&pings.as_bytes()[sent..]).unwrap_or(0);
                    sent %= pings.len();
                    let read = client.try_read(&mut replies).unwrap_or(0);
                    count.fetch_add(read / "+PONG\r\n".len(), Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
        }
        loop {
            let now = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            if now.iter().sum::<usize>() >= REPLIES {
                break now;
            }
            tokio::task::yield_now().await;
        }
    });
    let least = counts.iter().min().unwrap();
    assert!(least * 4 >= counts.iter().sum::<usize>(), "replies: {counts:?}");
    drop(runtime);
    server.node.close().unwrap();
}

/// The limit counts from the end of the work, also for a client that was busy when it first ran out.
#[test]
fn a_client_that_was_busy_and_falls_silent_is_closed() {
    use tokio::io::AsyncWriteExt;
    const IDLE_MAX: Duration = Duration::from_millis(100);
    let home = tempfile::tempdir().unwrap();
    let mut server = server(&home.path().join("n1"), 1, INPUT_BYTES_MAX);
    server.client_idle_max = Some(IDLE_MAX);
    let server = Arc::new(server);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let (client, connection) = connect(&server);
        // A task of its own: nothing that wakes the client wakes it.
        tokio::task::spawn_local(connection);
        let mut client = TcpStream::from_std(client).unwrap();
        let client = async {
            let end = tokio::time::Instant::now() + 5 * IDLE_MAX;
            while tokio::time::Instant::now() < end {
                client.write_all(b"SET k v\r\n").await.unwrap();
                let mut ok = [0; 5];
                client.read_exact(&mut ok).await.unwrap();
            }
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "closed without a word");
        };
        tokio::time::timeout(100 * IDLE_MAX, client).await.expect("it is closed");
    });
    server.node.close().unwrap();
}

/// Polls the connection until it has read `bytes` that it cannot use yet. False if it ends before.
async fn has_read(connection: &mut Connection, bytes: usize) -> bool {
    std::future::poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(()) => Poll::Ready(false),
        Poll::Pending if connection.drain.is_some() => Poll::Ready(false),
        Poll::Pending if connection.input.len() == bytes => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Sends `bytes` that stay unfinished. False if the connection ends, or the client is refused, instead.
async fn begin(client: &mut TcpStream, connection: &mut Connection, bytes: &[u8]) -> bool {
    use tokio::io::AsyncWriteExt;
    let send = async {
        let _ = client.write_all(bytes).await; // it may be closed meanwhile
        std::future::pending().await
    };
    tokio::select! {
        biased;
        read = has_read(connection, bytes.len()) => read,
        () = send => unreachable!("it never ends"),
    }
}

/// 10,000 clients that each began a request of 16 MiB would come to 160 GB.
#[test]
fn unfinished_requests_of_all_connections_have_a_bound() {
    use tokio::io::AsyncWriteExt;
    const MIB: usize = 1 << 20;
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1, 4 * MIB));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = || {
        let (client, connection) = connect(&server);
        (TcpStream::from_std(client).unwrap(), connection)
    };
    let taken = || server.input_bytes.load(Ordering::Relaxed);
    let mut request = b"*2\r\n$4\r\nECHO\r\n$1048576\r\n".to_vec();
    request.resize(request.len() + MIB, b'e');
    request.extend_from_slice(b"\r\n");
    let (end, unfinished) = request.split_last().unwrap();
    runtime.block_on(async {
        let (mut client, mut first) = connect();
        assert!(begin(&mut client, &mut first, unfinished).await);
        assert!(taken() >= MIB - INPUT_BYTES_FREE, "{} bytes are counted", taken());

        // As many more as it takes: one is turned away.
        let mut held = Vec::new();
        let mut turned_away = loop {
            let (mut client, mut connection) = connect();
            let before = taken();
            if !begin(&mut client, &mut connection, unfinished).await {
                drop(connection);
                assert_eq!(taken(), before, "it gave back what it held");
                break client;
            }
            held.push((client, connection));
            assert!(held.len() < 4, "5 times 1 MiB within 4 MiB");
        };
        let mut answer = Vec::new();
        let _ = turned_away.read_to_end(&mut answer).await; // a reset may follow the answer
        assert!(answer.starts_with(b"-ERR unfinished requests"), "{}", answer.escape_ascii());

        // Small requests are served as ever.
        let (mut small, mut connection) = connect();
        small.write_all(b"PING\r\nP").await.unwrap();
        assert!(has_read(&mut connection, 1).await);
        let mut pong = [0; 7];
        small.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"+PONG\r\n");

        // The request that was begun is ended, and its memory goes back although the next one has begun.
        held.clear();
        client.write_all(&[*end, b'P']).await.unwrap();
        let mut echo = vec![0; MIB + 12];
        tokio::select! {
            read = client.read_exact(&mut echo) => assert_eq!(read.unwrap(), MIB + 12),
            () = &mut first => panic!("it was turned away"),
        }
        assert!(echo.starts_with(b"$1048576\r\neee"));
        assert!(has_read(&mut first, 1).await);
        assert_eq!(taken(), 0);
    });
    server.node.close().unwrap();
}

/// A client that sent a value over the bound got a reset while it sent, and no client library showed the error.
#[test]
fn a_client_that_is_refused_while_it_sends_can_send_it_all_and_read_why() {
    use tokio::io::AsyncWriteExt;
    const MIB: usize = 1 << 20;
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1, INPUT_BYTES_MAX));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refuse = async |sent: usize| {
        let (client, connection) = connect(&server);
        let mut client = TcpStream::from_std(client).unwrap();
        let client = async move {
            client.write_all(b"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$99999999\r\n").await.unwrap();
            let chunk = vec![b'v'; MIB];
            for _ in 0..sent / MIB {
                client.write_all(&chunk).await?;
            }
            let mut replies = Vec::new();
            client.read_to_end(&mut replies).await?;
            std::io::Result::Ok(replies)
        };
        let (replies, ()) = tokio::join!(client, connection);
        replies
    };
    runtime.block_on(async {
        let replies = refuse(DRAINED_BYTES_MAX / 2).await.expect("it is not reset");
        let replies = String::from_utf8(replies).unwrap();
        assert!(
            replies.starts_with("+PONG\r\n-ERR Protocol error: invalid bulk length"),
            "{replies}"
        );
        assert!(replies.contains("4194304"), "the bound is not named: {replies}");
        assert_eq!(replies.lines().count(), 2, "{replies}");
        // A client that never ends is not read for ever.
        refuse(2 * DRAINED_BYTES_MAX).await.expect_err("all of it was read");
    });
    assert_eq!(server.input_bytes.load(Ordering::Relaxed), 0);
    server.node.close().unwrap();
}

/// As `nc -N` does: it sends all, shuts down its side, and reads. Its end is read while requests wait for it to read the
/// replies to those before.
#[test]
fn a_client_that_has_sent_its_last_byte_gets_every_reply() {
    use tokio::io::AsyncWriteExt;
    const GETS: usize = PENDING_MAX + 4_000;
    let home = tempfile::tempdir().unwrap();
    let server = Arc::new(server(&home.path().join("n1"), 1, INPUT_BYTES_MAX));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sent = format!("SET k {}\r\n{}", "v".repeat(2_048), "GET k\r\n".repeat(GETS));
    runtime.block_on(async {
        for cut in [0, 2] {
            let (client, connection) = connect(&server);
            let (mut reads, mut writes) = TcpStream::from_std(client).unwrap().into_split();
            let sent = &sent;
            let client = async move {
                writes.write_all(&sent.as_bytes()[..sent.len() - cut]).await.unwrap();
                writes.shutdown().await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
                let mut replies = Vec::new();
                reads.read_to_end(&mut replies).await.unwrap();
                replies
            };
            let (replies, ()) = tokio::join!(client, connection);
            // Some may be TRYAGAIN.
            let (mut replies, mut count) = (BytesMut::from(&replies[..]), 0);
            while resp::parse_reply(&mut replies).unwrap().is_some() {
                count += 1;
            }
            assert_eq!((count, replies.len()), (1 + GETS - usize::from(cut > 0), 0));
        }
    });
    server.node.close().unwrap();
}

#[test]
fn machine_replies_become_resp() {
    let mut out = BytesMut::new();
    write_reply(&mut out, Proto::Resp2, b"+");
    write_reply(&mut out, Proto::Resp2, b"_");
    write_reply(&mut out, Proto::Resp3, b"_");
    write_reply(&mut out, Proto::Resp2, b"$ab");
    write_reply(&mut out, Proto::Resp2, b":\x05\0\0\0\0\0\0\0");
    assert_eq!(&out[..], b"+OK\r\n$-1\r\n_\r\n$2\r\nab\r\n:5\r\n");
}
