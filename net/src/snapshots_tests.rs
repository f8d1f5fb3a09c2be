//! Messages of snapshots: what is read, what is refused, and by which name.
//!
//! In:     messages as they are written, damaged, and with fields that lie.
//! Out:    what was written, or the field that cannot be.
//! Source: RULES.md I1, I5.

use super::*;
use crate::codec::NUMBER_MAX;
use proptest::prelude::*;

fn id() -> impl Strategy<Value = SnapshotId> {
    let number = || prop_oneof![1..5_u64, Just(NUMBER_MAX), 1..NUMBER_MAX];
    (number(), number(), any::<u128>()).prop_map(|(term, index, digest)| SnapshotId {
        last: LogId { term: Term(term), index: LogIndex(index) },
        digest,
    })
}

fn offer() -> impl Strategy<Value = SnapshotMessage> {
    let membership = proptest::collection::vec(any::<u8>(), 0..40);
    let bytes = (0..=SNAPSHOT_BYTES_MAX, 1..=PART_BYTES_MAX);
    (id(), any::<u64>(), bytes, membership).prop_map(
        |(id, above, (bytes, table_bytes), membership)| {
            let term = Term(id.last.term.get().saturating_add(above).min(NUMBER_MAX));
            let membership = membership.into();
            SnapshotMessage::Offer(SnapshotOffer { term, id, bytes, table_bytes, membership })
        },
    )
}

fn message() -> impl Strategy<Value = SnapshotMessage> {
    let says = prop_oneof![
        Just(OfferAnswer::Have),
        Just(OfferAnswer::NotNow),
        (1..=u32::MAX).prop_map(|bytes_max| OfferAnswer::Wanted { bytes_max }),
    ];
    let range = (any::<u128>(), 0..PART_BYTES_MAX, 1..=RANGE_BYTES_MAX);
    let content = proptest::collection::vec(any::<u8>(), 1..60);
    let lack = prop_oneof![Just(Lack::Absent), Just(Lack::Unreadable)];
    prop_oneof![
        offer(),
        (id(), says).prop_map(|(id, says)| SnapshotMessage::Answer(SnapshotAnswer { id, says })),
        range.prop_map(|(part, at, bytes)| {
            let at = at.min(PART_BYTES_MAX - bytes);
            SnapshotMessage::Ask(PartRange { part, at, bytes })
        }),
        (any::<u128>(), 0..PART_BYTES_MAX, any::<u32>(), content).prop_map(
            |(part, at, behind, content)| {
                let bytes = u32::try_from(content.len()).expect("short");
                let at = at.min(PART_BYTES_MAX - bytes);
                let total = at + bytes + behind % (PART_BYTES_MAX - at - bytes + 1);
                let content = content.into();
                SnapshotMessage::Part(PartBytes { part, total, at, content })
            }
        ),
        (any::<u128>(), lack).prop_map(|(part, why)| SnapshotMessage::Lack(PartLack { part, why })),
    ]
}

fn messages() -> impl Strategy<Value = Vec<(GroupId, SnapshotMessage)>> {
    proptest::collection::vec((any::<u64>().prop_map(GroupId), message()), 0..8)
}

fn encoded(messages: &[(GroupId, SnapshotMessage)]) -> Bytes {
    let mut body = BytesMut::new();
    for (group, message) in messages {
        message.encode(&mut body, *group);
    }
    body.freeze()
}

/// An offer of a snapshot of 3 MiB.
fn offered() -> SnapshotOffer {
    let last = LogId { term: Term(3), index: LogIndex(12) };
    let (id, membership) = (SnapshotId { last, digest: 5 }, Bytes::new());
    SnapshotOffer { term: Term(3), id, bytes: 3 << 20, table_bytes: 108, membership }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(messages in messages()) {
        let body = encoded(&messages);
        let bytes: usize = messages.iter().map(|(_, message)| message.encoded_bytes()).sum();
        prop_assert_eq!(body.len(), bytes);
        prop_assert_eq!(SnapshotMessage::decode(body), Ok(messages));
    }

    #[test]
    fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = SnapshotMessage::decode(body.into());
    }

    /// A damaged body that can still be read is one of ours: encoding its messages gives the damaged bytes.
    #[test]
    fn damaged_bodies_are_refused_or_mean_what_they_say(
        messages in messages(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        does_cut in any::<bool>(),
    ) {
        let mut body = encoded(&messages).to_vec();
        prop_assume!(!body.is_empty());
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if does_cut {
            body.truncate(cut.index(body.len()));
        }
        if let Ok(read) = SnapshotMessage::decode(body.clone().into()) {
            prop_assert_eq!(encoded(&read).to_vec(), body);
        }
    }
}

/// The body of `message` to group 7, with the bytes at `at` replaced.
fn tampered(
    message: &SnapshotMessage,
    at: usize,
    with: &[u8],
) -> Result<Vec<(GroupId, SnapshotMessage)>, CodecError> {
    let mut body = encoded(&[(GroupId(7), message.clone())]).to_vec();
    body[at..at + with.len()].copy_from_slice(with);
    SnapshotMessage::decode(body.into())
}

/// The name, the place and the value of the field for which the tampered message is refused.
fn refused(message: &SnapshotMessage, at: usize, with: &[u8]) -> (&'static str, usize, u64) {
    match tampered(message, at, with) {
        Err(CodecError::OutOfRange { what, at, found }) => (what, at, found),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_fields_are_refused_by_name() {
    let offer = SnapshotOffer { membership: "members".into(), ..offered() };
    let offer = SnapshotMessage::Offer(offer);
    let unknown = tampered(&offer, 8, &[14]);
    assert_eq!(unknown, Err(CodecError::UnknownMessage { at: 8, kind: 14 }), "of another lane");
    let max = u64::MAX.to_le_bytes();
    for at in [9, 17, 25] {
        assert_eq!((refused(&offer, at, &max).1, refused(&offer, at, &max).2), (at, u64::MAX));
    }
    assert_eq!(refused(&offer, 9, &[0; 8]), ("term", 9, 0));
    assert_eq!(refused(&offer, 17, &[0; 16]), ("last index", 25, 0));
    assert_eq!(refused(&offer, 17, &[4]), ("last term", 17, 4));
    assert!(matches!(tampered(&offer, 25, &[0; 8]), Err(CodecError::HalfAnId { at: 17, .. })));
    // An offer says nothing of the number of parts; nothing is allocated for what it says of their bytes.
    let many = u32::MAX.to_le_bytes();
    assert_eq!(refused(&offer, 57, &many), ("length of the table", 57, u32::MAX.into()));
    let one_more = PART_BYTES_MAX + 1;
    let at_table = ("length of the table", 57, one_more.into());
    assert_eq!(refused(&offer, 57, &one_more.to_le_bytes()), at_table);
    assert_eq!(refused(&offer, 57, &[0; 4]), ("length of the table", 57, 0));
    let most = SNAPSHOT_BYTES_MAX;
    assert!(tampered(&offer, 49, &most.to_le_bytes()).is_ok());
    assert_eq!(refused(&offer, 49, &(most + 1).to_le_bytes()), ("length", 49, most + 1));
    let short = tampered(&offer, 61, &[8, 0]);
    assert_eq!(short, Err(CodecError::Short { at: 63, wanted: 1 }));

    let last = LogId { term: Term(3), index: LogIndex(12) };
    let (id, says) = (SnapshotId { last, digest: 5 }, OfferAnswer::Wanted { bytes_max: 9 });
    let answer = SnapshotMessage::Answer(SnapshotAnswer { id, says });
    assert_eq!(refused(&answer, 9, &[0; 16]), ("last index", 17, 0));
    assert_eq!(refused(&answer, 41, &[3]), ("answer", 41, 3));
    assert_eq!(refused(&answer, 41, &[1]), ("bytes at a time", 42, 9));
    assert_eq!(refused(&answer, 42, &[0]), ("bytes at a time", 42, 0));

    let ask = SnapshotMessage::Ask(PartRange { part: 5, at: 0, bytes: RANGE_BYTES_MAX });
    assert_eq!(refused(&ask, 29, &[0; 4]), ("length of a range", 29, 0));
    assert_eq!(refused(&ask, 29, &many), ("length of a range", 29, u32::MAX.into()));
    let end = u64::from(u32::MAX) + u64::from(RANGE_BYTES_MAX);
    assert_eq!(refused(&ask, 25, &many), ("end of a range", 25, end));

    let part =
        SnapshotMessage::Part(PartBytes { part: 5, total: 9, at: 2, content: "1234567".into() });
    assert_eq!(refused(&part, 25, &many), ("length of a part", 25, u32::MAX.into()));
    assert_eq!(refused(&part, 25, &[8]), ("end of a range", 29, 9));
    assert_eq!(refused(&part, 29, &many), ("end of a range", 29, u64::from(u32::MAX) + 7));
    let short = tampered(&part, 33, &many);
    assert_eq!(short, Err(CodecError::Short { at: 37, wanted: u32::MAX as usize - 7 }));
    let empty = encoded(&[(GroupId(7), part)])[..37].to_vec();
    let empty = SnapshotMessage::decode([&empty[..33], &[0; 4]].concat().into());
    assert!(matches!(empty, Err(CodecError::OutOfRange { at: 33, found: 0, .. })), "{empty:?}");

    let lack = SnapshotMessage::Lack(PartLack { part: 5, why: Lack::Absent });
    assert_eq!(refused(&lack, 25, &[2]), ("reason", 25, 2));
}

#[test]
fn a_membership_or_a_range_over_its_bound_is_refused_though_it_is_there() {
    let most = SnapshotOffer { membership: vec![1; MEMBERSHIP_BYTES_MAX].into(), ..offered() };
    let mut body = encoded(&[(GroupId(7), SnapshotMessage::Offer(most))]).to_vec();
    body.push(1);
    body[61..63].copy_from_slice(&4_097_u16.to_le_bytes());
    let refused = SnapshotMessage::decode(body.into());
    let what = "length of the membership";
    assert_eq!(refused, Err(CodecError::OutOfRange { what, at: 61, found: 4_097 }));
    let content = Bytes::from(vec![1; RANGE_BYTES_MAX as usize]);
    let part = PartBytes { part: 5, total: 1 << 20, at: 0, content };
    let mut body = encoded(&[(GroupId(7), SnapshotMessage::Part(part))]).to_vec();
    assert_eq!(body.len(), BULK_BODY_BYTES_MAX as usize, "the longest message");
    body.push(1);
    body[33..37].copy_from_slice(&(RANGE_BYTES_MAX + 1).to_le_bytes());
    let refused = SnapshotMessage::decode(body.into());
    let (what, found) = ("length of a range", u64::from(RANGE_BYTES_MAX) + 1);
    assert_eq!(refused, Err(CodecError::OutOfRange { what, at: 33, found }));
}

#[test]
#[should_panic(expected = "a message of our own has end of a range 9")]
fn what_the_other_end_would_refuse_is_not_encoded() {
    let part = PartBytes { part: 5, total: 8, at: 2, content: "1234567".into() };
    encoded(&[(GroupId(7), SnapshotMessage::Part(part))]);
}

#[test]
fn a_content_is_a_slice_of_the_body() {
    let part = PartBytes { part: 5, total: 9, at: 2, content: "1234567".into() };
    let body = encoded(&[(GroupId(7), SnapshotMessage::Part(part))]);
    let read = SnapshotMessage::decode(body.clone()).expect("ours");
    let [(_, SnapshotMessage::Part(part))] = &read[..] else { panic!("{read:?}") };
    assert!(body.as_ptr_range().contains(&part.content.as_ptr()), "the content was copied");
}

#[test]
fn answers_to_something_else_are_refused_by_name() {
    let (asked, other) = (GroupId(7), GroupId(8));
    let offer = offered();
    let answer = SnapshotAnswer { id: offer.id, says: OfferAnswer::Have };
    assert_eq!(offer.check_answer(asked, (asked, &answer)), Ok(()));
    let of_other = Err(PullError::OtherGroup { asked, found: other });
    assert_eq!(offer.check_answer(asked, (other, &answer)), of_other);
    let later = LogId { index: LogIndex(13), ..offer.id.last };
    for id in [SnapshotId { last: later, ..offer.id }, SnapshotId { digest: 6, ..offer.id }] {
        let answer = SnapshotAnswer { id, ..answer };
        assert_eq!(offer.check_answer(asked, (asked, &answer)), Err(PullError::OtherSnapshot));
    }
    let range = PartRange { part: 5, at: 2, bytes: 7 };
    let part = PartBytes { part: 5, total: 9, at: 2, content: "1234567".into() };
    let check = |group, part: &PartBytes| range.check_answer(asked, 9, (group, part));
    assert_eq!(check(asked, &part), Ok(()));
    assert_eq!(check(other, &part), of_other);
    let found = PullError::OtherPart { asked: 5, found: 6 };
    assert_eq!(check(asked, &PartBytes { part: 6, ..part.clone() }), Err(found));
    let found = PullError::OtherLength { listed: 9, found: 10 };
    assert_eq!(check(asked, &PartBytes { total: 10, ..part.clone() }), Err(found));
    for (at, content) in [(1, "1234567"), (2, "123456")] {
        let (found_at, found_bytes) = (at, u32::try_from(content.len()).expect("short"));
        let found = PullError::OtherRange { at: 2, bytes: 7, found_at, found_bytes };
        assert_eq!(
            check(asked, &PartBytes { at, content: content.into(), ..part.clone() }),
            Err(found)
        );
    }
}
