//! A machine on disk. `apply` need not sync, and must not: it runs on the shard's thread, and all groups there would wait.
//!
//! The log is what makes a command durable, before `apply` is called. After a crash the engine asks `open` where the machine
//! is, and hands it everything behind that place again: a machine may lose its latest commands as long as its state and the
//! place in the log that the state belongs to are saved as one. So this one changes its memory in `apply`, and a thread of
//! its own saves a copy from time to time: written beside the old one, synced, then renamed over it.
//!
//! `cargo run --release -p logdrive --example on_disk -- DIR`

mod support;

use logdrive::{AppliedAt, Committed, LogIndex, MachineError, Replies, StateMachine};
use std::{
    error::Error,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
};

/// Counts commands. Saved as two numbers: the count, and the last entry that is in it.
struct OnDisk {
    file: PathBuf,
    count: u64,
    at: LogIndex,
    saves: SyncSender<[u64; 2]>,
    saved: Arc<AtomicU64>,
}

impl OnDisk {
    fn new(file: &Path) -> Result<Self, Box<dyn Error>> {
        let (saves, to_save) = sync_channel::<[u64; 2]>(1);
        let (target, saved) = (file.to_owned(), Arc::new(AtomicU64::new(0)));
        let is_saved = saved.clone();
        std::thread::Builder::new().name("saver".to_owned()).spawn(move || {
            for [count, at] in to_save {
                match save(&target, count, at) {
                    Ok(()) => is_saved.store(at, Ordering::Release),
                    // The old copy is whole: the engine hands in what is missing there.
                    Err(error) => eprintln!("not saved: {error}"),
                }
            }
        })?;
        Ok(Self { file: file.to_owned(), count: 0, at: LogIndex::ZERO, saves, saved })
    }
}

fn save(file: &Path, count: u64, at: u64) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    let mut new = File::create(&beside)?;
    new.write_all(&count.to_le_bytes())?;
    new.write_all(&at.to_le_bytes())?;
    new.sync_all()?;
    fs::rename(&beside, file)?;
    // The new name must last, too, before `durable` lets the log forget what is saved.
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

impl StateMachine for OnDisk {
    fn open(&mut self) -> Result<AppliedAt, MachineError> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
        match fs::read(&self.file) {
            Ok(bytes) if bytes.len() == 16 => {
                let bad = |_| MachineError("not two numbers".to_owned());
                self.count = number(&bytes[..8]).map_err(bad)?;
                self.at = LogIndex(number(&bytes[8..]).map_err(bad)?);
            }
            Ok(bytes) => return Err(MachineError(format!("a state of {} bytes", bytes.len()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(MachineError(error.to_string())),
        }
        self.saved.store(self.at.get(), Ordering::Release);
        Ok(AppliedAt(self.at))
    }

    fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
        for _ in batch.commands() {
            self.count += 1;
            replies.push(self.count.to_le_bytes().to_vec());
        }
        self.at = batch.last();
        // Left out while the last copy is being saved: `apply` waits for no disk.
        let _ = self.saves.try_send([self.count, self.at.get()]);
        Ok(())
    }

    /// The log need not keep entries up to this one for this machine.
    fn durable(&self) -> LogIndex {
        LogIndex(self.saved.load(Ordering::Acquire))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: on_disk DIR")?);
    println!("{} commands", run(&dir)?);
    Ok(())
}

pub(crate) fn run(dir: &Path) -> Result<u64, Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    let machine = OnDisk::new(&dir.join("count"))?;
    let (node, group) = support::alone_with(&dir.join("node"), Box::new(machine))?;
    let mut counted = 0;
    for _ in 0..10 {
        counted = u64::from_le_bytes(group.propose("command").wait()?.reply[..].try_into()?);
    }
    node.close()?;
    Ok(counted)
}
