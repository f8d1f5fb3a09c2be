//! Writers that remember what they were told, and the check that it still holds.
//!
//! In:     the nodes' addresses; how many threads, keys and bytes.
//! Out:    [`Load`]: runs until told to stop; [`Histories`]: for every key, what may be read now.
//! Cost:   one thread per writer, one request at a time each.
//! Fails:  by panicking in [`Load::finish`] or [`Histories::check`], naming key and values: a lost or a made-up write,
//!         also when a read in the middle of the load shows it.
//!
//! A key has one writer, so its writes are in order: what is read must be the last acknowledged value or one of those
//! sent after it whose outcome is not known. A value that was read once counts as acknowledged.

use super::{
    client::{Client, Outcome},
    now, report,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

/// The settings of the writers.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Starts every key; loads over the same cluster need different ones.
    pub(crate) name: &'static str,
    pub(crate) threads: usize,
    pub(crate) keys_per_thread: usize,
    pub(crate) value_bytes: usize,
    /// The pause between two writes of one thread.
    pub(crate) pause: Duration,
}

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Load {
    writers: Vec<JoinHandle<Histories>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: Arc<AtomicBool>,
    acknowledged: AtomicU64,
    acknowledged_bytes: AtomicU64,
    unknown: AtomicU64,
    read: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Load {
    pub(crate) fn start(nodes: &[SocketAddr], shape: &Shape) -> Self {
        let shared = Arc::new(Shared::default());
        let writers = (0..shape.threads)
            .map(|thread| {
                let client = Client::until(nodes, Arc::clone(&shared.stop));
                let (shape, shared) = (shape.clone(), Arc::clone(&shared));
                Builder::new()
                    .name(format!("writer-{thread}"))
                    .spawn(move || write(client, thread, &shape, &shared))
                    .unwrap()
            })
            .collect();
        Self { writers, shared }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn acknowledged_bytes(&self) -> u64 {
        self.shared.acknowledged_bytes.load(Ordering::Relaxed)
    }

    /// Waits until that many more writes are acknowledged.
    pub(crate) fn wait_for_more(&self, writes: u64, within: Duration) {
        let (start, goal) = (now(), self.acknowledged() + writes);
        while self.acknowledged() < goal {
            assert!(
                start.elapsed() < within,
                "{} of {writes} writes were acknowledged in {within:?}",
                writes - (goal - self.acknowledged())
            );
            assert!(!self.writers.iter().any(JoinHandle::is_finished), "a writer ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the writers, each after its write in flight, and collects what they know.
    pub(crate) fn finish(self) -> Histories {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Histories::default();
        for writer in self.writers {
            let histories = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.absorb(histories);
        }
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        report(format_args!(
            "  load: {} writes acknowledged, {} unknown, {} reads on the way, slowest write {} ms",
            count(&self.shared.acknowledged),
            count(&self.shared.unknown),
            count(&self.shared.read),
            count(&self.shared.slowest_ms)
        ));
        all
    }
}

/// The values that every key may hold.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    value_bytes: usize,
    keys: BTreeMap<String, History>,
}

/// The values that one key may hold, numbered from 1.
#[derive(Clone, Debug, Default)]
struct History {
    /// The last value acknowledged or read; 0 if there is none.
    last: u64,
    /// Values that were sent after it and whose outcome is unknown.
    unknown: Vec<u64>,
    sent: u64,
    /// A request of this key may still be acted on: nothing more is written to it.
    retired: bool,
}

impl History {
    /// Takes what a read found, or says why it cannot be.
    fn read(&mut self, found: u64) -> Result<(), String> {
        if found == self.last {
            return Ok(());
        }
        let Some(at) = self.unknown.iter().position(|value| *value == found) else {
            return Err(format!(
                "holds value {found}; acknowledged was {}, unknown after it {:?}",
                self.last, self.unknown
            ));
        };
        self.last = found;
        self.unknown.drain(..=at);
        Ok(())
    }
}

impl Histories {
    fn absorb(&mut self, other: Self) {
        self.value_bytes = other.value_bytes;
        self.keys.extend(other.keys);
    }

    /// Keys with an acknowledged write.
    pub(crate) fn acknowledged_keys(&self) -> usize {
        self.keys.values().filter(|history| history.last > 0).count()
    }

    /// Reads every key back. A value that was found counts as acknowledged from now on.
    pub(crate) fn check(&mut self, nodes: &[SocketAddr]) {
        assert!(self.acknowledged_keys() > 0, "nothing was acknowledged: the check would be empty");
        let mut client = Client::new(nodes);
        let mut wrong = Vec::new();
        for (key, history) in &mut self.keys {
            let found = client
                .get(key, READ_MAX)
                .unwrap_or_else(|why| panic!("GET {key} had no answer in {READ_MAX:?}: {why}"));
            let checked = number_in(key, found.as_deref(), self.value_bytes)
                .and_then(|found| history.read(found));
            if let Err(why) = checked {
                wrong.push(format!("{key} {why}"));
            }
        }
        let (shown, all) = (wrong.iter().take(20), wrong.len());
        let shown: Vec<&str> = shown.map(String::as_str).collect();
        assert!(
            wrong.is_empty(),
            "{all} of {} keys are wrong:\n{}",
            self.keys.len(),
            shown.join("\n")
        );
    }
}

fn write(mut client: Client, thread: usize, shape: &Shape, shared: &Shared) -> Histories {
    let mut keys: Vec<(String, History)> = (0..shape.keys_per_thread)
        .map(|key| (format!("{}-{thread}-{key}", shape.name), History::default()))
        .collect();
    let mut round = 0_usize;
    while !shared.stop.load(Ordering::Relaxed) {
        round += 1;
        let at = round % keys.len();
        let (key, history) = &mut keys[at];
        if round.is_multiple_of(READ_EVERY) {
            // If no leader is found in time there is nothing to check; the check at the end waits longer.
            if let Ok(found) = client.get(key, ASK_MAX) {
                let checked = number_in(key, found.as_deref(), shape.value_bytes)
                    .and_then(|found| history.read(found));
                checked.unwrap_or_else(|why| panic!("read under load: {key} {why}"));
                shared.read.fetch_add(1, Ordering::Relaxed);
            }
        }
        if history.retired {
            continue;
        }
        history.sent += 1;
        let number = history.sent;
        let value = value_of(key, number, shape.value_bytes);
        let asked = now();
        match client.set(key, &value, ASK_MAX) {
            Outcome::Yes => {
                history.last = number;
                history.unknown.clear();
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                shared.acknowledged_bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
            }
            Outcome::No(_) => {}
            outcome @ (Outcome::Unknown(_) | Outcome::Late) => {
                history.unknown.push(number);
                history.retired = outcome == Outcome::Late;
                shared.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
        let waited = u64::try_from(asked.elapsed().as_millis()).unwrap();
        shared.slowest_ms.fetch_max(waited, Ordering::Relaxed);
        std::thread::sleep(shape.pause);
    }
    Histories { value_bytes: shape.value_bytes, keys: keys.into_iter().collect() }
}

/// A value that names its key and its number. These determine every byte of it, so that any change is noticed.
fn value_of(key: &str, number: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("{key}#{number}#").into_bytes();
    assert!(value.len() < bytes, "{bytes} bytes are too few for a value");
    let filling = b"abcdefghijklmnopqrstuvwxyz".iter().cycle().skip(value.len() % 26);
    let missing = bytes - value.len();
    value.extend(filling.take(missing));
    value
}

/// The number of a value that was read; 0 if there was none.
fn number_in(key: &str, value: Option<&[u8]>, bytes: usize) -> Result<u64, String> {
    let Some(value) = value else { return Ok(0) };
    let text = String::from_utf8_lossy(value);
    let number = text.strip_prefix(key).and_then(|rest| rest.split('#').nth(1)?.parse().ok());
    match number {
        Some(number) if value_of(key, number, bytes) == value => Ok(number),
        _ => Err(format!("holds what was never written: {:.80}", text)),
    }
}

const READ_EVERY: usize = 8;
const ASK_MAX: Duration = Duration::from_secs(10);
const READ_MAX: Duration = Duration::from_secs(40);

#[test]
fn a_lost_write_and_a_made_up_one_are_noticed() {
    let mut history = History { last: 3, unknown: vec![4, 6], ..History::default() };
    assert!(history.read(2).is_err(), "an older value");
    assert!(history.read(0).is_err(), "none");
    assert!(history.read(5).is_err(), "one that was refused");
    assert!(history.read(4).is_ok());
    assert!(history.read(3).is_err(), "back from what was read once");
    assert!(history.read(6).is_ok());
    assert!(number_in("k", Some(b"k#7#xyz"), 40).is_err());
    assert_eq!(number_in("k", Some(&value_of("k", 7, 40)), 40), Ok(7));
}
