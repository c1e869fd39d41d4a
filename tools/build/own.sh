# SPDX-License-Identifier: GPL-2.0
#
# Folders in the cache that each checkout has one of: the trees that kernels are built in,
# one for each configuration, and cargo's target folder. So checkouts with different content
# build side by side. Sourced, after lib.sh.
#
# In the build root such a folder is mounted over a folder of the cache (ENTER_OWN and ENTER_AT in
# `enter`), so that all checkouts have the same paths there. ccache finds what another one has
# compiled, and a new folder begins with what another one has built.
#
# The file `owner` names the checkout. A folder without it is not complete. The time of a folder
# is that of its last use. The lock is on the folder itself: it is held, on descriptor 8, by a
# build there, and on descriptor 7 by those that hand it on, remove it or, shared, copy from it.

# Folders of a kind that are kept.
OWN_KEPT=4

# gone FOLDER: its checkout is not there any more.
gone() {
	[ ! -e "$(cat "$1/owner" 2>/dev/null)/tools/build/lib.sh" ]
}

# lock_other FLAGS FOLDER: locks that of another checkout, unless it has been removed meanwhile.
lock_other() {
	# shellcheck disable=SC2086
	{ exec 7<"$2"; } 2>/dev/null && flock $1 7 && [ "$2" -ef /dev/fd/7 ]
}

# begin BASE COPY: fills $own with the newest of another checkout, if there is one. One whose
# checkout is gone is preferred, since it need not be copied. If builds are under way in all of
# them, the end of one is waited for: most take less time than one from nothing.
begin() {
	local dir from= there=
	rm -rf "$own"/*
	for dir in $(ls -dt "$1"-* 2>/dev/null || :); do
		# One that was cut off early has an owner, and nothing to begin with.
		[ -e "$dir/owner" ] && { [ -e "$dir/src.files" ] || [ -e "$dir/release" ]; } || continue
		if ! gone "$dir"; then
			there+=" $dir"
		elif lock_other -n "$dir" && [ -e "$dir/owner" ]; then
			rm "$dir/owner"
			mv "$dir"/* "$own"
			rm -rf "$dir"
			return
		fi
	done
	for dir in $there; do
		! lock_other -sn "$dir" || { from=$dir; break; }
	done
	if [ -z "$from" ] && [ -n "$there" ]; then
		from=${there# } from=${from%% *}
		say "  waiting for a build in $(cat "$from/owner") to end, to begin with its objects ..."
		lock_other "-s -w 300" "$from" || return 0
	fi
	# It may have been removed, or handed on, before it was locked.
	[ -n "$from" ] && [ -e "$from/owner" ] || return 0
	say "  beginning with what was built for $(cat "$from/owner") ..."
	"$2" "$from" "$own"
}

# remove_others BASE PATTERN: removes what gone checkouts have left, and of all that match
# PATTERN the oldest ones. None in which something is under way.
remove_others() {
	local dir n=0
	# shellcheck disable=SC2086
	for dir in $(ls -dt $2 2>/dev/null || :); do
		n=$((n + 1))
		[ $n -gt $OWN_KEPT ] || { [[ $dir = "$1"-* ]] && gone "$dir"; } || continue
		lock_other -n "$dir" || continue
		rm -f "$dir/owner"
		rm -rf "$dir"
		rmdir "$(dirname "$dir")" 2>/dev/null || :
	done
}

# own BASE COPY [PATTERN]: takes the folder BASE-... of this checkout, $own, until descriptor 8
# is closed. `COPY FROM TO` copies from another one into a new one. At most $OWN_KEPT of those
# that match PATTERN are kept, by default of all with this BASE.
own() {
	own=$1-$(key "$TOP")
	until [ "$own" -ef /dev/fd/8 ]; do
		mkdir -p "$own"
		{ exec 8<"$own"; } 2>/dev/null || continue
		flock -w 1 8 || {
			say "  waiting for another command that uses $own ..."
			flock 8
		}
	done
	[ -e "$own/owner" ] || begin "$1" "$2"
	[ "$(cat "$own/owner" 2>/dev/null)" = "$TOP" ] || {
		echo "$TOP" >"$own/owner.new"
		mv "$own/owner.new" "$own/owner"
	}
	touch "$own"
	remove_others "$1" "${3:-$1-*}"
	exec 7<&-
	export ENTER_OWN=$own ENTER_AT=${own%/*}
}

# own_tree CONFIG: takes this checkout's tree for that configuration and brings it up to date.
# In the build root the kernel is $src and the folder that it is built in $obj.
own_tree() {
	local pristine trees at old
	"$TOP/tools/build/root" >/dev/null
	pristine=$("$TOP/tools/build/kernel-source")
	trees=$CACHE/tree-$(key "$pristine" "$BUILD_ROOT")
	# Trees of a KERNEL_SRC have the paths of those of the released kernel, for ccache.
	at=$CACHE/tree-$(key "$CACHE/linux-$KERNEL_SERIES-source/src" "$BUILD_ROOT")
	src=$at/src obj=$at/obj-$1
	for old in "$CACHE"/tree-*/src; do
		[ ! -e "$old" ] || locked staged split_tree "$(dirname "$old")"
	done
	own "$trees/$1" copy_tree "$CACHE/tree-*/$1-*"
	ENTER_AT=$at
	# The released kernel is not written to either. No link goes from one mount of the build root
	# to another, so they are made here.
	if [ ! -e "$own/src" ] && [ -z "${KERNEL_SRC:-}" ]; then
		rm -rf "$own/src.new"
		! cp -al "$pristine" "$own/src.new" 2>/dev/null || mv "$own/src.new" "$own/src"
	fi
	cd "$CACHE"
	ENTER_BIND=$pristine enter "$TOP/tools/build/tree" inside "$src" "$pristine" ${KERNEL_SRC:+follow} >&2
}

# copy_tree FROM TO: the sources are the same files, which are never written to, only replaced.
# The objects keep their times, by which make tells those that are older than their sources.
copy_tree() {
	[ -e "$1/src.files" ] || return 0
	cp -al "$1/src" "$1/src.files" "$2" 2>/dev/null || {
		# Where there are no hard links.
		rm -rf "$2"/src*
		cp -a --reflink=auto "$1/src" "$1/src.files" "$2"
	}
	[ ! -e "$1/${obj##*/}" ] || cp -a --reflink=auto "$1/${obj##*/}" "$2"
}

# split_tree TREES: makes trees that are handed on of the one that all checkouts and
# configurations shared once. A build there, by an older version, holds the lock `staged`.
split_tree() {
	local old new
	for old in "$1"/obj-*; do
		[ -e "$old" ] && [ -e "$1/src.files" ] || continue
		new=$(mktemp -d "$1/${old##*/obj-}-XXXXXX")
		cp -al "$1/src" "$1/src.files" "$new"
		mv "$old" "$new"
		echo none >"$new/owner"
	done
	rm -rf "$1"/src* "$1"/obj-*
}

# own_target: takes this checkout's target folder of cargo. In the build root it is $target.
own_target() {
	target=$CACHE/cargo-target
	[ ! -e "$target/release" ] || locked programs move_target
	own "$target/checkout" copy_target
}

copy_target() {
	cp -a --reflink=auto "$1"/*/ "$2"
}

# move_target: hands on the one that all checkouts shared once.
move_target() {
	[ -e "$target/release" ] || return 0
	local new
	new=$(mktemp -d "$target/checkout-XXXXXX")
	# The last one is what it is known by.
	find "$target" -mindepth 1 -maxdepth 1 ! -name 'checkout-*' ! -name release -exec mv -t "$new" {} +
	mv "$target/release" "$new"
	echo none >"$new/owner"
}
