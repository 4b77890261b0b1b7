"""All that the simulation assumes, as named numbers, and where each number comes from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from policystore.backends import fsspec, s3
from policystore.repository.watching import WatchSettings

__all__ = ["DOLLARS", "MB", "POLICIES", "Assumptions", "Client", "Shape", "dollars"]

MB = 1_000_000

# The public price list of S3 Standard in us-east-1, in dollars. Deletions are free, and so is what
# machines of the same region read. A request that is refused with 412 or 404 is paid; a 503 is not.
DOLLARS = {
    "PUT": 0.005 / 1000,
    "CREATE": 0.005 / 1000,
    "LIST": 0.005 / 1000,
    "COPY": 0.005 / 1000,
    "GET": 0.0004 / 1000,
    "HEAD": 0.0004 / 1000,
    "DELETE": 0.0,
}
DOLLARS_PER_GB_MONTH = 0.023
DOLLARS_PER_GB_OUT = 0.09  # for readers outside of AWS; not part of the tables


def dollars(counts: dict[str, int]) -> float:
    """Return the price of requests, in dollars."""
    return sum(DOLLARS[operation] * count for operation, count in counts.items())


@dataclass(frozen=True)
class Shape:
    """A policy: the bytes of its policy object, and those of the tensors stored as own objects.

    Attributes:
        label: how tables name the policy.
        policy: bytes of the policy object.
        tensors: bytes of each tensor that is an object of its own.
    """

    label: str
    policy: int
    tensors: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """All bytes of the policy."""
        return self.policy + sum(self.tensors)


# Below 4 MiB a policy is one object; above, each tensor of 256 KiB or more is an object.
POLICIES = (
    Shape("0.5 MB", MB // 2),
    Shape("8 MB", MB // 10, (1_316_667,) * 6),
    Shape("200 MB", MB // 2, (9_975_000,) * 20),
)


@dataclass(frozen=True)
class Client:
    """What a process does, read from the modules of policystore, so that a change shows here.

    Attributes:
        attempts: tries of one request that the server does not answer well.
        throttled_attempts: tries of one request that the server answers with 503 SlowDown.
        first_pause: seconds before the second try; each further pause is twice as long.
        longest_pause: seconds that a pause has at most.
        jitter: each pause is multiplied by a random number between these two.
        parallel: requests of one call at once.
        connections: connections of one process.
        interval: seconds between two looks of a watch.
        watch_jitter: the part of the interval by which a pause is shorter or longer.
        hint_first: whether a watch that sees a change reads the hint before it probes.
        hint_each_try: whether a push writes the hint with each try to create its record, as it did
            before; otherwise with the first try, or after the record.
        conflict_pause: seconds, times the number of conflicts so far, up to which a push waits
            after a conflict; policystore does not wait.
    """

    attempts: int = fsspec._ATTEMPTS
    throttled_attempts: int = fsspec._THROTTLED_ATTEMPTS
    first_pause: float = fsspec._FIRST_PAUSE
    longest_pause: float = fsspec._LONGEST_PAUSE
    jitter: tuple[float, float] = (0.5, 1.5)
    parallel: int = fsspec._PARALLEL
    connections: int = s3._POOL
    interval: float = WatchSettings().interval
    watch_jitter: float = 0.25
    hint_first: bool = True
    hint_each_try: bool = False
    conflict_pause: float = 0.0


@dataclass(frozen=True)
class Assumptions:
    """The bucket, the machines and the network.

    Attributes:
        reads, writes: requests a second that one partition of the bucket takes, as S3 documents.
        burst: seconds of the rate that an idle partition takes at once.
        split_after: seconds of overload after which a partition is split in two.
        medians: seconds until the first byte of an answer, by the kind of request: the median of a
            lognormal distribution.
        sigma: the width of that distribution: 0.8 makes the 99th percentile 6.4 times the median.
        refusal: seconds until a 503 SlowDown arrives.
        connection: bytes a second of one connection, as S3 documents (85 to 90 MB/s).
        bucket: bytes a second of the whole bucket.
        node: bytes a second of the network of one machine (10 Gbit/s).
        nodes, runners_per_node: the machines, and the env runners on each.
        client_seconds: processor time of one request in our client, measured.
        hash_bytes: bytes a second that one process reads from the cache and hashes, measured.
        disk_bytes: bytes a second at which a machine writes its cache.
        lock_poll: seconds between two looks at a lock of the cache.
        ray_calls: calls of actors that one driver sends in a second.
        ray_fetch: seconds until a machine knows where an object of Ray is.
        ray_share: the share of the network of a machine that one transfer of Ray reaches.
        ray_sends: machines to which one machine sends an object of Ray at the same time.
    """

    reads: float = 5500.0
    writes: float = 3500.0
    burst: float = 1.0
    split_after: float = 1800.0
    medians: dict[str, float] = field(
        default_factory=lambda: {
            "GET": 0.025, "HEAD": 0.020, "LIST": 0.080, "PUT": 0.040, "CREATE": 0.045,
            "COPY": 0.060, "DELETE": 0.030,
        }
    )  # fmt: skip
    sigma: float = 0.8
    refusal: float = 0.020
    connection: float = 88e6
    bucket: float = 125e9
    node: float = 1.25e9
    nodes: int = 1000
    runners_per_node: int = 10
    client_seconds: float = 0.0015
    hash_bytes: float = 4e9
    disk_bytes: float = 1e9
    lock_poll: float = 0.02
    ray_calls: float = 5000.0
    ray_fetch: float = 0.005
    ray_share: float = 0.5
    ray_sends: int = 2

    def with_calibration(self, measured: dict[str, Any]) -> Assumptions:
        """Return these assumptions with what a calibration has measured of this machine's part.

        The latencies of S3 stay as assumed: a server on the same machine has no network.
        """
        return replace(
            self,
            client_seconds=measured["client_seconds"],
            hash_bytes=measured["hash_bytes"],
        )

    @property
    def runners(self) -> int:
        """All env runners."""
        return self.nodes * self.runners_per_node

    def part(self, share: float) -> Assumptions:
        """Return a part of the whole: fewer machines, and a bucket that is smaller by as much."""
        return replace(
            self,
            nodes=round(self.nodes * share),
            reads=self.reads * share,
            writes=self.writes * share,
            bucket=self.bucket * share,
        )
