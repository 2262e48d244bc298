#!/usr/bin/python3
"""Brings a raw image of an older snapshot up to a newer one, reading nothing but what differs.

    nbdcopy nbd://HOST/VOLUME@MONDAY backup.raw                          # once: everything
    incremental-backup.py nbd://HOST/VOLUME@TUESDAY MONDAY backup.raw    # then: what changed since

URI is an NBD URI of a snapshot (or of a volume that nobody writes to), BASE the snapshot that the image holds: its name, or a time
as after an @ (-1d, 2026-11-19T03:00). What differs is told by the server from its maps (the meta context archipelago:diff:BASE).
When it is interrupted the image is between the two snapshots: run it again, with the same arguments.

Needs python3-libnbd. Exit status: 0 done, 1 not done, with the reason on standard error.
"""
import os
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


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    uri, base, image = sys.argv[1:]
    diff = f"archipelago:diff:{base}"
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.add_meta_context(diff)
    h.connect_uri(uri)
    if not h.can_meta_context(diff):
        sys.exit(f"{uri} cannot be compared with {base}: no read-only snapshot of that name or time, or other blocks")
    size = h.get_size()
    read = zeroed = 0
    with open(image, "r+b") as out:
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
    h.shutdown()
    print(f"{read} of {size} bytes read, {zeroed} zeroed")


if __name__ == "__main__":
    try:
        main()
    except (nbd.Error, OSError) as error:
        sys.exit(str(error))
