//! raft-engine 0.4.2 under load, at its best: threads write through its own group commit, into files filled beforehand.
//!
//! In:     a directory.
//! Out:    a [`Log`].
//! Cost:   384 MiB of disk, more where a round writes more than that.
//! Fails:  with raft-engine's error.
//!
//! Its settings, and why: files of 64 MiB as ours; `prefill-for-recycle`, so that it writes into blocks already
//! written, as a node does that has run for a while (off by default, and slower then); no compression, because
//! the payloads do not compress.

use crate::load::{self, Done, Log, Shape, Writer, noise};
use protobuf::descriptor::UninterpretedOption;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use std::io;
use std::path::Path;

pub(crate) struct Rival {
    engine: Engine,
}

impl Rival {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let config = Config {
            dir: dir.to_string_lossy().into_owned(),
            target_file_size: ReadableSize::mb(64),
            purge_threshold: ReadableSize::mb(PURGE_MIB),
            batch_compression_threshold: ReadableSize(0),
            prefill_for_recycle: true,
            prefill_limit: Some(ReadableSize::mb(PURGE_MIB)),
            ..Config::default()
        };
        let engine = Engine::open(config).map_err(io::Error::other)?;
        // The bytes that filled the engine's files must not be on their way to the disk while the engine is measured.
        rustix::fs::syncfs(std::fs::File::open(dir)?)?;
        Ok(Self { engine })
    }
}

impl Log for Rival {
    fn writer(&self, group: u64, shape: Shape) -> Box<dyn Writer + Send + '_> {
        let entries = (0..shape.entries as u64).map(|at| {
            let mut entry = UninterpretedOption::new();
            entry.set_string_value(noise(group << 32 | at, shape.payload));
            entry
        });
        Box::new(RivalWriter {
            engine: &self.engine,
            group,
            entries: entries.collect(),
            batch: LogBatch::default(),
        })
    }

    fn at_home(&self, shape: Shape, seconds: f64, next: &[u64]) -> Option<io::Result<Done>> {
        let &[first] = next else { return None };
        let done = load::write(&mut *self.writer(1, shape), shape, seconds, first);
        Some(done.map(|(end, times)| (vec![end], times)))
    }

    fn release(&mut self, next: &[u64]) -> io::Result<()> {
        for (at, next) in next.iter().enumerate() {
            self.engine.compact_to(at as u64 + 1, *next);
        }
        self.engine.purge_expired_files().map_err(io::Error::other).map(drop)
    }
}

struct RivalWriter<'a> {
    engine: &'a Engine,
    group: u64,
    entries: Vec<UninterpretedOption>,
    batch: LogBatch,
}

impl Writer for RivalWriter<'_> {
    fn write(&mut self, first: u64) -> io::Result<()> {
        for (index, entry) in (first..).zip(&mut self.entries) {
            entry.set_positive_int_value(index);
        }
        let added = self.batch.add_entries::<Numbered>(self.group, &self.entries);
        added.and_then(|()| self.engine.write(&mut self.batch, true)).map_err(io::Error::other)?;
        Ok(())
    }
}

/// A message with a number and bytes, as a Raft entry is; this one comes with protobuf itself.
struct Numbered;

impl MessageExt for Numbered {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

const PURGE_MIB: u64 = 256;
