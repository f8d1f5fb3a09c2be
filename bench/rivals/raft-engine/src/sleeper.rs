//! The one place where the log's thread sleeps: until a write has finished, or somebody kicks it.
//!
//! In:     a [`Wal`]'s readiness; [`Sleeper::kick`] from any thread.
//! Out:    [`Sleeper::sleep`] returns.
//! Cost:   a system call a sleep, and one a kick.
//! Fails:  with the kernel's error.

use logdrive_wal::Wal;
use rustix::event::{EventfdFlags, epoll, eventfd};
use std::io;
use std::os::fd::OwnedFd;

pub(crate) struct Sleeper {
    epoll: OwnedFd,
    kick: OwnedFd,
}

impl Sleeper {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &kick, epoll::EventData::new_u64(0), edges())?;
        Ok(Self { epoll, kick })
    }

    pub(crate) fn watch(&self, wal: &Wal) -> io::Result<()> {
        let readiness = wal.readiness().ok_or_else(|| io::Error::other("no readiness"))?;
        Ok(epoll::add(&self.epoll, readiness, epoll::EventData::new_u64(1), edges())?)
    }

    pub(crate) fn sleep(&self) -> io::Result<()> {
        let mut events = Vec::with_capacity(2);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn kick(&self) -> io::Result<()> {
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

/// Edge-triggered: nobody reads the eventfds back to zero, and every write to one is a new edge.
fn edges() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::ET
}
