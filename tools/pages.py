"""Reads the pages of this repository: their links, the files and names they speak of, their commands and Python.

The pages are README.md, the README.md of every folder of the package, and the Markdown files in experiments/ and
tools/; an experiment file's header counts as a page of commands. tests/test_pages.py checks them, tools/run_pages.py
runs them.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "reimagen_jax"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?P<path>[\w.\-/*]*\w\.(?:py|md|cfg|toml)|[\w.\-/]+/)(?::(?P<name>[A-Za-z_][\w.]*))?")
"""What looks like a file of the repository, or a folder (`nets/`), perhaps with a name that the file defines."""
PROGRAMS = ("reimagen ", "python tools/")
"""Beginnings of indented lines that are commands."""
WAY = (
    *("README.md", "data", "encoders", "retrieval", "nets", "diffusion", "systems"),
    *("training", "inference", "evaluation", "reports", "preflight"),
)
"""The package's own page, then its folders, in reading order."""


@dataclass(frozen=True)
class Command:
    """A command of a page, as one line."""

    page: Path
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """Without comments."""
        return shlex.split(self.text, comments=True)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages, in reading order: the front page, the package along the data's way, experiments, tools."""
    of_package = [path for path in PACKAGE.rglob("README.md") if "assets" not in path.parts]
    of_package.sort(key=lambda path: (_place(path.relative_to(PACKAGE).parts[0]), len(path.parts), path))
    others = [path for name in ("experiments", "tools") for path in sorted((ROOT / name).glob("*.md"))]
    others.sort(key=lambda path: (path.parent.name, path.name != "README.md", path.name))
    return [ROOT / "README.md", *of_package, *others]


def _place(folder: str) -> int:
    return WAY.index(folder) if folder in WAY else len(WAY)


def headers() -> list[Path]:
    """The experiment files."""
    return sorted((ROOT / "experiments").glob("*.py"))


def prose(page: Path) -> str:
    """A page without its fenced blocks (whose lines stay, empty, so that numbers of lines hold)."""
    return FENCE.sub(lambda found: "\n" * found.group(0).count("\n"), page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets inside the repository, without their anchors."""
    found = [target.partition("#")[0] for target in LINK.findall(prose(page))]
    return [target for target in found if target and "://" not in target and not target.startswith("mailto:")]


def files(page: Path) -> Iterator[tuple[str, str]]:
    """(path, name) of all code in backticks that looks like a file of the repository; the name may be empty."""
    for code in CODE.findall(prose(page)):
        found = FILE.fullmatch(code)
        if found and not found["path"].startswith("runs/"):
            yield found["path"], found["name"] or ""


def resolve(page: Path, path: str) -> Path | None:
    """The file or folder that a page means: beside it, in the package, or in the repository; None: there is none."""
    bases = [page.parent, PACKAGE, ROOT]
    return next((found for base in bases for found in sorted(base.glob(path.rstrip("/"))) if found.exists()), None)


def defines(path: Path, name: str) -> bool:
    """Whether a Python file defines a name, or a class in it does (`Class.method`)."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [node for node in body if part in _names(node)]
        if not found:
            return False
        body = getattr(found[-1], "body", [])
    return True


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(number of the first line, content) of the fenced blocks in a language."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start()) + 2, found.group(2))
        for found in FENCE.finditer(text)
        if found.group(1) == language
    ]


def python_files(page: Path) -> dict[str, str]:
    """Python blocks that begin with a comment naming a file (`# ring/ring.py`), by that name."""
    named = {}
    for _, content in blocks(page, "python"):
        first = content.partition("\n")[0]
        if found := re.fullmatch(r"# ([\w/]+\.py)", first):
            named[found.group(1)] = content
    return named


def commands(page: Path) -> list[Command]:
    """The commands of a page's bash blocks and of indented lines that begin as commands do, in order."""
    if page.suffix == ".py":
        text = page.read_text(encoding="utf-8")
        header = ast.get_docstring(ast.parse(text), clean=False) or ""
        return list(_indented(page, 1, header))
    found = [one for first, content in blocks(page, "bash") for one in _lines(page, first, content)]
    found += _indented(page, 1, prose(page))
    return sorted(found, key=lambda command: command.line)


def _indented(page: Path, first: int, text: str) -> Iterator[Command]:
    """Commands that stand indented, each with the lines that continue it."""
    inside = False
    kept = []
    for line in text.split("\n"):
        inside = inside or (line.startswith("    ") and line.strip().startswith(PROGRAMS))
        kept.append(line.strip() if inside else "")
        inside = inside and line.endswith("\\")
    return _lines(page, first, "\n".join(kept))


def _lines(page: Path, first: int, content: str) -> Iterator[Command]:
    """Shell text to commands: lines that end with a backslash, or within quotes, go on in the next."""
    begun, text = first, ""
    for number, line in enumerate(content.split("\n"), first):
        begun, text = (number, line) if not text else (begun, f"{text}\n{line}")
        whole = re.sub(r"\\\n\s*", "", text)
        if text.endswith("\\") or not _complete(whole):
            continue
        if shlex.split(whole, comments=True):
            yield Command(page, begun, whole.strip())
        text = ""
    if text:
        raise ValueError(f"{page}:{begun}: a command without an end: {text}")


def _complete(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


class Call(NamedTuple):
    """One program within a command, to be run by itself."""

    environment: dict[str, str]
    words: list[str]


def calls(command: Command) -> Iterator[Call]:
    """The calls of `reimagen` and of Python files and modules within a command.

    A command may have several, joined by `&&`, behind variables (`A=b reimagen ...`), or within a quoted word that a
    shell elsewhere gets (`pod 'env/bin/reimagen train ...'`). Redirections are left out.
    """
    yield from _calls(command.words)


def _calls(words: list[str]) -> Iterator[Call]:
    part: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "||", ";", "|", "&"):
            yield from _call(part)
            part = []
        else:
            part.append(word)


def _call(words: list[str]) -> Iterator[Call]:
    environment = {}
    while words and (words[0] == "nohup" or re.match(r"[A-Z_]+=", words[0])):
        name, _, value = words[0].partition("=")
        environment |= {name: value} if value else {}
        words = words[1:]
    if not words:
        return
    end = next((i for i, word in enumerate(words) if re.fullmatch(r"\d?[<>].*", word)), len(words))
    program, arguments = words[0].rpartition("/")[2], words[1:end]
    if program == "reimagen":
        yield Call(environment, ["reimagen", *arguments])
    elif program.startswith("python") and arguments and (arguments[0] == "-m" or arguments[0].endswith(".py")):
        yield Call(environment, ["python", *arguments])
    else:
        for word in words[1:]:
            if re.search(r"\s", word) and "reimagen " in word:
                yield from _calls(shlex.split(word, comments=True))
