//! The floor runs, its parts relate as they must, and it leaves nothing behind.

use std::{path::Path, process::Command};

#[test]
fn the_floor_is_measured_and_nothing_is_left() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The parts are measured one after another, and a busy machine may spoil one of them: then all are measured again.
    let is_sound = (0..5).any(|_| measure(place.path()));
    assert!(is_sound, "a write and an exchange are faster together than the exchange alone");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

/// Whether the whole takes longer than its part.
fn measure(place: &Path) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_floor"))
        .args(["--seconds", "0.2", "--json", "--dir"])
        .arg(place)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let floor: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let part = |name: &str| {
        let number = |field: &str| floor[name][field].as_f64().unwrap();
        let (p50, p99, count) = (number("p50"), number("p99"), number("count"));
        assert!(0.0 < p50 && p50 <= p99 && count >= 1.0, "{name}: {floor}");
        p50
    };
    part("disk_us");
    // The whole holds at least one exchange through the loopback, and a write besides.
    part("together_us") > part("loopback_us")
}

#[test]
fn a_directory_that_is_not_there_is_one_clear_line() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_floor")).args(["--dir", "/nonexistent"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.starts_with("floor: ") && errors.contains("/nonexistent"), "{errors}");
}
