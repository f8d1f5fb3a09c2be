//! A filter of system calls (seccomp): a thread, and those that it starts, are refused one kind of call from then on.
//!
//! In:     the kind of call, and the answer to it.
//! Out:    the answer instead of the call, for as long as the thread lives; every other call is made.
//! Fails:  with the system's answer, if the kernel has no filters.
//!
//! Protocol: the kernel reads a `sock_fprog`, and through its pointer a list of instructions, while the call runs, copies
//! both, and keeps nothing of them.

use rustix::io::Errno;
use std::io;

/// A kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Fallocate,
    /// `io_uring_register` of a kind with a number above this one.
    RegisterBehind(u32),
}

/// From here on this thread, and those that it starts, get `errno` as the answer to such calls.
pub(crate) fn refuse(refused: Call, errno: Errno) -> io::Result<()> {
    let number = match refused {
        Call::Fallocate => libc::SYS_fallocate,
        Call::RegisterBehind(_) => libc::SYS_io_uring_register,
    };
    let number = u32::try_from(number).expect("numbers of calls are small");
    let errno = u32::try_from(errno.raw_os_error()).expect("above zero");
    let (load, jump, answer) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_K, libc::BPF_RET);
    // Jumps are relative to the next instruction: if it holds, otherwise.
    let allow = op(answer, libc::SECCOMP_RET_ALLOW, 0, 0);
    let deny = op(answer, libc::SECCOMP_RET_ERRNO | errno, 0, 0);
    let is_call = op(jump | libc::BPF_JEQ, number, 1, 0);
    let mut instructions = vec![op(load, CALL_NUMBER_AT, 0, 0), is_call, allow];
    if let Call::RegisterBehind(most) = refused {
        instructions.extend([
            op(load, SECOND_ARGUMENT_AT, 0, 0),
            op(jump | libc::BPF_JGT, most, 1, 0),
            allow,
        ]);
    }
    instructions.push(deny);
    let len = instructions.len().try_into().expect("a few");
    let program = libc::sock_fprog { len, filter: instructions.as_mut_ptr() };
    // Without rights of its own a filter is taken only from a thread that can gain none.
    rustix::thread::set_no_new_privs(true)?;
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the instructions and `program`, which points to them, live until the call has copied them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code.try_into().expect("codes have 16 bits"), jt, jf, k }
}

/// Of `struct seccomp_data`.
const CALL_NUMBER_AT: u32 = 0;
/// The lower half of the second argument.
const SECOND_ARGUMENT_AT: u32 = if cfg!(target_endian = "little") { 24 } else { 28 };
