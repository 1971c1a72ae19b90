#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`moat why INSTANCE` and its endpoint: the chain of causes from the log, nobody else's events in it; and the doctor of the
cluster, over the same small world. COST 5 s, 1 s of processor."""
import os, subprocess, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for

kit.need("control why")
M = """schema_version = "v1"
[image]
ref = "r.test:5000/h:l"
[processes.%s]
command = ["/h"]
[processes.%s.resources]
memory = "100Mi"
"""
w = kit.World()


def deployed(name, process):
    a, e = w.make_app(name)
    r, d = w.deploy(a, e, M % (process, process))
    return e, r, d, w.ok("GET", e + "/instances")["items"][0]["id"]


try:
    w.open()
    one, two = deployed("one", "web"), deployed("two", "worker")

    @case("an instance is explained from its release to its readiness, in order")
    def _():
        e, rel, dep, inst = one
        got = w.ok("GET", e + "/instances/%s/why" % inst)
        items = got["items"]
        types = [i["event_type"] for i in items]
        assert got["instance_id"] == inst and [i["event_id"] for i in items] == sorted(i["event_id"] for i in items)
        at = -1
        for t in ("release.created", "deploy.created", "env.desired_release_set", "instance.allocated", "instance.status_changed"):
            assert t in types and types.index(t) > at, (t, types)
            at = types.index(t)
        assert all(i["summary"] for i in items)
        assert {i["aggregate_id"] for i in items if i["aggregate_type"] == "instance"} == {inst}
        assert {i["aggregate_id"] for i in items if i["aggregate_type"] == "deploy"} == {dep}
        assert {i.get("env_id", e.split("/")[-1]) for i in items} == {e.split("/")[-1]}
        assert "node" not in {i["aggregate_type"] for i in items}

    @case("in another environment it does not exist")
    def _():
        assert w.q("GET", one[0] + "/instances/%s/why" % two[3]).status == 404
        assert w.q("GET", one[0] + "/instances/inst_none/why").status == 404

    @case("the command tells the same in plain words")
    def _():
        env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d)
        r = subprocess.run([kit.program("moat"), "why", one[3], "--org", "local", "--app", "one", "--env", "prod"], env=env, capture_output=True, text=True, timeout=120)
        assert r.returncode == 0, r.stderr
        for words in ("release v1 of", "is accepted", "web shall run", "is placed on", one[3] + " is ready"):
            assert words in r.stdout, (words, r.stdout)
        assert two[3] not in r.stdout

    def doctor():
        d = w.ok("GET", "/v1/admin/doctor")
        return d, {k["check"]: k for k in d["checks"]}

    @case("the cluster's doctor finds what is sound to be sound")
    def _():
        d, checks = doctor()
        assert len(checks) == len(d["checks"]) and len(checks) >= 27, sorted(checks)
        assert d["ok"] and not [k for k in d["checks"] if k["severity"] == "fail"], d
        # the fake agent says its version is "test": that differs from this server's
        assert checks["nodes.versions"]["severity"] == "warn" and "test (1)" in checks["nodes.versions"]["finding"], checks["nodes.versions"]
        assert checks["nodes.count"]["finding"] == "1 of 1 ready" and "renewed" in checks["scheduler.leader"]["finding"], d
        assert all(("mend" in k) == (k["severity"] != "ok") for k in d["checks"]), d

    @case("what is wrong in the database, the certificates and the switches is found, and the command that mends it is named")
    def _():
        node = w.ok("GET", "/v1/nodes")["items"][0]
        w.ok("POST", "/v1/admin/maintenance", {"on": True, "reason": "doctor"})
        w.pg.sql("INSERT INTO moat.node_certs (serial, node_id, kind, spki_sha256, pem, not_after) VALUES ('0d0c', '%s', 'node', 's', 'p', now() + interval '3 days')" % node["id"])
        w.pg.sql("INSERT INTO moat.schema_migrations (version, name, least) VALUES (99, 'of a later moat', 1)")
        try:
            d, checks = doctor()
            assert d["ok"] and checks["database.schema"]["severity"] == "warn" and "may use it" in checks["database.schema"]["finding"], d
            w.pg.sql("UPDATE moat.schema_migrations SET least = NULL WHERE version = 99")
            d, checks = doctor()
            assert not d["ok"] and checks["database.schema"]["severity"] == "fail" and "99" in checks["database.schema"]["finding"], d
            assert checks["platform.maintenance"]["mend"].startswith("moat admin maintenance off"), d
            assert checks["certificates.nodes"]["severity"] == "warn" and node["name"] in checks["certificates.nodes"]["finding"], d
            env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d)
            r = subprocess.run([kit.program("moat"), "admin", "doctor"], env=env, capture_output=True, text=True, timeout=120)
            assert r.returncode == 1 and "database.schema" in r.stdout and "1 to mend" in r.stdout, (r.returncode, r.stdout, r.stderr)
        finally:
            w.pg.sql("DELETE FROM moat.schema_migrations WHERE version = 99; DELETE FROM moat.node_certs WHERE serial = '0d0c'")
            w.ok("POST", "/v1/admin/maintenance", {"on": False, "reason": "doctor"})
        d, checks = doctor()
        assert d["ok"] and "platform.maintenance" not in checks and checks["certificates.nodes"]["severity"] == "ok", d

    def upgrade():
        d = w.ok("GET", "/v1/admin/upgrade")
        return d, {k["check"]: k for k in d["checks"]}

    def moat(*argv):
        env = dict(os.environ, MOAT_API="unix:" + w.api, MOAT_TOKEN=w.token, HOME=w.d, XDG_CONFIG_HOME=w.d, XDG_STATE_HOME=w.d)
        return subprocess.run([kit.program("moat"), *argv], env=env, capture_output=True, text=True, timeout=120)

    @case("what stands against an upgrade is found: no backup, an edge too far apart, a schema that this server may not use; a backup mends the first")
    def _():
        d, checks = upgrade()
        assert not d["ok"] and checks["upgrade.backup"]["severity"] == "fail" and "moat admin backup" in checks["upgrade.backup"]["mend"], d
        r = moat("admin", "upgrade", "check")
        assert r.returncode == 1 and "upgrade.backup" in r.stdout, (r.returncode, r.stdout, r.stderr)
        r = moat("admin", "backup", w.d + "/whole.backup", "--config", w.d + "/control.toml")
        assert r.returncode == 0, r.stderr
        d, checks = upgrade()
        bad = [k for k in d["checks"] if k["severity"] == "fail" and k["check"] != "upgrade.edges"]
        assert checks["upgrade.backup"]["severity"] == "ok" and not bad, d
        # one node, the test's agent is no version of ours
        assert checks["upgrade.headroom"]["severity"] == "warn" and checks["upgrade.versions"]["severity"] == "warn" and "1 this server" in checks["upgrade.versions"]["finding"], d
        node = w.ok("GET", "/v1/nodes")["items"][0]["id"]
        w.pg.sql("INSERT INTO moat.edge_heartbeats (node_id, received_at, epoch, revision, ipv4_errors, version) VALUES ('%s', now(), 1, 1, '[]', '7.0.0')"
                 " ON CONFLICT (node_id) DO UPDATE SET received_at = now(), version = '7.0.0'; UPDATE moat.control_backup_last SET made_at = now() - interval '25 h'" % node)
        w.pg.sql("INSERT INTO moat.schema_migrations (version, name) VALUES (99, 'of a later moat')")
        try:
            d, checks = upgrade()
            assert checks["upgrade.versions"]["severity"] == "fail" and "7.0.0 (1 edge)" in checks["upgrade.versions"]["finding"], checks["upgrade.versions"]
            assert checks["upgrade.backup"]["severity"] == "fail" and "25 h ago" in checks["upgrade.backup"]["finding"], d
            assert checks["upgrade.schema"]["severity"] == "fail", d
            r = moat("admin", "upgrade", "--check", "--json")
            assert r.returncode == 1 and '"upgrade.versions","severity":"fail"' in r.stdout, (r.returncode, r.stdout)
        finally:
            w.pg.sql("DELETE FROM moat.schema_migrations WHERE version = 99; DELETE FROM moat.edge_heartbeats; UPDATE moat.control_backup_last SET made_at = now()")
finally:
    w.close()
kit.finish()
