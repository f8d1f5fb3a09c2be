//! The black box: real `logdrive serve` processes under load, with faults between and around them.
//!
//! In:     the binary under test; `LOGDRIVE_BLACKBOX` multiplies how long each scenario runs (1 if it is not set),
//!         `LOGDRIVE_SEED` draws other faults.
//! Out:    one test per row of the fault catalogue. At the end of each test everything is healed and read back, the
//!         nodes' logs are merged, and the merged log judges what the clients were told.
//! Cost:   a few seconds each; one at a time.
//! Fails:  with the operation that cannot be explained, or what did not come back in time.
//!
//! `trial` sets a cluster up and judges it, `proxy` and `netns` lie between the nodes, `traffic` are the clients,
//! `merged` reads the logs, `checker` holds the clients' history against them. `life`, `network`, `partition` and
//! `resources` are the scenarios.

#![forbid(unsafe_code)]

mod checker;
mod life;
mod merged;
mod netns;
mod network;
mod partition;
mod proxy;
mod resources;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
mod trial;
