# SPDX-License-Identifier: GPL-2.0
#
# The standalone targets, for people who have checked this repository out by
# itself. kbuild never reads this file.

.DEFAULT_GOAL := help
.PHONY: help run test test-long vm bench tree tree-back clippy fmt rustdoc rust-analyzer kernel clean distclean

help:
	@echo 'make run            boot a guest, load the driver, render with Mesa'
	@echo 'make test           every test, with small counts (LANE=... for one lane)'
	@echo 'make test-long      the same with large counts; writes a report'
	@echo 'make bench          what things cost, beside C panfrost, in instructions'
	@echo 'make vm             a shell in a guest with the driver loaded'
	@echo 'make tree DIR=...   a git repository of the kernel with linux/ and the driver'
	@echo 'make tree-back DIR=...  what was committed there, brought into this checkout'
	@echo 'make kernel         build the x86_64 kernel with the driver'
	@echo 'make clippy fmt rustdoc rust-analyzer'
	@echo 'make clean          remove build/: results and logs'
	@echo 'make distclean      remove the cache too: build root, kernels, guests'
	@echo
	@echo 'Variables:'
	@echo 'LANE=LANE           one of: all build checks debug guest igt kunit mesa model peer'
	@echo '                    silicon (LANE="kunit guest" for two); see Documentation/bench.rst'
	@echo 'JOBS=N              how many things are compiled at a time'
	@echo 'KERNEL_SRC=DIR      build from that Linux 7.3.y, or from a tree of make tree'
	@echo 'WARN=1              warnings of the Rust compiler are shown and do not end a build;'
	@echo '                    make test and make clippy fail all the same'
	@echo 'DRM_GPU_CACHE=DIR   the cache, instead of ~/.cache/drm_gpu'
	@echo
	@echo 'tools/testing/vm --help tells how to run anything in a guest.'

run:
	@tools/testing/run

test:
	@tools/testing/test $(LANE)

test-long:
	@tools/testing/test --long $(LANE)

bench:
	@tools/testing/bench

vm:
	@tools/testing/vm

tree:
	@tools/build/tree "$(or $(DIR),$(error make tree DIR=/path/to/new))"

tree-back:
	@tools/build/series back "$(or $(DIR),$(error make tree-back DIR=/path/of/the/tree))"

kernel:
	@tools/build/kernel x86_64 release

clippy fmt rustdoc rust-analyzer:
	@tools/build/check $@

clean:
	@tools/build/clean

distclean:
	@tools/build/clean --cache
