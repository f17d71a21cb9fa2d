# SPDX-License-Identifier: Apache-2.0
"""kernel.py DIR: leaves in DIR/kernel what guests need of Debian's kernel package.

DIR/kernel/vmlinux is the kernel without its compression: to boot it so (PVH) spares the guest three seconds
of xz under TCG. DIR/kernel/config is its configuration, DIR/kernel/lib/modules has MODULES and those that they
need. The package is downloaded once; a test has no network for that, so vm.sh comes here before it has its own.
"""
import fcntl, glob, lzma, os, re, shutil, signal, struct, subprocess, sys, tempfile

MODULES = """
    virtio_pci virtio_console virtio_net
    vfio_pci vfio_iommu_type1 uio_pci_generic
    tcp_diag unix_diag veth bridge
""".split()


def say(*words):
    print("kernel.py:", *words, file=sys.stderr, flush=True)


def fail(*words):
    say(*words)
    sys.exit(1)


def download(to):
    if not shutil.which("apt-get"):
        fail("the kernel is Debian's; without apt-get, put its linux-image-*.deb into", to)
    for attempt in 1, 2:
        # The meta package depends on the current one.
        told = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True).stdout
        if found := re.search(r"Depends: (linux-image-[0-9]\S+)", told):
            say("downloading", found[1])
            # Elsewhere first: half a package is none.
            with tempfile.TemporaryDirectory(dir=to) as tmp:
                subprocess.run(["apt-get", "download", "-q", found[1]], cwd=tmp, stdout=2, timeout=600)
                for deb in glob.glob(tmp + "/*.deb"):
                    os.rename(deb, os.path.join(to, os.path.basename(deb)))
                    return
        # There are no lists yet, or they are too old.
        if attempt == 1:
            subprocess.run(["apt-get", "update", "-q"], stdout=2, timeout=200)
    fail("cannot download Debian's kernel package")


def vmlinux(image):
    # Linux, Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    packed = image[start : start + length]
    if packed[:6] != b"\xfd7zXZ\0":
        fail("the kernel is not compressed by xz")
    elf = lzma.LZMADecompressor().decompress(packed)
    if elf[:4] != b"\x7fELF":
        fail("what was unpacked is no kernel")
    return elf


def name_of(path):
    return os.path.basename(path).split(".")[0].replace("-", "_")


def depends(path):
    with open(path, "rb") as f:
        found = re.search(rb"\0depends=([^\0]*)\0", f.read())
    return [n.replace("-", "_") for n in found[1].decode().split(",") if n] if found else []


def unpack(deb, tmp, out):
    subprocess.run(["dpkg-deb", "-x", deb, tmp], check=True)
    image = next(n for n in os.listdir(tmp + "/boot") if n.startswith("vmlinuz-"))
    version = image[len("vmlinuz-") :]
    os.makedirs(out)
    with open(f"{tmp}/boot/{image}", "rb") as f, open(out + "/vmlinux", "wb") as to:
        to.write(vmlinux(f.read()))
    shutil.copy(f"{tmp}/boot/config-{version}", out + "/config")

    files = {}
    for at, _, names in os.walk(f"{tmp}/lib/modules/{version}/kernel"):
        files.update({name_of(n): os.path.join(at, n) for n in names if n.endswith(".ko")})
    to = f"{out}/lib/modules/{version}"
    os.makedirs(to)
    todo, done = list(MODULES), set()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        if name not in files:
            fail(os.path.basename(deb), "has no module", name)
        done.add(name)
        todo += depends(files[name])
        shutil.copy(files[name], to)
    subprocess.run(["busybox", "depmod", "-b", out, version], check=True)


def main(where):
    os.makedirs(where, exist_ok=True)
    stamp, wanted = where + "/kernel/stamp", " ".join(MODULES)
    # Tests of another run may be at it too.
    with open(where + "/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(stamp) and open(stamp).read() == wanted:
            return
        shutil.rmtree(where + "/kernel", ignore_errors=True)
        if not glob.glob(where + "/linux-image-*.deb"):
            download(where)
        deb = sorted(glob.glob(where + "/linux-image-*.deb"))[-1]
        say("unpacking", os.path.basename(deb))
        with tempfile.TemporaryDirectory(dir=where) as tmp:
            unpack(deb, tmp, where + "/kernel")
        with open(stamp, "w") as f:
            f.write(wanted)


# So that nothing half done is left.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
main(os.path.abspath(sys.argv[1]))
