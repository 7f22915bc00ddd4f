"""How the clients open their channel, and whether by a proxy."""

import logging

import grpc

from forecaster.proxies import grpc_proxy

OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # forecasts of many series are larger than the default 4 MB
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a server that restarts is found again within a second
)
_DIRECT = ("grpc.enable_http_proxy", 0)
_logger = logging.getLogger("forecaster.client")


def open_channel(address: str) -> grpc.Channel:
    """Return a channel; says in the log if it goes by a proxy, which it never does on loopback."""
    return grpc.insecure_channel(address, options=_options(address))


def open_async_channel(address: str) -> grpc.aio.Channel:
    """Return an asyncio channel; see `open_channel`."""
    return grpc.aio.insecure_channel(address, options=_options(address))


def described(address: str) -> str:
    """Return an address for messages, with the proxy on the way."""
    proxy = grpc_proxy(address)
    return address if proxy is None else f"{address} by the proxy {proxy}"


def _options(address: str) -> tuple[tuple[str, int], ...]:
    proxy = grpc_proxy(address)
    if proxy is None:
        return (*OPTIONS, _DIRECT)
    _logger.warning("%s is reached by the proxy %s; to go there directly, name its host in no_proxy", address, proxy)
    return OPTIONS
