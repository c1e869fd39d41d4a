// SPDX-License-Identifier: GPL-2.0

//! Page tables, in one of two formats: Mali's LPAE, which all Midgard and later GPUs can walk, and
//! that of 64-bit Arm CPUs, which some systems require.
//!
//! Implements [`Tables`], which says in which contexts.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    drm::mm::Placement,
    iommu::pgtable::{
        quirk,
        ARMMaliLPAE,
        Config as TableConfig,
        IoPageTable,
        TablePool,
        ARM64LPAES1, //
    },
    prelude::*,
    sizes::{
        SZ_2M,
        SZ_4K, //
    },
    sync::Arc, //
};

use super::{
    mmu::Config,
    va, //
};
use crate::{
    device::Gpu,
    hw::{
        TableOf,
        Tables, //
    }, //
};

impl Tables for Gpu<'_> {
    type First = ARMMaliLPAE;
    type Second = ARM64LPAES1;
    type Rules = va::Rules;

    fn placement(size: u64, exec: bool) -> Placement {
        va::placement(size, exec)
    }

    unsafe fn new_table<'a>(
        &self,
        dev: &'a Device<Bound>,
        pool: Arc<TablePool>,
    ) -> Result<(TableOf<'a, ARMMaliLPAE, ARM64LPAES1>, Config)> {
        let (id, system) = (&self.chip.id, &self.chip.system);
        let config = TableConfig {
            quirks: quirk::NO_WARN,
            pgsize_bitmap: SZ_4K | SZ_2M,
            ias: id.va_bits(),
            oas: id.pa_bits(),
            coherent_walk: system.coherent,
        };

        if system.quirks.aarch64_tables {
            let table = IoPageTable::<'_, ARM64LPAES1>::with_pool(dev, config, pool)?;
            // SAFETY: The caller has promised that no address space uses the configuration any
            // more, and thus the hardware the table, when the table is dropped.
            let ttbr = unsafe { table.ttbr() };
            let config = Config::aarch64_4k(ttbr, table.mair(), id.va_bits(), system.coherent)?;

            Ok((TableOf::Second(table), config))
        } else {
            let table = IoPageTable::<'_, ARMMaliLPAE>::with_pool(dev, config, pool)?;
            // SAFETY: As above.
            let transtab = unsafe { table.transtab() };
            let config = Config::legacy(transtab, table.memattr());

            Ok((TableOf::First(table), config))
        }
    }
}
