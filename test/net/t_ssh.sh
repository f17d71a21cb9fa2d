# SPDX-License-Identifier: Apache-2.0
# limit: 240
# OpenSSH: scp of a large file up and down. QUICK=1: of a smaller one.
. "$(dirname "$0")/../lib/net.sh"

size=1000000000
[[ -z ${QUICK-} ]] || size=64000000
mkdir -m 700 "$T/ssh"
ssh-keygen -q -t ed25519 -N '' -f "$T/ssh/host"
ssh-keygen -q -t ed25519 -N '' -f "$T/ssh/user"
cp "$T/ssh/user.pub" "$T/ssh/authorized"
cat >"$T/ssh/sshd.conf" <<END
HostKey $T/ssh/host
AuthorizedKeysFile $T/ssh/authorized
PidFile $T/ssh/pid
StrictModes no
UsePAM yes
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
Subsystem sftp internal-sftp
Ciphers aes128-gcm@openssh.com
END
options=(-F none -i "$T/ssh/user" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no
	-o "UserKnownHostsFile=$T/ssh/known" -o BatchMode=yes -o LogLevel=ERROR -o ConnectTimeout=10)
# sshd's children live in sessions of their own.
random_file "$T/in" $size
start_xvmd
for mode in $MODES; do
	set_mode "$mode"
	f=$T/in
	[[ $mode = both ]] || {
		f=$T/in.part
		head -c $((size / 10)) "$T/in" >"$f"
	}
	bg_server sshd /usr/sbin/sshd -D -e -f "$T/ssh/sshd.conf" -p 2222 -o "ListenAddress=$B4"
	s=$PID
	wait_port b 2222
	step "a command"
	client ssh "${options[@]}" -p 2222 "root@$B4" 'echo it $((40 + 2)); exit 7' >"$T/out" && fail "exit status" || [[ $? = 7 ]]
	grep -qx 'it 42' "$T/out" || fail "$(cat "$T/out" "$T/sshd.log")"
	step "stdin to stdout"
	head -c 20000000 "$T/in" >"$T/piece"
	client ssh "${options[@]}" -p 2222 "root@$B4" cat <"$T/piece" >"$T/out"
	same "$T/piece" "$T/out"

	step "up"
	rm -f "$T/up" "$T/down"
	bg_client scp scp "${options[@]}" -P 2222 "$f" "root@$B4:$T/up"
	c=$PID
	expect_path "$c" "$s"
	finished "$c" 120
	same "$f" "$T/up"
	step "down"
	client scp "${options[@]}" -P 2222 "root@$B4:$T/up" "$T/down"
	rm "$T/up"
	same "$f" "$T/down"
	stop "$s"
done
