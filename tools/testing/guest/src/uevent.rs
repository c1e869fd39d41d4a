// SPDX-License-Identifier: GPL-2.0

//! Uevents: messages of the kernel to programs that look after devices, such as udev.

use std::mem;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;

use crate::sys::Errno;
use crate::sys::Result;

/// The group of those to whom the kernel sends them.
const FROM_KERNEL: u32 = 1;

/// Bytes that a uevent has at most, and some more.
const MOST: usize = 8192;

/// The uevents since some moment.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Those from now on.
    pub fn from_now() -> Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                libc::NETLINK_KOBJECT_UEVENT,
            )
        };
        if fd == -1 {
            return Err(Errno::last());
        }
        // SAFETY: it was just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: zeros are a valid address.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = FROM_KERNEL;
        // SAFETY: an address of this length.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
        match bound {
            0 => Ok(Self(socket)),
            _ => Err(Errno::last()),
        }
    }

    /// The next one that is there, without waiting. ENOBUFS if some are lost.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; MOST];
        // SAFETY: there is room for so many bytes.
        let len = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                0,
            )
        };
        match usize::try_from(len) {
            Ok(len) => {
                bytes.truncate(len);
                Ok(Some(bytes))
            }
            Err(_) => match Errno::last() {
                Errno(libc::EAGAIN) => Ok(None),
                errno => Err(errno),
            },
        }
    }

    /// How the DRM devices can be recovered that were said to be wedged since the last call.
    pub fn wedged(&mut self) -> Result<Vec<String>> {
        let mut methods = Vec::new();
        while let Some(uevent) = self.next()? {
            methods.extend(method(&uevent));
        }
        Ok(methods)
    }
}

/// The value of `WEDGED`, if this is a change of a DRM device that has one.
fn method(uevent: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(uevent);
    let value = |name: &str| {
        text.split('\0')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let is_change = value("ACTION") == Some("change") && value("SUBSYSTEM") == Some("drm");
    is_change.then(|| value("WEDGED"))?.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::method;

    #[test]
    fn methods_are_found() {
        let uevent = |action: &str, subsystem: &str, rest: &str| {
            let text = format!("{action}@/x\0ACTION={action}\0SUBSYSTEM={subsystem}\0{rest}");
            method(text.as_bytes())
        };
        let wedged = "WEDGED=rebind,bus-reset\0SEQNUM=7\0";

        assert_eq!(uevent("change", "drm", wedged).unwrap(), "rebind,bus-reset");
        assert_eq!(uevent("change", "drm", "SEQNUM=7\0"), None);
        assert_eq!(uevent("change", "pci", wedged), None);
        assert_eq!(uevent("add", "drm", wedged), None);
    }
}
