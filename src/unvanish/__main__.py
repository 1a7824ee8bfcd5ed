"""``python -m unvanish`` is the program ``unvanish``."""

from unvanish.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
