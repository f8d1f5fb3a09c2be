//! The log's one background thread: makes segments before they are needed, gives up old ones, and warms images.
//!
//! In:     orders, at most `ORDERS_MAX` waiting.
//! Out:    open files and warm images, by a channel, with a tick of the driver's eventfd; the manifest, which this
//!         thread alone writes once the log is open.
//! Cost:   writes every new segment once with zeros, in chunks with pauses unless writes wait for it; of one made
//!         of an old file only the header.
//! Fails:  no room, or no file descriptor or memory for now: reports it, tries again each second, and when something was
//!         given up. Anything else: reports it; the log is poisoned.
//! Source: RULES.md rules 7, 8, 26, 28; W9, W11.

use super::files::{Files, MAKE_CHUNK_BYTES};
use super::portable::same;
use super::{AbortOnPanic, Fate, MakeSegment, RetireSegment, SegmentOrigin, is_shortage};
use crate::format::{Manifest, SegmentSeq};
use crate::image::{Image, ImageWriter};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use rustix::event::EventfdFlags;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// An order to the thread.
enum Order {
    Segment(MakeSegment),
    Retire(RetireSegment),
    Image(usize),
}

/// The thread's answer to an order.
pub(super) enum Made {
    Segment(SegmentSeq, io::Result<(File, SegmentOrigin)>),
    Retired(SegmentSeq, io::Result<()>),
    Image(Arc<Image>),
}

/// Handle to the thread; dropping it stops and joins it.
pub(super) struct Maker {
    orders: Option<Sender<Order>>,
    /// Orders the channel had no room for: an append may fill many small segments at once.
    backlog: VecDeque<Order>,
    made: Receiver<Made>,
    chunks: Arc<AtomicU64>,
    hurry: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Maker {
    /// Starts the thread.
    pub(super) fn start(files: Files, signal: Arc<Signal>) -> io::Result<Self> {
        let (orders, orders_out) = bounded(ORDERS_MAX);
        let (made_in, made) = bounded(ORDERS_MAX);
        let chunks = Arc::new(AtomicU64::new(0));
        let hurry = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let mut zeros = Image::new(MAKE_CHUNK_BYTES)?;
        let zeros = ImageWriter::claim(&mut zeros).expect("a new image has one owner");
        let shop = Shop {
            files,
            orders: orders_out,
            made: made_in,
            signal,
            chunks: Arc::clone(&chunks),
            hurry: Arc::clone(&hurry),
            stop: Arc::clone(&stop),
            zeros,
            manifest: None,
            free: Vec::new(),
            making: VecDeque::new(),
            retiring: VecDeque::new(),
            named: None,
        };
        let thread =
            std::thread::Builder::new().name("wal-prepare".to_owned()).spawn(move || {
                let _abort = AbortOnPanic;
                shop.run();
            })?;
        let orders = Some(orders);
        let (backlog, thread) = (VecDeque::new(), Some(thread));
        Ok(Self { orders, backlog, made, chunks, hurry, stop, thread })
    }

    pub(super) fn make(&mut self, make: MakeSegment, urgent: bool) {
        self.order(Order::Segment(make));
        if urgent {
            self.hurry();
        }
    }

    pub(super) fn retire(&mut self, retire: RetireSegment) {
        self.order(Order::Retire(retire));
    }

    pub(super) fn warm_image(&mut self, bytes: usize) {
        self.order(Order::Image(bytes));
    }

    /// No pauses until the order at hand is done.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Chunks of new segments written so far.
    pub(super) fn chunks_made(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    pub(super) fn take(&mut self) -> Option<Made> {
        let made = self.made.try_recv().ok();
        self.send_backlog();
        made
    }

    /// Blocks for the next thing made.
    pub(super) fn wait(&mut self) -> io::Result<Made> {
        self.send_backlog();
        self.made.recv().map_err(|_| io::Error::other("the thread wal-prepare is gone"))
    }

    fn order(&mut self, order: Order) {
        self.backlog.push_back(order);
        self.send_backlog();
    }

    fn send_backlog(&mut self) {
        let Some(orders) = &self.orders else { return };
        while let Some(order) = self.backlog.pop_front() {
            match orders.try_send(order) {
                Ok(()) => {}
                Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => {
                    self.backlog.push_front(order);
                    return;
                }
            }
        }
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        // Unblocks a thread that waits to hand something over.
        while self.made.recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Shop {
    files: Files,
    orders: Receiver<Order>,
    made: Sender<Made>,
    signal: Arc<Signal>,
    chunks: Arc<AtomicU64>,
    hurry: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    zeros: ImageWriter,
    /// As it is on disk, once it was needed.
    manifest: Option<Manifest>,
    /// Files given up, with their sizes.
    free: Vec<(SegmentSeq, u64)>,
    making: VecDeque<MakeSegment>,
    retiring: VecDeque<RetireSegment>,
    /// The first of `making` has its file, but the manifest does not say so yet.
    named: Option<(File, SegmentOrigin)>,
}

/// The outcome of working off orders.
enum Progress {
    /// All are done.
    Done,
    /// One of them waits for room, a file descriptor or memory.
    NoRoom,
    /// The log is closing, or something has failed for good.
    Closing,
}

impl Shop {
    fn run(mut self) {
        let mut progress = Progress::Done;
        loop {
            // An order that waits for room holds up none that could give room back.
            let order = match progress {
                Progress::Done => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Progress::NoRoom => self.orders.recv_timeout(RETRY_AFTER),
                Progress::Closing => return,
            };
            match order {
                Ok(order) => {
                    if !self.take(order) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            progress = self.work();
        }
    }

    fn take(&mut self, order: Order) -> bool {
        match order {
            Order::Segment(order) => self.making.push_back(order),
            Order::Retire(order) => self.retiring.push_back(order),
            Order::Image(bytes) => {
                // The log makes a cold one when it needs it, and says so if it cannot.
                if let Ok(image) = Image::new(bytes) {
                    image.warm();
                    return self.report(Made::Image(image));
                }
            }
        }
        true
    }

    fn work(&mut self) -> Progress {
        while let Some(order) = self.retiring.front().copied() {
            let result = self.retire(order);
            if self.stopped() {
                return Progress::Closing;
            }
            if let Err(error) = &result
                && is_shortage(error)
            {
                // The segments behind it are not made now, and the log may have writes that wait for one: it must hear
                // why, or its disk seems to be silent.
                if let Some(order) = self.making.front().map(|make| make.segment)
                    && !self.report(Made::Segment(order, Err(same(error))))
                {
                    return Progress::Closing;
                }
                return Progress::NoRoom;
            }
            self.retiring.pop_front();
            let failed = result.is_err();
            if !self.report(Made::Retired(order.segment, result)) || failed {
                return Progress::Closing;
            }
        }
        while let Some(order) = self.making.pop_front() {
            let made = self.make(&order);
            if self.stopped() {
                return Progress::Closing;
            }
            self.hurry.store(false, Ordering::Relaxed);
            let no_room = matches!(&made, Err(error) if is_shortage(error));
            let failed = made.is_err() && !no_room;
            // The log is poisoned then. A later segment made all the same would leave a hole that the manifest
            // vouches for, and no open would accept that.
            if !self.report(Made::Segment(order.segment, made)) || failed {
                return Progress::Closing;
            }
            if no_room {
                self.making.push_front(order);
                return Progress::NoRoom;
            }
        }
        Progress::Done
    }

    fn make(&mut self, order: &MakeSegment) -> io::Result<(File, SegmentOrigin)> {
        if self.named.is_none() {
            self.named = Some(self.make_file(order)?);
        }
        self.change_manifest(|manifest| manifest.made = order.segment)?;
        Ok(self.named.take().expect("set above"))
    }

    fn make_file(&mut self, order: &MakeSegment) -> io::Result<(File, SegmentOrigin)> {
        while let Some((old, bytes)) = self.free.pop() {
            if bytes == order.bytes {
                let remade = self.files.remake(order, old, &mut self.zeros);
                if remade.is_err() {
                    // Still there to be tried again: no room may pass, and the log counts on it.
                    self.free.push((old, bytes));
                }
                return Ok((remade?, SegmentOrigin::Recycled));
            }
        }
        let (hurry, stop) = (Arc::clone(&self.hurry), Arc::clone(&self.stop));
        let file = self.files.make(order, &mut self.zeros, || {
            self.chunks.fetch_add(1, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if !hurry.load(Ordering::Relaxed) {
                std::thread::sleep(CHUNK_PAUSE);
            }
            Ok(())
        })?;
        Ok((file, SegmentOrigin::New))
    }

    /// First the manifest, then the file: a crash in between leaves a file that the manifest has passed, and the next
    /// open removes it. A file that is to be kept has its other name before that.
    fn retire(&mut self, order: RetireSegment) -> io::Result<()> {
        if order.fate == Fate::SetAside {
            self.files.keep_aside(order.segment)?;
        }
        self.change_manifest(|manifest| manifest.first = order.first)?;
        self.files.retire(order.segment, order.fate)?;
        if order.fate == Fate::Recycle {
            self.free.push((order.segment, order.bytes));
        }
        Ok(())
    }

    fn change_manifest(&mut self, change: impl FnOnce(&mut Manifest)) -> io::Result<()> {
        let mut manifest = match self.manifest {
            Some(manifest) => manifest,
            None => self.files.known_manifest()?,
        };
        change(&mut manifest);
        self.files.write_manifest(&manifest)?;
        self.manifest = Some(manifest);
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn report(&self, made: Made) -> bool {
        let sent = self.made.send(made).is_ok();
        self.signal.raise();
        sent
    }
}

/// Wakes the thread that polls: an eventfd, written here and by the ring, read by nobody (readiness is
/// edge-triggered, and each write is an edge).
#[derive(Debug)]
pub(super) struct Signal(OwnedFd);

impl Signal {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self(fd)))
    }

    pub(super) fn raise(&self) {
        // Fails only when the counter is full, which takes 2^64 calls.
        let _ = rustix::io::write(&self.0, &1u64.to_le_bytes());
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

const ORDERS_MAX: usize = 8;
/// With chunks of 64 KiB: at most 16 MB/s beside the log's own writes, until somebody hurries. A segment of
/// 64 MiB takes four seconds then.
const CHUNK_PAUSE: Duration = Duration::from_millis(4);
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimPlatter;
    use crate::disk::{Disk, DiskEvent, atomic_write, steps};
    use crate::format::BLOCK_BYTES;

    /// Without a thread, with whom it reports to.
    fn shop(dir: &std::path::Path) -> (Shop, Receiver<Made>) {
        let mut zeros = Image::new(MAKE_CHUNK_BYTES).unwrap();
        let (made, made_out) = bounded(ORDERS_MAX);
        let shop = Shop {
            files: Files::probe(dir).unwrap(),
            orders: bounded(1).1,
            made,
            signal: Signal::new().unwrap(),
            chunks: Arc::default(),
            hurry: Arc::new(AtomicBool::new(true)),
            stop: Arc::new(AtomicBool::new(false)),
            zeros: ImageWriter::claim(&mut zeros).unwrap(),
            manifest: None,
            free: Vec::new(),
            making: VecDeque::new(),
            retiring: VecDeque::new(),
            named: None,
        };
        (shop, made_out)
    }

    /// The real maker and the simulated one.
    struct Twins {
        shop: Shop,
        made: Receiver<Made>,
        sim: SimPlatter,
        disk: Box<dyn Disk>,
        _dir: tempfile::TempDir,
    }

    const BYTES: u64 = 64 << 10;

    impl Twins {
        fn new() -> Self {
            let identity = crate::home::Identity {
                cluster: "steps".to_owned(),
                node: logdrive_raft::NodeId(1),
                store: 1,
                shards: 1,
                incarnation: 0,
                settings: std::collections::BTreeMap::new(),
            };
            let sim = SimPlatter::new(1, &identity, 0);
            let disk = sim.disk(BYTES);
            let dir = tempfile::tempdir().unwrap();
            let (shop, made) = shop(dir.path());
            std::fs::write(shop.files.manifest_path(), sim.manifest().unwrap()).unwrap();
            Self { shop, made, sim, disk, _dir: dir }
        }

        fn make(&mut self, segment: u32) -> (Vec<String>, Vec<String>) {
            let header = Box::new([1; BLOCK_BYTES]);
            let make = MakeSegment { segment: SegmentSeq(segment), bytes: BYTES, header };
            self.disk.make(make.clone(), false);
            assert!(self.shop.take(Order::Segment(make)));
            self.work()
        }

        fn retire(&mut self, segment: u32, fate: Fate) -> (Vec<String>, Vec<String>) {
            let (segment, first) = (SegmentSeq(segment), SegmentSeq(segment + 1));
            let retire = RetireSegment { segment, first, bytes: BYTES, fate };
            self.disk.retire(retire);
            assert!(self.shop.take(Order::Retire(retire)));
            self.work()
        }

        /// There is room for these from now on, and a second passes.
        fn room(&mut self, room: Room) -> (Vec<String>, Vec<String>) {
            match room {
                Room::Enough => {
                    steps::refuse_room(|_| false);
                    self.sim.set_segments_left(None);
                }
                Room::Small => {
                    steps::refuse_room(|name| name != "manifest.tmp");
                    self.sim.set_segments_left(Some(0));
                }
                Room::None => {
                    steps::refuse_room(|_| true);
                    self.sim.set_files_left(Some(0));
                }
            }
            self.work()
        }

        /// Lets both makers work; returns their steps and their reports.
        fn work(&mut self) -> (Vec<String>, Vec<String>) {
            steps::taken();
            let _ = self.shop.work();
            let real = steps::taken();
            while self.sim.make_step() {}
            assert_eq!(real, steps::taken());
            let of_make = |segment: SegmentSeq, made: io::Result<SegmentOrigin>| match made {
                Err(error) if is_shortage(&error) => format!("{}: no room", segment.0),
                made => format!("{}: {:?}", segment.0, made.unwrap()),
            };
            let of_retire = |segment: SegmentSeq, retired: io::Result<()>| {
                retired.unwrap();
                format!("{}: given up", segment.0)
            };
            let reports = self.made.try_iter().map(|made| match made {
                Made::Segment(segment, made) => of_make(segment, made.map(|(_, origin)| origin)),
                Made::Retired(segment, retired) => of_retire(segment, retired),
                Made::Image(_) => unreachable!("none is ordered"),
            });
            let reports: Vec<_> = reports.collect();
            let mut events = Vec::new();
            self.disk.poll(&mut events).unwrap();
            let events = events.into_iter().map(|event| match event {
                DiskEvent::Made { segment, result } => of_make(segment, result),
                DiskEvent::Retired { segment, result } => of_retire(segment, result),
                DiskEvent::Written { .. } => unreachable!("nothing is written"),
            });
            assert_eq!(reports, events.collect::<Vec<_>>());
            (real, reports)
        }
    }

    /// The files that there is room for.
    enum Room {
        Enough,
        /// The manifest's successor.
        Small,
        None,
    }

    /// RULES.md rules 7, 26, 28.
    #[test]
    fn the_simulated_maker_takes_the_real_ones_steps() {
        let mut twins = Twins::new();
        let (made, _) = twins.make(1);
        // Bytes, name and manifest are durable, each before the next.
        let wanted = [
            "create 0000000001.tmp",
            "write 0000000001.tmp",
            "sync 0000000001.tmp",
            "rename 0000000001.tmp 0000000001.seg",
            "sync the directory",
            "create manifest.tmp",
            "write manifest.tmp",
            "sync manifest.tmp",
            "exchange manifest.tmp manifest",
            "sync the directory",
        ];
        assert_eq!(made, wanted);
        (2..=4).for_each(|segment| drop(twins.make(segment)));
        for (segment, fate) in [(1, Fate::Recycle), (2, Fate::SetAside), (3, Fate::Remove)] {
            let (retired, _) = twins.retire(segment, fate);
            assert_eq!(retired.last().map(String::as_str), Some("sync the directory"));
        }
        let (remade, reports) = twins.make(5);
        assert_eq!(remade[0], "write 0000000001.free.tmp");
        assert_eq!(reports, ["5: Recycled"]);
    }

    /// RULES.md W9.
    #[test]
    fn the_simulated_maker_tells_of_a_full_disk_when_the_real_one_does() {
        let none: [&str; 0] = [];
        let mut twins = Twins::new();
        (1..=5).for_each(|segment| drop(twins.make(segment)));
        // With every order there is another try, and a report; also behind one that a recycled file has served.
        twins.room(Room::Small);
        assert_eq!(twins.make(6).1, ["6: no room"]);
        assert_eq!(twins.make(7).1, ["6: no room"]);
        let (_, reports) = twins.retire(1, Fate::Recycle);
        assert_eq!(reports, ["1: given up", "6: Recycled", "7: no room"]);
        assert_eq!(twins.room(Room::Small).1, ["7: no room"]);
        // Full to the last block: what is given up takes none.
        assert_eq!(twins.room(Room::None).1, ["7: no room"]);
        let (steps, reports) = twins.retire(2, Fate::Recycle);
        assert_eq!(reports, ["2: given up", "7: Recycled"]);
        assert!(!steps.iter().any(|step| step.starts_with("create")), "{steps:?}");
        assert_eq!(twins.retire(3, Fate::Recycle).1, ["3: given up"]);
        assert_eq!(twins.room(Room::None).1, none);
        assert_eq!(twins.make(8).1, ["8: Recycled"]);
        let (steps, reports) = twins.retire(4, Fate::SetAside);
        assert_eq!(steps[..2], ["link 0000000004.seg 0000000004.corrupt", "sync the directory"]);
        assert_eq!(reports, ["4: given up"]);
        assert_eq!(twins.make(9).1, ["9: no room"]);
        assert_eq!(twins.room(Room::Enough).1, ["9: New"]);
    }

    /// RULES.md W9.
    #[test]
    fn a_segment_waits_for_room_for_the_first_manifest_that_names_it() {
        let mut twins = Twins::new();
        steps::refuse_room(|name| name == "manifest.tmp");
        // Room for one file.
        twins.sim.set_files_left(Some(1));
        let (steps, reports) = twins.make(1);
        assert_eq!(steps.last().map(String::as_str), Some("sync the directory"));
        assert_eq!(reports, ["1: no room"]);
        let (steps, reports) = twins.room(Room::Enough);
        assert_eq!(reports, ["1: New"]);
        assert_eq!(steps.first().map(String::as_str), Some("create manifest.tmp"));
    }

    /// RULES.md rule 25.
    #[test]
    fn a_damaged_segment_has_its_other_name_before_the_manifest_passes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut shop, _made) = shop(dir.path());
        let manifest = Manifest {
            version: 1,
            shard: 0,
            store: 1,
            node: logdrive_raft::NodeId(1),
            first: SegmentSeq(1),
            made: SegmentSeq(2),
        };
        atomic_write(&shop.files.manifest_path(), &manifest.encode()).unwrap();
        let segment = shop.files.path(SegmentSeq(1));
        std::fs::write(&segment, b"damaged").unwrap();
        let order = RetireSegment {
            segment: SegmentSeq(1),
            first: SegmentSeq(2),
            bytes: 7,
            fate: Fate::SetAside,
        };
        // Something is in the way of the next manifest.
        let in_the_way = dir.path().join("manifest.tmp");
        std::fs::create_dir(&in_the_way).unwrap();
        shop.retire(order).unwrap_err();
        let aside = dir.path().join("0000000001.corrupt");
        assert_eq!(shop.files.known_manifest().unwrap(), manifest);
        for name in [&segment, &aside] {
            assert_eq!(std::fs::read(name).unwrap(), b"damaged");
        }
        std::fs::remove_dir(&in_the_way).unwrap();
        shop.retire(order).unwrap();
        assert_eq!(shop.files.known_manifest().unwrap().first, SegmentSeq(2));
        assert!(!segment.exists());
        assert_eq!(std::fs::read(&aside).unwrap(), b"damaged");
    }

    /// RULES.md W9.
    #[test]
    fn a_free_file_whose_remaking_fails_is_used_by_the_next_try() {
        let dir = tempfile::tempdir().unwrap();
        let (mut shop, _made) = shop(dir.path());
        let bytes = 64 << 10;
        let order = |segment| MakeSegment { segment, bytes, header: Box::new([7; BLOCK_BYTES]) };
        shop.make_file(&order(SegmentSeq(1))).unwrap();
        shop.files.retire(SegmentSeq(1), Fate::Recycle).unwrap();
        shop.free.push((SegmentSeq(1), bytes));
        // A directory of its new name is in its way.
        let new = shop.files.path(SegmentSeq(2));
        std::fs::create_dir(&new).unwrap();
        shop.make_file(&order(SegmentSeq(2))).unwrap_err();
        std::fs::remove_dir(&new).unwrap();
        let (_file, origin) = shop.make_file(&order(SegmentSeq(2))).unwrap();
        assert_eq!(origin, SegmentOrigin::Recycled);
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names, [new]);
    }
}
