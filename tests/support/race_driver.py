"""One of several writers of one name; prints the versions that it was given."""

from __future__ import annotations

import sys
import time

import numpy as np

from policystore import PolicyStore, Snapshot

url, writer, count, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
options = {"endpoint_url": endpoint} if (endpoint := "".join(sys.argv[5:])) else None
store = PolicyStore(url, storage_options=options)
if endpoint:
    store.names()  # what takes long to import
snaps = [Snapshot(weights={"w": np.array([writer, push])}) for push in range(count)]
time.sleep(max(0.0, start - time.time()))
for snap in snaps:
    version = store.push(snap, "league/main", message=f"{writer}")
    print(version.number, version.digest)
