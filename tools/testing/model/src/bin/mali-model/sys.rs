// SPDX-License-Identifier: GPL-2.0

//! System calls without a safe wrapper in the standard library.
//!
//! Locks: none.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::io::Write;
use std::mem::size_of;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

/// The maximum number of file descriptors in one message.
pub(crate) const MAX_FDS: usize = 16;

/// A buffer for the control message, aligned as its header requires.
#[repr(C, align(8))]
struct ControlBuffer([u8; 128]);

/// Adds one to an eventfd.
pub(crate) fn signal(fd: &File) {
    // The counter overflows after 2^64 - 2 unread messages.
    let _ = { fd }.write(&1u64.to_ne_bytes());
}

/// Receives bytes into `buf`, at least one unless the peer has closed the connection, and the file
/// descriptors that came with them.
pub(crate) fn receive(
    stream: &UnixStream,
    buf: &mut [u8],
    fds: &mut Vec<File>,
) -> io::Result<usize> {
    let mut control = ControlBuffer([0; 128]);
    let mut iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut msg: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    msg.msg_iov = &mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.0.as_mut_ptr().cast();
    msg.msg_controllen = control.0.len();
    let received = loop {
        // SAFETY: `msg` points to `iov` and `control`, which point to live buffers of the lengths
        // given.
        let n = unsafe { libc::recvmsg(stream.as_raw_fd(), &mut msg, libc::MSG_CMSG_CLOEXEC) };
        if let Ok(n) = usize::try_from(n) {
            break n;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    // SAFETY: `msg` is as `recvmsg` left it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&msg) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a header inside `control`.
        let (level, kind, len) = unsafe {
            (
                (*header).cmsg_level,
                (*header).cmsg_type,
                (*header).cmsg_len,
            )
        };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: no memory is accessed.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = len.saturating_sub(before) / size_of::<RawFd>();
            // SAFETY: the data follows the header.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for n in 0..count.min(MAX_FDS) {
                // SAFETY: the header says that there are `count` descriptors, which are now ours.
                fds.push(unsafe { File::from_raw_fd(data.add(n).read_unaligned()) });
            }
        }
        // SAFETY: `msg` and `header` are as `recvmsg` left them.
        header = unsafe { libc::CMSG_NXTHDR(&msg, header) };
    }
    Ok(received)
}
