"""Addresses that a person may name, told from others before Ray is loaded."""

from __future__ import annotations

from urllib.parse import urlsplit

from raypose.errors import UsageError

__all__ = ["job_server"]


def job_server(address: str) -> str:
    """Return an address that a job server may have.

    Raises:
        UsageError: for any other; what may be a password is not repeated.
    """
    found = address.strip().rstrip("/")
    try:
        parts = urlsplit(found)
        whole = parts.scheme in ("http", "https") and parts.hostname and not parts.path
        if whole and parts.port != 0 and "@" not in found:
            return found
    except ValueError:  # of a port that is none
        pass
    shown = address if "@" not in address else "an address with a user in it"
    raise UsageError(f"cluster.jobs: {shown}: wants http://host:port")
