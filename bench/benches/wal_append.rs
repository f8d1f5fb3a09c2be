//! One group-commit round: appended, written, durable. And what encoding alone costs.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use logdrive_raft::{Entry, EntryKind, GroupId, LogIndex, NodeId, Term, WriteId};
use logdrive_wal::{Append, Config, Home, Wal};
use std::{collections::BTreeMap, path::Path, time::Duration};

struct Log {
    _home: Home,
    wal: Wal,
    next: Vec<u64>,
    payload: Bytes,
}

impl Log {
    fn open(dir: &Path, groups: usize, bytes: usize) -> Self {
        let home = Home::create(&dir.join("n1"), "bench", NodeId(1), 1, BTreeMap::new())
            .expect("a fresh directory");
        let config = Config::new(home.shard_dir(0), home.identity().clone(), 0);
        let (wal, _) = Wal::open(config).expect("a fresh log");
        let payload = Bytes::from(vec![7; bytes]);
        Self { _home: home, wal, next: vec![1; groups], payload }
    }

    /// A turn's entries: `each` for every group.
    fn append(&mut self, each: u64) {
        for (group, next) in self.next.iter_mut().enumerate() {
            let entry = |index| Entry {
                term: Term(1),
                index: LogIndex(index),
                kind: EntryKind::Command,
                checksum: 1,
                payload: self.payload.clone(),
            };
            let entries: Vec<Entry> = (*next..*next + each).map(entry).collect();
            *next += each;
            let append = Append {
                group: GroupId(group as u64),
                write: WriteId(*next),
                membership: None,
                hard_state: None,
                entries: &entries,
            };
            self.wal.append(&append).expect("room");
        }
    }

    fn wait(&mut self) {
        let mut completed = Vec::new();
        self.wal.submit(1).expect("the disk works");
        while self.wal.has_work() {
            self.wal.poll(1, &mut completed).expect("the disk works");
            std::thread::yield_now();
        }
    }
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal_append");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for (groups, each, bytes) in [(1, 1, 128), (32, 1, 128), (48, 16, 16)] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let mut log = Log::open(dir.path(), groups, bytes);
        group.throughput(Throughput::Elements(groups as u64 * each));
        group.bench_function(format!("{groups}_groups_x_{each}x{bytes}B/synced"), |bencher| {
            bencher.iter(|| {
                log.append(each);
                log.wait();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rounds);
criterion_main!(benches);
