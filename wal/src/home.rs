//! A node's directory: its locks, the file that says whose it is, and the one that says how often it was opened.
//!
//! In:     a path; what the embedder fixes for good.
//! Out:    an [`Identity`]; one directory per shard.
//! Cost:   a few small synced files at creation, one synced write at each open.
//! Fails:  a directory that is in use, empty, foreign or damaged is refused with a [`HomeError`]; nothing
//!         is ever taken for a fresh start.
//! Source: RULES.md rules 26, 27, 31; C4, C5, C7, P6, I10, W10.

use crate::checksum::checksum;
use crate::disk::{atomic_write, sync_dir};
use crate::format::{CLUSTER_BYTES_MAX, FORMAT_VERSION, Manifest, SegmentSeq};
use crate::openings::{self, OPENINGS_NAME, OpeningsFile, REFUSAL_BYTES_MAX};
use logdrive_raft::NodeId;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The owner of a directory. Written once; the incarnation is in a file of its own (`openings.rs`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The cluster's name, at most 128 bytes.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// Random, drawn when the directory was made: two directories are never the same store.
    pub store: u128,
    /// Streams in it. Fixed: groups are spread over them by number.
    pub shards: u32,
    /// How often it was opened. The first open is 1.
    pub incarnation: u64,
    /// The other settings that the embedder fixes for good.
    pub settings: BTreeMap<String, String>,
}

/// Why a directory was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// It has an identity already.
    #[error("{} is a node's directory already", .0.display())]
    Exists(PathBuf),
    /// It has other things in it.
    #[error("{} is not empty: it has {found}", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// One of them.
        found: String,
    },
    /// There is no such directory, or it is empty. A node that lost its log must not vote under its old name.
    #[error("{} is missing or empty; a new node's directory must be made before it is opened", .0.display())]
    Empty(PathBuf),
    /// Its making was cut short before the identity file, which comes last: no node has ever run there.
    #[error(
        "{} is a node's directory whose making was cut short; nothing is lost: make it again, with the settings of the \
         first time (serve --init)",
        .0.display()
    )]
    HalfMade(PathBuf),
    /// There is something in it, but no identity.
    #[error(
        "{} has {found} but no identity file: it is no node's directory, or has lost that file. Name the node's own \
         directory, or put the file back from a copy of this one; do not make a new node under the id of one that has run",
        dir.display()
    )]
    NoIdentity {
        /// The directory.
        dir: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// A file, or a link that leads nowhere, has its name.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A file or a directory that belongs to it is gone.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// The node's peers refused it: it is not the directory that they know, or an old copy of it. It must not be used any
    /// more, under any name.
    #[error("{} must not be used any more: {why}", dir.display())]
    Refused {
        /// The directory.
        dir: PathBuf,
        /// By which peer, why, and what there is to do.
        why: String,
    },
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The identity file is not what was written.
    #[error("{} is corrupt: {what}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// A description of the fault.
        what: String,
    },
    /// A setting cannot be written down.
    #[error("bad setting: {0}")]
    Setting(String),
    /// The file system failed.
    #[error("{what} of {} failed: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Which operation.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

/// A node's directory, locked for as long as this lives.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    identity: Identity,
    openings: Mutex<OpeningsFile>,
    _locks: Vec<OwnedFd>,
}

impl Home {
    /// Makes `dir`, with an identity and an empty stream per shard. A crash leaves either all of it or a
    /// directory that this takes up again: the identity file comes last.
    ///
    /// # Errors
    /// [`HomeError::Exists`], [`HomeError::NotEmpty`], [`HomeError::Setting`], [`HomeError::Locked`], [`HomeError::Io`].
    pub fn create(
        dir: &Path,
        cluster: &str,
        node: NodeId,
        shards: u32,
        settings: BTreeMap<String, String>,
    ) -> Result<Self, HomeError> {
        let identity = Identity {
            cluster: cluster.to_owned(),
            node,
            store: random_u128(),
            shards,
            incarnation: 0,
            settings,
        };
        identity.check()?;
        make_dir(dir)?;
        // Before the lock, so that nothing is put into a directory that is somebody else's; and under
        // it, because another process may have been quicker.
        check_unused(dir)?;
        let mut locks = lock(dir)?;
        check_unused(dir)?;
        for shard in 0..shards {
            let shard_dir = shard_dir(dir, shard);
            make_dir(&shard_dir)?;
            locks.extend(lock_dir(&shard_dir)?);
            let manifest = Manifest {
                version: FORMAT_VERSION,
                shard,
                store: identity.store,
                node,
                first: SegmentSeq(1),
                made: SegmentSeq(0),
            };
            let file = shard_dir.join(crate::disk::MANIFEST_NAME);
            atomic_write(&file, &manifest.encode()).map_err(|e| io_error(&file, "write", e))?;
        }
        OpeningsFile::make(dir).map_err(|e| io_error(&OpeningsFile::path(dir), "write", e))?;
        let file = Identity::file(dir);
        atomic_write(&file, identity.print().as_bytes())
            .map_err(|e| io_error(&file, "write", e))?;
        let openings = Mutex::new(open_openings(dir)?);
        Self { dir: dir.to_owned(), identity, openings, _locks: locks }.raised()
    }

    /// Locks `dir`, checks its identity, and raises its incarnation durably.
    ///
    /// # Errors
    /// Any [`HomeError`] but [`HomeError::Exists`] and [`HomeError::NotEmpty`].
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        Self::locked(dir)?.raised()
    }

    /// The identity of a directory. Takes the directory's lock for that moment only; nothing is changed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn peek(dir: &Path) -> Result<Identity, HomeError> {
        Self::locked(dir).map(|home| home.identity)
    }

    fn locked(dir: &Path) -> Result<Self, HomeError> {
        let anything = match anything_in(dir, |name, path| {
            name == LOCK_NAME || is_volumes(name, path)
        }) {
            Ok(found) => found,
            Err(HomeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {
                return Err(HomeError::NotADirectory(dir.to_owned()));
            }
            Err(HomeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(found) = anything else { return Err(HomeError::Empty(dir.to_owned())) };
        let file = Identity::file(dir);
        if !file.exists() {
            if check_unused(dir).is_ok() {
                return Err(HomeError::HalfMade(dir.to_owned()));
            }
            return Err(HomeError::NoIdentity { dir: dir.to_owned(), found });
        }
        let mut locks = lock(dir)?;
        let identity = Identity::read(dir).map_err(|e| io_error(&file, "read", e))?;
        let identity =
            identity.map_err(|what| HomeError::Corrupt { file, what: what.to_owned() })?;
        for shard in 0..identity.shards {
            let manifest = shard_dir(dir, shard).join(crate::disk::MANIFEST_NAME);
            if !manifest.exists() {
                return Err(HomeError::Missing(manifest));
            }
            locks.extend(lock_dir(&shard_dir(dir, shard))?);
        }
        let openings = open_openings(dir)?;
        let now = openings.now();
        if !now.refusal.is_empty() {
            return Err(HomeError::Refused { dir: dir.to_owned(), why: now.refusal.clone() });
        }
        let identity = Identity { incarnation: now.incarnation, ..identity };
        let openings = Mutex::new(openings);
        Ok(Self { dir: dir.to_owned(), identity, openings, _locks: locks })
    }

    /// The directory's identity, with the incarnation of this open.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a shard's stream is. Panics if there is no such shard.
    #[must_use]
    pub fn shard_dir(&self, shard: u32) -> PathBuf {
        assert!(shard < self.identity.shards, "shard {shard} of {}", self.identity.shards);
        shard_dir(&self.dir, shard)
    }

    /// The file that [`Self::keep_peers`], [`Self::found_command_bytes`] and [`Self::refuse`] write.
    #[must_use]
    pub fn openings_file(&self) -> PathBuf {
        OpeningsFile::path(&self.dir)
    }

    /// The bytes that [`Self::keep_peers`] kept last; empty if there are none.
    #[must_use]
    pub fn peers(&self) -> Vec<u8> {
        self.openings().now().peers.clone()
    }

    /// Keeps what the node has to remember of its peers, at most [`crate::PEERS_BYTES_MAX`] bytes, durably and in room
    /// that the directory has.
    ///
    /// # Errors
    /// [`HomeError::Io`]: what is on disk is not known, and nothing is written here any more.
    pub fn keep_peers(&self, peers: &[u8]) -> Result<(), HomeError> {
        let peers = peers.to_vec();
        let kept = self.openings().change(|now| now.peers = peers);
        kept.map_err(|e| io_error(&OpeningsFile::path(&self.dir), "write", e))
    }

    /// The largest command that the directory was founded for, in bytes; 0 before [`Self::found_command_bytes`].
    #[must_use]
    pub fn command_bytes_founded(&self) -> u32 {
        self.openings().now().command_bytes_founded
    }

    /// Founds the directory for commands of so many bytes, durably and in room that the directory has. 0 takes the
    /// founding back.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn found_command_bytes(&self, bytes: u32) -> Result<(), HomeError> {
        let kept = self.openings().change(|now| now.command_bytes_founded = bytes);
        kept.map_err(|e| io_error(&OpeningsFile::path(&self.dir), "write", e))
    }

    /// Marks the directory, durably: it is not opened any more ([`HomeError::Refused`]).
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn refuse(&self, why: &str) -> Result<(), HomeError> {
        let mut why = why.to_owned();
        why.truncate(why.floor_char_boundary(REFUSAL_BYTES_MAX));
        let kept = self.openings().change(|now| now.refusal = why);
        kept.map_err(|e| io_error(&OpeningsFile::path(&self.dir), "write", e))
    }

    fn raised(mut self) -> Result<Self, HomeError> {
        self.identity.incarnation += 1;
        let incarnation = self.identity.incarnation;
        let raised = self.openings().change(|now| now.incarnation = incarnation);
        raised.map_err(|e| io_error(&OpeningsFile::path(&self.dir), "write", e))?;
        Ok(self)
    }

    fn openings(&self) -> MutexGuard<'_, OpeningsFile> {
        // Nothing is taken over before it is whole.
        self.openings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_openings(dir: &Path) -> Result<OpeningsFile, HomeError> {
    let file = OpeningsFile::path(dir);
    let opened = match OpeningsFile::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(HomeError::Missing(file));
        }
        opened => opened.map_err(|e| io_error(&file, "open", e))?,
    };
    opened.map_err(|what| HomeError::Corrupt { file, what: what.to_owned() })
}

impl Identity {
    pub(crate) fn file(dir: &Path) -> PathBuf {
        dir.join(IDENTITY_NAME)
    }

    /// Reads a node's identity file; the inner error is a file that does not hold. Takes no lock, and leaves the
    /// incarnation at zero.
    pub(crate) fn read(dir: &Path) -> io::Result<Result<Self, &'static str>> {
        Ok(Self::parse(&std::fs::read_to_string(Self::file(dir))?))
    }

    fn check(&self) -> Result<(), HomeError> {
        let bad = |what: String| Err(HomeError::Setting(what));
        if self.cluster.is_empty() || self.cluster.len() > CLUSTER_BYTES_MAX {
            return bad(format!("a cluster's name must have 1 to {CLUSTER_BYTES_MAX} bytes"));
        }
        if self.node == NodeId(0) {
            return bad("a node's id must be above 0".to_owned());
        }
        if self.shards == 0 || self.shards > SHARDS_MAX {
            return bad(format!("{} shards; 1 to {SHARDS_MAX} are possible", self.shards));
        }
        let is_plain = |text: &str| !text.chars().any(char::is_control) && text.trim() == text;
        let settings = self.settings.iter();
        for (key, value) in settings.chain([(&self.cluster, &self.cluster)]) {
            if key.is_empty() || !is_plain(key) || !is_plain(value) {
                return bad(format!("{key:?} = {value:?} cannot be written on a line"));
            }
        }
        if let Some(key) = self.settings.keys().find(|key| key.contains('=')) {
            return bad(format!("{key:?} has an equals sign"));
        }
        Ok(())
    }

    fn print(&self) -> String {
        let mut text = format!(
            "{IDENTITY_TITLE}\ncluster = {}\nnode = {}\nstore = {:032x}\nshards = {}\n",
            self.cluster, self.node, self.store, self.shards
        );
        for (key, value) in &self.settings {
            let _ = writeln!(text, "set {key} = {value}");
        }
        let crc = checksum(text.as_bytes());
        let _ = writeln!(text, "crc32c = {crc:08x}");
        text
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (body, crc) = text
            .strip_suffix('\n')
            .and_then(|text| text.rfind('\n').map(|at| text.split_at(at + 1)))
            .ok_or("it is cut off")?;
        if crc != format!("crc32c = {:08x}", checksum(body.as_bytes())) {
            return Err("it fails its checksum");
        }
        let mut lines = body.lines();
        if lines.next() != Some(IDENTITY_TITLE) {
            return Err("it is of a version this one does not know");
        }
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|line| line.split_once(" = "))
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value)
                .ok_or("a field is missing")
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| "a number is not one");
        let mut identity = Self {
            cluster: field("cluster")?.to_owned(),
            node: NodeId(number(field("node")?)?),
            store: u128::from_str_radix(field("store")?, 16).map_err(|_| "store is no number")?,
            shards: u32::try_from(number(field("shards")?)?).map_err(|_| "too many shards")?,
            incarnation: 0,
            settings: BTreeMap::new(),
        };
        for line in lines {
            let (key, value) = line
                .strip_prefix("set ")
                .and_then(|line| line.split_once(" = "))
                .ok_or("a line is not understood")?;
            identity.settings.insert(key.to_owned(), value.to_owned());
        }
        Ok(identity)
    }
}

/// Takes the directory's locks: on its file `lock`, which every version takes, and on the directory itself. A file can be
/// deleted or replaced, and whoever opens it next has another file. The directory's own lock is the same by every name it
/// has: after it was moved, through a link, through another mount of it.
fn lock(dir: &Path) -> Result<Vec<OwnedFd>, HomeError> {
    let file = dir.join(LOCK_NAME);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| io_error(&file, "open", e.into()))?;
    hold(&fd).map_err(|e| lock_error(dir, &file, e))?;
    let mut locks = vec![fd];
    locks.extend(lock_dir(dir)?);
    Ok(locks)
}

/// Locks a directory's own descriptor. The shards' directories are locked each: one may be a link to another disk, and a
/// copy of the node's directory then leads to the same one.
fn lock_dir(dir: &Path) -> Result<Option<OwnedFd>, HomeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd =
        rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| io_error(dir, "open", e.into()))?;
    match hold(&fd) {
        Ok(()) => Ok(Some(fd)),
        // Network file systems lock only what is open for writing, which no directory is: there the file stands alone.
        Err(Errno::BADF) => Ok(None),
        Err(error) => Err(lock_error(dir, dir, error)),
    }
}

/// Locks what is open, for this process alone. A process that was killed with writes in the ring may hold its locks for
/// some milliseconds after its death (I10), so this is patient for a while.
fn hold(fd: &OwnedFd) -> Result<(), Errno> {
    let mut tries = LOCK_TRIES;
    loop {
        match flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn lock_error(dir: &Path, file: &Path, error: Errno) -> HomeError {
    match error {
        Errno::WOULDBLOCK => HomeError::Locked(dir.to_owned()),
        error => io_error(file, "lock", error.into()),
    }
}

/// The name of something in `dir` that `expected` does not account for.
fn anything_in(
    dir: &Path,
    expected: impl Fn(&str, &Path) -> bool,
) -> Result<Option<String>, HomeError> {
    for entry in std::fs::read_dir(dir).map_err(|e| io_error(dir, "listing", e))? {
        let entry = entry.map_err(|e| io_error(dir, "listing", e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !expected(&name, &entry.path()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// True for what a creation leaves behind that did not get to the identity file.
fn check_unused(dir: &Path) -> Result<(), HomeError> {
    if dir.join(IDENTITY_NAME).exists() {
        return Err(HomeError::Exists(dir.to_owned()));
    }
    match anything_in(dir, is_left_of_creation)? {
        Some(found) => Err(HomeError::NotEmpty { dir: dir.to_owned(), found }),
        None => Ok(()),
    }
}

fn is_left_of_creation(name: &str, path: &Path) -> bool {
    let is_empty_shard = || {
        std::fs::read_dir(path).is_ok_and(|entries| {
            entries.flatten().all(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name == "manifest.tmp"
                    || (name == crate::disk::MANIFEST_NAME
                        && std::fs::read(entry.path()).is_ok_and(|bytes| {
                            Manifest::decode(&bytes).is_ok_and(|m| m.made == SegmentSeq(0))
                        }))
            })
        })
    };
    name == LOCK_NAME
        || name == "identity.tmp"
        || name == "openings.tmp"
        || (name == OPENINGS_NAME && was_never_opened(path))
        || is_volumes(name, path)
        || (name.starts_with(SHARD_PREFIX) && path.is_dir() && is_empty_shard())
}

/// True for what the root of a volume has in it from the start.
fn is_volumes(name: &str, path: &Path) -> bool {
    name == "lost+found" && path.is_dir()
}

/// True for a directory whose creation was cut short, and would be taken up by the next one.
pub(crate) fn is_half_made(dir: &Path) -> bool {
    let shards = || anything_in(dir, |name, _| !name.starts_with(SHARD_PREFIX));
    check_unused(dir).is_ok() && shards().is_ok_and(|found| found.is_some())
}

fn was_never_opened(openings: &Path) -> bool {
    let read = openings.parent().map(openings::peek);
    read.is_some_and(|read| read.is_ok_and(|now| now.is_ok_and(|now| now.incarnation == 0)))
}

/// Nobody else may look into what is made here.
fn make_dir(dir: &Path) -> Result<(), HomeError> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(HomeError::NotADirectory(dir.to_owned()));
        }
        Err(error) => return Err(io_error(dir, "creation", error)),
    }
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    sync_dir(parent).map_err(|e| io_error(parent, "sync", e))
}

pub(crate) fn shard_dir(dir: &Path, shard: u32) -> PathBuf {
    dir.join(format!("{SHARD_PREFIX}{shard:03}"))
}

fn io_error(file: &Path, what: &'static str, source: io::Error) -> HomeError {
    HomeError::Io { file: file.to_owned(), what, source }
}

/// 128 bits from the kernel. For identities; the log's logic draws from what it is given.
pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let got =
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        match got {
            Ok(got) => filled += got,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel has no random bytes: {error}"),
        }
    }
    u128::from_le_bytes(bytes)
}

const IDENTITY_TITLE: &str = "logdrive identity 3";
const IDENTITY_NAME: &str = "identity";
const LOCK_NAME: &str = "lock";
pub(crate) const SHARD_PREFIX: &str = "shard-";
/// The most shards that a node's directory may have.
pub const SHARDS_MAX: u32 = 256;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Two seconds of pauses.
const LOCK_TRIES: u32 = 200;
