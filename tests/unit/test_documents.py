"""What the documents point at exists: links, modules, classes, decisions."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CURRENT = [path for path in DOCUMENTS if path.name not in {"CHANGELOG.md", "renames.md"}]
"""Those that speak of the program as it is."""

LIBRARIES = {"AsyncConnection"}
SOURCES = "\n".join(path.read_text() for path in (ROOT / "src/chatflow").rglob("*") if path.suffix in {".py", ".js"})
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("document", CURRENT, ids=named)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|js|config|yaml))`", document.read_text()):
        assert (ROOT / name).exists() or (ROOT / "src/chatflow" / name).exists(), name


@pytest.mark.parametrize("document", [ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs/adr").glob("0*.md"))], ids=named)
def test_every_class_that_a_document_names_exists(document: Path) -> None:
    for name in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z0-9]+)+)\b[^`]*`", document.read_text()):
        assert name in LIBRARIES or re.search(rf"\b{name}\b", SOURCES), name


def test_the_index_lists_every_decision_by_its_title() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    rows = re.findall(r"^\| \[(\d{4})\]\((.*?)\) \| (.*) \|$", index, re.MULTILINE)
    files = sorted((ROOT / "docs/adr").glob("0*.md"))
    assert [name for _, name, _ in rows] == [path.name for path in files]
    for (number, name, title), path in zip(rows, files, strict=True):
        assert name.startswith(number)
        assert path.read_text().splitlines()[0] == f"# {number} {title}"


def test_the_table_of_renames_is_sorted_and_leads_to_what_exists() -> None:
    rows = [line for line in (ROOT / "docs/renames.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == sorted(rows)
    for row in rows:
        for name in re.findall(r"`((?:[a-z]\w*/)+\w+\.py)`", row.split(" | ", 1)[1]):
            assert (ROOT / name).exists() or (ROOT / "src/chatflow" / name).exists(), name
