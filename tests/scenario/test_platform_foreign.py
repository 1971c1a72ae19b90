#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An image nobody here wrote: Debian's nginx and HAProxy, installed by mmdebstrap into an image, served over TLS; and what both of them
take the client's address for when their route says PROXY v2. COST 103 s, 41 s of processor."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403

SITE = """log_format told "client $proxy_protocol_addr $proxy_protocol_port";
server {
    listen [::]:8443 ssl;
    ssl_certificate /etc/nginx/cert.pem;
    ssl_certificate_key /etc/nginx/key.pem;
    location / { return 200 "nginx of Debian on $hostname\\n"; }
}
server {
    listen [::]:8444 ssl proxy_protocol;
    access_log /dev/stdout told;
    ssl_certificate /etc/nginx/both.pem;
    ssl_certificate_key /etc/nginx/both.pem;
    location / { return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port\\n"; }
}
"""
HAPROXY = """global
    log stdout format raw daemon
defaults
    mode http
    log global
    timeout connect 5s
    timeout client 10s
    timeout server 10s
frontend f
    bind :::8443 accept-proxy ssl crt /etc/nginx/both.pem
    log-format "client %ci %cp"
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst_port]\\n"
"""
OTHER = "proxied.moat.test"
ROUTE = """[[routes]]
env = "prod"
hostname = "%s"
process = "web"
port = "main"
proxy_protocol = "v2"
backend_expects_proxy_protocol = true
"""


def debian(work):
    """The file system in work/nginx.tar, its CA and certificate in work/hello; asks the Debian archive. Returns mmdebstrap's result."""
    for name in (HOST, OTHER):
        subprocess.run([f"{ROOT}/examples/hello/build-image", f"{work}/hello", "--hostname", name], check=True, capture_output=True)
    both = "".join(open(f"{work}/hello/{OTHER}.{end}").read() for end in ("pem", "key"))
    for name, text in (("site", SITE), ("haproxy.cfg", HAPROXY), ("both.pem", both)):
        with open(f"{work}/{name}", "w") as f:
            f.write(text)
    return subprocess.run(["mmdebstrap", "--variant=essential", "--include=nginx-light,haproxy", "--customize-hook", f"upload {work}/both.pem /etc/nginx/both.pem",
                           "--customize-hook", f"upload {work}/haproxy.cfg /etc/haproxy/haproxy.cfg", "--customize-hook",
                           f"upload {work}/hello/{HOST}.pem /etc/nginx/cert.pem", "--customize-hook",
                           f"upload {work}/hello/{HOST}.key /etc/nginx/key.pem", "--customize-hook", f"upload {work}/site /etc/nginx/sites-enabled/default",
                           "bookworm", f"{work}/nginx.tar"], capture_output=True, text=True, timeout=700)


def main():
    need_root()
    work = tempfile.mkdtemp(prefix="mtforeign", dir="/var/tmp")
    try:
        return serve(work, debian(work))
    finally:
        shutil.rmtree(work)


def serve(work, made):
    own_host()  # only now: the archive is out there
    p = Platform("n")
    c = Cases()

    def build():
        if made.returncode:
            if "Could not resolve" in made.stderr or "Temporary failure" in made.stderr:
                raise Skip("the Debian archive cannot be reached")
            raise Failed(made.stderr[-600:])
        p.up()
        shutil.copytree(f"{work}/hello", f"{p.work}/hello")
        with open(f"{work}/nginx.tar", "rb") as f:
            write_oci(f"{p.work}/nginx", [f.read()], {"Cmd": ["/usr/sbin/nginx", "-g", "daemon off;"]}, compress=1)
        p.image = p.push_oci(f"{p.work}/nginx:latest", "nginx:debian")

    def deploy():
        r = p.deploy(manifest("nginx", p.image, port=8443, hostname=HOST, memory="256Mi"))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        body = p.curl()
        check("nginx of Debian" in body, body)

    def proxied(app, command, port):
        """The backend tells whom it serves: the client's own address and port, though the connection comes from the edge."""
        r = p.deploy(manifest(app, p.image, command, port=port, memory="256Mi", more=ROUTE % OTHER))
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        told = p.curl(OTHER, args=("-w", "%{local_ip} %{local_port} %{remote_port}")).split("\n")
        check(told[0] == told[1] and told[0].startswith("::1 "), f"{app} was told {told[0]!r}, the client was {told[1]!r}")
        client = "client " + " ".join(told[1].split()[:2])
        wait_until(lambda: client in p.cli("logs", "--app", app, "--env", "prod")[1], 20, f"'{client}' in the workload's own log")
        p.cli("apps", "delete", app, "--cascade", "--yes")
        wait_until(lambda: p.curl(OTHER, ok=False) is None, 20, "the route has gone with its app")

    try:
        if c.run("an image of Debian's nginx is made and pushed", build) and hasattr(p, "image"):
            c.run("it serves over TLS through the edge", deploy)
            c.run("nginx in a VM logs the real client, told by PROXY v2", proxied, "pnginx", ["/usr/sbin/nginx", "-g", "daemon off;"], 8444)
            c.run("HAProxy in a VM logs the real client, told by PROXY v2", proxied, "phaproxy",
                  ["/usr/sbin/haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"], 8443)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
