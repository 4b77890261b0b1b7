"""Plays groups of episodes: environments, players, outcomes, and the processes that play."""
