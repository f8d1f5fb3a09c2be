//! Blocking work of a shard's thread, done elsewhere.
//!
//! In:     work that waits for the disk.
//! Out:    its result.
//! Cost:   a thread of the runtime's pool, which ends after ten idle seconds.
//! Fails:  a panic of the work is a panic here.
//! Source: RULES.md A3; ARCHITECTURE.md has the table of threads.

use tokio::task::spawn_blocking;

/// Runs `work` on a thread that may wait.
pub(crate) async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
