// SPDX-License-Identifier: GPL-2.0

//! Stores that have not reached memory.
//!
//! A job's stores stay inside the GPU for a while. They are translated, so that later changes of
//! the tables do not affect them, and they are visible to the GPU, but not to the CPU. They are
//! written out by `FLUSH_MEM` of their address space, by the end of a chain there that requested a
//! flush, by a clean of the caches, when the L2 cache powers down, or after [`CAPACITY`] further
//! stores. `FLUSH_PT` and `UNLOCK` drop translations and do not wait for stores. A reset stops the
//! bus interface and need not clean the caches first: with the habits of silicon it drops the
//! stores, otherwise it writes them out. A loss of power always drops them.
//!
//! So if a driver takes a page away from a running job with no more than `FLUSH_PT`, the store may
//! reach the page after it was reused. Such a store is written out like any other, and counted. It
//! is late if a flush or unlock of its address completed, or its address space was given other
//! tables, when the address no longer led to the page, or no longer for writing.
//!
//! Locks: none of its own, part of the GPU's state.

use std::collections::VecDeque;

use crate::host::BusError;
use crate::host::GuestMemory;

/// The maximum number of stores that are held.
pub const CAPACITY: usize = 64;

/// A store on its way to memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The address space of the job that made it.
    pub space: usize,
    /// The address that the job used.
    pub va: u64,
    /// The bus address that it led to.
    pub pa: u64,
    data: Box<[u8]>,
    late: bool,
}

/// All stores that have not reached memory, in order.
#[derive(Debug, Default)]
pub struct Stores {
    queue: VecDeque<Store>,
    /// Late stores that were written out and not reported yet.
    told: Vec<Store>,
    /// The number of late stores that were written out.
    pub late: u32,
    /// The number of stores that were dropped.
    pub lost: u32,
}

impl Stores {
    /// Returns the number of stores that are held.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns whether none is held.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns the number of stores of address space `space` that are held.
    pub fn of(&self, space: usize) -> usize {
        self.queue.iter().filter(|s| s.space == space).count()
    }

    /// Adds a store within one page, and writes out the oldest one if there are too many.
    pub fn put(
        &mut self,
        mem: &dyn GuestMemory,
        space: usize,
        va: u64,
        pa: u64,
        data: &[u8],
    ) -> Result<(), BusError> {
        mem.check_write(pa, data.len())?;
        if self.queue.len() == CAPACITY {
            if let Some(oldest) = self.queue.pop_front() {
                self.write_out(mem, oldest);
            }
        }
        self.queue.push_back(Store {
            space,
            va,
            pa,
            data: data.into(),
            late: false,
        });
        Ok(())
    }

    /// Fills `buf` from bus address `pa`, with the stores that are held.
    pub fn read(&self, mem: &dyn GuestMemory, pa: u64, buf: &mut [u8]) -> Result<(), BusError> {
        mem.read(pa, buf)?;
        let last = pa + buf.len() as u64;
        for store in &self.queue {
            let from = store.pa.max(pa);
            let to = (store.pa + store.data.len() as u64).min(last);
            if from < to {
                let ours = (from - pa) as usize..(to - pa) as usize;
                let its = (from - store.pa) as usize..(to - store.pa) as usize;
                buf[ours].copy_from_slice(&store.data[its]);
            }
        }
        Ok(())
    }

    /// Writes out the stores of address space `space`.
    pub fn drain(&mut self, mem: &dyn GuestMemory, space: usize) {
        self.drain_if(mem, |store| store.space == space);
    }

    /// Writes out everything.
    pub fn drain_all(&mut self, mem: &dyn GuestMemory) {
        self.drain_if(mem, |_| true);
    }

    /// Drops all stores, on a reset or a loss of power.
    pub fn lose(&mut self) {
        self.lost = self.lost.wrapping_add(self.queue.len() as u32);
        self.queue.clear();
    }

    /// Marks the stores of `space` to `start..=last` as late for which `leads` does not hold, given
    /// the address and the bus address.
    pub fn mark(&mut self, space: usize, start: u64, last: u64, leads: impl Fn(u64, u64) -> bool) {
        for store in &mut self.queue {
            if store.space == space
                && (start..=last).contains(&store.va)
                && !leads(store.va, store.pa)
            {
                store.late = true;
            }
        }
    }

    /// Takes the late stores that were written out since the last call.
    pub fn take_late(&mut self) -> Vec<Store> {
        std::mem::take(&mut self.told)
    }

    fn drain_if(&mut self, mem: &dyn GuestMemory, f: impl Fn(&Store) -> bool) {
        for store in std::mem::take(&mut self.queue) {
            if f(&store) {
                self.write_out(mem, store);
            } else {
                self.queue.push_back(store);
            }
        }
    }

    fn write_out(&mut self, mem: &dyn GuestMemory, store: Store) {
        // The memory may have been unplugged since the job made the store.
        if mem.write(store.pa, &store.data).is_err() {
            self.lost = self.lost.wrapping_add(1);
        } else if store.late {
            self.late = self.late.wrapping_add(1);
            self.told.push(store);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;

    #[test]
    fn the_gpu_sees_what_memory_does_not() {
        let ram = Ram::new(0, 0x1000);
        let mut stores = Stores::default();
        ram.put64(0x10, 0x1111_1111_1111_1111);
        stores.put(&ram, 0, 0x5010, 0x10, &[0x22; 8]).unwrap();
        stores.put(&ram, 0, 0x5014, 0x14, &[0x33; 2]).unwrap();
        assert_eq!(ram.get64(0x10), 0x1111_1111_1111_1111);
        let mut buf = [0; 12];
        stores.read(&ram, 0xc, &mut buf).unwrap();
        assert_eq!(
            buf,
            [0, 0, 0, 0, 0x22, 0x22, 0x22, 0x22, 0x33, 0x33, 0x22, 0x22]
        );
        stores.drain(&ram, 1);
        assert_eq!(stores.len(), 2);
        stores.drain(&ram, 0);
        assert_eq!(ram.get64(0x10), 0x2222_3333_2222_2222);
        assert!(stores.is_empty());
        assert_eq!((stores.late, stores.lost), (0, 0));
    }

    #[test]
    fn the_oldest_goes_when_it_is_full() {
        let ram = Ram::new(0, 0x1000);
        let mut stores = Stores::default();
        for n in 0..=CAPACITY as u64 {
            assert_eq!(ram.get32(0), 0);
            stores.put(&ram, 0, 8 * n, 8 * n, &[1; 4]).unwrap();
        }
        assert_eq!((ram.get32(0), ram.get32(8)), (0x0101_0101, 0));
        assert_eq!(stores.len(), CAPACITY);
        stores.lose();
        assert_eq!((stores.lost, ram.get32(8)), (CAPACITY as u32, 0));
    }

    #[test]
    fn a_late_store_is_written_out_and_counted() {
        let ram = Ram::new(0, 0x1000);
        let mut stores = Stores::default();
        stores.put(&ram, 0, 0x5000, 0x100, &[1]).unwrap();
        stores.put(&ram, 0, 0x6000, 0x200, &[2]).unwrap();
        stores.put(&ram, 1, 0x5000, 0x300, &[3]).unwrap();
        stores.mark(0, 0x5000, 0x5fff, |_, _| true);
        stores.mark(0, 0x5000, 0x5fff, |va, pa| (va, pa) != (0x5000, 0x100));
        stores.drain_all(&ram);
        assert_eq!(stores.late, 1);
        let told: Vec<_> = stores.take_late().iter().map(|s| (s.va, s.pa)).collect();
        assert_eq!(told, [(0x5000, 0x100)]);
        assert!(stores.take_late().is_empty());
        assert_eq!(ram.get32(0x100), 1);
    }

    #[test]
    fn memory_that_is_not_there_is_found_at_once() {
        let ram = Ram::new(0, 0x1000);
        let mut stores = Stores::default();
        assert_eq!(stores.put(&ram, 0, 0, 0x1000, &[1]), Err(BusError));
        assert!(stores.is_empty());
    }
}
