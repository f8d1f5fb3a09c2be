//! The state machines of a simulation: each is watched; a small store serves runs that are given no other machine.
//!
//! In:     commands behind the serial number the simulation gave them.
//! Out:    the machine's own replies, and a ledger of what it did.
//! Fails:  as the machine does; once, in a group the run wants to fail.

use super::{
    event::{Applied, Event},
    machine_disk::MachineDisk,
};
use crate::{AppliedAt, Committed, GroupId, LogIndex, MachineError, NodeId, Replies, StateMachine};
use bytes::Bytes;
use logdrive_raft::Entry;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes of the serial number before each command.
pub(super) const SERIAL_BYTES: usize = 8;

/// The deeds of one incarnation of a machine.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Done>>);

#[derive(Default)]
struct Done {
    /// In order, since the last [`Ledger::take`].
    deeds: Vec<Deed>,
    /// The machine has begun a batch and has not finished it without failing.
    failed: bool,
}

/// Something a machine did, or was given to do.
pub(super) enum Deed {
    Opened { at: LogIndex, digest: Option<u64> },
    Given { last: LogIndex },
    Applied(Applied),
    Reached { at: LogIndex, digest: Option<u64>, durable: LogIndex },
}

impl Deed {
    pub(super) fn event(&self, node: NodeId, group: GroupId) -> Event<'_> {
        match *self {
            Self::Opened { at, digest } => Event::Opened { node, group, at, digest },
            Self::Given { last } => Event::Given { node, group, last },
            Self::Applied(ref applied) => Event::Applied { node, group, applied },
            Self::Reached { at, digest, durable } => {
                Event::Reached { node, group, at, digest, durable }
            }
        }
    }
}

impl Ledger {
    /// The deeds since the last call.
    pub(super) fn take(&self) -> Vec<Deed> {
        std::mem::take(&mut self.lock().deeds)
    }

    /// True after an error, a panic or a missing reply.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    fn lock(&self) -> MutexGuard<'_, Done> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The run's order to a machine: whether its next batch fails, and in which way.
#[derive(Clone, Default)]
pub(super) struct Broken(Arc<AtomicU64>);

impl Broken {
    /// The next batch fails: before any of it, in the middle or at its end, and by an error or a panic.
    pub(super) fn set(&self, way: u64) {
        self.0.store(1 + way, Ordering::Relaxed);
    }

    fn way(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// A machine, the ledger of its deeds, and the order to fail.
pub(super) struct Watched {
    pub(super) machine: Box<dyn StateMachine>,
    pub(super) ledger: Ledger,
    pub(super) broken: Broken,
}

impl Watched {
    /// Fails within a batch. A machine that is durable by itself may have saved what it has applied of it.
    fn fail(&mut self, way: u64, entries: &[Entry], last: LogIndex) -> Result<(), MachineError> {
        let applied = entries.len() * usize::try_from(way % 3).expect("small") / 2;
        if applied > 0 {
            self.ledger.lock().deeds.push(Deed::Given { last });
            self.machine.apply(&Committed::new(&entries[..applied]), &mut Replies::keeping())?;
        }
        if way >= 3 {
            std::panic::resume_unwind(Box::new("the simulation broke it"));
        }
        Err(MachineError("the simulation broke it".to_owned()))
    }
}

impl StateMachine for Watched {
    fn open(&mut self) -> Result<AppliedAt, MachineError> {
        let at = self.machine.open()?;
        let digest = self.machine.digest();
        self.ledger.lock().deeds.push(Deed::Opened { at: at.0, digest });
        Ok(at)
    }

    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        self.ledger.lock().failed = true;
        let entries: Vec<Entry> = batch.entries().iter().map(without_serial).collect();
        if let Some(way) = self.broken.way() {
            return self.fail(way, &entries, batch.last());
        }
        self.ledger.lock().deeds.push(Deed::Given { last: batch.last() });
        // Every reply is wanted here, so that all nodes' replies can be compared.
        let mut kept = Replies::keeping();
        self.machine.apply(&Committed::new(&entries), &mut kept)?;
        let (digest, durable) = (self.machine.digest(), self.machine.durable());
        let mut ledger = self.ledger.lock();
        ledger.failed = kept.len() != batch.commands().count();
        for (command, reply) in batch.commands().zip(kept.as_slice()) {
            let (serial, _) = command.bytes.split_first_chunk().expect("every command has one");
            ledger.deeds.push(Deed::Applied(Applied {
                index: command.index,
                term: command.term,
                serial: u64::from_le_bytes(*serial),
                reply: reply.clone(),
            }));
            replies.push(reply.clone());
        }
        if !ledger.failed {
            ledger.deeds.push(Deed::Reached { at: batch.last(), digest, durable });
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        self.machine.durable()
    }
}

fn without_serial(entry: &Entry) -> Entry {
    let payload = match entry.payload.len() {
        0..SERIAL_BYTES => Bytes::new(),
        _ => entry.payload.slice(SERIAL_BYTES..),
    };
    Entry { payload, ..entry.clone() }
}

/// A few registers: the machine of a simulation that is given no other. It lives in memory or on a disk.
#[derive(Debug, Default)]
pub(super) struct Registers {
    values: BTreeMap<u8, u64>,
    disk: Option<MachineDisk>,
    saves: u64,
    durable: LogIndex,
}

/// Registers are saved together, under one key.
const SAVED: &[u8] = b"registers";
/// So many saves are synced at once.
const SAVES_PER_SYNC: u64 = 3;

impl Registers {
    pub(super) fn durable(disk: MachineDisk) -> Self {
        Self { disk: Some(disk), ..Self::default() }
    }

    fn save(&mut self, at: LogIndex) {
        let Some(disk) = &self.disk else { return };
        let mut bytes = at.get().to_le_bytes().to_vec();
        for (key, value) in &self.values {
            bytes.push(*key);
            bytes.extend(value.to_le_bytes());
        }
        disk.write(SAVED, bytes);
        self.saves += 1;
        if self.saves.is_multiple_of(SAVES_PER_SYNC) {
            disk.sync();
            self.durable = at;
        }
    }
}

/// A command of [`Registers`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    /// Replies with the register's value.
    Get { key: u8 },
    /// Sets the register; replies with 0.
    Put { key: u8, value: u64 },
    /// Sets the register if its value is `expected`; replies with the value before.
    Swap { key: u8, expected: u64, value: u64 },
}

impl Operation {
    pub(super) fn key(self) -> u8 {
        match self {
            Self::Get { key } | Self::Put { key, .. } | Self::Swap { key, .. } => key,
        }
    }

    pub(super) fn encode(self, padding: usize) -> Bytes {
        let (kind, expected, value) = match self {
            Self::Get { .. } => (0, 0, 0),
            Self::Put { value, .. } => (1, 0, value),
            Self::Swap { expected, value, .. } => (2, expected, value),
        };
        let mut bytes = vec![kind, self.key()];
        bytes.extend(expected.to_le_bytes());
        bytes.extend(u64::to_le_bytes(value));
        bytes.resize(bytes.len() + padding, 0xAB);
        Bytes::from(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<2>()?;
        let (expected, rest) = rest.split_first_chunk::<8>()?;
        let (value, _) = rest.split_first_chunk::<8>()?;
        let (expected, value) = (u64::from_le_bytes(*expected), u64::from_le_bytes(*value));
        let key = head[1];
        match head[0] {
            0 => Some(Self::Get { key }),
            1 => Some(Self::Put { key, value }),
            2 => Some(Self::Swap { key, expected, value }),
            _ => None,
        }
    }

    /// The operation's effect on a register that holds `register`.
    pub(super) fn run(self, register: u64) -> Effect {
        let (after, reply) = match self {
            Self::Get { .. } => (register, register),
            Self::Put { value, .. } => (value, 0),
            Self::Swap { expected, value, .. } if expected == register => (value, register),
            Self::Swap { .. } => (register, register),
        };
        Effect { after, reply }
    }
}

/// The effect of an operation on a register.
pub(super) struct Effect {
    /// The register's value from then on.
    pub(super) after: u64,
    pub(super) reply: u64,
}

impl StateMachine for Registers {
    fn open(&mut self) -> Result<AppliedAt, MachineError> {
        let Some(saved) = self.disk.as_ref().and_then(|disk| disk.read(SAVED)) else {
            return Ok(AppliedAt::START);
        };
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let (at, registers) = saved.split_at(8);
        for register in registers.chunks_exact(9) {
            self.values.insert(register[0], number(&register[1..]));
        }
        Ok(AppliedAt(LogIndex(number(at))))
    }

    fn digest(&self) -> Option<u64> {
        let mix = |digest: u64, (key, value): (&u8, &u64)| {
            (digest ^ u64::from(*key) ^ value).wrapping_mul(0x100_0000_01B3).rotate_left(23)
        };
        Some(self.values.iter().fold(0, mix))
    }

    fn durable(&self) -> LogIndex {
        self.durable
    }

    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for command in batch.commands() {
            let operation = Operation::decode(command.bytes)
                .ok_or_else(|| MachineError(format!("a command of {:?}", command.bytes)))?;
            let register = self.values.entry(operation.key()).or_default();
            let Effect { after, reply } = operation.run(*register);
            if matches!(operation, Operation::Swap { .. }) && after != reply {
                logdrive_raft::reached!("register swapped");
            }
            *register = after;
            replies.push(reply.to_le_bytes().to_vec());
        }
        self.save(batch.last());
        Ok(())
    }
}
