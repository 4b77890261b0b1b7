"""Play matches between stored policies, outside of a training."""
