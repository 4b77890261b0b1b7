"""Keep the bytes of a store. Only this package talks to disks and servers."""
