#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A database that takes no writes (read-only; the same refusals as with a full disk): changes are answered 503 unavailable, reads
go on, and all is as before when it takes writes again, without a restart.
COST 5 s, 1 s of processor."""
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("control read-only")
w = kit.World()


def read_only(on):
    w.pg.sql("ALTER SYSTEM SET default_transaction_read_only = %s" % ("on" if on else "off"))
    w.pg.sql("SELECT pg_reload_conf()")
    # The postmaster is told, and tells its children in the same breath as it takes the setting itself: who has a new session of it knows that they are told.
    wait_for("the setting", lambda: w.pg.sql("SHOW default_transaction_read_only") == ("on" if on else "off"))


try:
    O = "/v1/orgs/" + w.ok("GET", "/v1/orgs")["items"][0]["id"]
    app = w.ok("POST", O + "/apps", {"name": "before"})["id"]
    pid = w.control.pid

    @case("read-only: changes are 503 unavailable, reads go on")
    def _():
        read_only(True)
        r = wait_for("a refusal", lambda: (lambda r: r if r.status == 503 else None)(w.q("POST", O + "/apps", {"name": "during"}, key="k-during")))
        assert r.json["code"] == "unavailable" and r.json["retryable"] and r.headers["Retry-After"], r.text
        assert w.ok("GET", O + "/apps/" + app)["name"] == "before"
        assert w.ready(), "reads go on: the server is ready"
        n = w.ok("GET", O + "/events?limit=500")["items"]
        assert not [e for e in n if e["payload"].get("name") == "during"]

    @case("writable again: the same request goes through, once, without a restart")
    def _():
        read_only(False)
        r = wait_for("success", lambda: (lambda r: r if r.status == 201 else None)(w.q("POST", O + "/apps", {"name": "during"}, key="k-during")), 20)
        again = w.ok("POST", O + "/apps", {"name": "during"}, key="k-during")
        assert again["id"] == r.json["id"] and w.control.pid == pid and w.control.poll() is None
        wait_for("the roles", lambda: w.pg.sql("SELECT count(*) FROM moat.leases WHERE renewed_at > now() - interval '5 seconds'") == "4", 20)
finally:
    w.close()
kit.finish()
