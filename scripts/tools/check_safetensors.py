"""Read files of policystore with other releases of safetensors, the oldest release first.

    ./.venv/bin/python scripts/tools/check_safetensors.py [VERSION…]

Each release is installed into a separate folder, and reads a file with every dtype, with 0-d and
empty tensors, with names outside ASCII, and with a spec and a state. (float8 is tested from 0.4.2
on, the first release with float8.) The exit status is 1 if a release reads other values than
policystore has written.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from policystore import Snapshot, Spec
from policystore.format.arrays import DTYPES
from policystore.format.policy import named_state

VERSIONS = ("0.4.0", "0.4.2", "0.5.3", "0.6.2", "0.7.0", "0.8.0")

READER = """
import hashlib, sys
import safetensors, torch
from safetensors import safe_open

found = {}
with safe_open(sys.argv[1], "pt") as file:
    assert set(file.metadata()) == {"policystore"}
    for name in file.keys():
        tensor = file.get_tensor(name)
        raw = tensor.contiguous().reshape(-1)
        raw = raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b""
        found[name] = (list(tensor.shape), hashlib.sha256(raw).hexdigest())
for name in sorted(found):
    print(ascii(name), *found[name])
"""


def written(version: str) -> Snapshot:
    # Before 0.4.2 safetensors itself could not read float8.
    young = version in ("0.4.0", "0.4.1")
    weights = {
        f"w/{code}": np.arange(6).reshape(2, 3).astype(dtype)
        for code, dtype in DTYPES.items()
        if not (young and code.startswith("F8"))
    }
    weights |= {"0-d": np.array(1.5), "empty": np.zeros((0, 3), np.int16), "ünï": np.ones(1)}
    return Snapshot(weights=weights, spec=Spec(stack="torch"), state={"f": {0: np.arange(3.0)}})


def expected(snap: Snapshot) -> list[str]:
    arrays = {**snap.weights, **named_state(snap._state_arrays)}
    return [
        f"{name!a} {list(arrays[name].shape)} {hashlib.sha256(arrays[name].tobytes()).hexdigest()}"
        for name in sorted(arrays)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION", default=VERSIONS)
    versions = parser.parse_args().versions
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "all.safetensors"
        for version in versions:
            snap = written(version)
            snap.save(file)
            target = Path(folder) / version
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
            subprocess.run([*pip, str(target), f"safetensors=={version}"], check=True)
            program = f"import sys; sys.path.insert(0, {str(target)!r})\n" + READER
            program += f"assert safetensors.__version__ == {version!r}, safetensors.__version__\n"
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program, str(file)],
                capture_output=True,
                text=True,
            )
            same = done.returncode == 0 and done.stdout.splitlines() == expected(snap)
            bad += not same
            print(f"safetensors {version:8} {'reads it' if same else 'DOES NOT READ IT'}")
            if not same:
                print(done.stdout, done.stderr, sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
