# SPDX-License-Identifier: Apache-2.0
"""First flights of real TLS clients, made now by the programs that are on this machine: {label: (name or None, bytes)}."""
import hashlib
import os
import shutil
import socket
import subprocess
import threading

GO = """package main
import ("crypto/tls"; "net"; "os")
func main() {
    versions := map[string]uint16{"1.0": tls.VersionTLS10, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
    for _, a := range os.Args[3:] {
        c := &tls.Config{ServerName: os.Args[2], InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: versions["1.3"]}
        if v, ok := versions[a]; ok { c.MaxVersion = v }
        if a == "alpn" { c.NextProtos = []string{"h2", "http/1.1"} }
        if a == "classic" { c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} }
        conn, err := net.Dial("tcp", os.Args[1])
        if err != nil { panic(err) }
        tls.Client(conn, c).Handshake()
        conn.Close()
    }
}
"""
JAVA = """import javax.net.ssl.*;
public class H {
    public static void main(String[] a) throws Exception {
        for (String v : new String[]{"TLSv1.2", "TLSv1.3"}) {
            SSLContext c = SSLContext.getInstance(v); c.init(null, null, null);
            SSLSocket s = (SSLSocket) c.getSocketFactory().createSocket(java.net.InetAddress.getByName("::1"), Integer.parseInt(a[0]));
            SSLParameters p = s.getSSLParameters();
            p.setServerNames(java.util.List.of(new SNIHostName(a[1]))); s.setSSLParameters(p);
            try { s.startHandshake(); } catch (Exception e) { }
            s.close();
        }
    }
}
"""
NODE = """const tls=require('tls');const [port,name]=process.argv.slice(1);
const tries=[{},{maxVersion:'TLSv1.2'},{ALPNProtocols:['h2']},{minVersion:'TLSv1.3'}];
(function go(i){if(i==tries.length)return;const s=tls.connect(Object.assign({host:'::1',port:+port,servername:name,rejectUnauthorized:false},tries[i]));
let once=()=>{once=()=>{};go(i+1)};s.on('error',once);s.on('close',once)})(0)"""


class Trap:
    """listens, keeps the first flight of each connection, answers nothing and closes"""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET6)
        self.sock.bind(("::1", 0))
        self.sock.listen(64)
        self.port = self.sock.getsockname()[1]
        self.got = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            data = b""
            c.settimeout(5)
            try:  # until one record, or as many as the message says, is whole
                while len(data) < 9 or len(data) < 9 + int.from_bytes(data[6:9], "big"):
                    d = c.recv(65536)
                    if not d:
                        break
                    data += d
            except OSError:
                pass
            self.got.append(data)
            c.close()

    def end(self):
        self.sock.close()


def _run(argv, **kw):
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=kw.pop("timeout", 30), **kw)
    except subprocess.TimeoutExpired:
        pass


def _go():
    return shutil.which("go") or ("/usr/local/go/bin/go" if os.path.exists("/usr/local/go/bin/go") else None)


def _go_version():
    r = subprocess.run([_go(), "env", "GOVERSION"], stdout=subprocess.PIPE, text=True, env=dict(os.environ, GOTOOLCHAIN="local"))
    return r.stdout.strip()


def go_knows_ml_kem():
    words = _go_version().removeprefix("go").split(".")
    return len(words) > 1 and (int(words[0]), int(words[1])) >= (1, 24)


def _go_client(folder):
    """path of the client, or None; compiling Go's library takes a minute of processor time, so the build tree keeps it for the next run"""
    kept = os.path.join(os.environ.get("MOAT_BUILD") or os.path.join(os.path.dirname(__file__), "../../build"), "hello-go")
    path = os.path.join(kept, hashlib.sha256((_go_version() + GO).encode()).hexdigest()[:16])
    if os.path.exists(path):
        return path
    with open(os.path.join(folder, "h.go"), "w") as f:
        f.write(GO)
    env = dict(os.environ, GOCACHE=os.path.join(folder, "gocache"), GO111MODULE="off", HOME=folder, GOTOOLCHAIN="local", CGO_ENABLED="0")
    try:
        subprocess.run([_go(), "build", "-o", "h", "h.go"], cwd=folder, env=env, timeout=400, check=True, stdin=subprocess.DEVNULL)
        os.makedirs(kept, exist_ok=True)
        shutil.copy(os.path.join(folder, "h"), path + ".part.%d" % os.getpid())
        os.rename(path + ".part.%d" % os.getpid(), path)
    except (OSError, subprocess.SubprocessError) as e:
        print("# go's client does not build: %s" % e)
        return None
    return path


def capture(folder, name="Corpus.Example.com"):
    """(hellos, programs that are missing)"""
    trap = Trap()
    out, missing = {}, []
    at = "[::1]:%d" % trap.port

    def take(label, sni, argv, count=1, **kw):
        before = len(trap.got)
        _run(argv, **kw)
        for i, data in enumerate(trap.got[before:][:count]):
            if data:
                out["%s#%d" % (label, i)] = (sni, data)

    s = ["openssl", "s_client", "-connect", at]
    for label, more in (("tls1", ["-tls1", "-cipher", "ALL:@SECLEVEL=0"]), ("tls1_1", ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]), ("tls1_2", ["-tls1_2"]),
                        ("tls1_3", ["-tls1_3"]), ("default", []), ("alpn", ["-alpn", "h2,http/1.1"]), ("no_ticket", ["-no_ticket"]),
                        ("groups", ["-groups", "P-521:P-384:X448:X25519"]), ("status", ["-status"]), ("npn", ["-nextprotoneg", "http/1.1"]),
                        ("manyalpn", ["-alpn", ",".join("p%05d" % i for i in range(300))]), ("srp", ["-psk", "aabb", "-psk_identity", "me"])):
        take("openssl_" + label, name, s + ["-servername", name] + more)
    take("openssl_noname", None, s + ["-noservername"])
    take("openssl_dot", name, s + ["-servername", name + "."])
    for label, more in (("default", []), ("http1", ["--http1.1"]), ("tls12", ["--tls-max", "1.2"]), ("tls13", ["--tlsv1.3"])):
        take("curl_" + label, name.lower(), ["curl", "-sk", "--max-time", "5", "--resolve", "%s:%d:[::1]" % (name, trap.port)] + more +
             ["https://%s:%d/" % (name, trap.port)])
    for program, argv, count in (("gnutls-cli", ["gnutls-cli", "--insecure", "--sni-hostname", name, "-p", str(trap.port), "::1"], 1),
                                 ("gnutls-cli", ["gnutls-cli", "--insecure", "--sni-hostname", name, "--priority", "NORMAL:-VERS-TLS1.3", "-p", str(trap.port), "::1"], 1),
                                 ("gnutls-cli", ["gnutls-cli", "--insecure", "--sni-hostname", name, "--priority", "SECURE256:+VERS-TLS1.0", "-p", str(trap.port), "::1"], 1),
                                 ("node", ["node", "-e", NODE, str(trap.port), name], 4)):
        if not shutil.which(program):
            missing.append(program)
            continue
        take(program + ("%d" % len(out)), name, argv, count)
    go = _go_client(folder) if _go() else None
    if go:
        take("go", name, [go, at, name, "1.0", "1.2", "1.3", "alpn", "classic"], 5, env=dict(os.environ, GODEBUG="tlsmlkem=1"))
    else:
        missing.append("go")
    if shutil.which("java") and shutil.which("javac"):
        with open(os.path.join(folder, "H.java"), "w") as f:
            f.write(JAVA)
        take("java", name, ["java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", os.path.join(folder, "H.java"), str(trap.port), name], 2, timeout=90)
    else:
        missing.append("java")
    trap.end()
    return out, sorted(set(missing))
