//! This log under load: one thread owns it, as a shard does; writers hand their entries over and sleep.
//!
//! In:     a directory.
//! Out:    a [`Log`].
//! Cost:   one system call wakes all writers of an epoch; the log's thread is woken only while a write slot is free.
//! Fails:  with the log's first error, at the writers that wait.
//!
//! Writers that hand over in the same *epoch* sleep at the same gate, so that one call wakes them all. An epoch
//! ends when the log's thread takes it, or when it holds as much as a batch should.

use crate::load::{Done, Log, Shape, Times, Writer, noise};
use crate::sleeper::Sleeper;
use crate::tenants::{Reader, Tenants};
use bytes::Bytes;
use hdrhistogram::Histogram;
use logdrive_raft::{Entry, EntryKind, GroupId, LogIndex, NodeId, Term, WriteId};
use logdrive_wal::{Append, Completed, Config, Home, Wal};
use rustix::thread::futex;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub(crate) struct Ours {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<io::Result<()>>>,
    _home: Home,
}

/// A fresh log's home and settings.
pub(crate) fn create(dir: &Path, in_flight: Option<usize>) -> io::Result<(Home, Config)> {
    let home = Home::create(dir, "bench", NodeId(1), 1, BTreeMap::new());
    let home = home.map_err(io::Error::other)?;
    let mut config = Config::new(home.shard_dir(0), home.identity().clone(), 0);
    config.in_flight_max = in_flight.unwrap_or(config.in_flight_max);
    Ok((home, config))
}

impl Ours {
    pub(crate) fn open(dir: &Path, in_flight: Option<usize>) -> io::Result<Self> {
        let (home, config) = create(dir, in_flight)?;
        let desk = Arc::new(Desk {
            waiting: Mutex::new(Waiting { epoch: 1, bytes: 0, writes: Vec::new() }),
            wanted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            guests: Mutex::new(None),
            gates: Default::default(),
            sleeper: Arc::new(Sleeper::new()?),
        });
        let shared = Arc::clone(&desk);
        let (opened_in, opened) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut clerk = match Clerk::open(config, &shared) {
                Ok(clerk) => clerk,
                Err(error) => return opened_in.send(Err(error)).map_err(io::Error::other),
            };
            opened_in.send(Ok(())).map_err(io::Error::other)?;
            let ended = clerk.serve();
            shared.ended.store(true, Ordering::SeqCst);
            shared.open_gates(u32::MAX);
            ended.and_then(|()| clerk.wal.close().map_err(io::Error::other))
        })?;
        opened.recv().map_err(io::Error::other)??;
        Ok(Self { desk, thread: Some(thread), _home: home })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.desk.ended.store(true, Ordering::SeqCst);
        self.desk.sleeper.kick().expect("an eventfd takes a tick");
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the log ended with: {error}");
        }
    }
}

impl Log for Ours {
    fn writer(&self, group: u64, shape: Shape) -> Box<dyn Writer + Send + '_> {
        Box::new(OurWriter { desk: &self.desk, script: Script::new(group, shape) })
    }

    fn at_home(&self, shape: Shape, seconds: f64, next: &[u64]) -> Option<io::Result<Done>> {
        let writers =
            (1..).zip(next).map(|(group, next)| (Script::new(group, shape), *next)).collect();
        Some(self.invite(writers, seconds))
    }

    /// Does nothing: the log's thread releases entries whenever a segment is full.
    fn release(&mut self, _next: &[u64]) -> io::Result<()> {
        Ok(())
    }
}

impl Ours {
    fn invite(&self, writers: Vec<(Script, u64)>, seconds: f64) -> io::Result<Done> {
        let (done, wait) = sync_channel(1);
        *self.desk.guests.lock().expect("nobody panics here") =
            Some(Guests { writers, seconds, done });
        self.desk.sleeper.kick()?;
        wait.recv().map_err(io::Error::other)?
    }
}

/// The entries that a writer writes.
struct Script {
    group: GroupId,
    payloads: Vec<Bytes>,
}

impl Script {
    fn new(group: u64, shape: Shape) -> Self {
        let payloads = (0..shape.entries as u64)
            .map(|at| Bytes::from(noise(group << 32 | at, shape.payload)))
            .collect();
        Self { group: GroupId(group), payloads }
    }

    fn entries(&self, first: u64) -> Vec<Entry> {
        let entry = |(index, payload): (u64, &Bytes)| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Command,
            checksum: logdrive_wal::checksum(payload),
            payload: payload.clone(),
        };
        (first..).zip(&self.payloads).map(entry).collect()
    }
}

struct OurWriter<'a> {
    desk: &'a Desk,
    script: Script,
}

impl Writer for OurWriter<'_> {
    fn write(&mut self, first: u64) -> io::Result<()> {
        let epoch = self.desk.hand_over(self.script.group, self.script.entries(first))?;
        self.desk.wait(epoch)
    }
}

/// Writers that run on the log's thread: at position *g* - 1 that of group *g*, with the index of its next entry.
struct Guests {
    writers: Vec<(Script, u64)>,
    seconds: f64,
    done: SyncSender<io::Result<Done>>,
}

/// Where writers and the log's thread meet. It holds at most one write of each writer.
struct Desk {
    waiting: Mutex<Waiting>,
    /// The log's thread sleeps, or is about to, and has a free slot: the next writer kicks it.
    wanted: AtomicBool,
    /// No more writes come, or the log has failed.
    ended: AtomicBool,
    /// The writers of epoch *e* sleep at gate `e % GATES`. A gate shows the newest of its epochs that is durable.
    gates: [Gate; GATES],
    guests: Mutex<Option<Guests>>,
    sleeper: Arc<Sleeper>,
}

#[derive(Default)]
#[repr(align(64))]
struct Gate(AtomicU32);

struct Waiting {
    epoch: u32,
    bytes: usize,
    writes: Vec<Write>,
}

struct Write {
    epoch: u32,
    group: GroupId,
    entries: Vec<Entry>,
}

impl Desk {
    fn hand_over(&self, group: GroupId, entries: Vec<Entry>) -> io::Result<u32> {
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        let mut waiting = self.waiting.lock().expect("nobody panics here");
        let epoch = waiting.epoch;
        waiting.writes.push(Write { epoch, group, entries });
        waiting.bytes += bytes;
        if waiting.bytes >= EPOCH_BYTES {
            (waiting.epoch, waiting.bytes) = (epoch + 1, 0);
        }
        drop(waiting);
        if self.wanted.load(Ordering::SeqCst) && self.wanted.swap(false, Ordering::SeqCst) {
            self.sleeper.kick()?;
        }
        Ok(epoch)
    }

    /// Sleeps until `epoch` is durable.
    fn wait(&self, epoch: u32) -> io::Result<()> {
        let gate = &self.gates[epoch as usize % GATES].0;
        loop {
            let durable = gate.load(Ordering::Acquire);
            if durable == u32::MAX {
                return Err(io::Error::other("the log has ended"));
            }
            if durable >= epoch {
                return Ok(());
            }
            match futex::wait(gate, futex::Flags::PRIVATE, durable, None) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the writes that were handed over. Writes that come later are of a later epoch.
    fn take(&self, writes: &mut Vec<Write>) {
        let mut waiting = self.waiting.lock().expect("nobody panics here");
        if waiting.bytes > 0 {
            waiting.epoch += 1;
            waiting.bytes = 0;
        }
        std::mem::swap(&mut waiting.writes, writes);
    }

    fn is_idle(&self) -> bool {
        self.waiting.lock().expect("nobody panics here").writes.is_empty()
    }

    fn open_gate(&self, epoch: u32) -> io::Result<()> {
        let gate = &self.gates[epoch as usize % GATES].0;
        gate.store(epoch, Ordering::Release);
        futex::wake(gate, futex::Flags::PRIVATE, i32::MAX as u32)?;
        Ok(())
    }

    fn open_gates(&self, epoch: u32) {
        for gate in &self.gates {
            gate.0.store(epoch, Ordering::Release);
            let _ = futex::wake(&gate.0, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }
}

/// The log's thread.
struct Clerk<'a> {
    wal: Wal,
    desk: &'a Desk,
    writes: Vec<Write>,
    completed: Vec<Completed>,
    tenants: Tenants,
    reader: Reader,
    /// The epoch each group waits in, by the group's number.
    epochs: Vec<u32>,
    /// Epochs in the log that are not durable, oldest first, with how many of their writes are not.
    open: VecDeque<(u32, usize)>,
}

impl<'a> Clerk<'a> {
    fn open(config: Config, desk: &'a Desk) -> io::Result<Self> {
        let (wal, _) = Wal::open(config).map_err(io::Error::other)?;
        desk.sleeper.watch(&wal)?;
        Ok(Self {
            wal,
            desk,
            writes: Vec::new(),
            completed: Vec::new(),
            tenants: Tenants::default(),
            reader: Reader::start(Arc::clone(&desk.sleeper))?,
            epochs: Vec::new(),
            open: VecDeque::new(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            self.wal.poll(0, &mut self.completed).map_err(io::Error::other)?;
            // The next batch leaves before the last one's writers are woken.
            if self.wal.has_slot() {
                self.desk.take(&mut self.writes);
                self.append()?;
                self.wal.submit(0).map_err(io::Error::other)?;
            }
            self.wake()?;
            self.reader.tidy(&mut self.wal)?;
            if let Some(guests) = self.desk.guests.lock().expect("nobody panics here").take() {
                let Guests { mut writers, seconds, done } = guests;
                let times = self.host(&mut writers, seconds);
                let ends = writers.into_iter().map(|(_, next)| next).collect();
                // Fails only if the thread that waits for the result has ended.
                let _ = done.send(times.map(|times| (ends, times)));
            }
            if self.wal.has_slot() {
                self.desk.wanted.store(true, Ordering::SeqCst);
                if !self.desk.is_idle() {
                    continue;
                }
                if self.desk.ended.load(Ordering::SeqCst) {
                    return Ok(());
                }
            } else {
                self.desk.wanted.store(false, Ordering::SeqCst);
            }
            self.desk.sleeper.sleep()?;
        }
    }

    fn append(&mut self) -> io::Result<()> {
        let mut writes = std::mem::take(&mut self.writes);
        for write in writes.drain(..) {
            let group = number(write.group);
            if self.epochs.len() <= group {
                self.epochs.resize(group + 1, 0);
            }
            self.epochs[group] = write.epoch;
            match self.open.back_mut() {
                Some((epoch, writes)) if *epoch == write.epoch => *writes += 1,
                _ => self.open.push_back((write.epoch, 1)),
            }
            self.append_one(write.group, &write.entries)?;
        }
        self.writes = writes;
        Ok(())
    }

    fn append_one(&mut self, group: GroupId, entries: &[Entry]) -> io::Result<()> {
        let last = entries.last().expect("a write has entries").index;
        let write = WriteId(last.0);
        let append = Append { group, write, membership: None, hard_state: None, entries };
        self.wal.append(&append).map_err(io::Error::other)
    }

    /// Runs writers on this thread: as soon as a write is durable, its writer's next one goes into the next batch.
    fn host(&mut self, writers: &mut [(Script, u64)], seconds: f64) -> io::Result<Histogram<u64>> {
        let mut times = Times::start(seconds);
        let mut began = vec![times.began; writers.len()];
        let mut ready: Vec<usize> = (0..writers.len()).collect();
        let mut writing = 0;
        loop {
            if self.wal.has_slot() && !ready.is_empty() {
                for at in ready.drain(..) {
                    let (script, next) = &mut writers[at];
                    let entries = script.entries(*next);
                    *next += entries.len() as u64;
                    self.append_one(script.group, &entries)?;
                    writing += 1;
                }
                self.wal.submit(0).map_err(io::Error::other)?;
            }
            self.reader.tidy(&mut self.wal)?;
            if writing == 0 {
                return Ok(times.all);
            }
            self.wal.poll(0, &mut self.completed).map_err(io::Error::other)?;
            if self.completed.is_empty() {
                self.desk.sleeper.sleep()?;
                continue;
            }
            for batch in self.completed.drain(..) {
                for durable in &batch.durable {
                    let at = number(durable.group()) - 1;
                    if durable.upto().0 + 1 == writers[at].1 {
                        writing -= 1;
                        began[at] = times.note(began[at]);
                        if times.goes_on(began[at]) {
                            ready.push(at);
                        }
                    }
                }
                self.tenants.note(&mut self.wal, &batch)?;
            }
        }
    }

    /// Wakes the writers whose whole epoch is durable.
    fn wake(&mut self) -> io::Result<()> {
        for batch in self.completed.drain(..) {
            for durable in &batch.durable {
                let epoch = self.epochs[number(durable.group())];
                let open = self.open.iter_mut().find(|(open, _)| *open == epoch);
                open.expect("an epoch is open until all its writes are durable").1 -= 1;
            }
            self.tenants.note(&mut self.wal, &batch)?;
        }
        while let Some((epoch, 0)) = self.open.front() {
            self.desk.open_gate(*epoch)?;
            self.open.pop_front();
        }
        Ok(())
    }
}

fn number(group: GroupId) -> usize {
    usize::try_from(group.0).expect("a small number")
}

const GATES: usize = 16;
/// An epoch is closed when it holds this many bytes.
const EPOCH_BYTES: usize = 512 << 10;
