"""What live and saved policies share: config keys, class paths, connectors. Imports no Ray."""
