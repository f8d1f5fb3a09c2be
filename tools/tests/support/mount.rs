//! A disk whose power can be cut: an ext4 file system in a file, on a loop device.
//!
//! In:     a directory for the file and the mount point, and the size.
//! Out:    [`Disk`]: mounted at a path; [`Disk::cut_power`]; mounted again with what had reached it.
//! Fails:  making one says why it cannot be (not root, no loop devices, no mkfs); then the test is skipped.
//!
//! Dropping it unmounts and gives the loop device back, also when a test fails half-way.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::{
    ioctl,
    support::{eventually, process::run, report},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

/// A mounted file system of its own.
#[derive(Debug)]
pub(crate) struct Disk {
    device: String,
    place: PathBuf,
    mounted: bool,
}

/// The fate of direct writes (`O_DIRECT`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writes {
    /// They pass the page cache by: blocks that were written before reach the loop device's file without a sync.
    Direct,
    /// They go into the page cache, because ext4 keeps its data in its journal: bytes that are not synced are lost.
    Cached,
    /// They go into the page cache, because every file is encrypted with the kernel's test key; the data is written back
    /// to its own place.
    Encrypted,
}

impl Disk {
    /// Makes and mounts it, or says why that cannot be done here.
    pub(crate) fn new(dir: &Path, bytes: u64) -> Result<Self, String> {
        Self::with(dir, bytes, Writes::Direct)
    }

    /// The same, with writes of another kind.
    pub(crate) fn with(dir: &Path, bytes: u64, writes: Writes) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can mount a file system".to_owned());
        }
        let (image, place) = (dir.join("disk.img"), dir.join("disk"));
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        drop(file);
        fs::create_dir(&place).map_err(|error| error.to_string())?;
        let image = image.to_string_lossy();
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-O", "encrypt", &image])?;
        let device = run("losetup", &["--find", "--show", &image])?;
        let mut disk = Self { device, place, mounted: false };
        disk.mount(writes)?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.place
    }

    /// Its block device, such as `/dev/loop3`.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// From now on nothing reaches the disk, whatever the page cache holds.
    pub(crate) fn cut_power(&self) {
        ioctl::shut_down(File::open(&self.place).unwrap()).expect("ext4's shutdown");
    }

    /// Unmounts it and mounts it again: the page cache is gone, the journal is replayed. Nothing may have a file open.
    pub(crate) fn power_on(&mut self, writes: Writes) {
        let mut last = String::new();
        // A killed process' ring lets go of its files a moment after the process is gone.
        let unmounted = eventually(UNMOUNT_MAX, || match run("umount", &[&self.path_text()]) {
            Ok(_) => true,
            Err(why) => {
                last = why;
                false
            }
        });
        assert!(unmounted, "{last}");
        self.mounted = false;
        self.mount(writes).unwrap();
    }

    fn mount(&mut self, writes: Writes) -> Result<(), String> {
        let data = match writes {
            Writes::Direct => "data=ordered",
            Writes::Cached => "data=journal",
            Writes::Encrypted => "data=ordered,test_dummy_encryption",
        };
        // The file system writes nothing by itself: no commit by the clock, no tables in the background.
        let options = format!("{data},commit=300,noinit_itable");
        run("mount", &["-t", "ext4", "-o", &options, &self.device, &self.path_text()])?;
        self.mounted = true;
        Ok(())
    }

    fn path_text(&self) -> String {
        self.place.to_string_lossy().into_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let place = self.path_text();
        if self.mounted
            && !eventually(UNMOUNT_MAX, || run("umount", &[&place]).is_ok())
            && let Err(why) = run("umount", &["--lazy", &place])
        {
            report(why);
        }
        if let Err(why) = run("losetup", &["--detach", &self.device]) {
            report(why);
        }
    }
}

const UNMOUNT_MAX: Duration = Duration::from_secs(30);
