//! Room on a file system, and its end.
//!
//! In:     where; how many bytes.
//! Out:    [`Memory`]: a small file system in memory; [`Ballast`]: a file that takes all the room there is.
//! Fails:  as [`crate::mount::Disk`] does.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::support::{process::run, report};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// A tmpfs, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Memory(PathBuf);

impl Memory {
    /// Mounts it below `dir`.
    pub(crate) fn new(dir: &Path, bytes: u64) -> Result<Self, String> {
        let place = dir.join("memory");
        fs::create_dir(&place).map_err(|error| error.to_string())?;
        Self::at(place, bytes)
    }

    /// Mounts it at a directory that is there.
    pub(crate) fn at(place: PathBuf, bytes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can mount a file system".to_owned());
        }
        let size = format!("size={bytes}");
        run("mount", &["-t", "tmpfs", "-o", &size, "logdrive-test", &place.to_string_lossy()])?;
        Ok(Self(place))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let place = self.0.to_string_lossy().into_owned();
        if run("umount", &[&place]).is_err()
            && let Err(why) = run("umount", &["--lazy", &place])
        {
            report(why);
        }
    }
}

/// Takes the room, and gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Ballast(PathBuf);

impl Ballast {
    /// Writes until there is no room for another block.
    pub(crate) fn fill(dir: &Path) -> Self {
        let ballast = Self(dir.join("ballast"));
        ballast.take_more();
        ballast
    }

    /// The same where a file system finds blocks only when it writes them, and sets aside more than it needs until then.
    pub(crate) fn fill_to_the_last_block(dir: &Path) -> Self {
        let ballast = Self::fill(dir);
        loop {
            File::open(&ballast.0).unwrap().sync_all().unwrap();
            if ballast.take_more() == 0 {
                return ballast;
            }
        }
    }

    /// Takes what has become free since; returns how many bytes at least.
    pub(crate) fn take_more(&self) -> usize {
        let mut file = File::options().create(true).append(true).open(&self.0).unwrap();
        let mut taken = 0;
        for bytes in [1 << 20, 4 << 10] {
            let block = vec![0xBA; bytes];
            while file.write_all(&block).is_ok() {
                taken += bytes;
            }
        }
        taken
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            report(format_args!("{} stays: {error}", self.0.display()));
        }
    }
}
