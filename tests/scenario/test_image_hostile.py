#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A corpus of hostile images, made here by code: each is refused with its rule of runtime.md 14 (or skipped and counted, ruling R21),
within bounds of memory and time, and a decoy tree that the layers aim at stays as it was to the last time stamp. Most go through
moat-unpack alone, one of each kind through registry, moat-fetch and the agent's image store. What single rules do to good layers is
in test_image_unpack.py.
COST 60 s, 38 s of processor."""
import gzip
import hashlib
import os
import random
import resource
import shutil
import sys
import tempfile
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from imagekit import *  # noqa: E402,F403

scratch = tempfile.mkdtemp(prefix="moat-hostile-")
os.chmod(scratch, 0o755)
store = Store(os.path.join(scratch, "images"))
decoy = os.path.join(scratch, "decoy")
report = Report()
registry = None
D, L, H = b"5", b"2", b"1"
UP = "../../../../../../../../../../.."  # more than any folder of the build is deep
PEAK_KIB = 64 << 10  # whatever the layer says: peak memory of moat-unpack and its worker
CPU_S = 20


# --- what must not change ---------------------------------------------------------------------------------------------

def make_decoy():
    """What an escape would hit, open to everybody: it is the program that has to stay out, not the modes."""
    for d in ("", "etc", "sub", "sub/deep"):
        os.makedirs(os.path.join(decoy, d), exist_ok=True)
        os.chmod(os.path.join(decoy, d), 0o777)
    for f in ("etc/passwd", "etc/shadow", "sub/f", "sub/deep/g"):
        with open(os.path.join(decoy, f), "w") as out:
            out.write("decoy " + f)
        os.chmod(os.path.join(decoy, f), 0o666)
    os.symlink("sub/f", os.path.join(decoy, "link"))
    os.mkfifo(os.path.join(decoy, "fifo"), 0o666)


def snapshot():
    """Everything about every name below the decoy, and the names beside it and in /tmp that could be an escape."""
    seen = []
    for folder, dirs, files in os.walk(decoy):
        dirs.sort()
        for name in ["."] + sorted(dirs + files):
            path = os.path.join(folder, name)
            st = os.lstat(path)
            body = open(path, "rb").read() if os.path.isfile(path) and not os.path.islink(path) else b""
            seen.append((path, st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_nlink, st.st_mtime_ns, st.st_ctime_ns, sha(body),
                         tuple(os.listxattr(path, follow_symlinks=False))))
    return (seen, sorted(os.listdir(scratch)), sorted(os.listdir(store.path)), sorted(n for n in os.listdir("/tmp") if "pwned" in n),
            sorted(n for n in os.listdir("/") if "pwned" in n))


def unpack(digest, **more):
    """moat-unpack as the agent starts it; its answer, the disk, peak KiB and processor seconds of it and its worker. The peak counts
    this process as it was at the fork too, so it is kept small: what is big here is made in a stream."""
    store.count += 1
    work = "build-%d" % store.count
    folder = os.path.join(store.path, "tmp", work)
    os.mkdir(folder, 0o700)
    request = dict({"images_dir": store.path, "work_dir": work, "digest": digest, "arch": "amd64"}, **more)
    if os.geteuid() == 0:
        os.chown(folder, UID, UID)
        request.update(uid=UID, gid=UID)
    with open(folder + ".out", "w+b") as out:
        p = subprocess.Popen([UNPACK], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL)
        p.stdin.write(json.dumps(request).encode())
        p.stdin.close()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    os.unlink(folder + ".out")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {"ok": False, "error": {"reason_code": "no_answer", "detail": "status %d" % p.returncode, "message": ""}}
    return answer, os.path.join(folder, "disk.ext4"), usage.ru_maxrss, usage.ru_utime + usage.ru_stime


def stream(chunks, how, diff_id=None):
    """An image of one layer whose bytes are made as they are packed; nothing big is held."""
    plain, packed = hashlib.sha256(), hashlib.sha256()
    path = os.path.join(scratch, "layer")
    program = {"gzip": ["gzip", "-9nc"], "zstd": ["zstd", "-q", "-c"], "plain": ["cat"]}[how] if isinstance(how, str) else how[1]
    how = how if isinstance(how, str) else how[0]
    with open(path, "wb") as out:
        p = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=out)
        for chunk in chunks:
            plain.update(chunk)
            p.stdin.write(chunk)
        p.stdin.close()
        want(p.wait() == 0, program)
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            packed.update(block)
    size = os.path.getsize(path)
    os.rename(path, os.path.join(store.path, "blobs/sha256", packed.hexdigest()))
    conf = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id or "sha256:" + plain.hexdigest()]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": dict(store.blob(json.dumps(conf).encode()), mediaType="application/vnd.oci.image.config.v1+json"),
                "layers": [{"digest": "sha256:" + packed.hexdigest(), "size": size,
                            "mediaType": "application/vnd.oci.image.layer.v1.tar" + SUFFIX[how]}]}
    return store.blob(json.dumps(manifest).encode())["digest"]


def judge(digest, rule, reason="image_layer_invalid", peak=PEAK_KIB, cpu=CPU_S, **more):
    """The image ends as @rule says (None: is accepted) within the bounds, says so as the contract has it, and the decoy is untouched."""
    before = snapshot()
    answer, disk, kib, seconds = unpack(digest, **more)
    after = snapshot()
    changed = [x for x in after[0] if x not in before[0]] or [a for a, b in zip(after[1:], before[1:]) if a != b]
    want(before == after, "something outside changed: %s" % changed[:3])
    want(kib <= peak, "peak memory of %d KiB" % kib)
    want(seconds <= cpu, "%.1f s of processor time" % seconds)
    if rule is None:
        want(answer["ok"], answer)
        return answer, disk
    want(not answer["ok"], "was accepted: %s" % answer)
    e = answer["error"]
    want(e["reason_code"] == reason and e["detail"].split(" ")[0] == rule, answer)
    if reason == "image_layer_invalid":  # names layer, entry, rule and mend
        want("(layer " in e["detail"] and e["message"].startswith("layer ") and " rule %s: " % rule in e["message"] and "; mend: " in e["message"], answer)
    want(all(c.isprintable() for c in e["detail"] + e["message"]), "a name of the layer reaches the terminal raw: %r" % answer)
    shutil.rmtree(os.path.dirname(disk), ignore_errors=True)
    return answer, None


def names(disk, folder="/"):
    out = debugfs(disk, "ls -p %s" % folder)
    return {l.split("/")[5] for l in out.splitlines() if l.count("/") >= 6} - {".", "..", "lost+found"}


def gnu(kind, name, size=None):
    """A GNU long name ('L') or long link ('K') header with its data."""
    return header(b"././@LongLink", kind, len(name) if size is None else size, magic=b"ustar  \0") + pad(name)


def with_field(at, raw, name=b"f", type=b"0", data=b""):
    """An entry with @raw bytes in its header at @at, checksum right."""
    h = bytearray(header(name, type, len(data)))
    h[at:at + len(raw)] = raw
    h[148:156] = b" " * 8
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h) + pad(data)


def b256(n, width):
    """GNU base-256; negative too."""
    return (n & ((1 << 8 * width) - 1) | 0x80 << 8 * (width - 1)).to_bytes(width, "big")


def to(path):
    return entry("x", data=b"pwned", pax_records=[("path", path.encode())])


# --- one entry after the other: (rule, what, layers) -----------------------------------------------------------------

def corpus():
    out = UP + decoy  # through the real root to the decoy, whatever the depth
    secret = decoy + "/etc/passwd"
    c = []
    # Paths. Each way in which a name can be told.
    c += [("U1", "traversal by PAX path", [tar(to(out + "/pwned"))]),
          ("U1", "traversal by GNU long name", [tar(gnu(b"L", (out + "/pwned").encode()) + entry("x", data=b"x"))]),
          ("U1", "traversal by ustar prefix", [tar(header(b"pwned", b"0", 0, prefix=b"../../../tmp"))]),
          ("U1", "traversal by .. at the end", [tar(entry("a/..", D))]),
          ("U1", "traversal by .. alone", [tar(entry("..", D))]),
          ("U1", "traversal hidden behind ./ and //", [tar(entry(".//./..//./../tmp/pwned", data=b"x"))]),
          ("U1", "traversal through a folder that exists", [tar(entry("usr", D), entry("usr/../../pwned", data=b"x"))]),
          ("U1", "traversal in a second layer", [tar(entry("a", D)), tar(to(out + "/pwned"))]),
          ("U1", "traversal of a folder", [tar(entry("../pwned/", D))]),
          ("U1", "traversal of a symlink", [tar(entry("../pwned", L, link="/etc"))]),
          ("U1", "traversal of a fifo", [tar(entry("../pwned", b"6"))]),
          ("U1", "traversal of a device", [tar(entry("../pwned", b"3"))]),
          ("U1", "traversal of a hard link", [tar(entry("a", data=b"x"), entry("../pwned", H, link="a"))]),
          ("U1", "traversal of a whiteout", [tar(entry("../.wh.decoy"))]),
          ("U1", "a PAX path of nothing", [tar(entry("x", pax_records=[("path", b"")]))]),
          ("U1", "a NUL inside a GNU long name", [tar(gnu(b"L", b"a\0b\0") + entry("x"))]),
          ("U1", "a GNU long name of nothing", [tar(gnu(b"L", b"") + entry("x"))]),
          ("U1", "a GNU long name of only NULs", [tar(gnu(b"L", b"\0" * 9) + entry("x"))]),
          ("U1", "a GNU long name that says 4 GiB", [tar(gnu(b"L", b"a" * 512, (1 << 32) - 1) + entry("x"))]),
          ("U1", "a GNU long link that says 8 GiB", [tar(gnu(b"K", b"a" * 512, (1 << 33) - 1) + entry("x", L))]),
          ("U1", "a part of 256 bytes in the middle", [tar(to("a/" + "b" * 256 + "/c"))]),
          ("U1", "a PAX path of 100 KiB", [tar(to("d/" * 51200 + "f"))])]
    # Links as parents, links as targets.
    c += [("U2", "a symlink to the decoy as parent", [tar(entry("esc", L, link=decoy), entry("esc/pwned", data=b"x"))]),
          ("U2", "the same by .., over the root", [tar(entry("esc", L, link=UP + decoy), entry("esc/pwned", data=b"x"))]),
          ("U2", "a symlink parent that a lower layer left", [tar(entry("esc", L, link=UP + decoy)), tar(entry("esc/pwned", data=b"x"))]),
          ("U2", "a folder that the same layer swaps for a symlink", [tar(entry("d", D), entry("d", L, link=UP + decoy), entry("d/pwned", data=b"x"))]),
          ("U2", "a symlink parent by a long target", [tar(entry("esc", L, pax_records=[("linkpath", ("./" * 1500 + UP + decoy).encode())]), entry("esc/pwned", data=b"x"))]),
          ("U2", "a chain of 41 links", [tar(*[entry("l%d" % i, L, link="l%d" % (i + 1)) for i in range(41)], entry("l41", D), entry("l0/pwned", data=b"x"))]),
          ("U2", "a link to itself", [tar(entry("s", L, link="s"), entry("s/pwned", data=b"x"))]),
          ("U2", "links that double on every step", [tar(*[entry("w%d" % i, L, link="w%d/w%d" % (i + 1, i + 1)) for i in range(30)], entry("w0/pwned", data=b"x"))]),
          ("U2", "a symlink to a FIFO as parent", [tar(entry("p", b"6"), entry("s", L, link="p"), entry("s/pwned", data=b"x"))]),
          ("U2", "a FIFO as parent", [tar(entry("p", b"6"), entry("p/pwned", data=b"x"))]),
          ("U2", "a hard link to an outward symlink as parent", [tar(entry("s", L, link=UP + decoy), entry("h", H, link="s"), entry("h/pwned", data=b"x"))]),
          ("U2", "a whiteout through an outward symlink", [tar(entry("esc", L, link=UP + decoy)), tar(entry("esc/etc/.wh.passwd"))]),
          ("U2", "an opaque mark through an outward symlink", [tar(entry("esc", L, link=UP + decoy)), tar(entry("esc/.wh..wh..opq"))]),
          ("U2", "a folder through an outward symlink", [tar(entry("esc", L, link=UP + decoy), entry("esc/sub", D, mode=0o777))])]
    # Hard links out.
    c += [("U6", "a hard link to the decoy by ..", [tar(entry("h", H, link=out[:90]))]),
          ("U6", "a hard link to the decoy", [tar(entry("h", H, pax_records=[("linkpath", secret.encode())]))]),
          ("U6", "a hard link by GNU long link", [tar(gnu(b"K", (UP + secret).encode()) + entry("h", H))]),
          ("U6", "a hard link to a FIFO", [tar(entry("p", b"6"), entry("h", H, link="p"))]),
          ("U6", "a hard link to a device that was skipped", [tar(entry("dev/sda", b"4"), entry("h", H, link="dev/sda"))]),
          ("U6", "a hard link to itself before it exists", [tar(entry("h", H, link="h"))]),
          ("U6", "a hard link to what a whiteout removed", [tar(entry("f", data=b"x")), tar(entry(".wh.f"), entry("h", H, link="f"))]),
          ("U6", "a hard link to nothing", [tar(entry("h", H))]),
          ("U6", "a hard link to the root", [tar(entry("h", H, link="/"))]),
          ("U2", "a hard link through an outward symlink", [tar(entry("e", L, link=UP + decoy), entry("h", H, link="e/etc/passwd"))])]
    # Types, sparse bombs.
    c += [("U4", "type %s" % t, [tar(entry("s", t.encode()))]) for t in "sXDNVA9"]
    c += [("U4", "a GNU sparse file of a TiB in a block", [tar(with_field(386, b256(0, 12) + b256(512, 12), type=b"S", data=b"x" * 512))]),
          ("U4", "a sparse file of 8 EiB by PAX 1.0", [tar(entry("s", data=b"0\n" + b"\0" * 510, pax_records=[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9223372036854775807")]))]),
          ("U4", "a sparse map by PAX 0.1", [tar(entry("s", data=b"x", pax_records=[("GNU.sparse.map", b"0,1,1099511627776,1"), ("GNU.sparse.size", b"1099511627777")]))]),
          ("U4", "a sparse name by PAX", [tar(entry("s", pax_records=[("GNU.sparse.name", b"../pwned")]))])]
    # Whiteout games.
    c += [("U7", "a whiteout of .", [tar(entry("d", D), entry("d/.wh..", data=b""))]),
          ("U7", "a whiteout of the root's parent", [tar(entry(".wh...", data=b""))]),
          ("U7", "a whiteout of nothing below a folder", [tar(entry("d/.wh.", data=b""))]),
          ("U7", "a whiteout of nothing as a folder", [tar(entry(".wh./", D))])]
    # Owners.
    c += [("U8", "an owner of 2^31 in base-256", [tar(with_field(108, b256(1 << 31, 8)))]),
          ("U8", "a group of 2^62 in base-256", [tar(with_field(116, b256(1 << 54, 8)))]),
          ("U8", "a negative owner in base-256", [tar(with_field(108, b"\xff" * 8))]),
          ("U8", "an owner of letters", [tar(with_field(108, b"root\0\0\0\0"))]),
          ("U8", "a PAX owner of -1", [tar(entry("f", pax_records=[("uid", b"-1")]))]),
          ("U8", "a PAX owner of 10^30", [tar(entry("f", pax_records=[("gid", b"1" + b"0" * 30)]))]),
          ("U8", "a PAX owner of nothing", [tar(entry("f", pax_records=[("uid", b"")]))])]
    # Extended attributes.
    c += [("U10", "an attribute twice", [tar(entry("f", pax_records=[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.a", b"2")]))]),
          ("U10", "10,000 attributes", [tar(entry("f", pax_records=[("SCHILY.xattr.user.%d" % i, b"") for i in range(10000)]))]),
          ("U10", "a capability of 64 KiB and one", [tar(entry("f", pax_records=[("SCHILY.xattr.security.capability", b"c" * 65537)]))])]
    # The format.
    c += [("U11", "a size of -1 in base-256", [tar(with_field(124, b"\xff" * 12))]),
          ("U11", "a size of 2^80 in base-256", [tar(with_field(124, b256(1 << 80, 12)))]),
          ("U11", "a size with a minus", [tar(with_field(124, b"-0000000001\0"))]),
          ("U11", "a size of letters", [tar(with_field(124, b"huge\0"))]),
          ("U11", "a PAX size of 2^63", [tar(entry("f", pax_records=[("size", b"9223372036854775808")]))]),
          ("U11", "a PAX size of -1", [tar(entry("f", pax_records=[("size", b"-1")]))]),
          ("U11", "a mode of letters", [tar(with_field(100, b"rwxrwxrw"))]),
          ("U11", "a time of letters", [tar(with_field(136, b"yesterday\0\0\0"))]),
          ("U11", "a checksum of another header", [tar(entry("f", checksum=4711))]),
          ("U11", "a checksum of no number", [tar(entry("f")[:148] + b"????????" + entry("f")[156:])]),
          ("U11", "a PAX header that says 4 GiB", [tar(header(b"x", b"x", (1 << 32) - 1) + b"\0" * 512)]),
          ("U11", "a PAX name that says 4 GiB", [tar(header(b"x", b"x", 40) + pad(b"4294967296 path=" + b"a" * 24), entry("f"))]),
          ("U11", "a PAX record of length 0", [tar(header(b"x", b"x", 9) + pad(b"0 path=a\n"), entry("f"))]),
          ("U11", "a PAX record of 20 digits", [tar(header(b"x", b"x", 30) + pad(b"18446744073709551616 path=aaa\n"), entry("f"))]),
          ("U11", "a PAX record without =", [tar(header(b"x", b"x", 8) + pad(b"8 pathx\n"), entry("f"))]),
          ("U11", "a NUL in a PAX key", [tar(header(b"x", b"x", 12) + pad(b"12 pa\0th=a\n"), entry("f"))]),
          ("U11", "two PAX headers before one entry", [tar(header(b"x", b"x", 10) + pad(b"10 path=a\n") + header(b"x", b"x", 10) + pad(b"10 path=b\n"), entry("f"))]),
          ("U11", "an archive that ends after a PAX header", [tar(header(b"x", b"x", 10) + pad(b"10 path=a\n"))]),
          ("U11", "an archive that ends after a long name", [tar(gnu(b"L", b"name"))]),
          ("U11", "a bad global PAX header", [tar(header(b"g", b"g", 5) + pad(b"nope\n"), entry("f"))]),
          ("U11", "a symlink with data", [tar(header(b"l", L, 512, link=b"x") + b"x" * 512)]),
          ("U11", "a device with data", [tar(header(b"d", b"3", 512) + b"x" * 512)]),
          ("U11", "a FIFO with data", [tar(header(b"p", b"6", 512) + b"x" * 512)]),
          ("U11", "a hard link with data", [tar(entry("a"), header(b"h", H, 512, link=b"a") + b"x" * 512)]),
          ("U11", "an archive cut in its header", [entry("a")[:300]]),
          ("U11", "no archive at all", [b"#!/bin/sh\nrm -rf /\n" * 100]),
          ("U12", "folders nested 300 deep by PAX", [tar(to("/".join(["d"] * 300)))]),
          ("diff_id", "an archive with another diff_id", None)]
    return c


# --- accepted, but nothing of it may steer or leave -------------------------------------------------------------------

def skipped():
    """Ruling R21: device nodes are skipped and counted, odd links are kept as they are."""
    answer, disk = judge(store.image([tar(entry("dev/", D), entry("dev/mem", b"3"), entry("dev/sda", b"4"), entry("etc/pw", b"3", mode=0o6777),
                                          entry("abs", L, link=decoy + "/etc/passwd"), entry("rel", L, link="../../../../etc/shadow"),
                                          entry("dangling", L, link="nowhere"), entry("loop", L, link="loop"), entry("f", data=b"x"))]), None)
    want(answer["devices_skipped"] == 3, answer)
    want(names(disk) == {"dev", "abs", "rel", "dangling", "loop", "f"} and names(disk, "/dev") == set(), names(disk))
    want(decoy in debugfs(disk, "stat /abs"), "a link is stored as it is")


def overlay_device():
    """A character device 0:0 is overlayfs's whiteout: skipped, counted, and it removes nothing."""
    answer, disk = judge(store.image([tar(entry("keep", data=b"1")), tar(entry("keep", b"3"))]), None)
    want(answer["devices_skipped"] == 1 and names(disk) == {"keep"} and debugfs(disk, "cat /keep") == "1", answer)


def over_links():
    """The last part of a path is never followed: what lies at the end of a link is not written, not chmodded, not removed."""
    low = tar(entry("out", L, link=UP + decoy + "/sub/f"), entry("dir", L, link=UP + decoy + "/sub"), entry("gone", L, link=UP + decoy + "/etc"), entry("in", L, link="real"),
              entry("real", data=b"real", mode=0o600))
    up = tar(entry("out", data=b"mine", mode=0o6777), entry("dir", D, mode=0o777), entry(".wh.gone"), entry("in", data=b"new", mode=0o4755))
    _, disk = judge(store.image([low, up]), None)
    want(names(disk) == {"out", "dir", "in", "real"} and debugfs(disk, "cat /out") == "mine" and debugfs(disk, "cat /real") == "real", names(disk))
    want("Mode:  0600" in debugfs(disk, "stat /real") and "Type: directory" in debugfs(disk, "stat /dir"), "what a link pointed to")


def whiteouts():
    """Opaque at the root, a whiteout of the folder that the same layer writes to, of its parent, twice, through an inner link."""
    low = tar(entry("a/b/c", data=b"1"), entry("a/b/d", data=b"2"), entry("e", data=b"3"), entry("s", L, link="a"))
    _, disk = judge(store.image([low, tar(entry("n/x", data=b"n"), entry(".wh..wh..opq"), entry(".wh..wh..opq"))]), None)
    want(names(disk) == {"n"}, names(disk))
    _, disk = judge(store.image([low, tar(entry("a/b/new", data=b"n"), entry("a/.wh.b"), entry(".wh.a"), entry(".wh.a"), entry("s/b/.wh.c"))]), None)
    want(names(disk) == {"a", "e", "s"} and names(disk, "/a/b") == {"new"}, names(disk, "/a/b"))
    _, disk = judge(store.image([low, tar(entry("none/.wh.x"), entry("none/.wh..wh..opq"), entry("e/.wh.x"), entry(".wh..wh.orph", D))]), None)
    want(names(disk) == {"a", "e", "s"}, names(disk))


def setuid():
    """A hard link entry and its mode change nothing at the file it names; suid survives only where the entry itself says so."""
    _, disk = judge(store.image([tar(entry("f", data=b"x", mode=0o644, uid=5), entry("h", H, link="f", mode=0o6755, uid=0), entry("s", data=b"x", mode=0o104755, uid=0),
                                     entry("l", L, link="s", mode=0o6777), entry("d", D, mode=0o3777), entry("cap", L, link="x", pax_records=[("SCHILY.xattr.security.capability", b"\1" * 20)]))]), None)
    want("Mode:  0644" in debugfs(disk, "stat /f") and "User:     5" in debugfs(disk, "stat /f"), debugfs(disk, "stat /f"))
    want("Mode:  04755" in debugfs(disk, "stat /s") and "Mode:  03777" in debugfs(disk, "stat /d"), debugfs(disk, "stat /s"))
    want("capability" not in debugfs(disk, "ea_list /cap"), "a capability on a link")


def attributes():
    """security.* but the capability, trusted.*, system.* and what steers overlayfs are dropped; 64 of the user's are kept."""
    bad = ["security.selinux", "security.ima", "security.evm", "trusted.overlay.opaque", "trusted.x", "system.posix_acl_access", "user.overlay.opaque", "user.overlay.redirect",
           "nothing", "user.", ""]
    _, disk = judge(store.image([tar(entry("f", pax_records=[("SCHILY.xattr." + n, b"y") for n in bad] + [("SCHILY.xattr.user.ok", b"1")]),
                                     entry("g", pax_records=[("SCHILY.xattr.user.%02d" % i, b"v") for i in range(64)]))]), None)
    listed = debugfs(disk, "ea_list /f")
    want("user.ok" in listed and not any(n in listed for n in bad[:-2]), listed)
    want(debugfs(disk, "ea_list /g").count("user.") == 64, debugfs(disk, "ea_list /g"))
    # Each within its limits, together more than ext4 holds: found when all layers are one tree, so the attribute is named, not a layer.
    answer, _, kib, _ = unpack(store.image([tar(entry("f", pax_records=[("SCHILY.xattr.user.%d" % i, os.urandom(4000)) for i in range(60)]))]))
    want(not answer["ok"] and answer["error"]["detail"].startswith("U10 user.") and kib <= PEAK_KIB, answer)


def bytes_as_names():
    """Case pairs, two Unicode forms of one name, invalid UTF-8, control characters: names are bytes, each its own."""
    odd = [b"File", b"file", b"FILE", "n\u00e9".encode(), "ne\u0301".encode(), b"bad\xff\xfe", b"\xc0\xaf", b"\xe2\x80\xae", b"tab\tname", b"C:\\x", b"-rf", b" ", b"...", b"a\x7f", b"\\..\\up"]
    answer, disk = judge(store.image([tar(*[entry(n, data=b"%d" % i) for i, n in enumerate(odd)])]), None)
    want(answer["entries"] == len(odd), answer)
    want(debugfs(disk, "cat /File") == "0" and debugfs(disk, "cat /file") == "1" and debugfs(disk, "cat /FILE") == "2", "case pairs are different files")
    want(debugfs(disk, "ls -p /").count("/100644/") == len(odd), debugfs(disk, "ls -p /"))
    judge(store.image([tar(entry(b"\x1b[2J\xff\n/../x", data=b"x"))]), "U1")  # and none of them reaches a terminal raw


def duplicates():
    """A path told again and again: the last wins, whatever types it had."""
    _, disk = judge(store.image([tar(entry("x", data=b"1"), entry("x", D), entry("x/in", data=b"2"), entry("x", L, link=decoy), entry("x", b"6"), entry("x", data=b"last"),
                                     entry("y", data=b"1"), entry("./y", data=b"2"), entry("/y", data=b"3"))]), None)
    want(names(disk) == {"x", "y"} and debugfs(disk, "cat /x") == "last" and debugfs(disk, "cat /y") == "3", names(disk))


# --- size: bombs, floods ------------------------------------------------------------------------------------------------

ZERO = b"\0" * (1 << 20)


def one_file(mib):
    yield header(b"big", b"0", mib << 20)
    for _ in range(mib):
        yield ZERO
    yield b"\0" * 1024


def bombs():
    for how in ("gzip", "zstd"):
        judge(stream(one_file(1024), how), "U12")  # gzip at its best makes 1028 to 1 of zeros, zstd more
    big = header(b"big", b"0", 260 << 20) + b"\0" * ((4 << 20) - 512)  # many members or frames: what counts is the whole
    for how in ("gzip", "zstd"):
        more = subprocess.run(["gzip", "-9nc"] if how == "gzip" else ["zstd", "-qc"], input=ZERO * 4, stdout=subprocess.PIPE).stdout
        judge(raw_layer([compress(big, how)] + [more] * 64, how), "U12")


def raw_layer(packed_chunks, how):
    """An image whose layer blob is @packed_chunks as they are."""
    h, path = hashlib.sha256(), os.path.join(scratch, "raw")
    with open(path, "wb") as f:
        for chunk in packed_chunks:
            h.update(chunk)
            f.write(chunk)
    size = os.path.getsize(path)
    os.rename(path, os.path.join(store.path, "blobs/sha256", h.hexdigest()))
    conf = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    manifest = {"schemaVersion": 2, "config": dict(store.blob(json.dumps(conf).encode()), mediaType="application/vnd.oci.image.config.v1+json"),
                "layers": [{"digest": "sha256:" + h.hexdigest(), "size": size, "mediaType": "application/vnd.oci.image.layer.v1.tar" + SUFFIX[how]}]}
    return store.blob(json.dumps(manifest).encode())["digest"]


def below_the_ratio():
    """What stays below 1000 to 1 is still bounded by the bytes that an image may have."""
    noise = os.urandom(1 << 16)

    def chunks():
        yield header(b"big", b"0", 256 << 20)
        for _ in range(256):
            yield noise + ZERO[:-(1 << 16)]
        yield b"\0" * 1024
    judge(stream(chunks(), "gzip"), "file_bytes", "image_too_large", max_unpacked_bytes=100 << 20)


def declared():
    """Sizes that are only claimed cost nothing: refused before a byte is written."""
    judge(store.image([tar(with_field(124, b256(1 << 62, 12)))]), "file_bytes", "image_too_large")
    judge(store.image([tar(entry("f", pax_records=[("size", b"9223372036854775807")]))]), "file_bytes", "image_too_large")
    judge(store.image([header(b"a", b"0", 40 << 30) + b"x" * 512]), "U11")  # below the limit, but the archive ends


def windows():
    """zstd frames that ask for more window memory than a reader must give; one of the most that ordinary tools make is read."""
    judge(stream(one_file(2), ("zstd", ["zstd", "-q", "-c", "--long=31"])), "U11")
    judge(stream(one_file(2), ("zstd", ["zstd", "-q", "-c", "--long=27"])), None, peak=224 << 10)
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, (31 - 10) << 3]) + b"\x01\0\0"  # RFC 8878: window descriptor of 2 GiB, an empty last block
    judge(raw_layer([frame], "zstd"), "U11")
    judge(raw_layer([b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + b"s" * 64], "zstd"), "U11")  # a skippable frame that says 4 GiB
    judge(raw_layer([b"\x50\x2a\x4d\x18\0\0\0\0" * 20000], "zstd"), "diff_id")  # 20,000 empty frames are an empty layer
    judge(raw_layer([gzip.compress(b"")] * 20000, "gzip"), "diff_id")


def cut_and_padded():
    """Truncated at many places, and with garbage behind: never accepted, in each compression."""
    t = tar(*[entry("f%d" % i, data=random.Random(i).randbytes(3000)) for i in range(20)])
    for how in ("gzip", "zstd"):
        packed = compress(t, how)
        for n in (1, 3, 10, len(packed) // 2, len(packed) - 9, len(packed) - 1):
            judge(raw_layer([packed[:n]], how), "U11")
        judge(raw_layer([packed + b"garbage behind the end"], how), "U11")
    for n in (100, 511, 513, 2000, len(t) - 4096):
        judge(raw_layer([t[:n]], "plain"), "U11")
    judge(raw_layer([b"\x1f\x8b\x08\x04\0\0\0\0\0\0\xff\xff" + b"x" * 100], "gzip"), "U11")  # an extra field of 64 KiB that is not there
    judge(raw_layer([compress(t, "gzip")], "zstd"), "U11")
    judge(raw_layer([compress(t, "zstd")], "gzip"), "U11")


def numbered(n):
    """@n empty files of different names; the header's checksum is kept up by arithmetic."""
    base = bytearray(header(b"d/0000000", b"0", 0))
    total = sum(base[:148]) + sum(base[156:]) + 8 * 32 - 7 * 48
    block = []
    for i in range(n):
        digits = b"%07d" % i
        base[2:9] = digits
        base[148:154] = b"%06o" % (total + sum(digits))
        block.append(bytes(base))
        if len(block) == 512:
            yield b"".join(block)
            block.clear()
    yield b"".join(block) + b"\0" * 1024


def million():
    """10^6 entries are within the limit: read in bounded memory and time, all of them. One above the limit is refused."""
    answer, disk = judge(stream(numbered(1000000), "zstd"), None, peak=512 << 10, cpu=120)
    want(answer["entries"] == 1000000, answer)
    shutil.rmtree(os.path.dirname(disk))

    def same(n):
        h = header(b"d/again", b"0", 0) * 512
        for _ in range(n // 512):
            yield h
        yield header(b"d/again", b"0", 0) * (n % 512) + b"\0" * 1024
    judge(stream(same(2000001), "zstd"), "U12", peak=PEAK_KIB)  # one name two million times: a ratio bomb first
    judge(stream(numbered(100001), "zstd"), "entries", "image_too_large", max_entries=100000, peak=128 << 10)


def mutated():
    """300 archives with bytes flipped by a seed: whatever becomes of each, an answer comes, no worker dies, the decoy stays."""
    rng = random.Random(20261128)
    parts = [entry("a", data=b"x" * 700), entry("d", D), entry("d/f", data=b"y", pax_records=[("path", b"d/other"), ("SCHILY.xattr.user.a", b"1"), ("mtime", b"12.5")]),
             entry("l", L, link=UP + decoy), entry("h", H, link="a"), gnu(b"L", b"long/" * 40) + entry("x", data=b"z"), entry("d/.wh.f"), entry("d/.wh..wh..opq"), entry("dev", b"3"),
             entry("p", b"6"), entry("l/pwned", data=b"w"), entry("../pwned", data=b"w")]
    ends = {}
    before = snapshot()
    for _ in range(300):
        layers = []
        for _ in range(rng.randint(1, 3)):
            t = bytearray(b"".join(rng.sample(parts, rng.randint(1, 6))) + b"\0" * 1024)
            for _ in range(rng.randint(0, 2)):
                block = rng.randrange(len(t) // 512) * 512
                t[block + rng.choice([rng.randrange(512), 156, 124 + rng.randrange(12), 345 + rng.randrange(9)])] = rng.randrange(256)
                h = bytearray(t[block:block + 512])
                if rng.random() < 0.8 and any(h):  # most are repaired: the checksum must not be what saves us
                    h[148:156] = b" " * 8
                    t[block + 148:block + 156] = b"%06o\0 " % sum(h)
            layers.append(bytes(t))
        answer, disk, kib, _ = unpack(store.image(layers, how="plain"))
        end = "ok" if answer["ok"] else answer["error"]["detail"].split(" ")[0]
        want(answer["ok"] or answer["error"]["reason_code"] in ("image_layer_invalid", "image_too_large"), answer)
        want(kib <= PEAK_KIB, kib)
        ends[end] = ends.get(end, 0) + 1
        shutil.rmtree(os.path.dirname(disk))
    want(before == snapshot(), "something outside changed")
    want(ends.get("ok", 0) > 20 and len(ends) >= 5, ends)  # the generator reaches both sides


# --- through registry, moat-fetch and the agent's image store -----------------------------------------------------------

def ensure(digest, images):
    r = subprocess.run([TOOL, images, FETCH, UNPACK, "--local", registry.host, "ensure", registry.host + "/h", digest, "amd64"], stdout=subprocess.PIPE, timeout=300)
    return json.loads(r.stdout)


def whole_way():
    """One of each kind as the agent does it. The store is left without a disk, a folder, a process; and remembers that it failed."""
    global registry
    registry = Registry(os.path.join(scratch, "registry"))
    picked, seen = [], set()
    for rule, what, layers in corpus():
        if rule not in seen and layers:
            seen.add(rule)
            picked.append((rule, what, store.image(layers)))
    picked.append(("diff_id", "another diff_id", store.image([tar(entry("f"))], diff_ids=["sha256:" + "0" * 64])))
    images = os.path.join(scratch, "agent")
    before = None
    for i, (rule, what, digest) in enumerate(picked):
        registry.push(layout(store, os.path.join(scratch, "oci%d" % i), "t%d" % i, digest), "h:t%d" % i)
        shutil.rmtree(os.path.join(scratch, "oci%d" % i))
        os.makedirs(images, exist_ok=True)
        before = before or snapshot()
        a = ensure(digest, images)
        want(not a["ok"] and a["reason"] == "image_layer_invalid" and a["detail"].split(" ")[0] == rule, (what, a))
        want("(layer " in a["detail"] and "mend: " in a["message"], a)
        want(os.listdir(images + "/rootdisks") == [] and os.listdir(images + "/tmp") == ["fetch"], (what, os.listdir(images + "/tmp")))
    want(before == snapshot(), "something outside changed")
    want(len(picked) >= 9, picked)
    shutil.rmtree(images)


def fetched():
    """What moat-fetch refuses before a layer is opened: documents that lie about number and size."""
    images = os.path.join(scratch, "agent")
    good = json.loads(open(store.path + "/blobs/sha256/" + store.image([tar(entry("f"))])[7:]).read())

    def lying(change):
        m = json.loads(json.dumps(good))
        change(m)
        text = json.dumps(m).encode()
        d = store.blob(text)["digest"]
        url = "http://%s/v2/h/manifests/%s" % (registry.host, d)
        q = urllib.request.Request(url, text, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, method="PUT")
        try:
            urllib.request.urlopen(q, timeout=120).close()
        except urllib.error.HTTPError as e:
            raise AssertionError("the registry does not take the manifest: %d" % e.code)
        os.makedirs(images, exist_ok=True)
        return ensure(d, images)
    registry.push(layout(store, os.path.join(scratch, "ocig"), "g", store.image([tar(entry("f"))])), "h:g")
    shutil.rmtree(os.path.join(scratch, "ocig"))
    before = snapshot()
    for what, change, reason in (
            ("a layer that says less than it has", lambda m: m["layers"][0].update(size=10), "image_pull_failed"),
            ("129 layers", lambda m: m.update(layers=m["layers"] * 129), "image_too_large"),
            ("10 GiB and more in all", lambda m: m["layers"][0].update(size=11 << 30), "image_too_large"),
            ("two layers, one diff_id", lambda m: m.update(layers=m["layers"] * 2), "image_pull_failed"),
            ("no layers", lambda m: m.update(layers=[]), None),
            ("an encrypted layer", lambda m: m["layers"][0].update(mediaType="application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "image_layer_invalid")):
        a = lying(change)
        want(not a["ok"] and (reason is None or a["reason"] == reason), (what, a))
        want(os.listdir(images + "/rootdisks") == [], what)
    shutil.rmtree(images)
    want(before == snapshot(), "something outside changed")


try:
    missing = [p for p in (FETCH, UNPACK, TOOL) if not os.path.exists(p)]
    if missing:
        print("not ok - programs: %s is not built" % missing[0])
        sys.exit(1)
    make_decoy()
    for rule, what, layers in corpus():
        if layers is None:
            report.case("diff_id: %s is refused" % what, lambda: judge(store.image([tar(entry("f"))], diff_ids=["sha256:" + "0" * 64]), "diff_id"))
        else:
            report.case("%s: %s is refused" % (rule, what), lambda: judge(store.image(layers), rule))
    for title, fn in (("R21: devices are skipped and counted, links kept as they are", skipped), ("U4: a device is no whiteout", overlay_device),
                      ("U3: what a link points to is never touched", over_links), ("U7: whiteouts of root, parent and link hit lower content only", whiteouts),
                      ("U9: setuid tricks with links change nothing", setuid), ("U10: attributes that steer are dropped", attributes),
                      ("U13: names are bytes and shown without harm", bytes_as_names), ("U13: of duplicates the last wins", duplicates),
                      ("U12: bombs of gzip and zstd are refused early", bombs), ("U12: below the ratio the byte limit holds", below_the_ratio),
                      ("U12: sizes that are only claimed cost nothing", declared), ("U11: zstd windows and empty frames", windows),
                      ("U11: cut layers and garbage behind", cut_and_padded), ("U12: a million entries within bounds, more are refused", million),
                      ("300 mutated archives leave the decoy alone", mutated)):
        report.case(title, fn)
    absent = [p for p in ("docker-registry", "skopeo") if not shutil.which(p)]
    if absent:
        print("skip - the way through a registry: %s is not installed" % absent[0])
    else:
        report.case("through registry, moat-fetch and the image store: one of each rule", whole_way)
        report.case("documents that lie are refused by moat-fetch", fetched)
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report.case("this test itself stays below the peak it asserts", lambda: want(mine < PEAK_KIB, mine))
finally:
    if registry:
        registry.stop()
    shutil.rmtree(scratch, ignore_errors=True)
sys.exit(1 if report.failed else 0)
