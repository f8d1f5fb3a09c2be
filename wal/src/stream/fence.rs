//! Fences while the log runs: a group is fenced as soon as a read finds its entries damaged, as recovery fences the
//! groups of a damaged batch.
//!
//! In:     the group whose entries a read found damaged, and the place of the damage.
//! Out:    a fence record; nothing else of the group is kept, and the damaged segment is set aside when it goes.
//! Cost:   as releasing all that the group has.
//! Fails:  without room for its record the fence holds as long as this process, and the record is written before anything
//!         of the group goes; until then the damage itself fences the group at the next open.
//! Source: RULES.md rules 24, 25; C1.

use super::Wal;
use crate::error::{Corrupt, WalError};
use crate::format::{FENCE_RECORD_BYTES, Position, SegmentSeq};
use crate::group::Small;
use logdrive_raft::GroupId;

impl Wal {
    /// Fences `group`, because a read found entries of it `corrupt`: the group must not act here any more, and the log
    /// takes nothing for it ([`Wal::append`] panics). The fence record is durable with the next write of any group.
    /// Returns false if nothing changed: the group was fenced or destroyed before, or the damaged segment was given up
    /// meanwhile, after everything needed of it had been written again from sound bytes.
    ///
    /// # Errors
    /// [`WalError::Io`] for image memory, [`WalError::Poisoned`].
    pub fn fence(&mut self, group: GroupId, corrupt: &Corrupt) -> Result<bool, WalError> {
        self.check_poisoned()?;
        let Some(segment) = self.segment_of(corrupt) else { return Ok(false) };
        let offset = u32::try_from(corrupt.offset).expect("segments are below 4 GiB");
        let damage = Position::new(segment, offset);
        if !self.contents.fence(group, damage) {
            return Ok(false);
        }
        self.chain.mark_damaged(segment);
        tracing::error!(group = group.get(), %corrupt, "durable entries of this group are damaged: it is fenced on this node");
        if self.check_room_to_release(FENCE_RECORD_BYTES, 0).is_ok() {
            self.append_small(group, Small::Fence(damage))?;
            self.pipeline.want_submit();
        }
        Ok(true)
    }

    /// The segment that is damaged, if the log still has it.
    fn segment_of(&self, corrupt: &Corrupt) -> Option<SegmentSeq> {
        let mut segments = self.chain.numbers().chain([self.tail.seq()]);
        segments.find(|seq| self.disk.path(*seq) == corrupt.file)
    }
}
