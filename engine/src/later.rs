//! A value that another thread will give, once: for the answers of shards and for the ends of tasks.
//!
//! In:     a value, or the end of its giver without one.
//! Out:    the same, by waiting, with a time-out, or as a future.
//! Cost:   one allocation, and one wake-up if somebody waits.
//! Fails:  [`Gone`] if the value will never come.

use crate::blocking;
use std::{
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A value that a shard's thread will give: a future, or [`Later::wait`]. Dropping it takes nothing back: a task goes on.
#[derive(Debug)]
pub struct Later<T> {
    shared: Arc<Shared<T>>,
}

/// The value will never come: the node has stopped, or the task has panicked, or a question that was asked on a shard's
/// thread, which must not wait, has found the queue of another shard full.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "no answer: the node has stopped, the task has panicked, or the queue of questions is full"
)]
pub struct Gone;

impl<T> Later<T> {
    /// Blocks until the value is there.
    ///
    /// # Errors
    /// [`Gone`]: it will never be.
    ///
    /// # Panics
    /// On a shard's thread, which may be the one that has to give the value.
    pub fn wait(self) -> Result<T, Gone> {
        blocking::assert_may_block("waiting for an answer");
        let mut state = self.shared.lock();
        loop {
            if let Some(ended) = state.take() {
                return ended;
            }
            state = self.shared.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Self::wait`], for at most `timeout`.
    ///
    /// # Errors
    /// This itself, to be waited for again, if the value is not there by then.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T, Gone>, Self> {
        blocking::assert_may_block("waiting for an answer");
        let is_open = |state: &mut State<T>| matches!(state, State::Open(_));
        let waited = self.shared.ended.wait_timeout_while(self.shared.lock(), timeout, is_open);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let ended = state.take();
        drop(state);
        ended.ok_or(self)
    }
}

impl<T> Future for Later<T> {
    type Output = Result<T, Gone>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        match state.take() {
            Some(ended) => Poll::Ready(ended),
            None => {
                *state = State::Open(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// The other end: gives the value. Dropped without one, it says [`Gone`].
#[derive(Debug)]
pub(crate) struct Giver<T> {
    shared: Arc<Shared<T>>,
}

/// A value to come, and the end that gives it.
pub(crate) fn pair<T>() -> (Giver<T>, Later<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State::Open(None)), ended: Condvar::new() });
    (Giver { shared: shared.clone() }, Later { shared })
}

impl<T> Giver<T> {
    /// Gives the value.
    pub(crate) fn give(self, value: T) {
        self.end(Ok(value));
    }

    fn end(&self, ended: Result<T, Gone>) {
        let mut state = self.shared.lock();
        if let State::Open(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Ended(ended);
            drop(state);
            self.shared.ended.notify_all();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        self.end(Err(Gone));
    }
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

#[derive(Debug)]
enum State<T> {
    /// To come, and the task to wake then.
    Open(Option<Waker>),
    /// There, or known never to come.
    Ended(Result<T, Gone>),
    /// Taken by the one that waited.
    Taken,
}

impl<T> State<T> {
    fn take(&mut self) -> Option<Result<T, Gone>> {
        match std::mem::replace(self, Self::Taken) {
            Self::Ended(ended) => Some(ended),
            Self::Taken => panic!("polled again after it was ready"),
            open @ Self::Open(_) => {
                *self = open;
                None
            }
        }
    }
}

impl<T> Shared<T> {
    /// No code of ours panics while it holds this lock but for a caller's mistake, which changes nothing.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_once_and_a_giver_that_ends_without_one_says_so() {
        let (giver, later) = pair();
        let later = later.wait_timeout(Duration::ZERO).expect_err("nothing was given yet");
        giver.give(7);
        assert_eq!(later.wait_timeout(Duration::ZERO).map_err(drop), Ok(Ok(7)));
        let (giver, later) = pair::<u64>();
        drop(giver);
        assert_eq!(later.wait(), Err(Gone));
    }

    #[test]
    fn a_task_that_waits_is_woken_by_the_value() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let woken = Arc::new(Woken(false.into()));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let (giver, later) = pair();
        let mut later = std::pin::pin!(later);
        assert_eq!(later.as_mut().poll(&mut context), Poll::Pending);
        giver.give("value");
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(later.as_mut().poll(&mut context), Poll::Ready(Ok("value")));
    }
}
