#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moat-unpack against good and hostile layers, made here byte by byte. Every rule of runtime.md 14 has its case.
COST 17 s, 10 s of processor."""
import os
import shutil
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from imagekit import *  # noqa: E402,F403

scratch = tempfile.mkdtemp(prefix="moat-unpack-")
os.chmod(scratch, 0o755)
store = Store(os.path.join(scratch, "images"))
report = Report()


def unpack(layers, **kw):
    image = {k: kw.pop(k) for k in ("how", "config", "arch", "diff_ids", "media") if k in kw}
    return store.unpack(UNPACK, store.image(layers, **image), **kw)


def good(layers, **kw):
    answer, disk = unpack(layers, **kw)
    want(answer["ok"], answer)
    return answer, disk


def refused(rule, layers, reason="image_layer_invalid", **kw):
    """The layer fails, names the rule, leaves no file outside, and the outside is as before."""
    before = sorted(os.listdir(scratch))
    answer, disk = unpack(layers, **kw)
    want(not answer["ok"], "was accepted: %s" % answer)
    want(answer["error"]["reason_code"] == reason, answer)
    want(answer["error"]["detail"].split(" ")[0] == rule, answer)
    want(sorted(os.listdir(scratch)) == before and not os.path.exists("/tmp/moat-pwned"), "something appeared outside")


def names(disk, folder="/"):
    out = debugfs(disk, "ls -p %s" % folder)
    return {l.split("/")[5] for l in out.splitlines() if l.count("/") >= 6} - {".", "..", "lost+found"}


def stat(disk, path):
    return debugfs(disk, "stat %s" % path)


D = b"5"
HOSTILE = [
    ("U1", "a path with ..", [tar(entry("../moat-pwned", data=b"x"))]),
    ("U1", "a path with .. inside", [tar(entry("a/../../moat-pwned", data=b"x"))]),
    ("U1", "an absolute path with ..", [tar(entry("/tmp/../../moat-pwned", data=b"x"))]),
    ("U1", "an empty path", [tar(entry("", data=b"x"))]),
    ("U1", "a part of 256 bytes", [tar(entry("x", data=b"1", pax_records=[("path", b"a" * 256)]))]),
    ("U1", "a path of 4097 bytes", [tar(entry("x", pax_records=[("path", b"a/" * 2048 + b"b")]))]),
    ("U1", "a NUL in a PAX path", [tar(entry("x", pax_records=[("path", b"a\0b")]))]),
    ("U1", "a file in place of the root", [tar(entry("./", b"2", link="/etc"))]),
    ("U2", "a link to outside in the same layer", [tar(entry("esc", b"2", link="../../../../tmp"), entry("esc/moat-pwned", data=b"x"))]),
    ("U2", "a link to outside in a lower layer", [tar(entry("esc", b"2", link="../tmp")), tar(entry("esc/moat-pwned", data=b"x"))]),
    ("U2", "an absolute link with ..", [tar(entry("esc", b"2", link="/../tmp"), entry("esc/moat-pwned", data=b"x"))]),
    ("U2", "a chain of links to outside", [tar(entry("a", b"2", link="b"), entry("b", b"2", link="../x"), entry("a/moat-pwned", data=b"x"))]),
    ("U2", "an absolute link to what the image lacks", [tar(entry("esc", b"2", link="/tmp/out"), entry("esc/f", data=b"x"))]),
    ("U2", "a loop of links", [tar(entry("a", b"2", link="b"), entry("b", b"2", link="a"), entry("a/f", data=b"x"))]),
    ("U2", "a file as parent in the same layer", [tar(entry("a", data=b"1"), entry("a/f", data=b"x"))]),
    ("U4", "a GNU sparse file", [tar(entry("s", b"S", magic=b"ustar  \0"))]),
    ("U4", "a PAX sparse file", [tar(entry("s", data=b"1", pax_records=[("GNU.sparse.major", b"1")]))]),
    ("U4", "a contiguous file", [tar(entry("c", b"7"))]),
    ("U4", "a multi-volume part", [tar(entry("m", b"M"))]),
    ("U4", "an unknown type", [tar(entry("q", b"Q"))]),
    ("U5", "a link without target", [tar(entry("l", b"2"))]),
    ("U6", "a hard link to outside", [tar(entry("h", b"1", link="../../etc/passwd"))]),
    ("U6", "an absolute hard link to the host", [tar(entry("h", b"1", link="/etc/passwd"))]),
    ("U6", "a hard link to a folder", [tar(entry("d", D), entry("h", b"1", link="d"))]),
    ("U6", "a hard link to a later file", [tar(entry("h", b"1", link="f"), entry("f", data=b"x"))]),
    ("U2", "a hard link through a link to outside", [tar(entry("e", b"2", link="../.."), entry("h", b"1", link="e/etc/passwd"))]),
    ("U7", "a whiteout of nothing", [tar(entry(".wh.", data=b""))]),
    ("U7", "a whiteout of ..", [tar(entry("a", D), entry("a/.wh...", data=b""))]),
    ("U8", "an owner above 2^31-1", [tar(entry("f", pax_records=[("uid", b"2147483648")]))]),
    ("U8", "a negative owner", [tar(entry("f", pax_records=[("gid", b"-1")]))]),
    ("U10", "65 attributes", [tar(entry("f", pax_records=[("SCHILY.xattr.user.%d" % i, b"v") for i in range(65)]))]),
    ("U10", "an attribute of 64 KiB and one", [tar(entry("f", pax_records=[("SCHILY.xattr.user.a", b"v" * 65537)]))]),
    ("U11", "a wrong header checksum", [tar(entry("f", checksum=1))]),
    ("U11", "a PAX header of more than 1 MiB", [tar(entry("f", pax_records=[("comment", b"c" * (1 << 20))]))]),
    ("U11", "a malformed PAX record", [tar(header(b"x", b"x", 5) + pad(b"9 a=b"), entry("f"))]),
    ("U11", "an archive that ends inside a file", [entry("f", data=b"x" * 2000)[:1024]]),
    ("U11", "a size beyond the archive", [header(b"f", b"0", 1 << 30) + b"x" * 512]),
    ("U11", "more than 1 MiB behind the end", [tar(entry("f")) + b"t" * ((1 << 20) + 1)]),
    ("U11", "a folder with data", [tar(header(b"d/", D, 512) + b"x" * 512)]),
    ("U11", "a single zero block", [entry("a") + b"\0" * 512 + entry("b") + b"\0" * 1024]),
    ("U12", "folders nested 256 deep", [tar(entry("x", data=b"x", pax_records=[("path", b"/".join([b"d"] * 257))]))]),
]


def hostile():
    for rule, what, layers in HOSTILE:
        report.case("%s: %s is refused" % (rule, what), refused, rule, layers)
    bomb = b"".join([header(b"big", b"0", 200 << 20), b"\0" * (200 << 20), b"\0" * 1024])
    report.case("U12: a bomb of 1000 to 1 is refused", refused, "U12", [bomb])
    report.case("U12: a zstd bomb is refused", refused, "U12", [(bomb, "zstd")])
    report.case("a cut gzip stream is refused", cut_stream)
    report.case("a wrong diff_id is refused", lambda: refused("diff_id", [tar(entry("f"))], diff_ids=["sha256:" + "0" * 64]))
    report.case("a foreign layer is refused", foreign)
    report.case("an image for another architecture is refused", other_arch)
    report.case("limits on bytes and entries hold", limits)


def cut_stream():
    t = tar(entry("f", data=os.urandom(100000)))
    digest = store.image([t])
    manifest = json.loads(open(store.path + "/blobs/sha256/" + digest[7:]).read())
    whole = open(store.path + "/blobs/sha256/" + manifest["layers"][0]["digest"][7:], "rb").read()
    manifest["layers"][0].update(store.blob(whole[:-2000]))
    answer, _ = store.unpack(UNPACK, store.blob(json.dumps(manifest).encode())["digest"])
    want(not answer["ok"] and answer["error"]["detail"].startswith("U11"), answer)


def foreign():
    answer, _ = unpack([tar(entry("f"))], media="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
    want(answer.get("error", {}).get("reason_code") == "image_layer_invalid" and answer["error"]["detail"] == "media_type", answer)


def other_arch():
    answer, _ = unpack([tar(entry("f"))], arch="arm64")
    want(answer.get("error", {}).get("reason_code") == "image_arch_mismatch", answer)


def limits():
    refused("file_bytes", [tar(entry("f", data=b"x" * 5000))], "image_too_large", max_unpacked_bytes=4999)
    refused("unpacked_bytes", [tar(entry("f", data=b"x" * 2500), entry("g", data=b"x" * 2500))], "image_too_large", max_unpacked_bytes=4999)
    refused("entries", [tar(entry("a"), entry("b"), entry("c"))], "image_too_large", max_entries=2)
    good([tar(entry("f", data=b"x" * 5000))], max_unpacked_bytes=5000, max_entries=1)


# --- what good layers become ---------------------------------------------------------------------------------------

def metadata():
    cap = bytes.fromhex("0100000200040000000000000000000000000000")
    _, disk = good([tar(
        entry("./", D, mode=0o750, uid=3, mtime=77),
        entry("s", data=b"x", mode=0o6755, uid=1234567, gid=7, pax_records=[("mtime", b"1700000000.25"), (
            "SCHILY.xattr.security.capability", cap), ("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.trusted.overlay.opaque", b"y"), (
                "SCHILY.xattr.user.overlay.redirect", b"z"), ("SCHILY.xattr.security.selinux", b"s")]),
        entry("big", data=b"y", pax_records=[("SCHILY.xattr.user.big", b"B" * 60000)]),
        entry("fifo", b"6", mode=0o600), entry("t", D, mode=0o1777), entry("fut", mtime=0, pax_records=[("mtime", b"99999999999")]))])
    s = stat(disk, "/s")
    want("Mode:  06755" in s and "User: 1234567" in s and "Group:     7" in s, s)
    want("mtime: 0x6553f100:3b9aca00" in s and "atime: 0x6553f100:3b9aca00" in s and "crtime: 0x00000001" in s, s)
    ea = debugfs(disk, "ea_list /s")
    want("security.capability" in ea and "user.a" in ea, ea)
    want("trusted" not in ea and "overlay" not in ea and "selinux" not in ea, ea)
    want("user.big (60000)" in debugfs(disk, "ea_list /big"), "the large attribute")
    want("Mode:  0750" in stat(disk, "/") and "User:     3" in stat(disk, "/"), stat(disk, "/"))
    want("Type: FIFO" in stat(disk, "/fifo") and "Mode:  01777" in stat(disk, "/t"), "fifo and sticky")
    want("0x00000000:00000002" in stat(disk, "/fut"), stat(disk, "/fut"))  # 2^33: epoch bits 2


def links():
    _, disk = good([tar(entry("a/f", data=b"data", mode=0o4755), entry("b/h", b"1", link="a/f"), entry("l", b"2", link="../../etc/x"),
                        entry("hl", b"1", link="l"), entry("abs", b"2", link="/a"), entry("abs/viaabs", data=b"v"),
                        entry("long", b"2", link="x" * 100, pax_records=[("linkpath", b"y" * 3000)]))])
    want("Links: 2" in stat(disk, "/a/f") and stat(disk, "/a/f").split()[1] == stat(disk, "/b/h").split()[1], "one inode")
    want('"../../etc/x"' in stat(disk, "/l") and "Links: 2" in stat(disk, "/l"), stat(disk, "/l"))
    want("viaabs" in names(disk, "/a"), names(disk, "/a"))
    want("Size: 3000" in stat(disk, "/long"), stat(disk, "/long"))


def devices():
    answer, disk = good([tar(entry("dev/", D), entry("dev/null", b"3"), entry("dev/sda", b"4"), entry("f", data=b"x"))])
    want(answer["devices_skipped"] == 2 and names(disk, "/dev") == set() and names(disk) == {"dev", "f"}, answer)


def whiteouts():
    low = tar(entry("d/a", data=b"1"), entry("d/b", data=b"2"), entry("e/x", data=b"3"), entry("e/y/z", data=b"4"), entry("gone", data=b"5"),
              entry("o/old", data=b"6"), entry("o/sub/old", data=b"7"), entry("w/keep", data=b"0"))
    # The opaque mark and the whiteout come after the new entries: the order must not matter.
    up = tar(entry("d/.wh.a"), entry("e/new", data=b"8"), entry(".wh.e"), entry(".wh.gone"), entry("o/new", data=b"9"), entry("o/sub/new", data=b"n"),
             entry("o/.wh..wh..opq"), entry("w/.wh..wh.plnk"), entry(".wh.never"))
    for how in ("gzip", "zstd", "plain"):
        _, disk = good([low, up], how=how)
        want(names(disk) == {"d", "e", "o", "w"}, names(disk))
        want(names(disk, "/d") == {"b"} and names(disk, "/e") == {"new"}, (names(disk, "/d"), names(disk, "/e")))
        want(names(disk, "/o") == {"new", "sub"} and names(disk, "/o/sub") == {"new"}, names(disk, "/o"))
        want(names(disk, "/w") == {"keep"}, names(disk, "/w"))


def replacing():
    _, disk = good([tar(entry("a", data=b"1"), entry("d/x/y", data=b"2"), entry("l", b"2", link="d"), entry("p", data=b"f"), entry("keep/in", data=b"i")),
                    tar(entry("a", D), entry("d", data=b"now a file"), entry("l", data=b"now a file"), entry("p/q", data=b"parent of a lower file"),
                        entry("keep", D, mode=0o700), entry("twice", data=b"1"), entry("twice", data=b"last"))])
    want("Type: directory" in stat(disk, "/a") and "Type: regular" in stat(disk, "/d") and "Type: regular" in stat(disk, "/l"), "types")
    want(names(disk, "/p") == {"q"} and names(disk, "/keep") == {"in"} and "Mode:  0700" in stat(disk, "/keep"), "parents")
    want(debugfs(disk, "cat /twice") == "last", "the last of two wins")


def formats():
    long = b"n" * 120 + b"/" + b"m" * 120
    gnu = header(b"././@LongLink", b"L", len(long) + 1, magic=b"ustar  \0") + pad(long + b"\0")
    gnu += header(long[:100], b"0", 3, magic=b"ustar  \0") + pad(b"gnu")
    split = header(b"name", b"0", 2, prefix=b"some/prefix") + pad(b"us")
    base256 = bytearray(header(b"b256", b"0", 0))
    base256[124:136] = b"\x80" + b"\0" * 10 + b"\4"
    base256[148:156] = b" " * 8
    base256[148:156] = b"%06o\0 " % sum(base256)
    note = header(b"g", b"g", len(pax([("comment", b"c")]))) + pad(pax([("comment", b"c")]))  # as git archive writes
    _, disk = good([gnu + split + bytes(base256) + pad(b"big!") + header(b"v7dir/", b"\0", 0, magic=b"\0" * 8) + note + b"\0" * 1024])
    want(debugfs(disk, "cat /%s" % long.decode()) == "gnu" and debugfs(disk, "cat /some/prefix/name") == "us", "long names")
    want(debugfs(disk, "cat /b256") == "big!" and "Type: directory" in stat(disk, "/v7dir"), "base-256 and v7")
    _, disk = good([b""])  # an empty stream is an empty layer
    want(names(disk) == set(), "empty")


def content():
    data = os.urandom(3 << 20)
    _, disk = good([tar(entry("r", data=data), entry("z", data=b"\0" * (5 << 20)), entry("e"), entry("odd", data=data[:4097]))])
    out = os.path.join(scratch, "out")
    for name, expect in (("r", data), ("z", b"\0" * (5 << 20)), ("e", b""), ("odd", data[:4097])):
        debugfs(disk, "dump /%s %s" % (name, out))
        want(open(out, "rb").read() == expect, name)
    os.unlink(out)


def many():
    _, disk = good([tar(*[entry("d/file-with-a-longer-name-%06d" % (i * 7919 % 6000), data=b"%d" % i) for i in range(6000)])])
    want(len(names(disk, "/d")) == 6000, "6000 names in one folder")


def identical():
    t = [tar(entry("a/b", data=b"x" * 9000, pax_records=[("SCHILY.xattr.user.k", b"v")]), entry("c", b"2", link="a")), tar(entry("a/.wh.b"), entry("a/d", data=b"1"))]
    first, disk1 = good(t)
    other = Store(os.path.join(scratch, "elsewhere"))
    time.sleep(1.1)  # another second: no time of the build may reach the bytes
    second, disk2 = other.unpack(UNPACK, other.image(t))
    want(first["sha256"] == second["sha256"] == sha(open(disk2, "rb").read()) == sha(open(disk1, "rb").read()), (first, second))
    want(os.stat(disk1).st_mode & 0o7777 == 0o444, "mode")
    shutil.rmtree(other.path)


def confined():
    """/proc/PID/status of the program and of its worker while a large layer is being unpacked."""
    data = b"".join(header(b"f%d" % i, b"0", 64 << 20) + b"\1" * (64 << 20) for i in range(4)) + b"\0" * 1024
    digest = store.image([data], how="plain")
    folder = os.path.join(store.path, "tmp/watch")
    os.mkdir(folder, 0o700)
    request = {"images_dir": store.path, "work_dir": "watch", "digest": digest, "arch": "amd64"}
    if os.geteuid() == 0:
        os.chown(folder, UID, UID)
        request.update(uid=UID, gid=UID)
    p = subprocess.Popen([UNPACK], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdin.write(json.dumps(request).encode())
    p.stdin.close()
    seen = {}
    while p.poll() is None:
        for pid in [str(p.pid)] + open("/proc/%d/task/%d/children" % (p.pid, p.pid)).read().split() if p.poll() is None else []:
            try:
                status = dict(l.split(":\t", 1) for l in open("/proc/%s/status" % pid).read().splitlines() if ":\t" in l)
                net = os.readlink("/proc/%s/ns/net" % pid)
            except (OSError, ValueError):
                continue
            if status["Name"] == "moat-unpack:w" and status["Seccomp"] == "2":
                seen["worker"] = (status, net)
            elif status["Name"] == "moat-unpack" and status["NoNewPrivs"] == "1" and pid == str(p.pid):
                seen["main"] = (status, net)
    answer = json.loads(p.stdout.read())
    p.stdout.close()
    want(answer["ok"], answer)
    for who in ("main", "worker"):
        status, net = seen[who]
        want(status["NoNewPrivs"] == "1" and int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == 0, (who, status))
        if os.geteuid() == 0:
            want(status["Uid"].split() == [str(UID)] * 4 and status["Gid"].split() == [str(UID)] * 4, (who, status["Uid"]))
            want(net != os.readlink("/proc/self/ns/net"), "the host's network")


def real_tree():
    """A tree of this machine, unpacked, must hold what tar put in: compared by debugfs rdump is slow, so by a sample."""
    t = subprocess.run(["tar", "-C", "/usr", "--xattrs", "-cf", "-", "share/perl", "lib/python3.11/json"], stdout=subprocess.PIPE, check=True).stdout
    answer, disk = good([t], how="zstd")
    out = os.path.join(scratch, "out")
    for name in sorted(os.listdir("/usr/lib/python3.11/json")):
        path = "/usr/lib/python3.11/json/" + name
        if os.path.isfile(path) and not os.path.islink(path):
            debugfs(disk, "dump /lib/python3.11/json/%s %s" % (name, out))
            want(open(out, "rb").read() == open(path, "rb").read(), name)
    want(answer["entries"] > 50, answer)


GOOD = [("owners, modes, times and attributes arrive", metadata), ("hard and symbolic links arrive", links), ("device nodes are skipped and counted", devices),
        ("whiteouts and opaque folders remove lower content only", whiteouts), ("entries replace one another as U3 says", replacing),
        ("GNU long names, ustar prefixes, base-256 and v7 are read", formats), ("contents arrive byte for byte", content),
        ("a folder of 6000 names is right", many), ("one digest gives identical bytes in other trees and times", identical),
        ("a real tree arrives", real_tree), ("program and worker are confined", confined)]

try:
    if not os.path.exists(UNPACK):
        print("not ok - moat-unpack: %s is not built" % UNPACK)
        sys.exit(1)
    for title, fn in GOOD:
        report.case(title, fn)
    hostile()
finally:
    shutil.rmtree(scratch, ignore_errors=True)
sys.exit(1 if report.failed else 0)
