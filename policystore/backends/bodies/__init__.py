"""Move the bodies of large requests, without a second copy of their bytes in memory."""
