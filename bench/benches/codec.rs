//! One round's frame, to bytes and back.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use logdrive_net::codec;
use logdrive_raft::{
    AppendEntries, Entry, EntryBatch, EntryKind, GroupId, Heartbeat, LogId, LogIndex, Message, Term,
};

fn append(entries: u64, bytes: usize) -> Message {
    let payload = Bytes::from(vec![7; bytes]);
    let entry = |index| Entry {
        term: Term(3),
        index: LogIndex(index),
        kind: EntryKind::Command,
        checksum: 1,
        payload: payload.clone(),
    };
    let entries = EntryBatch::from_entries((101..101 + entries).map(entry).collect());
    Message::AppendEntries(AppendEntries {
        term: Term(3),
        prev_log: LogId { term: Term(3), index: LogIndex(100) },
        commit: LogIndex(90),
        entries: entries.expect("contiguous"),
    })
}

fn frames(criterion: &mut Criterion) {
    let matched = LogId { term: Term(3), index: LogIndex(100) };
    let heartbeat = Heartbeat { term: Term(3), commit: LogIndex(90), matched };
    let heartbeat = Message::Heartbeat(heartbeat);
    let shapes = [
        ("300_groups_x_1x128B", 300, append(1, 128), 300),
        ("48_groups_x_100x16B", 48, append(100, 16), 4800),
        ("1000_heartbeats", 1000, heartbeat, 1000),
    ];
    let mut group = criterion.benchmark_group("codec");
    for (name, groups, message, elements) in shapes {
        group.throughput(Throughput::Elements(elements));
        let mut body = BytesMut::new();
        group.bench_function(format!("encode/{name}"), |bencher| {
            bencher.iter(|| {
                body.clear();
                (0..groups).for_each(|id| codec::encode(&mut body, GroupId(id), &message));
            });
        });
        let body = body.freeze();
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter_batched(
                || body.clone(),
                |body| codec::decode(body).expect("what encode made"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
