# SPDX-License-Identifier: Apache-2.0
"""What is in a package, as CycloneDX 1.5 (JSON): our programs with their hashes, and the Debian packages whose libraries they were linked with."""
import functools
import hashlib
import json
import os
import re
import subprocess
import uuid


def run(*argv):
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ, LC_ALL="C.UTF-8"))
    return r.stdout if r.returncode == 0 else ""


@functools.lru_cache(None)
def library(name, arch):
    """The component of a shared library's package, by the name that a program asks for."""
    path = re.search(r"^\s*%s .*=> (\S+)$" % re.escape(name), run("/sbin/ldconfig", "-p"), re.M)
    # on a merged /usr the package may have it by either name
    for at in ([path[1], os.path.realpath(path[1]), re.sub("^/usr", "", os.path.realpath(path[1]))] if path else []):
        owner = run("dpkg-query", "-S", at).split(":")[0]
        if owner:
            return debian(owner, arch)
    return None


@functools.lru_cache(None)
def debian(package, arch):
    version = run("dpkg-query", "-W", "-f", "${Version}\n", package).split("\n")[0]
    return "pkg:deb/debian/%s@%s?arch=%s" % (package, version.replace(":", "%3A").replace("+", "%2B"), arch), package, version


def needed(program):
    return re.findall(r"^\s+NEEDED\s+(\S+)$", run("objdump", "-p", program), re.M)


def made(package, version, arch, epoch, summary, tree, programs):
    """The text of the list for @package, whose built @programs (stripped) are below @tree."""
    me = "pkg:deb/moat/%s@%s?arch=%s" % (package, version.replace("+", "%2B"), arch)
    ours, libraries, edges = [], {}, []
    for p in sorted(programs):
        with open(os.path.join(tree, p), "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        names = needed(os.path.join(tree, p))
        # linked statically with the C library of the machine that built it
        found = [library(n, arch) for n in names] if names else [debian("libc6-dev", arch)]
        if None in found:
            raise LookupError("%s: no package here has '%s'" % (p, names[found.index(None)]))
        libraries.update({f[0]: f for f in found})
        ref = me + "#" + p
        ours.append({"bom-ref": ref, "type": "application", "name": os.path.basename(p), "version": version, "hashes": [{"alg": "SHA-256", "content": digest}],
                     "licenses": [{"license": {"id": "Apache-2.0"}}], "properties": [{"name": "moat:file", "value": "/" + p}]})
        edges.append({"ref": ref, "dependsOn": sorted({f[0] for f in found})})
    theirs = [{"bom-ref": ref, "type": "library", "name": name, "version": v, "purl": ref} for ref, name, v in sorted(libraries.values())]
    time = run("date", "-u", "-d", "@%d" % epoch, "+%Y-%m-%dT%H:%M:%SZ").strip()
    body = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"timestamp": time, "component": {"bom-ref": me, "type": "application", "name": package, "version": version, "description": summary,
                                                          "licenses": [{"license": {"id": "Apache-2.0"}}], "purl": me}},
            "components": ours + theirs,
            "dependencies": [{"ref": me, "dependsOn": [o["bom-ref"] for o in ours]}] + edges + [{"ref": t["bom-ref"], "dependsOn": []} for t in theirs]}
    # of the content, so that the same packages have the same
    body["serialNumber"] = "urn:uuid:%s" % uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return json.dumps(body, indent=1, sort_keys=True) + "\n"
