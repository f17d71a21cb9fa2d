# SPDX-License-Identifier: Apache-2.0
"""Other people's programs: how each is started, asked and read.

server and client are argument lists in which {words} are filled in. files: what the server's directory holds.
Where a client takes a number of requests instead of a time, {n} is as many as took that long before. times: its runs
are longer by so much, as they begin with new connections; whole: they take whole seconds.
"""

NGINX = """daemon off; user root; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on; default_type text/plain;
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};
  server {{ listen {addr}:{port}; root {dir}; }}
}}
"""
VALUE = "x" * 100

APPS = {
    "redis": dict(
        server="redis-server --bind {addr} --port {port} --unixsocket {dir}/sock --protected-mode no --save "
        "{empty} --appendonly no --dir {dir}",
        client="redis-benchmark {where} -c {clients} -P {pipeline} -n {n} -t get --csv",
        where="-h {addr} -p {port}",
        where_unix="-s {dir}/sock",
        read=r'"GET","([0-9.]+)"',
        first=2000,
        times=3,
    ),
    "memcached": dict(
        server="memcached -t 1 -u root -l {addr} -p {port} -U 0 -m 64 -c 4096",
        server_unix="memcached -t 1 -u root -s {dir}/sock -m 64 -c 4096",
        load=["--send", "get key\\r\\n", "--expect", str(len("VALUE key 0 100\r\n") + 102 + len("END\r\n")),
              "--prime", f"set key 0 0 100\\r\\n{VALUE}\\r\\n", "--primed", "8"],
    ),
    "nginx": dict(
        server="nginx -p {dir} -c {dir}/nginx.conf",
        files={"nginx.conf": NGINX, "1k": "x" * 1024, "100k": "x" * 102400},
        client="wrk -t 1 -c 50 -d {secs}s {header} http://{addr}:{port}/{file}",
        read=r"Requests/sec:\s+([0-9.]+)",
        whole=True,
    ),
    "pgbench": dict(
        server="{pgbin}/postgres -D {dir}/data -c listen_addresses={addr} -p {port} -c unix_socket_directories={dir} "
        "-c fsync=off -c max_connections=50",
        user="postgres",
        client="pgbench -h {host} -p {port} -U postgres -n -S -c 8 -j 1 -T {secs} postgres",
        read=r"tps = ([0-9.]+)",
        whole=True,
    ),
    "iperf3": dict(
        server="iperf3 -s -p {port} -B {addr}",
        client="iperf3 -c {addr} -p {port} -l {length} -t {secs} -f k -i 0 -N",
        read=r"([0-9.]+) Kbits/sec.*receiver",
        scale=125,
        whole=True,
    ),
}
