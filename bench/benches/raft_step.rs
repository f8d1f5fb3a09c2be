//! One group's round through three replicas, with no disk and no network: what the protocol costs.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use logdrive_raft::{
    Command, Config, Durable, Event, GroupId, NodeId, Raft, Restored, Role, Ticks, WriteId,
};

/// Three replicas that are handed each other's messages at once, and whose disks are instant.
struct Trio {
    replicas: Vec<Raft>,
    now: Ticks,
}

impl Trio {
    fn new() -> Self {
        let voters: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let replica = |id: &NodeId| {
            let config = Config {
                group: GroupId(7),
                id: *id,
                voters: voters.clone(),
                election_ticks: 50,
                heartbeat_ticks: 5,
                seed: 42,
                inflight_messages_max: 256,
                inflight_bytes_max: 4 << 20,
                append_bytes_max: 1 << 20,
                tail_bytes_max: 4 << 20,
                uncommitted_bytes_max: 32 << 20,
            };
            Raft::new(config, Restored::default(), Ticks(1)).expect("a sound configuration")
        };
        let mut trio = Self { replicas: voters.iter().map(replica).collect(), now: Ticks(1) };
        trio.replicas[0].step(trio.now, Event::Campaign);
        trio.settle();
        assert_eq!(trio.replicas[0].status().role, Role::Leader, "the only candidate leads");
        trio
    }

    /// Does the work that each replica hands out and delivers the messages, until there is neither.
    fn settle(&mut self) {
        let mut mail = Vec::new();
        loop {
            for (at, raft) in self.replicas.iter_mut().enumerate() {
                let from = NodeId(at as u64 + 1);
                while let Some(ready) = raft.ready() {
                    mail.extend(ready.messages.into_iter().map(|out| (from, out)));
                    let mut durable = Durable::new(GroupId(7), WriteId::ZERO);
                    if let Some(write) = ready.write {
                        durable = Durable::new(GroupId(7), write.id);
                        raft.step(self.now, Event::Durable(durable));
                    }
                    if let Some(promises) = ready.promises {
                        durable = Durable::new(GroupId(7), promises.after().max(durable.upto()));
                        mail.extend(promises.release(&durable).into_iter().map(|out| (from, out)));
                    }
                    if let Some(last) = ready.apply.last() {
                        raft.step(self.now, Event::Applied(last.index));
                    }
                }
            }
            if mail.is_empty() {
                return;
            }
            for (from, out) in mail.drain(..) {
                let to = usize::try_from(out.to.get() - 1).expect("small");
                let event = Event::Message { from, message: out.message };
                self.replicas[to].step(self.now, event);
            }
        }
    }
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raft_step");
    for (entries, bytes) in [(1_usize, 128), (16, 128), (300, 16)] {
        let mut trio = Trio::new();
        let payload = Bytes::from(vec![7; bytes]);
        let mut commands = Vec::new();
        group.throughput(Throughput::Elements(entries as u64));
        group.bench_function(format!("{entries}x{bytes}B/3_replicas"), |bencher| {
            bencher.iter(|| {
                let command = || Command { checksum: 1, payload: payload.clone() };
                commands.extend(std::iter::repeat_with(command).take(entries));
                trio.replicas[0].propose(&mut commands).expect("it leads");
                trio.settle();
            });
        });
        let status = trio.replicas[0].status();
        assert_eq!(status.commit, status.last_log.index, "everything proposed is committed");
    }
    group.finish();
}

criterion_group!(benches, rounds);
criterion_main!(benches);
