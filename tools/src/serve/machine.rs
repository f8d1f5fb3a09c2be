//! The key-value map one group replicates, and the commands in its log.
//!
//! In:     committed commands: SET (with NX, XX, GET), GET, DEL, EXISTS.
//! Out:    one [`Reply`] per command, as tagged bytes.
//! Cost:   one hash per key; overwriting a small value allocates nothing. GET copies a small value
//!         and shares a large one, so that replies that wait for a slow client cost little memory.
//! Fails:  a command this version does not know stops the group: guessing would let replicas differ.

use bytes::{BufMut, Bytes, BytesMut};
use hashbrown::HashMap;
use logdrive::{Committed, MachineError, Replies, StateMachine};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// SET only if the key is absent.
pub(crate) const SET_NX: u8 = 0x10;
/// SET only if the key exists.
pub(crate) const SET_XX: u8 = 0x20;
/// SET answers what was there before.
pub(crate) const SET_GET: u8 = 0x40;

const OP_SET: u8 = 1;
const OP_GET: u8 = 2;
const OP_DEL: u8 = 3;
const OP_EXISTS: u8 = 4;
const OP_MASK: u8 = 0x0F;

const TAG_OK: u8 = b'+';
const TAG_NIL: u8 = b'_';
const TAG_VALUE: u8 = b'$';
const TAG_INTEGER: u8 = b':';

/// A value up to this size lives in a buffer that the next SET writes over; a larger one is shared.
const VALUE_IN_PLACE_BYTES_MAX: usize = 2_048;

/// The most a command's own fields add to a key or value.
const FIELD_BYTES_MAX: usize = 8;

/// Appends commands to a chunk and cuts them off it, so that many share one allocation.
///
/// Layout: the operation (low four bits) with its flags, then for SET and GET the key's length and
/// the key, for SET the value up to the end; for DEL and EXISTS the number of keys, then each with
/// its length. Lengths and counts are LEB128.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    chunk: BytesMut,
}

impl Encoder {
    /// SET, with any of [`SET_NX`], [`SET_XX`], [`SET_GET`].
    pub(crate) fn set(&mut self, flags: u8, key: &[u8], value: &[u8]) -> Bytes {
        assert_eq!(flags & OP_MASK, 0, "flags {flags:#x} overlap the operation");
        self.room(key.len() + value.len() + FIELD_BYTES_MAX);
        self.chunk.put_u8(OP_SET | flags);
        put_bytes(&mut self.chunk, key);
        self.chunk.put_slice(value);
        self.chunk.split().freeze()
    }

    /// GET.
    pub(crate) fn get(&mut self, key: &[u8]) -> Bytes {
        self.room(key.len() + FIELD_BYTES_MAX);
        self.chunk.put_u8(OP_GET);
        put_bytes(&mut self.chunk, key);
        self.chunk.split().freeze()
    }

    /// DEL of all `keys`.
    pub(crate) fn del<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Bytes {
        self.many(OP_DEL, keys)
    }

    /// EXISTS: how many of `keys` there are, each as often as it is named.
    pub(crate) fn exists<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Bytes {
        self.many(OP_EXISTS, keys)
    }

    fn many<'a>(&mut self, op: u8, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Bytes {
        self.room(FIELD_BYTES_MAX);
        self.chunk.put_u8(op);
        put_number(&mut self.chunk, keys.len());
        for key in keys {
            put_bytes(&mut self.chunk, key);
        }
        self.chunk.split().freeze()
    }

    /// A fresh chunk when this one is used up; a large command gets one of its own size.
    fn room(&mut self, bytes: usize) {
        if self.chunk.capacity() < bytes {
            self.chunk = BytesMut::with_capacity(bytes.max(CHUNK_BYTES));
        }
    }
}

/// Commands share chunks of this size. Small, because one unfinished command keeps its chunk.
const CHUNK_BYTES: usize = 16 << 10;

fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    put_number(to, bytes.len());
    to.put_slice(bytes);
}

fn put_number(to: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        to.put_u8(u8::try_from(number & 0x7F).expect("seven bits") | 0x80);
        number >>= 7;
    }
    to.put_u8(u8::try_from(number).expect("below 0x80"));
}

/// Reads a command from front to back; `None` where it ends too early.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<usize> {
        let mut number = 0_usize;
        for shift in [0, 7, 14, 21, 28] {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// The result of a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reply<'a> {
    /// It was done.
    Ok,
    /// There is no such key, or the condition did not hold.
    Nil,
    /// The value.
    Value(&'a [u8]),
    /// A count.
    Integer(i64),
}

impl<'a> Reply<'a> {
    /// Reads what [`KeyValue`] pushed. `None` for bytes it cannot have pushed.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        match tag {
            TAG_OK => Some(Self::Ok),
            TAG_NIL => Some(Self::Nil),
            TAG_VALUE => Some(Self::Value(rest)),
            TAG_INTEGER => Some(Self::Integer(i64::from_le_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

/// One group's keys and values. It lives in memory: the log holds it.
#[derive(Debug, Default)]
pub(crate) struct KeyValue {
    map: HashMap<Box<[u8]>, Value>,
    /// How many keys there are, for other threads.
    keys: Arc<AtomicUsize>,
}

/// A value with its reply tag in front, ready to be answered.
#[derive(Debug)]
enum Value {
    Small(Vec<u8>),
    Large(Bytes),
}

impl Value {
    fn new(value: &[u8]) -> Self {
        let mut tagged = Vec::with_capacity(value.len() + 1);
        tagged.push(TAG_VALUE);
        tagged.extend_from_slice(value);
        if value.len() <= VALUE_IN_PLACE_BYTES_MAX {
            Self::Small(tagged)
        } else {
            Self::Large(Bytes::from(tagged))
        }
    }

    fn replace(&mut self, value: &[u8]) {
        match self {
            Self::Small(tagged)
                if value.len() < tagged.capacity() && tagged.capacity() / 4 <= value.len() =>
            {
                tagged.truncate(1);
                tagged.extend_from_slice(value);
            }
            _ => *self = Self::new(value),
        }
    }

    fn reply(&self) -> Bytes {
        match self {
            Self::Small(tagged) => Bytes::copy_from_slice(tagged),
            Self::Large(tagged) => tagged.clone(),
        }
    }
}

impl StateMachine for KeyValue {
    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for command in batch.commands() {
            let wanted = replies.wanted();
            let reply = self.apply_one(command.bytes, wanted).ok_or_else(|| {
                MachineError(format!(
                    "entry {} of {} bytes is no command of this version",
                    command.index,
                    command.bytes.len()
                ))
            })?;
            replies.push(reply);
        }
        self.keys.store(self.map.len(), Ordering::Relaxed);
        Ok(())
    }
}

impl KeyValue {
    /// How many keys there are, also once the machine has been given away.
    pub(crate) fn keys(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.keys)
    }

    fn apply_one(&mut self, command: &[u8], wanted: bool) -> Option<Bytes> {
        let (&op, rest) = command.split_first()?;
        let mut fields = Fields(rest);
        match op & OP_MASK {
            OP_SET => {
                let key = fields.bytes()?;
                Some(self.set(op & !OP_MASK, key, fields.0, wanted))
            }
            OP_GET => {
                let key = fields.bytes()?;
                if !wanted {
                    return Some(Bytes::new());
                }
                Some(self.map.get(key).map_or(NIL, Value::reply))
            }
            OP_DEL => self.count(fields, |map, key| map.remove(key).is_some()),
            OP_EXISTS => self.count(fields, |map, key| map.contains_key(key)),
            _ => None,
        }
    }

    fn set(&mut self, flags: u8, key: &[u8], value: &[u8], wanted: bool) -> Bytes {
        let Some(held) = self.map.get_mut(key) else {
            let done = flags & SET_XX == 0;
            if done {
                self.map.insert(key.into(), Value::new(value));
            }
            return if done && flags & SET_GET == 0 { OK } else { NIL };
        };
        let before = if flags & SET_GET != 0 && wanted { held.reply() } else { NIL };
        let done = flags & SET_NX == 0;
        if done {
            held.replace(value);
        }
        if flags & SET_GET != 0 {
            before
        } else if done {
            OK
        } else {
            NIL
        }
    }

    fn count(
        &mut self,
        mut fields: Fields<'_>,
        mut holds: impl FnMut(&mut HashMap<Box<[u8]>, Value>, &[u8]) -> bool,
    ) -> Option<Bytes> {
        // A command that is cut short must change nothing, so it is read to its end first.
        let keys = fields.number()?;
        let all = fields.0;
        for _ in 0..keys {
            fields.bytes()?;
        }
        let mut fields = Fields(all);
        let mut count = 0_i64;
        for _ in 0..keys {
            count += i64::from(holds(&mut self.map, fields.bytes()?));
        }
        let mut reply = [TAG_INTEGER; 9];
        reply[1..].copy_from_slice(&count.to_le_bytes());
        Some(Bytes::copy_from_slice(&reply))
    }
}

const OK: Bytes = Bytes::from_static(&[TAG_OK]);
const NIL: Bytes = Bytes::from_static(&[TAG_NIL]);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Machine {
        encoder: Encoder,
        machine: KeyValue,
    }

    impl Machine {
        fn set(&mut self, flags: u8, key: &[u8], value: &[u8]) -> Bytes {
            let command = self.encoder.set(flags, key, value);
            self.apply(&command)
        }

        fn get(&mut self, key: &[u8]) -> Bytes {
            let command = self.encoder.get(key);
            self.apply(&command)
        }

        fn del(&mut self, keys: &[&[u8]]) -> Bytes {
            let command = self.encoder.del(keys.iter().copied());
            self.apply(&command)
        }

        fn exists(&mut self, keys: &[&[u8]]) -> Bytes {
            let command = self.encoder.exists(keys.iter().copied());
            self.apply(&command)
        }

        fn apply(&mut self, command: &[u8]) -> Bytes {
            self.machine.apply_one(command, true).expect("a command")
        }
    }

    fn is(reply: &Bytes, expected: Reply<'_>) -> bool {
        Reply::decode(reply) == Some(expected)
    }

    #[test]
    fn what_is_set_is_got_until_it_is_deleted() {
        let mut db = Machine::default();
        assert!(is(&db.get(b"k"), Reply::Nil));
        assert!(is(&db.set(0, b"k", b"one"), Reply::Ok));
        assert!(is(&db.get(b"k"), Reply::Value(b"one")));
        assert!(is(&db.set(0, b"k", b""), Reply::Ok));
        assert!(is(&db.get(b"k"), Reply::Value(b"")));
        assert!(is(&db.del(&[b"k", b"k", b"absent"]), Reply::Integer(1)));
        assert!(is(&db.get(b"k"), Reply::Nil));
    }

    #[test]
    fn nx_sets_only_what_is_absent_and_xx_only_what_exists() {
        let mut db = Machine::default();
        assert!(is(&db.set(SET_XX, b"k", b"1"), Reply::Nil));
        assert!(is(&db.get(b"k"), Reply::Nil));
        assert!(is(&db.set(SET_NX, b"k", b"2"), Reply::Ok));
        assert!(is(&db.set(SET_NX, b"k", b"3"), Reply::Nil));
        assert!(is(&db.get(b"k"), Reply::Value(b"2")));
        assert!(is(&db.set(SET_XX, b"k", b"4"), Reply::Ok));
        assert!(is(&db.get(b"k"), Reply::Value(b"4")));
    }

    #[test]
    fn set_get_answers_what_was_there_whether_or_not_it_sets() {
        let mut db = Machine::default();
        assert!(is(&db.set(SET_GET, b"k", b"1"), Reply::Nil));
        assert!(is(&db.set(SET_GET, b"k", b"2"), Reply::Value(b"1")));
        assert!(is(&db.set(SET_GET | SET_NX, b"k", b"3"), Reply::Value(b"2")));
        assert!(is(&db.get(b"k"), Reply::Value(b"2")));
        assert!(is(&db.set(SET_GET | SET_XX, b"absent", b"3"), Reply::Nil));
        assert!(is(&db.get(b"absent"), Reply::Nil));
    }

    #[test]
    fn exists_counts_a_key_as_often_as_it_is_named() {
        let mut db = Machine::default();
        db.set(0, b"a", b"1");
        db.set(0, b"b", b"1");
        assert!(is(&db.exists(&[b"a", b"a", b"b", b"c"]), Reply::Integer(3)));
    }

    #[test]
    fn values_of_every_size_follow_each_other() {
        let mut db = Machine::default();
        for length in [0, 1, 127, 2_048, 2_049, 100_000, 3, 2_000, 0] {
            let bytes = vec![b'x'; length];
            db.set(0, b"k", &bytes);
            assert!(is(&db.get(b"k"), Reply::Value(&bytes)), "{length} bytes");
        }
    }

    #[test]
    fn a_value_got_before_an_overwrite_stays_what_it_was() {
        let mut db = Machine::default();
        for length in [10, 100_000] {
            db.set(0, b"k", &vec![b'a'; length]);
            let got = db.get(b"k");
            db.set(0, b"k", &vec![b'b'; length]);
            assert!(is(&got, Reply::Value(&vec![b'a'; length])), "{length} bytes");
        }
    }

    #[test]
    fn commands_that_share_a_chunk_do_not_share_bytes() {
        let mut encoder = Encoder::default();
        let commands: Vec<Bytes> =
            (0..2_000_u32).map(|n| encoder.set(0, &n.to_be_bytes(), &[7; 100])).collect();
        let mut machine = KeyValue::default();
        for command in &commands {
            assert_eq!(machine.apply_one(command, true), Some(OK));
        }
        assert_eq!(machine.map.len(), 2_000);
    }

    #[test]
    fn a_command_cut_short_is_refused_and_changes_nothing() {
        let mut encoder = Encoder::default();
        let keys: [&[u8]; 2] = [b"alpha", b"beta"];
        for (whole, shortest) in [
            (encoder.get(b"alpha"), 0),
            (encoder.del(keys.into_iter()), 0),
            (encoder.exists(keys.into_iter()), 0),
        ] {
            for length in shortest..whole.len() {
                let mut machine = KeyValue::default();
                machine.set(0, b"alpha", b"1", true);
                assert_eq!(machine.apply_one(&whole[..length], true), None, "{length} bytes");
                assert_eq!(machine.map.len(), 1);
            }
        }
        let mut machine = KeyValue::default();
        assert_eq!(machine.apply_one(&[9, 0, 0], true), None, "unknown operation");
        assert_eq!(machine.apply_one(&[OP_GET, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], true), None);
    }

    #[test]
    fn a_follower_changes_the_same_though_it_answers_nothing() {
        let mut encoder = Encoder::default();
        let mut machine = KeyValue::default();
        machine.apply_one(&encoder.set(SET_GET, b"k", b"1"), false).expect("applied");
        machine.apply_one(&encoder.set(SET_GET, b"k", b"2"), false).expect("applied");
        assert_eq!(machine.apply_one(&encoder.get(b"k"), false), Some(Bytes::new()));
        let reply = machine.apply_one(&encoder.get(b"k"), true).expect("applied");
        assert!(is(&reply, Reply::Value(b"2")));
    }
}
