//! A group's members as the log keeps them: bytes that only the engine reads.
//!
//! One byte of version (1), the count as two bytes, then each node id as eight; little-endian.

use bytes::{BufMut, Bytes, BytesMut};
use logdrive_raft::NodeId;

const VERSION: u8 = 1;

/// The most members a group may have.
pub(crate) const MEMBERS_MAX: usize = 32;

/// Members to bytes.
pub(crate) fn encode(members: &[NodeId]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(3 + members.len() * 8);
    bytes.put_u8(VERSION);
    bytes.put_u16_le(u16::try_from(members.len()).expect("at most MEMBERS_MAX"));
    members.iter().for_each(|member| bytes.put_u64_le(member.get()));
    bytes.freeze()
}

/// Bytes to members; `None` if they are not what [`encode`] makes.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<NodeId>> {
    let (version, rest) = bytes.split_first()?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    let count = usize::from(u16::from_le_bytes(*count));
    let (ids, left) = rest.as_chunks::<8>();
    let fits = *version == VERSION && left.is_empty() && ids.len() == count && count <= MEMBERS_MAX;
    fits.then(|| ids.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_back_as_they_were() {
        let members = [NodeId(1), NodeId(u64::MAX), NodeId(7)];
        assert_eq!(decode(&encode(&members)).as_deref(), Some(&members[..]));
    }

    #[test]
    fn bytes_that_are_cut_or_of_another_version_are_none() {
        let bytes = encode(&[NodeId(1), NodeId(2)]);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "cut at {end}");
        }
        let mut other = bytes.to_vec();
        other[0] = 9;
        assert_eq!(decode(&other), None);
    }
}
