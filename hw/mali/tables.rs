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
        FamilyTable,
        Root,
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

    fn new_table<'a>(
        &self,
        dev: &'a Device<Bound>,
        pool: Arc<TablePool>,
    ) -> Result<FamilyTable<'a, Self>> {
        let (id, system) = (&self.chip.id, &self.chip.system);
        let config = TableConfig {
            quirks: quirk::NO_WARN,
            pgsize_bitmap: SZ_4K | SZ_2M,
            ias: id.va_bits(),
            oas: id.pa_bits(),
            coherent_walk: system.coherent,
        };

        Ok(match system.quirks.aarch64_tables {
            true => TableOf::Second(IoPageTable::with_pool(dev, config, pool)?),
            false => TableOf::First(IoPageTable::with_pool(dev, config, pool)?),
        })
    }

    fn first_root<'a>() -> Root<'a, ARMMaliLPAE> {
        IoPageTable::<'a, ARMMaliLPAE>::transtab
    }

    fn second_root<'a>() -> Root<'a, ARM64LPAES1> {
        IoPageTable::<'a, ARM64LPAES1>::ttbr
    }

    fn walk(&self, table: &FamilyTable<'_, Self>, root: u64) -> Result<Config> {
        match table {
            TableOf::First(table) => Ok(Config::legacy(root, table.memattr())),
            TableOf::Second(table) => Config::aarch64_4k(
                root,
                table.mair(),
                self.chip.id.va_bits(),
                self.chip.system.coherent,
            ),
        }
    }
}
