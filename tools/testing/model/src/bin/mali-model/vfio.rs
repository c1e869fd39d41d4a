// SPDX-License-Identifier: GPL-2.0

//! The server's side of the vfio-user protocol, as far as QEMU uses it.
//!
//! Every message is a header of 16 bytes (number, command, size, flags, error) and a body; a reply
//! repeats number and command. Messages are handled strictly in order, on one thread, and no
//! requests are sent to the emulator, as it holds its own big lock while it waits for a reply.
//!
//! Locks: none held across messages.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;

use model::machine::Machine;

use crate::device::Device;
use crate::device::REGIONS;
use crate::sys;

const HEADER: usize = 16;
/// The maximum number of bytes of data in one message, as announced to the emulator.
const MAX_DATA: usize = 1 << 20;
/// The maximum size of a message.
const MAX_MESSAGE: usize = MAX_DATA + 0x1000;
const CAPABILITIES: &str = r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}}"#;

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const GET_INFO: u16 = 4;
const GET_REGION_INFO: u16 = 5;
const GET_IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const RESET: u16 = 13;

const FLAG_REPLY: u32 = 1;
const FLAG_NO_REPLY: u32 = 1 << 4;
const FLAG_ERROR: u32 = 1 << 5;

const MAP_WRITE: u32 = 1 << 1;
const INFO_RESET: u32 = 1 << 0;
const INFO_PCI: u32 = 1 << 1;
const REGION_RW: u32 = 3;
const IRQ_EVENTFD: u32 = 1 << 0;
const IRQ_NORESIZE: u32 = 1 << 3;
const IRQ_TYPES: u32 = 5;
const IRQ_MSIX: u32 = 2;
const SET_DATA_NONE: u32 = 1 << 0;
const SET_DATA_BOOL: u32 = 1 << 1;
const SET_DATA_EVENTFD: u32 = 1 << 2;
const SET_ACTION_TRIGGER: u32 = 1 << 5;

/// An error that is sent as a reply.
struct Errno(i32);

const EINVAL: Errno = Errno(libc::EINVAL);
const EOPNOTSUPP: Errno = Errno(libc::EOPNOTSUPP);

/// The rest of the body of a message, which is parsed from the front.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (&front, rest) = self.0.split_first_chunk().ok_or(EINVAL)?;
        self.0 = rest;
        Ok(front)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The body of a reply.
#[derive(Default)]
struct Reply(Vec<u8>);

impl Reply {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
}

/// Serves one emulator until it disconnects.
pub(crate) fn serve<M: Machine>(stream: UnixStream, mut device: Device<M>) -> io::Result<()> {
    let mut body = Vec::new();
    loop {
        let mut fds = Vec::new();
        let mut header = [0; HEADER];
        let got = match sys::receive(&stream, &mut header, &mut fds) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            other => other?,
        };
        (&stream).read_exact(&mut header[got..])?;
        let [i0, i1, c0, c1, s0, s1, s2, s3, f0, f1, f2, f3, ..] = header;
        let command = u16::from_le_bytes([c0, c1]);
        let size = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if !(HEADER..=MAX_MESSAGE).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message size"));
        }
        body.resize(size - HEADER, 0);
        (&stream).read_exact(&mut body)?;
        let result = handle(&mut device, command, Body(&body), fds);
        if flags & FLAG_NO_REPLY != 0 {
            continue;
        }
        let (flags, errno, reply) = match result {
            Ok(Reply(reply)) => (FLAG_REPLY, 0, reply),
            Err(Errno(errno)) => (FLAG_REPLY | FLAG_ERROR, errno, Vec::new()),
        };
        let mut message = Vec::with_capacity(HEADER + reply.len());
        message.extend([i0, i1, c0, c1]);
        message.extend(((HEADER + reply.len()) as u32).to_le_bytes());
        message.extend(flags.to_le_bytes());
        message.extend(errno.to_le_bytes());
        message.extend(reply);
        match (&stream).write_all(&message) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
}

fn handle<M: Machine>(
    device: &mut Device<M>,
    command: u16,
    mut body: Body<'_>,
    fds: Vec<File>,
) -> Result<Reply, Errno> {
    let reply = Reply::default();
    Ok(match command {
        // The emulator only accepts version 0.0.
        VERSION => {
            let mut reply = reply.u16(0).u16(0);
            reply.0.extend(CAPABILITIES.as_bytes());
            reply.0.push(0);
            reply
        }
        DMA_MAP => {
            let (_argsz, flags) = (body.u32()?, body.u32()?);
            let (offset, iova, size) = (body.u64()?, body.u64()?, body.u64()?);
            let fd = fds.first();
            device.log(format_args!(
                "D map {iova:#x} {size:#x} flags {flags:#x} fd {}",
                fd.is_some()
            ));
            // A range without a descriptor is not accessible, such as another device's registers.
            if let Some(fd) = fd {
                device
                    .dma
                    .map(iova, fd, offset, size, flags & MAP_WRITE != 0)
                    .map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EINVAL)))?;
            }
            reply
        }
        DMA_UNMAP => {
            let (argsz, flags) = (body.u32()?, body.u32()?);
            let (iova, size) = (body.u64()?, body.u64()?);
            device.log(format_args!("D unmap {iova:#x} {size:#x} flags {flags:#x}"));
            // The number of the flag for "everything" differs between implementations, but the size
            // is always zero.
            if flags != 0 && size == 0 {
                device.dma.unmap_all();
            } else {
                device.dma.unmap(iova, size);
            }
            reply.u32(argsz).u32(flags).u64(iova).u64(size)
        }
        GET_INFO => reply
            .u32(16)
            .u32(INFO_RESET | INFO_PCI)
            .u32(REGIONS)
            .u32(IRQ_TYPES),
        GET_REGION_INFO => {
            let (_argsz, _flags, index) = (body.u32()?, body.u32()?, body.u32()?);
            if index >= REGIONS {
                return Err(EINVAL);
            }
            let size = device.region_size(index);
            let flags = if size != 0 { REGION_RW } else { 0 };
            reply.u32(32).u32(flags).u32(index).u32(0).u64(size).u64(0)
        }
        GET_IRQ_INFO => {
            let (_argsz, _flags, index) = (body.u32()?, body.u32()?, body.u32()?);
            match index {
                IRQ_MSIX => reply
                    .u32(16)
                    .u32(IRQ_EVENTFD | IRQ_NORESIZE)
                    .u32(index)
                    .u32(device.eventfds.vectors() as u32),
                ..IRQ_TYPES => reply.u32(16).u32(0).u32(index).u32(0),
                _ => return Err(EINVAL),
            }
        }
        SET_IRQS => {
            set_irqs(device, body, fds)?;
            reply
        }
        REGION_READ => {
            let (at, region, count) = (body.u64()?, body.u32()?, body.u32()?);
            check(device, region, at, count)?;
            let mut reply = reply.u64(at).u32(region).u32(count);
            let front = reply.0.len();
            reply.0.resize(front + count as usize, 0);
            device.read(region, at, &mut reply.0[front..]);
            reply
        }
        REGION_WRITE => {
            let (at, region, count) = (body.u64()?, body.u32()?, body.u32()?);
            check(device, region, at, count)?;
            let data = body.0.get(..count as usize).ok_or(EINVAL)?;
            device.write(region, at, data);
            reply.u64(at).u32(region).u32(count)
        }
        RESET => {
            device.machine_reset();
            reply
        }
        _ => return Err(EOPNOTSUPP),
    })
}

/// Checks that an access is within its region and not too large.
fn check<M: Machine>(device: &Device<M>, region: u32, at: u64, count: u32) -> Result<(), Errno> {
    let end = at.checked_add(u64::from(count)).ok_or(EINVAL)?;
    if end > device.region_size(region) || count as usize > MAX_DATA {
        return Err(EINVAL);
    }
    Ok(())
}

/// Sets up or removes interrupts, one vector at a time. The first one is enabled with a count of 1
/// and no descriptor.
fn set_irqs<M: Machine>(
    device: &mut Device<M>,
    mut body: Body<'_>,
    fds: Vec<File>,
) -> Result<(), Errno> {
    let (_argsz, flags) = (body.u32()?, body.u32()?);
    let (index, start, count) = (body.u32()?, body.u32()?, body.u32()?);
    if index != IRQ_MSIX {
        return if index < IRQ_TYPES {
            Ok(())
        } else {
            Err(EINVAL)
        };
    }
    let (start, count) = (start as usize, count as usize);
    let vectors = device.eventfds.vectors();
    if start.checked_add(count).is_none_or(|end| end > vectors) {
        return Err(EINVAL);
    }
    if flags & SET_ACTION_TRIGGER == 0 {
        // Masking happens in the emulator.
        return Ok(());
    }
    if flags & SET_DATA_EVENTFD != 0 {
        let mut fds = fds.into_iter();
        for vector in start..start + count {
            device.eventfds.set(vector, fds.next());
        }
    } else if flags & SET_DATA_NONE != 0 && count == 0 {
        device.eventfds.clear();
    } else {
        for vector in start..start + count {
            let fire = flags & SET_DATA_BOOL == 0 || body.take::<1>()? != [0];
            if fire {
                device.eventfds.trigger(vector);
            }
        }
    }
    Ok(())
}
