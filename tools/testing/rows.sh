# SPDX-License-Identifier: GPL-2.0
#
# How tests are recorded: each is a row `lane, result, name, note` in $ROWS.
# Sourced by `test`, which says what is run.

: >"$ROWS.times"

# row pass|fail|skip NAME [NOTE]
row() {
	printf '%s\t%s\t%s\t%s\n' "$LANE" "$1" "$2" "${3:-}" >>"$ROWS"
	[ "$1" != fail ] || say "    FAILED: $2${3:+ ($3)}"
}

# row_of NAME COMMAND...: a row that passes when COMMAND does.
row_of() {
	local name=$1 log
	shift
	log=$RESULTS/$LANE-$(tr -c 'a-zA-Z0-9\n' - <<<"$name").log
	if "$@" >"$log" 2> >(tee "$log.err" >&2); then
		row pass "$name"
	else
		cat "$log" >&2
		row fail "$name" "$log"
	fi
}

# How long a guest may take, in seconds: several times what the slowest does on two
# cores. Single tests have limits of their own.
GUEST_TIMEOUT=7200
[ -z "$LONG" ] || GUEST_TIMEOUT=14400

# vm_row LOGS NAME VM-ARGUMENT...: boots a guest; passes when its command does
# and its kernel had nothing to complain of. Its logs go to $RESULTS/LOGS.
vm_row() {
	local dir=$RESULTS/$1 name=$2 status=0
	shift 2
	rm -rf "$dir"
	mkdir -p "$dir/share"
	"$VM" --timeout "$GUEST_TIMEOUT" --log "$dir" --share "$dir/share" "$@" >"$dir/output" 2>&1 </dev/null || status=$?
	if [ $status = 0 ]; then
		row pass "$name"
	else
		tail -n 15 "$dir/output" >&2
		row fail "$name" "status $status, $dir"
	fi
	clean_row "$dir" "$name" "$*"
	rules_row "$dir" "$name"
}

# rules_row DIR NAME: no rule of the board was broken since it came up, be it in a test or when
# the driver was loaded or removed. C panfrost's are recorded: each of its tests has told of them.
rules_row() {
	local dir=$1 name="$2: no rule of the board was broken" broken
	if [ ! -s "$dir/rules" ]; then
		row fail "$name" "nobody counted, $dir"
		return
	fi
	broken=$(grep -v ': 0$' "$dir/rules" | paste -sd, || :)
	if [ -z "$broken" ]; then
		row pass "$name"
	elif [ "${SPLATS_ALLOWED:-}" = 1 ]; then
		row pass "$2: broken rules recorded" "$broken"
	else
		row fail "$name" "$broken, $dir"
	fi
}

# The messages of a kernel if something is wrong with it or with one of its drivers, or if
# it has stopped looking.
SPLATS='WARNING: |BUG: |Oops|KASAN|UBSAN|INFO: (task|possible|rcu|trying)|possible (recursive|circular)|suspicious RCU|DMA-API: .*(device driver|cpu touching|[Ee]xceeded|out of memory|disabl)|kmemleak: .*disabled|general protection|Kernel panic|Call trace:|Call Trace:|unregister_netdevice|refcount_t'

# clean_row DIR NAME VM-ARGUMENTS: no splat, and no line of our modules at level warning or
# above. C panfrost's are counted in a row that cannot fail: they are the peer's.
clean_row() {
	local dir=$1 name="$2: kernel log is clean" found kunit=0
	# A KUnit case that fails has a row of its own.
	case $3 in *kunit.enable=1*) kunit=1 ;; esac
	found=$(grep -aE "$SPLATS" "$dir/console" | grep -avE 'Could not enable error recovery' | head -n 5 || :)
	if [ -s "$dir/dmesg" ]; then
		# A raw line is <priority>...; the level is its lowest three bits.
		# Tests in which the hardware misbehaves put marks around themselves.
		found+=$(awk -F'[<>]' -v kunit=$kunit '
			kunit && / # .*: (ASSERTION|EXPECTATION) FAILED at / { next }
			/guest-tests: warnings are expected/ { expected = 1 }
			/guest-tests: no more warnings are expected/ { expected = 0 }
			# The arm64 code says so of a processor that is emulated without caches.
			/CLIDR_EL1.LoC == 0, treating as coherent/ { next }
			!expected && /drm_gpu|panfrost|vgpu/ && $2 % 8 <= 4' "$dir/dmesg" | head -n 5)
	else
		found+="no log with levels"
	fi
	# Leaks that kmemleak knew before the driver was loaded are in the log, not in this.
	[ ! -s "$dir/kmemleak" ] || found+=$(head -n 20 "$dir/kmemleak")
	[ "$(cat "$dir/dma-errors" 2>/dev/null || echo 0)" = 0 ] ||
		found+="the DMA debugging has found $(cat "$dir/dma-errors") errors"
	case " $3 " in *" --kernel debug "*)
		[ -e "$dir/kmemleak" ] || found+="kmemleak was not asked"
		[ -s "$dir/dma-errors" ] || found+="the DMA debugging was not asked"
		;;
	esac
	if [ -z "$found" ]; then
		row pass "$name"
	elif [ "${SPLATS_ALLOWED:-}" = 1 ]; then
		row pass "$2: kernel log recorded" "$(head -n 1 <<<"$found" | cut -c1-100)"
	else
		printf '%s\n' "$found" >&2
		row fail "$name" "$dir/console"
	fi
}

# cargo_rows LOG STATUS: from the output of `cargo test`, and how that ended.
cargo_rows() {
	local name result seen=
	while read -r name result; do
		seen=1
		case $result in
		ok) row pass "$name" ;;
		ignored*) row skip "$name" ;;
		*) row fail "$name" "$1" ;;
		esac
	done < <(sed -n 's/^test \(.*\) \.\.\. \([a-zA-Z]*\).*/\1 \2/p' "$1" | sed 's/ - should panic / /')
	# A program that crashes, or does not compile, says nothing of its tests.
	if [ -z "$seen" ] || [ "$2" != 0 ]; then
		tail -n 20 "$1" >&2
		row fail "cargo test" "status $2, $1"
	fi
}

# The KUnit suites of linux/, which run at boot, and of the driver, which run when
# it is loaded. A patch adds lines.
kunit_suites() {
	(cd "$TOP" && find . \( -path ./build -o -path ./.git -o -path ./tools \) -prune -o \
		-type f \( -name '*.rs' -o -name '*.patch' \) \
		-exec sed -nE 's/^\+?[[:space:]]*#\[([a-z]+::)*kunit_tests\(([a-z0-9_]+)\)\].*/\2/p' {} + | sort -u)
}

# ktap_rows CONSOLE: the suites that are ours, from the kernel's log.
ktap_rows() {
	local suites suite result name text seen=
	suites=$(kunit_suites | tr '\n' ' ')
	[ -n "$suites" ] || row fail "the suites of the sources" "none found"
	while IFS=$'\t' read -r suite result name text; do
		case " $suites " in *" $suite "*) ;; *) continue ;; esac
		seen="$seen $suite"
		row "$result" "$suite: $name" "$([ "$result" = pass ] || echo "$text$1")"
	done < <(awk '
		{ sub(/^\[ *[0-9.]+\] /, "") }
		# The place of a failure, without the folder of the build, and its text.
		/^ +# .*: (ASSERTION|EXPECTATION) FAILED at / {
			sub(/^ +# .* FAILED at /, ""); sub(/^.*drivers\/gpu\/drm\/drm_gpu\//, "")
			sub(/^\/.*\/rust\/kernel\//, "rust/kernel/")
			text = text $0 ": "; failed = 1; next
		}
		failed && /^ +[A-Z]/ { sub(/^ +/, ""); text = text $0 ", "; next }
		/# Subtest: / { suite = $NF; next }
		/^ +(not )?ok [0-9]+ / {
			r = /not ok/ ? "fail" : (/# SKIP/ ? "skip" : "pass")
			sub(/^ +(not )?ok [0-9]+ /, ""); sub(/ *#.*/, "")
			print suite "\t" r "\t" $0 "\t" text
			text = ""; failed = 0
		}' <(tr -d '\r' <"$1"))
	for suite in $suites; do
		case " $seen " in *" $suite "*) ;; *) row fail "$suite" "did not run" ;; esac
	done
}

# tap_rows FILE PREFIX: from a TAP stream. A failure comes with the comment before it, which is its
# message.
tap_rows() {
	local result name note seen=
	while IFS=$'\t' read -r result name note; do
		seen=1
		row "$result" "$2$name" "$note"
	done < <(awk '
		/^# / { said = substr($0, 3); next }
		/^(not )?ok / {
			# A failure that is expected of the peer says TODO.
			r = /^not/ ? (/# TODO/ ? "skip" : "fail") : (/# [Ss][Kk][Ii][Pp]/ ? "skip" : "pass")
			note = ""; if (match($0, / # .*/)) { note = substr($0, RSTART + 3); sub(/^TODO /, "expected: ", note); $0 = substr($0, 1, RSTART - 1) }
			if (r == "fail" && said != "") note = note (note == "" ? "" : ": ") said
			sub(/^(not )?ok [0-9]+( - )?/, ""); print r "\t" $0 "\t" note; said = ""
		}' "$1" | tr -d '\r')
	[ -n "$seen" ] || row fail "${2}no test ran" "$1"
}

# C panfrost 7.3 does not stop the jobs of a closed file: it looks for them by
# their scheduler entity, which the scheduler has cleared by then. The endless job
# of this subtest would fail the one after it, so it comes last there.
CLOSED_BUSY=panfrost/panfrost_submit@pan-submit-and-close

# expected_of SUBTEST FILE: what FILE says of it, whose names may be patterns.
expected_of() {
	local pattern result
	while read -r pattern result; do
		# shellcheck disable=SC2053
		[[ $1 != $pattern ]] || { echo "$result"; return; }
	done <"$2"
}

# igt_of LOGS RESULTS...: `test@subtest<TAB>result` lines from the folders RESULTS of a
# guest's share.
igt_of() {
	local dir=$RESULTS/$1 f
	shift
	for f; do
		if [ -e "$dir/share/$f/results.json" ]; then
			ENTER_BIND=$dir enter python3 "$TOP/tools/testing/igt-results" "$dir/share/$f/results.json" \
				"$TOP/tools/testing/lists/igt-late" || row fail "IGT results" "$dir/share/$f"
		else
			row fail "IGT results" "$dir/share/$f.log"
		fi
	done >"$dir/igt"
	[ -s "$dir/igt" ] || row fail "IGT results" "none in $dir"
}

# igt_rules LOGS DRIVER RESULTS...: a row fails for each subtest that broke a rule of the board.
# For C panfrost, two things are only recorded: changes of the model's counts of memory, and that it
# has cut the power because the caches took longer to go than it waits: a millisecond, which is
# short on a busy host.
igt_rules() {
	local dir=$RESULTS/$1 driver=$2 f test what late=
	shift 2
	! grep -q 'panfrost.*power transition timeout' "$dir/console" || late=1
	for f; do
		if [ ! -e "$dir/share/$f.rules" ]; then
			row fail "IGT $driver, the rules of the board" "nobody counted, $dir/share/$f.rules"
			continue
		fi
		while IFS=$'\t' read -r test what; do
			case $driver:$what:$late in
			panfrost:R9-* | panfrost:R10-* | panfrost:R6-*:1)
				row pass "IGT $driver ${test#igt@}: broken rule recorded" "$what"
				;;
			*) row fail "IGT $driver ${test#igt@} breaks no rule of the board" "$what" ;;
			esac
		done <"$dir/share/$f.rules"
	done
}

# igt_lane LOGS DRIVER VM-ARGUMENT...: IGT; a subtest that is not listed as an
# exception must pass. The prime test wants vkms for its second card, and with
# that asked for no other test would find ours. Behind a root port a GPU that was
# removed comes back with the same address and so the same name.
igt_lane() {
	local dir=$RESULTS/$1 driver=$2 name=$1 result test expected last= late try beyond= without=^$
	shift 2
	if [ "$driver" = panfrost ]; then
		local SPLATS_ALLOWED=1
		last=$CLOSED_BUSY
	fi
	# Tests that C panfrost has no part in; many of them are long on a debug kernel.
	case "$driver $*" in
	panfrost*) ;;
	# Two tests of DRM itself take minutes there, and so does unplugging, which our own do, too.
	*debug*) without='^(core_auth|syncobj_wait)$' ;;
	*) beyond="igt-hotunplug igt-beyond" ;;
	esac
	set -- --driver "$driver" --cards --root-port "$@"
	vm_row "$name" "IGT on $driver" "$@" -- \
		bash -c "s=0
			grep -vE '$without' /mnt/bench/lists/igt >/tmp/igt
			igt-run /tmp/igt /mnt/share/igt $last || s=1
			IGT_FORCE_DRIVER=vkms igt-run /mnt/bench/lists/igt-second-card /mnt/share/igt-second-card || s=1
			for l in $beyond; do igt-run /mnt/bench/lists/\$l /mnt/share/\$l || s=1; done
			exit \$s"
	# shellcheck disable=SC2086
	igt_of "$name" igt igt-second-card $beyond
	igt_rules "$name" "$driver" igt igt-second-card $beyond
	late=$(awk '$2 == "late" { print $1 }' "$dir/igt")
	case "$late:$*" in
	:* | *debug*) ;;
	*)
		# Again, with the guest to themselves. Too late three times more is a failure.
		for try in 1 2 3; do
			[ -n "$late" ] || break
			vm_row "$name-late" "IGT on $driver, what was late ($try)" "$@" -- \
				bash -c "echo '$late' >/tmp/late; igt-run /tmp/late /mnt/share/igt"
			igt_of "$name-late" igt
			{
				grep -v '	late$' "$dir/igt" || :
				cat "$RESULTS/$name-late/igt"
			} >"$dir/igt.new"
			mv "$dir/igt.new" "$dir/igt"
			late=$(awk '$2 == "late" { print $1 }' "$dir/igt")
		done
		sed -i 's/\tlate$/\tfail/' "$dir/igt"
		;;
	esac
	while IFS=$'\t' read -r test result; do
		# Messages of C panfrost that are above its level do not fail its row.
		case $driver:$result in
		panfrost:dmesg-warn) result=pass ;;
		panfrost:dmesg-fail) result=fail ;;
		esac
		expected=$(expected_of "$test" "$TOP/tools/testing/lists/igt-expected-$driver")
		case $result:$expected in
		pass:) row pass "IGT $driver $test" ;;
		late:) row skip "IGT $driver $test" "too late for its own time limit, on the debug kernel" ;;
		skip:skip) row skip "IGT $driver $test" ;;
		"$expected:$expected") row pass "IGT $driver $test" "known: $expected" ;;
		*) row fail "IGT $driver $test" "$result, expected ${expected:-pass}" ;;
		esac
	done <"$dir/igt"
}

# Tests that have the timer stop jobs: they count on the driver's own timeout.
TIMED='recover- irq- stress unplug- pressure- share- desktop- dump- log-limit-'

# Tests that have a count, which --long makes large.
LARGE='under-load fault-storm stress desktop-'

# Tests that have a guest of their own, and a count, too.
CROWD=crowd-

# guest_lane LOGS DRIVER VM-ARGUMENT...: our own tests. On a busy host a good job
# can take longer than the half second that our driver gives it on silicon, so
# but for those tests it gives more. Those are left out with UNTIMED, and with ONLY
# (options of guest-tests) more is: all have run on one GPU then. With LEFT_OUT (options, too)
# either part goes without some. UNTIL has the seconds of the guest's time after which no test of
# the first part and none of the second begins.
guest_lane() {
	local name=$1 driver=$2 skip count=$COUNT long=$LONG large left_out=${LEFT_OUT:-} until
	read -ra until <<<"${UNTIL:-}"
	shift 2
	skip=$(printf ' --skip %s' $TIMED)
	large=$(printf ' --filter %s' $LARGE)
	case "$driver $*" in
	panfrost*) count=1 long= ;;
	*debug*) count=1 ;;
	esac
	[ -z "${ONLY:-}${UNTIMED:-}" ] || long=
	if [ "$driver" = panfrost ]; then
		local SPLATS_ALLOWED=1
	else
		set -- --module-args job_timeout_ms=5000 "$@"
	fi
	vm_row "$name" "guest tests on $driver ($name)" --driver "$driver" --cards "$@" -- \
		bash -c "guest-tests --driver $driver --count $count $skip --skip $CROWD ${ONLY:-} $left_out \
				${until:+--until ${until[0]}} >/mnt/share/tap; s=\$?
			if [ -z '${ONLY:-}${UNTIMED:-}' ]; then
				export module_args=
				rmmod $driver && modprobe $driver || s=1
				guest-tests --driver $driver --count $count ${skip//skip/filter} $left_out \
					${until[1]:+--until ${until[1]}} >>/mnt/share/tap || s=1
			fi
			[ -z '$long' ] || guest-tests --driver $driver --long --timeout 7200 \
				$large >>/mnt/share/tap || s=1
			rmmod $driver || s=1; exit \$s"
	tap_rows "$RESULTS/$name/share/tap" "$name: "
}

# crowd_lane LOGS VM-ARGUMENT...: many clients in a guest with little memory. One has to
# wait for the memory of another, so jobs get more time than silicon needs.
crowd_lane() {
	local name=$1 long=$LONG
	shift
	case "$*" in
	*debug*) long= ;;
	esac
	vm_row "$name" "memory is short ($name)" --module-args job_timeout_ms=5000 "$@" -- \
		bash -c "guest-tests --timeout 7000 ${long:+--long} --filter $CROWD \
			>/mnt/share/tap; s=\$?; rmmod drm_gpu || s=1; exit \$s"
	tap_rows "$RESULTS/$name/share/tap" "$name: "
}

# refuse_lane LOGS: a board that drivers have to refuse; the peer does. Their complaints are
# what is wanted.
refuse_lane() {
	local name=$1 SPLATS_ALLOWED=1
	vm_row "$name" "a board to refuse" --driver none --gpu g52-two-domains -- \
		bash -c 'refuse-run panfrost drm_gpu >/mnt/share/tap'
	tap_rows "$RESULTS/$name/share/tap" "$name: "
}

# family_lane LOGS: the core of the driver with a family of GPUs that refuses each one.
family_lane() {
	local name=$1
	vm_row "$name" "a family without GPUs" --driver none -- \
		bash -c 'family-run drm_gpu_absent drm_gpu >/mnt/share/tap'
	tap_rows "$RESULTS/$name/share/tap" "$name: "
}

# mesa_lane LOGS DRIVER GPU VM-ARGUMENT...: Debian's Mesa in the arm64 guest, and a test of our own
# that needs arm64, on a GPU that can use user memory.
mesa_lane() {
	local name=$1 driver=$2 gpu=$3 own=
	shift 3
	[ "$driver" != panfrost ] || local SPLATS_ALLOWED=1
	[ "$driver:$gpu" != drm_gpu:g57 ] || own=userptr-tagged
	# shellcheck disable=SC2086
	vm_row "$name" "Mesa on $driver, $gpu" --arch arm64 --driver "$driver" --gpu "$gpu" "$@" -- \
		mesa-run "$gpu" /mnt/share $own
	tap_rows "$RESULTS/$name/share/tap" "$name: "
}

# compare TITLE PEER OURS: the results of both drivers, for the table, when this
# run has them; a row fails for each test that C panfrost passes and ours does not.
compare() {
	local title=$1 peer=$RESULTS/$2 ours=$RESULTS/$3 name worse=
	[ -s "$peer" ] && [ -s "$ours" ] || return 0
	ENTER_BIND=$RESULTS enter python3 "$TOP/tools/testing/side-by-side" "$title" "$peer" "$ours" \
		>"$RESULTS/compare" || :
	grep -q ' pass on both, ' "$RESULTS/compare" || {
		row fail "$title: not compared" "$RESULTS/compare"
		return
	}
	cat "$RESULTS/compare" >>"$RESULTS/side-by-side"
	for name in $(awk '$NF == "WORSE" { print $1 }' "$RESULTS/compare"); do
		row fail "$title: $name is worse than on C panfrost" "$RESULTS/side-by-side"
		worse=1
	done
	[ -n "$worse" ] || row pass "$title: nowhere worse than C panfrost" "$(tail -n 1 "$RESULTS/compare")"
}

# ran LANE...: whether this run has had all of them.
ran() {
	local lane
	for lane; do grep -q "^$lane	" "$ROWS.times" || return 1; done
}

# Side by side, as far as the lanes that were run allow.
side_by_side() {
	local LANE=compare
	: >"$RESULTS/side-by-side"
	if ran peer igt; then compare "IGT" peer/igt igt/igt; fi
	if ran peer guest; then compare "guest tests" peer-guest/share/tap guest-g52-nc/share/tap; fi
	[ ! -s "$RESULTS/side-by-side" ] || {
		printf 'compare\t0\n' >>"$ROWS.times"
		echo
		cat "$RESULTS/side-by-side"
	}
}

table() {
	echo
	printf '%-10s %8s %8s %8s %8s\n' lane passed failed skipped minutes
	local lane seconds
	while IFS=$'\t' read -r lane seconds; do
		awk -F'\t' -v l="$lane" -v s="$seconds" '
			$1 == l { n[$2]++ }
			END { printf "%-10s %8d %8d %8d %8.1f\n", l, n["pass"], n["fail"], n["skip"], s / 60 }' "$ROWS"
	done <"$ROWS.times"
	if grep -q "	fail	" "$ROWS"; then
		echo
		echo "Failed:"
		awk -F'\t' '$2 == "fail" { printf "  %s: %s  %s\n", $1, $3, $4 }' "$ROWS"
	fi
	if grep -q "	skip	" "$ROWS"; then
		echo
		echo "Skipped:"
		awk -F'\t' '$2 == "skip" && !told[$0]++ { printf "  %s: %s  %s\n", $1, $3, $4 }' "$ROWS"
	fi
}

summary() {
	local p f s
	p=$(grep -c "	pass	" "$ROWS" || :)
	f=$(grep -c "	fail	" "$ROWS" || :)
	s=$(grep -c "	skip	" "$ROWS" || :)
	echo
	echo "$(($1 / 60)) minutes; every row is in $ROWS"
	echo "$p passed, $f failed, $s skipped"
	[ "$f" = 0 ] && [ "$p" != 0 ]
}
