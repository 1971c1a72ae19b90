#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The commands about who one is, against a real control plane: auth, orgs members, sps, admin users, the credentials file.
COST 18 s, 1 s of processor."""
import concurrent.futures, html, json, os, re, shutil, subprocess, sys, threading, urllib.parse
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import authkit
import control_kit as kit
from authkit import Person
from control_kit import call, case, wait_for

kit.need("cli auth", "moat")

w = kit.World(public_url="https://moat.test")
authkit.prepare(w)
HOME = w.d + "/home"
os.makedirs(HOME)
CREDS = HOME + "/state/moat/credentials"


def moat(*args, code=0, stdin=None, **env):
    e = {"PATH": os.environ["PATH"], "HOME": HOME, "XDG_STATE_HOME": HOME + "/state", "XDG_CONFIG_HOME": HOME + "/config",
         "MOAT_API": "unix:" + w.api}
    e.update({k: v for k, v in env.items() if v is not None})
    r = subprocess.run([kit.program("moat")] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=e, timeout=180, cwd=HOME,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == code, (args, r.returncode, r.stdout, r.stderr)
    return r.stdout, r.stderr


def login(*args, decide="approve", **env):
    """Run `moat auth login` and be the person in front of the browser."""
    e = {"PATH": os.environ["PATH"], "HOME": HOME, "XDG_STATE_HOME": HOME + "/state", "XDG_CONFIG_HOME": HOME + "/config", "MOAT_API": "unix:" + w.api, **env}
    p = subprocess.Popen([kit.program("moat"), "auth", "login", "--no-browser"] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=e)
    url = re.search(r"https://moat.test(/device\?user_code=\S+)", p.stderr.readline()).group(1)
    code = url.split("=")[1]
    assert code in p.stderr.readline()
    w.pg.sql("UPDATE moat.device_codes SET state = '%s', user_id = '%s' WHERE user_code = '%s'"
             % ("approved" if decide == "approve" else "denied", alice.id, code))
    out, err = p.communicate(timeout=180)
    return p.returncode, out, err


OPS = {"MOAT_TOKEN": w.token}

try:
    alice = Person(w, "alice@a.example")
    org = alice.ok("POST", "/v1/orgs", {"name": "acme"})["id"]

    @case("auth login keeps a credential that only its owner can read; status and whoami use it")
    def _():
        code, out, err = login("--scopes", "orgs:read,apps:read,apps:write,members:write,sps:write,sps:read")
        assert code == 0 and "signed in as alice@a.example" in err, (code, out, err)
        assert oct(os.stat(CREDS).st_mode)[-3:] == "600" and oct(os.stat(os.path.dirname(CREDS)).st_mode)[-3:] == "700"
        out, _ = moat("auth", "status")
        assert "alice@a.example" in out and "a login" in out and "acme owner" in out, out
        j = json.loads(moat("auth", "status", "--json")[0])["data"]
        assert j["token"]["kind"] == "session" and sorted(j["scopes"])[0] == "apps:read", j
        assert "alice@a.example" in moat("auth", "whoami")[0]

    @case("a login that is denied is exit 3 and keeps nothing new")
    def _():
        before = open(CREDS).read()
        code, out, err = login(decide="deny")
        assert code == 3 and "denied" in err, (code, err)
        assert open(CREDS).read() == before

    @case("twenty commands at once with a token that is over: one refresh, nobody fails")
    def _():
        j = json.load(open(CREDS))
        j[w.api]["expires_at"] = 0
        json.dump(j, open(CREDS, "w"))
        n = int(w.pg.sql("SELECT count(*) FROM moat.refresh_tokens"))
        with concurrent.futures.ThreadPoolExecutor(20) as ex:
            for f in [ex.submit(moat, "orgs", "list") for _ in range(20)]:
                f.result()
        assert int(w.pg.sql("SELECT count(*) FROM moat.refresh_tokens")) == n + 1

    @case("a file or folder that others can read is refused; a login that was ended says how to go on")
    def _():
        os.chmod(CREDS, 0o640)
        assert "can be read by others" in moat("orgs", "list", code=3)[1]
        os.chmod(CREDS, 0o600)
        os.chmod(os.path.dirname(CREDS), 0o750)
        assert "can be opened by others" in moat("orgs", "list", code=3)[1]
        os.chmod(os.path.dirname(CREDS), 0o700)
        moat("orgs", "list")
        keep = json.load(open(CREDS))
        moat("auth", "logout")
        assert w.api not in json.load(open(CREDS))
        json.dump(keep, open(CREDS, "w"))
        assert "token_revoked" in moat("orgs", "list", code=3)[1]
        keep[w.api]["expires_at"] = 0
        json.dump(keep, open(CREDS, "w"))
        out, err = moat("orgs", "list", code=3)
        assert "moat auth login" in err, err
        assert w.api not in json.load(open(CREDS))
        assert "not signed in" in moat("auth", "logout")[1]

    @case("personal tokens: made, shown alone on stdout, listed, revoked")
    def _():
        code, out, err = login()
        assert code == 0, err
        token = moat("auth", "tokens", "create", "--name", "ci", "--scope", "apps:read,orgs:read", "--org", "acme", "--expires", "7d")[0].strip()
        assert token.startswith("moat_pat_")
        assert "acme" in moat("orgs", "list", MOAT_TOKEN=token)[0]
        rows = json.loads(moat("auth", "tokens", "list", "--json")[0])["items"]
        assert [r["name"] for r in rows] == ["ci"] and rows[0]["org_id"] == org, rows
        moat("auth", "tokens", "revoke", rows[0]["id"], "--yes")
        assert "token_revoked" in moat("orgs", "list", code=3, MOAT_TOKEN=token)[1]
        moat("auth", "tokens", "create", "--name", "x", code=2)
        moat("auth", "tokens", "create", "--name", "x", "--scope", "apps:read", "--expires", "366d", code=2)

    @case("an operator ends a token of somebody else, and a login with all that came of it")
    def _():
        token = moat("auth", "tokens", "create", "--name", "lost", "--scope", "orgs:read")[0].strip()
        lost = [r["id"] for r in json.loads(moat("auth", "tokens", "list", "--json")[0])["items"] if r["name"] == "lost"][0]
        moat("admin", "tokens", "revoke", lost, "--yes", code=2, **OPS)
        moat("admin", "tokens", "revoke", lost, "--yes", "--reason", "mine", code=3)
        said = moat("admin", "tokens", "revoke", lost, "--yes", "--reason", "on a train", **OPS)[1]
        assert "revoked %s: personal of usr_" % lost in said, said
        assert "token_revoked" in moat("orgs", "list", code=3, MOAT_TOKEN=token)[1]
        assert "had been revoked" in moat("admin", "tokens", "revoke", lost, "--yes", "--reason", "again", **OPS)[1]
        moat("admin", "tokens", "revoke", "tok_01aryz6s4104hmasw9nf6yy093", "--yes", "--reason", "x", code=4, **OPS)
        mine = json.loads(moat("whoami", "--json")[0])["data"]["token"]["id"]
        end = json.loads(moat("admin", "tokens", "revoke", mine, "--yes", "--reason", "stolen", "--json", **OPS)[0])["data"]
        assert end["kind"] == "session" and not end["already_revoked"], end
        assert "token_revoked" in moat("orgs", "list", code=3)[1]
        keep = json.load(open(CREDS))
        keep[w.api]["expires_at"] = 0
        json.dump(keep, open(CREDS, "w"))
        assert "moat auth login" in moat("orgs", "list", code=3)[1], "the refresh token outlived its login"
        seen = [a for a in w.ok("GET", "/v1/admin/audit?action=token.revoke")["items"] if a["resource_id"] == mine]
        assert len(seen) == 1 and seen[0]["reason"] == "stolen" and seen[0]["decision"] == "allow", seen
        code, out, err = login()
        assert code == 0, err

    @case("service principals: created, used by MOAT_CLIENT_ID and MOAT_CLIENT_SECRET, narrowed, rotated, deleted")
    def _():
        out, err = moat("sps", "create", "ci", "--scope", "orgs:read,apps:read,apps:write", "--org", "acme")
        secret, client = out.strip(), re.search(r"MOAT_CLIENT_ID=(\S+)", err).group(1)
        me = {"MOAT_CLIENT_ID": client, "MOAT_CLIENT_SECRET": secret}
        assert "acme" in moat("orgs", "list", **me)[0]
        assert "MOAT_CLIENT_ID" in moat("auth", "status", **me)[0]
        moat("apps", "create", "made", "--org", "acme", **me)
        moat("sps", "update", "ci", "--scope", "orgs:read,apps:read", "--org", "acme")
        assert "insufficient_scope" in moat("apps", "create", "no", "--org", "acme", code=3, **me)[1]
        new = moat("sps", "rotate", "ci", "--overlap", "1h", "--org", "acme")[0].strip()
        moat("orgs", "list", **me)
        moat("orgs", "list", **dict(me, MOAT_CLIENT_SECRET=new))
        app = alice.ok("GET", "/v1/orgs/%s/apps?name=made" % org)["items"][0]["id"]
        moat("sps", "update", "ci", "--restrict-app", app, "--org", "acme")
        assert json.loads(moat("sps", "list", "--json", "--org", "acme")[0])["items"][0]["restrict"]["app_ids"] == [app]
        moat("sps", "update", "ci", "--no-restrict", "--org", "acme")
        moat("sps", "delete", "ci", "--yes", "--org", "acme")
        assert "invalid_client" in moat("orgs", "list", code=3, **dict(me, MOAT_CLIENT_SECRET=new))[1]
        moat("orgs", "list", code=2, MOAT_CLIENT_ID=client)

    @case("members and users: invited, changed, removed; made, disabled, enabled, a new link; break-glass")
    def _():
        assert "https://moat.test/setup?code=moat_su_" in moat("admin", "users", "create", "bob@a.example", "--name", "Bob", **OPS)[0]
        moat("orgs", "members", "add", "bob@a.example", "--role", "readonly", "--org", "acme")
        moat("orgs", "members", "set-role", "bob@a.example", "--role", "admin", "--org", "acme")
        rows = {r["email"]: r for r in json.loads(moat("orgs", "members", "list", "--json", "--org", "acme")[0])["items"]}
        assert rows["bob@a.example"]["role"] == "admin" and rows["bob@a.example"]["state"] == "invited", rows
        moat("orgs", "members", "remove", "bob@a.example", "--yes", "--org", "acme")
        moat("orgs", "members", "remove", "bob@a.example", "--yes", "--org", "acme", code=4)
        assert "last_owner" in moat("orgs", "members", "remove", "alice@a.example", "--yes", "--org", "acme", code=5)[1]
        moat("admin", "users", "list", code=3)
        assert "bob@a.example" in moat("admin", "users", "list", **OPS)[0]
        moat("admin", "users", "disable", "alice@a.example", **OPS)
        assert "account_disabled" in moat("orgs", "list", code=3)[1]
        moat("admin", "users", "enable", "alice@a.example", **OPS)
        moat("orgs", "list")
        assert "moat_su_" in moat("admin", "users", "setup-link", "bob@a.example", **OPS)[0]
        moat("admin", "break-glass", "acme", code=2, **OPS)
        token = moat("admin", "break-glass", "acme", "--reason", "ticket 4", **OPS)[0].strip()
        assert "made" in moat("apps", "list", "--org", "acme", MOAT_TOKEN=token)[0]

    def keyring_case():
        lost = [p for p in ("dbus-daemon", "gnome-keyring-daemon", "secret-tool") if not shutil.which(p)]
        if lost:
            kit.skip("the desktop's keyring keeps a login", "%s not installed" % ", ".join(lost))
            return

        @case("the desktop's keyring keeps a login; the file says so and holds no token; a keyring that is gone is said, a file does without it")
        def _():
            d = w.d + "/desktop"
            os.makedirs(d + "/run", mode=0o700)
            with open(d + "/bus.conf", "w") as f:  # one that starts no keyring of its own accord
                f.write('<busconfig><type>session</type><listen>unix:tmpdir=%s</listen><policy context="default"><allow send_destination="*" eavesdrop="true"/>'
                        '<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>' % d)
            bus = subprocess.Popen(["dbus-daemon", "--config-file=" + d + "/bus.conf", "--nofork", "--print-address=1"], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
            ring = None
            try:
                desk = {"DBUS_SESSION_BUS_ADDRESS": bus.stdout.readline().strip(), "XDG_RUNTIME_DIR": d + "/run", "HOME": d, "PATH": os.environ["PATH"]}
                ring = subprocess.Popen(["gnome-keyring-daemon", "--unlock", "--foreground", "--components=secrets"], stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, env=desk)
                ring.stdin.write("open sesame")
                ring.stdin.close()
                attributes = ["service", "moat", "server", w.api]

                def tool(verb, *more, text=None):
                    return subprocess.run(["secret-tool", verb, *more], input=text, capture_output=True, text=True, env=desk, timeout=60)
                wait_for("the keyring", lambda: tool("store", "--label=probe", "probe", "1", text="x").returncode == 0)
                here = {k: v for k, v in desk.items() if k != "HOME" and k != "PATH"}
                code, out, err = login(**here)
                assert code == 0, err
                kept = json.load(open(CREDS))[w.api]
                assert kept == {"keyring": True, "email": "alice@a.example"}, kept
                stored = json.loads(tool("lookup", *attributes).stdout)
                assert stored["access_token"].startswith("moat_at_") and stored["refresh_token"].startswith("moat_rt_"), stored
                assert "keyring" in moat("auth", "status", **here)[0]
                stored["expires_at"] = 0
                assert tool("store", "--label=x", *attributes, text=json.dumps(stored)).returncode == 0
                moat("orgs", "list", **here)
                again = json.loads(tool("lookup", *attributes).stdout)
                assert again["refresh_token"] != stored["refresh_token"] and again["expires_at"] > 0, "a refresh is kept in the keyring"
                assert "keyring gives no login" in moat("orgs", "list", code=3)[1]  # no session bus here
                moat("auth", "logout", **here)
                assert tool("lookup", *attributes).returncode == 1 and w.api not in json.load(open(CREDS))
                code, out, err = login(MOAT_KEYRING="off", **here)
                assert code == 0 and json.load(open(CREDS))[w.api]["refresh_token"], err
                assert tool("lookup", *attributes).returncode == 1
            finally:
                for p in (ring, bus):
                    if p:
                        p.terminate()
                        p.wait(30)
    keyring_case()

    @case("no token or secret is on stderr, in --debug, or anywhere but in the credentials file")
    def _():
        out, err = moat("orgs", "list", "--debug")
        j = json.load(open(CREDS))[w.api]
        assert j["access_token"] not in err + out and "moat_" not in err, err
finally:
    w.close()
kit.finish()
