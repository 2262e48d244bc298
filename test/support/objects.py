#!/usr/bin/python3
"""Objects of a RADOS namespace by Ceph's own client: objects.py CONF NAMESPACE list|read|write|remove|empty …, see ceph.ts. Names are UTF-8."""
import base64
import json
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
        io, args = pool(rest[0]), rest[1:]
        if action == "list":
            found = []
            for name in sorted(names(io)):
                try:
                    size, modified = io.stat(name)
                except rados.ObjectNotFound:
                    continue
                # Of the read just made: that of the object.
                version = io.get_last_version()
                found.append({"name": name, "size": size, "modified": time.mktime(modified), "version": version})
            print(json.dumps(found))
        elif action == "read":
            try:
                size = io.stat(args[0])[0]
                print("=" + base64.b64encode(io.read(args[0], size) if size else b"").decode(), end="")
            except rados.ObjectNotFound:
                pass
        elif action == "write":
            io.write_full(args[0], sys.stdin.buffer.read())
        elif action == "remove":
            for name in args:
                remove(io, name)
        else:
            sys.exit(f"no such action: {action}")


main()
