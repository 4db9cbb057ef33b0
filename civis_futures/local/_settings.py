"""The settings of a local platform, and the numbers that the contract fixes.

It knows neither the server nor its owner, for both import it. The settings travel from
the owner to the server as one line of JSON through a pipe, never on a command line.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

MEBIBYTE = 2**20
MIN_PART_BYTES = 5 * MEBIBYTE  # every part of a multipart upload but the last
MAX_FILE_BYTES = 5 * 2**30  # one form POST, or one part
MAX_JSON_VALUE_BYTES = 1_000_000
MAX_BODY_BYTES = 64 * MEBIBYTE  # an API body; files do not come this way
MILLICORES = 1024  # what one core is worth, so that the customary "cpu: 1024" asks for one core

KEY_VARIABLE = "CIVIS_API_KEY"
ENDPOINT_VARIABLE = "CIVIS_API_ENDPOINT"
CA_CERTS_VARIABLE = "CIVIS_FUTURES_CA_CERTS"
RUN_KEY_PREFIX = "local-run"  # a run's own key is <prefix>-<mark of the platform>-<random>


class StartError(Exception):
    """The server cannot start as these settings say, and the user can do something about it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that `LocalPlatform` accepts, in the form that crosses to the server."""

    port: int = 0
    advertise: str | None = None  # the name or IP address of ours for others; None: loopback only
    certificate: str | None = None  # a file; None: one is made, unless plain_http
    private_key: str | None = None  # a file
    plain_http: bool = False  # whether others may speak to us without TLS
    state: str | None = None  # the folder to keep; None: a temporary one
    cores: float | None = None
    memory: int | None = None  # MB, of all runs together
    start_delay: float = 0.0  # seconds for which a run stays queued at least
    rate_limit: tuple[int, int, float] | None = None  # requests, run starts, in how many seconds
    hold: float = 20.0  # seconds for which a request may be held until there is news; 0: none is
    max_file_size: int = MAX_FILE_BYTES  # bytes
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    # What runs run on: the JSON of one of `_engines`.
    engine: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "process"})
    record: str | None = None
    seed: int = 0

    # What the contract leaves open (sections 5 and 12), so that a client can be tested under
    # each reading.
    hidden_lists: Literal["only", "also"] = "only"
    updated_at_follows_runs: bool = False
    whole_seconds: bool = False

    @property
    def holds(self) -> float:
        """Return for how long requests are held: not at all where they are limited, as on Civis
        Platform, which has nothing of the kind.
        """
        return self.hold if self.rate_limit is None else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` understands."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Read what the owner wrote."""
        given = json.loads(text)
        if given.get("rate_limit") is not None:
            given["rate_limit"] = tuple(given["rate_limit"])
        return cls(**given)
