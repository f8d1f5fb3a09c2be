//! Clients that write unique values and read, and remember what they were told.
//!
//! In:     the nodes' addresses, as the clients know them; a seed.
//! Out:    [`Traffic`]: several clients at work, each on a thread of its own, all on the same keys; [`Recorder`]: one
//!         client in the caller's hands. The clients' operations come out as a [`History`].
//! Cost:   one request at a time each.
//! Fails:  by panicking at an answer no client should get.
//!
//! Nothing is sent twice: what was refused is over, and the next attempt writes another value. So the log must hold an
//! acknowledged value once, and a refused one never.

use super::{
    checker::{History, Logged, Operation, What},
    netns::Namespace,
    proxy::Random,
    support::{
        client::{Connection, Reply},
        now,
    },
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Traffic {
    clients: Vec<JoinHandle<History>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

/// Where and as whom a client works.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) keys: u32,
    pub(crate) seed: u64,
    /// A client that waits longer for an answer notes that it does not know.
    pub(crate) patience: Duration,
    /// The network namespace from which the nodes are reached, if it is not the test's own.
    pub(crate) namespace: Option<Arc<Namespace>>,
}

impl Traffic {
    /// Clients with these numbers; no other client of the cluster may have them.
    pub(crate) fn start(place: &Place, numbers: Range<u64>) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = numbers
            .map(|number| {
                let (place, shared) = (place.clone(), Arc::clone(&shared));
                Builder::new()
                    .name(format!("client-{number}"))
                    .spawn(move || work(&place, number, &shared))
                    .unwrap()
            })
            .collect();
        Self { clients, shared }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until that many more writes are acknowledged.
    pub(crate) fn wait_for_more(&self, writes: u64, within: Duration) {
        let (start, before) = (now(), self.acknowledged());
        while self.acknowledged() < before + writes {
            let done = self.acknowledged() - before;
            assert!(start.elapsed() < within, "{done} of {writes} writes in {within:?}");
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the clients, each after its request in flight.
    pub(crate) fn finish(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = History::default();
        for client in std::mem::take(&mut self.clients) {
            let history = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.operations.extend(history.operations);
        }
        all
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn work(place: &Place, number: u64, shared: &Shared) -> History {
    let mut recorder = Recorder::new(place, number);
    let mut random = Random::new(place.seed ^ number);
    while !shared.stop.load(Ordering::Relaxed) {
        let key = u32::try_from(random.below(u64::from(place.keys))).unwrap();
        let done = if random.below(4) == 0 {
            recorder.read(key)
        } else {
            let done = recorder.write(key);
            shared.acknowledged.fetch_add(u64::from(done), Ordering::Relaxed);
            done
        };
        // After a failed request a client pauses, so that the search for leaders does not load a small machine.
        std::thread::sleep(if done { Duration::from_micros(500) } else { PAUSE });
    }
    recorder.history
}

/// One client that notes everything it does.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) history: History,
    nodes: Vec<SocketAddr>,
    patience: Duration,
    connections: HashMap<SocketAddr, Connection>,
    /// For each key, the node that answered for it last.
    leaders: HashMap<u32, SocketAddr>,
    /// Nodes that gave no answer in time, and until when nobody asks them again.
    silent: HashMap<SocketAddr, Instant>,
    /// The node that was asked last for a key whose leader is not known.
    next: usize,
    next_value: u64,
}

/// The outcome of a request, as its client knows it.
enum Answer {
    Reply(Reply),
    /// The request was refused, or never sent.
    No,
    /// No answer came, or one that says that the outcome is unknown.
    Silence,
}

impl Recorder {
    /// `number` is the client's own: it makes its values unique. Moves the calling thread to the place's namespace.
    pub(crate) fn new(place: &Place, number: u64) -> Self {
        if let Some(namespace) = &place.namespace {
            namespace.enter();
        }
        Self {
            history: History::default(),
            nodes: place.nodes.clone(),
            patience: place.patience,
            connections: HashMap::new(),
            leaders: HashMap::new(),
            silent: HashMap::new(),
            next: usize::try_from(number).unwrap(),
            next_value: number << 40,
        }
    }

    /// Writes a new value, once. True if it was acknowledged.
    pub(crate) fn write(&mut self, key: u32) -> bool {
        self.next_value += 1;
        let (value, began) = (self.next_value, clock());
        let (name, text) = (name_of(key), text_of(value));
        let what = match self.ask(key, &[b"SET", name.as_bytes(), text.as_bytes()]) {
            Answer::Reply(Reply::Status(ok)) if ok == "OK" => What::Written(value),
            Answer::Reply(other) => panic!("SET {name} was answered {other:?}"),
            Answer::No => What::Refused(value),
            Answer::Silence => What::Unknown(value),
        };
        self.note(key, what, began);
        matches!(what, What::Written(_))
    }

    /// Reads, once. True if there was an answer.
    pub(crate) fn read(&mut self, key: u32) -> bool {
        let (name, began) = (name_of(key), clock());
        let found = match self.ask(key, &[b"GET", name.as_bytes()]) {
            Answer::Reply(Reply::Nil) => None,
            Answer::Reply(Reply::Bulk(text)) => Some(value_in(&text).unwrap_or_else(|| {
                panic!("GET {name} found what nobody wrote: {}", text.escape_ascii())
            })),
            Answer::Reply(other) => panic!("GET {name} was answered {other:?}"),
            Answer::No | Answer::Silence => return false,
        };
        self.note(key, What::Read(found), began);
        true
    }

    /// Repeats `once` until it returns true; false if it did not within the time.
    pub(crate) fn insist(
        &mut self,
        within: Duration,
        mut once: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let start = now();
        while !once(self) {
            if start.elapsed() > within {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }

    fn note(&mut self, key: u32, what: What, began: u64) {
        self.history.operations.push(Operation { key, what, began, ended: clock() });
    }

    fn ask(&mut self, key: u32, words: &[&[u8]]) -> Answer {
        let node = self.leaders.get(&key).copied().unwrap_or_else(|| self.any());
        if self.silent.get(&node).is_some_and(|until| *until > now()) {
            self.leaders.remove(&key);
            return Answer::No;
        }
        let mut connection = match self.connections.remove(&node) {
            Some(connection) => connection,
            None => match Connection::within(node, self.patience) {
                Ok(connection) => connection,
                Err(_) => {
                    self.leaders.remove(&key);
                    return Answer::No;
                }
            },
        };
        let asked = now();
        let Ok(reply) = connection.try_call(words) else {
            self.leaders.remove(&key);
            if asked.elapsed() >= self.patience {
                self.silent.insert(node, now() + SILENCE);
            }
            return Answer::Silence;
        };
        self.connections.insert(node, connection);
        self.leaders.insert(key, node);
        let Reply::Error(error) = &reply else { return Answer::Reply(reply) };
        self.leaders.remove(&key);
        let mut words = error.split(' ');
        match words.next().unwrap_or_default() {
            "UNKNOWN" => Answer::Silence,
            "MOVED" => {
                let place = words.nth(1).and_then(|place| place.parse().ok());
                let place = place.unwrap_or_else(|| panic!("a redirection to nowhere: {error}"));
                if place != node {
                    self.leaders.insert(key, place);
                }
                Answer::No
            }
            "CLUSTERDOWN" | "TRYAGAIN" | "DISKFULL" => Answer::No,
            // A node that is stopping.
            "ERR" if error.contains("does not run here") => Answer::No,
            _ => Answer::Reply(reply),
        }
    }

    fn any(&mut self) -> SocketAddr {
        self.next = (self.next + 1) % self.nodes.len();
        self.nodes[self.next]
    }
}

/// The clients' common clock, in nanoseconds.
fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(now).elapsed().as_nanos()).unwrap()
}

pub(crate) fn name_of(key: u32) -> String {
    format!("key-{key}")
}

/// Long enough that no damaged value looks like another.
fn text_of(value: u64) -> String {
    format!("{value:016x}{}", format!("-{value:016x}").repeat(COPIES))
}

fn value_in(text: &[u8]) -> Option<u64> {
    let value = u64::from_str_radix(str::from_utf8(text.get(..16)?).ok()?, 16).ok()?;
    (text_of(value).as_bytes() == text).then_some(value)
}

/// The write in a log entry; `None` for reads. Panics at a command no client of ours sent.
///
/// The commands' form is the database's own (`serve/machine.rs`): operation, length of the key, key, and for a SET the
/// value up to the end.
pub(crate) fn logged_in(payload: &[u8]) -> Option<Logged> {
    let parsed = parse(payload);
    parsed.unwrap_or_else(|| panic!("a command nobody sent: {}", payload.escape_ascii()))
}

fn parse(payload: &[u8]) -> Option<Option<Logged>> {
    let (operation, rest) = payload.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (key, value) = rest.split_at_checked(usize::from(*length))?;
    let key = str::from_utf8(key).ok()?.strip_prefix("key-")?.parse().ok()?;
    match operation {
        1 => Some(Some(Logged { key, value: value_in(value)? })),
        2 if value.is_empty() => Some(None),
        _ => None,
    }
}

const COPIES: usize = 8;
const SILENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(15);
