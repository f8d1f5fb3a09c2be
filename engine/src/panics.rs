//! The effects of a panic, in one place.
//!
//! In:     threads and tasks of ours; calls into a machine of the embedder's.
//! Out:    a panic of ours ends the process: it is a broken invariant, and nothing may go on with half-changed groups.
//!         A panic of a machine is an error of its group alone.
//! Cost:   a guard on the stack.
//! Source: RULES.md P9.
//!
//! Tasks that embedders spawn with [`crate::Node::spawn_on`] are theirs: one that panics ends alone, as the runtime has it.

use crate::{MachineError, StateMachine};
use logdrive_net::AbortOnPanic;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs something of ours.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> T {
    let _abort = AbortOnPanic;
    run()
}

/// Runs a task of ours on this thread's runtime.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(async move {
        let _abort = AbortOnPanic;
        task.await;
    });
}

/// Calls a machine. One that panicked is never called again, so no broken state of it is seen.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T, MachineError>) -> Result<T, MachineError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(MachineError(format!("it panicked: {}", text(&*panic)))))
}

/// Drops a machine, which may panic over the state that an earlier panic has left.
pub(crate) fn drop_machine(machine: Box<dyn StateMachine>) {
    let dropped = caught(|| {
        drop(machine);
        Ok(())
    });
    if let Err(error) = dropped {
        tracing::error!(%error, "a state machine failed while it was dropped");
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
