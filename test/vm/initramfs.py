# SPDX-License-Identifier: Apache-2.0
"""initramfs.py OUT [--as PATH FILE] FILE|DIR...: a guest's root file system, as a cpio archive.

Each FILE lies in the guest where it lies here, a program with the libraries that ldd names and the
symbolic links on the way to it; a DIR with all that is in it. `--as PATH FILE` puts it elsewhere.
Busybox's applets stand in for each command that is not there otherwise.
"""
import os, stat, subprocess, sys

LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "pydoc_data", "turtledemo", "distutils"}
DIRS = ["dev", "proc", "sys", "run", "tmp", "root", "etc", "var/tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"]

entries = {}  # path without leading / -> (mode, bytes, rdev)


def parents(path):
    while path := os.path.dirname(path):
        entries.setdefault(path, (0o40755, b"", (0, 0)))


def put(path, mode, data=b"", rdev=(0, 0)):
    path = path.lstrip("/")
    parents(path)
    entries.setdefault(path, (mode, data, rdev))


def libraries(path):
    told = subprocess.run(["ldd", path], capture_output=True, text=True)
    for line in told.stdout.splitlines():
        if "not found" in line:
            sys.exit(f"initramfs.py: {path}: {line.strip()}")
        for word in line.split():
            if word.startswith("/"):
                yield word


def add(path, to=None):
    # In the guest /bin, /lib and so on are links, as they are on a merged Debian.
    real = os.path.realpath(path)
    at = to or os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if os.path.isdir(real):
        for name in sorted(os.listdir(real)):
            if name not in LEFT_OUT and not name.startswith("config-"):
                add(os.path.join(real, name), to and os.path.join(to, name))
        return
    if at.lstrip("/") in entries:
        return
    if not to and at != real:
        # With each link of a chain: /usr/bin/awk, /etc/alternatives/awk, /usr/bin/mawk.
        target = os.readlink(at) if os.path.islink(at) else real
        put(at, 0o120777, target.encode())
        add(os.path.join(os.path.dirname(at), target))
        return
    with open(real, "rb") as f:
        data = f.read()
    put(at, 0o100000 | stat.S_IMODE(os.stat(real).st_mode) | 0o444, data)
    if data[:4] == b"\x7fELF" and not real.endswith(".ko"):
        for lib in libraries(real):
            add(lib)


def applets():
    for name in subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if f"usr/sbin/{name}" not in entries:
            put(f"usr/bin/{name}", 0o120777, b"busybox")


def write(out):
    with open(out, "wb") as f:

        def pad():
            f.write(b"\0" * (-f.tell() % 4))

        def one(ino, path, mode, data, rdev):
            fields = (ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(path) + 1, 0)
            f.write(b"070701" + b"".join(b"%08X" % n for n in fields) + path.encode() + b"\0")
            pad()
            f.write(data)
            pad()

        # Sorted, a directory comes before what is in it.
        for ino, path in enumerate(sorted(entries), 1):
            one(ino, path, *entries[path])
        one(0, "TRAILER!!!", 0, b"", (0, 0))


out, args = sys.argv[1], sys.argv[2:]
for d in DIRS:
    put(d, 0o41777 if d.endswith("tmp") else 0o40755)
for d in ("bin", "sbin", "lib", "lib64"):
    put(d, 0o120777, b"usr/" + d.encode())
put("dev/console", 0o20600, rdev=(5, 1))
put("dev/null", 0o20666, rdev=(1, 3))
put("etc/passwd", 0o100644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n")
put("etc/group", 0o100644, b"root:x:0:\nnogroup:x:65534:\n")
put("etc/hosts", 0o100644, b"127.0.0.1 localhost\n::1 localhost\n")
add("/bin/busybox", "/usr/bin/busybox")
# Not busybox's, which runs its own ip and so on whatever lies in the path.
put("usr/bin/sh", 0o120777, b"bash")
# The kernel loads modules by this one.
put("usr/sbin/modprobe", 0o120777, b"/usr/bin/busybox")
while args:
    if args[0] == "--as":
        add(args[2], args[1])
        args = args[3:]
    else:
        add(args.pop(0))
applets()
write(out)
