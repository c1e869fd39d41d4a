// SPDX-License-Identifier: GPL-2.0

//! Test programs that run in a guest, on whichever driver is loaded.
//!
//! From the bottom up: [`sys`] is system calls, [`uapi`] the structures they take, [`device`],
//! [`bo`], [`sync`] and [`dmabuf`] what they are about, [`socket`] how processes pass them on,
//! [`chain`] and [`pixels`] what a GPU is given to do and what must come of it, [`board`] the GPU
//! model's other side, [`memory`] what it all takes, [`debugfs`] what the driver tells of that,
//! [`trace`] what the kernel tells of each thread, [`uevent`] what it tells of devices, [`failing`]
//! allocations that fail, [`swap`] and [`disk`] where memory goes. [`harness`] runs what is in
//! [`tests`]; [`bench`] measures.
//!
//! Single-threaded but for the tests that say otherwise. Handles close when they are dropped; a
//! [`bo::Bo`] keeps its file open.

pub mod bench;
pub mod bo;
pub mod board;
pub mod chain;
pub mod debugfs;
pub mod device;
pub mod disk;
pub mod dmabuf;
pub mod dump;
pub mod failing;
pub mod harness;
pub mod memory;
pub mod pixels;
pub mod socket;
pub mod swap;
pub mod sync;
pub mod sys;
pub mod tests;
pub mod trace;
pub mod uapi;
pub mod uevent;
