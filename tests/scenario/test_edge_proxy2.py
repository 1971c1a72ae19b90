#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""PROXY v2 as nginx (`listen ... proxy_protocol`) and HAProxy (`accept-proxy`) read it: the client address they log is the real one.

COST 1 s, 1 s of processor."""
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from edgekit import Edge, Scratch, check, client_hello, connect, free_port, read_all, run_cases, until  # noqa: E402

scratch = Scratch()
PORT, NGINX, HAPROXY = free_port(), free_port(), free_port()
procs = []
MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


def up(port):
    def there():
        try:
            connect(port).close()
            return True
        except OSError:
            return False
    until(there, "port %d" % port, 20)


def edge():
    e = Edge(["--static", scratch.write("routes", "a.example.com ::1 %d\nb.example.com ::1 %d\n" % (NGINX, HAPROXY)), "--listen", "[::1]:%d" % PORT,
              "--proxy-protocol", "v2", "--workers", "1"])
    procs.append(e.proc)
    e.wait("edge.started")


def nginx_knows_the_client():
    if not shutil.which("nginx", path="/usr/sbin:/usr/bin") or not os.path.exists(MODULE):
        print("# SKIP nginx: not installed (nginx-core, libnginx-mod-stream)")
        return
    conf = scratch.write("nginx.conf", 'load_module %s;\nuser root;\ndaemon off;\nworker_processes 1;\npid %s;\nevents {}\nstream {\n  log_format a "$proxy_protocol_addr '
                         '$proxy_protocol_port $proxy_protocol_server_port";\n  access_log %s a;\n  server {\n    listen [::1]:%d proxy_protocol;\n    return '
                         '"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port";\n  }\n}\n' %
                         (MODULE, scratch.path("pid"), scratch.path("access"), NGINX))
    procs.append(subprocess.Popen(["/usr/sbin/nginx", "-c", conf, "-p", scratch.dir, "-e", scratch.path("err")], stdin=subprocess.DEVNULL))
    up(NGINX)
    s = connect(PORT)
    mine = s.getsockname()
    s.sendall(client_hello("a.example.com"))
    want = "::1 %d %d" % (mine[1], PORT)
    try:
        got = read_all(s).decode()
    except ConnectionResetError:  # it leaves the hello unread
        got = ""
    check(got in (want, ""), got)
    until(lambda: want in open(scratch.path("access")).read(), "the client's address in nginx's log: %s" % want)


def haproxy_knows_the_client_and_ends_its_tls():
    if not shutil.which("haproxy", path="/usr/sbin:/usr/bin"):
        print("# SKIP haproxy: not installed")
        return
    with open(scratch.path("both.pem"), "w") as f:
        f.write(open(scratch.cert).read() + open(scratch.key).read())
    conf = scratch.write("haproxy.cfg", "defaults\n  mode http\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\nfrontend f\n"
                         "  bind [::1]:%d accept-proxy ssl crt %s\n  http-request return status 200 content-type text/plain lf-string \"%%[src] %%[src_port] %%[dst_port]\"\n" %
                         (HAPROXY, scratch.path("both.pem")))
    procs.append(subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", conf], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    up(HAPROXY)
    ctx = ssl.create_default_context(cafile=scratch.cert)
    with socket.create_connection(("::1", PORT), timeout=60) as raw, ctx.wrap_socket(raw, server_hostname="b.example.com") as t:
        mine = raw.getsockname() if raw.fileno() >= 0 else t.getsockname()
        t.sendall(b"GET / HTTP/1.1\r\nHost: b.example.com\r\nConnection: close\r\n\r\n")
        got = read_all(t).decode()
    check(got.endswith("::1 %d %d" % (mine[1], PORT)), got)


CASES = [edge, nginx_knows_the_client, haproxy_knows_the_client_and_ends_its_tls]

if __name__ == "__main__":
    try:
        status = run_cases(CASES)
    finally:
        for p in procs:
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
                p.wait()
        scratch.end()
    sys.exit(status)
