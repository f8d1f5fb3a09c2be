//! The same loads through raft-engine 0.4.2 and this log, alternating in one run; and this log beside the raw disk.
//!
//! In:     a directory on the disk in question.
//! Out:    a table, and JSON if asked: entries a second, median and 99th percentile of both, and the ratios.
//! Cost:   four to five minutes, and about 1 GiB of disk while it runs.
//! Fails:  with the first error of either log.
//!
//! Rounds alternate because what else a machine does changes by the second. A figure is the median of its
//! rounds; a ratio is the median of the rounds' own ratios, with the lowest and the highest beside it.

#![forbid(unsafe_code)]

mod load;
mod ours;
mod report;
mod rival;
mod sequential;
mod sleeper;
mod tenants;

use clap::Parser;
use load::{Log, Place, Shape};
use ours::Ours;
use report::{Large, Race, Report};
use rival::Rival;
use std::io;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures raft-engine and this log in turns, every write synced, and large writes beside the raw disk.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds of one round
    #[arg(long, default_value_t = 0.8)]
    seconds: f64,
    /// Rounds of each log in each shape
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only shapes whose name has this in it: "64x16x128" is 64 writers x 16 entries x 128 B, "1024K" a large batch
    #[arg(long, default_value = "")]
    shape: String,
    /// This log's writes in flight; without this, its default
    #[arg(long)]
    in_flight: Option<usize>,
    /// Directory for both logs: a real file system, not tmpfs
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Write the figures of every round here
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let home = tempfile::Builder::new().prefix("logdrive-rivals-").tempdir_in(&args.dir)?;
    if rustix::fs::statfs(home.path())?.f_type == TMPFS_MAGIC {
        eprintln!("warning: {} is in memory: nothing here is durable", args.dir.display());
    }
    let mut report = Report::default();
    race(&args, home.path(), &mut report)?;
    large(&args, home.path(), &mut report)?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// Writers, entries and payloads: all shapes, the two logs in turns.
fn race(args: &Args, dir: &Path, report: &mut Report) -> io::Result<()> {
    let shapes = WRITERS.into_iter().flat_map(|writers| {
        [(1, 128), (1, 1024), (16, 128), (16, 1024)].map(|(entries, payload)| Shape {
            writers,
            entries,
            payload,
        })
    });
    let shapes: Vec<Shape> =
        shapes.filter(|shape| report::name(*shape).contains(&args.shape)).collect();
    if shapes.is_empty() {
        return Ok(());
    }
    let mut rival = Rival::open(&dir.join("raft-engine"))?;
    let mut ours = Ours::open(&dir.join("logdrive"), args.in_flight)?;
    let groups = WRITERS[WRITERS.len() - 1];
    let (mut rival_next, mut ours_next) = (vec![1; groups], vec![1; groups]);
    // Run until this log uses its segments again, as one does that has run for a while.
    load::round(&ours, Place::Home, RUN_IN, RUN_IN_SECONDS, &mut ours_next)?;
    Race::print_head();
    for shape in shapes {
        let mut race = Race::new(shape);
        for _ in 0..args.rounds {
            let (seconds, home) = (args.seconds, Place::Home);
            race.rival.push(load::round(&rival, home, shape, seconds, &mut rival_next)?);
            rival.release(&rival_next)?;
            race.ours.push(load::round(&ours, home, shape, seconds, &mut ours_next)?);
            if shape.writers > 1 {
                let threads = Place::Threads;
                let sample = load::round(&ours, threads, shape, seconds, &mut ours_next)?;
                race.ours_threads.push(sample);
            }
            ours.release(&ours_next)?;
        }
        race.print();
        report.races.push(race);
    }
    Ok(())
}

/// Large batches: the raw disk and this log in turns.
fn large(args: &Args, dir: &Path, report: &mut Report) -> io::Result<()> {
    let sizes = |depth| SIZES.into_iter().map(move |bytes| Large::new(bytes, depth));
    let wanted: Vec<Large> = DEPTHS
        .into_iter()
        .flat_map(sizes)
        .filter(|large| large.name().contains(&args.shape))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let raw = sequential::Raw::create(&dir.join("raw"))?;
    Large::print_head();
    for mut large in wanted {
        let at = dir.join("large");
        let mut log = sequential::Large::open(&at, large.bytes, large.depth)?;
        log.round(RUN_IN_SECONDS)?;
        for _ in 0..args.rounds {
            large.raw.push(raw.round(large.bytes, large.depth, args.seconds / 2.0)?);
            large.ours.push(log.round(args.seconds / 2.0)?);
        }
        drop(log);
        std::fs::remove_dir_all(at)?;
        large.print();
        report.large.push(large);
    }
    Ok(())
}

const WRITERS: [usize; 4] = [1, 16, 64, 256];
const DEPTHS: [usize; 4] = [1, 2, 4, 8];
const SIZES: [usize; 2] = [256 << 10, 1 << 20];
const RUN_IN: Shape = Shape { writers: 64, entries: 16, payload: 1024 };
const RUN_IN_SECONDS: f64 = 1.0;
const TMPFS_MAGIC: i64 = 0x0102_1994;
