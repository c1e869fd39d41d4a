# SPDX-License-Identifier: GPL-2.0
#
# Tests of checkouts that share a cache, with a kernel of three objects and a program of one
# line. Sourced by tools-test.

# shellcheck disable=SC2154
toys= kernel_src=

# toy_kernel: what is released, in a cache of its own, with the build root of this one.
# `core` says when it was made, so that it can be told from one that was made anew. While the
# folder `meet` is in the cache, a driver takes until two are being built.
toy_kernel() {
	local k=$toys/cache/linux-$KERNEL_SERIES-source
	mkdir -p "$k/src/init" "$k/src/drivers/gpu/drm/vgpu_board"
	touch "$k/.ok" "$k/src/drivers/gpu/drm/vgpu_board/Kconfig"
	ln -s "$BUILD_ROOT" "$toys/cache/"
	echo core >"$k/src/init/core"
	echo first >"$k/src/init/first"
	echo second >"$k/src/init/second"
	cat >"$k/src/Makefile" <<-'END'
		VERSION = 7
		PATCHLEVEL = 3
		SUBLEVEL = 0
		.RECIPEPREFIX := >
		cache := $(O)/../..
		driver := drivers/gpu/drm/drm_gpu/drm_gpu.rs
		bzImage: $(O)/core $(O)/first $(O)/driver
		> mkdir -p $(O)/arch/x86/boot
		> cat $^ >$(O)/arch/x86/boot/bzImage
		> touch $(O)/vmlinux
		> echo $(O) >$(cache)/place
		$(O)/core: init/core
		> date +%N >$@
		$(O)/first: init/first
		> cp $< $@
		$(O)/driver: $(driver)
		> cat $< >>$(cache)/built
		> cp $< $@
		> [ ! -d $(cache)/meet ] || { cp $< $$(mktemp $(cache)/meet/XXXXXX); \
			timeout 100 sh -c 'until [ $$(ls $(cache)/meet | wc -l) = 2 ]; do sleep 0.1; done'; }
		allnoconfig:
		> grep -v '=n$$' $(O)/fragment >$(O)/.config
		rustavailable modules:
		modules_install:
		> mkdir -p $(INSTALL_MOD_PATH)/lib/modules
	END
	sed -i "s/^VERSION = 7/VERSION = ${KERNEL_SERIES%.*}/; s/^PATCHLEVEL = 3/PATCHLEVEL = ${KERNEL_SERIES#*.}/" \
		"$k/src/Makefile"
}

# toy_checkout NAME FILE: one with the tools of this one, a driver that says NAME, and a patch
# for that file of the kernel.
toy_checkout() {
	local c=$toys/$1
	mkdir -p "$c/linux/patches" "$c"/tools/testing/{board,family,model/src}
	cp -r "$TOP/tools/build" "$c/tools"
	touch "$c"/{.,tools/testing/family}/{Kconfig,Makefile}
	echo "driver of $1" >"$c/drm_gpu.rs"
	printf '%s\n' "--- a/init/$2" "+++ b/init/$2" '@@ -1 +1 @@' "-$2" "+$2 patched" >"$c/linux/patches/0001-$2.patch"
	printf '[workspace]\nmembers = ["model"]\nresolver = "2"\n' >"$c/tools/testing/Cargo.toml"
	printf '[package]\nname = "model"\nversion = "0.1.0"\n' >"$c/tools/testing/model/Cargo.toml"
	echo "fn main() { println!(\"model of $1\"); }" >"$c/tools/testing/model/src/main.rs"
	printf 'version = 4\n\n[[package]]\nname = "model"\nversion = "0.1.0"\n' >"$c/tools/testing/crates"
	cp "$c/tools/testing/crates" "$c/tools/testing/Cargo.lock"
}

# of NAME TOOL ARGUMENT...: runs a tool of that checkout.
of() {
	local name=$1 tool=$2
	shift 2
	env -u WARN KERNEL_SRC="$kernel_src" DRM_GPU_CACHE="$toys/cache" timeout 120 "$toys/$name/tools/build/$tool" "$@"
}

# builds NAME CORE FIRST DRIVER: that checkout's kernel has these.
builds() {
	try of "$1" kernel x86_64 release
	[ "$status" = 0 ] && cp "$(tail -n 1 <<<"$out")/image" "$toys/image" &&
		out=$(cat "$toys/image") && [ "$out" = "$(printf '%s\n' "$2" "$3" "$4")" ]
}

# tree_of NAME
tree_of() {
	grep -lx "$toys/$1" "$toys"/cache/tree-*/x86_64-release-*/owner | xargs dirname
}

# build_at_once NAME NAME: both of them build their kernels.
build_at_once() {
	local name processes=()
	status=0
	for name; do
		of "$name" kernel x86_64 release >"$toys/$name.out" 2>&1 </dev/null &
		processes+=($!)
	done
	wait "${processes[0]}" || status=$?
	wait "${processes[1]}" || status=$?
	out=$(cat "$toys/$1.out" "$toys/$2.out")
}

kernels_of_checkouts() {
	local core a b c shared pristine inode place
	toys=$(mktemp -d)
	toy_kernel
	pristine=$toys/cache/linux-$KERNEL_SERIES-source/src
	toy_checkout a first
	toy_checkout b second
	toy_checkout c second

	try of a kernel x86_64 release
	ok ended 0 -- a-kernel-is-built-from-nothing
	core=$(head -n 1 "$(tail -n 1 <<<"$out")/image")
	ok test "$(cat "$pristine/init/first")" = first -- the-released-kernel-stays-as-it-is

	# As a cache was before.
	a=$(tree_of a) shared=$(dirname "$a")
	mv "$a"/src "$a"/src.files "$a"/obj-* "$shared"
	rm -r "$a"
	echo 'driver of a, changed' >"$toys/a/drm_gpu.rs"
	ok builds a "$core" 'first patched' 'driver of a, changed' -- the-shared-tree-of-old-is-taken-over
	out=$(ls "$shared")
	ok test "$out" = "$(basename "$(tree_of a)")" -- nothing-of-it-is-left

	# As a build would.
	a=$(tree_of a)
	flock "$a" sleep 3 &
	ok builds b "$core" first 'driver of b' -- a-new-checkout-begins-with-the-objects-of-another
	b=$(tree_of b)
	ok test "$a/src/init/core" -ef "$b/src/init/core" -- sources-are-there-once
	out=$(cat "$a/src/init/first" "$a/src/init/second" "$b/src/init/first" "$b/src/init/second")
	ok test "$out" = "$(printf '%s\n' 'first patched' second first 'second patched')" -- \
		a-checkout-changes-its-own-sources-alone

	mkdir "$toys/cache/meet"
	echo 'driver of a, beside b' >"$toys/a/drm_gpu.rs"
	echo 'driver of b, beside a' >"$toys/b/drm_gpu.rs"
	build_at_once a b
	ok ended 0 -- checkouts-with-other-content-build-side-by-side
	rm -r "$toys/cache/meet"
	: >"$toys/cache/built"
	ok builds a "$core" 'first patched' 'driver of a, beside b' -- each-gets-its-own-kernel
	ok builds b "$core" first 'driver of b, beside a' -- and-so-does-the-other
	echo 'driver of both' | tee "$toys/b/drm_gpu.rs" >"$toys/c/drm_gpu.rs"
	build_at_once b c
	ok cmp -s "$toys/cache/built" "$toys/b/drm_gpu.rs" -- checkouts-with-the-same-content-build-it-once

	inode=$(stat -c %i "$a/src")
	rm -r "$toys/a"
	toy_checkout d second
	ok builds d "$core" first 'driver of d' -- the-tree-of-a-gone-checkout-is-handed-on
	ok test "$(stat -c %i "$(tree_of d)/src")" = "$inode" -- it-is-not-copied
	ok test ! -e "$a" -- nor-left-behind
	for c in e f g; do
		toy_checkout "$c" second
		try of "$c" kernel x86_64 release
	done
	out=$(cat "$toys"/cache/tree-*/x86_64-release-*/owner)
	ok test "$(wc -l <<<"$out")" = 4 -- the-oldest-trees-are-removed
	ok grep -qx "$toys/d" <<<"$out" -- the-newest-are-not
	c=$(tree_of d)
	rm "$c/owner" "$c/src/init/first"
	echo broken >"$c/obj-x86_64-release/core"
	echo 'driver of d, again' >"$toys/d/drm_gpu.rs"
	ok builds d "$core" first 'driver of d, again' -- a-tree-that-is-not-complete-begins-again

	place=$(cat "$toys/cache/place")
	cp -r "$pristine" "$toys/linux"
	echo second >"$toys/linux/init/first"
	kernel_src=$toys/linux
	try of f kernel x86_64 release
	core=$(head -n 1 "$(tail -n 1 <<<"$out")/image")
	ok builds f "$core" second 'driver of f' -- a-kernel-of-ones-own-is-built
	ok grep -qx "$place" "$toys/cache/place" -- at-the-same-place-in-the-build-root
	echo third >"$toys/linux/init/first"
	ok builds e "$core" third 'driver of e' -- another-checkout-begins-with-its-objects
	kernel_src=
	rm -rf "$toys"
}

# Cargo goes by times, and a checkout may be older than what another one has built.
programs_of_checkouts() {
	local target
	toys=$(mktemp -d)
	toy_kernel
	toy_checkout a first
	toy_checkout b first
	touch -d '1 hour ago' "$toys/b/tools/testing/model/src/main.rs"
	try of a programs x86_64
	out=$(tail -n 1 <<<"$out")
	ok grep -q 'model of a' "$out/x86_64/model" -- programs-are-built-from-nothing
	# As a cache was before.
	target=$toys/cache/cargo-target
	mv "$target"/checkout-*/* "$target"
	rm -r "$target"/checkout-*
	try of b programs x86_64
	out=$(tail -n 1 <<<"$out")
	ok grep -q 'model of b' "$out/x86_64/model" -- a-program-is-that-of-its-checkout
	out=$(ls "$target")
	ok test "$(wc -l <<<"$out")" = 1 -- the-shared-folder-of-cargo-is-taken-over
	try of a programs x86_64
	try of a programs test
	ok ended 0 'test result: ok' -- unit-tests-run
	out=$(cat "$target"/*/owner)
	ok test "$(wc -l <<<"$out")" = 2 -- each-checkout-has-its-own
	rm -rf "$toys"
}

checkouts() {
	kernels_of_checkouts
	programs_of_checkouts
}
