//! Messages whose bytes tests pin: one of each kind.

#![allow(dead_code)] // Each user takes its own part.

use bytes::Bytes;
use logdrive_net::snapshots::{
    Lack, OfferAnswer, PartBytes, PartLack, PartRange, SnapshotAnswer, SnapshotId, SnapshotMessage,
    SnapshotOffer,
};
use logdrive_net::stores::{Opening, Proof};
use logdrive_net::{ClusterId, Hello, Lane};
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, Entry, EntryBatch, EntryKind, FoundingNotice,
    Heartbeat, HeartbeatReply, LogId, LogIndex, Marked, Message, NodeId, PreVote, PreVoteReply,
    RequestVote, RoomNotice, RoomSays, Term, TermStated, VoteReply,
};
use std::time::Duration;

/// A hello with fields that differ from one another.
pub(crate) fn hello() -> Hello {
    Hello {
        cluster: ClusterId::of("blue"),
        cluster_name: "blue".into(),
        node: NodeId(2),
        incarnation: 5,
        proof: Proof {
            store: 7,
            nonce: 8,
            noted: Some(Opening { incarnation: 4, nonce: 9 }),
            noted_by: 10,
        },
        command_bytes_founded: 1 << 20,
        settings: 7,
        heartbeat: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        shard: 1,
        shards: 4,
        lane: Lane::Append,
        client_address: "10.0.0.2:6379".into(),
    }
}

/// The hello with the longest texts.
pub(crate) fn longest_hello() -> Hello {
    Hello {
        cluster: ClusterId::of(&"n".repeat(64)),
        cluster_name: "n".repeat(64),
        client_address: "a".repeat(255),
        lane: Lane::Liveness,
        ..hello()
    }
}

/// One message of each kind, with fields that differ from one another.
pub(crate) fn messages() -> Vec<(&'static str, Message)> {
    let id = |term, index| LogId { term: Term(term), index: LogIndex(index) };
    let entry = |term, index, payload: &'static [u8], checksum| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: if payload.is_empty() { EntryKind::Noop } else { EntryKind::Command },
        checksum,
        payload: Bytes::from_static(payload),
    };
    let entries = vec![
        entry(3, 12, b"", 0),
        entry(3, 13, b"first", 0x1122_3344),
        entry(4, 14, &[0xAB; 300], 0x5566_7788),
    ];
    let append = |entries| {
        Message::AppendEntries(AppendEntries {
            term: Term(4),
            prev_log: id(2, 11),
            commit: LogIndex(10),
            entries: EntryBatch::from_entries(entries).expect("they follow one another"),
        })
    };
    let reply = |result| Message::AppendReply(AppendReply { term: Term(4), result });
    vec![
        ("pre-vote", Message::PreVote(PreVote { term: Term(5), last_log: id(4, 14) })),
        ("pre-vote-reply", Message::PreVoteReply(PreVoteReply { term: Term(0), granted: false })),
        ("request-vote", Message::RequestVote(RequestVote { term: Term(5), last_log: id(0, 0) })),
        ("vote-reply", Message::VoteReply(VoteReply { term: Term(5), granted: true })),
        ("append", append(entries)),
        ("append-nothing", append(vec![])),
        ("append-accepted", reply(AppendResult::Accepted { match_index: LogIndex(14) })),
        (
            "append-rejected",
            reply(AppendResult::Rejected { rejected: LogIndex(11), hint: id(2, 9) }),
        ),
        ("heartbeat", {
            let commit = LogIndex((1 << 62) - 1);
            let matched = id(3, 1 << 62);
            Message::Heartbeat(Heartbeat { term: Term(4), commit, matched })
        }),
        ("heartbeat-reply", Message::HeartbeatReply(HeartbeatReply { term: Term(1 << 62) })),
        ("append-taken", reply(AppendResult::Taken { match_index: LogIndex(13) })),
        ("room", Message::Room(RoomNotice { says: RoomSays::Full, shard: 3, shards: 0x0405_0607 })),
        ("founding", Message::Founding(FoundingNotice { digest: 0x1122_3344, asks: true })),
        ("marked", {
            let (term, mark) = (Term(4), 0x0102_0304_0506_0708);
            Message::Marked(Marked { term, mark, last_log: id(3, 12) })
        }),
        ("term-stated", {
            let (term, mark) = (Term(0), u64::MAX);
            Message::TermStated(TermStated { term, mark, commit: LogIndex(10) })
        }),
    ]
}

/// One message of each kind that bulk lanes carry, and of each answer, with fields that differ from one another.
pub(crate) fn snapshot_messages() -> Vec<(&'static str, SnapshotMessage)> {
    use SnapshotMessage::{Answer, Ask, Lack as Lacks, Offer, Part};
    let digest = 0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF;
    let id = SnapshotId { last: LogId { term: Term(3), index: LogIndex(12) }, digest };
    let part = digest + 1;
    let content = Bytes::from_static(b"content");
    let membership = Bytes::from_static(b"members");
    let offer =
        SnapshotOffer { term: Term(4), id, bytes: (1 << 39) + 5, table_bytes: 1_025, membership };
    let answer = |says| Answer(SnapshotAnswer { id, says });
    vec![
        ("offer", Offer(offer)),
        ("answer-have", answer(OfferAnswer::Have)),
        ("answer-not-now", answer(OfferAnswer::NotNow)),
        ("answer-wanted", answer(OfferAnswer::Wanted { bytes_max: 4 << 20 })),
        ("ask", Ask(PartRange { part, at: 3 << 18, bytes: 1 << 18 })),
        ("part", Part(PartBytes { part, total: 0x0020_0007, at: 0x0020_0000, content })),
        ("lack", Lacks(PartLack { part, why: Lack::Unreadable })),
    ]
}
