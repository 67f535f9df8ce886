"""Renders the Mermaid blocks of the documentation, which proves that they parse: `make pictures`.

A repository's browser renders the blocks itself. The site shows the SVG files that this makes, so its pages load no
script; where nothing has been rendered, the site shows the blocks' text. Mermaid needs a browser's layout: Chromium
opens one page with all blocks, without a network, and prints it back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = pathlib.Path(__file__).parent
MERMAID = TOOLS / "node_modules/mermaid/dist/mermaid.min.js"
PICTURES = "generated/pictures"
SECONDS = 120
_BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r"^\s*accTitle: *(.+?) *$", re.MULTILINE)
_ANSWER = re.compile(r'<pre id="answer">(.*?)</pre>', re.DOTALL)
_ON_WHITE = '<svg style="background-color: white" '
"""What each picture begins with: its lines are dark, and the site has a dark mode."""
_PAGE = """<!doctype html><meta charset="utf-8"><body><pre id="answer"></pre><script>%(mermaid)s</script><script>
(async () => {
  const made = {};
  mermaid.initialize({startOnLoad: false, securityLevel: "strict", htmlLabels: false,
    flowchart: {htmlLabels: false, useMaxWidth: false}, theme: "neutral",
    sequence: {useMaxWidth: false, actorMargin: 30, width: 120, mirrorActors: false},
    fontFamily: "DejaVu Sans, sans-serif"});
  for (const [name, block] of Object.entries(%(blocks)s)) {
    try { made[name] = {svg: (await mermaid.render("picture-" + name, block)).svg}; }
    catch (error) { made[name] = {error: String(error)}; }
  }
  document.getElementById("answer").textContent = JSON.stringify(made);
})();
</script>"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One Mermaid block of a page."""

    page: str
    block: str

    @property
    def name(self) -> str:
        """What its file is called: the block's hash, so that a picture of an older block is never shown."""
        return hashlib.sha256(self.block.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """What it shows, for readers who do not see it.

        Raises:
            ValueError: The block has no `accTitle`.
        """
        found = _TITLE.search(self.block)
        if not found:
            raise ValueError(f"{self.page}: a Mermaid block needs a line `accTitle: …`, which is read in its place")
        return found[1]


def of(text: str, page: str = "") -> list[Picture]:
    """Return the pictures of a page, in its order."""
    return [Picture(page, match[1]) for match in _BLOCK.finditer(text)]


def all_of(root: pathlib.Path) -> list[Picture]:
    """Return the pictures of README and all pages."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md")), *sorted((root / "docs").glob("[!g_]*/*.md"))]
    return [found for page in pages for found in of(page.read_text("utf-8"), page.relative_to(root).as_posix())]


def replaced(text: str, docs: pathlib.Path) -> str:
    """Return a page's text with its rendered pictures in place of their blocks."""

    def one(match: re.Match[str]) -> str:
        picture = Picture("", match[1])
        if not (docs / PICTURES / f"{picture.name}.svg").exists():
            return f"```text\n{match[1]}```"
        return f"![{picture.title}](/{PICTURES}/{picture.name}.svg)"

    return _BLOCK.sub(one, text)


def render(pictures: list[Picture], chromium: str) -> dict[str, str]:
    """Return each picture's SVG by its name.

    Raises:
        ValueError: Mermaid cannot draw one of them, or the browser answered nothing.
    """
    blocks = json.dumps({picture.name: picture.block for picture in pictures}).replace("</", "<\\/")
    page = _PAGE % {"mermaid": MERMAID.read_text("utf-8").replace("</script", "<\\/script"), "blocks": blocks}
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "page.html")
        file.write_text(page, "utf-8")
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=60000", "--dump-dom", file.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    answer = _ANSWER.search(done.stdout)
    if not answer or not answer[1]:
        raise ValueError(f"{chromium} ended with {done.returncode} and drew nothing: {done.stderr[-2000:]}")
    drawn = json.loads(html.unescape(answer[1]))
    errors = [
        f"{picture.page}: {picture.title}: {drawn[picture.name]['error']}"
        for picture in pictures
        if "error" in drawn[picture.name]
    ]
    if errors:
        raise ValueError("\n".join(errors))
    for found in drawn.values():
        ET.fromstring(found["svg"])  # noqa: S314 - drawn here, of our own blocks
    return {name: found["svg"] for name, found in drawn.items()}


def main() -> None:
    """Render every picture into its file, and remove those whose blocks are gone."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("Chromium is needed to draw the pictures: on Debian, apt-get install chromium")
    folder = ROOT / "docs" / PICTURES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pictures = all_of(ROOT)
    try:
        drawn = render(pictures, chromium)
    except ValueError as error:
        sys.exit(str(error))
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg.replace("<svg ", _ON_WHITE, 1), "utf-8")
    print(f"{len(drawn)} pictures drawn")


if __name__ == "__main__":
    main()
