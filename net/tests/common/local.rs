//! Tests with sockets, on one thread.

use crate::common::{A, B};
use logdrive_net::Settings;
use logdrive_net::stores::Acquaintances;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{sleep, timeout};

/// Long enough for anything that happens at all on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) fn run(test: impl Future<Output = ()>) {
    let builder = &mut Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("the test hangs") });
}

pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// The record of its peers that a node keeps which is never restarted.
pub(crate) fn stores() -> Arc<Acquaintances> {
    Arc::new(Acquaintances::forgetful(0, 1, &[A, B]))
}

pub(crate) fn settings() -> Settings {
    Settings { backoff_max: Duration::from_millis(40), ..Settings::default() }
}
