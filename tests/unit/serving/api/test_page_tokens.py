"""A page token is what its list gave, or it is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import InvalidArgumentError
from forecaster.serving.api.page_tokens import key_of, token_of
from forecaster.serving.intake.message_limits import MAX_TOKEN_BYTES

keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=256)


@given(key=keys, listing=st.sampled_from(("series of a", "series of b", "models")))
def test_a_token_is_the_place_in_its_own_list(key: str, listing: str) -> None:
    token = token_of(listing, key)
    assert key_of(listing, token) == key
    assert len(token) <= MAX_TOKEN_BYTES
    assert key not in token or len(key) < 4
    with pytest.raises(InvalidArgumentError, match="page_token: it is not a next_page_token of this list"):
        key_of(f"{listing}'s other", token)


@given(token=st.one_of(st.text(min_size=1, max_size=20), keys))
def test_what_was_made_up_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        key_of("models", token)
    assert refused.value.violations[0].field == "page_token"


def test_the_first_page_has_none() -> None:
    assert key_of("models", "") == ""
