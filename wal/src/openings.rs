//! How often a directory was opened, what its node and its peers know of each other, and whether they refused it.
//!
//! In:     the directory; what the owner has to remember of its peers, as bytes; the largest command it was founded for.
//! Out:    the same after any crash, as it was before the last write or after it.
//! Cost:   two synced writes of 16 KiB per change.
//! Fails:  two slots that both fail their checksum are damage; the first write or sync that fails is final (rule 17).
//! Source: RULES.md C7, C8, P6, rules 17, 27.
//!
//! The file `openings` has two slots that say the same, written one after the other and in place: it takes no room that it did not have when the
//! directory was made, so that a full disk keeps no node from opening its directory or from meeting a peer. A slot:
//!
//! ```text
//!  0  [u8; 8]  "LDOPENED"
//!  8  u64      number of the write; the slot with the higher one counts
//! 16  u64      how often the directory was opened
//! 24  u32      bytes of the refusal
//! 28  u32      bytes of what is known of the peers
//! 32  u32      bytes of the largest command that the directory was founded for; 0 before its first open
//! 36  u32      zero
//! 40           the refusal: text, none if the directory may be used; then what is known of the peers; then zeros
//! 16380  u32   CRC-32C of all before it
//! ```

use crate::checksum::checksum;
use crate::disk::atomic_write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The content of the file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Openings {
    number: u64,
    /// How often the directory was opened.
    pub(crate) incarnation: u64,
    /// The largest command that the directory was founded for, in bytes; 0 before it was.
    pub(crate) command_bytes_founded: u32,
    /// Why it must not be used any more; empty if it may be.
    pub(crate) refusal: String,
    /// The record of the peers, which the owner encodes.
    pub(crate) peers: Vec<u8>,
}

/// The file of an open directory.
#[derive(Debug)]
pub(crate) struct OpeningsFile {
    file: File,
    /// The content that is on disk.
    now: Openings,
    has_failed: bool,
}

impl OpeningsFile {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(OPENINGS_NAME)
    }

    /// Makes the file for a directory that was never opened.
    pub(crate) fn make(dir: &Path) -> io::Result<()> {
        let first = Openings::default().encode();
        atomic_write(&Self::path(dir), &[first, first].concat())
    }

    /// Opens the file; the inner error is a file that does not hold.
    pub(crate) fn open(dir: &Path) -> io::Result<Result<Self, &'static str>> {
        let file = File::options().read(true).write(true).open(Self::path(dir))?;
        // The last write of a killed process may be in the page cache alone. Both slots must not be there at once.
        file.sync_data()?;
        let read = read(&file)?;
        Ok(read.map(|now| Self { file, now, has_failed: false }))
    }

    /// The content that is on disk.
    pub(crate) fn now(&self) -> &Openings {
        &self.now
    }

    /// Changes what is on disk, durably.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Openings)) -> io::Result<()> {
        if self.has_failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        let mut next = self.now.clone();
        change(&mut next);
        next.number += 1;
        self.has_failed = true;
        for slot in [0, SLOT_BYTES as u64] {
            self.file.write_all_at(&next.encode(), slot)?;
            self.file.sync_data()?;
        }
        self.has_failed = false;
        self.now = next;
        Ok(())
    }
}

/// The content of a directory's file; the inner error is a file that does not hold. Changes nothing.
pub(crate) fn peek(dir: &Path) -> io::Result<Result<Openings, &'static str>> {
    read(&File::open(OpeningsFile::path(dir))?)
}

fn read(file: &File) -> io::Result<Result<Openings, &'static str>> {
    let mut slots = [None, None];
    for (slot, at) in slots.iter_mut().zip([0, SLOT_BYTES as u64]) {
        let mut bytes = [0; SLOT_BYTES];
        match file.read_exact_at(&mut bytes, at) {
            Ok(()) => *slot = Openings::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    let newest = slots.into_iter().flatten().max_by_key(|slot| slot.number);
    Ok(newest.ok_or("neither of its slots holds"))
}

impl Openings {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        let refusal = self.refusal.as_bytes();
        let room = SLOT_BYTES - CRC_BYTES - FIXED_BYTES;
        let (needed, count) = (refusal.len() + self.peers.len(), refusal.len());
        assert!(needed <= room, "{needed} bytes for {room}: both are bounded");
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[24..28].copy_from_slice(&length(count));
        bytes[28..32].copy_from_slice(&length(self.peers.len()));
        bytes[32..36].copy_from_slice(&self.command_bytes_founded.to_le_bytes());
        bytes[FIXED_BYTES..][..count].copy_from_slice(refusal);
        bytes[FIXED_BYTES + count..][..self.peers.len()].copy_from_slice(&self.peers);
        let crc = checksum(&bytes[..SLOT_BYTES - CRC_BYTES]);
        bytes[SLOT_BYTES - CRC_BYTES..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let (body, crc) = bytes.split_at(SLOT_BYTES - CRC_BYTES);
        if crc != checksum(body).to_le_bytes() || !body.starts_with(MAGIC) {
            return None;
        }
        let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("8 bytes"));
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("4 bytes"));
        let count = |at| usize::try_from(word(at)).expect("usize has 32 bits at least");
        let (refusal, rest) = body[FIXED_BYTES..].split_at_checked(count(24))?;
        Some(Self {
            number: number(8),
            incarnation: number(16),
            command_bytes_founded: word(32),
            refusal: std::str::from_utf8(refusal).ok()?.to_owned(),
            peers: rest.get(..count(28))?.to_vec(),
        })
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("below a slot").to_le_bytes()
}

pub(crate) const OPENINGS_NAME: &str = "openings";
const MAGIC: &[u8; 8] = b"LDOPENED";
const SLOT_BYTES: usize = 16 << 10;
const FIXED_BYTES: usize = 40;
const CRC_BYTES: usize = 4;
/// Of a refusal's text, at most.
pub(crate) const REFUSAL_BYTES_MAX: usize = 512;
/// Bytes that there are for what is known of the peers.
pub const PEERS_BYTES_MAX: usize = SLOT_BYTES - FIXED_BYTES - CRC_BYTES - REFUSAL_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (tempfile::TempDir, OpeningsFile) {
        let dir = tempfile::tempdir().expect("a directory");
        OpeningsFile::make(dir.path()).expect("room");
        let file = OpeningsFile::open(dir.path()).expect("it is there").expect("it holds");
        (dir, file)
    }

    /// RULES.md C8.
    #[test]
    fn damage_to_one_slot_costs_nothing_a_torn_write_leaves_what_was_and_both_are_told() {
        let (dir, mut file) = made();
        let path = OpeningsFile::path(dir.path());
        for incarnation in 1..4 {
            let before = std::fs::read(&path).unwrap();
            file.change(|now| now.incarnation = incarnation).unwrap();
            file.change(|now| now.command_bytes_founded = u32::MAX - 1).unwrap();
            file.change(|now| now.peers = vec![7; PEERS_BYTES_MAX]).unwrap();
            let after = file.now().clone();
            let whole = std::fs::read(&path).unwrap();
            assert_eq!(whole.len(), 2 * SLOT_BYTES, "no write makes the file longer");
            for at in [0, 31, 33, 512, 4096, SLOT_BYTES - 1] {
                for slot in [0, SLOT_BYTES] {
                    let mut bytes = whole.clone();
                    bytes[slot + at] ^= 1;
                    std::fs::write(&path, &bytes).unwrap();
                    assert_eq!(peek(dir.path()).unwrap().unwrap(), after, "{at} of {slot}");
                    bytes[SLOT_BYTES - slot + 100] ^= 1;
                    std::fs::write(&path, &bytes).unwrap();
                    assert!(peek(dir.path()).unwrap().is_err());
                }
                // Torn within the first slot: the second is as it was.
                let mut torn = before.clone();
                torn[..at].copy_from_slice(&whole[..at]);
                std::fs::write(&path, &torn).unwrap();
                let left = peek(dir.path()).unwrap().unwrap().number;
                assert!(left < after.number, "{left} after a tear at {at}");
            }
            std::fs::write(&path, &whole).unwrap();
        }
    }

    /// RULES.md rule 17.
    #[test]
    fn nothing_is_written_after_a_write_that_failed() {
        let (dir, mut file) = made();
        file.file = File::open(OpeningsFile::path(dir.path())).unwrap(); // Cannot be written.
        assert!(file.change(|now| now.incarnation = 1).is_err());
        file.file = File::options().write(true).open(OpeningsFile::path(dir.path())).unwrap();
        assert!(file.change(|now| now.incarnation = 1).is_err());
        assert_eq!(peek(dir.path()).unwrap().unwrap().incarnation, 0);
    }
}
