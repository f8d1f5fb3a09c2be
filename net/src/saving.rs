//! Blocking work of a shard's thread, done elsewhere.
//!
//! In:     changes to what is known of peers' directories, which wait for the disk.
//! Out:    their results.
//! Cost:   a thread of the runtime's pool, which ends after ten idle seconds; one at a time for all threads of a node, and
//!         none for a change that others have saved meanwhile.
//! Fails:  a panic of the work is a panic here.
//! Source: RULES.md A3; ARCHITECTURE.md has the table of threads.

use crate::stores::Acquaintances;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Gives what `look` gives, or else what `save` does, on a thread that may wait. Callers wait for each other's saves, in
/// their order.
pub(crate) async fn saved<T: Send + 'static>(
    stores: &Arc<Acquaintances>,
    look: impl Fn(&Acquaintances) -> Option<T>,
    save: impl FnOnce(&Acquaintances) -> T + Send + 'static,
) -> T {
    if let Some(done) = look(stores) {
        return done;
    }
    let one = Arc::clone(&stores.saving).lock_owned().await;
    if let Some(done) = look(stores) {
        return done; // Another lane or connection of the same peer has waited for the same save.
    }
    let stores = Arc::clone(stores);
    let saving = spawn_blocking(move || {
        // The lock goes with the work: a handshake may be given up meanwhile.
        let _one = one;
        save(&stores)
    });
    match saving.await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hello;
    use logdrive_raft::NodeId;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn lanes_that_wait_for_the_same_save_have_it_done_once_on_one_thread() {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        let runtime = builder.build_local(tokio::runtime::LocalOptions::default()).unwrap();
        let stores = Arc::new(Acquaintances::forgetful(1, 1, &[NodeId(2)]));
        let saves = Arc::new(AtomicU32::new(0));
        runtime.block_on(async {
            let mut lanes = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let (stores, saves, acceptor) = (stores.clone(), saves.clone(), Hello::of(2));
                lanes.spawn_local(async move {
                    let noted = acceptor.clone();
                    let look =
                        |stores: &Acquaintances| stores.has_noted(&acceptor).then_some(Ok(()));
                    let save = move |stores: &Acquaintances| {
                        saves.fetch_add(1, Ordering::Relaxed);
                        stores.note(&noted)
                    };
                    saved(&stores, look, save).await.expect("nothing fails");
                });
            }
            while let Some(done) = lanes.join_next().await {
                done.expect("no panic");
            }
        });
        assert_eq!(saves.load(Ordering::Relaxed), 1);
    }
}
