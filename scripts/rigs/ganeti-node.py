#!/usr/bin/python3
"""Drives an ExtStorage provider through Ganeti's own node code (ganeti.storage.bdev), without a cluster and without daemons.

ganeti-node.py GANETI PROVIDER LOGS : GANETI is the directory that ganeti.sh prints, PROVIDER the provider's directory, LOGS one for
the logs of its scripts. Each line of standard input is a request in JSON, answered by a line:

  {"do": "diagnose"}                                   parameters and optional scripts of the provider
  {"do": WHAT, "disk": {"id": .., "size": MiB, "params": {..}, "name": .., "uuid": ..}, ..}

WHAT is a step as the node daemon takes it: create, find (which attaches), open (exclusive), close, grow (amount, dryrun), setinfo (text),
snapshot, shutdown, remove, uri (hypervisor). The answer has what the step returned, or {"error": TEXT} for a BlockDeviceError.
"""
import json
import logging
import os
import sys

tree, provider, logs = (os.path.abspath(path) for path in sys.argv[1:4])
sys.path.insert(0, tree)

from ganeti import constants, errors, objects, pathutils  # noqa: E402
from ganeti.storage import bdev, extstorage  # noqa: E402

logging.disable(logging.CRITICAL)
# The real directories are the system's.
pathutils.ES_SEARCH_PATH = [os.path.dirname(provider)]
pathutils.LOG_ES_DIR = logs
PROVIDER = os.path.basename(provider)


def disk_of(given):
    """The object that a cluster's configuration would have."""
    disk = objects.Disk(
        dev_type=constants.DT_EXT,
        logical_id=(PROVIDER, given["id"]),
        size=given["size"],
        # These two are in every disk.
        params={"provider": PROVIDER, "access": "userspace", **given.get("params", {})},
        iv_name="disk/0",
        mode="rw",
        nodes=[],
        children=[],
    )
    disk.name = given.get("name")
    disk.uuid = given.get("uuid")
    disk.dynamic_params = {}
    disk.spindles = None
    return disk


def diagnose():
    found, es = extstorage.ExtStorageFromDisk(PROVIDER)
    if not found:
        raise errors.BlockDeviceError(es)
    optional = {name: bool(getattr(es, name + "_script")) for name in ("snapshot", "open", "close")}
    return {"parameters": [name for name, _ in es.supported_parameters], **optional}


def take(step, request):
    """One step. All but create begin by finding the disk, as the node daemon does for each of its calls."""
    disk = disk_of(request["disk"])
    if step == "create":
        return attached(bdev.Create(disk, [], False))
    device = bdev.FindDevice(disk, [])
    if step == "find":
        return attached(device)
    if step == "open":
        device.Open(exclusive=request["exclusive"])
    elif step == "grow":
        device.Grow(request["amount"], request["dryrun"], True, False)
    elif step == "setinfo":
        device.SetInfo(request["text"])
    elif step == "snapshot":
        return {"id": device.Snapshot()[1]}
    elif step == "uri":
        return {"uri": device.GetUserspaceAccessUri(request["hypervisor"])}
    elif step in ("close", "shutdown", "remove"):
        getattr(device, step.capitalize())()
    else:
        raise ValueError(step)
    return {}


def attached(device):
    return {"attached": device.attached, "path": device.dev_path, "uris": device.uris}


for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = diagnose() if request["do"] == "diagnose" else take(request["do"], request)
    except errors.BlockDeviceError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
