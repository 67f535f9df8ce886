from __future__ import annotations

import gc
import gzip
import hashlib
import json
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from dagbundle import errors
from dagbundle.resources import flight, protocol, records


def opening(files: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "type": "open", "protocol": 1, "run": "r", "attempt": "a", "parser": {"name": "SinglePass", "version": "1"},
        "python": "3.11", "airflow": "3.3.2", "fingerprint": "f", "files": files, **fields,
    }  # fmt: skip


def a_file(seq: int = 1, path: str = "a.py", **fields: Any) -> dict[str, Any]:
    return {"type": "file", "seq": seq, "path": path, "status": "parsed", **fields}


def lines(records: Iterable[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(record).encode() + b"\n" for record in records]


def closing(before: list[bytes], paths: list[str], **fields: Any) -> bytes:
    digest = hashlib.sha256(b"".join(before)).hexdigest()
    counts = {"files": len(paths), "dags": 0, "errors": 0}
    return lines([{"type": "close", "files": paths, "counts": counts, "digest": digest, **fields}])[0]


def report(paths: list[str]) -> bytes:
    before = lines([opening(len(paths)), *(a_file(seq, path) for seq, path in enumerate(paths, 1))])
    return b"".join(before) + closing(before, paths)


def decode(data: bytes, sizes: Iterable[int] = (), limits: protocol.Limits | None = None) -> list[protocol.Record]:
    decoder = protocol.ReportDecoder(run="r", attempt="a", limits=limits)
    records: list[protocol.Record] = []
    for size in sizes:
        records += decoder.feed(data[:size])
        data = data[size:]
    records += decoder.feed(data)
    decoder.finish()
    assert decoder.closed or isinstance(records[-1], protocol.Fail)
    return records


@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("wide", ["", "\xe9", "\u4e2d", "\uac00", "\U0001f600"])
@pytest.mark.parametrize("cut", range(13))
def test_a_record_weighs_what_its_texts_take_however_wide_one_character_makes_them(
    wide: str, is_ascii: bool, cut: int
) -> None:
    decoder = protocol.ReportDecoder(run="r", attempt="a")
    assert [record.type for record in decoder.feed(lines([opening(2)])[0])] == ["open"]
    text = "x" * 10_000 + wide + "y" * 1_000
    line = json.dumps(a_file(sources={"a.py": text}), ensure_ascii=is_ascii).encode() + b"\n"
    before, place = decoder.decoded, line.rindex(b"xx") + 2
    assert list(decoder.feed(line[: place + cut])) == []
    list(decoder.feed(line[place + cut : -1]))
    assert decoder.weight - before >= sys.getsizeof(text) - 200
    assert len(list(decoder.feed(line[-1:]))) == 1
    assert decoder.weight == decoder.decoded
    assert decoder.decoded - before >= sys.getsizeof(text) - 200
    list(decoder.feed(lines([a_file(2, "b.py")])[0]))
    assert decoder.decoded - before < 5 * len(line) + 2_000


@pytest.mark.parametrize("char", ["x", "\u4e2d"])
def test_an_object_of_many_short_texts_weighs_what_it_takes(char: str) -> None:
    decoder = protocol.ReportDecoder(run="r", attempt="a")
    list(decoder.feed(lines([opening(2)])[0]))
    closure = {f"{char}{number:06}": f"{number:x}{char}" for number in range(20_000)}
    (line,) = lines([a_file(closure=closure)])
    tracemalloc.start()
    kept = json.loads(line)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    before = decoder.decoded
    list(decoder.feed(line[:-1]))
    assert kept
    assert taken * 0.8 < decoder.weight - before < taken * 2


def test_a_record_after_a_wide_one_weighs_no_more_than_alone() -> None:
    decoder = protocol.ReportDecoder(run="r", attempt="a")
    wide, plain = lines([a_file(1, output={"bytes": 1, "text": "\U0001f600"}), a_file(2, "b.py")])
    list(decoder.feed(lines([opening(2)])[0]))
    list(decoder.feed(wide + plain[:-1]))
    assert decoder.weight - decoder.decoded < 2 * len(plain) + 48 * 10 + 40 * plain.count(b'"')


@hypothesis.given(st.lists(st.integers(0, 300), max_size=20), st.booleans())
def test_a_report_decodes_the_same_however_it_is_cut_into_chunks_and_compressed(sizes: list[int], packed: bool) -> None:
    data = report(["a.py", "b.py"])
    records = decode(gzip.compress(data) if packed else data, sizes)
    assert [record.type for record in records] == ["open", "file", "file", "close"]


@hypothesis.given(st.data())
def test_a_report_that_is_cut_anywhere_did_not_close(data: st.DataObject) -> None:
    whole = report(["a.py"])
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(errors.ProtocolError, match="the report was cut"):
        decode(whole[:end])


@hypothesis.given(st.data())
def test_a_flipped_byte_never_closes_a_report(data: st.DataObject) -> None:
    whole = bytearray(report(["a.py", "b.py"]))
    index = data.draw(st.integers(0, len(whole) - 2))
    whole[index] ^= data.draw(st.integers(1, 255))
    # a flip inside the close record's own numbers or spacing may leave equal JSON; anything else must be seen
    try:
        records = decode(bytes(whole))
    except errors.ProtocolError:
        return
    assert records == decode(report(["a.py", "b.py"]))


@hypothesis.given(st.randoms())
def test_interleaved_and_repeated_lines_never_close_a_report(rng: random.Random) -> None:
    whole = report(["a.py", "b.py", "c.py"]).splitlines(keepends=True)
    mixed = [rng.choice(whole) for _ in range(rng.randint(1, 8))]
    hypothesis.assume(mixed != whole)
    with pytest.raises(errors.ProtocolError):
        decode(b"".join(mixed))


@hypothesis.given(st.binary(max_size=300))
def test_any_bytes_are_answered_with_records_or_a_protocol_error(data: bytes) -> None:
    with pytest.raises(errors.ProtocolError):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@hypothesis.given(st.sampled_from([opening(), a_file(), {"type": "fail", "kind": "x", "message": "y"}]), st.data())
def test_ill_typed_records_are_refused(record: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(record)))
    value = data.draw(JSON)
    hypothesis.assume(type(value) is not type(record[field]))
    hypothesis.assume(not (field == "airflow" and value is None))
    start = [] if record["type"] == "open" else lines([opening()])
    with pytest.raises(errors.ProtocolError):
        decode(b"".join([*start, *lines([{**record, field: value}])]))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([opening(protocol=2)], "uses protocol 2"),
        ([opening(run="other")], "another run"),
        ([opening(attempt="other")], "another run or attempt"),
        ([opening(), opening()], "second open record"),
        ([a_file()], "before its first record"),
        ([opening(2), a_file(2)], "file record 2 came where 1 was due"),
        ([opening(2), a_file(1), a_file(2)], "two records speak of a.py"),
        ([opening(1), a_file(1), a_file(2, "b.py")], "more files arrived"),
        ([opening(), a_file(path="../a.py")], "no path inside the bundle"),
        ([opening(), a_file(path="/etc/passwd")], "no path inside the bundle"),
        ([opening(), a_file(path="a\nb.py")], "no path inside the bundle"),
        ([opening(), a_file(odd=1)], "odd: Extra inputs are not permitted"),
        ([opening(), a_file(duration=-1.0)], "duration"),
        ([opening(10**7)], "more than 100,000"),
        ([{"type": "what"}], "unknown type 'what'"),
        ([{}], "unknown type None"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_the_reason(records: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(errors.ProtocolError, match=words.replace("(", r"\(")):
        decode(b"".join(lines(records)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"digest": "0" * 64}, "digest does not fit"),
        ({"files": ["b.py"]}, "listing does not fit"),
        ({"files": ["a.py", "a.py"]}, "listing does not fit"),
        ({"files": []}, "listing does not fit"),
        ({"counts": {"files": 2, "dags": 0, "errors": 0}}, "counts do not fit"),
        ({"counts": {"files": 1, "dags": 1, "errors": 0}}, "counts do not fit"),
        ({"counts": {"files": 1, "dags": 0, "errors": 7}}, "counts do not fit"),
    ],
)
def test_a_close_that_does_not_fit_what_arrived_is_refused(fields: dict[str, Any], words: str) -> None:
    before = lines([opening(), a_file()])
    with pytest.raises(errors.ProtocolError, match=words):
        decode(b"".join(before) + closing(before, ["a.py"], **fields))


def test_a_close_that_leaves_out_announced_files_is_refused() -> None:
    before = lines([opening(2), a_file()])
    with pytest.raises(errors.ProtocolError, match="counts do not fit"):
        decode(b"".join(before) + closing(before, ["a.py"]))


def test_nothing_may_follow_a_close() -> None:
    with pytest.raises(errors.ProtocolError, match="after its close"):
        decode(report(["a.py"]) + lines([a_file(2, "b.py")])[0])
    with pytest.raises(errors.ProtocolError, match="was cut"):
        decode(report(["a.py"]) + b"garbage without an end")


def test_a_failed_run_says_why() -> None:
    records = decode(b"".join(lines([{"type": "fail", "kind": "AirflowNotInstalled", "message": "no airflow"}])))
    assert isinstance(records[0], protocol.Fail)


def test_a_gzip_bomb_is_refused_before_it_is_inflated() -> None:
    bomb = gzip.compress(b" " * 200_000_000)
    assert len(bomb) < 300_000
    with pytest.raises(errors.ProtocolError, match="gzip bomb"):
        decode(bomb)


def test_a_damaged_gzip_stream_is_refused() -> None:
    packed = bytearray(gzip.compress(report(["a.py"])))
    packed[len(packed) // 2] ^= 255
    with pytest.raises(errors.ProtocolError, match=r"damaged|digest|cut|JSON|record"):
        decode(bytes(packed))


def test_bytes_after_the_gzip_stream_are_refused() -> None:
    with pytest.raises(errors.ProtocolError, match="follow the end"):
        decode(gzip.compress(report(["a.py"])) + b"more")


def test_a_too_long_line_is_refused_before_it_ends() -> None:
    decoder = protocol.ReportDecoder(run="r", attempt="a", limits=protocol.Limits(line_bytes=100))
    with pytest.raises(errors.ProtocolError, match="longer than 100 bytes"):
        list(decoder.feed(b"x" * 101))


def test_a_too_long_report_is_refused() -> None:
    with pytest.raises(errors.ProtocolError, match="longer than 50 bytes"):
        decode(report(["a.py"]), limits=protocol.Limits(total_bytes=50))


def test_deep_nesting_is_refused() -> None:
    deep = b'{"type": "file", "closure": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    with pytest.raises(errors.ProtocolError, match=r"no JSON that can be read|nested too deeply"):
        decode(b"".join(lines([opening()])) + deep)


@pytest.mark.parametrize(
    "closure",
    [
        {"a.py": []}, {"a.py": {}}, {"a.py": 1}, {"a.py": None}, [], {"": "absent"}, {"a.py": "x" * 129},
        {"a" * 4098: "absent"}, {f"{number}": "absent" for number in range(20_001)},
    ],
)  # fmt: skip
def test_a_closure_is_a_flat_map_of_short_strings(closure: Any) -> None:
    with pytest.raises(errors.ProtocolError, match="closure"):
        decode(b"".join(lines([opening(), a_file(closure=closure)])))
    assert decode(report(["a.py"]))


def test_what_a_report_weighs_counts_its_values_and_not_only_its_bytes() -> None:
    decoder = protocol.ReportDecoder(run="r", attempt="a")
    list(decoder.feed(b"".join(lines([opening()]))))
    before = decoder.weight
    list(decoder.feed(lines([a_file(dags=[{
        "dag_id": "a", "relative_fileloc": "a.py", "dag_hash": "h", "data": {"x": [[] for _ in range(1000)]},
    }])])[0]))  # fmt: skip
    assert decoder.weight - before > 90_000


def test_a_path_is_as_long_as_an_index_and_airflows_column_for_errors_take() -> None:
    longest = "é" * 500 + "/" + "a" * 20 + ".py"
    assert len(longest.encode()) == 1024
    assert [record.type for record in decode(report([longest]))] == ["open", "file", "close"]
    with pytest.raises(errors.ProtocolError, match=r"the path 'éé.* is longer than 1,024 bytes"):
        decode(report([f"é{longest}"]))


@pytest.mark.parametrize("field", ["python", "airflow"])
@pytest.mark.parametrize("value", ["3.11\x00", "3.11\n", "9" * 257, "3.é"])
def test_a_version_that_is_stored_as_it_is_holds_printable_ascii_only(field: str, value: str) -> None:
    with pytest.raises(errors.ProtocolError, match=rf"an? open record is not valid: {field}"):
        decode(lines([opening(**{field: value})])[0])


def test_every_whole_number_of_a_record_that_is_stored_is_bounded() -> None:
    """What intake bounds itself is listed; `seq`, `files` and counts are held against what came and are not stored."""
    bounded_by_intake, not_stored = {"line"}, {"protocol", "seq", "files", "dags", "errors", "bytes"}
    unbounded = set()
    for model in (records.Open, records.File, records.FileError, records.FileWarning, records.Output, records.Counts):
        for name, field in model.model_fields.items():
            is_whole = field.annotation is int or field.annotation == int | None
            if is_whole and not any(hasattr(item, "le") for item in field.metadata):
                unbounded.add(name)
    assert unbounded == bounded_by_intake | not_stored


def decoder_of(records: list[dict[str, Any]]) -> protocol.ReportDecoder:
    decoder = protocol.ReportDecoder(run="r", attempt="a")
    for line in lines(records):
        list(decoder.feed(line))
    return decoder


def begin(*paths: str) -> dict[str, Any]:
    return {"type": "begin", "paths": list(paths)}


def test_files_that_are_begun_count_nothing_of_what_is_held() -> None:
    decoder = protocol.ReportDecoder(run="r", attempt="a")
    list(decoder.feed(lines([opening(900)])[0]))
    before = decoder.weight
    for number in range(900):
        list(decoder.feed(lines([begin(f"{number}/" + "a" * 200)])[0]))
    assert decoder.weight == before


def test_the_files_in_flight_are_those_that_processes_were_at() -> None:
    records = [opening(6), begin("a.py", "b.py", "c.py"), begin("d.py"), begin("e.py"), a_file(1, "a.py")]
    assert decoder_of(records).in_flight == ["b.py", "d.py", "e.py"]
    again = [begin("c.py"), a_file(2, "d.py"), a_file(3, "b.py"), a_file(4, "e.py"), begin("a.py")]
    assert decoder_of([*records, *again]).in_flight == ["c.py"]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([begin("a.py")], "a begin record came before its first record"),
        ([opening(1), begin("a.py", "b.py")], "2 files are begun at once"),
        ([opening(1), begin("../a.py")], "no path inside the bundle"),
        ([opening(1), begin("a" * 2000)], "no path inside the bundle"),
        ([opening(1), begin()], "a begin record is not valid"),
        ([opening(1), *[begin("a.py")] * 65], "more files were begun than 1 files can be"),
        ([opening(100_000), *[begin(*(f"{n}/{m}.py" for m in range(1000))) for n in range(11)]], "begun at once"),
    ],
)
def test_files_that_cannot_be_begun_are_refused(records: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(errors.ProtocolError, match=words):
        decoder_of(records)


def test_what_is_said_of_files_in_flight_is_bounded_and_escaped() -> None:
    said = flight.described(["a\x1b[31m.py", "\u202eb.py", "x" * 1000, *(f"{number}.py" for number in range(10))])
    assert said.startswith("; in flight: a\\x1b[31m.py, \\u202eb.py, xxx")
    assert said.endswith("xxx, 0.py, 1.py and 8 more")
    assert len(said) < 300
    assert flight.described([]) == ""


def traced(work: Callable[[], protocol.ReportDecoder]) -> tuple[protocol.ReportDecoder, int]:
    """Return the decoder that a call makes, and how many bytes of memory it keeps."""
    gc.collect()
    tracemalloc.start()
    try:
        made = work()
        gc.collect()
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


EMOJI = "\U0001f600" + "x" * 1000
"""In a path, it makes each character of a text take four bytes."""


def test_the_paths_that_arrived_take_little_memory_and_all_of_it_is_counted() -> None:
    decoder, taken = traced(
        lambda: decoder_of([opening(3000), *(a_file(seq, f"{EMOJI}{seq}") for seq in range(1, 3001))])
    )
    assert taken < 1 << 20
    assert decoder.kept > taken / 2


def test_the_files_in_flight_count_as_what_they_take() -> None:
    decoder, taken = traced(lambda: decoder_of([opening(3000), *(begin(f"{EMOJI}{number}") for number in range(3000))]))
    assert taken < 3000 * 1500
    assert decoder.kept > taken / 2


def test_files_that_are_begun_again_and_again_leave_nothing_behind() -> None:
    again = [begin(*(f"{first + number}.py" for number in range(500))) for first in range(300)]
    decoder, taken = traced(lambda: decoder_of([opening(3000), *again]))
    assert taken < 1 << 20
    assert len(decoder.in_flight) == 300


def test_a_parser_says_how_many_files_it_parses_at_a_time_and_what_decided_that() -> None:
    origins = {"parser": "manifest", "processes": "default"}
    record, *_ = protocol.ReportDecoder(run="r", attempt="a").feed(lines([opening(processes=64, origins=origins)])[0])
    assert isinstance(record, protocol.Open)
    assert record.processes == 64
    assert record.origins == records.Origins(parser="manifest", processes="default")


@pytest.mark.parametrize(
    "fields",
    [
        {"processes": 0},
        {"processes": 65},
        {"processes": True},
        {"processes": "4"},
        {"processes": 10**30},
        {"origins": {"parser": "operator", "processes": "spec"}},
        {"origins": {"parser": "spec"}},
        {"origins": {"parser": "spec", "processes": "spec", "weather": "spec"}},
        {"origins": ["spec", "spec"]},
        {"origin": "spec"},
        {"parser": {"name": "x" * 257, "version": "1"}},
        {"parser": {"name": "a\n", "version": "1"}},
    ],
)
def test_what_a_parser_says_of_itself_is_bounded(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.ProtocolError, match="a open record is not valid"):
        list(protocol.ReportDecoder(run="r", attempt="a").feed(lines([opening(**fields)])[0]))
