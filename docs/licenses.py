"""The licences of what is linked into `bootstrap`: `licenses.py` writes docs/LICENSES.md, `licenses.py --check` compares.

The list comes from Cargo.lock by `cargo tree`: what the function needs at run time, without the tool, the tests and
what only builds.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "LICENSES.md"
ROOT_PACKAGE = "auto-instance-profile"
# `no-proc-macro`: macros run in the compiler and leave nothing of themselves in the binary.
TREE = ["cargo", "tree", "--locked", "--quiet", "--target", "x86_64-unknown-linux-gnu", "--package", ROOT_PACKAGE,
        "--no-default-features", "--features", "aws", "--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe",
        "--format", "{p}\t{l}\t{r}"]
HEAD = """# Licences

What is linked into the function's binary, `bootstrap`, for x86_64: {count} crates, beside Rust's standard library
(MIT OR Apache-2.0). `make licenses` writes this page from `Cargo.lock`, and a test holds it against it; `deny.toml`
says which licences may come in.

| licence | crates |
|---|--:|
{licences}

| crate | version | licence |
|---|---|---|
{crates}
"""


def spdx(licence: str) -> str:
    """One way to write each: `MIT/Apache-2.0` is the old form of `MIT OR Apache-2.0`, in which order does not count."""
    licence = licence.replace(" / ", "/").replace("/", " OR ")
    if "(" in licence or "AND" in licence:
        return licence
    return " OR ".join(sorted(licence.split(" OR ")))


def page() -> str:
    """The page as it should be."""
    tree = subprocess.run(TREE, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    rows = set()
    for line in filter(None, tree.splitlines()):
        package, licence, repository = line.split("\t")
        name, version = package.split()[:2]
        if name != ROOT_PACKAGE:
            rows.add((name, version.removeprefix("v"), spdx(licence), repository))
    if unnamed := [row[0] for row in rows if not row[2]]:
        raise SystemExit(f"no licence is named by: {', '.join(unnamed)}")
    licences = [row[2] for row in rows]
    counts = sorted({(-licences.count(licence), licence) for licence in licences})
    return HEAD.format(
        count=len(rows),
        licences="\n".join(f"| {licence} | {-count} |" for count, licence in counts),
        crates="\n".join(
            f"| [{name}]({repository}) | {version} | {licence} |" if repository else f"| {name} | {version} | {licence} |"
            for name, version, licence, repository in sorted(rows)
        ),
    )



def main() -> int:
    """Writes or compares the page; answers the process's exit code."""
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text(encoding="utf-8") != page():
            print("docs/LICENSES.md is not what Cargo.lock says: make licenses", file=sys.stderr)
            return 1
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
