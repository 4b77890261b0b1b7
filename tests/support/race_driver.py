"""Push to a name beside other processes; print number and digest of each new version."""

from __future__ import annotations

import sys
import time

import numpy as np

from policystore import PolicyStore, Snapshot

url, writer, count, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
options = {"endpoint_url": endpoint} if (endpoint := "".join(sys.argv[5:])) else None
store = PolicyStore(url, storage_options=options)
if endpoint:
    store.names()  # import now what takes long
snaps = [Snapshot(weights={"w": np.array([writer, push])}) for push in range(count)]
time.sleep(max(0.0, start - time.time()))
for snap in snaps:
    version = store.push(snap, "league/main", message=f"{writer}")
    print(version.number, version.digest)
