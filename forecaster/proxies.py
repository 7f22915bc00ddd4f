"""Proxies that the environment names, and which calls they are not for: loopback never needs one.

Knows the variables; knows nothing of who calls whom.
"""

import ipaddress
import os
import re
from collections.abc import Mapping, MutableMapping

_GRPC = ("grpc_proxy", "https_proxy", "http_proxy")  # what gRPC reads, the first that is set
_ANY = (*_GRPC, "all_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")  # gRPC itself does not read the last
_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]")


def spare_loopback(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add loopback to what needs no proxy, for MLflow's HTTP and all else in this process and its children.

    Both spellings get the same, as most programs read one of them only. Without a proxy nothing is changed.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _ANY):
        return
    said = [entry.strip() for name in ("no_proxy", "NO_PROXY") for entry in environment.get(name, "").split(",")]
    entries = [entry for entry in dict.fromkeys(said) if entry]
    merged = "*" if "*" in entries else ",".join(dict.fromkeys((*entries, *_LOOPBACK)))
    environment["no_proxy"] = environment["NO_PROXY"] = merged


def grpc_proxy(address: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the proxy to reach a gRPC server by, as `variable=URL` without its password; None to go there directly."""
    variable = next((name for name in _GRPC if environment.get(name)), None)
    host = host_of(address)
    if variable is None or not host or is_loopback(host):
        return None
    entries = [entry.strip() for name in _EXCEPTIONS for entry in environment.get(name, "").split(",")]
    if any(_matches(host, entry) for entry in entries if entry):
        return None
    return f"{variable}={re.sub(r'//[^/@]*@', '//…@', environment[variable])}"


def host_of(address: str) -> str:
    """Return the host of `host:port`, empty for a Unix socket."""
    if address.startswith("unix:"):
        return ""
    return re.sub(r"^(ipv4|ipv6|dns):/*", "", address).rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by name or number."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold().rstrip(".") == "localhost"


def _matches(host: str, entry: str) -> bool:
    """Return whether an entry of `no_proxy` means a host: all, a network, a name, or a domain that the name is in."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        domain = entry.lstrip("*.").casefold()
        return entry == "*" or host.casefold() == domain or host.casefold().endswith(f".{domain}")
