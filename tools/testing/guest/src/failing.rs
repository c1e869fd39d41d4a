// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail: the kernel's fault injection, for this thread alone.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The thread's knob: its n-th allocation from now on fails.
pub struct Failing {
    nth: File,
}

impl Failing {
    const NTH: &'static str = "/proc/thread-self/fail-nth";
    const DEBUGFS: &'static str = "/sys/kernel/debug";

    /// Whether the kernel has it.
    pub fn available() -> bool {
        Path::new(Self::NTH).exists() && Path::new(Self::DEBUGFS).join("failslab").exists()
    }

    /// Makes all kinds of allocations candidates, also those that may wait for memory.
    pub fn new() -> io::Result<Self> {
        for (file, value) in [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("failslab/cache-filter", "Y"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
        ] {
            fs::write(Path::new(Self::DEBUGFS).join(file), value)?;
        }
        // The kernel's debugging of DMA has its own trees, and gives up for good without memory.
        for cache in fs::read_dir("/sys/kernel/slab")?.flatten() {
            let fails = cache.file_name() != "radix_tree_node";
            // Caches that are several in one cannot be set.
            let _ = fs::write(cache.path().join("failslab"), if fails { "1" } else { "0" });
        }
        let nth = File::options().read(true).write(true).open(Self::NTH)?;
        Ok(Self { nth })
    }

    /// Calls with the first `n` allocations of pages failing; returns whether there were so many.
    pub fn first<T>(&self, n: u32, call: impl FnOnce() -> T) -> io::Result<(T, bool)> {
        const SELF: &str = "/proc/thread-self/make-it-fail";
        let knob = |name| Path::new(Self::DEBUGFS).join("fail_page_alloc").join(name);
        for (name, value) in [
            ("times", "0"),
            ("task-filter", "Y"),
            ("interval", "1"),
            ("space", "0"),
            ("probability", "100"),
        ] {
            fs::write(knob(name), value)?;
        }
        fs::write(SELF, "1")?;
        fs::write(knob("times"), n.to_string())?;
        let result = call();
        let left = fs::read_to_string(knob("times"))?;
        fs::write(SELF, "0")?;
        fs::write(knob("probability"), "0")?;
        Ok((result, left.trim() == "0"))
    }

    /// Calls with the n-th allocation failing, counted from 1; returns whether there were so many.
    pub fn nth<T>(&self, n: u32, call: impl FnOnce() -> T) -> io::Result<(T, bool)> {
        // All memory that is needed between the two is on the stack and has been touched.
        let mut left = [0; 16];
        let text = n.to_string();
        self.nth.write_at(text.as_bytes(), 0)?;
        let result = call();
        let len = self.nth.read_at(&mut left, 0)?;
        self.nth.write_at(b"0", 0)?;
        let failed = left[..len].starts_with(b"0");
        Ok((result, failed))
    }
}
