//! Every way in which the power can fail at one moment.

use logdrive_wal::disk::sim::{SimPlatter, Unsynced};
use logdrive_wal::{SegmentSeq, checksum};
use std::collections::BTreeSet;

/// Shows `visit` a platter for each combination of what a power cut now can keep and lose; returns their number.
/// Sectors that hold on the disk already what was written to them are left out.
pub(crate) fn every_crash(platter: &SimPlatter, mut visit: impl FnMut(SimPlatter)) -> u32 {
    let matter: BTreeSet<_> = platter.undurable().into_iter().collect();
    let mut path: Vec<bool> = Vec::new();
    let mut count = 0;
    loop {
        let twin = platter.twin();
        let mut depth = 0;
        twin.crash_choosing(|what| {
            let matters = match what {
                Unsynced::Sector(Some(segment), at) => matter.contains(&(segment, at)),
                // Always lost, so that a file that got its name before it was synced is found damaged.
                Unsynced::Sector(None, _) | Unsynced::Size => false,
                Unsynced::Name => true,
            };
            if !matters {
                return false;
            }
            if depth == path.len() {
                path.push(false);
            }
            depth += 1;
            path[depth - 1]
        });
        path.truncate(depth);
        visit(twin);
        count += 1;
        assert!(count <= 1 << 16, "too many combinations to try them all");
        while path.pop_if(|kept| *kept).is_some() {}
        let Some(last) = path.last_mut() else { return count };
        *last = true;
    }
}

/// The features that tell one disk from another: its manifest, and its segments by number and checksum.
pub(crate) type Image = (Option<Vec<u8>>, Vec<(SegmentSeq, u32)>);

pub(crate) fn image(platter: &SimPlatter) -> Image {
    let segments = platter.segments().into_iter();
    let sums = segments.map(|segment| (segment, checksum(&platter.segment(segment))));
    (platter.manifest(), sums.collect())
}
