// SPDX-License-Identifier: GPL-2.0

//! Messages between processes, each of which can have a file with it: a client gives its buffers
//! and fences to a compositor so.

use std::mem;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;

use crate::sys::Errno;
use crate::sys::Result;

/// Bytes of a message.
pub const SIZE: usize = 32;

/// Room for a control message with one file, aligned as it has to be.
type Control = [u64; 4];

/// Where others connect to.
pub struct Listener(UnixListener);

impl Listener {
    /// Takes a name that ends with this object. It is no file.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self(UnixListener::bind_addr(&address(name)?)?))
    }

    /// The next one that has connected. Waits for it.
    pub fn accept(&self) -> Result<Socket> {
        Ok(Socket(self.0.accept()?.0))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn address(name: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::from_abstract_name(name)?)
}

/// A connection.
pub struct Socket(UnixStream);

impl Socket {
    /// Connects to a [`Listener`].
    pub fn connect(name: &str) -> Result<Self> {
        Ok(Self(UnixStream::connect_addr(&address(name)?)?))
    }

    /// Sends a message, and maybe a file. EPIPE if there is nobody any more.
    pub fn send(&self, message: &[u8; SIZE], file: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut bytes = *message;
        let mut control = Control::default();
        with_header(&mut bytes, &mut control, |header| {
            match file {
                None => {
                    header.msg_control = std::ptr::null_mut();
                    header.msg_controllen = 0;
                }
                // SAFETY: there is room for one file behind the control message's header.
                Some(file) => unsafe {
                    header.msg_controllen = libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) as _;
                    let first = libc::CMSG_FIRSTHDR(header);
                    (*first).cmsg_level = libc::SOL_SOCKET;
                    (*first).cmsg_type = libc::SCM_RIGHTS;
                    (*first).cmsg_len = libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as _;
                    libc::CMSG_DATA(first)
                        .cast::<RawFd>()
                        .write_unaligned(file.as_raw_fd());
                },
            }
            // SAFETY: all that the header points to lives through the call.
            match unsafe { libc::sendmsg(self.0.as_raw_fd(), header, libc::MSG_NOSIGNAL) } {
                -1 => Err(Errno::last()),
                n if n as usize == SIZE => Ok(()),
                _ => Err(Errno(libc::EIO)),
            }
        })
    }

    /// Receives a message, and maybe a file; `None` if the other side has gone. Waits for it.
    pub fn receive(&self) -> Result<Option<([u8; SIZE], Option<OwnedFd>)>> {
        let mut bytes = [0; SIZE];
        let mut control = Control::default();
        let (received, file) = with_header(&mut bytes, &mut control, |header| {
            let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_WAITALL;
            // SAFETY: all that the header points to lives through the call.
            let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), header, flags) };
            if received == -1 {
                return (Err(Errno::last()), None);
            }
            // SAFETY: the kernel has filled in the control message, if there is one.
            let file = unsafe {
                let first = libc::CMSG_FIRSTHDR(header);
                (!first.is_null() && (*first).cmsg_type == libc::SCM_RIGHTS).then(|| {
                    let fd = libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned();
                    // It was opened for us.
                    OwnedFd::from_raw_fd(fd)
                })
            };
            (Ok(received as usize), file)
        });
        match received {
            Ok(SIZE) => Ok(Some((bytes, file))),
            // Killed in the middle of a message, or with messages that it has not read.
            Ok(_) | Err(Errno(libc::ECONNRESET)) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Calls with a header of a message that has these bytes and this room.
fn with_header<T>(
    bytes: &mut [u8; SIZE],
    control: &mut Control,
    call: impl FnOnce(&mut libc::msghdr) -> T,
) -> T {
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: SIZE,
    };
    // SAFETY: a header of zeros is one without anything.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of::<Control>() as _;
    call(&mut header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn a_file_comes_with_a_message() {
        let name = format!("socket-test-{}", std::process::id());
        let listener = Listener::new(&name).unwrap();
        let one = Socket::connect(&name).unwrap();
        let other = listener.accept().unwrap();
        let zero = File::open("/dev/zero").unwrap();
        one.send(&[1; SIZE], None).unwrap();
        one.send(&[2; SIZE], Some(zero.as_fd())).unwrap();
        drop((zero, one));

        let (bytes, file) = other.receive().unwrap().unwrap();
        assert_eq!((bytes, file.is_some()), ([1; SIZE], false));
        let (bytes, file) = other.receive().unwrap().unwrap();
        assert_eq!(bytes, [2; SIZE]);
        let mut read = [1; 8];
        File::from(file.unwrap()).read_exact(&mut read).unwrap();
        assert_eq!(read, [0; 8]);
        assert!(other.receive().unwrap().is_none());
    }
}
