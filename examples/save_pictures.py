"""Save a report as a page and its pictures as files. The pictures need the extra "pictures".

python examples/save_pictures.py [FOLDER]
"""

import sys
from pathlib import Path

import unvanish
from unvanish import zoo

problem = zoo.get("sigmoid-20").build(0)


def main(folder: Path) -> None:
    """With effort full the curvature of every layer is measured, which the picture "plane" shows."""
    folder.mkdir(parents=True, exist_ok=True)
    report = unvanish.diagnose(problem, effort="full")
    report.save(folder / "report.html")
    report.save(folder / "staircase.svg")
    for name in ("plane", "factors"):
        for theme in ("light", "dark"):
            report.chart(name).save(folder / f"{name}-{theme}.png", theme=theme)
    print("\n".join(sorted(path.name for path in folder.iterdir())))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "pictures"))
