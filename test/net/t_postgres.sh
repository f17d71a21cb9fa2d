# SPDX-License-Identifier: Apache-2.0
# limit: 180
# PostgreSQL: pgbench, and a big table copied out and in. A process for each connection.
. "$(dirname "$0")/../lib/net.sh"

pg=$(find /usr/lib/postgresql -maxdepth 3 -name initdb | sort -V | tail -n 1)
[[ -n $pg ]] || fail "PostgreSQL is not installed"
pg=${pg%/initdb}
PATH=$pg:$PATH
as_pg=(setpriv --reuid=postgres --regid=postgres --clear-groups)
mkdir "$T/pg"
chown postgres: "$T/pg"
cd "$T/pg"
"${as_pg[@]}" initdb -A trust -N -E UTF8 --locale=C "$T/pg/data" >"$T/initdb.log" || fail "$(cat "$T/initdb.log")"
echo "host all all 10.77.0.0/24 trust" >>"$T/pg/data/pg_hba.conf"

psql_()
{
	client psql -X -q -v ON_ERROR_STOP=1 -h "$B4" -U postgres -At "$@"
}

start_xvmd
first=1
for mode in $MODES; do
	set_mode "$mode"
	bg_server postgres "${as_pg[@]}" postgres -D "$T/pg/data" -c listen_addresses="$B4" \
		-c unix_socket_directories="$T/pg" -c fsync=off
	s=$PID
	wait_port b 5432
	wait_for 30 psql_ -c 'select 1' || fail "$(tail "$T/postgres.log")"
	if ((first)); then
		first=0
		step "tables"
		plain a pgbench -h "$B4" -U postgres -i -s 3 -q postgres >"$T/init.log" 2>&1 || fail "$(cat "$T/init.log")"
		psql_ -c "create table big as select i, repeat(md5(i::text), 1 + i % 20) as t from generate_series(1, 200000) i"
	fi
	step "pgbench -S"
	bg_client pgbench pgbench -h "$B4" -U postgres -n -S -c 8 -j 2 -T 2 postgres
	c=$PID
	expect_path "$c" "$s"
	finished "$c"
	grep 'number of failed transactions: 0 ' "$T/pgbench.log" >/dev/null || fail "$(cat "$T/pgbench.log")"
	grep '^tps' "$T/pgbench.log"
	step "pgbench, writing, a connection for each transaction"
	client pgbench -h "$B4" -U postgres -n -C -c 4 -j 2 -t 25 postgres >"$T/pgbench.log" 2>&1 || fail "$(cat "$T/pgbench.log")"
	grep '^tps' "$T/pgbench.log"

	step "COPY out, in, out"
	psql_ -c '\copy (select * from big order by i) to '"'$T/one'"
	psql_ -c 'drop table if exists again' -c 'create table again (i int, t text)' -c '\copy again from '"'$T/one'"
	psql_ -c '\copy (select * from again order by i) to '"'$T/two'"
	same "$T/one" "$T/two"
	[[ $(wc -l <"$T/one") = 200000 ]] || fail "rows"
	[[ $(psql_ -c 'select count(*) from big natural join again') = 200000 ]] || fail "the tables differ"
	stop "$s" INT
	! grep -E 'terminated by signal|PANIC|could not (send|receive)' "$T/postgres.log" || fail "the server's log"
done
