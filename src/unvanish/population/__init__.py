"""Many networks at once: stacked, as chains in numpy, or one process a core; and sweeps over their settings."""
