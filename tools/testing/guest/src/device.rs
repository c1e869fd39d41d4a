// SPDX-License-Identifier: GPL-2.0

//! The GPU's render node: finding it, opening it, asking about it, submitting.

use std::env;
use std::ffi::CString;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use model::job::Arch;
use model::product;
use model::product::Product;

use crate::bo::Bo;
use crate::board::Board;
use crate::sync::Syncobj;
use crate::sys;
use crate::sys::Errno;
use crate::sys::Result;
use crate::uapi;

/// Name and version as `DRM_IOCTL_VERSION` tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The DRM driver's name: `panfrost` for both drivers.
    pub name: String,
    /// Major version.
    pub major: i32,
    /// Minor version.
    pub minor: i32,
}

/// Where a GPU is.
#[derive(Clone, Debug)]
pub struct Node {
    /// The render node.
    pub path: PathBuf,
    /// The kernel driver that the device is bound to: `panfrost` or `drm_gpu`.
    pub driver: String,
}

impl Node {
    /// The render nodes whose DRM driver calls itself `panfrost`, in the order of their numbers.
    pub fn all() -> Vec<Self> {
        let mut nodes: Vec<_> = fs::read_dir("/dev/dri")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let path = entry.path();
                let name = path.file_name()?.to_str()?;
                if !name.starts_with("renderD") {
                    return None;
                }
                let driver = Path::new("/sys/class/drm").join(name).join("device/driver");
                let driver = fs::read_link(driver).ok()?;
                let driver = driver.file_name()?.to_str()?.to_owned();
                let version = open_file(&path).and_then(|fd| version(fd.as_fd())).ok()?;
                (version.name == "panfrost").then_some(Self { path, driver })
            })
            .collect();
        nodes.sort_by(|a, b| a.path.cmp(&b.path));
        nodes
    }

    /// The name of the platform device, and the folder of the driver that it is bound to.
    fn binding(&self) -> Result<(OsString, PathBuf)> {
        let device = Path::new("/sys/class/drm")
            .join(self.path.file_name().unwrap_or_default())
            .join("device")
            .canonicalize()?;
        let name = device.file_name().unwrap_or_default().to_owned();
        Ok((name, device.join("driver").canonicalize()?))
    }

    /// Takes the GPU from its driver.
    pub fn unbind(&self) -> Result<Away> {
        let (device, driver) = self.binding()?;
        fs::write(driver.join("unbind"), device.as_encoded_bytes())?;
        Ok(Away::Unbound { device, driver })
    }

    /// Takes the board off the PCI bus, and the GPU with it. ENODEV if it is on none.
    pub fn remove(&self) -> Result<Away> {
        let board = Board::pci_device().ok_or(Errno(libc::ENODEV))?;
        fs::write(board.join("remove"), "1")?;
        Ok(Away::Removed)
    }

    /// Unloads the driver's module. EBUSY or EAGAIN if it is in use.
    pub fn unload(&self) -> Result<()> {
        let module = CString::new(self.driver.as_str()).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: a string; the kernel refuses to unload what is in use.
        let ret =
            unsafe { libc::syscall(libc::SYS_delete_module, module.as_ptr(), libc::O_NONBLOCK) };
        match ret {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// Loads the driver's module again, with the parameters that the guest gives it and with
    /// others, which prevail. The module refuses a parameter that it is given twice.
    pub fn load(&self, others: &[&str]) -> io::Result<()> {
        let args = env::var("module_args").unwrap_or_default();
        let name = |arg: &str| arg.split('=').next().map(str::to_owned);
        let is_left = |arg: &&str| others.iter().all(|other| name(other) != name(arg));
        let load = Command::new("modprobe")
            .arg(&self.driver)
            .args(args.split_whitespace().filter(is_left))
            .args(others)
            .status()?;
        match load.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("modprobe: {load}"))),
        }
    }

    /// Opens the node.
    pub fn open(&self) -> Result<Device> {
        Ok(Device {
            fd: Arc::new(open_file(&self.path)?),
        })
    }

    /// Opens the primary node of the same GPU, which has more ioctls. Root only.
    pub fn open_primary(&self) -> Result<Device> {
        let nodes = Path::new("/sys/class/drm")
            .join(self.path.file_name().unwrap_or_default())
            .join("device/drm");
        let card = fs::read_dir(nodes)?
            .flatten()
            .map(|entry| entry.file_name())
            .find(|name| name.to_string_lossy().starts_with("card"))
            .ok_or(Errno(libc::ENODEV))?;
        Ok(Device {
            fd: Arc::new(open_file(&Path::new("/dev/dri").join(card))?),
        })
    }
}

/// A GPU that its driver does not have any more.
#[derive(Clone, Debug)]
pub enum Away {
    /// It is without a driver.
    Unbound {
        /// The platform device.
        device: OsString,
        /// The folder of the driver.
        driver: PathBuf,
    },
    /// It is off the bus.
    Removed,
}

impl Away {
    /// Gives it back to the driver. It gets the same node if nobody has the old one open.
    pub fn give_back(&self) -> Result<()> {
        Ok(match self {
            Self::Unbound { device, driver } => {
                fs::write(driver.join("bind"), device.as_encoded_bytes())?
            }
            Self::Removed => fs::write("/sys/bus/pci/rescan", "1")?,
        })
    }
}

/// Opens a device file for reading and writing.
pub fn open_file(path: &Path) -> Result<OwnedFd> {
    Ok(fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)?
        .into())
}

/// Asks any DRM file for its driver.
pub fn version(fd: BorrowedFd<'_>) -> Result<Version> {
    let mut name = [0u8; 64];
    let mut arg = uapi::Version {
        name_len: name.len(),
        name: name.as_mut_ptr() as usize,
        ..Default::default()
    };
    // SAFETY: `name` takes the bytes that `name_len` says, the other strings have no room.
    unsafe { sys::ioctl(fd, uapi::VERSION, &mut arg)? };
    Ok(Version {
        name: String::from_utf8_lossy(&name[..arg.name_len.min(name.len())]).into_owned(),
        major: arg.major,
        minor: arg.minor,
    })
}

/// An open file of the GPU: an address space of its own. Clones share it.
#[derive(Clone)]
pub struct Device {
    fd: Arc<OwnedFd>,
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Device {
    /// Takes over a file that somebody else has opened.
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd) }
    }
}

/// The parts of a submit.
#[derive(Clone, Copy, Default)]
pub struct Job<'a> {
    /// The first job's address.
    pub head: u64,
    /// `REQ_*`.
    pub requirements: u32,
    /// The context, 0 for the one that every file has.
    pub context: u32,
    /// The BOs to synchronise with.
    pub bos: &'a [&'a Bo],
    /// The syncobjs to wait for.
    pub wait: &'a [&'a Syncobj],
    /// The syncobj to put the job's fence into.
    pub signal: Option<&'a Syncobj>,
}

impl Device {
    /// Name and version.
    pub fn version(&self) -> Result<Version> {
        version(self.as_fd())
    }

    /// The minor version, 0 if it cannot be had.
    pub fn minor(&self) -> i32 {
        self.version().map(|version| version.minor).unwrap_or(0)
    }

    /// A parameter.
    pub fn param(&self, param: u32) -> Result<u64> {
        let mut arg = uapi::GetParam {
            param,
            ..Default::default()
        };
        self.get_param(&mut arg)?;
        Ok(arg.value)
    }

    /// A parameter, with an argument of the caller's making.
    pub fn get_param(&self, arg: &mut uapi::GetParam) -> Result<()> {
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.as_fd(), uapi::GET_PARAM, arg) }
    }

    /// The modelled GPU that this one says to be.
    pub fn product(&self) -> Result<&'static Product> {
        let id = self.param(uapi::PARAM_PROD_ID)?;
        product::PRODUCTS
            .into_iter()
            .find(|product| u64::from(product.id) == id)
            .ok_or(Errno(libc::ENODEV))
    }

    /// The generation of the GPU, which decides the descriptors.
    pub fn arch(&self) -> Result<Arch> {
        Ok(self.product()?.arch)
    }

    /// Makes a BO of at least `size` bytes.
    pub fn create(&self, size: usize, flags: u32) -> Result<Bo> {
        Bo::create(self, size, flags)
    }

    /// Makes a syncobj without a fence.
    pub fn syncobj(&self) -> Result<Syncobj> {
        Syncobj::create(self, 0)
    }

    /// Submits a chain.
    pub fn submit(&self, job: Job<'_>) -> Result<()> {
        let bos: Vec<u32> = job.bos.iter().map(|bo| bo.handle()).collect();
        let wait: Vec<u32> = job.wait.iter().map(|sync| sync.handle()).collect();
        let mut arg = uapi::Submit {
            jc: job.head,
            requirements: job.requirements,
            in_syncs: wait.as_ptr() as u64,
            in_sync_count: wait.len() as u32,
            out_sync: job.signal.map_or(0, Syncobj::handle),
            bo_handles: bos.as_ptr() as u64,
            bo_handle_count: bos.len() as u32,
            jm_ctx_handle: job.context,
            ..Default::default()
        };
        self.submit_raw(&mut arg)
    }

    /// Submits with an argument of the caller's making. The kernel only reads through its pointers.
    pub fn submit_raw(&self, arg: &mut uapi::Submit) -> Result<()> {
        // SAFETY: the kernel reads through the pointers and refuses bad ones.
        unsafe { sys::ioctl(self.as_fd(), uapi::SUBMIT, arg) }
    }

    /// Makes a context with a priority.
    pub fn create_context(&self, priority: u32) -> Result<u32> {
        let mut arg = uapi::JmCtxCreate {
            handle: 0,
            priority,
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.as_fd(), uapi::JM_CTX_CREATE, &mut arg)? };
        Ok(arg.handle)
    }

    /// Drops a context.
    pub fn destroy_context(&self, handle: u32) -> Result<()> {
        let mut arg = uapi::JmCtxDestroy { handle, pad: 0 };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.as_fd(), uapi::JM_CTX_DESTROY, &mut arg) }
    }

    /// Drops a GEM handle.
    pub fn close_handle(&self, handle: u32) -> Result<()> {
        let mut arg = uapi::GemClose { handle, pad: 0 };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.as_fd(), uapi::GEM_CLOSE, &mut arg) }
    }
}
