"""Show stores, versions and policies to people: short texts, and HTML for notebooks."""
