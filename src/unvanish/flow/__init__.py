"""From the calls of a pass and the cotangents of a walk to plain numbers for each call and layer."""
