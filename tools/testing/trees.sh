# SPDX-License-Identifier: GPL-2.0
#
# Tests of the trees that `make tree` makes, of patches, and of what editors get. Sourced by
# tools-test.

# shellcheck disable=SC2034,SC2154

# repository DIR: makes one of it, with all of its files in a commit. Git has no identity
# but this one, and nothing of its user's configuration.
repository() {
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
	export GIT_AUTHOR_NAME=Tester GIT_AUTHOR_EMAIL=tester@localhost
	export GIT_COMMITTER_NAME=Tester GIT_COMMITTER_EMAIL=tester@localhost
	git init -q "$1"
	git -C "$1" add -f .
	git -C "$1" commit -qm kernel
}

# parts_of_kernel DIR: of the released kernel, the files that linux/patches changes, and
# those that git and `series` look at.
parts_of_kernel() {
	local pristine file
	pristine=$(KERNEL_SRC=$kernel "$TOP/tools/build/kernel-source")
	{
		printf '%s\n' Makefile .gitattributes .gitignore
		sed -n 's,^--- a/,,p' "$TOP"/linux/patches/*.patch
	} | sort -u | while read -r file; do
		[ ! -e "$pristine/$file" ] || install -m644 -D "$pristine/$file" "$1/$file"
	done
}

# of_this_kernel TREE: linux/patches was made for the very files that TREE began with.
of_this_kernel() {
	local file blob
	awk '/^diff --git / { file = substr($3, 3) }
		/^index / && !(file in seen) { seen[file]; sub(/[.].*/, "", $2); print file, $2 }' "$TOP"/linux/patches/*.patch |
		while read -r file blob; do
			[[ $(git -C "$1" rev-parse "refs/drm_gpu/base:$file") = "$blob"* ]] || return 1
		done
}

# The kernel's patches, as git, `make tree` and the recipe in README.md take them.
patches() {
	local k=$tmp/kernel recipe
	parts_of_kernel "$k"
	cp -r "$k" "$tmp/am"
	repository "$tmp/am"
	try git -C "$tmp/am" am "$TOP"/linux/patches/*.patch
	ok ended 0 -- git-am-takes-the-patches
	out=$(git -C "$tmp/am" log --format='%an <%ae> %s' --reverse)
	ok test "$(git -C "$tmp/am" log --author=Tester --format=%s)" = kernel -- patches-have-authors
	try "$TOP/tools/build/series" make "$tmp/tree" "$k"
	ok ended 0 -- tree-is-made
	out=$(git -C "$tmp/tree" log --format='%an %ad %s' --reverse)
	ok test "$(sed '1,2d; $d' <<<"$out")" = "$(git -C "$tmp/am" log --format='%an %ad %s' --reverse | sed 1d)" -- \
		tree-has-a-commit-for-each-patch
	try "$TOP/tools/build/series" patches "$tmp/tree" "$tmp/patches"
	if of_this_kernel "$tmp/tree"; then
		out=$(diff -r "$tmp/patches" "$TOP/linux/patches" 2>&1 | head -n 20) || :
		ok test -z "$out" -- patches-are-as-git-writes-them
	else
		ok ended 0 -- "patches-are-as-git-writes-them # SKIP they were made for another release"
	fi
	# The indented lines after "by hand".
	recipe=$(sed -n '/^Or by hand/,/^Then/s/^    //p' "$TOP/README.md")
	cp -r "$k" "$tmp/by hand"
	try env -C "$TOP" LINUX="$tmp/by hand" bash -euc "$recipe"
	ok ended 0 -- the-recipe-of-the-readme-works
	try diff -r --exclude=.git --exclude=.gitignore "$tmp/tree" "$tmp/by hand"
	ok ended 0 -- the-recipe-of-the-readme-makes-the-same-tree
}

# A kernel of three files, and a checkout with a patch for one of them.
small_checkout() {
	local k=$tmp/small c=$tmp/checkout
	mkdir -p "$k/rust/kernel" "$c/tools/build" "$c/linux/patches" "$c/linux/rust/kernel" "$c/gem"
	printf '%s\n' 'VERSION = 7' 'PATCHLEVEL = 3' 'SUBLEVEL = 0' >"$k/Makefile"
	printf '%s\n' '.*' '/*' '!/debian/' >"$k/.gitignore"
	seq 20 >"$k/rust/kernel/lib.rs"
	seq 10 >"$k/rust/kernel/drm.rs"
	cp "$TOP/tools/build/series" "$TOP/tools/build/parts.sh" "$c/tools/build"
	echo 'mod gem;' >"$c/drm_gpu.rs"
	seq 5 >"$c/gem/bo.rs"
	echo obj >"$c/Makefile"
	seq 5 >"$c/linux/rust/kernel/fence.rs"
	cp -r "$k" "$tmp/work"
	repository "$tmp/work"
	echo 'mod fence;' >>"$tmp/work/rust/kernel/lib.rs"
	GIT_AUTHOR_NAME=Somebody git -C "$tmp/work" commit -qam 'rust: build the fences' -m 'Drivers wait for them.'
	git -C "$tmp/work" format-patch -q --no-numbered --no-signature --zero-commit --abbrev=12 \
		-o "$c/linux/patches" HEAD~1
}

# commit_all TREE MESSAGE
commit_all() {
	git -C "$1" add . && git -C "$1" commit -qm "$2"
}

tree_back() {
	local k=$tmp/small c=$tmp/checkout t=$tmp/small-tree d=drivers/gpu/drm/drm_gpu first made
	small_checkout
	first=$c/linux/patches/0001-rust-build-the-fences.patch
	cp "$first" "$tmp/first.patch"
	try "$c/tools/build/series" make "$t" "$k"
	out+=$(git -C "$t" log --format='%an: %s')
	ok test "$(git -C "$t" log --format=%an: -1 HEAD~1)" = Somebody: -- tree-has-the-authors-of-the-patches
	try git -C "$t" ls-files --others
	ok test -z "$out" -- tree-has-all-files-of-a-release
	made=$(git -C "$t" rev-parse HEAD)
	try "$c/tools/build/series" make "$t" "$k"
	ok test "$(git -C "$t" rev-parse HEAD)" = "$made" -- tree-is-the-same-each-time
	echo 'mod mmu;' >>"$c/drm_gpu.rs"
	try "$c/tools/build/series" make "$t" "$k"
	ok cmp "$t/$d/drm_gpu.rs" "$c/drm_gpu.rs" -- tree-is-brought-up-to-date

	echo 6 >>"$t/$d/gem/bo.rs"
	try "$c/tools/build/series" back "$t"
	ok ended 1 'not committed' -- tree-back-wants-commits
	try "$c/tools/build/series" make "$t" "$k"
	ok ended 1 'changes of its own' -- tree-keeps-changes-that-are-not-committed
	echo new >"$t/$d/mmu.rs"
	git -C "$t" rm -q "$d/Makefile"
	echo 6 >>"$t/rust/kernel/fence.rs"
	echo new >"$t/rust/kernel/sync.rs"
	echo 'mod sync;' >>"$t/rust/kernel/drm.rs"
	commit_all "$t" 'rust: build sync'
	echo 7 >>"$t/$d/gem/bo.rs"
	commit_all "$t" 'gem: one more'
	try "$c/tools/build/series" make "$t" "$k"
	ok ended 1 'changes of its own' -- tree-keeps-commits
	cp -r "$c" "$tmp/before"
	sed -i 's/^5$/five/' "$c/gem/bo.rs"
	try "$c/tools/build/series" back "$t"
	ok ended 1 'nothing is brought back' -- tree-back-sees-conflicts
	cp "$tmp/before/gem/bo.rs" "$c/gem/bo.rs"
	ok diff -r "$tmp/before" "$c" -- tree-back-leaves-the-checkout-alone-then
	try "$c/tools/build/series" back "$t"
	ok ended 0 'rust: build sync' 'gem: one more' -- tree-back-tells-the-commits
	out=$(diff -r "$t/$d" "$c" 2>&1 | grep -vE "^Only in $c: (linux|tools)\$") || :
	ok test -z "$out" -- tree-back-brings-the-driver
	try diff -r <(cd "$t/rust/kernel" && cat fence.rs sync.rs) <(cd "$c/linux/rust/kernel" && cat fence.rs sync.rs)
	ok ended 0 -- tree-back-brings-new-files-of-the-kernel
	out=$(ls "$c/linux/patches")
	ok test "$out" = "$(printf '%s\n' "${first##*/}" 0002-rust-build-sync.patch)" -- \
		tree-back-makes-a-patch-of-a-commit-to-the-kernel
	ok cmp "$first" "$tmp/first.patch" -- tree-back-leaves-other-patches-alone
	out=$(cat "$c/linux/patches/0002"*)
	ok test "$(grep -c '^diff ' <<<"$out")" = 1 -- tree-back-keeps-new-files-out-of-patches
	try "$c/tools/build/series" make "$t" "$k"
	ok ended 0 -- tree-is-made-anew-after-tree-back

	sed -i 's/^mod fence;$/pub mod fence;/' "$t/rust/kernel/lib.rs"
	git -C "$t" commit -qa --fixup ':/rust: build the fences'
	GIT_SEQUENCE_EDITOR=: git -C "$t" rebase -q -i --autosquash refs/drm_gpu/base >/dev/null 2>&1
	cp "$first" "$tmp/second.patch"
	sed -i 's/^Drivers/Users/' "$first"
	try "$c/tools/build/series" back "$t"
	ok ended 1 'linux/patches is not what it was' -- tree-back-sees-that-patches-have-changed
	cp "$tmp/second.patch" "$first"
	try "$c/tools/build/series" back "$t"
	ok ended 0 -- tree-back-takes-amended-patches
	out=$(cat "$first")
	ok grep -q '^+pub mod fence;' "$first" -- tree-back-changes-the-patch
	ok grep -q '^Drivers wait' "$first" -- tree-back-keeps-its-message
	sed -i '/^From: /d' "$first"
	try "$c/tools/build/series" make "$tmp/other" "$k"
	ok ended 1 'has no author' -- patches-without-author-are-refused
	mkdir -p "$tmp/full/x"
	try "$c/tools/build/series" make "$tmp/full" "$k"
	ok ended 1 'neither empty nor made by make tree' -- tree-takes-no-folder-that-is-in-use
}

# staged ARGUMENT...: prepares $tmp/staged/src, of the tree that `patches` has made, as the
# kernels' is prepared.
staged() {
	enter timeout 120 "$TOP/tools/build/tree" "$@"
}

# The tree of `make tree` as KERNEL_SRC: its own driver and patches, and the board.
kernel_of_a_tree() {
	local staged=$tmp/staged/src gem=drivers/gpu/drm/drm_gpu/gem.rs
	mkdir "$tmp/staged"
	echo '// changed' >>"$tmp/tree/$gem"
	try staged inside "$staged" "$tmp/tree" follow
	ok ended 0 -- a-tree-can-be-the-kernel
	try diff -rq --exclude=.git --exclude=.kernel-src --exclude=vgpu_board --exclude='*absent.rs' \
		--exclude=bare.rs "$tmp/tree" "$staged"
	out=$(grep -v '/drivers/gpu/drm/\(drm_gpu/\)\?\(Kconfig\|Makefile\) and .* differ' <<<"$out") || :
	ok test -z "$out" -- a-tree-is-built-as-it-is
	ok test -e "$staged/drivers/gpu/drm/vgpu_board/board.c" -- the-board-comes-on-top
	ok grep -q absent "$staged/drivers/gpu/drm/drm_gpu/Makefile" -- the-second-family-comes-on-top
	try staged inside-key "$tmp/tree" follow
	ok test "$out" = "$(cd "$staged" && xargs sha256sum <"$staged.files" | sha256sum | cut -c1-64)" -- \
		kernels-are-named-after-the-tree

	touch "$tmp/tree/.config"
	try env KERNEL_SRC="$tmp/tree" "$TOP/tools/build/kernel-source"
	ok ended 1 '^error: .* was configured or built in place; run .make mrproper' -- a-tree-that-was-built-in-is-refused
	rm "$tmp/tree/.config"
	try env KERNEL_SRC="$tmp/tree" "$TOP/tools/build/kernel-source"
	ok ended 0 "^$tmp/tree$" -- a-tree-that-was-not-is-taken

	echo '// changed again' >>"$tmp/tree/$gem"
	try staged inside "$staged" "$tmp/tree" follow
	ok ended 0 -- a-tree-is-followed
	ok cmp "$tmp/tree/$gem" "$staged/$gem" -- what-has-changed-in-it-is-built
}

# An editor gets the files of the checkout, or those of the tree.
editors() {
	local src=$tmp/editor/src d=drivers/gpu/drm/drm_gpu
	mkdir -p "$src/rust/kernel/drm" "$src/$d"
	echo 'pub mod drm;' >"$src/rust/kernel/lib.rs"
	echo 'copy' >"$src/rust/kernel/drm/exec.rs"
	touch "$src/$d/Kconfig"
	printf '"%s"\n' "$src/$d/drm_gpu.rs" "$src/$d/drm_gpu_absent.rs" "$src/rust/kernel/lib.rs" "$src/rust/kernel" \
		"$src/scripts/sorttable.rs" "$src-obj/rust" /usr /usr/lib/rustlib/src/rust/library >"$tmp/editor/json"
	try "$TOP/tools/build/rust-project" "$src" "$tmp/editor/json" "$tmp/editor/links"
	ok ended 0 "^\"$TOP/drm_gpu.rs\"" "^\"$src/$d/drm_gpu_absent.rs\"" "^\"$tmp/editor/links/rust/kernel\"" \
		"^\"$src-obj/rust\"" "^\"$BUILD_ROOT/usr\"" "^\"$BUILD_ROOT/usr/lib/rustlib/" -- editors-get-the-checkout
	ok test "$tmp/editor/links/rust/kernel/drm/exec.rs" -ef "$TOP/linux/rust/kernel/drm/exec.rs" -- \
		editors-get-the-files-of-linux
	ok cmp "$src/rust/kernel/lib.rs" "$tmp/editor/links/rust/kernel/lib.rs" -- editors-get-the-rest-of-the-crate
	try env KERNEL_SRC="$src" "$TOP/tools/build/rust-project" "$src-copy" \
		<(sed "s,$src,&-copy,; s,-copy-obj,-obj," "$tmp/editor/json") "$tmp/editor/links"
	ok test "$out" = "$(sed "s,\"/usr,\"$BUILD_ROOT/usr,; /absent/s,$src,&-copy," "$tmp/editor/json")" -- \
		editors-get-the-tree
}
