#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The audit log over the API: who did what, who was refused, nothing planted in it, and every altered byte named.
COST 4 s, 3 s of processor."""
import hashlib, json, os, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, call

kit.need("control audit")

w = kit.World()
PLANTED = "planted-7f3a9c-never-in-the-audit-log"
FALSE_TOKEN = "moat_pat_" + "A" * 49


def offline():
    return subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", "--verify-audit"],
                          capture_output=True, text=True, timeout=60)


def tamper(sql):
    w.pg.sql("SET session_replication_role = replica; " + sql)


try:
    org = w.ok("GET", "/v1/orgs")["items"][0]
    O = "/v1/orgs/" + org["id"]

    def records(query=""):
        return w.ok("GET", O + "/audit?limit=200" + query)["items"]

    @case("a mutation leaves a record with its event, actor, token and resource, and no body")
    def _():
        r = w.q("POST", O + "/apps", {"name": "hello", "description": PLANTED}, key="key-" + PLANTED)
        assert r.status == 201, r.text
        got = records("&action=app.create")
        assert len(got) == 1, got
        a = got[0]
        me = w.ok("GET", "/v1/auth/whoami")
        assert a["event_id"] == int(r.headers["X-Event-Id"]) and a["request_id"] == r.headers["X-Request-Id"], a
        assert a["resource_type"] == "app" and a["resource_id"] == r.json["id"] and a["org_id"] == org["id"], a
        assert a["actor_id"] == me["subject_id"] and a["token_id"] == me["token"]["id"], a
        assert a["decision"] == "allow" and a["result"] == "ok" and a["idempotency_key_hash"], a
        assert a["source_ip"] == "unix:uid=0", a

    @case("a replay of the same request leaves no second record")
    def _():
        r = w.q("POST", O + "/apps", {"name": "hello", "description": PLANTED}, key="key-" + PLANTED)
        assert r.headers["Idempotent-Replay"] == "true"
        assert len(records("&action=app.create")) == 1

    @case("a refused mutation is recorded with its error code")
    def _():
        r = w.q("POST", O + "/apps", {"name": "hello"})
        assert r.status == 409, r.text
        a = records("&action=app.create")[0]
        assert a["result"] == "error" and a["error_code"] == "name_taken" and a["event_id"] is None, a

    @case("denials are recorded: a false token in the platform's chain, a foreign organisation without telling it")
    def _():
        assert call(w.api, "GET", O + "/apps", headers={"Authorization": "Bearer " + FALSE_TOKEN}).status == 401
        other = "org_01j" + "0" * 23
        assert w.q("GET", "/v1/orgs/" + other + "/apps").status == 404
        got = w.ok("GET", "/v1/admin/audit?chain=platform&decision=deny")["items"]
        assert [(a["error_code"], a["actor_type"], a["resource_id"]) for a in got[:2]] == [
            ("not_found", "user", other), ("unauthorized", "anonymous", None)], got
        assert all(a["decision"] == "allow" for a in records())

    @case("log reads are recorded before they are answered")
    def _():
        app = w.ok("GET", O + "/apps")["items"][0]["id"]
        env = w.ok("POST", O + "/apps/" + app + "/envs", {"name": "prod"})["id"]
        assert w.q("GET", O + "/apps/%s/envs/%s/logs" % (app, env)).status == 200
        a = records("&action=logs.*")[0]
        assert a["action"] == "logs.read" and a["env_id"] == env and a["resource_id"] == env, a
        w.pg.sql("REVOKE INSERT ON moat.audit_pending FROM moat_control, moat_projector")
        try:
            r = w.q("GET", O + "/apps/%s/envs/%s/logs" % (app, env))
            assert r.status == 500, r.text  # no record, no answer
            r = w.q("POST", O + "/apps", {"name": "unrecorded"})
            assert r.status == 500, r.text
        finally:
            w.pg.sql("GRANT INSERT ON moat.audit_pending TO moat_control, moat_projector")
        assert w.ok("GET", O + "/apps?name=unrecorded")["items"] == [], "a change without its record"
        assert w.pg.sql("SELECT count(*) FROM moat.events WHERE payload->>'name' = 'unrecorded'") == "0"

    @case("filters and pages go together")
    def _():
        for i in range(7):
            w.ok("POST", O + "/projects", {"name": "p%d" % i})
        seen, cursor = [], ""
        for _ in range(20):
            page = w.ok("GET", O + "/audit?action=project.*&limit=3&order=asc" + cursor)
            seen += [a["seq"] for a in page["items"]]
            if not page["next_cursor"]:
                break
            cursor = "&cursor=" + page["next_cursor"]
        assert len(seen) == 7 and seen == sorted(seen), seen
        t = records("&action=project.create")[3]["ts"]
        assert len(records("&action=project.create&since=" + t)) == 4
        assert len(records("&action=project.create&until=" + t)) == 3
        assert records("&actor=usr_nobody") == []
        for bad in ("decision=maybe", "since=yesterday", "colour=red"):
            assert w.q("GET", O + "/audit?" + bad).status == 400, bad

    @case("the audit log needs its scope")
    def _():
        w.pg.sql("CREATE TABLE moat.kept_scopes AS SELECT token_id, scopes FROM moat.personal_tokens")
        w.pg.sql("UPDATE moat.personal_tokens SET scopes = array_remove(array_remove(scopes, 'audit:read'), 'admin')")
        try:
            for p in (O + "/audit", O + "/audit/verify", "/v1/admin/audit", "/v1/admin/audit/verify"):
                assert w.q("GET", p).status == 403, p
        finally:
            w.pg.sql("UPDATE moat.personal_tokens t SET scopes = k.scopes FROM moat.kept_scopes k WHERE k.token_id = t.token_id")
        got = [a for a in records() if a["decision"] == "deny"]
        assert len(got) == 2 and got[0]["error_code"] == "insufficient_scope" and got[0]["scopes"] != "*", got

    @case("A10 nothing planted is in the audit tables: no body, no key, no token")
    def _():
        dump = w.pg.sql("SELECT l::text FROM moat.audit_log l UNION ALL SELECT p::text FROM moat.audit_pending p")
        assert org["id"] in dump
        for secret in (PLANTED, FALSE_TOKEN, w.token):
            assert secret not in dump, secret

    @case("the chain verifies over the API and offline")
    def _():
        v = w.ok("GET", O + "/audit/verify")
        assert v["ok"] and v["pending"] == 0 and len(v["chains"]) == 1 and v["chains"][0]["records"] > 10, v
        v = w.ok("GET", "/v1/admin/audit/verify")
        assert v["ok"] and sorted(c["chain"] for c in v["chains"]) == sorted([org["id"], "platform"]), v
        p = offline()
        assert p.returncode == 0 and org["id"] in p.stdout, (p.returncode, p.stdout, p.stderr)

    @case("what moat audit export writes proves itself, with nothing but its own lines")
    def _():
        env = {**os.environ, "MOAT_API": "unix:" + w.api, "MOAT_TOKEN": w.token, "MOAT_ORG": org["name"], "HOME": w.d, "XDG_CONFIG_HOME": w.d, "XDG_STATE_HOME": w.d}

        def export(name, *words):
            p = subprocess.run([kit.program("moat"), *words, w.d + "/" + name], capture_output=True, text=True, timeout=60, env=env)
            assert p.returncode == 0, (p.returncode, p.stdout, p.stderr)
            assert os.stat(w.d + "/" + name).st_mode & 0o777 == 0o600
            return [json.loads(line) for line in open(w.d + "/" + name)]

        def proven(lines):
            heads = {}
            for a in lines:
                a["audit_id"] = a.pop("id")
                prev, stated = a.pop("prev_hash"), a.pop("hash")
                seq, head = heads.get(a["chain"], (0, hashlib.sha256(b"moat-audit-v1\0" + a["chain"].encode()).hexdigest()))
                assert a["seq"] == seq + 1 and prev == head, (a, seq, head)
                body = json.dumps(a, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
                assert hashlib.sha256(bytes.fromhex(prev) + body).hexdigest() == stated, a
                heads[a["chain"]] = (a["seq"], stated)
            return {chain: n for chain, (n, _) in heads.items()}
        mine = proven(export("mine.ndjson", "audit", "export"))
        assert list(mine) == [org["id"]] and mine[org["id"]] > 10, mine
        every = proven(export("every.ndjson", "admin", "audit", "export"))
        assert sorted(every) == sorted([org["id"], "platform"]) and every[org["id"]] >= mine[org["id"]], every
        bad = open(w.d + "/mine.ndjson").read().splitlines()
        bad[3] = bad[3].replace('"result":"ok"', '"result":"no"', 1)
        try:
            proven([json.loads(line) for line in bad])
        except AssertionError:
            return
        raise AssertionError("an altered line passed")

    @case("a signed checkpoint: what was rewritten or cut off since is found, though every chain holds; other keys and changed ones are refused")
    def _():
        for name in ("key", "other"):
            subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", w.d + "/%s.pem" % name], check=True)
            subprocess.run(["openssl", "pkey", "-in", w.d + "/%s.pem" % name, "-pubout", "-out", w.d + "/%s.pub" % name], check=True)

        def run(verb, file, key, code=0):
            p = subprocess.run([kit.program("moat"), "--json", "admin", "audit", verb, w.d + "/" + file, "--key", w.d + "/" + key, "--config", w.d + "/control.toml"], capture_output=True, text=True, timeout=60,
                               env={**os.environ, "HOME": w.d, "XDG_CONFIG_HOME": w.d})
            assert p.returncode == code, (p.returncode, p.stdout, p.stderr)
            return json.loads(p.stdout)["data"] if code == 0 else p.stdout + p.stderr
        w.ok("GET", O + "/audit/verify")  # what is pending gets into its chain
        made = run("checkpoint", "heads", "key.pem")
        assert made["chains"] == 2 and made["records"] > 10 and os.stat(w.d + "/heads").st_mode & 0o777 == 0o600, made
        first, sig = open(w.d + "/heads").read().split("\n")[:2]
        with open(w.d + "/body", "w") as f:
            f.write(first)
        with open(w.d + "/sig", "wb") as f:
            f.write(bytes.fromhex(sig))
        subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", w.d + "/key.pub", "-in", w.d + "/body", "-sigfile", w.d + "/sig"], check=True, stdout=subprocess.DEVNULL)
        heads = {c["chain"]: c for c in json.loads(first)["chains"]}
        assert run("check", "heads", "key.pub")["chains"] == 2
        w.ok("POST", O + "/projects", {"name": "after-the-checkpoint"})
        assert run("check", "heads", "key.pub")["records"] >= made["records"]  # the log goes on
        assert "signed by another key" in run("check", "heads", "other.pub", 1)
        assert "no public Ed25519 key" in run("check", "heads", "key.pem", 1) and "no private Ed25519 key" in run("checkpoint", "none", "key.pub", 1)
        assert not os.path.exists(w.d + "/none")
        with open(w.d + "/changed", "w") as f:
            f.write(open(w.d + "/heads").read().replace('"seq":%d' % heads["platform"]["seq"], '"seq":%d' % (heads["platform"]["seq"] - 1)))
        assert "the checkpoint was changed" in run("check", "changed", "key.pub", 1)
        # Who can write both tables rewrites the record of then, and all that follow it: each chain holds.
        n, chain = heads[org["id"]]["seq"], org["id"]
        columns = "SELECT to_jsonb(l) - 'hash' - 'prev_hash' || jsonb_build_object('ts', to_char(ts AT TIME ZONE 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), encode(prev_hash, 'hex') FROM moat.audit_log l WHERE chain = '%s' AND seq >= %d ORDER BY seq"
        w.ok("GET", O + "/audit/verify")
        rows = [(json.loads(a), b) for a, b in (line.rsplit("|", 1) for line in w.pg.sql(columns % (chain, n)).splitlines())]
        kept = w.pg.sql("SELECT string_agg(format('UPDATE moat.audit_log SET actor_id = %%L, prev_hash = %%L, hash = %%L WHERE chain = %%L AND seq = %%s', actor_id, prev_hash, hash, chain, seq), '; ')"
                        " || (SELECT format('; UPDATE moat.audit_chains SET last_seq = %%s, last_hash = %%L WHERE chain = %%L', last_seq, last_hash, chain) FROM moat.audit_chains WHERE chain = '%s')"
                        " FROM moat.audit_log WHERE chain = '%s' AND seq >= %d" % (chain, chain, n))

        def rewrite(change):
            prev, sql = rows[0][1], ""
            for i, (row, _) in enumerate(rows):
                row = dict(row, **(change if i == 0 else {}))
                stated = hashlib.sha256(bytes.fromhex(prev) + json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
                sql += "UPDATE moat.audit_log SET actor_id = '%s', prev_hash = '\\x%s', hash = '\\x%s' WHERE chain = '%s' AND seq = %d; " % (row["actor_id"], prev, stated, chain, row["seq"])
                prev = stated
            return sql + "UPDATE moat.audit_chains SET last_hash = '\\x%s' WHERE chain = '%s'" % (prev, chain)
        try:
            tamper(rewrite({}))
            assert run("check", "heads", "key.pub")["chains"] == 2  # the same content has the same hashes: the rewriting itself is right
            tamper(rewrite({"actor_id": "usr_somebody_else"}))
            assert offline().returncode == 0 and "record %d of chain %s is not the one that was there on" % (n, chain) in run("check", "heads", "key.pub", 1)
            tamper(kept)
            gone = "BEGIN; CREATE TABLE public.away AS SELECT * FROM moat.audit_log WHERE chain = '%s' AND seq >= %d; DELETE FROM moat.audit_log WHERE chain = '%s' AND seq >= %d; " % (chain, n, chain, n)
            tamper(gone + "UPDATE moat.audit_chains SET last_seq = %d, last_hash = '\\x%s' WHERE chain = '%s'; COMMIT" % (n - 1, rows[0][1], chain))
            assert offline().returncode == 0 and "chain %s ends at record %d" % (chain, n - 1) in run("check", "heads", "key.pub", 1)
            tamper("INSERT INTO moat.audit_log SELECT * FROM public.away; DROP TABLE public.away")
        finally:
            tamper(kept)
        assert run("check", "heads", "key.pub")["chains"] == 2

    @case("moat admin db check reads all of it, and says of each thing what is wrong with it")
    def _():
        def run(code):
            p = subprocess.run([kit.program("moat"), "--json", "admin", "db", "check", "--config", w.d + "/control.toml"], capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": w.d, "XDG_CONFIG_HOME": w.d})
            assert p.returncode == code, (p.returncode, p.stdout, p.stderr)
            return json.loads(p.stdout)["data"] if code == 0 else p.stdout + p.stderr
        got = run(0)
        assert got["events"] > 10 and got["view_rows"] > 10 and got["audit_chains"] == 2 and got["schema"] >= 19, got
        name = w.pg.sql("SELECT name FROM apps_view LIMIT 1")
        w.pg.sql("UPDATE apps_view SET name = 'forged' WHERE name = '%s'" % name)
        try:
            assert "1 rows of views are not what the log says, the first in apps_view: moat-control rebuild --view all" in run(1)
        finally:
            w.pg.sql("UPDATE apps_view SET name = '%s' WHERE name = 'forged'" % name)
        tamper("UPDATE moat.audit_log SET reason = 'x' WHERE chain = '%s' AND seq = 2" % org["id"])
        try:
            assert "of the audit log does not hold at record 2" in run(1)
        finally:
            tamper("UPDATE moat.audit_log SET reason = NULL WHERE chain = '%s' AND seq = 2" % org["id"])
        run(0)

    @case("a flipped byte is found and named, over the API and offline")
    def _():
        tamper("UPDATE moat.audit_log SET actor_id = 'usr_x' || substr(actor_id, 6) WHERE chain = '%s' AND seq = 4" % org["id"])
        v = w.ok("GET", O + "/audit/verify")
        assert not v["ok"] and v["chains"][0]["bad"]["seq"] == 4, v
        assert "altered" in v["chains"][0]["bad"]["what"], v
        p = offline()
        assert p.returncode == 1 and "record 4 aud_" in p.stdout, (p.returncode, p.stdout, p.stderr)

    @case("records survive a kill right after the answer and are sealed by the next server")
    def _():
        r = w.q("POST", O + "/projects", {"name": "before-the-kill"})
        assert r.status == 201
        w.control.kill()
        w.control.wait()
        w.start_control()
        got = records("&action=project.create")
        assert got[0]["event_id"] == int(r.headers["X-Event-Id"]), got[0]

    @case("who takes the role gc verifies all chains, and metrics and log say that one does not hold")
    def _():
        told = lambda: [l for l in call(w.api, "GET", "/metrics").text.decode().splitlines() if l.startswith("moat_audit_chain_ok ")]
        kit.wait_for("a verdict", told, 30)
        assert told() == ["moat_audit_chain_ok 0"], told()
        line = [json.loads(l) for l in open(w.d + "/control.log") if '"audit.chain_broken"' in l][-1]
        assert line["chain"] == org["id"] and line["seq"] == 4, line
        tamper("UPDATE moat.audit_log SET actor_id = 'usr_' || substr(actor_id, 6) WHERE chain = '%s' AND seq = 4" % org["id"])
finally:
    w.close()
kit.finish()
