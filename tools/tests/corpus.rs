//! The RESP fuzz targets' corpora, replayed with changes that are the same on every run.

#![forbid(unsafe_code)]

#[path = "../../net/fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/oracle.rs"]
mod oracle;
#[allow(dead_code, reason = "the product's own file; its unit tests run here a second time")]
#[path = "../src/resp.rs"]
mod resp;

use std::path::PathBuf;

#[test]
fn requests_are_read_alike_however_they_come() {
    mutate::replay(&corpus("requests"), oracle::requests);
}

#[test]
fn replies_are_read_alike_however_they_come() {
    mutate::replay(&corpus("replies"), oracle::replies);
}

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect()
}
