"""Check what a store needs, for ``policystore doctor``."""
