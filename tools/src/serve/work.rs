//! How long clients may keep a shard's thread from its sockets and its disk, and which of them are next.
//!
//! In:     the work that tasks of clients do on this thread, as they begin and end it.
//! Out:    whether there is time for more, before the thread looks at its events again; the longest time that clients had.
//! Cost:   one reading of the clock (some 25 ns) per [`Work`] and per [`Work::is_over`].
//! Fails:  never; a task that got no time waits until the thread has looked, and is woken then.
//!
//! The same thread sends the heartbeats of its groups and hears those of others. Between two looks at its events all its
//! clients together get [`WORK_MAX`], and whatever the one request that went over it costs: the map of the largest
//! cluster, encoded anew, is that. The time of the shard's own turn is bounded in `engine/src/limits.rs`.
//!
//! A task that was refused time comes before all that were not, in the order in which tasks were refused: also before
//! those whose sockets the look found ready. A task that had time and wants more is woken behind them. The runtime's own
//! list of tasks that yield would wake the last one first, and of three clients that never pause one would never run.

use logdrive::StretchMeter;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    marker::PhantomData,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

/// All clients of a thread, between two looks at its events. A hundredth of a heartbeat.
const WORK_MAX: Duration = Duration::from_millis(1);

thread_local! {
    /// The work done for clients since the thread looked.
    static SPENT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static LINE: RefCell<Line> = RefCell::default();
    static METER: RefCell<StretchMeter> = RefCell::default();
    static LOOK: Waker = Waker::from(Arc::new(Look));
}

/// The longest time that the clients of a thread had between two looks, in processor time, ns.
static LONGEST_NS: AtomicU64 = AtomicU64::new(0);

/// The longest time that the clients of one thread had between two looks at its events, in processor time of the thread
/// and at most a millisecond too much; zero if it was never a millisecond.
pub(crate) fn longest() -> Duration {
    Duration::from_nanos(LONGEST_NS.load(Ordering::Relaxed))
}

/// Starts measuring anew.
pub(crate) fn forget_longest() {
    LONGEST_NS.store(0, Ordering::Relaxed);
}

/// The tasks of this thread that wait for its next look.
#[derive(Default)]
struct Line {
    /// Those that were refused time, by their [`Place`], until they get it; without a waker once they are woken.
    refused: BTreeMap<u64, Option<Waker>>,
    last_place: u64,
    /// Those that had time.
    served: Vec<Waker>,
}

/// Woken by the runtime, on this thread, when it has looked at the thread's events.
struct Look;

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        SPENT.set(Duration::ZERO);
        let wakers = LINE.with_borrow_mut(|line| {
            let refused = line.refused.values_mut().filter_map(Option::take);
            refused.chain(line.served.drain(..)).collect::<Vec<_>>()
        });
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A task's place among those that were refused time on this thread; given up when dropped.
#[derive(Default)]
pub(crate) struct Place(Option<u64>, PhantomData<Rc<()>>);

impl Place {
    fn wait(&mut self, waker: &Waker) {
        LINE.with_borrow_mut(|line| {
            let place = *self.0.get_or_insert_with(|| {
                line.last_place += 1;
                line.last_place
            });
            line.refused.insert(place, Some(waker.clone()));
        });
        wake_look();
    }

    fn leave(&mut self) {
        if let Some(place) = self.0.take() {
            // A thread that ends has no line any more.
            let _ = LINE.try_with(|line| line.borrow_mut().refused.remove(&place));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Work for a client, from its begin to its drop.
pub(crate) struct Work {
    began: Instant,
    spent_before: Duration,
}

impl Work {
    /// Begins to work, if there is time for it now and no other task waits for longer. Else `waker` is woken after the
    /// next look.
    pub(crate) fn begin(place: &mut Place, waker: &Waker) -> Option<Self> {
        let spent_before = SPENT.get();
        let is_new = place.0.is_none();
        if spent_before >= WORK_MAX || (is_new && LINE.with_borrow(|line| !line.refused.is_empty()))
        {
            place.wait(waker);
            return None;
        }
        place.leave();
        let began = METER.with_borrow_mut(StretchMeter::begin);
        Some(Self { began, spent_before })
    }

    /// True once the time of all clients is over: what is left must wait.
    pub(crate) fn is_over(&self) -> bool {
        self.spent() >= WORK_MAX
    }

    fn spent(&self) -> Duration {
        self.spent_before + self.began.elapsed()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let spent = self.spent();
        SPENT.set(spent);
        if spent >= WORK_MAX {
            if let Some(time) = METER.with_borrow_mut(|meter| meter.end(self.began)) {
                let ns = u64::try_from((self.spent_before + time).as_nanos()).unwrap_or(u64::MAX);
                LONGEST_NS.fetch_max(ns, Ordering::Relaxed);
            }
            wake_look();
        }
    }
}

/// Asks the runtime to wake [`LOOK`] after the thread's next look at its events.
fn wake_look() {
    LOOK.with(|look| {
        let yielded = std::pin::pin!(tokio::task::yield_now());
        let pending = yielded.poll(&mut Context::from_waker(look)).is_pending();
        assert!(pending, "a task that yields is not done");
    });
}

/// Wakes a task that had time once the thread has looked at its events, behind those that were refused it.
pub(crate) fn wake_after_look(waker: &Waker) {
    LINE.with_borrow_mut(|line| line.served.push(waker.clone()));
    wake_look();
}

/// Waits until there is time for a client's work.
pub(crate) async fn time() -> Work {
    let mut place = Place::default();
    std::future::poll_fn(|cx| {
        Work::begin(&mut place, cx.waker()).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    #[expect(clippy::disallowed_methods, reason = "what is bounded here is time")]
    fn now() -> Instant {
        Instant::now()
    }

    use std::{
        collections::VecDeque,
        sync::atomic::{AtomicUsize, Ordering},
    };

    fn spin(for_time: Duration) {
        let began = now();
        while began.elapsed() < for_time {}
    }

    /// A task that comes at each look, as one whose socket is always ready, would else be served before those that wait.
    #[test]
    fn a_task_that_was_refused_time_comes_before_all_that_were_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let begin = |place: &mut Place| Work::begin(place, Waker::noop());
            let whole = |place: &mut Place| begin(place).map(|_work| spin(WORK_MAX));
            let mut served = Place::default();
            whole(&mut served).unwrap();
            let mut waiting = VecDeque::from([Place::default(), Place::default()]);
            for round in 0..6 {
                waiting.iter_mut().for_each(|place| assert!(begin(place).is_none()));
                tokio::task::yield_now().await;
                assert!(begin(&mut served).is_none(), "it has just had its time, in round {round}");
                let mut next = waiting.pop_front().unwrap();
                whole(&mut next).unwrap();
                waiting.push_back(std::mem::replace(&mut served, next));
            }
            drop(waiting);
            tokio::task::yield_now().await;
            assert!(begin(&mut Place::default()).is_some(), "those that waited are gone");
        });
    }

    /// Many tasks that are never done, and a socket that has something to say: it is heard after every millisecond of
    /// theirs, not after a round of all of them.
    #[test]
    fn a_thread_looks_at_its_sockets_between_the_work_of_its_clients() {
        const CLIENTS: usize = 100;
        const SLICE: Duration = Duration::from_micros(300);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (told, tells) = std::sync::mpsc::sync_channel(20);
        let seen = Arc::clone(&done);
        let call = move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(3));
                let before = seen.load(Ordering::SeqCst);
                let stream = std::net::TcpStream::connect(address).unwrap();
                told.send((before, stream)).unwrap();
            }
        };
        let caller = std::thread::Builder::new().name("caller".to_owned()).spawn(call).unwrap();
        runtime.block_on(async {
            for _ in 0..CLIENTS {
                let done = Arc::clone(&done);
                tokio::task::spawn_local(async move {
                    loop {
                        let work = time().await;
                        spin(SLICE);
                        done.fetch_add(1, Ordering::SeqCst);
                        drop(work);
                        tokio::task::yield_now().await;
                    }
                });
            }
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut waited: Vec<usize> = Vec::new();
            for _ in 0..20 {
                listener.accept().await.unwrap();
                let after = done.load(Ordering::SeqCst);
                waited.push(after - tells.recv().unwrap().0);
            }
            // The middle one: the caller's thread may lose its core between its count and its call.
            waited.sort_unstable();
            assert!(waited[10] <= 20, "{waited:?} slices of work before a socket was heard");
            // This thread may have had no core all the while.
            for _ in 0..1_000_000 {
                if done.load(Ordering::SeqCst) >= 20 {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
        caller.join().unwrap();
        assert!(done.load(Ordering::SeqCst) >= 20, "the clients were served");
    }
}
