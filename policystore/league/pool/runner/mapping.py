"""Which policy plays for which agent: the mapping function of an opponent pool.

RLlib calls the mapping function for each agent of an episode. If an episode goes on in the next
sample, RLlib calls the function for a new object of the episode, before that object has the custom
data of the old one (``env/multi_agent_episode.py:290``). The id of the episode stays the same, so
the choice stands in a table by this id. The table belongs to the process: RLlib gives the function
and the callbacks to the env runner in different pickles.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from policystore.league.pool.runner.settings import PoolSettings

__all__ = ["PoolMapping", "announce", "assign", "assignment_of", "forget"]

logger = logging.getLogger(__name__)

# Id of an episode under way -> agent -> id of the policy. Env runners of one process share it: a
# local env runner and a local evaluation runner.
_ASSIGNED: dict[str, Mapping[Any, str]] = {}


# Pools whose callbacks this process has made, and pools that were found to have none.
_ANNOUNCED: set[Any] = set()
_LACKING: set[Any] = set()


def announce(settings: PoolSettings) -> None:
    """Note that this process has the callbacks of a pool."""
    _ANNOUNCED.add(_key(settings))


def _key(settings: PoolSettings) -> Any:
    return settings.store.url, settings.league, settings.learners, tuple(settings.slots.items())


def assign(episode_id: str, policies: Mapping[Any, str]) -> None:
    """Set which policies play for the agents of an episode."""
    _ASSIGNED[episode_id] = policies


def forget(episode_id: str) -> None:
    """Forget an episode that ended."""
    _ASSIGNED.pop(episode_id, None)


def assignment_of(episode: Any) -> Mapping[Any, str] | None:
    """Return agent -> id of the policy for an episode under way in this process; else None.

    Args:
        episode: RLlib's object of an episode, of either API stack; or None.
    """
    episode_id = getattr(episode, "id_", None)
    if episode_id is None:
        episode_id = getattr(episode, "episode_id", None)
    return None if episode_id is None else _ASSIGNED.get(str(episode_id))


class PoolMapping:
    """The ``policy_mapping_fn`` of ``config.multi_agent()``: plays the opponents that were drawn.

    The choice is the same during the whole episode. In an episode that the pool does not know, such
    as the empty ones that RLlib and policystore make in order to ask for policies, each learner
    plays its own agents, and other agents play the first slot. The function draws no random
    numbers.

    Args:
        settings: the settings of the pool.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._learners = tuple(settings.learners)
        self._agents = {learner: tuple(each) for learner, each in settings.learner_agents.items()}
        self._slots = [slot for slots in settings.slots.values() for slot in slots]
        self._key = _key(settings)
        # RLlib records the name of a config's functions (utils/serialization.py).
        self.__qualname__ = self.__name__ = type(self).__name__

    def __call__(self, agent_id: Any, episode: Any, *args: Any, **kwargs: Any) -> str:
        """Return the id of the policy that plays for an agent of an episode."""
        policies = assignment_of(episode)
        if policies is not None and agent_id in policies:
            return policies[agent_id]
        if kwargs.get("worker") is not None or getattr(episode, "agent_ids", None):
            self._check_callbacks()
        return self.default(agent_id)

    def default(self, agent_id: Any) -> str:
        """Return the policy of an agent where nothing was drawn."""
        for learner in self._learners:
            if agent_id in self._agents.get(learner, ()):
                return learner
        free = [learner for learner in self._learners if not self._agents.get(learner)]
        return (free or self._slots or self._learners)[0]

    def _check_callbacks(self) -> None:
        """Warn, once in a process, if an episode is played without the callbacks of the pool."""
        if self._key not in _ANNOUNCED | _LACKING:
            _LACKING.add(self._key)
            logger.warning(
                "opponent pool: the config has policy_mapping_fn=pool.policy_mapping_fn, and lacks "
                "the pool's callbacks, so no opponents are drawn and nothing is recorded: call "
                "config.callbacks(pool) as the last one, and give callbacks of your own as "
                "OpponentPool(…, callbacks=MyCallbacks)"
            )
