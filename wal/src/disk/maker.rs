//! The log's one background thread: makes segments before they are needed, and warms images.
//!
//! In:     orders, at most `ORDERS_MAX` waiting.
//! Out:    open files and warm images, by a channel, with a tick of the driver's eventfd.
//! Cost:   writes every segment once with zeros, in chunks with pauses unless writes wait for it.
//! Fails:  no room: reports it, tries again each second. Anything else: reports it; the log is poisoned.
//! Source: FAULTS' rule 7, W9.

use super::files::{Files, MAKE_CHUNK_BYTES};
use super::{AbortOnPanic, MakeSegment, is_no_space};
use crate::format::SegmentSeq;
use crate::image::{Image, ImageWriter};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::event::EventfdFlags;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the thread was asked for.
enum Order {
    Segment(MakeSegment),
    Image(usize),
}

/// What the thread made.
pub(super) enum Made {
    Segment(SegmentSeq, io::Result<File>),
    Image(Arc<Image>),
}

/// Handle to the thread; dropping it stops and joins it.
pub(super) struct Maker {
    orders: Option<Sender<Order>>,
    /// Orders the channel had no room for: an append may fill many small segments at once.
    backlog: VecDeque<Order>,
    made: Receiver<Made>,
    hurry: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Maker {
    /// Starts the thread.
    pub(super) fn start(files: Files, signal: Arc<Signal>) -> io::Result<Self> {
        let (orders, orders_out) = bounded(ORDERS_MAX);
        let (made_in, made) = bounded(ORDERS_MAX);
        let hurry = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let mut zeros = Image::new(MAKE_CHUNK_BYTES)?;
        let zeros = ImageWriter::claim(&mut zeros).expect("a new image has one owner");
        let shop = Shop {
            files,
            orders: orders_out,
            made: made_in,
            signal,
            hurry: Arc::clone(&hurry),
            stop: Arc::clone(&stop),
            zeros,
        };
        let thread =
            std::thread::Builder::new().name("wal-prepare".to_owned()).spawn(move || {
                let _abort = AbortOnPanic;
                shop.run();
            })?;
        let orders = Some(orders);
        Ok(Self { orders, backlog: VecDeque::new(), made, hurry, stop, thread: Some(thread) })
    }

    pub(super) fn make(&mut self, make: MakeSegment, urgent: bool) {
        self.order(Order::Segment(make));
        if urgent {
            self.hurry();
        }
    }

    pub(super) fn warm_image(&mut self, bytes: usize) {
        self.order(Order::Image(bytes));
    }

    /// No pauses until the order at hand is done.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
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
    hurry: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    zeros: ImageWriter,
}

impl Shop {
    fn run(mut self) {
        while let Ok(order) = self.orders.recv() {
            if self.stopped() {
                return;
            }
            let made = match order {
                Order::Image(bytes) => match Image::new(bytes) {
                    Ok(image) => {
                        image.warm();
                        Some(Made::Image(image))
                    }
                    // The log makes a cold one when it needs it, and says so if it cannot.
                    Err(_) => None,
                },
                Order::Segment(order) => self.make_until_done(&order),
            };
            if let Some(made) = made
                && !self.report(made)
            {
                return;
            }
        }
    }

    fn make_until_done(&mut self, order: &MakeSegment) -> Option<Made> {
        loop {
            let (hurry, stop) = (Arc::clone(&self.hurry), Arc::clone(&self.stop));
            let made = self.files.make(order, &mut self.zeros, || {
                if stop.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                if !hurry.load(Ordering::Relaxed) {
                    std::thread::sleep(CHUNK_PAUSE);
                }
                Ok(())
            });
            if self.stopped() {
                return None;
            }
            self.hurry.store(false, Ordering::Relaxed);
            match made {
                Err(error) if is_no_space(&error) => {
                    if !self.report(Made::Segment(order.segment, Err(error))) || !self.rest() {
                        return None;
                    }
                }
                made => return Some(Made::Segment(order.segment, made)),
            }
        }
    }

    /// Waits before trying again, in steps; false if the log is closing.
    fn rest(&self) -> bool {
        let mut left = RETRY_AFTER;
        while !left.is_zero() && !self.stopped() {
            let step = left.min(Duration::from_millis(20));
            std::thread::sleep(step);
            left -= step;
        }
        !self.stopped()
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
