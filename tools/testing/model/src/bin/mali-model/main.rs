// SPDX-License-Identifier: GPL-2.0

//! `mali-model`: the GPU model as a PCI function behind a vfio-user socket.
//!
//! One process serves one emulator and ends when the emulator disconnects. The emulator needs its
//! guest memory shared (`memory-backend-memfd,share=on`) and `-device
//! '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"PATH"}}'`.
//!
//! Threads: the main thread serves the socket, the engine's thread runs jobs, and others serve the
//! control socket if there is one. `unsafe` is in `sys` (receiving file descriptors, eventfds) and
//! `dma` (guest memory) only.

#![deny(unsafe_code)]

mod control_socket;
mod device;
mod dma;
mod irqs;
mod log;
mod pci;
mod sys;
mod vfio;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::ValueEnum;

use model::control::Board;
use model::engine::Engine;
use model::engine::Mode;
use model::gpu::Gpu;
use model::gpu::Timing;
use model::host::Clock;
use model::host::RealClock;
use model::host::Trace;
use model::host::VirtualClock;
use model::machine::Machine;
use model::product::Product;
use model::product::G31;
use model::product::G52;
use model::product::G57;
use model::product::T628;
use model::product::T720;
use model::product::T860;

use crate::device::Device;
use crate::dma::DmaMap;
use crate::irqs::Eventfds;
use crate::log::Log;

/// The guest time that one register access takes in synchronous mode, in nanoseconds.
const SYNC_NS_PER_ACCESS: u64 = 10_000;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GpuName {
    /// Mali-G31 (0x7093), Bifrost
    G31,
    /// Mali-G52 r1 (0x7402), Bifrost
    G52,
    /// Mali-G52 that is not coherent with the CPUs, as on most boards
    G52Nc,
    /// Mali-G52 whose node has two power domains where one belongs
    G52TwoDomains,
    /// Mali-G52 on a system that switches clock and reset line with the power domain (H616)
    #[value(name = "g52-h616")]
    G52H616,
    /// Mali-G57 (0x9093), Valhall
    G57,
    /// Mali-G57 that is not coherent with the CPUs
    G57Nc,
    /// Mali-G57 on a system with three power domains, AArch64 page tables and operating points by
    /// speed bin (MT8188), left by the boot loader as T860Nc
    G57Mt8188,
    /// Mali-T628 MP6 (0x0620), Midgard, with two groups of cores
    T628,
    /// Mali-T720 (0x0720), Midgard
    T720,
    /// Mali-T860 (0x0860), Midgard
    T860,
    /// Mali-T860 that is not coherent with the CPUs, left by the boot loader at the highest rate
    /// and the lowest voltage
    T860Nc,
}

impl GpuName {
    fn product(self) -> &'static Product {
        match self {
            GpuName::G31 => &G31,
            GpuName::G52 | GpuName::G52Nc | GpuName::G52TwoDomains | GpuName::G52H616 => &G52,
            GpuName::G57 | GpuName::G57Nc | GpuName::G57Mt8188 => &G57,
            GpuName::T628 => &T628,
            GpuName::T720 => &T720,
            GpuName::T860 | GpuName::T860Nc => &T860,
        }
    }

    /// Returns the PCI revision, which selects one of the boards with this GPU (`vgpu_products` of
    /// the board module).
    fn revision(self) -> u8 {
        match self {
            GpuName::G52 | GpuName::G57 | GpuName::T860 => 0,
            GpuName::G31 | GpuName::T628 | GpuName::T720 => 0,
            GpuName::G57Mt8188 | GpuName::G52Nc | GpuName::T860Nc => 1,
            GpuName::G57Nc | GpuName::G52TwoDomains => 2,
            GpuName::G52H616 => 3,
        }
    }
}

/// A software model of a Mali GPU as a PCI function behind a vfio-user socket
#[derive(Debug, Parser)]
struct Args {
    /// Where the emulator connects
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// Which GPU
    #[arg(long, value_enum, default_value = "g52")]
    gpu: GpuName,

    /// Do all work before a register write is answered (for -icount)
    #[arg(long)]
    sync: bool,

    /// Be as slow, as late and as little ordered as silicon is
    #[arg(long, conflicts_with = "sync")]
    silicon: bool,

    /// Log register accesses, interrupts, DMA maps and events of the GPU
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Take orders (one per line, as "hang-next-job any 1") on this socket
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Power, clock and reset are on from the start, for boards that do not drive them
    #[arg(long)]
    always_on: bool,
}

/// Listens at `path`. The file only appears when clients can connect.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let mut early = path.as_os_str().to_owned();
    early.push(".new");
    let _ = std::fs::remove_file(&early);
    let listener = UnixListener::bind(&early)?;
    std::fs::rename(&early, path)?;
    Ok(listener)
}

fn run(args: &Args) -> Result<(), String> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error| format!("{path}: {error}")
    };
    let log = match &args.log {
        Some(path) => Some(Arc::new(Log::create(path, !args.sync).map_err(at(path))?)),
        None => None,
    };
    let dma = Arc::new(DmaMap::new());
    let eventfds = Arc::new(Eventfds::new(Gpu::LINES, log.clone()));
    let (mode, timing, clock): (_, _, Arc<dyn Clock>) = if args.sync {
        let clock = VirtualClock::new(SYNC_NS_PER_ACCESS);
        (Mode::Sync, Timing::NONE, Arc::new(clock))
    } else {
        (Mode::Threaded, Timing::USUAL, Arc::new(RealClock::new()))
    };
    let product = args.gpu.product();
    let mut gpu = Gpu::new(
        product,
        dma.clone(),
        eventfds.clone(),
        clock,
        timing,
        Board::new(!args.always_on),
        log.clone().map(|log| log as Arc<dyn Trace>),
    );
    if args.silicon {
        gpu = gpu.with_silicon_habits();
    }
    let engine = Arc::new(Engine::start(gpu, mode).map_err(|e| format!("thread: {e}"))?);
    if let Some(path) = &args.control {
        control_socket::serve(listen(path).map_err(at(path))?, engine.clone())
            .map_err(|e| format!("thread: {e}"))?;
    }
    let listener = listen(&args.socket).map_err(at(&args.socket))?;
    let accepted = listener.accept().map_err(at(&args.socket))?;
    let _ = std::fs::remove_file(&args.socket);
    let device = Device::new(product.id, args.gpu.revision(), engine, dma, eventfds, log);
    let result = vfio::serve(accepted.0, device).map_err(|e| format!("connection: {e}"));
    if let Some(path) = &args.control {
        let _ = std::fs::remove_file(path);
    }
    result
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mali-model: {error}");
            ExitCode::FAILURE
        }
    }
}
