#!/usr/bin/env python3
"""Write an initramfs (a cpio archive) for the test guest.  Python's own library only.

    initramfs.py guest   OUT INIT [PROGRAM[:PATH] ...]
    initramfs.py modules OUT KERNEL MODULE ...
    initramfs.py files   OUT FILE:PATH ...

guest    busybox, INIT as /init, and the programs with their shared libraries: at
         PATH in the guest, else at the same path as on the host.  For another
         processor, busybox and the libraries come from the unpacked packages in the
         directory $TCPTOP_GUEST_ROOT.
modules  the named modules of the kernel in the directory KERNEL, and the modules
         that they depend on; /etc/modules lists them in the order to load them.
         A module that is built into the kernel, or that the kernel does not have,
         is left out.
files    other files, as they are.

The kernel accepts several archives one after the other, so each part can be made
and kept separately.
"""
import functools
import gzip
import lzma
import os
import re
import subprocess
import sys
import tempfile


class Archive:
    """A cpio archive of the kind "newc".  Directories are made as they are needed."""

    def __init__(self, path):
        self.file, self.names = open(path, "wb"), set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.add("TRAILER!!!", 0)
        self.file.write(b"\0" * (-self.file.tell() % 512))
        self.file.close()

    def add(self, path, mode, data=b"", device=(0, 0)):
        path = path.strip("/")
        if not path or path in self.names:
            return
        self.add(os.path.dirname(path), 0o040755)
        self.names.add(path)
        name = path.encode() + b"\0"
        # inode mode uid gid links mtime size, device of the file, device it is, name, sum
        fields = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name
        body = head + b"\0" * (-len(head) % 4) + data
        self.file.write(body + b"\0" * (-len(body) % 4))

    def text(self, path, text):
        self.add(path, 0o100644, text.encode())

    def copy(self, source, path):
        with open(source, "rb") as file:
            self.add(path, 0o100755, file.read())


def stripped(program, scratch):
    """A copy without debug information, of which a test binary has a hundred megabytes."""
    copy = os.path.join(scratch, os.path.basename(program))
    done = subprocess.run([os.environ.get("STRIP", "strip"), "-o", copy, program], stderr=subprocess.DEVNULL, check=False)
    return copy if done.returncode == 0 else program      # a script, for instance


FOREIGN = os.environ.get("TCPTOP_GUEST_ROOT", "")


@functools.cache
def foreign_files():
    """Where each shared library of FOREIGN is, by its name."""
    return {name: os.path.join(directory, name) for directory, _, names in sorted(os.walk(FOREIGN))
            for name in names if ".so" in name}


def foreign_libraries(program):
    """Pairs of a file here and its place in the guest; ldd would have to run the program."""
    lines = subprocess.run(["readelf", "-ld", program], capture_output=True, text=True, check=True).stdout
    wanted, found = re.findall(r"\(NEEDED\).*\[(.+)\]", lines), {}
    places = re.findall(r"program interpreter: (.+)\]", lines)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        if name not in foreign_files():
            sys.exit(f"initramfs.py: {program} needs {name}, which is not in {FOREIGN}")
        found[name] = foreign_files()[name]
        lines = subprocess.run(["readelf", "-d", found[name]], capture_output=True, text=True, check=True).stdout
        wanted += re.findall(r"\(NEEDED\).*\[(.+)\]", lines)
    for name, path in found.items():
        interpreter = [place for place in places if os.path.basename(place) == name]
        yield path, interpreter[0] if interpreter else os.path.join("/lib", os.path.basename(os.path.dirname(path)), name)


def libraries(program):
    if FOREIGN:
        with open(program, "rb") as file:
            return list(foreign_libraries(program)) if file.read(4) == b"\x7fELF" else []
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [(library, library) for library in re.findall(r"(/\S+) \(0x", lines)]


def guest(out, init, *programs):
    with Archive(out) as archive, tempfile.TemporaryDirectory() as scratch:
        # The kernel opens the console before anything can be mounted on /dev.
        archive.add("dev/console", 0o020600, device=(5, 1))
        archive.add("dev/null", 0o020666, device=(1, 3))
        for directory in ("proc", "sys", "tmp", "run", "root", "mnt", "var"):
            archive.add(directory, 0o040755)
        archive.add("var/run", 0o120777, b"../run")
        archive.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        archive.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
        archive.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
        archive.copy(init, "init")
        for item in programs:
            program, _, path = item.partition(":")
            archive.copy(stripped(program, scratch), path or os.path.join("usr/bin", os.path.basename(program)))
            for library, place in libraries(program):
                archive.copy(library, place)
        # Last, so that busybox's applets do not replace the host's full programs.
        archive.copy(FOREIGN + "/bin/busybox", "bin/busybox")
        applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
        for applet in applets.split():
            if f"usr/bin/{applet}" not in archive.names:
                archive.add(f"bin/{applet}", 0o120777, b"busybox")


def module_bytes(path):
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return gzip.decompress(data)
    return data


def modules(out, kernel, *wanted):
    tree = os.path.join(kernel, "modules")
    files = {}
    for directory, _, names in os.walk(tree):
        for name in names:
            match = re.fullmatch(r"(.+)\.ko(\.xz|\.gz)?", name)
            if match:
                files[match[1].replace("-", "_")] = os.path.join(directory, name)
    order = []

    def load(archive, name):
        if name not in files or name in order:
            return
        data = module_bytes(files[name])
        # The package has no modules.dep (depmod makes it at installation), so read the
        # dependencies from the module itself.
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in depends[1].decode().split(",") if depends else []:
            load(archive, other.replace("-", "_"))
        order.append(name)
        archive.add(f"lib/modules/{name}.ko", 0o100644, data)

    with Archive(out) as archive:
        for name in wanted:
            load(archive, name.replace("-", "_"))
        archive.text("etc/modules", "".join(f"/lib/modules/{name}.ko\n" for name in order))


def files(out, *items):
    with Archive(out) as archive:
        for item in items:
            archive.copy(*item.split(":"))


if __name__ == "__main__":
    commands = {"guest": guest, "modules": modules, "files": files}
    if len(sys.argv) < 4 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
