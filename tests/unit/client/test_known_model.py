"""A client asks again, now and then, what the served version knows."""

from forecaster.client.results import model_info
from forecaster.client.transport.known_model import KnownModel
from forecaster.v1.model_service_pb2 import Model


def test_it_is_asked_once_a_minute_and_after_a_refusal() -> None:
    now = [0.0]
    known = KnownModel(lambda: now[0])
    assert known.is_due()
    assert known.is_due()  # for nothing was told
    known.model = model_info(Model(version="1"))
    assert not known.is_due()
    now[0] = 61.0
    assert known.is_due()
    assert not known.is_due()  # whatever came of it, until the next minute
    now[0] = 122.0
    assert known.is_due()
    known.forget()
    assert known.is_due()
