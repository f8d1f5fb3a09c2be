//! Which shard's thread this is, for what is cheaper or forbidden on one.
//!
//! In:     a shard's arrivals, for as long as its thread lives.
//! Out:    whether this is a shard's thread; a short way into the shard whose thread it is.
//! Cost:   a thread-local look-up.
//! Fails:  on any other thread the caller gets back what it wanted to hand over.

use crate::{
    blocking,
    inbox::{Arrivals, Inbox, Task},
    shard::Submission,
};
use std::{cell::RefCell, rc::Rc, sync::Arc};

thread_local! {
    /// The arrivals for the shard whose thread this is.
    static HERE: RefCell<Option<Rc<Arrivals>>> = const { RefCell::new(None) };
}

/// From now on this is the thread of the shard that takes these arrivals; with `None`, of no shard.
pub(crate) fn set(arrivals: Option<Rc<Arrivals>>) {
    blocking::forbid(arrivals.is_some());
    HERE.set(arrivals);
}

/// True on a shard's thread.
pub(crate) fn on_a_shard() -> bool {
    HERE.with_borrow(Option::is_some)
}

/// Hands a submission to the shard behind `inbox` if this is its thread, else gives it back.
pub(crate) fn submit(inbox: &Arc<Inbox>, submission: Submission) -> Result<(), Submission> {
    HERE.with_borrow(|here| match here {
        Some(arrivals) if Arc::ptr_eq(arrivals.inbox(), inbox) => {
            arrivals.submit(submission);
            Ok(())
        }
        _ => Err(submission),
    })
}

/// Runs a task here if this is the thread of the shard behind `inbox`, else gives it back.
pub(crate) fn spawn(inbox: &Arc<Inbox>, task: Task) -> Result<(), Task> {
    let is_here = HERE.with_borrow(|here| {
        here.as_ref().is_some_and(|arrivals| Arc::ptr_eq(arrivals.inbox(), inbox))
    });
    if is_here {
        tokio::task::spawn_local(async move { task().await });
        return Ok(());
    }
    Err(task)
}
