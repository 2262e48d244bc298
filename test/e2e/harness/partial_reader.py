#!/usr/bin/env python3
"""Reads a tree that may have partial objects, by what docs/formats.md says of them and nothing else. Maps, and objects that are not
partial, are left to the reader of the original's trees.

    partial_reader.py GOLDEN TREE LIST

GOLDEN is where golden_reader.py is; TREE and LIST, and what is printed, are as there. Another line at the end: how many partial
objects were read.
"""
import errno
import os
import runpy
import struct
import sys

UNIT = 4096
HEAD = 512
ATTRIBUTE = "user.archip.part"
partial = set()


def whole_units(length):
    return -(-length // UNIT)


def content_length(fd):
    """Bytes of the content of a file that has the attribute; None: it has none."""
    try:
        value = os.getxattr(fd, ATTRIBUTE)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise
    length, version = struct.unpack("<QH", value)
    assert version == 2, f"version {version}"
    return length


def mount_number(directory):
    """What a stamp has behind its slash: None on file systems that have no such directory."""
    device = os.stat(directory).st_dev
    link = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    if not os.path.exists(link):
        return None
    name = os.path.basename(os.path.realpath(link))
    for kind in ("ext4", "xfs", "f2fs"):
        of_mount = f"/sys/fs/{kind}/{name}"
        if os.path.exists(of_mount):
            return "%x" % os.stat(of_mount).st_ino
    return None


def stamp_now(directory):
    with open("/proc/sys/kernel/random/boot_id") as f:
        boot = f.read().strip()
    number = mount_number(directory)
    return boot if number is None else f"{boot}/{number}"


def read_tail(fd, length):
    """(stamp, name of the base, states of the units)"""
    count = whole_units(length)
    tail = os.pread(fd, HEAD + count, count * UNIT)
    magic, version, name_length, same_length = struct.unpack("<8sIIQ", tail[:24])
    assert (magic, version, same_length) == (b"ARCHPART", 2, length), (magic, version, same_length, length)
    assert os.fstat(fd).st_size == count * UNIT + HEAD + count, "something is behind the tail"
    return tail[24:128].rstrip(b"\0").decode("ascii"), tail[128 : 128 + name_length].decode(), tail[HEAD:]


def read_base(store, name, length):
    with open(os.path.join(store, ".archipelago-bases", name), "rb") as f:
        own = content_length(f.fileno())
        data = f.read(length if own is None else min(own, length))
    return data + b"\0" * (length - len(data))


def read_partial(store, fd, length):
    stamp, base, states = read_tail(fd, length)
    counts = (1, 2) if stamp == stamp_now(store) else (2,)
    assert max(states) <= 2, "a state that is none"
    out = bytearray(os.pread(fd, length, 0))
    absent = [unit for unit, state in enumerate(states) if state not in counts]
    if absent:
        rest = read_base(store, base, length)
        for unit in absent:
            out[unit * UNIT : (unit + 1) * UNIT] = rest[unit * UNIT : (unit + 1) * UNIT]
    return bytes(out)


def reads(path):
    """Takes the place of the golden reader's rd(base, name, offset, length)."""

    def rd(store, name, offset, length):
        file = path(store, name)
        with open(file, "rb") as f:
            own = content_length(f.fileno())
            if own is None:
                f.seek(offset)
                data = f.read(length)
            else:
                partial.add(file)
                data = read_partial(store, f.fileno(), own)[offset : offset + length]
        return data + b"\0" * (length - len(data))

    return rd


def main():
    golden, tree, volumes = sys.argv[1:]
    reader = runpy.run_path(os.path.join(golden, "golden_reader.py"), run_name="golden_reader")
    # Its functions look up their globals in a namespace of their own.
    reader["load"].__globals__["rd"] = reads(reader["path"])
    with open(volumes) as f:
        for name, size, expected in (line.split() for line in f):
            volume = reader["load"](tree, name)
            found = reader["sha"](tree, volume)
            same = found == expected and volume["size"] == int(size)
            print("SAME" if same else "DIFFER", name, found)
    print("PARTIAL", len(partial))


if __name__ == "__main__":
    main()
