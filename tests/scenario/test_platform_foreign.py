#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An image nobody here wrote: Debian's nginx, installed by mmdebstrap into an image, served over TLS. RUN ALONE."""
import json
import os
import subprocess
import sys

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


def main():
    need_root()
    p = Platform("n")
    c = Cases()

    def build():
        p.push = None
        p.up()
        p.push_hello("ca")  # makes the CA and the certificate
        tar = f"{p.work}/nginx.tar"
        r = subprocess.run(["mmdebstrap", "--variant=essential", "--include=nginx-light", "--customize-hook",
                            f"upload {p.work}/hello/{HOST}.pem /etc/nginx/cert.pem", "--customize-hook",
                            f"upload {p.work}/hello/{HOST}.key /etc/nginx/key.pem", "--customize-hook", f"upload {p.work}/site /etc/nginx/sites-enabled/default",
                            "bookworm", tar], capture_output=True, text=True, timeout=240)
        if r.returncode:
            if "Could not resolve" in r.stderr or "Temporary failure" in r.stderr:
                raise Skip("the Debian archive cannot be reached")
            raise Failed(r.stderr[-600:])
        with open(tar, "rb") as f:
            write_oci(f"{p.work}/nginx", [f.read()], {"Cmd": ["/usr/sbin/nginx", "-g", "daemon off;"]})
        p.image = p.push_oci(f"{p.work}/nginx:latest", "nginx:debian")

    def deploy():
        r = p.deploy(manifest("nginx", p.image, port=8443, hostname=HOST, memory="256Mi"), timeout=300)
        check(r["observed"]["status"] == "succeeded", json.dumps(r))
        body = p.curl()
        check("nginx of Debian" in body, body)

    try:
        with open(f"{p.work}/site", "w") as f:
            f.write(SITE)
        if c.run("an image of Debian's nginx is made and pushed", build) and hasattr(p, "image"):
            c.run("it serves over TLS through the edge", deploy)
    finally:
        p.finish(c)
    return 1 if c.failed else 0


sys.exit(main())
