// SPDX-License-Identifier: GPL-2.0

//! Names of registers, for the log.
//!
//! Locks: none, constants only.

use crate::regs;

/// Pairs of offset and name, for constants of [`regs`].
macro_rules! named {
    ($($name:ident)+) => { &[$((regs::$name, stringify!($name))),+] };
}

/// Registers of 32 bits by their full names.
const SINGLE: &[(u32, &str)] = &[
    (regs::GPU_ID, "GPU_ID"),
    (regs::GPU_L2_FEATURES, "L2_FEATURES"),
    (regs::GPU_CORE_FEATURES, "CORE_FEATURES"),
    (regs::GPU_TILER_FEATURES, "TILER_FEATURES"),
    (regs::GPU_MEM_FEATURES, "MEM_FEATURES"),
    (regs::GPU_MMU_FEATURES, "MMU_FEATURES"),
    (regs::GPU_AS_PRESENT, "AS_PRESENT"),
    (regs::GPU_JS_PRESENT, "JS_PRESENT"),
    (regs::GPU_INT_RAWSTAT, "GPU_INT_RAWSTAT"),
    (regs::GPU_INT_CLEAR, "GPU_INT_CLEAR"),
    (regs::GPU_INT_MASK, "GPU_INT_MASK"),
    (regs::GPU_INT_STAT, "GPU_INT_STAT"),
    (regs::GPU_CMD, "GPU_CMD"),
    (regs::GPU_STATUS, "GPU_STATUS"),
    (regs::GPU_LATEST_FLUSH_ID, "LATEST_FLUSH_ID"),
    (regs::GPU_FAULT_STATUS, "GPU_FAULT_STATUS"),
    (regs::GPU_AFBC_FEATURES, "AFBC_FEATURES"),
    (regs::GPU_PWR_KEY, "PWR_KEY"),
    (regs::GPU_PWR_OVERRIDE0, "PWR_OVERRIDE0"),
    (regs::GPU_PWR_OVERRIDE1, "PWR_OVERRIDE1"),
    (regs::GPU_PERFCNT_CFG, "PERFCNT_CFG"),
    (regs::GPU_PRFCNT_JM_EN, "PRFCNT_JM_EN"),
    (regs::GPU_PRFCNT_SHADER_EN, "PRFCNT_SHADER_EN"),
    (regs::GPU_PRFCNT_TILER_EN, "PRFCNT_TILER_EN"),
    (regs::GPU_PRFCNT_MMU_L2_EN, "PRFCNT_MMU_L2_EN"),
    (regs::GPU_THREAD_MAX_THREADS, "THREAD_MAX_THREADS"),
    (
        regs::GPU_THREAD_MAX_WORKGROUP_SIZE,
        "THREAD_MAX_WORKGROUP_SIZE",
    ),
    (regs::GPU_THREAD_MAX_BARRIER_SIZE, "THREAD_MAX_BARRIER_SIZE"),
    (regs::GPU_THREAD_FEATURES, "THREAD_FEATURES"),
    (regs::GPU_THREAD_TLS_ALLOC, "THREAD_TLS_ALLOC"),
    (regs::GPU_COHERENCY_FEATURES, "COHERENCY_FEATURES"),
    (regs::GPU_COHERENCY_ENABLE, "COHERENCY_ENABLE"),
    (regs::GPU_JM_CONFIG, "JM_CONFIG"),
    (regs::GPU_SHADER_CONFIG, "SHADER_CONFIG"),
    (regs::GPU_TILER_CONFIG, "TILER_CONFIG"),
    (regs::GPU_L2_MMU_CONFIG, "L2_MMU_CONFIG"),
    (regs::JOB_INT_RAWSTAT, "JOB_INT_RAWSTAT"),
    (regs::JOB_INT_CLEAR, "JOB_INT_CLEAR"),
    (regs::JOB_INT_MASK, "JOB_INT_MASK"),
    (regs::JOB_INT_STAT, "JOB_INT_STAT"),
    (regs::JOB_INT_JS_STATE, "JOB_INT_JS_STATE"),
    (regs::JOB_INT_THROTTLE, "JOB_INT_THROTTLE"),
    (regs::MMU_INT_RAWSTAT, "MMU_INT_RAWSTAT"),
    (regs::MMU_INT_CLEAR, "MMU_INT_CLEAR"),
    (regs::MMU_INT_MASK, "MMU_INT_MASK"),
    (regs::MMU_INT_STAT, "MMU_INT_STAT"),
];

/// Registers of 64 bits, by the offset of their lower half.
const PAIRS: &[(u32, &str)] = &[
    (regs::GPU_FAULT_ADDRESS_LO, "GPU_FAULT_ADDRESS"),
    (regs::GPU_PERFCNT_BASE_LO, "PERFCNT_BASE"),
    (regs::GPU_CYCLE_COUNT_LO, "CYCLE_COUNT"),
    (regs::GPU_TIMESTAMP_LO, "TIMESTAMP"),
];

/// Registers of a job slot, by offset in the slot.
const SLOT: &[(u32, &str)] = named! {
    JS_CONFIG JS_XAFFINITY JS_COMMAND JS_STATUS JS_CONFIG_NEXT JS_XAFFINITY_NEXT
    JS_COMMAND_NEXT JS_FLUSH_ID_NEXT
};

/// 64-bit registers of a job slot.
const SLOT_PAIRS: &[(u32, &str)] = named! {
    JS_HEAD JS_TAIL JS_AFFINITY JS_HEAD_NEXT JS_AFFINITY_NEXT
};

/// Registers of an address space, by offset in the space.
const SPACE: &[(u32, &str)] = named! {
    AS_COMMAND AS_FAULTSTATUS AS_STATUS
};

/// 64-bit registers of an address space.
const SPACE_PAIRS: &[(u32, &str)] = named! {
    AS_TRANSTAB AS_MEMATTR AS_LOCKADDR AS_FAULTADDRESS AS_TRANSCFG AS_FAULTEXTRA
};

/// Returns the name of the GPU register at `offset` as in the kernel's drivers, such as
/// `JS1_STATUS` or `AS0_TRANSTAB_LO`, or the offset of a register without a name.
pub fn register(offset: u32) -> String {
    named(offset).unwrap_or_else(|| format!("{offset:#06x}"))
}

fn named(offset: u32) -> Option<String> {
    if let Some((_, name)) = SINGLE.iter().find(|(at, _)| *at == offset) {
        return Some((*name).into());
    }
    pair(PAIRS, offset)
        .or_else(|| power(offset))
        .or_else(|| numbered("TEXTURE_FEATURES_", offset, regs::GPU_TEXTURE_FEATURES, 4))
        .or_else(|| numbered("JS_FEATURES_", offset, regs::GPU_JS_FEATURES, 16))
        .or_else(|| {
            let offset = offset.checked_sub(regs::JS_BASE)?;
            block("JS", offset, regs::JS_STRIDE, SLOT, SLOT_PAIRS)
        })
        .or_else(|| {
            let offset = offset.checked_sub(regs::AS_BASE)?;
            block("AS", offset, regs::AS_STRIDE, SPACE, SPACE_PAIRS)
        })
}

/// Returns the name of one half of a 64-bit register.
fn pair(pairs: &[(u32, &str)], offset: u32) -> Option<String> {
    let (_, name) = pairs.iter().find(|(at, _)| *at == offset & !4)?;
    let half = if offset & 4 == 0 { "LO" } else { "HI" };
    Some(format!("{name}_{half}"))
}

/// Returns the name of one of `count` consecutive registers.
fn numbered(name: &str, offset: u32, first: u32, count: u32) -> Option<String> {
    let n = offset.checked_sub(first)? / 4;
    (n < count).then(|| format!("{name}{n}"))
}

/// Returns the name of a power register, see [`crate::registers`].
fn power(offset: u32) -> Option<String> {
    const ROWS: [&str; 6] = [
        "PRESENT",
        "READY",
        "PWRON",
        "PWROFF",
        "PWRTRANS",
        "PWRACTIVE",
    ];
    let (unit, row) = match offset & !4 {
        at @ 0x100..0x280 => {
            let unit = match at & 0x3f {
                0x00 => "SHADER",
                0x10 => "TILER",
                0x20 => "L2",
                _ => return None,
            };
            (unit, (at - 0x100) / 0x40)
        }
        at @ 0xe00..0xe60 if at & 0xf == 0 => ("STACK", (at - 0xe00) / 0x10),
        _ => return None,
    };
    let half = if offset & 4 == 0 { "LO" } else { "HI" };
    Some(format!("{unit}_{}_{half}", ROWS.get(row as usize)?))
}

/// Returns the name of a register in one of sixteen identical blocks.
fn block(
    prefix: &str,
    offset: u32,
    stride: u32,
    single: &[(u32, &str)],
    pairs: &[(u32, &str)],
) -> Option<String> {
    let (n, at) = (offset / stride, offset % stride);
    let found = single.iter().find(|(offset, _)| *offset == at);
    let name: String = match found {
        Some((_, name)) => (*name).into(),
        None => pair(pairs, at)?,
    };
    let name = name.strip_prefix(prefix)?;
    (n < 16).then(|| format!("{prefix}{n}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_names_of_the_drivers() {
        assert_eq!(register(0x000), "GPU_ID");
        assert_eq!(register(0x104), "SHADER_PRESENT_HI");
        assert_eq!(register(0x1a0), "L2_PWRON_LO");
        assert_eq!(register(0xe00), "STACK_PRESENT_LO");
        assert_eq!(register(0x0c8), "JS_FEATURES_2");
        assert_eq!(register(0x090), "CYCLE_COUNT_LO");
        assert_eq!(register(0x1880), "JS1_HEAD_LO");
        assert_eq!(register(0x18a4), "JS1_STATUS");
        assert_eq!(register(0x1960), "JS2_COMMAND_NEXT");
        assert_eq!(register(0x2418), "AS0_COMMAND");
        assert_eq!(register(0x2464), "AS1_FAULTADDRESS_HI");
    }

    #[test]
    fn what_has_no_name_keeps_its_offset() {
        assert_eq!(register(0x048), "0x0048");
        assert_eq!(register(0x3000), "0x3000");
        assert_eq!(register(0xfffc), "0xfffc");
    }
}
