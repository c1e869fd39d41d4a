// SPDX-License-Identifier: GPL-2.0

//! Submits that are refused: with which errno, and without a trace.

use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::uapi;

pub(super) const TESTS: &[Test] = &[
    Test::new("error-arguments", &["C5"], arguments),
    Test::new("error-bo-handles", &["C5"], bo_handles),
    Test::new("error-bo-twice", &["C5"], bo_twice),
    Test::new("error-in-syncs", &["C5"], in_syncs),
    Test::new("error-out-sync", &["C5"], out_sync),
    Test::new("error-context", &["C5"], context).needs(&[Need::Minor(5)]),
    Test::new("error-no-trace", &["C3", "C5"], no_trace),
];

/// An address that is no user's.
const BAD_POINTER: u64 = 0xffff_8000_0000_0000;

/// A good submit, to be spoilt.
fn good(device: &Device) -> Result<(Chain, uapi::Submit), Stop> {
    let mut chain = Chain::new(device, 4096)?;
    chain.null();
    let submit = uapi::Submit {
        jc: chain.head(),
        ..Default::default()
    };
    Ok((chain, submit))
}

/// After a refused submit the chain has not run, and a good one does.
fn untouched(device: &Device, chain: &Chain) -> Outcome {
    check_eq!(chain.statuses(), [NOT_STARTED]);
    let (next, mut submit) = good(device)?;
    let done = device.syncobj()?;
    submit.out_sync = done.handle();
    device.submit_raw(&mut submit)?;
    done.wait(PATIENCE)?;
    check_eq!(next.statuses(), [DONE]);
    check_eq!(chain.statuses(), [NOT_STARTED]);
    Ok(())
}

fn arguments(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (chain, submit) = good(&device)?;
    check_errno!(
        device.submit_raw(&mut uapi::Submit { jc: 0, ..submit }),
        EINVAL
    );
    check_errno!(
        device.submit_raw(&mut uapi::Submit { pad: 1, ..submit }),
        EINVAL
    );
    for bit in 2..32 {
        let mut unknown = uapi::Submit {
            requirements: 1 << bit,
            ..submit
        };
        check_errno!(device.submit_raw(&mut unknown), EINVAL);
    }
    untouched(&device, &chain)
}

fn bo_handles(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (chain, submit) = good(&device)?;
    let other = gpu.open()?;
    let foreign = other.create(4096, uapi::BO_NOEXEC)?;
    let own = device.create(4096, uapi::BO_NOEXEC)?;
    for pointer in [0, 1, BAD_POINTER] {
        let mut bad = uapi::Submit {
            bo_handles: pointer,
            bo_handle_count: 1,
            ..submit
        };
        check_errno!(device.submit_raw(&mut bad), EFAULT);
    }
    // Of another file, if this one has none of that number.
    let mut lists = vec![vec![0], vec![0x7fff], vec![own.handle(), 0]];
    if ![own.handle(), chain.bo().handle()].contains(&foreign.handle()) {
        lists.push(vec![own.handle(), foreign.handle()]);
    }
    for list in lists {
        let mut bad = uapi::Submit {
            bo_handles: list.as_ptr() as u64,
            bo_handle_count: list.len() as u32,
            ..submit
        };
        check_errno!(device.submit_raw(&mut bad), ENOENT);
    }
    // More than can be: no memory for it, or no such memory to read.
    let mut huge = uapi::Submit {
        bo_handles: [own.handle()].as_ptr() as u64,
        bo_handle_count: u32::MAX,
        ..submit
    };
    check!(device.submit_raw(&mut huge).is_err());
    untouched(&device, &chain)
}

fn bo_twice(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (chain, submit) = good(&device)?;
    let handle = chain.bo().handle();
    let list = [handle, handle];
    let mut twice = uapi::Submit {
        bo_handles: list.as_ptr() as u64,
        bo_handle_count: 2,
        ..submit
    };
    check_errno!(device.submit_raw(&mut twice), EALREADY);
    // The lock was given back.
    chain.bo().wait(PATIENCE)?;
    untouched(&device, &chain)
}

fn in_syncs(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (chain, submit) = good(&device)?;
    for pointer in [0, 1, BAD_POINTER] {
        let mut bad = uapi::Submit {
            in_syncs: pointer,
            in_sync_count: 1,
            ..submit
        };
        check_errno!(device.submit_raw(&mut bad), EFAULT);
    }
    let without_fence = device.syncobj()?;
    for (handle, errno) in [
        (0, libc::ENOENT),
        (0x7fff, libc::ENOENT),
        (without_fence.handle(), libc::EINVAL),
    ] {
        let list = [handle];
        let mut bad = uapi::Submit {
            in_syncs: list.as_ptr() as u64,
            in_sync_count: 1,
            ..submit
        };
        check_eq!(device.submit_raw(&mut bad), Err(crate::sys::Errno(errno)));
    }
    untouched(&device, &chain)
}

fn out_sync(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (chain, submit) = good(&device)?;
    for handle in [0x7fff, u32::MAX] {
        let mut bad = uapi::Submit {
            out_sync: handle,
            ..submit
        };
        check_errno!(device.submit_raw(&mut bad), ENODEV);
    }
    untouched(&device, &chain)
}

fn context(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (chain, submit) = good(&device)?;
    for handle in [1, u32::MAX] {
        let mut bad = uapi::Submit {
            jm_ctx_handle: handle,
            ..submit
        };
        check_errno!(device.submit_raw(&mut bad), EINVAL);
    }
    untouched(&device, &chain)
}

/// Whatever is refused last: the out-syncobj keeps what it had, and the BOs get no fence.
fn no_trace(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (chain, submit) = good(&device)?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    let out = device.syncobj()?;
    let list = [chain.bo().handle(), bo.handle(), 0x7fff];
    let without_fence = [device.syncobj()?.handle()];
    let good_list = uapi::Submit {
        out_sync: out.handle(),
        bo_handles: list.as_ptr() as u64,
        bo_handle_count: 2,
        ..submit
    };
    for mut bad in [
        uapi::Submit {
            bo_handle_count: 3,
            ..good_list
        },
        uapi::Submit {
            in_syncs: without_fence.as_ptr() as u64,
            in_sync_count: 1,
            ..good_list
        },
    ] {
        check!(device.submit_raw(&mut bad).is_err());
        check_errno!(out.fence(), EINVAL);
        bo.wait_until(0)?;
    }
    untouched(&device, &chain)
}
