"""How anything is named, escaped, folded and formatted: one place each. Nothing here imports from above."""
