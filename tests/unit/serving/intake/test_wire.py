"""What is counted on a message's bytes is what protobuf makes of them, and any bytes at all are counted or refused."""

import asyncio
import contextlib
import os
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import InvalidArgumentError, LimitReachedError
from forecaster.serving.intake.decoding import FREE_BYTES, Account, Budget, Decoder, Intake
from forecaster.serving.intake.message_limits import MAX_NAMES, MAX_TEXT_BYTES, MessageLimits
from forecaster.serving.intake.one_by_one import OneByOne
from forecaster.serving.intake.wire import Most, Scanner
from forecaster.v1 import forecast_service_pb2, model_service_pb2

ROWS = 4096
LIMITS = MessageLimits(ROWS)
KINDS = (
    forecast_service_pb2.ObserveRequest,
    forecast_service_pb2.StreamForecastsRequest,
    forecast_service_pb2.ForecastRequest,
)
MUCH = 10**9
SCANNERS = {kind: Scanner(kind.DESCRIPTOR, lambda _: Most(MUCH), lambda _: MUCH, MUCH) for kind in KINDS}
LIMITED = {kind: LIMITS.scanner(kind.DESCRIPTOR) for kind in KINDS}


def counted(message: Message, prefix: str = "") -> dict[str, int]:
    """Return how often each repeated field is there, by its path, as protobuf has it; entries of maps excepted."""
    found: dict[str, int] = {}
    for field, value in message.ListFields():
        path = prefix + field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            found[path] = len(value)
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                for below, count in counted(part, f"{path}.").items():
                    found[below] = found.get(below, 0) + count
    return found


def entries(message: Message) -> int:
    """Return how many entries all maps have."""
    total = 0
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            total += len(value)
            continue
        total += sum(entries(part) for part in (value if field.is_repeated else [value]))
    return total


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Return messages of a kind, with everything that it may hold."""

    def filled(descriptor: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({}, optional={field.name: values(field) for field in descriptor.fields})

    def single(field: Any) -> st.SearchStrategy[Any]:
        if field.message_type is not None:
            return filled(field.message_type)
        kinds = {
            field.CPPTYPE_STRING: st.text(max_size=4),
            field.CPPTYPE_DOUBLE: st.floats(width=64),
            field.CPPTYPE_BOOL: st.booleans(),
            field.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
            field.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
            field.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
            field.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        }
        return kinds[field.cpp_type]

    def values(field: Any) -> st.SearchStrategy[Any]:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return st.dictionaries(st.text(max_size=3), single(field.message_type.fields_by_name["value"]), max_size=3)
        return st.lists(single(field), max_size=3) if field.is_repeated else single(field)

    return filled(kind.DESCRIPTOR).map(lambda found: kind(**found))


@st.composite
def mangled(draw: st.DrawFn, kind: type[Message]) -> bytes:
    """Return the bytes of a message, as they are, one after another's, cut, or with others between."""
    raw = draw(messages(kind)).SerializeToString()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = draw(
            st.sampled_from(
                (
                    raw + draw(messages(kind)).SerializeToString(),
                    raw[:at],
                    raw[:at] + draw(st.binary(max_size=3)) + raw[at:],
                    raw[:at] + draw(st.binary(min_size=1, max_size=1)) + raw[at + 1 :],
                )
            )
        )
    return raw


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_counts_are_what_protobuf_parses(kind: type[Message], data: st.DataObject) -> None:
    raw = data.draw(st.one_of(mangled(kind), st.binary(max_size=40)))
    scanner = SCANNERS[kind]
    parsed, measured = None, None
    with contextlib.suppress(DecodeError):
        parsed = kind.FromString(raw)
    with contextlib.suppress(InvalidArgumentError):
        measured = scanner.measure(raw)
    if parsed is None:
        return
    if measured is None:  # groups are in no message of ours, and are not read
        assert any(byte & 7 in (3, 4) for byte in raw)
        return
    counts = dict(zip(scanner.paths, measured.counts.tolist(), strict=True))
    expected = counted(parsed)
    repeated = {path for path, field in _fields(kind.DESCRIPTOR) if field.is_repeated}
    is_map = {
        path
        for path, field in _fields(kind.DESCRIPTOR)
        if field.message_type is not None and field.message_type.GetOptions().map_entry
    }
    assert {path: counts[path] for path in repeated - is_map if counts[path]} == {
        k: n for k, n in expected.items() if n
    }
    assert sum(counts[path] for path in is_map) >= entries(parsed)  # of two with one name the last one counts


def _fields(kind: Descriptor, prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for field in kind.fields:
        found.append((prefix + field.name, field))
        if field.message_type is not None:
            found += _fields(field.message_type, f"{prefix}{field.name}.")
    return found


def test_every_field_that_repeats_has_a_limit() -> None:
    """A new one in the API has to be given one before a server starts."""
    services = (
        *forecast_service_pb2.DESCRIPTOR.services_by_name.values(),
        *model_service_pb2.DESCRIPTOR.services_by_name.values(),
        *health_pb2.DESCRIPTOR.services_by_name.values(),
        *reflection_pb2.DESCRIPTOR.services_by_name.values(),
    )
    for service in services:
        for method in service.methods:
            assert LIMITS.scanner(method.input_type).measure(b"").num_bytes < 1000


def empties(field: str, count: int) -> bytes:
    """Return the bytes of so many empty messages, or texts, in a field of `ForecastRequest` or `ObserveRequest`."""
    number = {"observations": 2, "attributes": 4, "series_ids": 2}[field]
    return bytes([number << 3 | 2, 0]) * count


def columns(count: int) -> bytes:
    request = forecast_service_pb2.ObserveRequest()
    for k in range(count):
        request.columns.covariates.add(name=str(k))
    return request.SerializeToString()


def futures(count: int, each: int = 0) -> bytes:
    request = forecast_service_pb2.ForecastRequest()
    for _ in range(count):
        future = request.options.future_covariates.add()
        for k in range(each):
            future.covariates.add(name=str(k))
    return request.SerializeToString()


def attribute(count: int) -> bytes:
    request = forecast_service_pb2.ObserveRequest()
    request.attributes.add(numbers={str(k): 1.0 for k in range(count)})
    return request.SerializeToString()


OBSERVE, FORECAST = forecast_service_pb2.ObserveRequest, forecast_service_pb2.ForecastRequest
STREAM = forecast_service_pb2.StreamForecastsRequest
TOO_MUCH = {
    "rows": (OBSERVE, empties("observations", ROWS), empties("observations", 1)),
    "series": (FORECAST, empties("series_ids", ROWS), empties("series_ids", 1)),
    "columns": (OBSERVE, columns(MAX_NAMES), columns(1)),
    "attributes": (OBSERVE, attribute(MAX_NAMES), None),
    "futures": (FORECAST, futures(ROWS + 1), futures(1)),
    "futures' columns": (FORECAST, futures(16, MAX_NAMES), futures(1, 385)),
    "levels": (
        FORECAST,
        FORECAST(options={"quantile_levels": [0.5] * 1000}).SerializeToString(),
        FORECAST(options={"quantile_levels": [0.5]}).SerializeToString(),
    ),
    "names": (OBSERVE, OBSERVE(model="x" * MAX_TEXT_BYTES).SerializeToString(), None),
    "models": (STREAM, STREAM(model="x").SerializeToString() * 17, STREAM(model="x").SerializeToString()),
    "unknown": (OBSERVE, b"\x78\x01" * 4 * ROWS, b"\x78\x01"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_the_limit_is_taken_and_one_more_is_refused(name: str) -> None:
    kind, most, one_more = TOO_MUCH[name]
    LIMITED[kind].measure(most)
    beyond = {
        "attributes": attribute(MAX_NAMES + 1),
        "names": OBSERVE(model="x" * (MAX_TEXT_BYTES + 1)).SerializeToString(),
    }
    with pytest.raises(InvalidArgumentError, match="allowed") as refused:
        LIMITED[kind].measure(beyond[name] if one_more is None else most + one_more)
    assert len(str(refused.value)) < 200


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 4000), text=st.text(max_size=40), chunk_aligned=st.booleans())
def test_a_message_parsed_in_parts_is_the_message(rows: int, text: str, chunk_aligned: bool) -> None:
    message = OBSERVE(model=text)
    for k in range(rows):
        message.observations.add(series_id=f"{text}{k}" if chunk_aligned else "x" * 70, value=k)
    raw = message.SerializeToString()
    budget = Budget(10**9)
    decoder = Decoder(OBSERVE, SCANNERS[OBSERVE], 10**9, OneByOne())
    account = Account(budget)
    decoded, size = asyncio.run(decoder.decode(raw, account))
    assert decoded == message
    assert size >= len(raw)
    assert account.charged_bytes == budget.used_bytes == (size if size > FREE_BYTES else 0)


def test_bytes_that_are_no_message_are_the_callers_fault() -> None:
    intake = Intake(ROWS, 10**6)
    for raw in (b"\xff", b"\x0a\x02\xff\xff", b"\x0a\x05abc", b"\x0b\x0c" * 1000, os.urandom(5000)):
        with pytest.raises(InvalidArgumentError) as refused:
            asyncio.run(intake.decoder(OBSERVE).decode(raw, intake.account()))
        assert "no ObserveRequest" in str(refused.value) or "allowed" in str(refused.value)
    small = model_service_pb2.GetModelRequest
    with pytest.raises(InvalidArgumentError, match="65536 are allowed"):
        asyncio.run(intake.decoder(small).decode(bytes(65_537), intake.account()))


def test_what_all_calls_take_has_an_end_and_small_ones_go_on() -> None:
    budget = Budget(10 * FREE_BYTES)
    large, other, small = Account(budget), Account(budget), Account(budget)
    large.take(20 * FREE_BYTES)  # the only one always may
    with pytest.raises(LimitReachedError) as refused:
        other.take(2 * FREE_BYTES)
    assert refused.value.retry_after_seconds
    small.take(FREE_BYTES)
    with pytest.raises(LimitReachedError):
        small.take(1)  # many small ones are a large one
    large.give_back(15 * FREE_BYTES)
    other.take(5 * FREE_BYTES)
    assert budget.used_bytes == 10 * FREE_BYTES
    for account in (large, other, small):
        account.close()
    assert budget.used_bytes == 0


def test_python_alone_counts_the_same() -> None:
    program = """if True:
        from forecaster.serving.intake.message_limits import MessageLimits
        from forecaster.v1 import forecast_service_pb2 as api
        from forecaster.model.kernels.compiling import COMPILES
        assert not COMPILES
        request = api.ObserveRequest(model="m", observations=[{"series_id": "a", "value": 1.0}] * 3)
        request.columns.series_indices.extend([1, 300, 70000])
        print(*MessageLimits(10).scanner(api.ObserveRequest.DESCRIPTOR).measure(request.SerializeToString()).counts)
    """
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    request = OBSERVE(model="m", observations=[{"series_id": "a", "value": 1.0}] * 3)
    request.columns.series_indices.extend([1, 300, 70000])
    counts = LIMITED[OBSERVE].measure(request.SerializeToString()).counts
    assert done.stdout.split() == [str(count) for count in counts]
