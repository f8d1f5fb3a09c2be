//! The data that a load writes: keys, their slots, and values, all from one seed.
//!
//! In:     the number of keys, the size of a value, a seed.
//! Out:    a stream of keys, chosen uniformly, and the encoded `SET` of each.
//! Cost:   a few nanoseconds to choose, one copy to encode; two bytes of memory per key.
//! Fails:  never.

/// The number of slots that keys hash to, in every Redis cluster.
pub(super) const SLOTS: usize = 16_384;

/// Keys and values of one run.
pub(super) struct Workload {
    random: Random,
    slots: Vec<u16>,
    pool: Vec<u8>,
    value_bytes: usize,
    head: Vec<u8>,
    middle: Vec<u8>,
}

impl Workload {
    pub(super) fn new(keys: u32, value_bytes: usize, seed: u64) -> Self {
        assert!(keys > 0, "a workload needs a key");
        let mut random = Random(seed);
        let mut pool = Vec::with_capacity(POOL_BYTES + value_bytes + 8);
        while pool.len() < POOL_BYTES + value_bytes {
            pool.extend_from_slice(&random.next().to_le_bytes());
        }
        Self {
            random,
            slots: (0..keys).map(|key| slot(&key_text(key))).collect(),
            pool,
            value_bytes,
            head: format!("*3\r\n$3\r\nSET\r\n${KEY_BYTES}\r\n").into_bytes(),
            middle: format!("\r\n${value_bytes}\r\n").into_bytes(),
        }
    }

    /// Bytes of an encoded operation.
    pub(super) fn operation_bytes(&self) -> usize {
        self.head.len() + KEY_BYTES + self.middle.len() + self.value_bytes + 2
    }

    /// The next operation's key.
    pub(super) fn next_key(&mut self) -> u32 {
        let keys = self.slots.len() as u64;
        // Multiply-shift: uniform to one part in 2^32 for any number of keys, without a division.
        let key = ((self.random.next() >> 32) * keys) >> 32;
        u32::try_from(key).expect("below the number of keys")
    }

    /// The slot that `key` hashes to.
    pub(super) fn slot(&self, key: u32) -> usize {
        usize::from(self.slots[key as usize])
    }

    /// Appends `SET key value` with a fresh value.
    pub(super) fn encode(&mut self, key: u32, out: &mut Vec<u8>) {
        let from = usize::try_from(self.random.next() % POOL_BYTES as u64).expect("in the pool");
        out.reserve(self.operation_bytes());
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&key_text(key));
        out.extend_from_slice(&self.middle);
        out.extend_from_slice(&self.pool[from..from + self.value_bytes]);
        out.extend_from_slice(b"\r\n");
    }
}

/// `key:` and twelve digits, as redis-benchmark writes them.
fn key_text(key: u32) -> [u8; KEY_BYTES] {
    let mut text = *b"key:000000000000";
    let mut rest = key;
    for digit in text.iter_mut().rev() {
        if rest == 0 {
            break;
        }
        *digit = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
    }
    text
}

/// The slot of a key: its CRC-16/XMODEM, modulo the number of slots. The keys here hold no `{`, so the whole key
/// counts.
fn slot(key: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for &byte in key {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc & SLOT_MASK
}

/// The SplitMix64 generator: good enough to choose keys, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

const KEY_BYTES: usize = 16;
/// The bytes that a `SET`'s command in the log has beside the value: the key, the key's length, and the operation.
pub(super) const COMMAND_BYTES_BESIDE: usize = KEY_BYTES + 2;
/// The largest value that a server of this program takes with its usual settings.
pub(super) const VALUE_BYTES_MAX: usize = (1 << 20) - COMMAND_BYTES_BESIDE;
/// The mask that maps a CRC to one of the 2^14 slots.
const SLOT_MASK: u16 = 0x3fff;
const _: () = assert!(SLOT_MASK as usize + 1 == SLOTS);
/// Values are windows into this many bytes of noise: few enough to stay in the processor's cache, so that making a
/// value costs one copy.
const POOL_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // The cluster specification's own example, then three answers of CLUSTER KEYSLOT.
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"bar"), 5_061);
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn an_operation_is_a_set_of_a_known_key_and_a_value_of_the_asked_size() {
        let mut workload = Workload::new(1_000, 128, 7);
        let mut out = Vec::new();
        let key = workload.next_key();
        workload.encode(key, &mut out);
        workload.encode(999, &mut out);
        let mut wire = BytesMut::from(&out[..]);
        let request = crate::resp::parse_request(&mut wire).unwrap().unwrap();
        assert_eq!((request.len(), request.arg(0), request.arg(2).len()), (3, &b"SET"[..], 128));
        assert_eq!(request.arg(1), format!("key:{key:012}").as_bytes());
        assert_eq!(usize::from(slot(request.arg(1))), workload.slot(key));
        assert_eq!(out.len(), 2 * workload.operation_bytes());
        let second = crate::resp::parse_request(&mut wire).unwrap().unwrap();
        assert_eq!(second.arg(1), b"key:000000000999");
        assert_ne!(second.arg(2), request.arg(2));
        assert!(wire.is_empty());
    }

    #[test]
    fn keys_are_uniform_and_repeat_with_their_seed() {
        let draw = |seed| {
            let mut workload = Workload::new(10, 0, seed);
            (0..10_000).map(|_| workload.next_key()).collect::<Vec<_>>()
        };
        let keys = draw(1);
        assert_eq!(keys, draw(1));
        assert_ne!(keys, draw(2));
        for key in 0..10 {
            let count = keys.iter().filter(|&&drawn| drawn == key).count();
            assert!((800..1_200).contains(&count), "key {key} was drawn {count} times of 10,000");
        }
    }
}
