"""Copy names, versions and policies from one store to another, and keep the copy up to date."""
