"""Fit the weights of one policy to another policy: ``adapt`` and ``adapted``."""
