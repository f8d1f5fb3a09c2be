//! The table of cases, as code: what can be found, and what is decided.
//!
//! In:     a [`Case`], from the code that judged the bytes.
//! Out:    its label and its [`Decision`].
//! Cost:   none.
//! Fails:  never.
//! Source: RULES.md rules 20-25, 27, 30; C1-C10, P8, W2, W11, W12. The header of `recovery.rs` gives the reasons.

/// A case that can be found in a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Case {
    /// A footer is the log's last record.
    CleanStop,
    /// Only zeros stand behind the last batch, or the batch fills its segment.
    CleanEnd,
    /// Behind the last batch stands a batch of an earlier segment, which the file held before it was recycled.
    RecycledBytes,
    /// A batch is not whole, and nothing vouches for it.
    TornTail,
    /// A batch is not whole, and whole batches stand behind it; nothing vouches for any of them.
    ReorderedTail,
    /// The device cannot read what may be the log's tail.
    UnreadableTail,
    /// The body of a durable batch is damaged; the batch's header and directory are not.
    DamagedBody,
    /// The body of a durable batch cannot be read; the batch's header and directory can.
    UnreadableBody,
    /// The header of a durable batch is damaged or cannot be read.
    DamagedBatchHeader,
    /// The directory of a durable batch is damaged or cannot be read.
    DamagedDirectory,
    /// A batch of this segment stands where another batch, which was durable, should stand.
    MisdirectedBatch,
    /// A record that must not be skipped, or an entry, is of a kind this version does not know.
    UnknownRecord,
    /// A whole batch holds content that no log of this version writes.
    SenselessRecord,
    /// A group's log has a hole that no damage explains.
    MissingEntries,
    /// A segment's header block is damaged or cannot be read.
    DamagedSegmentHeader,
    /// The first batch of a segment that was in use is damaged, or does not follow the segment before.
    DamagedStart,
    /// A segment's file is not as large as its header says.
    TruncatedSegment,
    /// A segment that the manifest or a start record needs has no file.
    MissingSegment,
    /// There is no manifest.
    MissingManifest,
    /// The manifest is torn, empty or damaged.
    DamagedManifest,
    /// The manifest is an older copy: a segment has been written that the manifest does not know.
    OlderManifest,
    /// A file of another cluster, node, store or shard.
    ForeignFile,
    /// Two files are the same segment.
    DuplicateSegment,
    /// A segment file bears another segment's name, or stands in another segment's place in the chain.
    SwappedSegment,
    /// A file has another version than this program's.
    OtherVersion,
    /// A segment that was made, wholly or nearly, and never used.
    HalfMadeSegment,
    /// A segment that a later start record has passed over.
    PassedOver,
    /// A segment below the first one that the manifest needs.
    Leftover,
}

/// The decision about a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// The log ends there; all of the log was found.
    End,
    /// The log ends there; the bytes behind its end were never acknowledged. The next segment's start record states the
    /// end durably before anything else happens, so those bytes never count again, whatever is still written there.
    Cut,
    /// The groups of that batch have lost something and must not act; all other groups go on.
    Fence,
    /// The log is not opened. Nothing is changed.
    Refuse,
    /// The file holds nothing that counts.
    PassOver,
}

impl Case {
    /// Every case with its label and its decision.
    pub const TABLE: &[(Self, &'static str, Decision)] = &[
        (Self::CleanStop, "clean_stop", Decision::End),
        (Self::CleanEnd, "clean_end", Decision::End),
        (Self::RecycledBytes, "recycled_bytes", Decision::End),
        (Self::TornTail, "torn_tail", Decision::Cut),
        (Self::ReorderedTail, "reordered_tail", Decision::Cut),
        (Self::UnreadableTail, "unreadable_tail", Decision::Refuse),
        (Self::DamagedBody, "damaged_body", Decision::Fence),
        (Self::UnreadableBody, "unreadable_body", Decision::Fence),
        (Self::DamagedBatchHeader, "damaged_batch_header", Decision::Refuse),
        (Self::DamagedDirectory, "damaged_directory", Decision::Refuse),
        (Self::MisdirectedBatch, "misdirected_batch", Decision::Refuse),
        (Self::UnknownRecord, "unknown_record", Decision::Refuse),
        (Self::SenselessRecord, "senseless_record", Decision::Refuse),
        (Self::MissingEntries, "missing_entries", Decision::Refuse),
        (Self::DamagedSegmentHeader, "damaged_segment_header", Decision::Refuse),
        (Self::DamagedStart, "damaged_start", Decision::Refuse),
        (Self::TruncatedSegment, "truncated_segment", Decision::Refuse),
        (Self::MissingSegment, "missing_segment", Decision::Refuse),
        (Self::MissingManifest, "missing_manifest", Decision::Refuse),
        (Self::DamagedManifest, "damaged_manifest", Decision::Refuse),
        (Self::OlderManifest, "older_manifest", Decision::Refuse),
        (Self::ForeignFile, "foreign_file", Decision::Refuse),
        (Self::DuplicateSegment, "duplicate_segment", Decision::Refuse),
        (Self::SwappedSegment, "swapped_segment", Decision::Refuse),
        (Self::OtherVersion, "other_version", Decision::Refuse),
        (Self::HalfMadeSegment, "half_made_segment", Decision::PassOver),
        (Self::PassedOver, "passed_over", Decision::PassOver),
        (Self::Leftover, "leftover", Decision::PassOver),
    ];

    /// The case's name in the table and in the tests.
    #[must_use]
    pub fn label(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// The decision about the case.
    #[must_use]
    pub fn decision(self) -> Decision {
        Self::TABLE[self as usize].2
    }
}

// A case's row is found by its number.
const _: () = {
    let mut row = 0;
    while row < Case::TABLE.len() {
        assert!(Case::TABLE[row].0 as usize == row);
        row += 1;
    }
    assert!(Case::Leftover as usize + 1 == row);
};
