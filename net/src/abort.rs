//! A panic in a task of ours ends the process.

/// A panic of ours is a broken invariant: nothing may go on, least of all with half-changed groups. A runtime would
/// end the panicking task alone and say nothing, so every task and thread of ours holds one of these.
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
