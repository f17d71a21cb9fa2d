# SPDX-License-Identifier: Apache-2.0
# rsync's daemon: a tree pulled, changed, and pushed back.
. "$(dirname "$0")/../lib/net.sh"

mkdir "$T/tree" "$T/store"
python3 - "$T/tree" <<'END'
import os, random, sys
rnd = random.Random(5)
for d in range(20):
    os.mkdir(f"{sys.argv[1]}/d{d}")
    for n in range(50):
        with open(f"{sys.argv[1]}/d{d}/f{n}", "wb") as f:
            f.write(rnd.randbytes(int(2 ** rnd.uniform(0, 17))))
with open(f"{sys.argv[1]}/large", "wb") as f:
    f.write(rnd.randbytes(100_000_000))
END
cat >"$T/rsyncd.conf" <<END
use chroot = no
pid file = $T/rsyncd.pid
lock file = $T/rsyncd.lock
uid = root
gid = root
[tree]
	path = $T/tree
	read only = yes
[store]
	path = $T/store
	read only = no
END

equal()
{
	# Not diff: each file is read and compared by its sum.
	local d
	for d; do
		(cd "$d" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$d.sums"
		[[ $(wc -l <"$d.sums") = 1001 ]] || fail "$d has $(wc -l <"$d.sums") files"
	done
	cmp "$1.sums" "$2.sums"
}

start_xvmd
for mode in $MODES; do
	set_mode "$mode"
	rm -rf "$T/got" "$T/store"
	mkdir "$T/store"
	rm -f "$T/rsyncd.pid"
	bg_server rsyncd rsync --daemon --no-detach --config="$T/rsyncd.conf" --address="$B4" --port=8730
	s=$PID
	wait_port b 8730
	step "pull"
	client rsync -a "rsync://$B4:8730/tree/" "$T/got/"
	equal "$T/tree" "$T/got"
	step "push, slowly, to see the path"
	bg_client push rsync -a --whole-file --bwlimit=60M "$T/got/" "rsync://$B4:8730/store/"
	c=$PID
	expect_path "$c" "$s"
	finished "$c"
	equal "$T/tree" "$T/store"
	step "push of a change"
	printf 'changed' | dd of="$T/got/large" bs=1 seek=5000000 conv=notrunc status=none
	client rsync -a --no-whole-file --ignore-times "$T/got/" "rsync://$B4:8730/store/"
	equal "$T/got" "$T/store"
	stop "$s"
done
