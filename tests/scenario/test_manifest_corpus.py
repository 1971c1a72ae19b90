#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every manifest of tests/corpus/manifest through the CLI, offline, and through the server: the same hash, or the same problems at
the same places as the table there says. The hash is also worked out here, by a second reading of the specification. Then
`moat manifest fmt` over all good ones and over mutated copies: same hash, no comment lost, nothing left to change.
COST 42 s, 13 s of processor."""
import collections, glob, hashlib, json, os, random, re, subprocess, sys, tomllib
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import control_kit as kit
from control_kit import case

ROOT = os.environ.get("MOAT_ROOT", kit.ROOT)
CORPUS = ROOT + "/tests/corpus/manifest"
MOAT = kit.program("moat")
SEED = int(os.environ.get("MOAT_SEED", "20261128"))


def files(kind):
    found = {os.path.basename(f)[:-5]: f for f in sorted(glob.glob("%s/%s/*.toml" % (CORPUS, kind)))}
    assert len(found) > 50, "the corpus is not there"
    return found


def expected():
    want = collections.OrderedDict()
    for line in open(CORPUS + "/expected-problems.txt"):
        if not line.startswith("#"):
            name, place, code, path = line.rstrip("\n").split(" ", 3)
            want.setdefault(name, []).append((place, code, "" if path == "-" else path))
    return want


def moat(*words, stdin=None):
    r = subprocess.run([MOAT, "manifest"] + list(words), input=stdin, capture_output=True, timeout=30, cwd="/")
    return r.returncode, r.stdout, r.stderr.decode()


def places(problems):
    return [("%d:%d" % (p["line"], p["column"]), p["code"], p["path"]) for p in problems]


# ---- the canonical form, from control-plane.md 4.2 and 4.5
SIZE = {"Mi": 1 << 20, "Gi": 1 << 30}


def size(text):
    return int(text[:-2]) * SIZE[text[-2:]]


def surroundings(t, timeout):
    out = {"vars": t.get("vars", {}), "prestart_timeout_seconds": t.get("prestart_timeout_seconds", timeout)}
    out.update({k: t[k] for k in ("workdir", "user", "prestart") if k in t})
    return out


def process(t, timeout):
    out = surroundings(t, timeout)
    if "command" in t:
        out["command"] = t["command"]
    r = t["resources"]
    out["resources"] = {"memory_bytes": size(r["memory"]), "cpu_millis": round(float(r.get("cpu", 1)) * 1000), "disk_bytes": size(r.get("disk", "4Gi"))}
    out["limits"] = {k + "_per_second": t.get("limits", {}).get(k + "_per_second", 0) for k in ("disk_bytes", "disk_ops", "net_bytes", "net_packets")}
    mounts = t.get("mounts", [])
    s = t.get("scaling", {})
    out["scaling"] = {"min": s.get("min", 1), "max": s.get("max", 1 if mounts else 100)}
    s = t.get("restart", {})
    out["restart"] = {"policy": s.get("policy", "always"), "max_retries": s.get("max_retries", 3), "backoff_seconds": s.get("backoff_seconds", 2)}
    s = t.get("stop", {})
    out["stop"] = {"grace_seconds": s.get("grace_seconds", 10), "signal": s.get("signal", "TERM")}
    ports = [{"internal": p["internal"], "name": p.get("name", "p%d" % p["internal"]), "protocol": "tcp"} for p in t.get("ports", [])]
    out["ports"] = sorted(ports, key=lambda p: p["internal"])
    if "health" in t:
        h = t["health"]
        interval = h.get("interval_seconds", 10)
        out["health"] = {"type": h.get("type", "tcp"), "port": number(ports, h["port"]), "interval_seconds": interval,
                         "timeout_seconds": h.get("timeout_seconds", min(2, interval)), "grace_period_seconds": h.get("grace_period_seconds", 10),
                         "success_threshold": h.get("success_threshold", 1), "failure_threshold": h.get("failure_threshold", 3)}
        if "path" in h:
            out["health"]["path"] = h["path"]
    out["mounts"] = sorted(({"volume": m["volume"], "path": m["path"], "read_only": m.get("read_only", False)} for m in mounts),
                           key=lambda m: m["path"].encode())
    out["secrets"] = {"required": t.get("secrets", {}).get("required", False)}
    return out


def number(ports, ref):
    return ref if isinstance(ref, int) else [p["internal"] for p in ports if p["name"] == ref][0]


def route(r, processes):
    out = {"env": r["env"], "process": r["process"], "port": number(processes[r["process"]]["ports"], r["port"]),
           "protocol": r.get("protocol", "tls_passthrough"), "listen_port": r.get("listen_port", 443), "proxy_protocol": r.get("proxy_protocol", "off"),
           "backend_expects_proxy_protocol": r.get("backend_expects_proxy_protocol", False), "ipv4": r.get("ipv4", False)}
    if "hostname" in r:
        out["hostname"] = r["hostname"]
    return out


def canonical(text):
    t = tomllib.loads(text.decode("utf-8-sig"))
    env = surroundings(t.get("env", {}), 30)
    processes = {k: process(v, env["prestart_timeout_seconds"]) for k, v in t["processes"].items()}
    volumes = [dict({"name": v["name"], "size_bytes": size(v["size"]), "filesystem": "ext4", "backup_enabled": v.get("backup_enabled", True)},
                    **({"probe": v["probe"], "probe_timeout_seconds": v.get("probe_timeout_seconds", 60)} if "probe" in v else {}))
               for v in t.get("volumes", [])]
    routes = [route(r, processes) for r in t.get("routes", [])]
    return {"schema_version": "v1", "env": env, "processes": processes, "volumes": sorted(volumes, key=lambda v: v["name"]),
            "routes": sorted(routes, key=lambda r: (r["env"], r["listen_port"], r.get("hostname", "")))}


def hash_of(text):
    dumped = json.dumps(canonical(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return "sha256:" + hashlib.sha256(dumped).hexdigest()


# ---- the CLI alone
GOOD, BAD, WANT = files("good"), files("bad"), expected()
hashes, problems = {}, {}


@case("at least 150 files, and every bad one has its problems in the table")
def _():
    assert len(GOOD) + len(BAD) >= 150 and set(WANT) == set(BAD), set(WANT) ^ set(BAD)
    codes = {c for rows in WANT.values() for _, c, _ in rows} | {"W_SECRET_LIKE_VAR", "W_UNUSED_VOLUME"}
    header = open(ROOT + "/src/model/manifest.h").read()
    every = set(re.findall(r"X\(([EW]_\w+)\)", header))
    assert codes == every, "codes without a file: %s" % (every - codes)


@case("every good manifest has the hash of the specification")
def _():
    for name, path in GOOD.items():
        text = open(path, "rb").read()
        code, out, err = moat("validate", "-f", path, "--json")
        assert code == 0, (name, out, err)
        hashes[name] = json.loads(out)["data"]["manifest_hash"]
        assert hashes[name] == hash_of(text), name
        code, out, _ = moat("show", "-f", path, "--json")
        assert json.loads(out)["data"] == canonical(text), name


@case("every bad manifest has all its problems, in order, at their places")
def _():
    for name, path in BAD.items():
        code, out, err = moat("validate", "-f", path, "--json")
        assert code == 2 and err == "", (name, code, out, err)
        e = json.loads(out)["error"]
        assert e["code"] == "manifest_invalid" and e["category"] == "usage", e
        problems[name] = e["errors"]
        want = [(a, b, g[2] if c == "*" else c) for (a, b, c), g in zip(WANT[name], places(e["errors"]))]
        assert places(e["errors"]) == want and len(want) == len(WANT[name]), (name, places(e["errors"])[:5], WANT[name][:5])
        assert all(p["message"] and p["message"] == p["message"].rstrip(".") for p in e["errors"]), name
        code, out, err = moat("validate", "-f", path)  # people see the same places
        for place, c, _ in WANT[name]:
            assert re.search(r":%s: (error|warning) %s: " % (place, c), err), (name, place, c, err[:500])


@case("old layouts are told what to write instead")
def _():
    for name in BAD:
        if name.startswith("old-"):
            assert all(p["hint"] for p in problems[name] if not p["path"] == "schema_version") and problems[name][0]["hint"], (name, problems[name])


# ---- fmt
def comments(text):
    """Words behind every '#' that starts a comment; the corpus holds no '#' in texts of the files this is asked for."""
    return sorted(re.findall(r"#[^#\n]*[^#\n\s]", text.decode()))


def check_fmt(name, text):
    code, once, err = moat("fmt", "-f", "-", stdin=text)
    assert code == 0, (name, err)
    _, twice, _ = moat("fmt", "-f", "-", stdin=once)
    assert once == twice, "%s: formatting again changes it:\n%s" % (name, text.decode())
    assert hash_of(once) == hash_of(text), "%s: another hash" % name
    assert moat("fmt", "--check", "-f", "-", stdin=once)[0] == 0 and (once == text or moat("fmt", "--check", "-f", "-", stdin=text)[0] == 1), name
    if b'"#' not in text and b"'#" not in text:
        assert comments(once) == comments(text), "%s: comments differ:\n%s\n---\n%s" % (name, text.decode(), once.decode())
    return once


@case("fmt keeps hash and comments, and is done after once")
def _():
    for name, path in GOOD.items():
        check_fmt(name, open(path, "rb").read())


def mutate(rng, text):
    """Comments and blank lines put where TOML allows them, whole sections in another order."""
    text = text.lstrip("\ufeff").replace("\r\n", "\n")
    if '"""' in text or "'''" in text:
        return None
    lines, n = text.splitlines(), 0
    out = []
    for line in lines:
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            n += 1
            out.append(rng.choice(("", "", "# c%d" % n, "  # c%d" % n, "#c%d" % n)))
        if rng.random() < 0.2 and "#" not in line:
            n += 1
            line += "%s# t%d" % (rng.choice((" ", "", "\t")), n)
        out.append(line)
    sections, now = [], []
    for line in out:
        if line.startswith("[") and "=" not in line.split("#")[0]:
            sections.append(now)
            now = []
        now.append(line)
    sections.append(now)
    rest = sections[1:]
    if rng.random() < 0.6 and not any(s[0].startswith("[[") for s in rest):
        rng.shuffle(rest)
    return "\n".join("\n".join(s) for s in [sections[0]] + rest) + rng.choice(("", "\n", "\n\n# end\n", "\n# end"))


@case("fmt does the same for mutated copies (seed %d)" % SEED)
def _():
    rng, n = random.Random(SEED), 0
    for name, path in GOOD.items():
        if os.path.getsize(path) > 3000:
            continue
        for i in range(4):
            text = mutate(rng, open(path, encoding="utf-8", newline="").read())
            if text is None:
                break
            check_fmt("%s/%d" % (name, i), text.encode())
            n += 1
    assert n > 150, n


@case("fmt writes tables, keys and comments in their order")
def _():
    _, out, _ = moat("fmt", "-f", "-", stdin=open(GOOD["comments-everywhere"], "rb").read())
    want = open(CORPUS + "/comments-everywhere.formatted.toml", "rb").read()
    assert out == want, out.decode()


@case("fmt refuses what is no manifest and leaves the file alone")
def _():
    path = "/tmp/mt-fmt-%d.toml" % os.getpid()
    for name in ("old-build", "syntax-value-missing"):
        text = open(BAD[name], "rb").read()
        open(path, "wb").write(text)
        code, out, err = moat("fmt", "-f", path)
        assert code == 2 and out == b"" and WANT[name][0][1] in err and open(path, "rb").read() == text, (name, code, err)
    text = open(GOOD["old-order"], "rb").read()
    open(path, "wb").write(text)
    assert moat("fmt", "--check", "-f", path)[0] == 1 and open(path, "rb").read() == text
    assert moat("fmt", "-f", path)[0] == 0 and open(path, "rb").read() != text and moat("fmt", "--check", "-f", path)[0] == 0
    os.unlink(path)


# ---- the schema
@case("the JSON Schema takes every good manifest and is closed against unknown keys")
def _():
    _, out, _ = moat("schema")
    schema = json.loads(out)
    try:
        import jsonschema
    except ImportError:
        kit.skip("the JSON Schema against the corpus", "python jsonschema is not installed")
        jsonschema = None

    def closed(s, where):
        if s.get("type") == "object":
            assert s["additionalProperties"] is False, where
            for k, v in list(s.get("properties", {}).items()) + list(s.get("patternProperties", {}).items()):
                closed(v, where + "." + k)
                assert v.get("description") or v["type"] in ("string", "object"), where + "." + k
        elif s.get("type") == "array" and s["items"].get("type") == "object":
            closed(s["items"], where + "[]")
    closed(schema, "")
    if not jsonschema:
        return
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    for name, path in GOOD.items():
        bad = list(check.iter_errors(tomllib.loads(open(path, "rb").read().decode("utf-8-sig"))))
        assert not bad, (name, bad[0].message)
    caught = 0
    for name, path in BAD.items():
        try:
            caught += not check.is_valid(tomllib.loads(open(path, "rb").read().decode("utf-8-sig")))
        except tomllib.TOMLDecodeError:
            pass
    assert caught > len(BAD) / 2, "the schema sees only %d of %d bad files" % (caught, len(BAD))


@case("the fields in docs/manifest.md are those of the reader")
def _():
    _, out, _ = moat("schema", "--markdown")
    assert out.decode() in open(ROOT + "/docs/manifest.md").read(), "docs/manifest.md differs from `moat manifest schema --markdown`"


# ---- the server
if os.geteuid() != 0 or not kit.program("moat-control"):
    kit.skip("manifest corpus against the server", "needs root and moat-control")
    kit.finish()
w = kit.World()
try:
    org = w.ok("GET", "/v1/orgs")["items"][0]["id"]
    app = w.ok("POST", "/v1/orgs/%s/apps" % org, {"name": "corpus"}, key="corpus-app")["id"]

    def validate(path):
        text = open(path, "rb").read().decode()
        return w.ok("POST", "/v1/orgs/%s/apps/%s/manifest/validate" % (org, app), {"manifest": text, "manifest_format": "toml"})

    @case("A06 the server gives every good manifest the hash the CLI gives it")
    def _():
        for name, path in GOOD.items():
            r = validate(path)
            assert r["ok"] and r["manifest_hash"] == hashes[name], (name, r)

    @case("A06 the server gives every bad manifest the list of problems the CLI gives it")
    def _():
        for name, path in BAD.items():
            r = validate(path)
            assert not r["ok"] and r["errors"] == problems[name] and "manifest_hash" not in r, (name, r["errors"][:3], problems[name][:3])
    def as_json(text, rng):
        """The same manifest in JSON, with blanks and escapes as they fall."""
        doc = json.dumps(tomllib.loads(text.decode("utf-8-sig")), ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1, "\t")))
        return doc if rng.random() < 0.5 else "\n " + doc.replace("/", "\\/") + " \n"

    def validate_json(text):
        return w.ok("POST", "/v1/orgs/%s/apps/%s/manifest/validate" % (org, app), {"manifest": text, "manifest_format": "json"})

    @case("in JSON every good manifest has the hash and the canonical form that it has in TOML")
    def _():
        rng = random.Random(SEED)
        for name, path in GOOD.items():
            text = open(path, "rb").read()
            r = validate_json(as_json(text, rng))
            assert r["ok"] and r["manifest_hash"] == hashes[name] and r["canonical"] == canonical(text), (name, r)

    @case("in JSON every bad manifest that is TOML at all has the same problems, each at its place")
    def _():
        rng, n = random.Random(SEED + 1), 0
        spelled = {"cpu-exponent"}  # wrong by how a number is written; Python writes it anew
        for name, path in BAD.items():
            if name in spelled:
                continue
            text = open(path, "rb").read()
            try:
                doc = as_json(text, rng)
            except (ValueError, TypeError):  # no TOML, or dates: JSON has none
                continue
            if len(doc.encode()) > 65536 or len(text) > 65536 or "NaN" in doc or "Infinity" in doc or "\\u0000" in doc:
                continue
            r = validate_json(doc)
            assert not r["ok"], name
            short = lambda ps: sorted((p["code"], p["path"], p["message"]) for p in ps)
            if len(r["errors"]) < 100:
                assert short(r["errors"]) == short(problems[name]), (name, short(r["errors"])[:3], short(problems[name])[:3])
            lines = doc.split("\n")
            assert all(1 <= p["line"] <= len(lines) and 1 <= p["column"] <= len(lines[p["line"] - 1]) + 1 for p in r["errors"]), (name, r["errors"])
            n += 1
        assert n > 100, n

    @case("what is no JSON, or null, is one problem with its place; another format is refused")
    def _():
        for text, words, place in (("{", "not JSON: line 1", (1, 1)), ("[]", "one object", (1, 1)), ('{"a":1,"a":2}', "not JSON", (1, 1)), ('\n{ "image": null}', "null is no value", (2, 12)),
                                   ("[" * 40 + "]" * 40, "not JSON", (1, 1)), ("", "not JSON", (1, 1))):
            r = w.q("POST", "/v1/orgs/%s/apps/%s/manifest/validate" % (org, app), {"manifest": text, "manifest_format": "json"}).json
            e = [x for x in r["errors"] if x["code"] == "E_TOML_SYNTAX"]
            assert not r["ok"] and len(e) == 1 and words in e[0]["message"] and (e[0]["line"], e[0]["column"]) == place, (text, r)
        r = w.q("POST", "/v1/orgs/%s/apps/%s/manifest/validate" % (org, app), {"manifest": "x", "manifest_format": "yaml"})
        assert r.status == 400 and "toml or json" in r.json["detail"], r.text
finally:
    w.close()
kit.finish()
