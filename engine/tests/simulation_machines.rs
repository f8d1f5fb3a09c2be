//! Machines that are durable by themselves under the simulator: sound ones pass, and ones that are not are caught.

#![forbid(unsafe_code)]

use bytes::Bytes;
use logdrive::{
    AppliedAt, Committed, LogIndex, MachineError, Replies, StateMachine,
    testing::{Call, Cluster, Failure, MachineDisk, Report},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How a [`Journal`] saves a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Saves {
    /// The commands, a sync, then the index: sound.
    DataFirst,
    /// The index, a sync, then the commands and another sync.
    IndexFirst,
    /// Both before one sync.
    Together,
    /// The index alone.
    IndexOnly,
    /// The commands, then the index, and it calls itself durable without a sync.
    Unsynced,
}

/// Keeps every command under its index; replies the sum of the first bytes of all commands so far.
struct Journal {
    disk: MachineDisk,
    saves: Saves,
    at: u64,
    sum: u64,
    /// Its replies are always zero, so that only its digest tells what it lost.
    replies_nothing: bool,
}

impl Journal {
    fn new(disk: MachineDisk, saves: Saves) -> Self {
        Self { disk, saves, at: 0, sum: 0, replies_nothing: false }
    }

    fn save_commands(&self, batch: &Committed<'_>) {
        for command in batch.commands() {
            let key = [b"command".as_slice(), &command.index.get().to_be_bytes()].concat();
            self.disk.write(key, Bytes::copy_from_slice(command.bytes));
        }
    }

    fn save_index(&self) {
        self.disk.write("index", self.at.to_be_bytes().to_vec());
    }
}

impl StateMachine for Journal {
    fn open(&mut self) -> Result<AppliedAt, MachineError> {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        self.at = self.disk.read(b"index").map_or(0, |index| number(&index));
        for (key, command) in self.disk.read_all() {
            let index = key.strip_prefix(b"command").map(number);
            // A command past the index will come again.
            if index.is_some_and(|index| index <= self.at) {
                self.sum += u64::from(command[0]);
            }
        }
        Ok(AppliedAt(LogIndex(self.at)))
    }

    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for command in batch.commands() {
            self.sum += u64::from(command.bytes[0]);
            let reply = if self.replies_nothing { 0 } else { self.sum };
            replies.push(reply.to_le_bytes().to_vec());
        }
        self.at = batch.last().get();
        match self.saves {
            Saves::DataFirst => {
                self.save_commands(batch);
                self.disk.sync();
                self.save_index();
            }
            Saves::IndexFirst => {
                self.save_index();
                self.disk.sync();
                self.save_commands(batch);
            }
            Saves::Together => {
                self.save_commands(batch);
                self.save_index();
            }
            Saves::IndexOnly => self.save_index(),
            Saves::Unsynced => {
                self.save_commands(batch);
                self.save_index();
                return Ok(());
            }
        }
        self.disk.sync();
        Ok(())
    }

    fn digest(&self) -> Option<u64> {
        Some(self.sum)
    }

    fn durable(&self) -> LogIndex {
        LogIndex(self.at)
    }
}

fn run(seed: u64, saves: Saves, replies_nothing: bool) -> Result<Report, Box<Failure>> {
    Cluster::new(seed)
        .durable_machine(move |_, _, disk| {
            Box::new(Journal { replies_nothing, ..Journal::new(disk, saves) })
        })
        .operations(|random, _| vec![*random.pick(&[1, 2, 3, 5, 9])].into())
        .run()
}

/// How many of 60 seeds fail with journals that save as `saves` says. Each failure must name what the machine lost.
fn caught(saves: Saves, replies_nothing: bool) -> usize {
    let mut by: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..60 {
        if let Err(failure) = run(seed, saves, replies_nothing) {
            assert_is_named(&failure);
            *by.entry(failure.invariant).or_default() += 1;
        }
    }
    println!("{saves:?}: of 60 seeds {by:?}");
    by.values().sum()
}

fn assert_is_named(failure: &Failure) {
    let named = ["6 state-machine safety", "27 reopened machine"];
    assert!(named.contains(&failure.invariant.as_str()), "{failure}");
}

#[test]
fn a_machine_that_saves_its_data_before_its_index_passes() {
    let (mut reopened, mut within) = (0, 0);
    for seed in 0..60 {
        let report = run(seed, Saves::DataFirst, false);
        let coverage = report.unwrap_or_else(|failure| panic!("{failure}")).coverage.0;
        let reached = |place| coverage.get(place).copied().unwrap_or(0);
        reopened += reached("machine reopened where it had been");
        within += reached("process ended within a machine's write");
    }
    // Runs in which no machine is reopened or interrupted prove nothing.
    println!("{reopened} machines reopened, {within} processes ended within a write");
    assert!(reopened > 300 && within > 15, "{reopened}, {within}");
}

#[test]
fn a_machine_that_saves_its_index_before_its_data_is_caught() {
    assert!(caught(Saves::IndexFirst, false) >= 3);
}

#[test]
fn a_machine_that_saves_its_index_and_its_data_with_one_sync_is_caught() {
    // It takes a power loss within the one sync that keeps the index and not the command.
    let failure = (0..400).find_map(|seed| run(seed, Saves::Together, false).err());
    let failure = failure.expect("400 seeds find it");
    println!("{failure}");
    assert_is_named(&failure);
}

#[test]
fn a_machine_whose_replies_do_not_tell_what_it_lost_is_caught_by_its_digest() {
    assert!(caught(Saves::IndexOnly, true) >= 40);
}

#[test]
fn a_machine_that_says_it_is_durable_and_is_not_is_caught() {
    assert!(caught(Saves::Unsynced, false) >= 30);
}

/// A machine in memory that claims, when it is opened, to be as far as any machine that shares its counter ever was.
struct Braggart(Arc<AtomicU64>);

impl StateMachine for Braggart {
    fn open(&mut self) -> Result<AppliedAt, MachineError> {
        Ok(AppliedAt(LogIndex(self.0.load(Ordering::Relaxed))))
    }

    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        batch.commands().for_each(|_| replies.push("ok"));
        self.0.fetch_max(batch.last().get(), Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_machine_that_opens_where_it_was_never_is_caught() {
    let caught = (0..10).filter_map(|seed| {
        // All nodes share a counter: a machine that restarts behind the others claims commands that it was never given.
        let furthest = Arc::new(AtomicU64::new(0));
        let cluster = Cluster::new(seed)
            .nodes(3)
            .groups(1)
            .machine(move |_, _| Box::new(Braggart(furthest.clone())));
        cluster.run().err()
    });
    let caught: Vec<_> = caught.map(|failure| failure.to_string()).collect();
    let is_named = |failure: &String| failure.contains("27 reopened machine");
    assert!(caught.iter().any(is_named), "{caught:?}");
}

#[test]
fn operations_see_what_clients_know() {
    let seen: Arc<[AtomicU64; 4]> = Arc::default();
    let sees = seen.clone();
    let kind = |call: &Call| match call {
        call if call.is_pending() => 0,
        call if call.reply.is_some() => 1,
        call if call.refused => 2,
        call => {
            assert!(call.unknown);
            3
        }
    };
    for seed in 0..5 {
        let sees = sees.clone();
        let cluster = Cluster::new(seed).machine(|_, _| Box::new(Braggart(Arc::default())));
        let cluster = cluster.operations_after(move |_, group, calls| {
            let own = calls.iter().filter(|call| call.group == group);
            own.for_each(|call| {
                sees[kind(call)].fetch_add(1, Ordering::Relaxed);
            });
            "".into()
        });
        let report = cluster
            .check(move |calls| {
                // At the end no call is pending.
                let kinds: BTreeSet<_> = calls.iter().map(kind).collect();
                if kinds.contains(&0) { Err(format!("{kinds:?}")) } else { Ok(()) }
            })
            .run();
        report.unwrap_or_else(|failure| panic!("{failure}"));
    }
    let seen = seen.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(seen.iter().all(|count| *count > 0), "pending, replied, refused, unknown: {seen:?}");
}
