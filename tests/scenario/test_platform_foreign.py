#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An image nobody here wrote: Debian's nginx, installed by mmdebstrap into an image, served over TLS. COST 80 s, 50 s of processor."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from platform_kit import *  # noqa: E402,F403

SITE = """server {
    listen [::]:8443 ssl;
    ssl_certificate /etc/nginx/cert.pem;
    ssl_certificate_key /etc/nginx/key.pem;
    location / { return 200 "nginx of Debian on $hostname\\n"; }
}
"""


def debian(work):
    """The file system in work/nginx.tar, its CA and certificate in work/hello; asks the Debian archive. Returns mmdebstrap's result."""
    subprocess.run([f"{ROOT}/examples/hello/build-image", f"{work}/hello", "--hostname", HOST], check=True, capture_output=True)
    with open(f"{work}/site", "w") as f:
        f.write(SITE)
    return subprocess.run(["mmdebstrap", "--variant=essential", "--include=nginx-light", "--customize-hook",
                           f"upload {work}/hello/{HOST}.pem /etc/nginx/cert.pem", "--customize-hook",
                           f"upload {work}/hello/{HOST}.key /etc/nginx/key.pem", "--customize-hook", f"upload {work}/site /etc/nginx/sites-enabled/default",
                           "bookworm", f"{work}/nginx.tar"], capture_output=True, text=True, timeout=240)


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
            write_oci(f"{p.work}/nginx", [f.read()], {"Cmd": ["/usr/sbin/nginx", "-g", "daemon off;"]})
        p.image = p.push_oci(f"{p.work}/nginx:latest", "nginx:debian")

    def deploy():
        r = p.deploy(manifest("nginx", p.image, port=8443, hostname=HOST, memory="256Mi"), timeout=300)
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        body = p.curl()
        check("nginx of Debian" in body, body)

    try:
        if c.run("an image of Debian's nginx is made and pushed", build) and hasattr(p, "image"):
            c.run("it serves over TLS through the edge", deploy)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
