//! The counters of a log, and its description of itself.
//!
//! In:     the stream, as it goes.
//! Out:    plain copies.
//! Cost:   one addition per batch each.

use crate::disk::DriverInfo;

/// Counts since the log was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Metrics {
    /// Batches that became durable.
    pub batches: u64,
    /// Their bytes on disk, padding included.
    pub bytes: u64,
    /// Padding among them.
    pub padding_bytes: u64,
    /// Entries encoded.
    pub entries: u64,
    /// Writes in flight now.
    pub in_flight: usize,
    /// Batches closed that wait for a slot or for their segment.
    pub waiting: usize,
    /// Segments that hold the log, the active one among them.
    pub segments: usize,
    /// Segments started.
    pub rotations: u64,
    /// Entries that were carried forward.
    pub carried: u64,
    /// Their record bytes.
    pub carried_bytes: u64,
    /// Segments given up.
    pub retired: u64,
    /// Segments made of files that were given up.
    pub recycled: u64,
    /// Heap bytes of the index.
    pub index_bytes: usize,
}

/// The disk and the sizes that a log runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Description {
    /// The driver, and what it was granted.
    pub disk: DriverInfo,
    /// Writes in flight, at most.
    pub in_flight_max: usize,
    /// Size of the segments made, in bytes.
    pub segment_bytes: u64,
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {}, {}, {} writes in flight, segments of {} MiB",
            self.disk.driver,
            if self.disk.direct_io { "direct" } else { "through the page cache" },
            if self.disk.registered_buffers { "registered images" } else { "plain images" },
            self.in_flight_max,
            self.segment_bytes >> 20,
        )
    }
}
