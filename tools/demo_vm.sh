# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What tools/demo --vm shows, when all is built: two guests of the tests (test/vm) on a bridge, in one group of
# an xvmd on their host, measured over virtio-net and through xvm. In namespaces of its own: nothing of it is
# seen outside, and when its first process ends all of it does.
. "$(dirname "$0")/../test/vm/group.sh"
. "$SRC/test/vm/rate.sh"
. "$SRC/tools/demo_show.sh"

SECONDS=$XVM_DEMO_SECONDS
VM_TIMEOUT=180
VM_PROGRAMS=(bash ip ss iperf3 redis-server redis-benchmark)
VM_FILES=("$B"/{libxvm.so,xvmd,xvm})
GUESTS=(one two)

# What the functions of the tests say.
step()
{
	say "$*"
}

fail()
{
	trap - ERR
	printf '%sdemo: %s\n' "${TTY:+$'\r\033[K'}" "$*" >&2
	exit 1
}

die()
{
	fail "$@"
}

# with TEXT HOOK CMD...: CMD, while follow shows TEXT and HOOK's notes. CMD's output is in $T/output.
with()
{
	local text=$1 hook=$2
	shift 2
	"$@" >"$T/output" &
	follow $! "$text" "$hook" || fail "$text: failed"
}

# ---- machines ----

# Some machines have /dev/kvm and cannot boot Linux with it.
kvm_boots()
{
	trap - ERR
	[[ -w /dev/kvm ]] || return
	timeout 10 qemu-system-x86_64 "${ACCEL[@]}" -machine q35 -m 256 -nodefaults -display none -no-reboot \
		-kernel "$KERNEL/vmlinux" -append "console=ttyS0 panic=-1" -serial "file:$T/kvm" >"$T/kvm.log" 2>&1 || true
	grep -q 'Linux version' "$T/kvm"
}

choose_accel()
{
	ACCEL=()
	if [[ -z ${XVM_DEMO_KVM-} ]]; then
		say "the guests are emulated (TCG)"
		return
	fi
	ACCEL=(-machine "accel=kvm,kernel-irqchip=split" -cpu host)
	# What QEMU, and bash of it, say where it crashes is of no use to anybody.
	kvm_boots 2>/dev/null &
	if follow $! "trying KVM"; then
		say "the guests run by KVM"
	else
		say "KVM does not boot a kernel here: the guests are emulated (TCG)"
		ACCEL=()
	fi
}

make_group()
{
	start_xvmd
	printf 'group demo socket %s/demo.ivshmem size 256M peers 2\n' "$T" >"$T/xvmd.conf"
	kill -HUP "$XVMD"
	wait_for 10 test -S "$T/demo.ivshmem" || fail "no group: $(tail -n 3 "$T/xvmd.log")"
	say "the host's xvmd has a group, demo. \`xvm vm-args demo\` says what QEMU is to be told:"
	"$B/xvm" vm-args demo | sed 's/^/            /'
}

# What each guest's console says last.
consoles()
{
	local name line
	a_second || return 0
	NOTE=
	for name in "${GUESTS[@]}"; do
		line=$(last_word "${VM_DIR[$name]}/console" 27)
		NOTE+="${NOTE:+ | }$name: ${line:-QEMU starts}"
	done
}

boot()
{
	local name
	for name in "${GUESTS[@]}"; do
		group_start "$name" demo --iommu "${ACCEL[@]}"
	done
	# It says itself which is ready.
	vm_ready "${GUESTS[@]}" &
	follow $! "guests boot" consoles || fail "they do not boot"
}

meet()
{
	group_up "${GUESTS[@]}"
	knows one "${VM4[two]}" 60
	knows two "${VM4[one]}" 60
}

# ---- measuring ----

# In both modes, so that it costs both the same. The last look before the end has the most to show.
look()
{
	a_second || return 0
	_xvm_of one ss >"$T/ss.new" 2>/dev/null || return 0
	awk -v to="${VM4[two]}:" 'index($5, to) == 1' "$T/ss.new" | sort -rn -k 9 >"$T/ss.mine"
	[[ ! -s $T/ss.mine ]] || mv "$T/ss.mine" "$T/ss"
	head -n 1 "$T/ss.new" >"$T/ss.head"
}

# measure NAME TEXT UNIT CMD...: CMD prints a rate. iperf3 has a connection besides, which only controls the test.
measure()
{
	local name=$1 text=$2 unit=$3 rate
	shift 3
	: >"$T/ss"
	with "$text, $MODE" look "$@"
	rate=$(<"$T/output")
	[[ $rate =~ ^[0-9.]+$ ]] || fail "$text gave no figure: $rate"
	RATE[$name-$MODE]=$rate
	say "$text, $MODE: $(printf '%.0f' "$rate") $unit"
	[[ $MODE = xvm ]] || return 0
	[[ $name != iperf3 ]] || sed -i 2,9d "$T/ss"
	PATHS[$name]=$(paths <"$T/ss")
	head -n 1 "$T/ss" >>"$T/proof"
}

stream()
{
	rate "$MODE" stream 131072 | awk '{ print 8 * $1 / 1e6 }'
}

iperf()
{
	"$MODE" one iperf3 -c "${VM4[two]}" -p 5201 -t 4 -f m >"$T/iperf3.out"
	awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i == "Mbits/sec") print $(i - 1) }' "$T/iperf3.out"
}

measure_all()
{
	local server
	measure rtt "round trips of 1 byte" 1/s rate "$MODE" rtt 1
	measure stream "stream, writes of 128 KB" Mbit/s stream
	bg iperf3 "$MODE" two iperf3 -s -1 -B "${VM4[two]}" -p 5201
	wait_port two 5201
	measure iperf3 "iperf3" Mbit/s iperf
	bg redis "$MODE" two redis-server --bind "${VM4[two]}" --port 6379 --save '' --protected-mode no
	server=$PID
	wait_port two 6379
	measure redis "redis GET, 50 clients" 1/s redis_rate "$MODE" 6379
	stop "$server"
}

columns()
{
	awk '{ row[NR] = $0; for (i = 1; i <= NF; i++) if (length($i) > wide[i]) wide[i] = length($i) }
		END { for (n = 1; n <= NR; n++) { nf = split(row[n], f); line = ""
			for (i = 1; i <= nf; i++) line = line sprintf("  %-*s", i < nf ? wide[i] : 0, f[i]); print line } }'
}

# ---- all of it ----

choose_accel
make_group
with "packing what the guests are made of" "" vm_initramfs
say "guests are made of Debian's kernel, $(ls "$KERNEL/lib/modules"), and of programs installed here"
boot
with "an xvmd in each guest meets the host's" "" meet
say "in guest one, \`xvm resident ${VM4[two]}\` says: $(resident one "${VM4[two]}")"

for MODE in plain xvm; do
	measure_all
done

echo
echo "  \`xvm ss\` in guest one, while these four ran:"
echo
cat "$T/ss.head" "$T/proof" | columns
heading
row "round trips, 1 byte" 1/s rtt
row "stream, 128 KB writes" Mbit/s stream
row "iperf3, 1 stream" Mbit/s iperf3
row "redis GET, 50 clients" 1/s redis
echo
echo "  Plain is virtio-net, on the same bridge. One run of each: other work on this machine shows."
((${#ACCEL[@]})) || echo "  Emulated guests are slow, and their ratios are not those of a processor that runs guests (--kvm)."
echo
all_on_ring
