//! Stub.
#![allow(missing_docs)]
use bytes::Bytes;
use logdrive_raft::*;
use std::{collections::BTreeMap, path::*, os::fd::*};
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DriverChoice { #[default] Auto, Uring, Portable }
#[derive(Debug, thiserror::Error)]
pub enum HomeError {}
#[derive(Debug, thiserror::Error)]
pub enum WalError {}
#[derive(Debug, thiserror::Error)]
pub enum ReadError {}
#[derive(Clone, Debug)]
pub struct Identity { pub cluster: String, pub node: NodeId, pub store: u128, pub shards: u32, pub incarnation: u64, pub settings: BTreeMap<String, String> }
pub struct Home {}
impl Home {
    pub fn create(_: &Path, _: &str, _: NodeId, _: u32, _: BTreeMap<String, String>) -> Result<Self, HomeError> { todo!() }
    pub fn open(_: &Path) -> Result<Self, HomeError> { todo!() }
    pub fn peek(_: &Path) -> Result<Identity, HomeError> { todo!() }
    pub fn identity(&self) -> &Identity { todo!() }
    pub fn shard_dir(&self, _: u32) -> PathBuf { todo!() }
}
#[derive(Clone)]
pub struct Config { pub segment_bytes: u64, pub in_flight_max: usize, pub driver: DriverChoice }
impl Config { pub fn new(_: PathBuf, _: Identity, _: u32) -> Self { todo!() } }
pub struct Wal {}
#[derive(Debug)]
pub struct CutTail {}
pub struct Recovered { pub groups: Vec<RecoveredGroup>, pub cut: Option<CutTail> }
#[derive(Clone)]
pub struct RecoveredGroup { pub group: GroupId, pub membership: Bytes, pub hard_state: HardState, pub runs: Vec<TermRun>, pub last: LogIndex, pub durable: Durable }
#[derive(Clone)]
pub struct Description { pub driver: &'static str, pub direct_io: bool, pub registered: bool }
#[derive(PartialEq)]
pub enum Room { Free, Reserve }
pub struct Append<'a> { pub group: GroupId, pub write: WriteId, pub membership: Option<&'a [u8]>, pub hard_state: Option<HardState>, pub entries: &'a [Entry] }
pub struct Completed { pub stamp: u64, pub durable: Vec<Durable>, pub frozen: Vec<FrozenRun>, pub sealed: bool }
pub struct FrozenRun {}
impl FrozenRun {
    pub fn group(&self) -> GroupId { todo!() }
    pub fn first(&self) -> LogIndex { todo!() }
    pub fn payloads(&self) -> impl Iterator<Item = (Term, u32, Bytes)> { std::iter::empty() }
}
pub struct ReadPlan {}
impl ReadPlan { pub fn run(self) -> Result<EntryBatch, ReadError> { todo!() } }
impl Wal {
    pub fn open(_: Config) -> Result<(Self, Recovered), WalError> { todo!() }
    pub fn describe(&self) -> Description { todo!() }
    pub fn append(&mut self, _: &Append<'_>) -> Result<(), WalError> { todo!() }
    pub fn submit(&mut self, _: u64) -> Result<(), WalError> { todo!() }
    pub fn poll(&mut self, _: u64, _: &mut Vec<Completed>) -> Result<(), WalError> { todo!() }
    pub fn readiness(&self) -> Option<BorrowedFd<'_>> { todo!() }
    pub fn room(&self) -> Room { todo!() }
    pub fn plan_read(&self, _: GroupId, _: LogIndex, _: LogIndex, _: usize) -> Result<ReadPlan, ReadError> { todo!() }
    pub fn close(self) -> Result<(), WalError> { todo!() }
}
pub fn checksum(_: &[u8]) -> u32 { todo!() }
