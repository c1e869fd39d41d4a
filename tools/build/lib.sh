# SPDX-License-Identifier: GPL-2.0
#
# The parts that the build scripts share: where things live, content keys, progress,
# and entering the build root. Sourced, never run.

set -euo pipefail
export LC_ALL=C

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${DRM_GPU_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/drm_gpu}
OUT=$TOP/build
LOGS=$OUT/logs
JOBS=${JOBS:-$(nproc)}
. "$TOP/tools/build/inputs"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit "${DIE_STATUS:-1}"; }

# Making and entering a build root takes root, and what is made there belongs to
# it. So all is done by root, with the caller's cache.
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "this takes root, or sudo"
	exec sudo --preserve-env=HOME,XDG_CACHE_HOME,DRM_GPU_CACHE,JOBS,KERNEL_SRC,WARN,CI,http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY \
		"$0" "$@"
fi
# These are used from other folders than the one that they may be relative to.
CACHE=$(realpath -ms "$CACHE")
export DRM_GPU_CACHE=$CACHE
[ -z "${KERNEL_SRC:-}" ] || export KERNEL_SRC=$(realpath -ms "$KERNEL_SRC")
case $TOP$CACHE in *[[:space:]]*) die "neither '$TOP' nor '$CACHE' may have spaces in it" ;; esac
# Debian has what the bench is made of for this alone.
[ "$(uname -m)" = x86_64 ] || die "the bench needs an x86_64 machine"
mkdir -p "$CACHE" "$LOGS"
as_root() { "$@"; }

# key TEXT|FILE...: a short name for the content of the arguments.
key() {
	local a
	for a in "$@"; do
		if [ -f "$a" ]; then cat "$a"; else printf '%s\n' "$a"; fi
	done | sha256sum | cut -c1-16
}

# still TITLE LOG PID: says now and then how far the process PID is with what it logs.
still() {
	local start=$SECONDS
	while sleep 1 && kill -0 "$3" 2>/dev/null; do
		[ $(((SECONDS - start) % 60)) != 59 ] ||
			say "    $1: $((SECONDS - start)) s, $(wc -l <"$2") steps$(tail -n 1 "$2" | cut -c1-50 | sed 's/^ */, now /')"
	done
}

# logged NAME TITLE COMMAND...: one line of progress, the output in a file. The
# command runs in the foreground: one in the background would not hear of Ctrl-C.
logged() {
	local name=$1 title=$2 log=$LOGS/$1.log start=$SECONDS rc=0 watcher
	shift 2
	say "  $title ..."
	: >"$log"
	still "$title" "$log" "$BASHPID" >&2 8>&- 9>&- &
	watcher=$!
	disown
	"$@" >"$log" 2>&1 </dev/null || rc=$?
	kill "$watcher" || :
	if [ $rc != 0 ]; then
		"$TOP/tools/build/errors" "$log" >&2
		say "  $title failed (status $rc), the whole output: $log"
		return $rc
	fi
	say "  $title: done in $((SECONDS - start)) s"
}

# Several commands may want the same cached thing at once: one makes it.
locked() {
	local name=$1
	shift
	(
		flock -w 1 9 || {
			say "  waiting for another command that uses $name ..."
			flock 9
		}
		"$@"
	) 9>"$CACHE/.lock-$name"
}

BUILD_ROOT=$CACHE/root-$(key "$BUILD_SUITE" "$BUILD_SUITES_EXTRA" \
	"$BUILD_PACKAGES" "$BUILD_PINS" "$TOP/tools/build/root")

# enter COMMAND...: runs it in the build root, in this directory. The checkout
# and the cache have the same paths inside, and so have the folders in ENTER_BIND,
# one a line. The folder ENTER_OWN is mounted at ENTER_AT. All processes that COMMAND
# starts end with it, and it ends with its caller. With ENTER_EXEC=exec it takes the
# place of the shell that calls it.
enter() {
	${ENTER_EXEC:-} env ENTER_BIND="${ENTER_BIND:-}" ENTER_OWN="${ENTER_OWN:-}" ENTER_AT="${ENTER_AT:-}" \
		setpriv --pdeathsig KILL \
		unshare --mount --propagation slave --pid --fork --kill-child=KILL \
		"$TOP/tools/build/enter" "$BUILD_ROOT" "$TOP" "$CACHE" "$PWD" "$@"
}
