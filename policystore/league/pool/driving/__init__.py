"""What the driver of an opponent pool does: members, payoffs, snapshots, calls of env runners."""
