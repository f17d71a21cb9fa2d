# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/test.sh"

# sanitize WHICH [TESTS]: in a build of its own, kept for the next time. TESTS: a pattern of names.
sanitize()
{
	local dir=$B/sanitize-${1%%,*} tests=${2:-^(unit|stress)} n
	step "build"
	cmake -S "$SRC" -B "$dir" -DCMAKE_BUILD_TYPE=Debug -DXVM_TESTS=ON -DXVM_SANITIZE="$1" >"$T/log" 2>&1 ||
		fail "$(tail -n 40 "$T/log")"
	cmake --build "$dir" -j 2 >"$T/log" 2>&1 || fail "$(tail -n 40 "$T/log")"
	step "run"
	n=$(ctest --test-dir "$dir" -N -R "$tests" | sed -n 's/^Total Tests: //p')
	((n > 0)) || fail "there are no unit or stress tests"
	# What is found ends the program with an error, also in the children of a test.
	export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=66
	export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
	export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
	ctest --test-dir "$dir" -R "$tests" --output-on-failure --timeout 400
}
