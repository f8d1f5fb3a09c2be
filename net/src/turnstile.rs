//! The order in which the readers of one thread deliver their frames.
//!
//! In:     readers that have something to deliver; the thread's word that it has room again.
//! Out:    one reader at a time passes, in the order in which they came ([`Turnstile::pass`]).
//! Cost:   some atomic operations for each frame. Without room the first reader is polled once for each
//!         [`Turnstile::made_room`], and the readers behind it are not polled.
//! Fails:  never. A reader that is dropped leaves the queue.
//! Source: RULES.md A4.
//!
//! Readers that let each other go first by yielding are no queue: the runtime wakes those that have yielded last first, so
//! two of them with endless frames may take all the room between them, and a third one never delivers.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Lets readers pass one by one.
pub struct Turnstile {
    /// One permit; those who wait for it get it in their order.
    order: Semaphore,
    /// The reader that has the permit, while it waits for room.
    first: Cell<Option<Waker>>,
}

impl Default for Turnstile {
    fn default() -> Self {
        Self { order: Semaphore::new(1), first: Cell::new(None) }
    }
}

impl Turnstile {
    /// Waits until all readers that came earlier have passed and `has_room` is true. The reader has passed when it drops
    /// what this gives.
    pub(crate) async fn pass(&self, has_room: impl Fn() -> bool) -> SemaphorePermit<'_> {
        let permit = self.order.acquire().await.expect("never closed");
        poll_fn(|context| {
            if has_room() {
                return Poll::Ready(());
            }
            self.first.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        permit
    }

    /// There may be room again: the first reader looks.
    pub fn made_room(&self) {
        if let Some(first) = self.first.take() {
            first.wake();
        }
    }
}
