//! The events of a node, for those that follow them: leaders that change, groups that stop, peers that refuse this node or
//! that it refuses.
//!
//! In:     events, from shards' threads and others.
//! Out:    the same, in order, to each [`Events`]: awaited, polled, or waited for with a time-out.
//! Cost:   one shared flag is read per event while nobody follows; else a lock and a wake-up per event and follower. None
//!         is per command.
//! Fails:  a follower that is slower than [`EVENTS_MAX`] events loses the oldest, and is told how many.

use crate::{GroupId, NodeError, NodeId, StopCause, blocking, limits::EVENTS_MAX};
use logdrive_net::Refusal;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::RecvTimeoutError,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Something that happened on a node; see [`crate::Node::events`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A group has another leader, as far as this node knows, or none.
    LeaderChanged {
        /// The group.
        group: GroupId,
        /// Its leader; of a group that is fenced here, a member that knows it.
        leader: Option<NodeId>,
    },
    /// A group stopped on this node, and the node goes on.
    GroupStopped {
        /// The group.
        group: GroupId,
        /// Why.
        cause: StopCause,
    },
    /// A group that had stopped has another machine and runs again; see [`crate::Node::restart`].
    GroupRestarted {
        /// The group.
        group: GroupId,
    },
    /// A peer refused a connection of this node. The node asks the peer again, so this event may come again, once or
    /// twice a second for each lane. [`Self::PeerTurnedAway`] tells of the reverse, a peer that this node refused.
    PeerRefused {
        /// The peer.
        peer: NodeId,
        /// Its reason.
        why: Refusal,
    },
    /// This node refused a connection that a peer had made, or closed one of its own because of what the peer said of
    /// itself. Both ends try again, so this event may come again, at most once a second for each peer. Nothing proves
    /// that the other end is that peer: it says so, by the id of a node that this one knows. Strangers that name no
    /// such node are only logged.
    PeerTurnedAway {
        /// The peer.
        peer: NodeId,
        /// This node's reason.
        why: Refusal,
    },
    /// The node has stopped by itself; so have all its groups.
    NodeFailed(NodeError),
    /// So many events were lost here, for nobody took them in time. Their content is in
    /// [`crate::Group::leader`] and [`crate::Group::state`].
    Missed(u64),
}

/// The events of a node since [`crate::Node::events`], in order. Ends when the node is closed.
///
/// ```no_run
/// # async fn follow(node: logdrive::Node) {
/// use logdrive::NodeEvent;
///
/// let mut events = node.events();
/// drop(node); // This handle must not be the one that keeps the node open.
/// while let Some(event) = events.recv().await {
///     match event {
///         NodeEvent::LeaderChanged { group, leader } => println!("{group} is led by {leader:?}"),
///         NodeEvent::GroupStopped { group, cause } => println!("{group} stopped: {cause}"),
///         NodeEvent::NodeFailed(error) => return eprintln!("{error}"),
///         other => println!("{other:?}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
}

impl Events {
    /// The next event; `None` once the node was closed and all were taken. Cancelling it loses nothing.
    pub async fn recv(&mut self) -> Option<NodeEvent> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// As [`Self::recv`], for whoever makes a stream of it: `poll_fn(move |context| events.poll_recv(context))`.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<NodeEvent>> {
        let mut waiting = lock(&self.queue.waiting);
        match waiting.take() {
            Some(event) => Poll::Ready(Some(event)),
            None if waiting.is_closed => Poll::Ready(None),
            None => {
                waiting.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next event if there is one now.
    pub fn try_recv(&mut self) -> Option<NodeEvent> {
        lock(&self.queue.waiting).take()
    }

    /// Blocks until there is an event.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`] if there is none within `timeout`, [`RecvTimeoutError::Disconnected`] once the node
    /// was closed and all were taken.
    ///
    /// # Panics
    /// On a shard's thread, which this would hold up.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<NodeEvent, RecvTimeoutError> {
        blocking::assert_may_block("waiting for an event");
        let is_idle = |waiting: &mut Waiting| waiting.is_idle();
        let waiting = lock(&self.queue.waiting);
        let waited = self.queue.more.wait_timeout_while(waiting, timeout, is_idle);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match waiting.take() {
            Some(event) => Ok(event),
            None if waiting.is_closed => Err(RecvTimeoutError::Disconnected),
            None => Err(RecvTimeoutError::Timeout),
        }
    }
}

/// One follower's events.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<NodeEvent>,
    /// Older ones that were lost.
    missed: u64,
    waker: Option<Waker>,
    is_closed: bool,
}

impl Waiting {
    fn take(&mut self) -> Option<NodeEvent> {
        match std::mem::take(&mut self.missed) {
            0 => self.events.pop_front(),
            missed => Some(NodeEvent::Missed(missed)),
        }
    }

    fn is_idle(&self) -> bool {
        self.events.is_empty() && self.missed == 0 && !self.is_closed
    }
}

impl Queue {
    /// Adds an event, or with `None` the end.
    fn add(&self, event: Option<NodeEvent>) {
        let mut waiting = lock(&self.waiting);
        match event {
            Some(event) => {
                if waiting.events.len() >= EVENTS_MAX {
                    waiting.events.pop_front();
                    waiting.missed += 1;
                }
                waiting.events.push_back(event);
            }
            None => waiting.is_closed = true,
        }
        let waker = waiting.waker.take();
        drop(waiting);
        self.more.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node's end of its events.
#[derive(Debug, Default)]
pub(crate) struct News {
    is_followed: AtomicBool,
    followers: Mutex<Followers>,
}

#[derive(Debug, Default)]
struct Followers {
    queues: Vec<Weak<Queue>>,
    is_closed: bool,
}

impl News {
    /// Everything that is told from now on.
    pub(crate) fn follow(&self) -> Events {
        let queue = Arc::new(Queue::default());
        let mut followers = lock(&self.followers);
        if followers.is_closed {
            queue.add(None);
        } else {
            followers.queues.retain(|queue| queue.strong_count() > 0);
            followers.queues.push(Arc::downgrade(&queue));
            self.is_followed.store(true, Ordering::Release);
        }
        Events { queue }
    }

    /// Tells all followers.
    pub(crate) fn tell(&self, event: impl FnOnce() -> NodeEvent) {
        if self.is_followed.load(Ordering::Acquire) {
            self.tell_followers(&event());
        }
    }

    #[cold]
    fn tell_followers(&self, event: &NodeEvent) {
        let mut living = Vec::new();
        let mut followers = lock(&self.followers);
        followers.queues.retain(|queue| {
            living.extend(queue.upgrade());
            queue.strong_count() > 0
        });
        if followers.queues.is_empty() {
            self.is_followed.store(false, Ordering::Release);
        }
        drop(followers);
        // A waker may do anything, and follow events itself.
        living.iter().for_each(|queue| queue.add(Some(event.clone())));
    }

    /// Nothing is told any more.
    pub(crate) fn close(&self) {
        let mut followers = lock(&self.followers);
        followers.is_closed = true;
        self.is_followed.store(false, Ordering::Release);
        let queues = std::mem::take(&mut followers.queues);
        drop(followers);
        queues.iter().filter_map(std::sync::Weak::upgrade).for_each(|queue| queue.add(None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(group: u64) -> NodeEvent {
        NodeEvent::LeaderChanged { group: GroupId(group), leader: None }
    }

    #[test]
    fn a_follower_that_is_too_slow_is_told_how_much_it_missed_and_goes_on_with_the_rest() {
        let news = News::default();
        news.tell(|| unreachable!("nobody follows"));
        let mut events = news.follow();
        let mut other = news.follow();
        for group in 0..EVENTS_MAX as u64 + 3 {
            news.tell(|| changed(group));
            assert!(other.try_recv().is_some());
        }
        assert!(matches!(events.try_recv(), Some(NodeEvent::Missed(3))));
        let group = |event| match event {
            Some(NodeEvent::LeaderChanged { group, .. }) => group.get(),
            other => panic!("{other:?}"),
        };
        for expected in 3..EVENTS_MAX as u64 + 3 {
            assert_eq!(group(events.try_recv()), expected);
        }
        assert!(events.try_recv().is_none() && other.try_recv().is_none());
    }

    #[test]
    fn the_end_comes_after_the_last_event_and_to_those_that_come_late() {
        let news = News::default();
        let mut events = news.follow();
        assert_eq!(events.recv_timeout(Duration::ZERO).unwrap_err(), RecvTimeoutError::Timeout);
        drop(news.follow());
        news.tell(|| changed(1));
        news.close();
        news.tell(|| unreachable!("nobody is left"));
        assert!(events.recv_timeout(Duration::ZERO).is_ok());
        for mut events in [events, news.follow()] {
            let ended = events.recv_timeout(Duration::ZERO).unwrap_err();
            assert_eq!(ended, RecvTimeoutError::Disconnected);
        }
    }
}
