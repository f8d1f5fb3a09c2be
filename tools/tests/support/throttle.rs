//! A disk that is slow or stops answering: the block layer holds back what a process writes to one device.
//!
//! In:     the device of a [`crate::mount::Disk`]; processes.
//! Out:    [`Throttle::slow`], [`Throttle::stall`] and [`Throttle::release`]; writes are neither lost nor failed, only late.
//! Fails:  making one says why it cannot be (not root, no cgroup of version 1 with blkio); then the test is skipped.
//!
//! Direct writes are held as they are submitted, and a thread that waits for one hangs in the kernel, where no signal
//! reaches it. Dropping the throttle lets everything through and removes the control group.

use crate::support::{eventually, report};
use std::{fs, path::PathBuf, time::Duration};

const BLKIO: &str = "/sys/fs/cgroup/blkio";
const LIMIT: &str = "blkio.throttle.write_bps_device";

#[derive(Debug)]
pub(crate) struct Throttle {
    group: PathBuf,
    /// `major:minor`.
    device: String,
}

impl Throttle {
    /// For writes to `device`, such as `/dev/loop3`, or says why that cannot be done here.
    pub(crate) fn new(device: &str) -> Result<Self, String> {
        let name = device.rsplit('/').next().unwrap_or(device);
        let number = fs::read_to_string(format!("/sys/block/{name}/dev"))
            .map_err(|error| format!("{device} has no number: {error}"))?;
        let group = PathBuf::from(BLKIO).join(format!("logdrive-{}-{name}", std::process::id()));
        fs::create_dir(&group).map_err(|error| format!("no blkio control group: {error}"))?;
        let throttle = Self { group, device: number.trim().to_owned() };
        // The limit is tried at once, because a kernel without throttling has no such file.
        throttle.limit("0").map_err(|error| format!("no write throttling: {error}"))?;
        Ok(throttle)
    }

    /// Subjects the writes of this process to the throttle from now on.
    pub(crate) fn take(&self, pid: u32) {
        fs::write(self.group.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// One byte a second: no write ends in a test's time.
    pub(crate) fn stall(&self) {
        self.limit("1").unwrap();
    }

    /// Some 25 writes a second.
    pub(crate) fn slow(&self) {
        self.limit("100000").unwrap();
    }

    /// Lets everything through again, first the writes that were held back.
    pub(crate) fn release(&self) {
        self.limit("0").unwrap();
    }

    fn limit(&self, bytes_per_second: &str) -> std::io::Result<()> {
        fs::write(self.group.join(LIMIT), format!("{} {bytes_per_second}", self.device))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        if let Err(error) = self.limit("0") {
            report(format_args!("the throttle stays: {error}"));
        }
        for pid in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(PathBuf::from(BLKIO).join("cgroup.procs"), pid);
        }
        if !eventually(Duration::from_secs(10), || fs::remove_dir(&self.group).is_ok()) {
            report(format_args!("{} stays", self.group.display()));
        }
    }
}
