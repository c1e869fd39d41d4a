// SPDX-License-Identifier: GPL-2.0

//! The files that have handles for a BO, and their mappings.
//!
//! A handle does not imply a mapping: it lets the file name the BO, while a mapping lets the file's
//! jobs access it. The interface to user space decides whether both come together: see
//! [`Personality::MAP_WITH_HANDLE`](crate::hw::Personality::MAP_WITH_HANDLE). The opposite does
//! hold: a file has a mapping only as long as it has a handle. If jobs still use the BO when the
//! last handle is closed, they hold the mapping themselves.
//!
//! A file is known by the number of its address space, which is never used for another.
//!
//! Lock: none of its own; the mutex of the [`BoState`](super::object::BoState) that the list is
//! part of protects it. Process context.

use kernel::prelude::*;

/// A file that has a handle.
struct FileEntry<M> {
    /// The number of its address space.
    vm: u64,
    /// The number of handles, which is never 0.
    handles: usize,
    /// [`None`] if the BO is not mapped in the address space.
    mapping: Option<M>,
}

/// The files that have handles for a BO. `M` is a reference to a mapping.
pub(super) struct Handles<M> {
    files: KVec<FileEntry<M>>,
}

impl<M> Handles<M> {
    /// Creates the list of a BO without handles.
    pub(super) fn new() -> Self {
        Self { files: KVec::new() }
    }

    /// Adds a handle of the file with the address space `vm`. The first one comes without a
    /// mapping. Sleeps.
    ///
    /// Errors, after which nothing has changed: `EOVERFLOW`, `ENOMEM`.
    pub(super) fn add(&mut self, vm: u64) -> Result {
        if let Some(file) = self.files.iter_mut().find(|file| file.vm == vm) {
            file.handles = file.handles.checked_add(1).ok_or(EOVERFLOW)?;
            return Ok(());
        }

        let file = FileEntry {
            vm,
            handles: 1,
            mapping: None,
        };

        self.files.push(file, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// Removes a handle of the file with the address space `vm`. If it was the last one, returns
    /// the mapping, if there is one.
    pub(super) fn remove(&mut self, vm: u64) -> Option<M> {
        let index = self.files.iter().position(|file| file.vm == vm)?;
        let file = self.files.get_mut(index)?;

        file.handles = file.handles.saturating_sub(1);
        match file.handles {
            0 => self.files.remove(index).ok()?.mapping,
            _ => None,
        }
    }

    /// Returns whether the file with the address space `vm` has the only handle.
    pub(super) fn is_only_one(&self, vm: u64) -> bool {
        matches!(self.files.as_slice(), [only] if only.vm == vm && only.handles == 1)
    }

    /// Returns the mapping in the address space `vm`, if there is one.
    pub(super) fn mapping(&self, vm: u64) -> Option<&M> {
        let file = self.files.iter().find(|file| file.vm == vm)?;

        file.mapping.as_ref()
    }

    /// Returns the field for the mapping in the address space `vm`, or [`None`] if its file has no
    /// handle.
    pub(super) fn mapping_mut(&mut self, vm: u64) -> Option<&mut Option<M>> {
        let file = self.files.iter_mut().find(|file| file.vm == vm)?;

        Some(&mut file.mapping)
    }

    /// Returns the mappings: at most one for each file.
    pub(super) fn mappings(&self) -> impl Iterator<Item = &M> {
        self.files.iter().filter_map(|file| file.mapping.as_ref())
    }

    /// Returns the mapping if there is exactly one. Other files may have handles.
    pub(super) fn only_mapping(&self) -> Option<&M> {
        let mut mappings = self.mappings();
        let first = mappings.next()?;

        match mappings.next() {
            Some(_) => None,
            None => Some(first),
        }
    }
}

#[kunit_tests(drm_gpu_handles)]
mod tests {
    use super::*;

    /// Maps the BO in the address space `vm`.
    fn map(handles: &mut Handles<u32>, vm: u64, mapping: u32) -> Result {
        *handles.mapping_mut(vm).ok_or(EINVAL)? = Some(mapping);
        Ok(())
    }

    #[test]
    fn a_mapping_goes_with_the_last_handle() -> Result {
        let mut handles = Handles::new();

        handles.add(1)?;
        map(&mut handles, 1, 10)?;
        handles.add(1)?;
        assert!(handles.mapping(1) == Some(&10));
        assert!(handles.remove(1).is_none());
        assert!(handles.mapping(1) == Some(&10));
        assert!(handles.remove(1) == Some(10));
        assert!(handles.mapping(1).is_none());
        assert!(handles.mappings().next().is_none());
        Ok(())
    }

    #[test]
    fn a_handle_needs_no_mapping() -> Result {
        let mut handles = Handles::<u32>::new();

        handles.add(1)?;
        handles.add(1)?;
        assert!(handles.mapping(1).is_none());
        assert!(handles.remove(1).is_none());
        // The file still has one.
        assert!(handles.mapping_mut(1).is_some());
        assert!(handles.remove(1).is_none());
        assert!(handles.mapping_mut(1).is_none());
        Ok(())
    }

    #[test]
    fn a_mapping_needs_a_handle() -> Result {
        let mut handles = Handles::new();

        assert!(map(&mut handles, 1, 10) == Err(EINVAL));
        handles.add(1)?;
        assert!(map(&mut handles, 2, 20) == Err(EINVAL));
        assert!(handles.remove(2).is_none());
        assert!(map(&mut handles, 1, 10).is_ok());
        assert!(handles.mapping(2).is_none());
        Ok(())
    }

    #[test]
    fn files_without_a_mapping_do_not_count() -> Result {
        let mut handles = Handles::new();

        handles.add(1)?;
        handles.add(2)?;
        handles.add(3)?;
        assert!(handles.only_mapping().is_none());
        map(&mut handles, 2, 20)?;
        assert!(handles.only_mapping() == Some(&20));
        assert!(handles.mappings().copied().eq([20]));
        map(&mut handles, 3, 30)?;
        assert!(handles.only_mapping().is_none());
        assert!(handles.mappings().copied().eq([20, 30]));
        assert!(handles.remove(2) == Some(20));
        assert!(handles.only_mapping() == Some(&30));
        Ok(())
    }

    #[test]
    fn every_handle_counts_for_advice() -> Result {
        let mut handles = Handles::new();

        handles.add(1)?;
        assert!(handles.is_only_one(1) && !handles.is_only_one(2));
        map(&mut handles, 1, 10)?;
        assert!(handles.is_only_one(1));

        handles.add(1)?;
        assert!(!handles.is_only_one(1));
        assert!(handles.remove(1).is_none());
        assert!(handles.is_only_one(1));

        // Also that of a file without a mapping.
        handles.add(2)?;
        assert!(!handles.is_only_one(1) && !handles.is_only_one(2));
        assert!(handles.remove(2).is_none());
        assert!(handles.is_only_one(1));
        Ok(())
    }

    #[test]
    fn handles_do_not_overflow() -> Result {
        let mut handles = Handles::new();

        handles.add(1)?;
        map(&mut handles, 1, 10)?;
        for file in handles.files.iter_mut() {
            file.handles = usize::MAX;
        }
        assert!(handles.add(1) == Err(EOVERFLOW));
        assert!(handles.remove(1).is_none());
        assert!(handles.add(1).is_ok());
        Ok(())
    }
}
