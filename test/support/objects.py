#!/usr/bin/python3
"""Objects of a RADOS namespace by Ceph's own client: objects.py CONF NAMESPACE list|read|write|remove|load|save|break|empty …, see ceph.ts. Names are UTF-8."""
import base64
import hashlib
import json
import os
import struct
import sys
import time

import rados


def names(io):
    return [found.key for found in io.list_objects()]


def remove(io, name):
    try:
        io.remove_object(name)
    except rados.ObjectNotFound:
        pass


def size_of(io, name):
    """None: there is no such object (any more)."""
    try:
        return io.stat(name)
    except rados.ObjectNotFound:
        return None


def content(io, name, size):
    """A read stops at the object's end, never before it."""
    return io.read(name, size) if size else b""


def place(directory, name):
    """Where a file store keeps an object."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return os.path.join(directory, digest[:2], digest[2:4], digest[4:6], name)


def text(value):
    return struct.pack("<I", len(value.encode())) + value.encode()


def break_lock(io, name, lock, holder, cookie):
    """As `rados lock break`, which takes its time to start. Prints when it began by the monotonic clock, in ms."""
    kind, number = {"client": 8}[holder.split(".")[0]], int(holder.split(".")[1])
    body = text(lock) + struct.pack("<Bq", kind, number) + text(cookie)
    began = time.monotonic()
    io.execute(name, "lock", "break_lock", struct.pack("<BBI", 1, 1, len(body)) + body)
    print(began * 1000)


def main():
    conf, namespace, action, *rest = sys.argv[1:]
    with rados.Rados(conffile=conf) as cluster:

        def pool(name):
            io = cluster.open_ioctx(name)
            io.set_namespace(namespace)
            return io

        if action == "empty":
            for name in rest:
                io = pool(name)
                for found in names(io):
                    remove(io, found)
            return
        if action == "list":
            found = {}
            for name in rest:
                io = pool(name)
                found[name] = []
                for each in sorted(names(io)):
                    stat = size_of(io, each)
                    if stat:
                        # The version is that of the object which was asked for last.
                        entry = {"name": each, "size": stat[0], "modified": time.mktime(stat[1]), "version": io.get_last_version()}
                        found[name].append(entry)
            print(json.dumps(found))
            return
        io, args = pool(rest[0]), rest[1:]
        if action == "read":
            stat = size_of(io, args[0])
            if stat:
                print("=" + base64.b64encode(content(io, args[0], stat[0])).decode(), end="")
        elif action == "load":
            for directory, _, files in os.walk(args[0]):
                for name in files:
                    with open(os.path.join(directory, name), "rb") as file:
                        io.write_full(name, file.read())
        elif action == "save":
            for name in names(io):
                stat = size_of(io, name)
                if stat and not name.startswith(".archipelago"):
                    os.makedirs(os.path.dirname(place(args[0], name)), exist_ok=True)
                    with open(place(args[0], name), "wb") as file:
                        file.write(content(io, name, stat[0]))
        elif action == "break":
            break_lock(io, *args)
        elif action == "write":
            io.write_full(args[0], sys.stdin.buffer.read())
        elif action == "age":
            # Only a write can set the time: it is of what is there.
            with rados.WriteOpCtx() as op:
                op.write_full(content(io, args[0], io.stat(args[0])[0]))
                io.operate_write_op(op, args[0], mtime=int(time.time()) - int(args[1]))
        elif action == "remove":
            for name in args:
                remove(io, name)
        else:
            sys.exit(f"no such action: {action}")


main()
