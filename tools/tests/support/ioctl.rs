//! The one raw ioctl of the tests: ext4's shutdown, which is what a power cut looks like from below.
//!
//! In:     any open file of the file system.
//! Out:    nothing more reaches its disk, the journal's unwritten transactions included; later I/O gets EIO.
//! Fails:  the system's answer: not root, or another file system.
//!
//! Protocol: the kernel reads one `u32` through the pointer while the call runs and keeps nothing of it.
#![allow(dead_code, reason = "each test binary uses its part")]

use rustix::ioctl::{Setter, ioctl, opcode};
use std::os::fd::AsFd;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`: by its number a read, but it is the kernel that reads.
const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
const _: () = assert!(SHUTDOWN == 0x8004_587D);

/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not written out first.
const WITHOUT_LOG_FLUSH: u32 = 2;

/// Cuts the power of the file system that `file` is on.
pub(crate) fn shut_down(file: impl AsFd) -> std::io::Result<()> {
    // SAFETY: the opcode takes a pointer to a `u32`, and `Setter` gives it one to a `u32` that it owns for the call.
    let request = unsafe { Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG_FLUSH) };
    // SAFETY: the request is complete and says what the kernel does with its memory: read four bytes during the call.
    Ok(unsafe { ioctl(file, request) }?)
}
