"""Puts a table into docs/PERFORMANCE.md: `report.py MARKER < table.md`.

What stands between `<!-- MARKER:begin -->` and `<!-- MARKER:end -->` is replaced by what comes in.
"""

import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "PERFORMANCE.md"


def main() -> int:
    """Replaces one part of the page; answers the process's exit code."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    marker = sys.argv[1]
    table = sys.stdin.read().strip()
    if not table:
        print(f"report.py {marker}: nothing came in", file=sys.stderr)
        return 1
    page = PAGE.read_text(encoding="utf-8")
    begin, end = (f"<!-- {marker}:{side} -->" for side in ("begin", "end"))
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        print(f"{PAGE.name} must hold {begin} and, after it, {end}, once each", file=sys.stderr)
        return 1
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    PAGE.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
