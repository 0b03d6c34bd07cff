"""Checks that the relative links of the Markdown files lead somewhere: `python tools/check_links.py [FOLDER]`.

Addresses with a scheme are left alone: the check needs no network and fails for no one else's fault.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

# [text](target), ![text](target "title") and [label]: target
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)", re.MULTILINE)
CODE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def markdown_files(top: Path) -> Iterator[Path]:
    """Finds the Markdown files below `top`, but none in hidden folders such as .venv."""
    for path in sorted(top.rglob("*.md")):
        if not any(part.startswith(".") for part in path.relative_to(top).parts):
            yield path


def anchors(text: str) -> set[str]:
    """Lists the anchors that the headings of a page get: lower case, hyphens, no punctuation, then -1, -2."""
    found: set[str] = set()
    for heading in HEADING.findall(blank_fences(text)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        times = 0
        while (unique := f"{slug}-{times}" if times else slug) in found:
            times += 1
        found.add(unique)
    return found


def blank_fences(text: str) -> str:
    """Blanks code, which holds no links and no headings; lines keep their numbers, headings their words."""
    return CODE.sub(lambda code: "\n" * code[0].count("\n") if code[1] else code[0], text)


def dead_links(page: Path) -> Iterator[str]:
    """Tells each relative link of a page that leads nowhere, as `page:line: target`."""
    text = CODE.sub(lambda code: "\n" * code[0].count("\n"), page.read_text(encoding="utf-8"))
    for link in LINK.finditer(text):
        target = link[1] or link[2]
        if not re.match(r"[a-z][a-z0-9+.-]*:", target) and not leads_somewhere(page, target):
            yield f"{page}:{text.count(chr(10), 0, link.start()) + 1}: {target}"


def leads_somewhere(page: Path, target: str) -> bool:
    """Looks whether a link's file exists and, in a Markdown file, whether it has the anchor."""
    path, _, anchor = target.partition("#")
    there = page.parent / path if path else page
    if not anchor or there.suffix != ".md" or not there.is_file():
        return there.exists()
    return anchor in anchors(there.read_text(encoding="utf-8"))


def main(top: Path) -> int:
    """Prints the dead links; the exit status is 1 if there are any."""
    pages = list(markdown_files(top))
    dead = [line for page in pages for line in dead_links(page)]
    print(*dead, f"{len(pages)} Markdown files, {len(dead)} dead links", sep="\n")
    return int(bool(dead))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
