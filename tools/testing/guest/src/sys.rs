// SPDX-License-Identifier: GPL-2.0

//! System calls: ioctl, mmap, poll, clocks, with errors that name their errno.

use std::fmt;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::compiler_fence;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// An errno.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Why the last call of this thread failed.
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EINTR => "EINTR",
            libc::EIO => "EIO",
            libc::E2BIG => "E2BIG",
            libc::EBADF => "EBADF",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENOTTY => "ENOTTY",
            libc::ENOSPC => "ENOSPC",
            libc::ENOSYS => "ENOSYS",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EALREADY => "EALREADY",
            libc::ECANCELED => "ECANCELED",
            libc::ETIME => "ETIME",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::EOVERFLOW => "EOVERFLOW",
            libc::ENOBUFS => "ENOBUFS",
            other => return write!(f, "errno {other}"),
        };
        f.write_str(name)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Has a write to a pipe that nobody reads any more end the process quietly, as of other programs.
pub fn end_with_reader() {
    // SAFETY: the default action concerns no memory.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Has such a write fail with EPIPE, as Rust's programs begin.
pub fn outlive_reader() {
    // SAFETY: nor does it to ignore the signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Errno>;

/// An ioctl's number: direction (1 write, 2 read, 3 both), type, number, size of the argument.
pub const fn request(direction: u64, class: u8, nr: u8, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | ((class as u64) << 8) | nr as u64
}

/// Calls an ioctl, again for as long as a signal or a busy driver asks for it.
///
/// # Safety
///
/// `arg` has the layout that `request` wants, and the pointers in it are good for what the kernel
/// does with them, or are such that it refuses them.
pub unsafe fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, arg: &mut T) -> Result<()> {
    loop {
        // SAFETY: as the caller promises.
        match unsafe { ioctl_once(fd, request, arg) } {
            Err(Errno(libc::EINTR | libc::EAGAIN)) => continue,
            result => return result,
        }
    }
}

/// Calls an ioctl, once.
///
/// # Safety
///
/// As for [`ioctl`].
pub unsafe fn ioctl_once<T>(fd: BorrowedFd<'_>, request: u64, arg: &mut T) -> Result<()> {
    // SAFETY: as the caller promises.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request as _, ptr::from_mut(arg)) } {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// Memory that a file has been mapped to. Others (the GPU, other processes) may change it at any
/// time, so it is only ever copied from and to.
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: all accesses are copies of bytes that anybody may change meanwhile.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` on, shared, for reading and writing.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces none.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes. It always has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is.
    pub fn address(&self) -> usize {
        self.start as usize
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len).expect("offset overflows");
        assert!(end <= self.len, "{offset:#x}+{len:#x} of {:#x}", self.len);
        // SAFETY: within the mapping.
        unsafe { self.start.add(offset) }
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        let from = self.at(offset, buf.len());
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `at` has checked the range; `buf` is elsewhere.
        unsafe { ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
    }

    /// Copies bytes out.
    pub fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        self.read(offset, &mut buf);
        buf
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, data: &[u8]) {
        let to = self.at(offset, data.len());
        // SAFETY: `at` has checked the range; `data` is elsewhere.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        // SAFETY: the whole mapping.
        unsafe { ptr::write_bytes(self.start, byte, self.len) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Writes to each page.
    pub fn touch(&self) {
        for offset in (0..self.len).step_by(4096) {
            // SAFETY: within the mapping.
            unsafe { ptr::write_volatile(self.start.add(offset), 1) };
        }
    }

    /// Reads an aligned 32-bit word, once.
    pub fn get32(&self, offset: usize) -> u32 {
        assert!(offset % 4 == 0);
        // SAFETY: `at` has checked the range; mappings start on a page.
        u32::from_le(unsafe { ptr::read_volatile(self.at(offset, 4).cast()) })
    }

    /// Writes an aligned 32-bit word, once.
    pub fn put32(&self, offset: usize, value: u32) {
        assert!(offset % 4 == 0);
        // SAFETY: `at` has checked the range; mappings start on a page.
        unsafe { ptr::write_volatile(self.at(offset, 4).cast(), value.to_le()) };
    }

    /// Reads an aligned 64-bit word, once.
    pub fn get64(&self, offset: usize) -> u64 {
        assert!(offset % 8 == 0);
        // SAFETY: `at` has checked the range; mappings start on a page.
        u64::from_le(unsafe { ptr::read_volatile(self.at(offset, 8).cast()) })
    }

    /// Writes an aligned 64-bit word, once.
    pub fn put64(&self, offset: usize, value: u64) {
        assert!(offset % 8 == 0);
        // SAFETY: `at` has checked the range; mappings start on a page.
        unsafe { ptr::write_volatile(self.at(offset, 8).cast(), value.to_le()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing borrowed from it.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Set where nothing is worth a long wait.
static HURRIED: AtomicBool = AtomicBool::new(false);

/// Makes everything in this process, and in those that it starts from now on, give up ten times
/// sooner: a test that is expected to fail mostly does so by waiting in vain.
pub fn hurry() {
    HURRIED.store(true, Ordering::Relaxed);
}

/// Returns how long to wait before giving up, where `timeout` is long enough on a busy host.
pub fn patience(timeout: Duration) -> Duration {
    if HURRIED.load(Ordering::Relaxed) {
        timeout / 10
    } else {
        timeout
    }
}

/// Whether a file becomes readable within this time: a sync_file's fence has signalled then.
pub fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let end = Instant::now() + patience(timeout);
    loop {
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let left = end.saturating_duration_since(Instant::now());
        let left = left.as_millis().min(i32::MAX as u128) as i32;
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&mut poll, 1, left) } {
            -1 => return Err(Errno::last()),
            // It was seen to come back early once, with C panfrost on a busy host; why is not
            // known.
            0 if left > 0 => (),
            n => return Ok(n > 0),
        }
    }
}

/// Which of these files can be read from, or have an end to be seen. Waits until one can, at most
/// for this time.
pub fn readable_of(fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<Vec<bool>> {
    let mut polls: Vec<_> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let ms = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: as many valid entries.
    match unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, ms) } {
        -1 => Err(Errno::last()),
        _ => Ok(polls.iter().map(|poll| poll.revents != 0).collect()),
    }
}

/// The monotonic clock in nanoseconds: the clock of absolute timeouts.
pub fn now_ns() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    #[expect(clippy::unnecessary_cast, reason = "32-bit targets differ")]
    let (sec, nsec) = (time.tv_sec as i64, time.tv_nsec as i64);
    sec * 1_000_000_000 + nsec
}

/// The absolute time this far in the future, at which a wait gives up.
pub fn deadline_ns(after: Duration) -> i64 {
    now_ns().saturating_add(i64::try_from(patience(after).as_nanos()).unwrap_or(i64::MAX))
}
