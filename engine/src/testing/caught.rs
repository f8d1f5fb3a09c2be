//! Panics of a run are its result, and are not printed.
//!
//! In:     something to run.
//! Out:    what it gave, or what broke it.
//! Fails:  never.

use super::invariants::Broken;
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

thread_local! {
    static PANIC: RefCell<Option<Broken>> = const { RefCell::new(None) };
    static IN_RUN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Panics of a run are its result: their message and place are kept, and not printed.
fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IN_RUN.get() {
                return before(info);
            }
            let place = info.location().map_or_else(String::new, ToString::to_string);
            let payload = info.payload();
            let what = (payload.downcast_ref::<&str>().map(ToString::to_string))
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            let broken = Broken { invariant: format!("assertion at {place}"), what };
            PANIC.set(Some(broken));
        }));
    });
}

/// Runs something; a broken invariant or a panic ends it, and only the caller learns of it.
pub(super) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Broken> {
    listen_to_panics();
    IN_RUN.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IN_RUN.set(false);
    result.map_err(|panic| match panic.downcast::<Broken>() {
        Ok(broken) => *broken,
        Err(_) => last_panic(),
    })
}

fn last_panic() -> Broken {
    let unknown = || Broken { invariant: "panic".to_owned(), what: "no message".to_owned() };
    PANIC.take().unwrap_or_else(unknown)
}
