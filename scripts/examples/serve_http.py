"""Serve the policy of a tag over HTTP, with FastAPI and uvicorn.

    ./.venv/bin/python scripts/examples/serve_http.py ./policies cartpole/ppo@champion

The server follows the tag: when the tag moves, the next batch of requests is answered by the new
policy, and no request fails. Requests that wait at the same time are answered by one call of the
player. A client of a policy with memory gives the id of its session with each request.

    curl localhost:8000/act --json '{"observation": [0, 0, 0.1, 0.5]}'
    curl localhost:8000/act --json '{"observation": [0, 0, 0.1, 0.5], "session": "ann"}'
    curl -X DELETE localhost:8000/sessions/ann      # the episode of this session has ended
    curl localhost:8000/policy
    curl localhost:8000/health

The script needs fastapi and uvicorn. scripts/examples/load_http.py measures the server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from serving import Sessions, decode, encode

from policystore import InvalidInputError, PolicyStore
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player


class ActRequest(BaseModel):
    """The body of a request for an action."""

    model_config = ConfigDict(extra="forbid")

    observation: Any
    session: str | None = None
    reward: float | None = None


@dataclass
class Waiting:
    """A request that waits for its action."""

    observation: Any
    session: str | None
    reward: float | None
    answer: asyncio.Future[dict[str, Any]]


class Batcher:
    """Answers the requests that wait at the same time by one call of the player.

    Args:
        player: acts; it may follow a ref.
        most: how many requests one call answers at most.
        delay: how many seconds the first request of a batch waits for others.
        ttl: after how many seconds without use a session is forgotten.
    """

    def __init__(self, player: Player, most: int, delay: float, ttl: float) -> None:
        self.player, self._most, self._delay = player, most, delay
        self.sessions = Sessions(player, ttl)
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._numbers = itertools.count()
        self._thread = ThreadPoolExecutor(1)  # calls of the player do not block the event loop

    async def act(self, request: ActRequest) -> dict[str, Any]:
        """Wait for the action of a request."""
        observation = decode(self.player.observation_space, request.observation)
        future = asyncio.get_running_loop().create_future()
        await self._waiting.put(Waiting(observation, request.session, request.reward, future))
        answer: dict[str, Any] = await future
        return answer

    async def end(self, session: str) -> bool:
        """Forget a session; return whether it existed."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self.sessions.end, session)

    async def run(self) -> None:
        """Answer requests until this task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            end = loop.time() + self._delay
            while len(batch) < self._most:
                if not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                elif (left := end - loop.time()) > 0.0:
                    with suppress(asyncio.TimeoutError):
                        batch.append(await asyncio.wait_for(self._waiting.get(), left))
                else:
                    break
            for part in _without_repeats(batch):
                outcomes = await loop.run_in_executor(self._thread, self._answer, part)
                for request, outcome in zip(part, outcomes, strict=True):
                    if request.answer.done():
                        continue  # the client has gone
                    if isinstance(outcome, Exception):
                        request.answer.set_exception(outcome)
                    else:
                        request.answer.set_result(outcome)

    def _answer(self, batch: list[Waiting]) -> list[dict[str, Any] | Exception]:
        """Act for requests of different sessions; each gets its answer, or its own error."""
        try:
            return list(self._act(batch))
        except InvalidInputError as error:
            if len(batch) == 1:
                return [error]
        except Exception as error:
            return [error] * len(batch)
        # The call has changed nothing. One observation is wrong: answer the requests one by one.
        return [self._answer([request])[0] for request in batch]

    def _act(self, batch: list[Waiting]) -> list[dict[str, Any]]:
        sessions = [self.sessions.get(request.session) for request in batch]
        observations = {s: r.observation for s, r in zip(sessions, batch, strict=True)}
        rewards = {
            s: r.reward for s, r in zip(sessions, batch, strict=True) if r.reward is not None
        }
        with self.player.pinned() as playing:
            actions = self.player.act_many(observations, rewards=rewards or None)
        number = next(self._numbers)
        return [
            {
                "action": encode(actions[session]),
                "policy": str(playing.digest),
                "ref": playing.ref,
                "batch": number,
            }
            for session in sessions
        ]


def _without_repeats(batch: list[Waiting]) -> list[list[Waiting]]:
    """Split a batch so that each session is in a part once: its requests come one after another."""
    parts: list[list[Waiting]] = []
    seen: dict[str, int] = {}
    for request in batch:
        at = 0
        if request.session is not None:
            at = seen.get(request.session, 0)
            seen[request.session] = at + 1
        while len(parts) <= at:
            parts.append([])
        parts[at].append(request)
    return parts


def make_app(
    player: Player, *, max_batch: int = 64, max_delay: float = 0.002, session_ttl: float = 600.0
) -> FastAPI:
    """Make the application that serves a player. The arguments are those of the class Batcher."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = app.state.batcher = Batcher(player, max_batch, max_delay, session_ttl)
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = FastAPI(title="policystore", lifespan=lifespan)

    @app.exception_handler(InvalidInputError)
    async def wrong_input(request: Request, error: InvalidInputError) -> JSONResponse:
        return JSONResponse({"error": type(error).__name__, "message": str(error)}, 422)

    @app.post("/act")
    async def act(body: ActRequest) -> JSONResponse:
        return JSONResponse(await app.state.batcher.act(body))

    @app.delete("/sessions/{name}")
    async def end_session(name: str) -> JSONResponse:
        ended = await app.state.batcher.end(name)
        return JSONResponse({"ended": ended}, 200 if ended else 404)

    @app.get("/policy")
    async def policy() -> dict[str, Any]:
        with player.pinned() as playing:
            return {
                "policy": str(playing.digest),
                "ref": playing.ref,
                "observation_space": str(player.observation_space),
                "action_space": str(player.action_space),
            }

    @app.get("/health")
    async def health() -> JSONResponse:
        following = player.following
        if following is None:
            return JSONResponse({"status": "ok", "follows": None})
        document = {
            "status": "ok" if following.running else "does not follow",
            "follows": following.ref,
            "checked": following.checked and following.checked.isoformat(),
            "error": following.error and str(following.error),
            "sessions": len(app.state.batcher.sessions),
        }
        return JSONResponse(document, 200 if following.running else 503)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", help="folder or URL of the store")
    parser.add_argument("ref", help="a name or a tag, such as cartpole/ppo@champion")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--memory", choices=["keep", "reset"], default="keep")
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--max-delay", type=float, default=0.002, help="seconds")
    parser.add_argument("--session-ttl", type=float, default=600.0, help="seconds")
    given = parser.parse_args()

    store = PolicyStore(given.store, read_only=True)
    player = rebuild_player(store.pull(given.ref))
    player.follow(store, given.ref, interval=given.interval, memory=given.memory)
    app = make_app(
        player,
        max_batch=given.max_batch,
        max_delay=given.max_delay,
        session_ttl=given.session_ttl,
    )
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
