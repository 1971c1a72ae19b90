#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The API's own TLS listener (listen_https), with curl, openssl and the CLI as its clients: who trusts whom, streams, reload, hostile bytes. COST 15 s, 4 s of processor."""
import http.client, json, os, select, signal, socket, ssl, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fair
import ports
import control_kit as kit
from control_kit import case, wait_for

if os.geteuid() != 0:
    kit.skip("api tls", "needs root")
    sys.exit(0)
if not kit.program("moat-control") or not kit.program("moat"):
    kit.skip("api tls", "moat is not built")
    sys.exit(0)

import tempfile  # noqa: E402
D = tempfile.mkdtemp(prefix="mtls.", dir="/tmp")
os.chmod(D, 0o755)


def make(name, *more):
    subprocess.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name, "-keyout", D + "/%s.key" % name]
                   + list(more), check=True, capture_output=True)


def leaf(name, days="30"):
    make(name, "-out", D + "/%s.csr" % name)
    with open(D + "/ext", "w") as f:
        f.write("subjectAltName=DNS:localhost,DNS:api.moat.test,IP:::1\n")
    subprocess.run(["openssl", "x509", "-req", "-in", D + "/%s.csr" % name, "-CA", D + "/ca.pem", "-CAkey", D + "/ca.key", "-CAcreateserial", "-days", days,
                    "-extfile", D + "/ext", "-out", D + "/%s.pem" % name], check=True, capture_output=True)
    pub = subprocess.run(["openssl", "x509", "-in", D + "/%s.pem" % name, "-pubkey", "-noout"], check=True, capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=pub, check=True, capture_output=True).stdout
    return subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=der, check=True, capture_output=True).stdout.split()[0].decode()


def put(name):
    """What the server reads: replaced as certificate tools do it, by rename."""
    for ext in ("pem", "key"):
        with open(D + "/live.new", "wb") as f:
            f.write(open(D + "/%s.%s" % (name, ext), "rb").read())
        os.rename(D + "/live.new", D + "/live." + ext)


make("ca", "-x509", "-days", "30", "-out", D + "/ca.pem")
make("other", "-x509", "-days", "30", "-out", D + "/other.pem")
PIN1, PIN2 = leaf("one"), leaf("two", "3")
put("one")
PORT = ports.free_port()
URL = "https://localhost:%d" % PORT
w = kit.World(listen_https="[::]:%d" % PORT, tls_cert=D + "/live.pem", tls_key=D + "/live.key", client_ip_header="X-Forwarded-For",
              connections_per_source=40)
HOME = D + "/home"
os.makedirs(HOME)


def curl(path, *args, ca="ca"):
    r = subprocess.run(["curl", "-sS", "--max-time", "60", "--cacert", D + "/%s.pem" % ca, "-w", "\n%{http_code} %{http_version} %{ssl_verify_result}",
                        "--resolve", "localhost:%d:[::1]" % PORT, URL + path] + list(args), capture_output=True, text=True)
    return r.returncode, r.stdout, r.stderr


def moat(*args, code=0, **env):
    e = {"PATH": os.environ["PATH"], "HOME": HOME, "XDG_CONFIG_HOME": HOME + "/config", "XDG_STATE_HOME": HOME + "/state", "NO_COLOR": "1"}
    e.update({k: v for k, v in env.items() if v is not None})
    r = subprocess.run([kit.program("moat")] + list(args), capture_output=True, text=True, env=e, timeout=60, cwd=HOME, stdin=subprocess.DEVNULL)
    assert r.returncode == code, (args, r.returncode, r.stdout, r.stderr)
    return r.stdout, r.stderr


def served_key():
    pem = ssl.get_server_certificate(("::1", PORT))
    return pem.strip() == open(D + "/one.pem").read().strip() and "one" or "two"


TOKEN = {"MOAT_TOKEN": w.token}

try:
    @case("curl with the authority is served over HTTP/1.1; another authority is not trusted")
    def _():
        code, out, err = curl("/v1/orgs", "-H", "Authorization: Bearer " + w.token)
        assert code == 0 and out.endswith("200 1.1 0") and json.loads(out.rsplit("\n", 1)[0])["items"], (code, out, err)
        code, out, err = curl("/readyz", ca="other")
        assert code == 60, (code, out, err)
        code, out, err = curl("/v1/orgs")
        assert out.endswith("401 1.1 0"), out

    @case("figures of the platform are not served there; liveness is")
    def _():
        assert curl("/metrics")[1].split()[-3] == "404" and curl("/livez")[1].split()[-3] == "200"
        m = kit.call(w.api, "GET", "/metrics").text.decode()
        left = int([l for l in m.splitlines() if l.startswith('moat_cert_expiry_seconds{kind="api"}')][0].split()[1])
        assert 29 * 86400 < left <= 30 * 86400, left

    @case("1.2 and 1.3 are spoken, older is not; plain HTTP gets no answer")
    def _():
        for version, good in (("-tls1_3", True), ("-tls1_2", True), ("-tls1_1", False)):
            r = subprocess.run(["openssl", "s_client", "-connect", "[::1]:%d" % PORT, version, "-cipher", "ALL:@SECLEVEL=0", "-CAfile", D + "/ca.pem"],
                               input="", capture_output=True, text=True, timeout=60)
            assert ("Verify return code: 0" in r.stdout and "Cipher is (NONE)" not in r.stdout) == good, (version, r.stdout[-600:], r.stderr[-300:])
        with socket.create_connection(("::1", PORT), 10) as s:
            s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in s.recv(100)

    @case("a client over TLS is a stranger: rate limits count, and no header changes where it comes from")
    def _():
        code, out, err = curl("/v1/orgs", "-D", "-", "-o", "/dev/null", "-H", "Authorization: Bearer " + w.token)
        assert "RateLimit-Limit:" in out, out
        assert "RateLimit-Limit" not in kit.call(w.api, "GET", "/v1/orgs", headers={"Authorization": "Bearer " + w.token}).headers
        # ten logins a minute for an address, whatever it says that its address is
        seen, begun = [], time.monotonic()
        while "429" not in seen and len(seen) < 12 + (time.monotonic() - begun) / 6:  # one more comes back in each six seconds that this takes
            i = len(seen)
            seen.append(curl("/v1/auth/device/start", "-X", "POST", "-H", "Content-Type: application/json", "-d", '{"client_name":"x"}', "-H", "X-Forwarded-For: 192.0.2.%d" % (i % 250))[1].split()[-3])
        assert seen[-1] == "429" and seen[0] in ("200", "201"), seen

    @case("the CLI: authority, pin, both, neither; what is wrong is said")
    def _():
        out, _ = moat("orgs", "list", "--api", URL, "--ca-file", D + "/ca.pem", **TOKEN)
        assert "local" in out, out
        moat("orgs", "list", "--api", URL + "/", "--ca-file", D + "/ca.pem", **TOKEN)
        moat("orgs", "list", MOAT_API="https://[::1]:%d" % PORT, MOAT_PIN=PIN1, **TOKEN)
        moat("orgs", "list", "--api", URL, "--pin", PIN1.upper(), "--ca-file", D + "/ca.pem", **TOKEN)
        assert "certificate is not accepted" in moat("orgs", "list", "--api", URL, code=3, **TOKEN)[1]
        assert "not the pinned one: it has " + PIN1 in moat("orgs", "list", "--api", URL, "--pin", PIN2, code=3, **TOKEN)[1]
        assert "64 hex" in moat("orgs", "list", "--api", URL, "--pin", "abc", code=2, **TOKEN)[1]
        assert "nosuch.pem" in moat("orgs", "list", "--api", URL, "--ca-file", D + "/nosuch.pem", code=2, **TOKEN)[1]
        for bad in ("https://", "https://:1", "https://h:0", "https://h:70000", "https://h:1x", "https://h/x", "https://u@h", "https://[::1", "https://[::1]x", "http://h"):
            moat("orgs", "list", "--api", bad, code=2, **TOKEN)

    @case("a context keeps server, authority and pin; the token of another server's configuration is not sent to it")
    def _():
        moat("context", "set", "--api", URL, "--ca-file", D + "/ca.pem", "--pin", PIN1, "--org", "local")
        shown = json.loads(moat("context", "show", "--json")[0])["data"]
        assert shown["api"] == URL and shown["ca_file"] == D + "/ca.pem" and shown["pin"] == PIN1, shown
        moat("apps", "list", **TOKEN)
        conf = HOME + "/config/moat/config.toml"
        text = open(conf).read()
        with open(conf, "w") as f:
            f.write('token_file = "%s/operator.token"\n' % w.d + text)
        moat("apps", "list")  # the file names both server and token
        # another server beside it gets neither the token of the file nor its pin
        e = moat("apps", "list", "--api", "https://[::1]:%d" % PORT, "--ca-file", D + "/ca.pem", code=3)[1]
        assert "unauthorized" in e or "signed in" in e, e
        e = moat("apps", "list", "--api", "https://[::1]:%d" % PORT, code=3, **TOKEN)[1]
        assert "certificate is not accepted" in e, e
        moat("context", "set", "--ca-file", "", "--pin", "")
        assert "pin" not in open(conf).read()
        os.unlink(conf)

    @case("an event stream over TLS: an event arrives at once, the server's end ends it")
    def _():
        ctx = ssl.create_default_context(cafile=D + "/ca.pem")
        h = http.client.HTTPSConnection("localhost", PORT, context=ctx, timeout=60)
        h.sock = ctx.wrap_socket(socket.create_connection(("::1", PORT), 60), server_hostname="localhost")
        org = [o for o in w.ok("GET", "/v1/orgs")["items"] if o["name"] == "local"][0]["id"]
        h.request("GET", "/v1/orgs/%s/events/stream?after_event_id=%d" % (org, w.ok("GET", "/v1/orgs/%s/events" % org)["items"][0]["event_id"]),
                  headers={"Authorization": "Bearer " + w.token, "Accept": "application/x-ndjson"})
        r = h.getresponse()
        assert r.status == 200, (r.status, r.read())
        at = fair.now()
        w.ok("POST", "/v1/orgs/%s/apps" % org, {"name": "overtls"}, key="tls-app")
        while True:
            line = r.readline()
            assert line, "the stream ended"
            if b"app.created" in line:
                break
        took = fair.now() - at
        assert took < 5, took
        h.close()

    @case("a big body, and many requests on one connection")
    def _():
        ctx = ssl.create_default_context(cafile=D + "/ca.pem")
        h = http.client.HTTPSConnection("localhost", PORT, context=ctx, timeout=60)
        h.sock = ctx.wrap_socket(socket.create_connection(("::1", PORT), 60), server_hostname="localhost")
        for i in range(50):
            h.request("GET", "/livez")
            r = h.getresponse()
            assert r.status == 200 and r.read(), r.status
        h.request("POST", "/v1/orgs", json.dumps({"name": "x" * 900000}), {"Authorization": "Bearer " + w.token, "Content-Type": "application/json",
                                                                            "Idempotency-Key": "big"})
        assert h.getresponse().status == 400
        h.close()

    @case("a renewed certificate is served after SIGHUP; a broken one leaves the old; connections go on")
    def _():
        ctx = ssl.create_default_context(cafile=D + "/ca.pem")
        kept = ctx.wrap_socket(socket.create_connection(("::1", PORT), 60), server_hostname="localhost")
        assert served_key() == "one"
        put("two")
        w.control.send_signal(signal.SIGHUP)
        wait_for("the second certificate", lambda: served_key() == "two", 10)
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in kept.recv(500)
        kept.close()
        said = wait_for("the log line of it", lambda: next((json.loads(l) for l in open(w.d + "/control.log").read().splitlines(True) if PIN2 in l and l.endswith("\n")), None), 20)
        assert said["level"] == "warn" and said["msg"] == "api.certificate_loaded" and said["days_left"] == 2, said
        with open(D + "/live.key", "w") as f:
            f.write("broken\n")
        w.control.send_signal(signal.SIGHUP)
        wait_for("the refusal in the log", lambda: "api.certificate_not_loaded" in open(w.d + "/control.log").read(), 10)
        assert served_key() == "two"
        moat("orgs", "list", "--api", URL, "--pin", PIN2, **TOKEN)

    @case("connections that never finish a handshake take no more than their share, and the server serves others")
    def _():
        held = []
        try:
            for i in range(60):
                s = socket.create_connection(("::1", PORT), 10)
                s.sendall(b"\x16\x03\x01")
                held.append(s)
            ended = set()

            def gone():
                for s in select.select([s for s in held if s not in ended], [], [], 0)[0]:
                    try:
                        if s.recv(1) == b"":
                            ended.add(s)
                    except OSError:
                        ended.add(s)
                return len(ended)
            wait_for("the end of those above the forty", lambda: gone() >= 15)  # soon: in ten seconds the others have had their time for a handshake
            assert gone() <= 25, gone()
            assert kit.call(w.api, "GET", "/livez").status == 200
            m = kit.call(w.api, "GET", "/metrics").text.decode()
            assert "moat_api_tls_refused_total 0\n" not in m, m
        finally:
            for s in held:
                s.close()
        wait_for("room again", lambda: curl("/livez")[1].split()[-3:-2] == ["200"], 20)
        for junk in (b"\x16\x03\x01\xff\xff" + os.urandom(70000), os.urandom(5000), b"\x16\x03\x03\x00\x00" * 1000, b"\x15\x03\x03\x00\x02\x02\x28"):
            with socket.create_connection(("::1", PORT), 10) as s:
                try:
                    s.sendall(junk)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(4096):
                        pass
                except OSError:
                    pass
        assert curl("/livez")[1].split()[-3] == "200"

    @case("check-config and the start refuse what cannot work, naming key and file")
    def _():
        def check(**conf):
            text = open(w.d + "/control.toml").read()
            lines = [l for l in text.splitlines() if l.split(" = ")[0] not in conf]
            path = w.d + "/check.toml"
            with open(path, "w") as f:
                f.write("\n".join(lines + ["%s = %s" % (k, json.dumps(v)) for k, v in conf.items() if v is not None]) + "\n")
            r = subprocess.run([kit.program("moat-control"), "--config", path, "check-config"], capture_output=True, text=True, timeout=60)
            return r.returncode, r.stderr
        put("one")
        assert check() == (0, ""), check()
        code, e = check(tls_key=D + "/ca.key")
        assert code == 2 and "ca.key" in e and "belongs" in e, e
        code, e = check(tls_cert=D + "/none.pem")
        assert code == 2 and "none.pem" in e, e
        code, e = check(tls_key=None)
        assert code == 2 and "listen_https needs tls_cert and tls_key" in e, e
        code, e = check(listen_https=None)
        assert code == 2 and "listen_https" in e, e
        code, e = check(tls_min_version="1.1")
        assert code == 2 and "tls_min_version" in e, e
        code, e = check(vm_dns=["2606:4700:4700::1111", "fd00:1::53"])
        assert code == 2 and "vm_dns: 'fd00:1::53' is not of the Internet" in e, e
        code, e = check(egress_mode="open")
        assert code == 2 and "egress_mode: 'open' is not none, routed or nat66" in e, e
        for more, says in (({"dns.base_domain": "*.example.net"}, "dns.base_domain"), ({"dns.base_domain": "example.net", "dns.publish_program": "publish"}, "'publish' is no absolute path of a program"),
                           ({"dns.publish_program": "/bin/true"}, "nothing to publish without dns.base_domain"), ({"dns.base_domain": "example.net", "dns.publish_program": "/nowhere/x"}, "no absolute path")):
            code, e = check(**more)
            assert code == 2 and says in e, (more, e)
        assert check(**{"dns.base_domain": "example.net", "dns.publish_program": "/bin/true"})[0] == 0
        assert check(vm_dns=["2606:4700:4700::1111"], egress_mode="none") == (0, "")

    @case("only 1.3 when configured; a stop ends what is open and the address is free again")
    def _():
        w.conf["tls_min_version"] = "1.3"
        w.write_config()
        w.control.terminate()
        assert w.control.wait(30) == 0
        w.start_control()
        r = subprocess.run(["openssl", "s_client", "-connect", "[::1]:%d" % PORT, "-tls1_2"], input="", capture_output=True, text=True, timeout=60)
        assert "Cipher is (NONE)" in r.stdout, r.stdout
        ctx = ssl.create_default_context(cafile=D + "/ca.pem")
        s = ctx.wrap_socket(socket.create_connection(("::1", PORT), 60), server_hostname="localhost")
        assert s.version() == "TLSv1.3"
        w.control.terminate()
        assert w.control.wait(30) == 0
        assert s.recv(100) == b""
        s.close()
        w.start_control()
finally:
    w.close()
    subprocess.run(["rm", "-rf", D])

sys.exit(kit.finish())
