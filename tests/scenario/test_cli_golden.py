#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every command of the CLI against fixed answers: stdout, stderr, exit code and the requests it makes, as text and with --json.
What is expected lies in golden/; MOAT_GOLDEN=update writes it anew. Needs no root and no platform.
COST 42 s, 6 s of processor."""
import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "lib"))
import cli_schema  # noqa: E402
import fair  # noqa: E402
from cli_fixture import *  # noqa: E402,F403

ROOT = os.environ.get("MOAT_ROOT", os.path.dirname(os.path.dirname(HERE)))
MOAT = os.path.join(os.environ.get("MOAT_BIN", os.path.join(ROOT, "bin")), "moat")
UPDATE = os.environ.get("MOAT_GOLDEN") == "update"
MANIFEST = """schema_version = "v1"
[app]
name = "web"
[image]
ref = "registry.test/web:1"
[processes.web]
command = ["/web"]
[processes.web.resources]
memory = "128Mi"
cpu = 1
disk = "1Gi"
"""
# golden file: command lines; each is run as text and with --json. "| " before a line: with MANIFEST on stdin.
COMMANDS = {
    "whoami": ["whoami"],
    "orgs": ["orgs list", "orgs create acme --billing-email a@b.example", "orgs get local", "orgs rename local corp", "orgs delete local", "orgs get nothing"],
    "nodes": ["nodes", "node describe " + NODE, "node describe nothing", "node describe " + oid("node", 7), "node activate " + NODE + " --reason back", "node cordon " + NODE + " --reason x", "node drain " + NODE + " --reason move",
              "node drain " + NODE, *("node drain " + oid("node", k) + " --wait --wait-timeout 0ms" for k in (2, 3, 4, 5, 6)), "node confirm-offline " + NODE + " --yes --reason unplugged", "node mark-lost " + NODE + " --yes --reason burnt", "node disable " + NODE + " --yes --reason stolen", "node remove " + NODE + " --yes --reason gone", "node remove " + NODE + " --yes --force --reason gone", "node label " + NODE + " zone=a disk-", "node label " + NODE + " zone", "node label " + NODE,
              "node config set " + NODE + " reserved_memory_bytes=2Gi disk_ops_per_second=900 cpu_ceiling_percent=default --reason guest", "node config set " + NODE + " cpu_ceiling_percent=300",
              "node config set " + NODE + " cpu_ceiling_percent=much --reason guest", "admin nodes list", "node show " + NODE, "help node drain"],
    "node-add": ["node add", "node add -oProxyCommand=x", "node add root@box --ssh-port 0", "node add box --name a_b", "node add box --endpoint 'x'", "node add box --node-data-dir ../x", "help node add"],
    "node-tokens": ["node token create", "node token create --roles worker,edge --name box --source 2001:db8::/32 --minutes 30 --approve", "node token create --minutes 1",
                    "node token list", "node token revoke enr_00000000000000000000000001", "node token revoke tok_1"],
    "admin-upgrade": ["admin upgrade check", "admin upgrade --check", "admin upgrade check -q", "help admin upgrade check", "help admin upgrade"],
    "admin-doctor": ["admin doctor", "admin doctor -q", "help admin doctor"],
    "cluster": ["capacity", "admin capacity report", "simulate node-loss " + NODE, "simulate drain " + NODE, "simulate drain nothing"],
    "net": ["net status", "net verify", "help net verify", "net rotate-keys " + NODE + " --reason old --lead 30s", "net rotate-keys --reason x", "net rotate-keys --all --reason x --lead 30s --emergency",
            "net rotate-keys " + NODE, "net rotate-keys " + NODE + " --reason x --lead 2h", "net rotate-keys --all --reason yearly", "net rotate-keys nothing --reason x",
            "net rotate-keys " + oid("node", 2) + " --reason leaked --emergency --wait", "admin mesh status", "admin mesh rotate-keys --reason x", "help net rotate-keys", "net allow-removal", "net allow-removal --yes --reason out"],
    "apps": ["apps list", "apps create shop", "apps list -q", "apps get web", "apps update web --name shop --description x", "apps update web --project team", "apps update web --project nothing", "apps update web", "apps delete web", "apps delete web --cascade"],
    "envs": ["envs list --app web", "envs create staging --app web", "envs get prod --app web", "envs update prod --name live --protected on --app web", "envs update prod --protected maybe --app web", "envs update prod --label-selector zone=a --label-selector disk=ssd --app web", "envs update prod --label-selector= --app web", "envs update prod --label-selector zone --app web", "envs delete prod --app web", "envs delete prod --cascade --app web", "envs rebalance --app web", "envs rebalance --process web --app web"],
    "releases": ["releases", "releases list", "releases get v1", "releases get " + REL1, "releases get v9", "releases get 9", "| releases create -f -", "| releases create -f - --image registry.test/web:2 --image-digest sha256:" + "1" * 64 + " --unverified", "releases create -f missing.toml", "releases diff v1 v2", "releases diff v2", "releases autopsy", "releases autopsy v2", "releases autopsy v9"],
    "deploys": ["deploys", "deploys get " + DEP, "deploys get " + DEP_BAD, "deploys get 1", "deploys wait " + DEP, "deploys wait " + DEP_BAD],
    "status": ["status", "status --app nothing", "status --at @2", "status --of app", "status --of org --at -2h", "status --of node", "status --at -2h --watch"],
    "diff": ["diff --from @2", "diff --of app --from -1h --to 2001-01-01T00:00:00Z", "diff", "help diff"],
    "instances": ["ps", "ps --all", "ps --process web", "instances list", "instances get " + INST_BAD, "instances get x", "instances describe " + INST_BAD, "instances describe x", "instances restart " + INST, "instances restart x"],
    "logs": ["logs", "logs -n 1 --stream stderr --contains a&b", "logs -n 0", "logs --release v1 -n 5", "logs --previous -n 5"],
    "exec": ["exec web", "exec"],
    "events": ["events", "events --type instance.* -n 5", "events --after x"],
    "quotas": ["orgs quotas", "admin quotas set max_apps 20 --reason more", "admin quotas set max_apps default --reason less", "admin quotas set max_apps 20",
               "admin quotas set max_apps some --reason x", "admin quotas set ../x 1 --reason x", "admin orgs suspend --yes --reason unpaid",
               "admin orgs resume --reason paid", "admin maintenance", "admin maintenance on --reason move", "admin maintenance off"],
    "recovery": ["admin recovery plan", "admin recovery apply", "admin recovery apply --reason night", "admin recovery finish --reason done", "help admin recovery finish"],
    "usage": ["usage --since 2001-01-01T00:00:00Z --until 2001-01-01T02:00:00Z --kind vcpu", "usage --since never", "usage --month 2001-01", "usage --month 2001-01 --csv", "usage --month 2001-1", "usage --month 2001-01 --since 1h", "usage --csv"],
    "audit": ["audit", "audit --since 2001-01-01T00:00:00Z --actor usr_1 --action app.* --denied -n 5", "audit --since never", "audit verify",
              "admin audit", "admin audit --all", "admin audit verify", "help admin audit verify",
              "audit export out/audit.ndjson", "audit export out/audit.ndjson --since 2001-01-01T00:00:00Z", "audit export cli.toml", "audit export out/audit.ndjson --until never", "admin audit export out/audit.ndjson"],
    "routes": ["routes", "routes --all", "routes create web.test --port 8443", "routes create --raw --port 5432 --listen 5432 --proxy v2 --process db",
               "routes create", "routes create b.test --port 8443 --min-tls 1.3", "routes update web.test --min-tls none", "routes create a --port 70000", "routes delete web.test", "routes delete " + ROUTE, "routes delete nothing", "routes get web.test", "routes records", "routes records web.test", "routes records nothing", "routes get nothing", "routes update web.test --max-connections 5 --idle-timeout none --proxy v2 --balance least_conn", "routes update web.test --port 70000", "routes update web.test"],
    "volumes": ["volumes", "volumes list --all", "volumes create spare --size 1Gi", "volumes create spare --size 1Gi --node " + NODE, "volumes create spare --size 1Gi --node x", "volumes create spare", "volumes create spare --size 1Ti", "volumes get data", "volumes get nothing",
                "volumes update spare --name other --backup off", "volumes update data --backup maybe", "volumes update data", "volumes update nothing --backup on", "volumes resize data --size 20Gi", "volumes resize data --size 20Gi --restart", "volumes resize data --size 20Gi --restart --wait", "volumes resize data", "admin volumes list", "admin volumes list --node " + NODE, "admin volumes list --node x", "admin volumes fsck " + VOLUME, "admin volumes fsck data", "admin volumes repair " + VOLUME + " --yes --wait", "admin volumes repair " + VOLUME, "admin volumes fsck " + oid("vol", 2) + " --wait", "help admin volumes repair", "volumes replace data spare", "volumes replace data spare --drain --wait-timeout 0ms", "volumes replace spare data --drain", "volumes replace data", "volumes attach spare --process web --path /more --read-only", "volumes attach spare --process web", "volumes attach nothing --process web --path /more", "volumes detach data", "volumes detach spare", "volumes delete spare", "volumes delete spare --delete-backups", "volumes delete spare --force", "volumes delete nothing", "describe volume " + VOLUME, "wait volume " + VOLUME],
    "snapshots": ["snapshots", "snapshots list data", "snapshots list spare", "snapshots list nothing", "volumes snapshots data", "snapshots create data --note before", "snapshots create nothing",
                  "volumes snapshot data -q", "snapshots create data --wait --wait-timeout 0ms", "snapshots get " + SNAPSHOT, "snapshots get x", "snapshots delete " + SNAPSHOT, "snapshots delete " + oid("snap", 3), "snapshots delete vol_1",
                  "backups status", "backups status --all --stale", "backups", "wait snapshot " + SNAPSHOT, "wait snapshot " + oid("snap", 2), "describe snapshot " + SNAPSHOT, "help snapshots create"],
    "restores": ["volumes restore data", "volumes restore data --to-env prod", "volumes restore data --to-env env_x", "volumes restore data --replace --to-env prod", "volumes restore data --replace --wait-timeout 0ms", "volumes restore data --name july --size 20Gi --snapshot " + SNAPSHOT, "volumes restore --snapshot " + SNAPSHOT + " --node " + NODE, "volumes restore spare", "volumes restore",
                 "volumes restore spare --snapshot " + SNAPSHOT, "volumes restore --snapshot x", "volumes restore data --size 1Ti", "volumes restore data --wait", "restores", "restores get " + oid("rst", 1), "restores get x",
                 "wait restore " + oid("rst", 1), "wait restore " + oid("rst", 2), "describe restore " + oid("rst", 2), "help volumes restore", "volumes verify data", "volumes verify data --snapshot " + SNAPSHOT, "volumes verify nothing", "volumes recover data", "volumes recover spare --accept-loss-since never", "volumes recover data --to-node x",
                 "help volumes verify", "help volumes recover"],
    "migrations": ["volumes migrate data --to-node " + NODE, "volumes migrate data --to-node " + NODE + " --wait", "volumes migrate data", "volumes migrate data --to-node x", "volumes migrate nothing --to-node " + NODE,
                   "migrations", "migrations get " + oid("mig", 1), "migrations get x", "migrations cancel " + oid("mig", 1), "migrations cancel x", "wait migration " + oid("mig", 1), "wait migration " + oid("mig", 2),
                   "describe migration " + oid("mig", 2), "help volumes migrate", "help migrations cancel"],
    "secrets": ["secrets", "| secrets set DB_PASS=-", "secrets set A=on-the-line", "secrets set A", "secrets set lower=hidden", "secrets set MOAT_X=hidden",
                "secrets set A=-hidden", "secrets set A=@missing", "secrets set A=1 A=2", "secrets unset A", "secrets unset a", "| secrets import -",
                "secrets import missing", "secrets history", "secrets rollback", "secrets rollback " + SV1, "secrets rollback sv_x", "secrets render",
                "| secrets render --local -", "secrets render --values", "secrets confirm-none", "secrets status",
                "secrets versions", "secrets activate " + SV1, "| secrets replace -", "secrets confirm", "secrets confirm --none"],
    "drains": ["drains", "drains list", "| drains set main --otlp https://otlp.test/v1/logs --token-stdin", "drains set main --otlp https://otlp.test/v1/logs --syslog logs.test:6514",
               "drains set main", "drains set second --syslog logs.test:6514", "drains set second --syslog logs.test:6514 --token-stdin", "drains set Main --syslog logs.test:6514",
               "drains set second --syslog logs.test:6514 --receiver-ca missing", "drains delete main", "drains delete main --yes", "help drains set"],
    "registries": ["registries", "registries list", "registries set registry.test:5000 --username robot --password-stdin", "registries set registry.test:5000",
                   "registries set registry.test:5000 --username robot", "registries set web --username robot --password-stdin",
                   "registries set other.test --username robot --password-stdin", "registries delete registry.test:5000", "registries delete registry.test:5000 --yes", "help registries set"],
    "images": ["admin images list", "admin images block sha256:" + "9" * 64 + " --evict --reason miner", "admin images block sha256:" + "9" * 64,
               "admin images block web:1 --reason x", "admin images unblock sha256:" + "9" * 64 + " --reason clean", "help admin images block"],
    "ipv4": ["env ipv4 enable", "env ipv4 show", "env ipv4 disable --yes", "env ipv4 disable --force --yes", "admin ipv4-pool list", "admin ipv4-pool add 203.0.113.10", "admin ipv4-pool add web",
             "admin ipv4-pool remove 203.0.113.10", "admin ipam status", "admin ipam leaks", "routes create w4.test --port 8443 --ipv4", "routes update web.test --ipv4 yes", "routes create w5.test --port 8443 --ipv4 --default --allow-non-tls", "routes update web.test --default on --allow-non-tls off", "routes update web.test --default maybe", "help env ipv4 disable"],
    "operator": ["admin status", "admin tokens revoke " + oid("tok", 1) + " --yes --reason stolen", "admin tokens revoke " + oid("tok", 1), "admin tokens revoke " + oid("tok", 2) + " --yes --reason x", "admin tokens revoke 1 --reason x", "admin quarantine list", "admin quarantine add env " + ENV + " --yes --reason spam", "admin quarantine add node " + NODE + " --reason x", "admin quarantine add env x/y --reason x",
                 "admin quarantine add env " + ENV, "admin quarantine remove " + ENV + " --reason clean", "admin quarantine remove " + ENV,
                 "admin routes disable " + ROUTE + " --yes --reason spam", "admin routes disable web.test --reason x", "admin routes enable " + ROUTE + " --reason clean",
                 "admin scheduler status", "admin scheduler pause --reason move", "admin scheduler pause", "admin scheduler resume --reason done",
                 "admin groups hold " + ENV + " web --reason look", "admin groups hold web web --reason x", "admin groups resume " + ENV + " web --reason good",
                 "admin explain env " + ENV, "admin explain instance " + INST, "admin explain node " + NODE, "admin events -n 5", "admin events --type app.*",
                 "admin projections list", "admin projections rebuild apps_view", "admin projections rebuild ../x", "help admin groups hold"],
    "control-backup": ["admin backup missing/x", "admin backup check missing/x", "admin restore missing/x", "admin backup send missing/x",
                       "admin backup send missing/.x", "admin backup stored --store missing/x", "admin backup fetch moat-1.backup x --store missing/x",
                       "admin backups scan --config missing/x", "admin backups rekey vol_1 --reason x --config missing/x", "help admin backups scan",
                       "admin audit checkpoint missing/x", "admin audit check missing/x", "admin db check --config missing/x"],
    "keys": ["admin keys status", "admin keys rewrap", "admin keys verify", "admin keys retire b90bc12db23d7ce4 --file missing --reason old", "admin keys retire zz --file missing --reason old",
             "admin keys retire b90bc12db23d7ce4", "admin keys retire b90bc12db23d7ce4 --reason old", "admin keys retire " + "11" * 8 + " --file missing --reason old"],
    "edges": ["admin edges list", "admin edges drain " + NODE + " --reason kernel", "admin edges drain " + NODE + " --reason kernel --force --wait", "admin edges drain " + NODE, "admin edges drain nothing --reason x",
              "admin edges undrain " + NODE + " --reason done", "help admin edges drain"],
    "admin-backups": ["admin backups list", "admin backups list --stale", "admin backups verify " + VOLUME, "admin backups verify data", "admin backups rekey " + VOLUME + " --reason seen", "admin backups rekey " + VOLUME,
                      "help admin backups rekey"],
    "node-ca": ["admin node-ca show", "admin node-ca prepare", "admin node-ca prepare --reason old", "admin node-ca switch --reason old --force",
                "admin node-ca retire --reason old", "admin node-ca abort --reason old", "help admin node-ca switch"],
    "scale": ["scale", "scale show", "scale web=2", "scale web=default", "scale web", "scale web=101", "scale web=2 --wait --wait-timeout 0ms", "scale web=2 --wait-timeout never --wait", "scale reset web", "scale reset"],
    "projects": ["projects", "projects create crew", "projects get team", "projects rename team crew", "projects update team --name crew", "projects update team", "projects delete team", "projects get nothing"],
    "plan": ["plan --release v2", "| plan -f -", "plan -f missing.toml"],
    "rollback": ["rollback", "rollback --to v1 --no-wait", "rollback --to v1 --wait", "rollback --to newest"],
    "restart": ["restart --process web --process worker", "restart --wait"],
    "deploy": ["| deploy -f - --no-wait", "| deploy -f - --image registry.test/web:2 --note x --force --on-failure rollback --no-wait",
               "deploy --release v2 --no-wait", "deploy --release v2 --dry-run", "deploy -f missing.toml", "| deploy -f - --app other"],
    "deploy-wait": ["| deploy -f - --wait"],
    "run": ["run registry.test/web:1 --port 8443 --hostname web.test --no-wait", "run registry.test/web:1 --hostname web.test", "run registry.test/web:1 --port x",
            "run 'bad image'"],
    "init": ["init --image registry.test/my_app:1 --port 8443", "init --image registry.test/My_App:1", "init --image registry.test/web:1 -f -", "init --image registry.test/web:1 -f out/moat.toml", "init --image registry.test/web:1 -f out/moat.toml",
             "init"],
    "manifest": ["| manifest validate -f -", "| manifest show -f -", "manifest validate", "| manifest fmt -f -", "| manifest fmt --check -f -", "manifest schema", "manifest schema --markdown"],
    "context": ["context show", "context set --env staging", "context set", "context set --app= --org acme", "context use acme/billing/invoices@prod",
                "context use acme/invoices", "context use a/b/c/d@e", "context clear", "context show -q"],
    "describe": ["describe deploy " + DEP_BAD, "describe env prod", "describe app web", "describe release v1", "describe route " + ROUTE, "describe node " + NODE,
                 "describe nodes " + NODE, "describe deploy", "describe instance dep_1"],
    "wait": ["wait instance " + INST, "wait route " + ROUTE, "wait instance " + INST_BAD, "wait deploy " + DEP, "wait node " + NODE],
    "aliases": ["endpoints --all", "expose web.test --port 8443", "ipv4 enable", "ipv4 show", "ipv4 disable --yes"],
    "launch": ["launch --image registry.test/web:1 --name web -f out/launched.toml --force", "launch"],
    "support-bundle": ["support-bundle out/bundle"],
    "modes": ["apps list --output json", "apps list -o wide", "apps list -o yaml", "apps list --ndjson", "releases -o wide"],
    "help": ["version", "version --client", "help routes", "help deploy", "help routes create", "help describe", "help exit-codes", "help environment", "help options", "help logs", "help exec", "help nothing", "completion tcsh"],
}
# What cannot be shown against fixed answers: up, down and doctor ask this machine, edge explain the edge's own
# socket; a session of exec is in test_exec.py; admin keys generate is random and in test_control_secrets.py; auth, sps, members and users are in test_cli_auth.py, why in test_control_why.py.
ELSEWHERE = {"auth", "sps", "orgs members", "admin users", "admin break-glass", "admin keys generate", "why", "up", "down", "doctor", "edge explain", "help", "completion"}
SAME = {"events tail", "logs tail", "admin events tail"}  # these streams go on for ever; a_stream_goes_on_where_it_ended and a_log_stream_does_too follow them
NOT_JSON = {"help diff", "help admin edges drain", "help admin backups rekey", "help registries set", "help admin images block", "help admin groups hold", "help node drain", "help admin audit verify", "help", "help routes", "help deploy", "help routes create", "deploys wait " + DEP, "deploys wait " + DEP_BAD, "rollback --to v1 --wait",
            "restart --wait", "volumes resize data --size 20Gi --restart --wait", "| deploy -f - --wait", "wait instance " + INST, "wait route " + ROUTE, "wait volume " + VOLUME, "wait instance " + INST_BAD, "wait deploy " + DEP, "apps list --ndjson", "help describe", "help exit-codes",
            "help environment", "help options", "help logs", "help exec", "snapshots create data --wait --wait-timeout 0ms", "wait snapshot " + SNAPSHOT, "wait snapshot " + oid("snap", 2), "volumes restore data --wait",
            "volumes migrate data --to-node " + NODE + " --wait", "wait migration " + oid("mig", 1), "wait migration " + oid("mig", 2), "help volumes migrate", "help migrations cancel", "wait restore " + oid("rst", 1), "wait restore " + oid("rst", 2)}


class Bench:
    def __init__(self, folder):
        self.dir = folder
        self.fixture = Fixture(folder)
        self.codes = set()
        os.makedirs(os.path.join(folder, "home"))
        os.makedirs(os.path.join(folder, "out"))
        self.env = {"PATH": "/usr/bin:/bin", "HOME": os.path.join(folder, "home"), "MOAT_API": "unix:" + self.fixture.path, "MOAT_TOKEN": "secret",
                    "MOAT_ORG": "local", "MOAT_APP": "web", "MOAT_ENV": "prod", "MOAT_CONFIG": os.path.join(folder, "cli.toml"), "LC_ALL": "C",
                    "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "detect_leaks=0")}
        with open(self.env["MOAT_CONFIG"], "w") as f:
            f.write("tls_port = 9443\n")

    def run(self, line, *more, env=None):
        stdin = MANIFEST if line.startswith("| ") else "pa55word\n" if "--password-stdin" in line else ""
        words = [w.replace("bad_image", "bad image") for w in line.replace("| ", "").replace("'bad image'", "bad_image").split()] + list(more)
        e = dict(self.env, **(env or {}))
        if "--app" in words or words[0] == "deploy":
            e.pop("MOAT_APP", None)
        r = subprocess.run([MOAT] + words, input=stdin, capture_output=True, text=True, timeout=120, env=e, cwd=self.dir)
        self.codes.add(r.returncode)
        return r.returncode, r.stdout, r.stderr

    def plain(self, text):
        text = text.replace(self.dir, "$D")
        text = re.sub(r"\b20(?!01-)\d\d-\d\d-\d\dT[0-9:.]+Z", "NOW", text)
        text = re.sub(r" *\d{6,}\.\d\d s", " N s", text)
        text = re.sub(r" +\d+\.\d\d s  (ready|active|failed|stopped|available|in_use)", r" N s \1", text)  # how long wait has waited
        text = re.sub(r" +(?!4\.00)\d+\.\d\d s  (queued|succeeded)", r" N s \1", text)  # the same of a snapshot; a deploy of the fixture takes 4.00 s
        text = re.sub(r" +\d+\.\d\d s  (\d/\d ready)", r" N s \1", text)  # how long scale has waited
        text = re.sub(r" +\d+\.\d\d s  (\d (?:instances|volumes) are)", r" N s \1", text)  # how long drain has waited
        text = re.sub(r" +\d+\.\d\d s  (\d connections|away goes on)", r" N s \1", text)  # how long the drain of an edge has, and another key
        text = re.sub(r'"routed":\d+', '"routed":0', text)
        return re.sub(r"moat \d+\.\d+\.\d+|(?<=client_version\":\")[^\"]+", "VERSION", text)


def no_control_bytes(what, text):
    bad = [c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]
    assert not bad, f"{what}: control characters {bad!r} in {text!r}"


def record(b, lines):
    out = []
    for line in lines:
        for mode in ([], ["--json"]):
            b.fixture.reset()
            code, stdout, stderr = b.run(line, *mode)
            shutil.rmtree(os.path.join(b.dir, "out", "bundle"), ignore_errors=True)
            if os.path.exists(os.path.join(b.dir, "out", "audit.ndjson")):
                out.append("file:\n" + open(os.path.join(b.dir, "out", "audit.ndjson")).read())
                os.unlink(os.path.join(b.dir, "out", "audit.ndjson"))
            if os.path.exists(os.path.join(b.dir, "moat.toml")):  # init with --json keeps what it made; later commands would read it
                os.unlink(os.path.join(b.dir, "moat.toml"))
            if mode:
                docs = stdout.splitlines()
                assert line in NOT_JSON or len(docs) == 1 or line.startswith("help"), f"{line} --json: {len(docs)} documents"
                if not line.startswith("help") or code != 0:
                    bad = cli_schema.faults(line, [json.loads(d) for d in docs])
                    assert not bad, f"{line} --json is not as docs/api/cli-schemas.json says: {bad[:3]}"
                    assert docs, f"{line} --json: nothing on stdout"
            else:
                no_control_bytes(line, stdout + stderr)
            seen = "".join("  " + s + "\n" for s in b.fixture.seen)
            out.append(f"$ moat {line} {' '.join(mode)}".rstrip() + f"\nexit {code}\n" + (f"requests:\n{seen}" if seen else "") +
                       f"stdout:\n{stdout}" + f"stderr:\n{stderr}")
    return b.plain("\n".join(out))


def compare(name, text):
    path = os.path.join(HERE, "golden", f"cli-{name}.txt")
    if UPDATE:
        with open(path, "w") as f:
            f.write(text)
        return
    with open(path) as f:
        want = f.read()
    diff = list(difflib.unified_diff(want.splitlines(), text.splitlines(), "golden", "now", lineterm="", n=2))
    assert not diff, "differs from " + path + "\n" + "\n".join(diff[:60])


def commands_of(b):
    """Names of all commands, from the list that people see."""
    _, out, _ = b.run("help")
    return re.findall(r"^  ([a-z0-9][a-z0-9 -]*?)(?: [A-Z\[].*?)?  +\S", out, re.M)


def every_command_has_one(b):
    lines = [line.replace("| ", "") for lines in COMMANDS.values() for line in lines]
    bare = [n for n in commands_of(b) if not any(n == e or n.startswith(e + " ") for e in ELSEWHERE | SAME) and not any(x == n or x.startswith(n + " ") for x in lines)]
    # "routes" alone stands for "routes list"
    bare = [n for n in bare if not (n.endswith(" list") and any(x == n[:-5] or x.startswith(n[:-5] + " -") for x in lines))]
    assert not bare, f"commands without a golden answer: {bare}"


def help_names_every_command(b):
    """Not golden: the list of all commands changes with each of them."""
    code, script, _ = b.run("completion bash")
    assert code == 0
    names = commands_of(b)
    assert len(names) > 30 and "routes create" in names and "up" in names, names
    for name in names:
        code, text, _ = b.run("help " + name)
        assert code == 0 and text.startswith("usage: moat " + name), (name, text[:100])
        assert name.split()[-1] in script, name


def problem(code, **more):
    return dict({"code": code, "title": "a title", "detail": f"the reason {ESC}", "retryable": False}, **more)


CATEGORIES = [
    # status, exit code, category
    (400, 2, "usage"), (422, 2, "usage"), (401, 3, "auth"), (403, 3, "auth"), (404, 4, "not_found"), (409, 5, "conflict"), (412, 5, "conflict"),
    (429, 6, "transient"), (503, 6, "transient"), (504, 6, "transient"), (500, 7, "internal"),
]


def errors_have_categories(b):
    for status, want, category in CATEGORIES:
        b.fixture.reset()
        body = problem("some_code", hint="do this", errors=[{"field": "app.name", "message": f"no {ESC}", "line": 3, "column": 4}], details={"k": 1})
        b.fixture.faults[("GET", f"{E}/status")] = (status, body)
        code, out, err = b.run("status", "--json")
        doc = json.loads(out)["error"]
        assert code == want and doc["category"] == category, f"{status}: exit {code}, {doc}"
        assert doc["code"] == "some_code" and doc["hint"] == "do this" and doc["request_id"] == "req_fixture" and doc["details"] == {"k": 1}, doc
        assert len(out.splitlines()) == 1 and err == "", (out, err)
        tries = len([s for s in b.fixture.seen if "/status" in s])
        assert tries == (5 if want == 6 else 1), f"{status}: asked {tries} times"
        b.fixture.seen.clear()
        code, out, err = b.run("status")
        assert code == want and out == "", (code, out)
        assert err == "error: some_code: the reason ?[2J\n  3:4: app.name: no ?[2J\nhint: do this\nrequest: req_fixture\n", err


def both_json(b, line, want, category):
    code, out, err = b.run(line, "--json")
    doc = json.loads(out)["error"]
    assert code == want and doc["category"] == category and err == "", (code, out, err)
    return doc, err


def both(b, line, want, category, **kw):
    code, out, err = b.run(line, "--json", **kw)
    doc = json.loads(out.splitlines()[-1])["error"]
    assert code == want and doc["category"] == category and err == "", (code, out, err)
    code, out, err = b.run(line, **kw)
    assert code == want and "error: " in err, (code, out, err)
    no_control_bytes(line, err)
    return doc, err


def a_dead_socket_is_transient(b):
    doc, err = both(b, "whoami", 6, "transient", env={"MOAT_API": "unix:/nonexistent/api.sock"})
    assert doc["retryable"] is True and "moat up" in doc["hint"] and "/nonexistent/api.sock" in err, (doc, err)


def a_slow_answer_is_transient(b):
    b.fixture.reset()
    b.fixture.delay = 3
    start = fair.now()
    both(b, "whoami --timeout 200ms", 6, "transient")
    assert fair.now() - start < 6
    b.fixture.delay = 0


def an_answer_that_is_none_is_internal(b):
    for raw in (b"{", b"not json", b"[1,2", b'{"a":1}{"b":2}', b'{"a":"\xff"}'):
        b.fixture.reset()
        b.fixture.faults[("GET", "/v1/auth/whoami")] = (200, raw)
        both(b, "whoami", 7, "internal")
    b.fixture.faults[("GET", "/v1/auth/whoami")] = (500, b"<html>\x1b[2J")
    doc, err = both(b, "whoami", 7, "internal")
    assert "500" in err, err


def a_wrong_token_is_auth(b):
    b.fixture.reset()
    doc, err = both(b, "whoami", 3, "auth", env={"MOAT_TOKEN": "other"})
    assert "MOAT_TOKEN" in doc["hint"] and "other" not in err, (doc, err)


def no_platform_is_usage(b):
    both(b, "whoami", 2, "usage", env={"MOAT_API": ""})
    both(b, "whoami", 2, "usage", env={"MOAT_API": "http://moat.example"})
    both(b, "whoami", 2, "usage", env={"MOAT_CONFIG": "/nonexistent"})


def the_environment_says_what_an_option_says(b):
    b.fixture.reset()
    assert b.run("apps list", env={"MOAT_OUTPUT": "json"}) == b.run("apps list --json") != b.run("apps list")
    assert b.run("apps list -o table", env={"MOAT_OUTPUT": "json"}) == b.run("apps list")  # the option wins
    code, out, err = b.run("ps", env={"MOAT_OUTPUT": "xml"})
    assert (code, out) == (2, "") and "MOAT_OUTPUT" in err, (out, err)


def the_target_is_resolved_in_order(b):
    b.fixture.reset()
    doc, _ = both(b, "ps", 2, "usage", env={"MOAT_APP": ""})
    assert "--app" in doc["message"] and b.fixture.seen == ["GET /v1/orgs?name=local"] * 2, (doc, b.fixture.seen)  # not even the only app is guessed
    b.fixture.reset()
    code, out, err = b.run("status", env={"MOAT_APP": ""})  # without an app: all of them
    assert code == 0 and re.search(r"^web +prod +web +\d+/\d+ +v\d+ ", out, re.M) and "--app NAME" in err, (code, out, err)
    rows = json.loads(b.run("status", "--json", env={"MOAT_APP": ""})[1])
    assert not cli_schema.faults("status", [rows]) and rows["kind"] == "List" and rows["items"][0]["app"] == "web" and rows["items"][0]["desired"] >= rows["items"][0]["ready"], rows
    b.fixture.reset()
    b.run("apps", env={"MOAT_ORG": ""})
    assert b.fixture.seen == ["GET /v1/orgs?limit=200", f"GET {O}/apps?limit=200"], b.fixture.seen  # the only organisation there is
    b.fixture.answers[("GET", "/v1/orgs")] = lst(named(ORG, "local"), named(oid("org", 2), "other"))
    doc, _ = both(b, "apps", 2, "usage", env={"MOAT_ORG": ""})
    b.fixture.answers[("GET", "/v1/orgs")] = lst(named(ORG, "local"))
    assert "--org" in doc["message"], doc
    b.fixture.reset()
    b.run("status --project billing")
    assert f"GET {O}/projects?name=billing" in b.fixture.seen and f"GET {O}/apps?project_id={oid('prj', 1)}&name=web" in b.fixture.seen, b.fixture.seen
    with open(os.path.join(b.dir, "moat.toml"), "w") as f:
        f.write(MANIFEST.replace('"web"', '"of-the-manifest"', 1))
    try:
        b.fixture.reset()
        b.run("status", env={"MOAT_APP": ""})
        assert f"GET {O}/apps?name=of-the-manifest" in b.fixture.seen, b.fixture.seen
        b.fixture.reset()
        b.run("status --app other")
        assert f"GET {O}/apps?name=other" in b.fixture.seen, b.fixture.seen
    finally:
        os.unlink(os.path.join(b.dir, "moat.toml"))
    doc, _ = both(b, "restart", 2, "usage", env={"MOAT_ENV": ""})
    assert "--env" in doc["message"], doc
    context_comes_last(b)


def context_comes_last(b):
    """flag, variable, manifest, saved context; profiles are contexts of their own; what others may write is not believed."""
    conf = os.path.join(b.dir, "ctx.toml")
    bare = {"MOAT_CONFIG": conf, "MOAT_ORG": "", "MOAT_APP": "", "MOAT_ENV": ""}
    with open(conf, "w") as f:
        f.write("# mine\norg = 'from-context' # kept\n\n[profiles.work]\norg = 'from-profile'\n")
    for words, env, want in (("apps --org flag", {"MOAT_ORG": "variable"}, "flag"), ("apps", {"MOAT_ORG": "variable"}, "variable"), ("apps", {}, "from-context"),
                             ("apps --profile work", {}, "from-profile"), ("apps", {"MOAT_PROFILE": "work"}, "from-profile")):
        b.fixture.reset()
        b.run(words, env=dict(bare, **env))
        assert b.fixture.seen[0] == f"GET /v1/orgs?name={want}", (words, env, b.fixture.seen)
    doc, _ = both(b, "apps --profile wrok", 2, "usage", env=bare)
    assert "work" in doc["hint"], doc
    code, out, err = b.run("context use acme/shop@dev --profile new", env=bare)
    assert code == 0, err
    code, out, err = b.run("context set --org other --env prod", env=bare)
    text = open(conf).read()
    assert text == "env = \"prod\"\n# mine\norg = \"other\"\n\n[profiles.work]\norg = 'from-profile'\n\n[profiles.new]\norg = \"acme\"\napp = \"shop\"\nenv = \"dev\"\n", text
    assert oct(os.stat(conf).st_mode)[-3:] == "600", oct(os.stat(conf).st_mode)
    b.fixture.reset()
    b.run("restart --no-wait", env=dict(bare, MOAT_ORG="local", MOAT_APP="web"))
    assert any(s.startswith("POST") for s in b.fixture.seen), b.fixture.seen  # a saved environment is named, not guessed
    for bad, what in (("orgg = 'x'", "did you mean 'org'"), ("org = 5", "'org' must be a text"), ("org = ", "value is missing"), ("tls_port = 70000", "tls_port")):
        with open(conf, "w") as f:
            f.write(bad + "\n")
        doc, _ = both(b, "apps", 2, "usage", env=bare)
        assert what in doc["message"] and "ctx.toml:1:" in doc["message"], (bad, doc)
    os.chmod(conf, 0o666)
    doc, _ = both(b, "apps", 2, "usage", env=bare)
    assert "written by others" in doc["message"], doc


def retry_after_is_kept(b):
    """Two refusals with Retry-After: 1, then an answer: asked three times, not before the time; a wait over the budget is not begun."""
    b.fixture.reset()
    b.fixture.refuse = [(429, 1), (503, 1)]
    start = time.monotonic()
    code, out, err = b.run("whoami --debug")
    took = time.monotonic() - start
    assert code == 0 and len(b.fixture.seen) == 3 and took >= 2.0, (code, err, b.fixture.seen, took)
    assert "again in" in err and "try 2 of 5" in err, err
    b.fixture.reset()
    b.fixture.refuse = [(503, 600)]
    start = fair.now()
    code, out, err = b.run("whoami")
    assert code == 6 and len(b.fixture.seen) == 1 and fair.now() - start < 5, (code, err, b.fixture.seen)


def mutations_keep_their_key_when_tried_again(b):
    b.fixture.reset()
    b.fixture.refuse, b.fixture.refuse_method = [(503, 0)], "POST"
    code, out, err = b.run("apps create shop")
    assert code == 0 and len(b.fixture.keys) == 2 and b.fixture.keys[0] == b.fixture.keys[1], (code, err, b.fixture.keys)


def debug_shows_no_secret(b):
    for words in ("whoami --debug --token sekrit", "apps create shop --debug --token sekrit"):
        b.fixture.reset()
        code, out, err = b.run(words)
        assert "sekrit" not in out + err and "/v1/" in err and "Bearer" not in err, err


def completion_runs_in_the_shells(b):
    if not shutil.which("bash") or not shutil.which("zsh") or not shutil.which("fish"):
        print("skip - completion in zsh and fish: not all of bash, zsh, fish are installed", flush=True)
    asks = [("moat ro", "routes"), ("moat routes cr", "create"), ("moat routes create --pro", "--process"), ("moat logs --fol", "--follow"), ("moat logs ta", "tail"),
            ("moat manifest fmt --ch", "--check"), ("moat deploy --no-", "--no-wait"), ("moat --prof", "--profile")]
    code, script, _ = b.run("completion bash")
    path = os.path.join(b.dir, "moat.bash")
    open(path, "w").write(script)
    for line, want in asks[:-1] + [("moat describe dep", "deploy"), ("moat apps -o ta", "table")]:
        words = line.split(" ")
        probe = f"source {path}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _moat; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        r = subprocess.run(["bash", "--norc", "-c", probe], capture_output=True, text=True, timeout=120)
        assert want in r.stdout.split() and not r.stderr, (line, r.stdout, r.stderr)
    if shutil.which("zsh"):
        code, script, _ = b.run("completion zsh")
        open(path, "w").write(script)
        probe = f"autoload -U compinit && compinit -u -D; source {path}; print -r -- ${{_comps[moat]}}"
        r = subprocess.run(["zsh", "-f", "-c", probe], capture_output=True, text=True, timeout=120, env=dict(b.env, HOME=b.dir))
        assert r.returncode == 0 and "_moat" in r.stdout and not r.stderr, (r.stdout, r.stderr)
    if shutil.which("fish"):
        code, script, _ = b.run("completion fish")
        path = os.path.join(b.dir, "moat.fish")
        open(path, "w").write(script)
        for line, want in asks:
            r = subprocess.run(["fish", "--no-config", "-c", f"source {path}; complete -C '{line}'"], capture_output=True, text=True, timeout=120, env=dict(b.env, HOME=b.dir))
            assert want in [x.split("\t")[0] for x in r.stdout.splitlines()] and not r.stderr, (line, r.stdout[:300], r.stderr[:300])


def a_bundle_holds_no_secret(b):
    b.fixture.reset()
    planted = "planted-S3CRET"
    b.fixture.answers[("GET", f"{A}/releases")] = lst(dict(release(REL1, 1), manifest={"env": {"vars": {"A": planted}}, "processes": {"web": {"vars": {"B": planted}}}}))
    b.fixture.faults[("GET", "/v1/auth/whoami")] = (200, {"subject_id": oid("usr", 1), "token": {"id": "tok_1", "secret": planted}})
    b.fixture.faults[("GET", "/v1/nodes")] = (503, problem("unavailable"))
    code, out, err = b.run("support-bundle out/b --json --token secret")
    assert code == 0, (out, err)
    doc = json.loads(out)["data"]
    text = ""
    for name in doc["files"]:
        path = os.path.join(b.dir, "out/b", name)
        assert oct(os.stat(path).st_mode)[-3:] == "600"
        text += open(path).read()
    assert planted not in text and '"secret"' not in text.replace('"secret": "[redacted]"', "") and "[redacted]" in text, text[:2000]
    assert json.load(open(os.path.join(b.dir, "out/b/nodes.json"))) == {"unavailable": "transient"}
    assert json.load(open(os.path.join(b.dir, "out/b/events.json")))["items"], "events are missing"
    both(b, "support-bundle out/b", 5, "conflict")
    b.fixture.answers[("GET", f"{A}/releases")] = lst(release(REL2, 2), release(REL1, 1))
    shutil.rmtree(os.path.join(b.dir, "out/b"))


def a_key_given_is_the_key_sent(b):
    b.fixture.reset()
    code, out, _ = b.run("scale web=2 --debug --idempotency-key fixed-1")
    assert code == 0 and b.fixture.keys == ["fixed-1"], b.fixture.keys
    b.run("scale web=2")
    b.run("scale web=2")
    assert len(set(b.fixture.keys)) == 3 and all(len(k) == 32 for k in b.fixture.keys[1:]), b.fixture.keys
    code, _, err = b.run("whoami --debug")
    assert "GET /v1/auth/whoami -> 200" in err and "secret" not in err, err


def scaling_waits_until_it_is_so(b):
    b.fixture.reset()
    good = dict(STATUS, processes=[dict(STATUS["processes"][0], ready=2)])
    b.fixture.faults[("GET", f"{E}/status")] = (200, good)
    code, out, err = b.run("scale web=2 --wait")
    assert code == 0 and "2/2 ready" in err and "override" in out, (code, out, err)
    b.fixture.faults[("GET", f"{E}/status")] = (500, problem("some_code"))
    both(b, "scale web=2 --wait", 7, "internal")


def watching_is_no_json(b):
    doc, _ = both_json(b, "status --watch", 2, "usage")
    assert "events -f" in doc["message"], doc


def waiting_ends_in_time(b):
    b.fixture.reset()
    b.fixture.hold = True
    b.fixture.faults[("GET", f"{E}/deploys/{DEP}")] = (200, deploy(DEP, "rolling"))
    doc, err = both(b, f"deploys wait {DEP} --wait-timeout 300ms", 6, "transient")
    assert doc["details"]["reason"] == "wait_timeout" and DEP in doc["hint"] and "goes on" in err, (doc, err)


def waiting_for_an_object_ends_in_time(b):
    b.fixture.reset()
    start = fair.now()
    code, out, err = b.run(f"wait instance {INST} --for stopped --wait-timeout 500ms --json")
    doc = json.loads(out.splitlines()[-1])["error"]
    assert code == 6 and doc["details"]["reason"] == "wait_timeout" and doc["hint"] == f"moat wait instance {INST} --for stopped", (code, out)
    assert fair.now() - start < 5 and len(b.fixture.seen) < 20, b.fixture.seen
    code, out, err = b.run(f"wait instance {INST} --for stopped --wait-timeout 300ms")
    assert code == 6 and "it goes on" in err and f"hint: moat wait instance {INST} --for stopped" in err, err
    b.fixture.reset()
    b.fixture.hold = True
    p = subprocess.Popen([MOAT, "wait", "route", ROUTE, "--for", "deleted"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=b.env, cwd=b.dir)
    end = fair.now() + fair.LEAST
    while not any("stream" in s for s in b.fixture.seen) and fair.now() < end:
        time.sleep(0.01)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and f"moat wait route {ROUTE} --for deleted" in err, (p.returncode, out, err)
    b.fixture.released.set()
    b.fixture.released.clear()


def an_interrupt_ends_the_waiting_only(b):
    for mode in ([], ["--json"]):
        b.fixture.reset()
        b.fixture.faults[("GET", f"{E}/deploys/{DEP}")] = (200, deploy(DEP, "rolling"))
        b.fixture.hold = True
        p = subprocess.Popen([MOAT, "deploys", "wait", DEP] + mode, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=b.env, cwd=b.dir)
        end = fair.now() + fair.LEAST
        while not any("stream" in s for s in b.fixture.seen) and fair.now() < end:
            time.sleep(0.01)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        assert p.returncode == 130, (p.returncode, out, err)
        if mode:
            assert json.loads(out)["error"]["category"] == "interrupted", out
        else:
            assert "the deploy goes on" in err and f"moat deploys wait {DEP}" in err, err
    b.fixture.released.set()
    b.fixture.released.clear()


def a_stream_goes_on_where_it_ended(b):
    b.fixture.reset()
    p = subprocess.Popen([MOAT, "events", "-f", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=b.env, cwd=b.dir)
    end = fair.now() + fair.LEAST
    while not any("after_event_id=3" in s for s in b.fixture.seen) and fair.now() < end:
        time.sleep(0.01)
    p.terminate()
    out, _ = p.communicate(timeout=60)
    assert any("events/stream?after_event_id=2" in s for s in b.fixture.seen) and any("events/stream?after_event_id=3" in s for s in b.fixture.seen), b.fixture.seen
    rows = [json.loads(x) for x in out.splitlines()]
    assert [r["event_id"] for r in rows][:3] == [1, 2, 3] and all(r["type"] == "event" and r["ts"] for r in rows), rows


def a_log_stream_does_too(b):
    """The server ends the stream, or is away for a while: taken up after what each instance has shown, and nothing is shown twice."""
    for line in ("logs -f --json", "logs tail --json", "logs -f --previous --json"):
        b.fixture.reset()
        p = subprocess.Popen([MOAT] + line.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=b.env, cwd=b.dir)
        rows = [json.loads(p.stdout.readline()) for _ in range(3)]
        end = fair.now() + fair.LEAST
        asked = []
        while len(asked) < 3 and fair.now() < end:  # a third one: nothing of the second is shown again
            time.sleep(0.01)
            asked = [s for s in b.fixture.seen if "/logs/stream" in s]
        p.terminate()
        out, err = p.communicate(timeout=60)
        assert [r["seq"] for r in rows] == [1, 2, 3] and out == "" and err == "", (rows, out, err)
        assert "?limit=100&positions=true" in asked[0] and "cursor" not in asked[0], asked
        at = [json.loads(bytes.fromhex(s.split("cursor=")[1].split("&")[0])) for s in asked[1:]]
        assert at[0] == {INST: 2, INST_BAD: 7} and at[1] == {INST: 3, INST_BAD: 7}, at
        assert all(("previous=true" in s) == ("--previous" in line) for s in asked), asked


def few_libraries_are_loaded_at_the_start(b):
    """libpq brings twenty others and 5 ms; it is loaded when a command needs a database (src/pg/lazy.c)"""
    out = subprocess.run([MOAT, "--version"], capture_output=True, text=True, timeout=60, env=dict(b.env, LD_TRACE_LOADED_OBJECTS="1")).stdout
    names = [line.split()[0] for line in out.splitlines()]
    assert "libc.so.6" in names and len(names) < 8 and not any("libpq" in n for n in names), names


def a_closed_pipe_ends_quietly(b):
    p = subprocess.Popen([MOAT, "logs", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=b.env, cwd=b.dir)
    p.stdout.close()
    err = p.stderr.read()
    p.wait(timeout=60)
    assert err == "", err


def doctor_reaches_the_platform(b):
    b.fixture.reset()
    code, out, _ = b.run("doctor --json")
    checks = {c["check"]: c for c in json.loads(out)["data"]["checks"]}
    assert checks["control plane"]["severity"] == "ok" and checks["node"]["severity"] == "ok", checks
    code, out, err = b.run("doctor --json", env={"MOAT_API": "unix:/nonexistent"})
    checks = {c["check"]: c for c in json.loads(out)["data"]["checks"]}
    assert checks["control plane"]["severity"] == "warn" and err == "", (checks, err)


def on_a_terminal(b):
    """Colours, and the width of the screen is kept; with NO_COLOR or --no-color no escape at all."""
    import fcntl
    import pty
    import struct
    import termios
    for env, more, colour in (({}, [], True), ({"NO_COLOR": "1"}, [], False), ({}, ["--no-color"], False)):
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        p = subprocess.Popen([MOAT, "releases"] + more, stdin=side, stdout=side, stderr=side, env=dict(b.env, **env), cwd=b.dir)
        os.close(side)
        text = b""
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:
                break
            if not part:
                break
            text += part
        os.close(main)
        assert p.wait(timeout=60) == 0
        shown = re.sub(r"\x1b\[\d+m", "", text.decode())
        assert ("\x1b[" in text.decode()) == colour, text
        assert all(len(x) <= 100 for x in shown.split("\r\n")), shown
        assert REL1 in shown and "…" in shown, shown


def read_terminal(fd):
    """All that is written to the other side until nobody has that open; the file descriptor is closed."""
    text = b""
    while True:
        try:
            part = os.read(fd, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(fd)
    return text


def progress_on_a_terminal(b):
    """Steps with their seconds, coloured on a terminal; elsewhere the same words without escapes."""
    import pty
    b.fixture.reset()
    main_fd, side = pty.openpty()
    p = subprocess.Popen([MOAT, "restart", "--wait"], stdin=side, stdout=side, stderr=side, env=b.env, cwd=b.dir)
    os.close(side)
    text = read_terminal(main_fd)
    assert p.wait(timeout=60) == 0, text
    assert b"\x1b[" in text
    plain = re.sub(r"\x1b\[\d+m", "", text.decode()).replace("\r\n", "\n")
    code, out, err = b.run("restart --wait")
    no_control_bytes("restart --wait", err)
    steps = lambda t: re.findall(r"^ +(\d+\.\d\d) s  (\w+)", t, re.M)  # noqa: E731
    assert [w for _, w in steps(plain)][:5] == ["scheduled", "booting", "starting", "ready", "routed"] or "ready" in [w for _, w in steps(plain)], plain
    assert [w for _, w in steps(plain)] == [w for _, w in steps(err)] and "timeline" in plain, (plain, err)


def nobody_is_asked_with_no_input(b):
    """On a terminal: a question without MOAT_NO_INPUT and --no-input, none with either; a value that would be asked for is refused."""
    import pty

    def typed(words, env, answer):
        main_fd, side = pty.openpty()
        p = subprocess.Popen([MOAT] + words.split(), stdin=side, stdout=side, stderr=side, env=dict(b.env, **env), cwd=b.dir, start_new_session=True,
                             preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))
        os.close(side)
        if answer:
            os.write(main_fd, answer)
        text = read_terminal(main_fd)
        return p.wait(timeout=60), text.decode()
    for words, env, answer, want, asked in (("projects delete team", {}, b"crew\n", 2, True), ("projects delete team", {}, b"team\n", 0, True), ("projects delete team", {"MOAT_NO_INPUT": ""}, b"team\n", 0, True),
                                            ("projects delete team", {"MOAT_NO_INPUT": "1"}, b"", 0, False), ("projects delete team --no-input", {}, b"", 0, False),
                                            ("secrets set A", {"MOAT_NO_INPUT": "1"}, b"", 2, False), ("secrets set A --no-input", {}, b"", 2, False)):
        b.fixture.reset()
        code, text = typed(words, env, answer)
        assert code == want and ("Type its name" in text) == asked, (words, env, code, text)
        assert any(s.startswith("DELETE") for s in b.fixture.seen) == (want == 0), (words, env, b.fixture.seen)


def the_project_narrows_what_is_listed(b):
    """--project and MOAT_PROJECT: the list of apps, where a new one belongs, in which one an app is looked for. That of a context does none of it."""
    for words, env, want in (("apps list --project team", {}, True), ("apps list", {"MOAT_PROJECT": "team"}, True), ("apps list --project team", {"MOAT_PROJECT": "nothing"}, True), ("apps list", {}, False)):
        b.fixture.reset()
        code, out, err = b.run(words, env=env)
        assert code == 0 and f"GET {O}/apps{'?project_id=' + oid('prj', 1) + '&' if want else '?'}limit=200" in b.fixture.seen, (words, env, err, b.fixture.seen)
        assert (f"GET {O}/projects?name=team" in b.fixture.seen) == want, (words, env, b.fixture.seen)
    b.fixture.reset()
    assert b.run("apps list", env={"MOAT_PROJECT": "nothing"})[0] == 4
    for words, env in (("apps create shop --project team", {}), ("apps create shop", {"MOAT_PROJECT": "team"})):
        b.fixture.reset()
        code, out, err = b.run(words, env=env)
        assert code == 0 and [s for s in b.fixture.seen if s.startswith("POST")] == [f'POST {O}/apps {{"name":"shop","project_id":"{oid("prj", 1)}"}}'], (err, b.fixture.seen)
    b.fixture.reset()
    code, out, err = b.run("envs list --app web", env={"MOAT_PROJECT": "team"})
    assert code == 0 and any(s.startswith(f"GET {O}/apps?project_id={oid('prj', 1)}") for s in b.fixture.seen), (err, b.fixture.seen)


def a_log_stream_ends_at_its_until(b):
    b.fixture.reset()
    code, out, err = b.run("logs -f --until 2001-01-01T00:00:00Z")
    assert code == 0 and len([s for s in b.fixture.seen if "/logs/stream" in s]) == 1 and "until=2001-01-01T00%3A00%3A00Z" in b.fixture.seen[-1], (err, b.fixture.seen)


def a18_every_exit_code_was_seen(b):
    """Of control-plane.md 15.4; 130 has a case of its own."""
    assert b.codes == set(range(9)), b.codes


def the_app_of_the_file_and_of_the_flag_must_agree(b):
    for words, env, where in (("deploy -f - --app other --no-wait", {}, "--app"), ("deploy -f - --no-wait", {"MOAT_APP": "other"}, "MOAT_APP")):
        b.fixture.reset()
        e = dict(b.env, **env) if env else {k: v for k, v in b.env.items() if k != "MOAT_APP"}
        r = subprocess.run([MOAT] + words.split(), input=MANIFEST, capture_output=True, text=True, env=e, cwd=b.dir)
        assert r.returncode == 2 and where + " says 'other'" in r.stderr and "--app-override" in r.stderr and not b.fixture.keys, (r, b.fixture.seen)
        r = subprocess.run([MOAT] + words.split() + ["--app-override"], input=MANIFEST, capture_output=True, text=True, env=e, cwd=b.dir)
        assert r.returncode == 0 and f"GET {O}/apps?name=other" in b.fixture.seen, (r, b.fixture.seen)


def schemas_see_what_is_wrong(b):
    """The check itself: documents that a command must not print."""
    if not cli_schema.jsonschema:
        print("skip - answers against docs/api/cli-schemas.json: python3-jsonschema is not installed", flush=True)
        return
    good = {"api": "v1", "kind": "List", "items": [{"id": APP, "name": "web"}], "next_cursor": None}
    assert not cli_schema.faults("apps", [good])
    for bad in (dict(good, items=[{"id": "web"}]), dict(good, more=1), {"api": "v1", "kind": "List", "items": []}, {"api": "v1", "kind": "Nothing", "data": {}},
                {"api": "v1", "kind": "Version", "data": {"client_version": 1}}, {"api": "v1", "kind": "Receipt", "operation": "x"},
                {"error": {"category": "bad"}}, {"type": "event", "event_id": 1}):
        assert cli_schema.faults("apps", [bad]), bad


def the_mesh_names_the_broken_pair(b):
    """net verify: each state that a pair can have, its cause and the exit code."""
    def node(name, **more):
        return dict({"id": oid("node", ord(name)), "name": name, "health": "ready", "admin_state": "active"}, **more)

    def peer(name, **more):
        return dict({"node_id": oid("node", ord(name)), "handshake_age_s": 20, "rtt_us": 1500, "loss_percent": 0, "lost_in_row": 0, "mtu_ok": True}, **more)

    def mesh(*peers, **more):
        return dict({"revision": 4, "device": "kernel", "mtu": 1420, "repairs": 0, "peers": list(peers)}, **more)

    def verify(*nodes):
        b.fixture.reset()
        b.fixture.answers[("GET", "/v1/nodes")] = lst(*nodes)
        code, out, err = b.run("net verify", "--json")
        doc = json.loads(out)
        assert not cli_schema.faults("net verify", [doc]), doc
        return code, {p["a"] + p["b"]: (p["state"], p.get("cause", "")) for p in doc["data"]["pairs"]}

    before = b.fixture.answers.get(("GET", "/v1/nodes"))
    try:
        code, pairs = verify(node("a", mesh=mesh(peer("b"))), node("b", mesh=mesh(peer("a"))))
        assert (code, pairs) == (0, {"ab": ("ok", "")}), (code, pairs)
        cut = {"lost_in_row": 4, "loss_percent": 100, "handshake_age_s": 400}
        code, pairs = verify(node("a", mesh=mesh(peer("b", **cut), peer("c"))), node("b", mesh=mesh(peer("a", **cut), peer("c"))), node("c", mesh=mesh(peer("a"), peer("b"))))
        assert code == 1 and pairs["ab"][0] == "broken" and "path between the two is cut" in pairs["ab"][1] and pairs["ac"][0] == pairs["bc"][0] == "ok", pairs
        code, pairs = verify(node("a", mesh=mesh(peer("b", **cut), peer("c", **cut))), node("b", mesh=mesh(peer("a", **cut), peer("c"))), node("c", mesh=mesh(peer("a", **cut), peer("b"))))
        assert pairs["ab"][0] == pairs["ac"][0] == "broken" and "a reaches nobody" in pairs["ab"][1] and pairs["bc"][0] == "ok", pairs
        never = {k: v for k, v in peer("b", **cut).items() if k != "handshake_age_s"}
        code, pairs = verify(node("a", mesh=mesh(never)), node("b", mesh=mesh({**never, "node_id": oid("node", ord("a"))})))
        assert pairs["ab"][0] == "broken" and "never a handshake" in pairs["ab"][1], pairs
        code, pairs = verify(node("a", mesh=mesh(peer("b", **cut))), node("b", mesh=mesh(peer("a"))))
        assert pairs["ab"][0] == "one-way" and "only b gets answers" in pairs["ab"][1], pairs
        code, pairs = verify(node("a", mesh=mesh(peer("b", mtu_ok=False))), node("b", mesh=mesh(peer("a"))))
        assert pairs["ab"][0] == "narrow" and "Packet Too Big" in pairs["ab"][1], pairs
        code, pairs = verify(node("a", mesh=mesh(peer("b", loss_percent=33))), node("b", mesh=mesh(peer("a"))))
        assert pairs["ab"] == ("lossy", "33 % of the last minute's probes lost"), pairs
        code, pairs = verify(node("a", mesh=mesh()), node("b", mesh=mesh(peer("a"))))
        assert pairs["ab"][0] == "missing" and "a does not have the other yet" in pairs["ab"][1], pairs
        code, pairs = verify(node("a", mesh=mesh(peer("b"))), node("b", health="offline", mesh=mesh(peer("a"))))
        assert pairs["ab"] == ("unknown", "b is offline: what it last said is old"), pairs
    finally:
        b.fixture.answers[("GET", "/v1/nodes")] = before
        b.fixture.reset()


def main():
    failed = 0
    with tempfile.TemporaryDirectory(prefix="mt-cli-", dir="/tmp") as folder:
        b = Bench(folder)
        cases = [(f"golden {n}", lambda n=n: compare(n, record(b, COMMANDS[n]))) for n in COMMANDS]
        cases += [("every command has a golden answer", lambda: every_command_has_one(b))]
        for f in (help_names_every_command, errors_have_categories, a_dead_socket_is_transient, a_slow_answer_is_transient, an_answer_that_is_none_is_internal, a_wrong_token_is_auth,
                  no_platform_is_usage, the_environment_says_what_an_option_says, the_target_is_resolved_in_order, a_key_given_is_the_key_sent, scaling_waits_until_it_is_so, watching_is_no_json, waiting_ends_in_time, waiting_for_an_object_ends_in_time, an_interrupt_ends_the_waiting_only,
                  a_stream_goes_on_where_it_ended, a_log_stream_does_too, a_closed_pipe_ends_quietly, doctor_reaches_the_platform, few_libraries_are_loaded_at_the_start, on_a_terminal, progress_on_a_terminal, retry_after_is_kept,
                  mutations_keep_their_key_when_tried_again, debug_shows_no_secret, completion_runs_in_the_shells, schemas_see_what_is_wrong, a_bundle_holds_no_secret, the_app_of_the_file_and_of_the_flag_must_agree,
                  nobody_is_asked_with_no_input, the_project_narrows_what_is_listed, a_log_stream_ends_at_its_until,
                  the_mesh_names_the_broken_pair, a18_every_exit_code_was_seen):
            cases.append((f.__name__.replace("_", " ").replace("a18 ", "A18 "), lambda f=f: f(b)))
        for name, case in cases:
            try:
                case()
                print(f"ok - {name}", flush=True)
            except Exception as e:  # each case is told, whatever breaks it
                failed += 1
                lines = (str(e) or type(e).__name__).splitlines()
                print(f"not ok - {name}: {lines[0]}", flush=True)
                print("\n".join("    " + x for x in lines[1:]), flush=True)
        b.fixture.close()
    return 1 if failed else 0


sys.exit(main())
