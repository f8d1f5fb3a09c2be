//! The control socket of a node: a Unix socket in the node's directory, which only its owner may use.
//!
//! In:     the directory.
//! Out:    a listener for the node, a connection for `logdrive ctl`.
//! Cost:   some system calls.
//! Fails:  with the system's error.
//!
//! A socket's path has room for 107 bytes, and directories have longer ones. So the socket is named through the open
//! directory: `/proc/self/fd/N/ctl.sock`.

use rustix::fs::{Mode, OFlags, fchmod, open};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

/// The socket's name in the directory.
pub(crate) const NAME: &str = "ctl.sock";

/// Listens in `dir`, in place of an earlier process that has the directory no more. The caller holds the directory's lock.
pub(crate) fn listen(dir: &Path) -> io::Result<UnixListener> {
    let dir = directory(dir)?;
    match rustix::fs::unlinkat(&dir, NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file that `bind` makes has the socket's own mode: nobody else can connect, not even before it is changed.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&address(&dir)?)?;
    socket.listen(BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}

/// Connects to the node that runs on `dir`.
pub(crate) fn connect(dir: &Path) -> io::Result<UnixStream> {
    let dir = directory(dir)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect(&address(&dir)?)?;
    Ok(OwnedFd::from(socket).into())
}

fn directory(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(dir, flags, Mode::empty())?)
}

fn address(dir: &OwnedFd) -> io::Result<SockAddr> {
    SockAddr::unix(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_in_a_directory_with_a_long_path_is_its_owners_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(connect(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = listen(&dir).unwrap();
        let mode = std::fs::metadata(dir.join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        connect(&dir).unwrap();
        drop(listener);
        assert_eq!(connect(&dir).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _next = listen(&dir).unwrap();
        connect(&dir).unwrap();
    }
}
