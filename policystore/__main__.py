"""Run the command line by ``python -m policystore``."""

from __future__ import annotations

import sys

from policystore.cli import main

if __name__ == "__main__":
    sys.exit(main())
