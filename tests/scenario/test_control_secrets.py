#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Secrets over the API with a real PostgreSQL: written and never given back, versions, who may, what a node gets, tampering,
rotation, and a search for planted values in everything that is kept.
COST 35 s, 8 s of processor."""
import base64, hashlib, http.server, json, os, pty, random, re, signal, subprocess, sys, termios, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case, wait_for, call

kit.need("control secrets")


def key_line(fill, state):
    key = bytes([fill]) * 32
    kid = hashlib.sha256(b"moat-master-key-v1\0" + key).hexdigest()[:16]
    return kid, "%s %s %s\n" % (kid, state, base64.b64encode(key).decode())


def put_keys(path, *lines):
    if os.path.exists(path):
        os.unlink(path)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400)
    os.write(fd, "".join(lines).encode())
    os.close(fd)


class PrivateRegistry:
    """One image for amd64 behind Basic authentication, of which only manifest and configuration are ever asked."""

    def __init__(self):
        self.user, self.password, self.refused = "robot", None, 0
        config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}, "config": {}}).encode()
        name = lambda b: "sha256:" + hashlib.sha256(b).hexdigest()
        manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                               "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": name(config), "size": len(config)},
                               "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + "2" * 64, "size": 10}]}).encode()
        self.digest = name(manifest)
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                good = "Basic " + base64.b64encode(("%s:%s" % (registry.user, registry.password)).encode()).decode()
                last = self.path.rsplit("/", 1)[-1]
                body = manifest if last in ("latest", registry.digest) else config if last == name(config) else None
                ok = self.headers.get("Authorization") == good
                registry.refused += not ok
                self.send_response(401 if not ok else 200 if body else 404)
                if not ok:
                    self.send_header("WWW-Authenticate", 'Basic realm="private"')
                self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                self.send_header("Content-Length", str(len(body) if ok and body else 0))
                self.end_headers()
                if ok and body:
                    self.wfile.write(body)

            def log_message(self, *a):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.host = "127.0.0.1:%d" % self.server.server_port


KEYS = "/tmp/mtc-keys.%d" % os.getpid()
K1, L1 = key_line(1, "active")
put_keys(KEYS, "# test\n", L1)
PRIVATE = PrivateRegistry()
w = kit.World(master_keys_file=KEYS, fetch_program=kit.program("moat-fetch"), local_registries=[PRIVATE.host], insecure_registries=[PRIVATE.host])
w.confirm = False
CANARY = "cAnArY-7f3b9e-"
H = "# MOAT_SECRETS_V1\n"
planted = []


def canary(n):
    planted.append(CANARY + n)
    return CANARY + n


def manifest(required, scale=2):
    return """schema_version = "v1"
[app]
name = "hello"
[image]
ref = "registry.test:5000/hello:latest"
[processes.web]
command = ["/hello"]
[processes.web.resources]
memory = "128Mi"
cpu = 0.1
[processes.web.scaling]
min = %d
[processes.web.secrets]
required = %s
""" % (scale, required)


def forms(value):
    """What a value may look like where it must not be."""
    raw = value.encode()
    out = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    for pad in range(3):  # base64 of it at each alignment
        b = base64.b64encode(b"x" * pad + raw)
        out.add(b[4 if pad else 0:-4])
    return out


START = forms(CANARY)  # each form of a planted value begins with one of these: where none is, there is no value


def search(name, data, found):
    for v in planted if any(f in data for f in START) else ():
        for f in forms(v):
            if f in data:
                found.append("%s holds %s" % (name, v))


def dump():
    return subprocess.run([w.pg.bin + "/pg_dump", "-h", w.pg.sock, "-U", "postgres", "moat"], stdout=subprocess.PIPE, check=True,
                          preexec_fn=w.pg.as_user, cwd="/").stdout


def files_below(*tops):
    for top in tops:
        if os.path.isfile(top):
            yield top
        for d, _, names in os.walk(top):
            for n in names:
                p = os.path.join(d, n)
                if os.path.isfile(p) and not os.path.islink(p):
                    yield p


def everywhere():
    found = []
    search("dump", dump(), found)
    w.pg.sql("CHECKPOINT")
    for p in files_below(w.d, os.path.realpath(w.pg.data)):  # the cluster's files with their WAL, logs, configuration, data folder
        try:
            search(p, open(p, "rb").read(), found)
        except OSError:
            pass
    for t in ("/metrics", "/livez"):
        search(t, call(w.api, "GET", t).text, found)
    return found


def raw_call(method, target, body):
    c = kit.UnixHTTP(w.api, 60)
    c.request(method, target, body, {"Authorization": "Bearer " + w.token, "Content-Type": "application/json"})
    r = c.getresponse()
    return r.status, r.read()


def ask(instance, version):
    return w.agent.post("secrets", {"instance_id": instance, "version_id": version})


try:
    w.start_edge()
    O = w.open()
    make_env = w.make_app

    def release(A, text, digest="sha256:" + "1" * 64):
        return w.ok("POST", A + "/releases", {"manifest": text, "image_digest": digest, "verify_image": False})["id"]

    def running(E, version):
        items = [i for i in w.ok("GET", E + "/instances")["items"] if i["desired_state"] == "running" and i["status"] == "ready"]
        return items if items and all(i.get("secret_version_id") == version for i in items) else None

    def cli(*argv, rc=0, says="", stdin=""):
        moat = kit.program("moat") or os.path.join(os.environ.get("MOAT_BIN", ""), "moat")
        env = {"PATH": "/usr/bin:/bin", "HOME": w.d, "MOAT_API": "unix:" + w.api, "MOAT_TOKEN": w.token, "MOAT_ORG": "local", "MOAT_CONFIG": w.d + "/cli.toml"}
        open(w.d + "/cli.toml", "w").close()
        r = subprocess.run([moat] + list(argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, input=stdin, text=True, env=env, cwd=w.d, timeout=240)
        assert r.returncode == rc and says in r.stderr, (argv, r.returncode, r.stdout, r.stderr)
        return r.stdout, r.stderr

    A, E = make_env("hello")
    S = E + "/secrets"

    @case("an environment without secrets says so")
    def _():
        m = w.ok("GET", S)
        assert m["config_gate"] == "unset" and m["key_names"] == [] and m["resource_version"] == 0, m

    @case("values are set and never come back; names, numbers and the author do")
    def _():
        r = w.q("PATCH", S, {"set": {"DB_PASS": canary("db"), "A": ""}, "set_base64": {"RAW": base64.b64encode(canary("raw").encode()).decode()}}, "k-1")
        assert r.status == 200 and r.json["version_number"] == 1 and r.json["key_names"] == ["A", "DB_PASS", "RAW"], r.text
        again = w.q("PATCH", S, {"set": {"DB_PASS": canary("db"), "A": ""}, "set_base64": {"RAW": base64.b64encode(canary("raw").encode()).decode()}}, "k-1")
        assert again.json["version_id"] == r.json["version_id"] and again.headers.get("Idempotent-Replay") == "true", again.text
        other = w.q("PATCH", S, {"set": {"DB_PASS": canary("other")}}, "k-1")
        assert other.status == 409 and other.json["code"] == "idempotency_key_reuse", other.text
        m = w.ok("GET", S)
        assert m["config_gate"] == "set" and m["key_count"] == 3 and m["version_id"] == r.json["version_id"] and m["updated_by"], m
        same = w.ok("PATCH", S, {"set": {"A": ""}})
        assert same["unchanged"] and same["version_id"] == r.json["version_id"], same
        v = w.ok("GET", S + "/versions")["items"]
        assert len(v) == 1 and v[0]["current"] and v[0]["material_state"] == "present", v
        ev = [e for e in w.ok("GET", O + "/events?aggregate_type=secret_bundle")["items"]]
        assert [e["event_type"] for e in ev] == ["secret_bundle.created", "secret_bundle.version_set"], ev
        assert set(ev[1]["payload"]) == {"version_id", "version_number", "data_hash", "key_count", "confirmed_none", "source"}, ev

    @case("a file replaces all, against a version; malformed ones are refused with their code and without their content")
    def _():
        v = w.ok("GET", S)["resource_version"]
        bad = [({"format": "moat_env_v1", "data": H + "A=1\nA=" + canary("twice")}, "invalid_secrets_format"),
               ({"format": "moat_env_v1", "data": "A=" + canary("nohead")}, "invalid_secrets_format"),
               ({"format": "moat_env_v1", "data": H + canary("line")}, "invalid_secrets_format"),
               ({"values": {canary("key") + " x": "1"}}, "invalid_key"),
               ({"values": {"MOAT_X": canary("res")}}, "reserved_key"),
               ({"values": {"A": canary("big") * 8000}}, "value_too_large"),
               ({"values": {"K%d" % i: canary("many") for i in range(257)}}, "too_many_keys"),
               ({"values": {"K%d" % i: "x" * 60000 for i in range(5)}}, "secrets_too_large"),
               ({"values_base64": {"A": canary("b64") + "!"}}, "invalid_argument"),
               ({"values": {"A": 1}}, "invalid_argument"), ({"format": "x", "data": H}, "invalid_argument"), ({}, "invalid_argument"),
               ({"values": {"A": "1"}, canary("field"): 1}, "unknown_field")]
        for body, code in bad:
            r = w.q("PUT", S, dict(body, expected_version=v))
            assert r.status == 400 and r.json["code"] == code, (code, r.text[:300])
            if code != "unknown_field":
                assert CANARY.encode() not in r.text, r.text
        planted.remove(CANARY + "field")  # the name of a field is no value
        for raw in (b'{"set": {"A": "%s" "B"' % canary("json").encode(), b'{"set": {"A": "%s", "A": "2"}}' % canary("dup").encode()):
            r = raw_call("PATCH", S, raw)
            assert r[0] == 400 and b"invalid_json" in r[1] and CANARY.encode() not in r[1], r
        r = raw_call("PUT", S, b'{"values": {"A": "' + b"x" * 600000 + b'"}}')
        assert r[0] == 413, r
        assert w.q("PUT", S, {"values": {"A": "1"}}).json["code"] == "expected_version_required"
        r = w.q("PUT", S, {"values": {"A": "1"}, "expected_version": v + 7})
        assert r.status == 409 and r.json["code"] == "version_conflict", r.text
        r = w.ok("PUT", S, {"format": "moat_env_v1", "data": H.replace("\n", "\r\n") + "DB_PASS=" + canary("file") + "\r\n", "expected_version": v})
        assert r["version_number"] == 2 and r["key_names"] == ["DB_PASS"], r

    @case("others: another organisation, a reader, a token without the scope")
    def _():
        o2 = w.ok("POST", "/v1/orgs", {"name": "other-org"})["id"]
        for path in (S, S + "/versions"):
            assert w.q("GET", path.replace(O.split("/")[-1], o2)).status == 404
        sp = w.ok("POST", O + "/service-principals", {"name": "reader", "scopes": ["secrets:read-metadata"]})
        t = call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]}).json["access_token"]
        h = {"Authorization": "Bearer " + t}
        assert call(w.api, "GET", S, None, h).status == 200
        r = call(w.api, "PATCH", S, {"set": {"X": canary("denied")}}, h)
        assert r.status == 403 and r.json["code"] == "insufficient_scope", r.text
        sp = w.ok("POST", O + "/service-principals", {"name": "deployer", "scopes": ["deploys:write", "envs:read"]})
        t = call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]}).json["access_token"]
        assert call(w.api, "GET", S, None, {"Authorization": "Bearer " + t}).status == 403

    @case("the gate: no deploy and no rollback before secrets are set or none is confirmed; by the CLI in one command")
    def _():
        A4, E4 = make_env("gated")
        rel = release(A4, manifest("false", 1))

        def gate(want):
            env, st = w.ok("GET", E4), w.ok("GET", E4 + "/status")["secrets"]
            assert env["config_gate"] == st["config_gate"] == want and ("secrets" in env) == (want != "unset") == ("version_id" in st), (env, st)
        gate("unset")
        for path in ("/deploys", "/deploys?dry_run=true", "/rollbacks"):
            r = w.q("POST", E4 + path, {"release_id": rel})
            assert r.status == 409 and r.json["code"] == "config_gate_unmet" and b"moat secrets confirm-none" in r.text, (path, r.text)
        assert not w.ok("GET", E4 + "/deploys")["items"]
        cli("deploy", "--app", "gated", "--env", "prod", "--release", "v1", "--no-wait", rc=5, says="--confirm-no-secrets")
        cli("deploy", "--app", "gated", "--env", "prod", "--release", "v1", "--dry-run", "--confirm-no-secrets", rc=2, says="moat secrets confirm-none")
        gate("unset")
        cli("deploy", "--app", "gated", "--env", "prod", "--release", "v1", "--no-wait", "--confirm-no-secrets", says="confirmed: prod needs no secrets")
        gate("confirmed_none")
        w.ok("POST", E4 + "/deploys", {"release_id": rel})
        w.ok("PATCH", E4 + "/secrets", {"set": {"X": canary("gate")}})
        gate("set")
        cli("deploy", "--app", "gated", "--env", "prod", "--release", "v1", "--no-wait", "--confirm-no-secrets", says="nothing to confirm")
        w.ok("PATCH", E4 + "/secrets", {"unset": ["X"]})  # somebody decided that
        gate("set")
        w.ok("POST", E4 + "/deploys", {"release_id": rel})
        w.ok("DELETE", E4 + "?cascade=true")

    @case("export is off unless the operator says otherwise; then for owners, with the record first")
    def _():
        A5, E5 = make_env("exported")
        M = E5 + "/secrets/material"
        assert w.q("GET", M).status == 403 and b"allow_secret_export" in w.q("GET", M).text, w.q("GET", M).text
        assert "allow_secret_export" in cli("secrets", "render", "--values", "--app", "exported", "--env", "prod", rc=3)[1]
        w.conf["allow_secret_export"] = True
        w.write_config()
        w.kill_control()
        w.start_control()
        r = w.q("GET", M)
        assert r.status == 404, r.text
        w.ok("PATCH", E5 + "/secrets", {"set": {"P": canary("export"), "Q": "two\nlines"}})
        r = w.ok("GET", M)
        text = base64.b64decode(r["data"])
        assert text == (H + "P=%sexport\nQ=base64:dHdvCmxpbmVz\n" % CANARY).encode() and r["sha256"] == hashlib.sha256(text).hexdigest(), r
        assert (r["format"], r["encoding"], r["version_number"], r["env_id"]) == ("moat_env_v1", "base64", 1, E5.rsplit("/", 1)[1]), r
        assert cli("secrets", "render", "--values", "--app", "exported", "--env", "prod")[0].encode() == text
        masked = cli("secrets", "render", "--app", "exported", "--env", "prod")[0]
        assert masked == H + "P=********\nQ=********\n", masked
        seen = [x for x in w.ok("GET", O + "/audit?action=secrets.export")["items"] if x["result"] == "ok"]
        assert len(seen) == 2 and all(x["resource_id"] == r["version_id"] and x["actor_id"] for x in seen), seen
        # what goes out goes in again
        v = w.ok("GET", E5 + "/secrets")
        same = w.ok("PUT", E5 + "/secrets", {"format": r["format"], "data": text.decode(), "expected_version": v["resource_version"]})
        assert same["unchanged"], same
        sp = w.ok("POST", O + "/service-principals", {"name": "dev", "scopes": ["secrets:write", "secrets:read-metadata"]})
        t = call(w.api, "POST", "/v1/auth/token", {"grant_type": "client_credentials", "client_id": sp["client_id"], "client_secret": sp["client_secret"]}).json["access_token"]
        assert call(w.api, "GET", M, None, {"Authorization": "Bearer " + t}).json["code"] == "insufficient_scope"
        w.conf["allow_secret_export"] = False
        w.write_config()
        w.kill_control()
        w.start_control()
        assert w.q("GET", M).status == 403

    @case("the CLI: files of other tools are imported, values are typed unseen, --wait ends with the roll or says what holds it")
    def _():
        A6, E6 = make_env("shell")
        at = ("--app", "shell", "--env", "prod")
        dotenv = "# theirs\nexport DB_URL='%s'\nKEY=\"two\\nlines\" # c\nPLAIN=a b\n" % canary("dotenv")
        out = cli("secrets", "import", "-", *at, stdin=dotenv)
        assert CANARY not in out[0] + out[1] and w.ok("GET", E6 + "/secrets")["key_names"] == ["DB_URL", "KEY", "PLAIN"], out
        assert cli("secrets", "render", "--local", "-", stdin=dotenv)[0] == H + "DB_URL=%sdotenv\nKEY=base64:dHdvCmxpbmVz\nPLAIN=a b\n" % CANARY
        err = cli("secrets", "import", "-", *at, rc=2, stdin="A=1\nB='%s" % canary("open"))[1]
        assert "line 2" in err and CANARY not in err, err
        err = cli("secrets", "set", "A=" + canary("argv"), *at, says="shell's history")[1]
        assert CANARY not in err
        err = cli("secrets", "set", "A=-", "--debug", *at, stdin=canary("debug") + "\n")[1]
        assert "PATCH" in err and not any(f in err.encode() for f in forms(CANARY)), err
        env = {"PATH": "/usr/bin:/bin", "HOME": w.d, "MOAT_API": "unix:" + w.api, "MOAT_TOKEN": w.token, "MOAT_ORG": "local", "MOAT_CONFIG": w.d + "/cli.toml", "TERM": "dumb"}
        pid, tty = pty.fork()
        if pid == 0:
            os.execve(kit.program("moat"), ["moat", "secrets", "set", "TYPED", *at], env)
        shown = b""
        while b"TYPED:" not in shown:
            shown += os.read(tty, 1000)
        wait_for("echo is off", lambda: not termios.tcgetattr(tty)[3] & termios.ECHO, 5)
        os.write(tty, canary("typed").encode() + b"\n")
        try:
            while True:
                shown += os.read(tty, 1000)
        except OSError:
            pass
        assert os.waitpid(pid, 0)[1] == 0 and CANARY.encode() not in shown and "TYPED" in w.ok("GET", E6 + "/secrets")["key_names"], shown
        w.ok("POST", E6 + "/deploys", {"release_id": release(A6, manifest("true", 1))})
        wait_for("success", lambda: w.ok("GET", E6 + "/deploys")["items"][0]["status"] == "succeeded", 30)
        out = cli("secrets", "set", "B=-", "--wait", *at, stdin=canary("waited"), says="1 of 1 instances on version")
        v = w.ok("GET", E6 + "/secrets")
        assert running(E6, v["version_id"]) and v["delivery"] == [{"process_type": "web", "instances_on_current": 1, "instances_total": 1}], v
        out = cli("secrets", "status", *at)
        assert "version %d " % v["version_number"] in out[1] and re.search(r"web +1 +1", out[0]), out
        w.agent.behave = lambda a: "exit"
        cli("secrets", "unset", "B", "--wait", *at, rc=8, says="moat secrets rollback")
        w.agent.behave = lambda a: "ready"
        cli("secrets", "rollback", "--wait", *at)
        assert running(E6, w.ok("GET", E6 + "/secrets")["version_id"])
        w.ok("DELETE", E6 + "?cascade=true")

    @case("required and missing: the deploy is refused, and a group that lost its secrets is blocked with the reason")
    def _():
        A2, E2 = make_env("needy")
        rel = release(A2, manifest("true"))
        w.ok("POST", E2 + "/secrets/confirm-none", {})
        r = w.q("POST", E2 + "/deploys", {"release_id": rel})
        assert r.status == 409 and r.json["code"] == "secrets_missing", r.text
        w.ok("PATCH", E2 + "/secrets", {"set": {"X": canary("needy")}})
        d = w.ok("POST", E2 + "/deploys", {"release_id": rel})
        wait_for("success", lambda: w.ok("GET", E2 + "/deploys/" + d["id"])["status"] == "succeeded", 30)
        w.ok("PATCH", E2 + "/secrets", {"unset": ["X"]})

        def blocked():
            p = w.ok("GET", E2 + "/status")["processes"][0]
            return p["sched_condition"] == "blocked" and p["reason"] == "secrets_missing" and p
        wait_for("the group is blocked", blocked, 10)
        assert len([i for i in w.ok("GET", E2 + "/instances")["items"] if i["desired_state"] == "running"]) == 2  # they serve on

    @case("a version is rolled to every instance; only its node gets the content, with the record in the audit log first")
    def _():
        d = w.ok("POST", E + "/deploys", {"release_id": release(A, manifest("true"))})
        wait_for("success", lambda: w.ok("GET", E + "/deploys/" + d["id"])["status"] == "succeeded", 30)
        one = w.ok("GET", S)["version_id"]
        old = running(E, one)
        assert len(old) == 2
        r = ask(old[0]["id"], one)
        text = base64.b64decode(r.json["data"])
        assert text == (H + "DB_PASS=" + CANARY + "file\n").encode() and r.json["sha256"] == hashlib.sha256(text).hexdigest(), r.text
        assert ask("inst_01j" + "0" * 23, one).status == 403 and ask(old[0]["id"], "sv_01j" + "0" * 23).status == 403
        two = w.ok("PATCH", S, {"set": {"NEW": canary("new")}})["version_id"]
        new = wait_for("rolled", lambda: running(E, two), 30)
        assert not {i["id"] for i in new} & {i["id"] for i in old}
        wait_for("the old ones are gone", lambda: all(ask(i["id"], one).status == 403 for i in old), 15)
        assert ask(new[0]["id"], two).status == 200 and ask(new[0]["id"], one).status == 403
        m = w.ok("GET", S)
        assert m["delivery"] == [{"process_type": "web", "instances_on_current": 2, "instances_total": 2}], m
        wait_for("audit", lambda: [x for x in w.ok("GET", O + "/audit?action=secrets.deliver")["items"]
                                   if x["resource_id"] == two and x["actor_id"] == w.agent.node_id and x["result"] == "ok"], 5)
        wait_for("audit of a denial", lambda: [x for x in w.ok("GET", O + "/audit?action=secrets.deliver")["items"] if x["decision"] == "deny"], 5)
        assert w.ok("GET", O + "/audit?action=secrets.change")["items"] and w.ok("GET", O + "/audit?action=secrets.replace")["items"]
        assert call(w.internal, "POST", "/internal/v1/nodes/self/secrets", {"instance_id": new[0]["id"], "version_id": two}).status == 200

    @case("a private image: no credential no release; the organisation's is used, never shown, given to the node that pulls, and gone when removed")
    def _():
        C, secret = O + "/registry-credentials", canary("registry")
        PRIVATE.password = secret
        text = manifest("false", 1).replace("registry.test:5000/hello:latest", PRIVATE.host + "/team/app:latest")
        r = w.q("POST", A + "/releases", {"manifest": text})
        assert r.status == 400 and r.json["code"] == "image_not_found" and "registries set" in r.json["detail"], r.text
        for host, body, status, code in ((PRIVATE.host, {"username": "robot"}, 400, "invalid_argument"), ("web", {"username": "robot", "password": "x"}, 400, "invalid_id"),
                                         (PRIVATE.host, {"username": "a:b", "password": "x"}, 400, "invalid_argument"),
                                         (PRIVATE.host, {"username": "robot", "password": "a\nb"}, 400, "invalid_argument")):
            r = w.q("PUT", C + "/" + host, body)
            assert (r.status, r.json["code"]) == (status, code), r.text
        r = subprocess.run([kit.program("moat"), "registries", "set", PRIVATE.host, "--username", "robot", "--password-stdin"], input=secret + "\n", text=True,
                           capture_output=True, env={"PATH": "/usr/bin:/bin", "HOME": w.d, "MOAT_API": "unix:" + w.api, "MOAT_TOKEN": w.token, "MOAT_ORG": O.rsplit("/", 1)[1]})
        assert r.returncode == 0 and secret not in r.stdout + r.stderr, (r.stdout, r.stderr)
        one = w.ok("GET", C)["items"]
        assert len(one) == 1 and one[0]["host"] == PRIVATE.host and one[0]["username"] == "robot" and secret not in json.dumps(one), one
        rel = w.ok("POST", A + "/releases", {"manifest": text})
        assert rel["image_digest"] == PRIVATE.digest and rel["image_verified"] and PRIVATE.refused > 0, rel
        r = w.q("PUT", C + "/" + PRIVATE.host, {"username": "robot", "password": "x"})
        assert r.status == 400 and r.json["code"] == "expected_version_required", r.text
        # the node: for an instance of its own that shall run, and no other
        env = A + "/envs/" + w.ok("POST", A + "/envs", {"name": "private"})["id"]
        w.ok("POST", env + "/secrets/confirm-none", {})
        w.ok("POST", env + "/deploys", {"release_id": rel["id"]})
        i = wait_for("an instance", lambda: w.ok("GET", env + "/instances")["items"], 30)[0]["id"]
        asked = lambda x: call(w.internal, "POST", "/internal/v1/nodes/self/registry-credential", {"instance_id": x})
        r = asked(i)
        assert r.status == 200 and r.json == {"host": PRIVATE.host, "username": "robot", "password": secret}, r.status
        assert asked("inst_01j" + "0" * 23).status == 403
        public = running(E, w.ok("GET", S)["version_id"])[0]["id"]
        assert asked(public).status == 404
        wait_for("audit", lambda: [x for x in w.ok("GET", O + "/audit?action=registry.deliver")["items"] if x["resource_id"] == one[0]["id"] and x["result"] == "ok"], 5)
        w.ok("POST", "/v1/admin/keys/verify", {})
        # blocked: what runs goes on; evicted: it goes, and a deploy is told why
        w.ok("POST", "/v1/image-blocks", {"digest": PRIVATE.digest, "reason": "miner"})
        w.ok("POST", "/v1/image-blocks", {"digest": PRIVATE.digest, "evict": True, "reason": "miner"})
        wait_for("drained", lambda: all(x.get("desired_reason") == "release_blocked" for x in w.ok("GET", env + "/instances?include_stopped=true")["items"]), 20)
        g = wait_for("blocked", lambda: [p for p in w.ok("GET", env + "/status")["processes"] if p["sched_condition"] == "blocked"], 20)[0]
        assert g["reason"] == "release_blocked", g
        assert w.q("DELETE", "/v1/image-blocks/" + PRIVATE.digest, {}).status == 400
        w.ok("DELETE", "/v1/image-blocks/" + PRIVATE.digest, {"reason": "clean"})
        wait_for("runs again", lambda: [x for x in w.ok("GET", env + "/instances")["items"] if x["status"] == "ready" and x["desired_state"] == "running"], 30)
        assert w.ok("DELETE", C + "/" + PRIVATE.host, {})["already_deleted"] is False
        assert w.ok("DELETE", C + "/" + PRIVATE.host, {})["already_deleted"] is True
        assert asked(w.ok("GET", env + "/instances")["items"][0]["id"]).status in (403, 404)
        assert w.pg.sql("SELECT count(*) FROM moat.registry_secrets").strip() == "0"
        w.ok("DELETE", env, {})

    @case("a log drain: its token is never shown, given to a node with an instance of the organisation and to no other, and gone when removed")
    def _():
        C, secret = O + "/log-drains", canary("drain")
        good = {"kind": "otlp", "target": "https://otlp.example.com/v1/logs", "token": secret}
        for name, body in (("Big", good), ("x", good), ("xx", {"kind": "otlp"}), ("xx", {"kind": "tcp", "target": "a:1"}), ("xx", dict(good, target="http://otlp.example.com/v1/logs")),
                           ("xx", dict(good, target="https://me:pw@otlp.example.com/")), ("xx", dict(good, target="https:///v1")), ("xx", dict(good, token="a\nb")),
                           ("xx", dict(good, header="A: b")), ("xx", dict(good, ca_pem="no")), ("xx", {"kind": "syslog", "target": "logs.example.com"}),
                           ("xx", {"kind": "syslog", "target": "logs.example.com:6514", "token": secret}), ("xx", dict(good, target="x" * 3000)), ("xx", dict(good, more=1))):
            r = w.q("PUT", C + "/" + name, body)
            assert r.status == 400 and secret.encode() not in r.text, (name, r.status, r.text)
        env = {"PATH": "/usr/bin:/bin", "HOME": w.d, "MOAT_API": "unix:" + w.api, "MOAT_TOKEN": w.token, "MOAT_ORG": O.rsplit("/", 1)[1]}
        moat = lambda *a, **kw: subprocess.run([kit.program("moat"), "drains", *a], text=True, capture_output=True, env=env, **kw)
        r = moat("set", "main", "--otlp", good["target"], "--token-stdin", input="Bearer " + secret + "\n")
        assert r.returncode == 0 and secret not in r.stdout + r.stderr, (r.stdout, r.stderr)
        one = w.ok("GET", C)["items"]
        assert len(one) == 1 and one[0]["has_token"] and one[0]["target"] == good["target"] and secret not in json.dumps(one), one
        assert w.q("PUT", C + "/main", good).json["code"] == "expected_version_required"
        asked = lambda x: call(w.internal, "POST", "/internal/v1/nodes/self/log-drain", {"log_drain_id": x})
        listed = lambda: call(w.internal, "GET", "/internal/v1/nodes/self/log-drains").json["log_drains"]
        assert running(E, w.ok("GET", S)["version_id"])
        assert [(d["id"], d["org_id"]) for d in listed()] == [(one[0]["id"], O.rsplit("/", 1)[1])] and secret not in json.dumps(listed())
        r = asked(one[0]["id"])
        assert r.status == 200 and r.json == {"kind": "otlp", "target": good["target"], "token": "Bearer " + secret}, (r.status, r.text)
        wait_for("audit", lambda: [x for x in w.ok("GET", O + "/audit?action=drain.deliver")["items"] if x["resource_id"] == one[0]["id"] and x["result"] == "ok"], 5)
        # somebody else's, without an instance here
        other = "/v1/orgs/" + w.ok("POST", "/v1/orgs", {"name": "drainless"})["id"]
        far = w.ok("PUT", other + "/log-drains/far", {"kind": "syslog", "target": "[2001:db8::1]:6514", "ca_pem": "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"})
        assert asked(far["id"]).status == 403 and asked("drn_01j" + "0" * 23).status == 404 and len(listed()) == 1
        assert w.q("GET", other + "/log-drains").json["items"][0]["id"] == far["id"] and "header" not in far
        # quota, change, end
        for i in range(4):
            w.ok("PUT", C + "/d%d" % i, {"kind": "syslog", "target": "logs.example.com:6514"})
        r = w.q("PUT", C + "/d5", {"kind": "syslog", "target": "logs.example.com:6514"})
        assert r.status == 409 and r.json["code"] == "quota_exceeded" and r.json["details"]["dimension"] == "max_log_drains", r.text
        changed = w.ok("PUT", C + "/main", {"kind": "otlp", "target": good["target"], "expected_version": 1})
        assert changed["resource_version"] == 2 and not changed["has_token"] and asked(one[0]["id"]).json == {"kind": "otlp", "target": good["target"]}
        w.ok("POST", "/v1/admin/keys/verify", {})
        w.ok("PUT", C + "/main", dict(good, expected_version=2))
        assert moat("list").stdout.count("main") == 1 and moat("delete", "main", "--yes").returncode == 0
        assert w.ok("DELETE", C + "/main", {})["already_deleted"] and asked(one[0]["id"]).status == 404
        assert w.pg.sql("SELECT count(*) FROM moat.registry_secrets WHERE reg_id LIKE 'drn_%'").strip() == "0"
        w.ok("DELETE", other, {})
        assert asked(far["id"]).status == 404 and w.pg.sql("SELECT string_agg(DISTINCT event_type, ' ') FROM moat.events WHERE aggregate_type = 'log_drain'") == "log_drain.created log_drain.deleted log_drain.updated"
        for i in range(4):
            w.ok("DELETE", C + "/d%d" % i, {})

    @case("nobody but the agent may ask")
    def _():
        i = running(E, w.ok("GET", S)["version_id"])[0]
        code = ("import sys; sys.path.insert(0, %r); from control_kit import call; print(call(%r, 'POST', '/internal/v1/nodes/self/secrets',"
                " {'instance_id': %r, 'version_id': %r}).status)" % (kit.HERE, w.internal, i["id"], i["secret_version_id"]))
        out = subprocess.run(["/usr/bin/python3", "-c", code], stdout=subprocess.PIPE, text=True, user=65534, group=65534, extra_groups=[]).stdout
        assert out.strip() == "403", out

    @case("a version that does not become ready is held with the old one serving; activating an older one recovers")
    def _():
        good = w.ok("GET", S)["version_id"]
        serving = {i["id"] for i in running(E, good)}
        w.agent.behave = lambda a: "ready" if a["workload"]["secrets"]["version_id"] == good or a["instance_id"] in serving else "exit"
        bad = w.ok("PATCH", S, {"set": {"NEW": canary("bad")}})["version_id"]
        wait_for("held", lambda: w.ok("GET", E + "/status")["processes"][0]["sched_condition"] == "held", 30)
        assert serving <= {i["id"] for i in w.ok("GET", E + "/instances")["items"] if i["status"] == "ready" and i["desired_state"] == "running"}
        w.agent.behave = lambda a: "ready"
        r = w.ok("POST", S + "/versions/%s/activate" % good, {})
        assert r["version_id"] not in (good, bad) and r["version_number"] == 5, r
        a, b = [[v for v in w.ok("GET", S + "/versions")["items"] if v["id"] == x][0] for x in (good, r["version_id"])]
        assert a["data_hash"] == b["data_hash"] and b["source"] == "activate", (a, b)
        wait_for("rolled", lambda: running(E, r["version_id"]), 30)
        wait_for("not held", lambda: w.ok("GET", E + "/status")["processes"][0]["sched_condition"] == "ok", 10)
        assert w.q("POST", S + "/versions/sv_01j%s/activate" % ("0" * 23), {}).status == 404

    @case("moved, swapped, flipped and replayed rows are refused, with a line for the operator")
    def _():
        cur = w.ok("GET", S)["version_id"]
        inst = running(E, cur)[0]["id"]
        other = [v["id"] for v in w.ok("GET", S + "/versions")["items"] if v["id"] != cur][0]
        A7, E7 = make_env("neighbour")
        foreign = w.ok("PATCH", E7 + "/secrets", {"set": {"N": canary("neighbour")}})["version_id"]
        w.pg.sql("CREATE TABLE public.keep AS SELECT * FROM moat.secret_material")
        back = "INSERT INTO moat.secret_material SELECT * FROM public.keep ON CONFLICT DO NOTHING; UPDATE moat.secret_material m SET envelope = k.envelope, wrapped_data_key = k.wrapped_data_key, master_key_id = k.master_key_id FROM public.keep k WHERE k.version_id = m.version_id"
        told_before = open(w.d + "/control.log").read().count("secrets.do_not_open")
        for what, sql in (("envelope flipped", "UPDATE moat.secret_material SET envelope = set_byte(envelope, 30, get_byte(envelope, 30) # 1) WHERE version_id = '%s'" % cur),
                          ("wrapped key flipped", "UPDATE moat.secret_material SET wrapped_data_key = set_byte(wrapped_data_key, 40, get_byte(wrapped_data_key, 40) # 1) WHERE version_id = '%s'" % cur),
                          ("row of another version", "UPDATE moat.secret_material m SET envelope = o.envelope, wrapped_data_key = o.wrapped_data_key FROM moat.secret_material o WHERE m.version_id = '%s' AND o.version_id = '%s'" % (cur, other)),
                          ("wrapped key of another version", "UPDATE moat.secret_material m SET wrapped_data_key = o.wrapped_data_key FROM moat.secret_material o WHERE m.version_id = '%s' AND o.version_id = '%s'" % (cur, other)),
                          ("envelope of another version", "UPDATE moat.secret_material m SET envelope = o.envelope FROM moat.secret_material o WHERE m.version_id = '%s' AND o.version_id = '%s'" % (cur, other)),
                          ("content of another environment", "UPDATE moat.secret_material m SET envelope = o.envelope, wrapped_data_key = o.wrapped_data_key FROM moat.secret_material o WHERE m.version_id = '%s' AND o.version_id = '%s'" % (cur, foreign)),
                          ("length changed", "UPDATE moat.secret_material SET envelope = set_byte(envelope, 11, get_byte(envelope, 11) # 1) WHERE version_id = '%s'" % cur),
                          ("nonce changed", "UPDATE moat.secret_material SET envelope = set_byte(envelope, 13, get_byte(envelope, 13) # 128) WHERE version_id = '%s'" % cur),
                          ("tag changed", "UPDATE moat.secret_material SET envelope = set_byte(envelope, length(envelope) - 1, get_byte(envelope, length(envelope) - 1) # 1) WHERE version_id = '%s'" % cur),
                          ("row gone", "DELETE FROM moat.secret_material WHERE version_id = '%s'" % cur),
                          ("cut", "UPDATE moat.secret_material SET envelope = substr(envelope, 1, 41) WHERE version_id = '%s'" % cur)):
            w.pg.sql(sql)
            r = ask(inst, cur)
            assert r.status == 500 and r.json["code"] == "decrypt_failed", (what, r.text)
            p = w.q("PATCH", S, {"set": {"X": "1"}})
            assert (p.status, p.json["code"]) == (410, "material_shredded") if what == "row gone" else p.status == 500 and b"do not open" in p.text, (what, p.text)
            told = [l for l in open(w.d + "/control.log").read().splitlines() if "secrets.do_not_open" in l]
            assert cur in told[-1] and len(told) == told_before + 1, (what, told[-2:])  # the operator's line: which version, and why
            told_before = len(told)
            w.pg.sql(back)
            assert ask(inst, cur).status == 200, what
        for _ in range(3):  # any bit of either, by chance
            for col, n in (("envelope", "length(envelope)"), ("wrapped_data_key", "72")):
                bit = random.randrange(72 * 8)
                w.pg.sql("UPDATE moat.secret_material SET %s = set_bit(%s, %d %% (%s * 8), 1 - get_bit(%s, %d %% (%s * 8))) WHERE version_id = '%s'" % (col, col, bit, n, col, bit, n, cur))
                r = ask(inst, cur)
                # a bit of the master key's name asks for a key that is not there
                assert r.json["code"] == "decrypt_failed" or (col == "wrapped_data_key" and 32 <= bit < 96 and r.json["code"] == "master_key_unavailable"), (col, bit, r.text)
                w.pg.sql(back)
        # an old version replayed as the current one: events and pins name versions, so the node still asks for the one it has
        assert ask(inst, other).status == 403
        m = call(w.api, "GET", "/metrics").text.decode()
        got = dict(re.findall(r'moat_secrets_deliveries_total\{result="\w+",reason="(\w*)"\} (\d+)', m))
        assert int(got["decrypt_failed"]) >= 10 and int(got["forbidden"]) >= 1 and int(got[""]) >= 10, got
        buckets = [int(n) for n in re.findall(r'moat_secrets_delivery_seconds_bucket\{le="[^"]+"\} (\d+)', m)]
        assert len(buckets) == 16 and buckets == sorted(buckets) and buckets[-1] == int(got[""]) == int(re.search(r"delivery_seconds_count (\d+)", m)[1]), buckets
        assert float(re.search(r"delivery_seconds_sum ([0-9.]+)", m)[1]) > 0

    @case("keys: SIGHUP takes a new file, a bad one keeps the old; without its key nothing opens and nothing else stops")
    def _():
        cur = w.ok("GET", S)["version_id"]
        inst = running(E, cur)[0]["id"]
        K2, L2 = key_line(2, "active")

        def hup(want):
            n = open(w.d + "/control.log").read().count(want)
            w.control.send_signal(signal.SIGHUP)
            wait_for(want, lambda: open(w.d + "/control.log").read().count(want) > n, 5)
        put_keys(KEYS, "nonsense\n")
        hup("master_keys.kept_old")
        assert ask(inst, cur).status == 200
        put_keys(KEYS, L2)
        hup("master_keys.loaded")
        r = ask(inst, cur)
        assert r.status == 503 and r.json["code"] == "master_key_unavailable", r.text
        r = w.q("PATCH", S, {"set": {"X": "1"}})
        assert r.status == 503 and r.json["code"] == "master_key_unavailable", r.text
        assert w.q("GET", S).status == 200
        said = lambda name: [float(l.split()[1]) for l in call(w.api, "GET", "/metrics").text.decode().splitlines() if l.startswith(name + " ")]
        wait_for("the leader's look, of every 15 s", lambda: said("moat_master_key_unavailable") == [1], 40)
        assert said("moat_master_key_old_refs") == [0]
        lying = L2 + "%s retired %s\n" % (K1, base64.b64encode(bytes([9]) * 32).decode())  # another key under the name of the right one
        put_keys(KEYS, lying)
        hup("master_keys.kept_old")
        assert ask(inst, cur).json["code"] == "master_key_unavailable"
        put_keys(KEYS, L2, key_line(1, "retired")[1])
        hup("master_keys.loaded")
        assert ask(inst, cur).status == 200
        v = w.ok("PATCH", S, {"set": {"X": canary("k2")}})["version_id"]
        assert w.pg.sql("SELECT master_key_id FROM moat.secret_material WHERE version_id = '%s'" % v).strip() == K2

    @case("keys: status, rewrap that goes on after kill -9, verify, retire, by the CLI")
    def _():
        def under(kid):
            return int(w.pg.sql("SELECT (SELECT count(*) FROM moat.secret_material WHERE master_key_id = '%s') + (SELECT count(*) FROM moat.secret_bundle_keys"
                                " WHERE master_key_id = '%s')" % (kid, kid)))
        line = cli("admin", "keys", "generate")[0]
        kid, state, text = line.split()
        assert state == "active" and kid == hashlib.sha256(b"moat-master-key-v1\0" + base64.b64decode(text)).hexdigest()[:16], line
        assert " retired " in cli("admin", "keys", "generate", "--retired")[0]
        m = json.loads(cli("admin", "keys", "status", "--json")[0])["data"]["keys"]
        assert {k["id"]: k["state"] for k in m} == {K1: "retired", key_line(2, "active")[0]: "active"} and under(K1) > 3, m
        before = {v["id"]: v["data_hash"] for v in w.ok("GET", S + "/versions")["items"]}
        assert "still holds" in cli("admin", "keys", "retire", K1, "--file", KEYS, "--reason", "old", rc=5)[1]
        w.pg.sql("CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END $$")
        w.pg.sql("CREATE TRIGGER slow BEFORE UPDATE ON moat.secret_material FOR EACH ROW EXECUTE FUNCTION public.slow()")
        p = subprocess.Popen([kit.program("moat"), "admin", "keys", "rewrap"], env={"PATH": "/usr/bin:/bin", "HOME": w.d, "MOAT_API": "unix:" + w.api, "MOAT_TOKEN": w.token, "MOAT_ORG": "local", "MOAT_CONFIG": w.d + "/cli.toml"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("it is at work", lambda: int(w.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%rewrap_put%' OR query LIKE 'UPDATE moat.secret_material%'")) > 0, 10)
        w.kill_control()
        p.kill()
        p.wait()
        w.pg.sql("DROP TRIGGER slow ON moat.secret_material")
        w.start_control()
        assert json.loads(cli("admin", "keys", "rewrap", "--json")[0])["data"]["remaining"] == 0
        assert under(K1) == 0
        out = json.loads(cli("admin", "keys", "verify", "--json")[0])["data"]
        assert out["wrapped_keys"] == out["opened"] > 5 and out["envelopes"] == out["envelopes_opened"] > 0, out
        assert before == {v["id"]: v["data_hash"] for v in w.ok("GET", S + "/versions")["items"]}  # ids and contents stay
        cli("admin", "keys", "retire", K1, "--file", KEYS, "--reason", "old")
        assert [k["id"] for k in w.ok("GET", "/v1/admin/keys")["keys"]] == [key_line(2, "active")[0]]  # the server has it no more, before it reads the file again
        assert K1 not in open(KEYS).read() and os.stat(KEYS).st_mode & 0o7777 == 0o400
        w.control.send_signal(signal.SIGHUP)
        wait_for("one key", lambda: len(w.ok("GET", "/v1/admin/keys")["keys"]) == 1, 5)
        cur = w.ok("GET", S)["version_id"]
        wait_for("it is delivered", lambda: (running(E, cur) or [None])[0] and ask(running(E, cur)[0]["id"], cur).status == 200, 30)
        w.pg.sql("UPDATE moat.secret_material SET wrapped_data_key = set_byte(wrapped_data_key, 40, get_byte(wrapped_data_key, 40) # 1) WHERE version_id = '%s'" % cur)
        assert json.loads(cli("admin", "keys", "verify", "--json", rc=1)[0])["data"]["envelopes_opened"] == out["envelopes"] - 1
        w.pg.sql("UPDATE moat.secret_material SET wrapped_data_key = set_byte(wrapped_data_key, 40, get_byte(wrapped_data_key, 40) # 1) WHERE version_id = '%s'" % cur)

    @case("none is confirmed, and not over keys; old content is destroyed after 20 versions")
    def _():
        A3, E3 = make_env("many")
        r = w.ok("POST", E3 + "/secrets/confirm-none", {})
        assert r["config_gate"] == "confirmed_none" and r["version_number"] == 1, r
        assert w.ok("POST", E3 + "/secrets/confirm-none", {})["unchanged"]
        for i in range(22):
            w.ok("PATCH", E3 + "/secrets", {"set": {"N": str(i)}})
        assert w.q("POST", E3 + "/secrets/confirm-none", {}).status == 409
        v = w.ok("GET", E3 + "/secrets/versions?limit=100")["items"]
        assert [x["material_state"] for x in v].count("shredded") == 3 and len(v) == 23, v
        first = [x for x in v if x["version_number"] == 2][0]
        r = w.q("POST", E3 + "/secrets/versions/%s/activate" % first["id"], {})
        assert r.status == 410 and r.json["code"] == "material_shredded", r.text
        env = E3.rsplit("/", 1)[1]
        assert w.pg.sql("SELECT count(*) FROM moat.secret_versions JOIN moat.secret_material USING (version_id) WHERE env_id = '%s'" % env).strip() == "20"
        w.ok("DELETE", E3 + "?cascade=true")
        wait_for("the event", lambda: env in [e["env_id"] for e in w.ok("GET", O + "/events?event_type=secret_bundle.deleted")["items"]])
        # its content can still be recovered for a day; then the keys of it are destroyed, and with them every version
        left = "SELECT (SELECT count(*) FROM moat.secret_material JOIN moat.secret_versions USING (version_id) WHERE env_id = '%s') || ' ' || (SELECT count(*) FROM moat.secret_bundle_keys WHERE env_id = '%s')" % (env, env)
        assert w.pg.sql(left).strip() == "20 1", w.pg.sql(left)
        w.pg.sql("UPDATE secret_bundles_view SET updated_at = updated_at - interval '25 hours' WHERE env_id = '%s'" % env)
        w.kill_control()
        w.start_control()  # the collector comes by at once
        wait_for("the keys are destroyed", lambda: w.pg.sql(left).strip() == "0 0", 60)
        w.pg.sql("UPDATE secret_bundles_view SET updated_at = updated_at + interval '25 hours' WHERE env_id = '%s'" % env)
        assert w.pg.sql("SELECT DISTINCT material_state FROM moat.secret_versions WHERE env_id = '%s'" % env).strip() == "shredded"

    @case("views are the same when made again from the log")
    def _():
        r = subprocess.run([kit.program("moat-control"), "--config", w.d + "/control.toml", "verify-views"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode == 0, r.stdout[-1500:]

    @case("A10 no planted value is in the database, its WAL, any log, record, metric or file; and the search finds what is there")
    def _():
        found = everywhere()
        assert not found, found[:5]
        mac = w.pg.sql("SELECT count(*) FROM moat.idempotency_records").strip()
        assert int(mac) > 0
        w.pg.sql("CREATE TABLE public.leak AS SELECT '%s'::text AS v" % planted[0])
        assert any(f.startswith("dump") for f in everywhere())
        open(w.d + "/leak.log", "w").write(base64.b64encode(("x" + planted[0]).encode()).decode())
        assert any("leak.log" in f for f in everywhere())

    @case("the server holds keys in locked memory, may not be dumped, and its core would hold none")
    def _():
        lim = open("/proc/%d/limits" % w.control.pid).read()
        assert re.search(r"Max core file size +0 +0 ", lim), lim
        smaps = open("/proc/%d/smaps" % w.control.pid).read()
        assert any(" lo " in l + " " and " dd" in l for l in smaps.splitlines() if l.startswith("VmFlags")), "no locked, undumped page"
finally:
    w.close()
    if os.path.exists(KEYS):
        os.unlink(KEYS)
kit.finish()
