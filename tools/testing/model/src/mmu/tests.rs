// SPDX-License-Identifier: GPL-2.0

//! Tests of commands, the TLB and faults.

use super::view::View;
use super::*;
use crate::job::Vm;
use crate::product::G52;
use crate::product::T720;
use crate::product::T860;
use crate::testing::Ram;
use crate::testing::Tables as Builder;

fn set64(mmu: &mut Mmu, reg: u32, value: u64) {
    mmu.write(0, reg, value as u32);
    mmu.write(0, reg + 4, (value >> 32) as u32);
}

fn command(mmu: &mut Mmu, ram: &Ram, value: u32) {
    assert_eq!(mmu.write(0, regs::AS_COMMAND, value), Command::new(value));
    assert_eq!(mmu.complete(ram, 0), Command::new(value));
}

fn enabled(product: &'static Product, ram: &Ram, root: u64) -> Mmu {
    let mut mmu = Mmu::new(product);
    set64(&mut mmu, regs::AS_TRANSTAB, root | 3);
    command(&mut mmu, ram, regs::AS_COMMAND_UPDATE);
    mmu
}

/// Locks the region and flushes it.
fn flush(mmu: &mut Mmu, ram: &Ram, region: u64, how: u32) {
    set64(mmu, regs::AS_LOCKADDR, region);
    command(mmu, ram, regs::AS_COMMAND_LOCK);
    command(mmu, ram, how);
}

fn read8(mmu: &mut Mmu, ram: &Ram, va: u64) -> Result<u8, Miss> {
    let mut view = View::new(mmu, ram, 0);
    let mut byte = [0];
    match view.read(va, &mut byte) {
        Ok(()) => Ok(byte[0]),
        Err(_) => Err(view.miss.unwrap()),
    }
}

#[test]
fn unmapped_until_updated() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x8000, 0x1000);
    ram.put64(0x8000, 0x5a);
    let mut mmu = Mmu::new(&G52);
    set64(&mut mmu, regs::AS_TRANSTAB, tables.root() | 3);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Err(Miss::Unmapped));
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x5a));
    set64(&mut mmu, regs::AS_TRANSCFG, regs::ADRMODE_UNMAPPED);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x5a));
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Err(Miss::Unmapped));
}

#[test]
fn midgard_has_no_transcfg() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x8000, 0x1000);
    let mut mmu = enabled(&T860, &ram, tables.root());
    set64(&mut mmu, regs::AS_TRANSCFG, regs::ADRMODE_UNMAPPED);
    assert_eq!(mmu.read(0, regs::AS_TRANSCFG), 0);
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    assert!(read8(&mut mmu, &ram, 0x200_0000).is_ok());
    set64(&mut mmu, regs::AS_TRANSTAB, 0);
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Err(Miss::Unmapped));
}

#[test]
fn a_forgotten_flush_is_seen() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x8000, 0x1000);
    ram.put64(0x8000, 0x11);
    ram.put64(0x9000, 0x22);
    let mut mmu = enabled(&G52, &ram, tables.root());
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x11));
    tables.map(0x200_0000, 0x9000, 0x1000);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x11));
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x11));
    // A flush of another region does not help.
    set64(&mut mmu, regs::AS_LOCKADDR, 0x300_0000 | 14);
    command(&mut mmu, &ram, regs::AS_COMMAND_LOCK);
    command(&mut mmu, &ram, regs::AS_COMMAND_FLUSH_PT);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x11));
    set64(&mut mmu, regs::AS_LOCKADDR, 0x200_0000 | 14);
    command(&mut mmu, &ram, regs::AS_COMMAND_LOCK);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Err(Miss::Wait));
    assert_eq!(read8(&mut mmu, &ram, 0x200_7fff), Err(Miss::Wait));
    assert!(matches!(
        read8(&mut mmu, &ram, 0x200_8000),
        Err(Miss::Fault(_))
    ));
    command(&mut mmu, &ram, regs::AS_COMMAND_FLUSH_PT);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x22));
    assert_eq!(mmu.stats.flushes, 2);
}

#[test]
fn the_whole_space_can_be_locked() {
    let mut mmu = Mmu::new(&G52);
    set64(&mut mmu, regs::AS_LOCKADDR, 63);
    assert_eq!(mmu.space(0).region(), (0, u64::MAX));
    set64(&mut mmu, regs::AS_LOCKADDR, 0x12_3456_7000 | 20);
    assert_eq!(mmu.space(0).region(), (0x12_3440_0000, 0x12_345f_ffff));
}

#[test]
fn accesses_wait_for_commands_and_commands_get_lost() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x8000, 0x1000);
    let mut mmu = enabled(&G52, &ram, tables.root());
    mmu.write(0, regs::AS_COMMAND, regs::AS_COMMAND_FLUSH_MEM);
    assert_eq!(mmu.read(0, regs::AS_STATUS), 1);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Err(Miss::Wait));
    assert_eq!(
        mmu.write(0, regs::AS_COMMAND, regs::AS_COMMAND_UPDATE),
        None
    );
    assert_eq!(mmu.stats.lost_commands, 1);
    assert_eq!(mmu.complete(&ram, 0), Some(Command::FlushMem));
    assert_eq!(mmu.read(0, regs::AS_STATUS), 0);
    assert!(read8(&mut mmu, &ram, 0x200_0000).is_ok());
}

#[test]
fn faults_have_status_address_and_access() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map_with(0x200_0000, 0x8000, 0x1000, 0x40);
    let mut mmu = enabled(&G52, &ram, tables.root());
    let mut view = View::new(&mut mmu, &ram, 0);
    view.write(0x200_0ffc, &[1, 2]).unwrap_err();
    let Some(Miss::Fault(fault)) = view.miss else {
        panic!("no fault");
    };
    assert_eq!(fault.code, 0xcb);
    assert_eq!(mmu.report(0, &fault, 7), 1);
    assert_eq!(mmu.read(0, regs::AS_FAULTSTATUS), 0x7_03cb);
    assert_eq!(mmu.read(0, regs::AS_FAULTADDRESS), 0x200_0ffc);

    // Across the page's end: the address is that of the missing page.
    let mut view = View::new(&mut mmu, &ram, 0);
    let mut buf = [0; 8];
    let fault = view.read(0x200_0ffc, &mut buf).unwrap_err();
    assert_eq!(fault.va, 0x200_1000);
    assert_eq!(fault.kind, FaultKind::Translation { level: 3 });
}

#[test]
fn memory_that_is_not_there() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x4000_0000, 0x1000);
    let mut mmu = enabled(&G52, &ram, tables.root());
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Err(Miss::Bus));
    let mut mmu = enabled(&G52, &ram, 0x4000_0000);
    let Err(Miss::Fault(fault)) = read8(&mut mmu, &ram, 0x200_0000) else {
        panic!("no fault");
    };
    assert_eq!(fault.code, 0xd0);
    assert_eq!(mmu.report(0, &fault, 0), 1 << 16);
}

#[test]
fn blocks_of_2_mib() {
    let ram = Ram::new(0, 0x80_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x40_0000, 0x20_0000);
    ram.put64(0x5f_fff8, 0x77);
    let mut mmu = enabled(&G52, &ram, tables.root());
    assert_eq!(read8(&mut mmu, &ram, 0x21f_fff8), Ok(0x77));
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0));
    assert_eq!((mmu.stats.tlb_misses, mmu.stats.tlb_hits), (1, 1));
}

#[test]
fn identity() {
    let ram = Ram::new(0, 0x10_0000);
    ram.put64(0x1230, 9);
    let mut mmu = Mmu::new(&G52);
    set64(&mut mmu, regs::AS_TRANSCFG, regs::ADRMODE_IDENTITY);
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    assert_eq!(read8(&mut mmu, &ram, 0x1230), Ok(9));
}

#[test]
fn an_ordered_fault_happens_as_often_as_told() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x8000, 0x2000);
    let mut mmu = enabled(&G52, &ram, tables.root());
    mmu.ordered = Some(OrderedFault {
        va: 0x200_1234,
        count: 2,
    });
    assert!(read8(&mut mmu, &ram, 0x200_0000).is_ok());
    assert!(matches!(
        read8(&mut mmu, &ram, 0x200_1000),
        Err(Miss::Fault(_))
    ));
    assert!(matches!(
        read8(&mut mmu, &ram, 0x200_1000),
        Err(Miss::Fault(_))
    ));
    assert!(read8(&mut mmu, &ram, 0x200_1000).is_ok());
}

/// Maps 8 KiB at 0x200_0000 to 0x8000, and makes a store to each half.
fn stored(ram: &Ram) -> (Builder<'_>, Mmu) {
    let mut tables = Builder::new(ram, 0x1_0000);
    tables.map(0x200_0000, 0x8000, 0x2000);
    let mut mmu = enabled(&G52, ram, tables.root());
    let mut view = View::new(&mut mmu, ram, 0);
    view.write(0x200_0000, &[0x11; 8]).unwrap();
    view.write(0x200_1000, &[0x22; 8]).unwrap();
    assert_eq!((ram.get32(0x8000), ram.get32(0x9000)), (0, 0));
    (tables, mmu)
}

const PAGE: u64 = 0x200_0000 | 14;

#[test]
fn flush_mem_waits_for_stores() {
    let ram = Ram::new(0, 0x10_0000);
    let (mut tables, mut mmu) = stored(&ram);
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0x11));
    tables.unmap(0x200_0000, 0x1000);
    flush(&mut mmu, &ram, PAGE, regs::AS_COMMAND_FLUSH_MEM);
    assert_eq!(
        (ram.get32(0x8000), ram.get32(0x9000)),
        (0x1111_1111, 0x2222_2222)
    );
    assert_eq!(mmu.stores.late, 0);
    assert_eq!(mmu.stats.unlocked_flushes, 0);
}

#[test]
fn flush_pt_does_not_wait_for_stores() {
    for command in [regs::AS_COMMAND_FLUSH_PT, regs::AS_COMMAND_UNLOCK] {
        let ram = Ram::new(0, 0x10_0000);
        let (mut tables, mut mmu) = stored(&ram);
        // A flush of pages that are still mapped makes no store late.
        flush(&mut mmu, &ram, PAGE, command);
        tables.unmap(0x200_0000, 0x1000);
        flush(&mut mmu, &ram, PAGE, command);
        assert_eq!((ram.get32(0x8000), ram.get32(0x9000)), (0, 0));
        // The page has another owner now.
        ram.put64(0x8000, u64::MAX);
        mmu.stores.drain(&ram, 0);
        assert_eq!(mmu.stores.late, 1);
        assert_eq!(ram.get32(0x8000), 0x1111_1111);
    }
}

#[test]
fn a_store_to_a_page_that_became_read_only_is_late() {
    let ram = Ram::new(0, 0x10_0000);
    let (mut tables, mut mmu) = stored(&ram);
    tables.map_with(0x200_0000, 0x8000, 0x1000, 0x40);
    flush(&mut mmu, &ram, PAGE, regs::AS_COMMAND_FLUSH_PT);
    mmu.stores.drain_all(&ram);
    assert_eq!(mmu.stores.late, 1);
}

#[test]
fn stores_under_other_tables_are_late() {
    let ram = Ram::new(0, 0x10_0000);
    let (_, mut mmu) = stored(&ram);
    set64(&mut mmu, regs::AS_TRANSTAB, 0);
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    let other = Builder::new(&ram, 0x4_0000);
    set64(&mut mmu, regs::AS_TRANSTAB, other.root() | 3);
    command(&mut mmu, &ram, regs::AS_COMMAND_UPDATE);
    mmu.stores.drain_all(&ram);
    assert_eq!(mmu.stores.late, 2);
}

#[test]
fn a_flush_without_a_lock_is_counted() {
    let ram = Ram::new(0, 0x10_0000);
    let tables = Builder::new(&ram, 0x1_0000);
    let mut mmu = enabled(&G52, &ram, tables.root());
    command(&mut mmu, &ram, regs::AS_COMMAND_FLUSH_PT);
    command(&mut mmu, &ram, regs::AS_COMMAND_UNLOCK);
    flush(&mut mmu, &ram, 63, regs::AS_COMMAND_FLUSH_MEM);
    command(&mut mmu, &ram, regs::AS_COMMAND_FLUSH_MEM);
    assert_eq!(mmu.stats.unlocked_flushes, 2);
}

#[test]
fn a_table_that_was_freed_too_early_is_walked() {
    let ram = Ram::new(0, 0x10_0000);
    let mut tables = Builder::new(&ram, 0x1_0000);
    tables.map(0x200_0000, 0x8000, 0x1000);
    tables.map(0x200_1000, 0x9000, 0x1000);
    ram.put64(0x9000, 0x99);
    let mut mmu = enabled(&G52, &ram, tables.root());
    assert_eq!(read8(&mut mmu, &ram, 0x200_0000), Ok(0));
    // Remove the last table, and the entry that leads to it.
    let mut table = tables.root();
    for shift in [39, 30] {
        table = ram.get64(table + (0x200_0000 >> shift & 0x1ff) * 8) & !0xfff;
    }
    ram.put64(table + (0x200_0000 >> 21 & 0x1ff) * 8, 0);
    assert_eq!(read8(&mut mmu, &ram, 0x200_1000), Ok(0x99));
    assert_eq!(mmu.stats.stale_walks, 1);
    flush(&mut mmu, &ram, PAGE, regs::AS_COMMAND_FLUSH_PT);
    assert!(matches!(
        read8(&mut mmu, &ram, 0x200_1000),
        Err(Miss::Fault(_))
    ));
    assert_eq!(mmu.stats.stale_walks, 1);
}

#[test]
fn spaces_that_are_not_there() {
    let mut mmu = Mmu::new(&T720);
    assert_eq!(
        mmu.write(4, regs::AS_COMMAND, regs::AS_COMMAND_UPDATE),
        None
    );
    mmu.write(4, regs::AS_TRANSTAB, 0x1003);
    assert_eq!(mmu.read(4, regs::AS_TRANSTAB), 0);
    assert!(mmu
        .write(3, regs::AS_COMMAND, regs::AS_COMMAND_UPDATE)
        .is_some());
}
