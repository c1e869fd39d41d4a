# SPDX-License-Identifier: GPL-2.0
#
# Tests that take a guest, with their means to start, watch and end one. Sourced by tools-test.

# shellcheck disable=SC2034,SC2154

# number_of MARK: the number of the guest whose command has MARK in it, once it is there.
number_of() {
	local found
	for _ in $(seq 600); do
		found=$("$VM" list | awk -F'\t' -v mark="$1" 'index($2, mark) { print $1 }')
		[ -z "$found" ] || break
		sleep 0.1
	done
	echo "$found"
}

# wait_for FILE
wait_for() {
	for _ in $(seq 1200); do
		[ ! -e "$1" ] || return 0
		sleep 0.1
	done
	return 1
}

# start_vm ARGUMENT...: in the background, as process $vm. It hears of SIGINT even if this
# script does not.
start_vm() {
	env --default-signal=INT "$VM" "$@" >"$tmp/vm" 2>&1 </dev/null &
	vm=$!
}

# finish_vm: waits for it.
finish_vm() {
	status=0
	wait "$vm" 2>/dev/null || status=$?
	out=$(cat "$tmp/vm")
}

# processes_of MARK: those of the guest whose command has MARK in it.
processes_of() {
	pgrep -f "$CACHE/run/vm-$(number_of "$1")/" || :
}

# gone MARK PROCESS...: nothing is left of a guest. Another one may have its number by now.
gone() {
	local mark=$1 p left
	shift
	for _ in $(seq 100); do
		left=
		for p; do [ ! -e "/proc/$p" ] || left=1; done
		[ -n "$left" ] || break
		sleep 0.1
	done
	[ -z "$left" ] && ! grep -qsF "$mark" "$CACHE"/run/vm-*/about
}

in_a_guest() {
	local share="$tmp/a, share" number
	mkdir "$share"
	cat >"$share/script" <<-'END'
		stty size
		which less
		echo 'one two' | awk '{ print "awk: " $2 }'
		echo "terminal: $TERM"
		guest-tests --list | head -n 1; echo "list: ${PIPESTATUS[0]}"
		guest-tests --list C5 | grep -c .
		guest-tests param-identity
		guest-tests no-such-test; echo "none: $?"
		igt panfrost_submit@pan-submit >/tmp/igt; echo "igt: $?"
		igt panfrost_submit | grep -x pan-submit
		igt panfrost_nothing; echo "no igt: $?"
		touch /mnt/share/ready
		until [ -e /mnt/share/go ]; do sleep 0.1; done
		guest-tests submit-write-value; echo "hang: $?"
		# A worker makes the dump.
		for _ in $(seq 100); do [ ! -e /sys/class/devcoredump/devcd1 ] || break; sleep 0.1; done
		dmesg | grep -o 'hard stop of a job.*'
		cat /sys/class/devcoredump/devcd1/data >/mnt/share/hang.dump; echo "dump: $?"
	END
	cat >"$tmp/command" <<-END
		stty rows 50 cols 170
		export TERM=screen
		exec $VM --share '$share' --model-log '$tmp/model log' -- bash /mnt/share/script $$
	END
	script -qefc "bash $tmp/command" /dev/null >"$tmp/vm" 2>&1 </dev/null &
	vm=$!
	ok wait_for "$share/ready" -- share-may-have-spaces
	number=$(number_of "script $$")
	try "$VM" order --guest "$number" help
	ok ended 0 '^hang-next-job' '^ok' -- order-help-lists-the-orders
	try "$VM" order --guest "$number" explode
	ok ended 125 "unknown order 'explode'" -- order-tells-what-is-wrong
	try "$VM" order --guest "$number" hang-next-job any 1
	ok ended 0 '^ok' -- order-is-taken
	touch "$share/go"
	finish_vm
	out=$(tr -d '\r' <<<"$out")
	ok ended 0 '50 170$' '^terminal: screen$' -- the-guest-has-the-size-and-kind-of-the-terminal
	ok ended 0 '^/usr/bin/less$' '^awk: two$' -- the-guest-has-a-pager-and-awk
	ok ended 0 '^list: (0|141)$' -- list-ends-with-its-reader
	ok ended 0 '^ok .* param-identity' '^none: 2$' -- words-are-filters
	ok ended 0 '^igt: 0$' '^pan-submit$' '^no igt: 2$' -- igt-runs-a-subtest
	ok ended 0 '^hang: 1$' -- an-order-reaches-the-next-job
	ok ended 0 'hard stop of a job.* chain 0x.* process [0-9]+ ' '^dump: 0$' -- the-log-names-a-job-that-hangs
	try "$TOP/tools/dump" "$share/hang.dump"
	ok ended 0 '^reason: hang: ' '^looks wrong:' -- and-a-dump-is-left-of-it
	out=$(grep -E 'order|JS._HEAD_NEXT|GPU_ID' "$tmp/model log" | head -n 20) status=0
	ok ended 0 '^\[ +[0-9]+\.[0-9]{6}\] R GPU_ID 0x' '^\[ +[0-9.]+\] W JS[0-9]_HEAD_NEXT_LO 0x' \
		'^\[ +[0-9.]+\] # order HangNextJob' -- the-log-of-the-model-has-names-and-times
}

# Two drivers for one GPU: the second says which has it, and how to change over.
both_drivers() {
	mkdir "$tmp/drivers"
	cat >"$tmp/drivers/script" <<-'END'
		driver() { basename "$(readlink /sys/class/drm/renderD128/device/driver)"; }
		modprobe drm_gpu
		echo "first: $(driver)"
		line=$(dmesg | grep 'drm_gpu: .*has the driver panfrost')
		echo "${line##*to change over: }"
		eval "${line##*to change over: }" && echo "then: $(driver)"
		rmmod panfrost
		modprobe panfrost
		echo "lines: $(dmesg | grep -c 'has the driver')"
	END
	try "$VM" --driver panfrost --share "$tmp/drivers" -- bash /mnt/share/script
	ok ended 0 '^first: panfrost' '^cd /sys/.*; echo .* >panfrost/unbind; echo .* >drm_gpu/bind' \
		'^then: drm_gpu' '^lines: 1' -- the-second-driver-tells-how-to-change-over
}

ends() {
	local processes
	try "$VM" --module-args job_timeout=5000 -- true
	ok ended 125 "error: --module-args: .*unknown parameter 'job_timeout'" -- unknown-parameters-are-errors
	try "$VM" --model-args --nonsense -- true
	ok ended 125 '^the model did not start:' -- a-model-that-does-not-start-says-why
	ok test "$(grep -cE '^(tail|cat): ' <<<"$out")" = 0 -- and-nothing-else-is-said
	try "$VM" -- bash -c 'echo c >/proc/sysrq-trigger; sleep 1000'
	ok ended 125 'ended by itself' 'Kernel panic' 'Call Trace:' -- a-kernel-that-panics-shows-its-stack
	start_vm --timeout 120 -- bash -c "sleep 1000" "interrupt-$$"
	processes=$(processes_of "interrupt-$$")
	kill -INT "$vm"
	finish_vm
	ok ended 130 -- an-interrupt-of-vm-alone-ends-it
	# shellcheck disable=SC2086
	ok gone "interrupt-$$" $processes -- nothing-is-left-of-it
	start_vm --timeout 120 -- bash -c "sleep 1000" "kill-$$"
	processes=$(processes_of "kill-$$")
	kill -KILL "$vm"
	finish_vm
	# A program that it had just started may hold its lock for a moment.
	for _ in $(seq 50); do
		"$VM" list >/dev/null
		grep -qsF "kill-$$" "$CACHE"/run/vm-*/about || break
		sleep 0.1
	done
	# shellcheck disable=SC2086
	ok gone "kill-$$" $processes -- the-next-vm-removes-what-a-killed-one-left
	try "$VM" --timeout 15 -- sleep 1000
	ok ended 124 'given up after 15 seconds' '^task:' -- stacks-are-shown-when-time-is-up
}
