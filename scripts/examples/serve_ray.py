"""Serve the policy of a tag with Ray Serve: several replicas, each of which follows the tag.

    ./.venv/bin/python scripts/examples/serve_ray.py ./policies cartpole/ppo@champion --replicas 4
    ./.venv/bin/python scripts/examples/serve_ray.py --load            # a demo that measures itself

    curl localhost:8000/act --json '{"observation": [0, 0, 0.1, 0.5]}'

Each replica looks at the tag by itself, at its own moments. So after the tag has moved, replicas
answer with the old and with the new policy for up to about one interval; each answer names its
policy. Ray Serve sends the requests of one client to any replica. So a policy with memory acts as
at the beginning of an episode in each request; serve_http.py has sessions.

The script needs ray[serve]. With --load it makes a store with two policies, moves the tag under
load, and checks each answer, as load_http.py does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# Ray reads these variables when it is imported. The second hides log lines of Ray's C++ part.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import ray
from load_http import add_load_options, free_port, put_load
from ray import serve
from serving import NAME, TAG, Expected, Tally, decode, encode, make_store
from starlette.requests import Request
from starlette.responses import JSONResponse

from policystore import InvalidInputError, PolicyStore
from policystore.rllib import rebuild_player

ROUTE = "/act"


@serve.deployment
class Replica:
    """One copy of the policy. Ray Serve makes as many as are wanted.

    Args:
        url: the folder or URL of the store.
        ref: what to follow.
        interval: seconds between two looks at the ref.
    """

    def __init__(self, url: str, ref: str, interval: float) -> None:
        store = PolicyStore(url, read_only=True)
        self._player = rebuild_player(store.pull(ref)).follow(store, ref, interval=interval)
        self._numbers = itertools.count()

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a request with an action."""
        try:
            body = await request.json()
            if not isinstance(body, dict) or set(body) != {"observation"}:
                raise InvalidInputError("expected an object with the key 'observation'")
            observation = decode(self._player.observation_space, body["observation"])
            answer = await self._act(observation)
        except ValueError as error:  # InvalidInputError is one, and so is an error of JSON
            answer = error
        if isinstance(answer, Exception):
            document: dict[str, Any] = {"error": type(answer).__name__, "message": str(answer)}
            return JSONResponse(document, 422)
        return JSONResponse(answer)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def _act(self, observations: list[Any]) -> list[dict[str, Any] | InvalidInputError]:
        """Answer the requests that wait at the same time by one call of the player."""
        try:
            return self._act_together(observations)
        except InvalidInputError as error:
            if len(observations) == 1:
                return [error]
        # The call has changed nothing. One observation is wrong: answer the requests one by one.
        return [answer for each in observations for answer in self._act_alone(each)]

    def _act_alone(self, observation: Any) -> list[dict[str, Any] | InvalidInputError]:
        try:
            return self._act_together([observation])
        except InvalidInputError as error:
            return [error]

    def _act_together(self, observations: list[Any]) -> list[dict[str, Any] | InvalidInputError]:
        sessions = [self._player.session() for _ in observations]
        with self._player.pinned() as playing:
            actions = self._player.act_many(dict(zip(sessions, observations, strict=True)))
        replica = serve.get_replica_context().replica_id.unique_id
        shared = {
            "policy": str(playing.digest),
            "ref": playing.ref,
            "batch": f"{replica} {next(self._numbers)}",
        }
        return [{"action": encode(actions[session]), **shared} for session in sessions]

    def check_health(self) -> None:
        """Tell Ray Serve, which asks for this, to replace a replica that follows no longer."""
        following = self._player.following
        if following is None or not following.running:
            raise RuntimeError("the player does not follow the ref any more")


def start(url: str, ref: str, given: argparse.Namespace, port: int) -> None:
    """Start Ray and the replicas, and wait until they answer."""
    ray.init(include_dashboard=False, num_cpus=given.cpus, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    replicas = Replica.options(num_replicas=given.replicas, ray_actor_options={"num_cpus": 0})
    serve.run(
        replicas.bind(url if "://" in url else str(Path(url).resolve()), ref, given.interval),
        route_prefix=ROUTE,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", nargs="?", help="folder or URL of the store")
    parser.add_argument("ref", nargs="?", help="a name or a tag, such as cartpole/ppo@champion")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument(
        "--cpus", type=int, default=None, help="of Ray; default: all of this machine"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--load", action="store_true", help="measure a demo; needs no store")
    add_load_options(parser)
    given = parser.parse_args()
    if not given.load:
        if given.ref is None:
            parser.error("give a store and a ref, or --load")
        start(given.store, given.ref, given, given.port)
        asyncio.run(asyncio.Event().wait())  # until Ctrl-C
    given.recurrent = False
    with tempfile.TemporaryDirectory(prefix="policystore-serve-") as folder:
        store = make_store(folder, hidden=given.hidden)
        given.interval = min(given.interval, given.seconds / 10)  # the change is to be seen
        tally = Tally(Expected(store))
        port = free_port()
        start(folder, f"{NAME}@{TAG}", given, port)
        try:
            print(asyncio.run(put_load(port, given, store, tally)))
        finally:
            serve.shutdown()
            ray.shutdown()
    for failure in tally.failures[:5]:
        print(failure)
    return 0 if tally.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
