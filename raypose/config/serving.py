"""Settings of the endpoint: where it listens, how it grows, what it takes, who may ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from raypose.config.complaints import SECRET
from raypose.config.section import NAME_PATTERN, Count, Fraction, Positive, Section
from raypose.errors import ConfigError

__all__ = ["ServeConfig"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Alias = Annotated[str, Field(pattern=rf"^$|{NAME_PATTERN}")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ServeConfig(Section):
    """The endpoint."""

    host: str = "127.0.0.1"
    """Address to bind to; any but the loopback wants `keys` or `keys_env`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to bind to; 0 takes a free one."""
    url: str = Field("", pattern=r"^$|^https?://[^/\s@]+$", examples=["https://postures.example"])
    """Where clients reach an endpoint on a cluster, such as https://postures.example.com; by
    default the host of the job server, and `port`."""
    proxy: Literal["ray", "haproxy"] = "ray"
    """What takes connections: Ray Serve's own proxy, or HAProxy, many times as fast, which opens
    ports 9101 and 8404 on all interfaces beside; all of a cluster has the one or the other."""
    proxies: Literal["every_node", "head"] = "every_node"
    """Where connections are taken: on each node that has a replica, or on the head alone, as where
    several nodes share one address."""
    processes: Literal["auto", "one", "two"] = "auto"
    """Whether a replica that speaks HTTP classifies too. One process has the fewest hops, and one
    that dies takes with it the requests it holds. With two, requests on a classifier that dies go
    to another. By default one without GPUs, two with."""
    follow: Alias = ""
    """Alias that replicas follow by themselves; by default that of the reference, if any."""
    poll_s: Positive = 2.0
    """How often a replica looks where its alias points."""
    canary: Alias = ""
    """Alias of another release of the same name, which gets a share of the requests."""
    canary_share: Fraction = 0.1
    """Share of the requests that go to the canary."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Replicas that always run; with 0 the first request after a rest waits for one to start."""
    max_replicas: Count = 2
    """Replicas under load; no fewer than `min_replicas`."""
    max_replicas_per_node: Count | None = None
    """Replicas on one node at most; by default as many as have room, spread over nodes."""
    cpus_per_replica: Positive = 1.0
    """Logical CPUs of one replica, and threads of its model: one or more."""
    gpus_per_replica: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of one replica, or the part of one."""
    backend: Literal["auto", "torch", "torch_bf16", "openvino", "openvino_bf16"] = "auto"
    """What computes the image tower; auto is the fastest of those that the release was found to
    give the same answers with."""
    max_batch_size: Count = 16
    """Pictures that one forward pass takes at most."""
    batch_wait_s: Annotated[float, Field(ge=0)] = 0.0
    """How long a pass waits for more pictures; those that come while one runs share the next."""
    max_queued_requests: Count = 256
    """Requests that a replica holds; further ones get 503 at once."""
    max_wait_s: Positive = 10.0
    """A request that would wait longer than this for its turn gets 503 at once."""
    request_timeout_s: Positive = 30.0
    """After this a request is given up."""
    body_timeout_s: Positive = 10.0
    """A body that has not come whole by then gets 408."""
    max_body_bytes: Count = 16 << 20
    """Larger pictures get 413."""
    max_held_bytes: Count = 128 << 20
    """Of bodies that a process holds at once, beside the first MiB of each; more get 503."""
    keys: Mapping[str, Digest] = Field(
        default_factory=dict,
        examples=["9f86d081… (64 digits, as raypose endpoint key prints them)"],
        json_schema_extra=SECRET,
    )
    """Name of a client → SHA-256 of its API key, in hex: see raypose endpoint key."""
    keys_env: str = Field("", pattern=r"^$|^[A-Za-z_]\w*$", examples=["POSTURE_KEYS"])
    """Name of an environment variable of the replicas that holds the same: NAME:SHA256, several
    apart by blanks or commas."""
    limit: str = Field(
        "", pattern=r"^$|^[1-9]\d*/(second|minute|hour|day)$", examples=["600/minute"]
    )
    """Requests of one key, such as 600/minute, that each process which speaks HTTP lets through;
    more get 429."""

    @property
    def has_keys(self) -> bool:
        """Whether clients have to show an API key."""
        return bool(self.keys or self.keys_env)

    def check_open(self) -> None:
        """Refuse to be open to others than this machine without keys; asked where one serves.

        Raises:
            ConfigError: saying what to set.
        """
        if self.host not in LOOPBACK and not self.has_keys:
            raise ConfigError(
                f"serve.host={self.host}: others could reach it, and no API key is set; "
                "set serve.keys or serve.keys_env (raypose endpoint key makes one)"
            )

    @property
    def in_one_process(self) -> bool:
        """Whether the replica that speaks HTTP classifies too."""
        return self.processes == "one" or (self.processes == "auto" and not self.gpus_per_replica)
