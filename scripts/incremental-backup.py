#!/usr/bin/python3
"""Brings a raw image of an older snapshot up to a newer one, reading nothing but what differs.

    nbdcopy nbd://HOST/VOLUME@MONDAY backup.raw                          # once: everything
    incremental-backup.py nbd://HOST/VOLUME@TUESDAY MONDAY backup.raw    # then: what changed since

URI is an NBD URI of a snapshot (or of a volume that nobody writes to), BASE the name of the snapshot that the image holds. What
differs is told by the server from its maps (the meta context archipelago:diff:BASE).

Beside the image, in backup.raw.holds, it notes which snapshot the image holds, or between which two it is while it is brought from
one to the other. What does not go with that is refused: the image would become no snapshot at all. When it is interrupted, run it
again for the same two snapshots.

Needs python3-libnbd. Exit status: 0 done, 1 not done, with the reason on standard error.
"""
import json
import os
import re
import sys

import nbd

ZERO = 2
PIECE = 4 << 20
# Block status of more at a time does not fit 32 bits, which is what libnbd before 1.18 has.
STATUS = 1 << 30


def extents(h, context, size):
    """Yields (offset, length, flags) of a meta context over the whole export."""
    at = 0
    while at < size:
        got = []

        def extent(name, offset, entries, error):
            if name == context:
                got.extend(zip(entries[::2], entries[1::2]))

        h.block_status(min(STATUS, size - at), at, extent)
        if not got:
            sys.exit(f"the server told nothing of {context} at {at}")
        for length, flags in got:
            length = min(length, size - at)
            yield at, length, flags
            at += length


def both(h, diff, size):
    """Yields (offset, length, is_zero) of what differs."""
    zeros = iter(extents(h, "base:allocation", size))
    start, length, flags = next(zeros)
    for at, left, differs in extents(h, diff, size):
        while left > 0:
            if at >= start + length:
                start, length, flags = next(zeros)
                continue
            step = min(left, start + length - at)
            if differs:
                yield at, step, (flags & ZERO) != 0
            at += step
            left -= step


def same(a, b):
    """Do two names mean one snapshot? vol@snap is snap."""
    return a == b or a.endswith("@" + b) or b.endswith("@" + a)


class Note:
    """What the image holds, kept beside it."""

    def __init__(self, image):
        self.image = image
        self.path = image + ".holds"

    def check(self, base, name):
        """Exits when the image does not hold the base. Returns whether it is the newer snapshot already."""
        try:
            with open(self.path, encoding="utf-8") as file:
                note = json.load(file)
            start, end = note["from"], note["to"]
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError):
            sys.exit(f"{self.path} is damaged; remove it if you are sure that {self.image} holds {base}")
        if start is None:
            if not same(end, base) and not same(end, name):
                sys.exit(f"{self.image} holds {end} and not {base}, says {self.path}; remove that if the image was made anew")
            return same(end, name)
        if not same(start, base) or not same(end, name):
            sys.exit(f"{self.image} is between {start} and {end}, where a run ended early: first repeat it for these two")
        return False

    def write(self, start, end):
        """Durable when it returns; after a crash there is the old note or the new one."""
        temporary = self.path + ".new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"from": start, "to": end}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        directory = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    uri, base, image = sys.argv[1:]
    if re.fullmatch(r"-(\d+[smhdw])+", base):
        sys.exit(f"{base} means another snapshot whenever one is made: give the name of the one that {image} holds")
    diff = f"archipelago:diff:{base}"
    h = nbd.NBD()
    h.set_full_info(True)
    h.add_meta_context("base:allocation")
    h.add_meta_context(diff)
    h.connect_uri(uri)
    # A time in the URI means the same snapshot as long as the connection lives; this is its name.
    name = h.get_canonical_export_name()
    note = Note(image)
    if note.check(base, name):
        print(f"{image} holds {name} already")
        return
    if not h.can_meta_context(diff):
        sys.exit(f"{uri} cannot be compared with {base}: no read-only snapshot of that name, or other blocks")
    size = h.get_size()
    read = zeroed = 0
    with open(image, "r+b") as out:
        note.write(base, name)
        if out.seek(0, os.SEEK_END) != size:
            out.truncate(size)
        for offset, length, is_zero in both(h, diff, size):
            for at in range(offset, offset + length, PIECE):
                count = min(PIECE, offset + length - at)
                out.seek(at)
                out.write(bytes(count) if is_zero else h.pread(count, at))
            if is_zero:
                zeroed += length
            else:
                read += length
        out.flush()
        os.fsync(out.fileno())
    note.write(None, name)
    h.shutdown()
    print(f"{read} of {size} bytes read, {zeroed} zeroed")


if __name__ == "__main__":
    try:
        main()
    except (nbd.Error, OSError) as error:
        sys.exit(str(error))
