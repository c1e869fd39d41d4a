# SPDX-License-Identifier: GPL-2.0
#
# The parts of the checkout that go into a kernel tree. Sourced by `tree` and `series`,
# with TOP set.

DRIVER_DIR=drivers/gpu/drm/drm_gpu

# copy_linux DIR: the new files of the rest of the kernel.
copy_linux() {
	local file
	(cd "$TOP/linux" && find . -type f ! -path './patches/*' ! -name '*.md') |
		while read -r file; do install -m644 -D "$TOP/linux/$file" "$1/$file"; done
}

# copy_driver DIR: the driver, at its place in the tree.
copy_driver() {
	local file
	(cd "$TOP" && find . \( -path ./build -o -path ./linux -o -path ./.git -o -path ./tools \
		-o -path ./Documentation -o -path ./.ci \) -prune -o -type f \
		\( -name '*.rs' -o -name '*.[ch]' -o -name Kconfig -o -name Makefile \) -print) |
		while read -r file; do install -m644 -D "$TOP/$file" "$1/$DRIVER_DIR/$file"; done
}

# copy_kernel KERNEL DIR: a whole kernel tree, without its repository.
copy_kernel() {
	mkdir -p "$2"
	find "$1/" -mindepth 1 -maxdepth 1 ! -name .git -exec cp -a -t "$2" {} +
}
