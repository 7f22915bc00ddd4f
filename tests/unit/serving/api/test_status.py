"""What a client is told fits its trailing metadata, whatever was sent."""

import pytest
from google.rpc import error_details_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecaster.errors import FieldViolation, InvalidArgumentError, SeriesNotFoundError
from forecaster.serving.api.messages import MAX_VIOLATIONS, Violations
from forecaster.serving.api.status import MAX_TEXT_BYTES, shortened, to_status

texts = st.builds(lambda part, times: part * times, st.text(max_size=20), st.sampled_from((1, 10, 1000, 100_000)))


@settings(deadline=None)
@given(text=texts, most=st.integers(30, 2000))
def test_a_text_is_whole_or_cut_in_its_middle(text: str, most: int) -> None:
    cut = shortened(text, most)
    whole = text.encode(errors="replace")
    assert len(cut.encode()) <= most
    if len(whole) <= most:
        assert cut == text
    else:
        start, end = cut.encode().split("…".encode(), 1) if "…" not in text else (b"", b"")
        assert whole.startswith(start)
        assert whole.endswith(end)


@settings(deadline=None)
@example(names=["y" * 200] * 10, message="x" * 5000)
@given(names=st.lists(texts, min_size=1, max_size=20), message=texts)
def test_a_status_is_small_and_says_what_to_do(names: list[str], message: str) -> None:
    found = FieldViolation(names[0], message)
    for error in (
        InvalidArgumentError(f"{message}: do this", [found] * len(names)),
        SeriesNotFoundError(f"{message}: do this", names),
    ):
        status = to_status(error)
        assert len(status.message.encode()) <= MAX_TEXT_BYTES
        assert status.message.endswith(": do this")
        # With the text itself, which is percent-encoded, less than the 8 KB that clients take.
        assert status.ByteSize() * 4 / 3 + len(status.message.encode()) * 3 < 8192


def test_only_the_first_violations_are_kept() -> None:
    violations = Violations()
    for k in range(100_000):
        violations.add(f"values[{k}]", "is wrong")
    with pytest.raises(InvalidArgumentError, match=r"values\[0\]: is wrong \(and 99999 more\)") as refused:
        violations.raise_if_any()
    assert len(refused.value.violations) == MAX_VIOLATIONS
    request = error_details_pb2.BadRequest()
    assert [detail for detail in to_status(refused.value).details if detail.Unpack(request)]
    assert len(request.field_violations) == MAX_VIOLATIONS
