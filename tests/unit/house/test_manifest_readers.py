"""The command line and the parser read a bundle's manifest, and share no code. They must read the same in it."""

from __future__ import annotations

import pathlib
import re

import pytest

from dagbundle_parser.errors import RunError
from dagbundle_parser.manifest import read_manifest
from support.manifests import Reading, of_parser, of_trusted_side

V = "version: v1beta\n"
EXAMPLE = """\
version: v1beta
bundle_parser: StandardBundleParser
bundle_fetch_interval: 5 minutes
bundle_config:
  - directories_to_scan:
      - path: /glacier/
        scan_interval: 1 day
        min_file_parse_interval: 1 day
"""
"""AIP-85's own, but for the `...` at its end, which stands for more."""
PAGE = re.sub(r"(?m)^  +", lambda spaces: " " + "\xa0" * (len(spaces[0]) - 1), EXAMPLE)
"""As a browser copies it from the proposal's page."""
NOTHING = Reading(None, None, None, ())

VALID = {
    "the least": (V, NOTHING),
    "the proposal's example": (EXAMPLE, Reading("Standard", None, ("glacier",), ())),
    "a mapping": (
        V + "bundle_parser: SinglePassBundleParser\nbundle_config: {processes: 4}\n",
        Reading("SinglePass", 4, None, ()),
    ),
    "a list of mappings": (
        V + "bundle_config:\n- processes: 4\n-\n- loaders: {yaml: {enabled: false}}\n", Reading(None, 4, None, ()),
    ),
    "a parser without the ending": (V + "bundle_parser: their.Parser-2\n", Reading("their.Parser-2", None, None, ())),
    "a parser that is the ending": (V + "bundle_parser: BundleParser\n", Reading("BundleParser", None, None, ())),
    "keys without values": (
        V + "bundle_parser:\nbundle_fetch_interval: ~\nbundle_config:\n  processes:\n  loaders: {yaml: , ini: }\n",
        NOTHING,
    ),
    "settings of a list without values": (
        V + "bundle_config: [{processes: }, {processes: 3, loaders: }, {processes: ~}]\n", Reading(None, 3, None, ()),
    ),
    "the most processes": (V + "bundle_config: {processes: 64}\n", Reading(None, 64, None, ())),
    "a number of another base": (V + "bundle_config: {processes: 0x10}\n", Reading(None, 16, None, ())),
    "folders, however they are written": (
        V + "bundle_config: {directories_to_scan: [{path: a}, {path: ./b//c/}, {path: /}, {path: a.b/...}]}\n",
        Reading(None, None, ("a", "b/c", ".", "a.b/..."), ()),
    ),
    "a third party's loader": (
        V + "bundle_config: {loaders: {ini: {1: 2, any: [thing]}}}\n", Reading(None, None, None, ("ini",)),
    ),
    "JSON": ('{"version": "v1beta", "bundle_config": {"processes": 2}}', Reading(None, 2, None, ())),
    "a byte order mark": ("\ufeff" + V, NOTHING),
    "a merge without an alias": (V + "<<: {bundle_parser: Mine}\n", Reading("Mine", None, None, ())),
    "the end of the document": (V + "...\n", NOTHING),
}  # fmt: skip

TOO_DEEP = V + "bundle_config: {loaders: {ini: {a: " + "[" * 100 + "]" * 100 + "}}}\n"
PLACED = {
    "a key twice": (V + "bundle_parser: a\nbundle_parser: b\n", "line 3", "bundle_parser"),
    "a nested key twice": (V + "bundle_config:\n  processes: 1\n  processes: 1\n", "line 4", "processes"),
    "an alias": (V + "bundle_parser: &a x\nbundle_fetch_interval: *a\n", "line 3, column 24", "aliases"),
    "a bomb": (V + "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 3, column 8", "aliases"),
    "nesting": (TOO_DEEP, "line 2, column 132", "nest deeper than 100 levels"),
    "a number": (V + "bundle_config: {processes: " + "9" * 101 + "}\n", "line 2, column 28", "more than 100"),
    "sexagesimals": (V + "bundle_config: {processes: " + "1:" * 60 + "}\n", "line 2, column 28", "more than 100"),
    "a tab": (V + "bundle_config:\n\tprocesses: 1\n", "line 3, column 1", r"'\t'"),
    "a tab before a value": (V + "bundle_parser:\tx\n", "line 2, column 15", r"'\t'"),
    "an unclosed quote": (V + "bundle_parser: 'x\nbundle_config:\n", "line 2, column 16", "a quote is opened here"),
    "a quote that closes late": (
        V + "bundle_parser: 'x\nbundle_fetch_interval: '5 minutes'\n", "line 3", "is opened in line 2",
    ),
    "an unclosed list": (V + "bundle_config: [{processes: 1}\n", "line 2, column 16", "a list's [ is opened here"),
    "an unclosed mapping": (V + "bundle_config: {processes: 1\n", "line 2, column 16", "a mapping's { is opened here"),
    "an indentation": (V + "bundle_config:\n    processes: 1\n  loaders: {}\n", "line 4, column 3", "expected"),
    "the example's dots": (EXAMPLE + "      ...\n", "line 9, column 7", "stands for more in an example: leave it out"),
    "the example as a page has it": (PAGE + "\xa0\xa0...\n", "line 9, column 1", "no-break spaces"),
    "an object": (V + "a: !!python/object/apply:os.system ['true']\n", "line 2, column 4", "constructor for the tag"),
    "an unhashable key": (V + "? [a]\n: b\n", "line 2, column 3", "unhashable key"),
}  # fmt: skip
"""What is no YAML, or over a bound: the file, where it is wrong, and words of both messages."""

NAMED = {
    "version": {
        "no version": "bundle_parser: a\n",
        "another version": "version: v1\n",
        "a number": "version: 1\n",
        "a version without a value": "version:\n",
    },
    "bundle_parsr": {"an unknown key": V + "bundle_parsr: a\n"},
    "bundle_parser": {
        "a number as parser": V + "bundle_parser: 5\n",
        "a list as parser": V + "bundle_parser: [a]\n",
        "an empty parser": V + "bundle_parser: ''\n",
        "a parser with a space": V + "bundle_parser: a b\n",
        "a parser with a newline": V + 'bundle_parser: "a\\n"\n',
        "a parser of other letters": V + "bundle_parser: größe\n",
        "a parser that begins with a digit": V + "bundle_parser: 1a\n",
        "a long parser": V + f"bundle_parser: {'a' * 101}\n",
        "a path as parser": V + "bundle_parser: ../a\n",
    },
    "bundle_fetch_interval": {
        "a number as interval": V + "bundle_fetch_interval: 300\n",
        "more than Python prints as interval": V + f"bundle_fetch_interval: 0x{'f' * 5000}\n",
        "a long interval": V + f"bundle_fetch_interval: {'a' * 101}\n",
        "a control character": V + 'bundle_fetch_interval: "a\\x1b"\n',
        "a lone surrogate": V + 'bundle_fetch_interval: "\\ud800"\n',
    },
    "bundle_config": {
        "a text as settings": V + "bundle_config: a\n",
        "texts as settings": V + "bundle_config: [a]\n",
        "lists as settings": V + "bundle_config: [[{processes: 1}]]\n",
        "a setting in two items": V + "bundle_config: [{processes: 1}, {processes: 2}]\n",
    },
    "bundle_config.process": {"an unknown setting": V + "bundle_config: {process: 1}\n"},
    "directories_to_scan": {"the example with a page's spaces": PAGE},
    "bundle_config.processes": {
        "none": V + "bundle_config: {processes: 0}\n",
        "fewer than none": V + "bundle_config: {processes: -1}\n",
        "too many": V + "bundle_config: {processes: 65}\n",
        "more than Python prints": V + f"bundle_config: {{processes: 0x{'f' * 5000}}}\n",
        "far too many": V + f"bundle_config: {{processes: {'9' * 99}}}\n",
        "a truth": V + "bundle_config: {processes: true}\n",
        "a fraction": V + "bundle_config: {processes: 4.0}\n",
        "no number": V + "bundle_config: {processes: .nan}\n",
        "a text": V + "bundle_config: {processes: '4'}\n",
        "a wrong one in a list": V + "bundle_config:\n- loaders: {}\n- processes: four\n",
    },
    "bundle_config.loaders": {
        "a list of loaders": V + "bundle_config: {loaders: [yaml]}\n",
        "a text as loaders": V + "bundle_config: {loaders: yaml}\n",
    },
    "bundle_config.loaders.ini": {"a number as settings": V + "bundle_config: {loaders: {ini: 1}}\n"},
    "bundle_config.loaders.yaml": {"a list as settings": V + "bundle_config: {loaders: {yaml: []}}\n"},
    "bundle_config.loaders.yaml.enabled": {"no truth": V + "bundle_config: {loaders: {yaml: {enabled: 'no'}}}\n"},
    "bundle_config.loaders.yaml.patterns": {"a pattern alone": V + "bundle_config: {loaders: {yaml: {patterns: a}}}\n"},
    "bundle_config.loaders.yaml.defaults": {"an empty list": V + "bundle_config: {loaders: {yaml: {defaults: []}}}\n"},
    "bundle_config.directories_to_scan": {
        "no folders": V + "bundle_config: {directories_to_scan: []}\n",
        "a folder alone": V + "bundle_config: {directories_to_scan: /glacier/}\n",
    },
    "bundle_config.directories_to_scan[0]": {
        "a text as folder": V + "bundle_config: {directories_to_scan: [/glacier/]}\n",
        "a folder without a path": V + "bundle_config: [{directories_to_scan: [{scan_interval: 1 day}]}]\n",
        "nothing as folder": V + "bundle_config: {directories_to_scan: [~]}\n",
    },
    "bundle_config.directories_to_scan[1].path": {
        "a way out": V + "bundle_config: {directories_to_scan: [{path: a}, {path: ../b}]}\n",
        "a number as path": V + "bundle_config: {directories_to_scan: [{path: a}, {path: 1}]}\n",
        "an empty path": V + "bundle_config: {directories_to_scan: [{path: a}, {path: ''}]}\n",
        "a long path": V + f"bundle_config: {{directories_to_scan: [{{path: a}}, {{path: {'a' * 1025}}}]}}\n",
        "an unprintable path": V + 'bundle_config: {directories_to_scan: [{path: a}, {path: "b\\x00"}]}\n',
    },
    "bundle_config.directories_to_scan[0].interval": {
        "an unknown setting of a folder": V + "bundle_config: {directories_to_scan: [{path: a, interval: 1 day}]}\n"
    },
    "bundle_config.directories_to_scan[0].scan_interval": {
        "a number as a folder's interval": V + "bundle_config: {directories_to_scan: [{path: a, scan_interval: 1}]}\n"
    },
}
"""What is YAML and no manifest, by the key that both messages name."""

REFUSED = {
    "nothing": "",
    "a comment": "# later\n",
    "no value": "~\n",
    "a text": "v1beta\n",
    "a list": "- version: v1beta\n",
    "two documents": V + "---\n" + V,
    "a number as key": V + "1: 2\n",
    "a key that Python does not print": V + f"? 0x{'f' * 5000}\n: 1\n",
    "a setting that Python does not print": V + f"bundle_config: {{? 0x{'f' * 5000} : 1}}\n",
    "a loader that Python does not print": V + f"bundle_config: {{loaders: {{? 0x{'f' * 5000} : {{}}}}}}\n",
    "a setting of YAML that Python does not print": V
    + f"bundle_config: {{loaders: {{yaml: {{? 0x{'f' * 5000} : 1}}}}}}\n",
    "a fraction as key": V + "1.5: 1\n",
    "a time as key": V + "2026-01-01: 1\n",
    "nothing as key": V + "~: 1\n",
    "an unknown key without a value": V + "bundle_parsr:\n",
    "an unknown setting without a value": V + "bundle_config: {process: }\n",
    "an unknown setting of a list without a value": V + "bundle_config: [{process: }]\n",
    "an unknown setting of YAML without a value": V + "bundle_config: {loaders: {yaml: {pattern: }}}\n",
    "nothing as a loader": V + "bundle_config: {loaders: {~: ~}}\n",
    "nothing as a key and a value": V + "~:\n",
    "nothing as a setting of YAML": V + "bundle_config: {loaders: {yaml: {~: 1}}}\n",
    "a number as setting": V + "bundle_config: {1: 2}\n",
    "a number as loader": V + "bundle_config: {loaders: {1: {}}}\n",
    "an integer of nothing": V + 'a: !!int ""\n',
    "an integer of no digit": V + 'a: !!int "_"\n',
    "a fraction of nothing": V + 'a: !!float ""\n',
    "a fraction beyond all": V + f'a: !!float "{":".join(["1"] * 400)}.0"\n',
    "a long integer of the base 60 behind a dash": V + f'a: !!int "_{":".join(["1"] * 100_000)}"\n',
    "a tag that does not fit": V + "a: !!bool x\n",
    "a NUL": V + "\x00",
    "too much": V + "#" * (256 << 10),
    "another version of YAML": "%YAML 9.9\n---\n" + V,
    "a merge of no mapping": V + "<<: [1]\n",
}
"""What is refused where YAML names no place."""


def write(folder: pathlib.Path, text: str | bytes) -> pathlib.Path:
    (folder / "dagbundle.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize("name", VALID)
def test_both_sides_read_the_same_in_a_manifest(tmp_path: pathlib.Path, name: str) -> None:
    text, wanted = VALID[name]
    write(tmp_path, text)
    assert of_trusted_side(tmp_path) == wanted
    assert of_parser(tmp_path) == wanted


def refusals(folder: pathlib.Path, text: str | bytes) -> tuple[str, str]:
    write(folder, text)
    ours, theirs = of_trusted_side(folder), of_parser(folder)
    assert isinstance(ours, str), ours
    assert isinstance(theirs, str), theirs
    assert "dagbundle.yaml" in ours
    assert theirs.startswith("ManifestInvalid: the manifest dagbundle.yaml cannot be used: ")
    assert max(len(ours), len(theirs)) < 2_000
    return ours, theirs


@pytest.mark.parametrize("name", PLACED)
def test_both_sides_name_the_line_of_what_is_no_yaml(tmp_path: pathlib.Path, name: str) -> None:
    text, place, words = PLACED[name]
    for said in refusals(tmp_path, text):
        assert place in said
        assert words in said


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, found in NAMED.items() for name in found])
def test_both_sides_name_the_key_that_is_wrong_and_the_parser_its_line(
    tmp_path: pathlib.Path, key: str, name: str
) -> None:
    text = NAMED[key][name]
    ours, theirs = refusals(tmp_path, text)
    for said in (ours, theirs):
        assert re.search(rf"\b{re.escape(key)}(?![\w])", said), said
    if "missing" not in theirs:
        assert re.search(r"line \d+, column \d+: ", theirs)


def test_the_parser_names_the_line_and_column_of_a_wrong_setting(tmp_path: pathlib.Path) -> None:
    _, theirs = refusals(tmp_path, V + "bundle_config:\n  - loaders: {}\n  - directories_to_scan:\n    - path: ../a\n")
    assert ": line 5, column 7: bundle_config.directories_to_scan[0].path must lie in the bundle" in theirs


@pytest.mark.parametrize("name", REFUSED)
def test_both_sides_refuse_what_is_no_manifest(tmp_path: pathlib.Path, name: str) -> None:
    refusals(tmp_path, REFUSED[name])


@pytest.mark.parametrize("text", [b"version: \xff", b"\xff\xfe\x00", b"\xc3\x28"])
def test_both_sides_refuse_what_is_no_text(tmp_path: pathlib.Path, text: bytes) -> None:
    refusals(tmp_path, text)


def test_the_parser_refuses_a_folder_whose_name_no_file_system_takes(tmp_path: pathlib.Path) -> None:
    write(tmp_path, V + f"bundle_config: {{directories_to_scan: [{{path: {'a' * 300}}}]}}\n")
    with pytest.raises(RunError, match="the bundle has no folder 'aaa"):
        read_manifest(str(tmp_path)).require_directories(str(tmp_path))


def test_both_sides_take_the_manifests_of_the_documentation(tmp_path: pathlib.Path) -> None:
    text = (pathlib.Path(__file__).parents[3] / "docs/manifest.md").read_text()
    shown = re.findall(r"(?s)```yaml\n(version: v1beta\n.*?)```", text)
    assert EXAMPLE in shown
    for manifest in shown:
        write(tmp_path, manifest)
        assert isinstance(of_trusted_side(tmp_path), Reading), manifest
        assert of_parser(tmp_path) == of_trusted_side(tmp_path)


def test_both_sides_take_a_manifest_in_utf_16(tmp_path: pathlib.Path) -> None:
    write(tmp_path, V.encode("utf-16"))
    assert of_trusted_side(tmp_path) == of_parser(tmp_path) == NOTHING


def test_neither_side_follows_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere.yaml").write_text("no: manifest\n")
    (tmp_path / "dagbundle.yaml").symlink_to("elsewhere.yaml")
    assert of_parser(tmp_path) == NOTHING
