"""docs/workers.md is held to the package."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs/workers.md").read_text()
SOURCES = [path.read_text() for path in sorted((ROOT / "operator/dagbundle_airflow").glob("*.py"))]


def test_every_variable_that_the_package_knows_is_documented() -> None:
    known = {name for text in SOURCES for name in re.findall(r"\bDAGBUNDLE_[A-Z]+(?:_[A-Z]+)*\b", text)}
    assert known
    assert {name for name in known if name not in DOCUMENT} == set()


def test_every_message_that_the_document_explains_is_one_of_the_packages() -> None:
    section = DOCUMENT.partition("## What is not started")[2].partition("\n## ")[0]
    messages = re.findall(r"(?m)^\| `([^`]+)` \|", section)
    text = re.sub(r'"\s+f?"', "", "\n".join(SOURCES))
    assert messages
    assert [message for message in messages if message.rstrip(" …") not in text] == []
