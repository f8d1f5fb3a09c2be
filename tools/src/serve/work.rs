//! How long clients may keep a shard's thread from its sockets and its disk.
//!
//! In:     the work that tasks of clients do on this thread, as they begin and end it.
//! Out:    whether there is time for more, before the thread looks at its events again.
//! Cost:   one reading of the clock (some 25 ns) per [`Work`] and per [`Work::is_over`].
//! Fails:  never; a task that got no time waits until the thread has looked, and is woken then.
//!
//! The same thread sends the heartbeats of its groups and hears those of others. Between two looks at its events all its
//! clients together get [`WORK_MAX`], and whatever the one request that went over it costs: the map of the largest
//! cluster, encoded anew, is that. What the shard's own turn may take is bounded in `engine/src/limits.rs`.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

/// All clients of a thread, between two looks at its events. A hundredth of a heartbeat.
const WORK_MAX: Duration = Duration::from_millis(1);

thread_local! {
    /// The work done for clients since the thread looked, or since they last had that much time.
    static SPENT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static LOOK: Arc<Look> = Arc::default();
}

/// Set by the runtime when it has looked at the thread's events.
#[derive(Default)]
struct Look(AtomicBool);

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Work for a client, from its begin to its drop.
pub(crate) struct Work {
    began: Instant,
    spent_before: Duration,
}

impl Work {
    /// Begins to work, if there is time for it now.
    pub(crate) fn begin() -> Option<Self> {
        if LOOK.with(|look| look.0.swap(false, Ordering::Relaxed)) {
            SPENT.set(Duration::ZERO);
        }
        let spent_before = SPENT.get();
        if spent_before >= WORK_MAX {
            wake_look();
            return None;
        }
        Some(Self { began: now(), spent_before })
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
            wake_look();
        }
    }
}

/// Has the next look noticed. Tasks that yield are woken in their order after it: those that yield from now on will find
/// that it was.
fn wake_look() {
    LOOK.with(|look| wake_after_look(&Waker::from(Arc::clone(look))));
}

/// Wakes a task once the thread has looked at its events.
pub(crate) fn wake_after_look(waker: &Waker) {
    let yielded = std::pin::pin!(tokio::task::yield_now());
    let pending = yielded.poll(&mut Context::from_waker(waker)).is_pending();
    assert!(pending, "a task that yields is not done");
}

/// Waits until there is time for a client's work.
pub(crate) async fn time() -> Work {
    std::future::poll_fn(|cx| match Work::begin() {
        Some(work) => Poll::Ready(work),
        None => {
            wake_after_look(cx.waker());
            Poll::Pending
        }
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "what is bounded here is time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn spin(for_time: Duration) {
        let began = now();
        while began.elapsed() < for_time {}
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
        });
        caller.join().unwrap();
        assert!(done.load(Ordering::SeqCst) >= 20, "the clients were served");
    }
}
