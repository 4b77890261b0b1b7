"""Replays that are told nothing: the match holds the config, and this process has the code."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from ray.tune import registry

from policystore import MatchError, PolicyStore
from policystore.errors import FormatError, InvalidInputError, NotFoundError
from policystore.format.records.matches import Match
from policystore.league import League
from policystore.league.env_identity import identify_env
from policystore.league.tournament.play import play
from policystore.league.tournament.playing.contenders import read_contender
from policystore.league.tournament.replay import replay
from tests.support import ROOT, player_pairs
from tests.support.tournament import SEEN, Numbers

PLACE = "tests.support.tournament"
CONFIG = {"steps": 3, "agents": 2}  # not in the order of its keys


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> League:
    store = PolicyStore(tmp_path_factory.mktemp("replay"))
    torch.manual_seed(0)
    store.push(player_pairs.module(SEEN, gym.spaces.Discrete(3)), "new")
    return League(store, "replay")


@pytest.fixture(scope="module")
def registered() -> Iterator[str]:
    gym.register("replays/Numbers-v0", entry_point=Numbers, disable_env_checker=True)
    yield "replays/Numbers-v0"
    del gym.registry["replays/Numbers-v0"]


def played(league: League, env: Any, **options: Any) -> Match:
    """Play, and return one match as the store has it."""
    match = play(league, ["new", "random"], env=env, episodes=4, **options).matches[0]
    key = (match.env_digest, match.seeds, match.players)
    return next(
        each for each in league.matches() if (each.env_digest, each.seeds, each.players) == key
    )


def make_numbers(config: Any) -> Numbers:
    return Numbers(config)


make_partial = functools.partial(make_numbers)


class Maker:
    """No environment, but with functions that make one."""

    @classmethod
    def by_class(cls, config: Any) -> Numbers:
        return Numbers(config)

    @staticmethod
    def alone(config: Any) -> Numbers:
        return Numbers(config)


def test_a_class_that_was_imported(league: League) -> None:
    match = played(league, (Numbers, CONFIG))
    assert match.env_config == '{"~dict":[["steps",3],["agents",2]]}'
    assert replay(league, match).returns == match.episode_returns
    assert replay(league, match, env=Numbers).returns == match.episode_returns
    with pytest.raises(InvalidInputError, match="config of the match"):
        replay(league, match, env=(Numbers, {"steps": 4}))


def test_an_id_of_gymnasium(league: League, registered: str) -> None:
    match = played(league, (registered, {"config": CONFIG}))
    assert replay(league, match).returns == match.episode_returns


def test_without_a_config_the_record_has_no_new_field(league: League, registered: str) -> None:
    for env in (Numbers, registered):
        match = played(league, env, seed=3)
        assert match.env_config == ""
        assert replay(league, match).returns == match.episode_returns


def test_matches_of_earlier_versions_ask_for_what_they_lack(league: League) -> None:
    match = replace(played(league, (Numbers, CONFIG)), env_config="")
    for env in (None, Numbers):
        with pytest.raises(InvalidInputError, match="pass env=.env, config. with the config"):
            replay(league, match, env=env)
    assert replay(league, match, env=(Numbers, CONFIG)).returns == match.episode_returns


def test_functions_are_called_only_if_they_are_trusted(league: League) -> None:
    match = played(league, (make_numbers, CONFIG))
    with pytest.raises(InvalidInputError, match="pass env=") as caught:
        replay(league, match)
    assert f"trust=['{__name__}.']" in str(caught.value)
    for trust in ([f"{__name__}."], [__name__], [make_numbers], ["tests."]):
        assert replay(league, match, trust=trust).returns == match.episode_returns
    with pytest.raises(InvalidInputError, match="trust is a list"):
        replay(league, match, trust="tests.")


@pytest.mark.parametrize(
    ("name", "trust"),
    [
        ("os:system", []),
        ("os:system", ["tests."]),
        ("posix:system", ["tests."]),
        (f"{__name__}:sys.exit", ["tests."]),  # a trusted module may have imported anything
        (f"{__name__}:subprocess.Popen", ["tests."]),
        ("builtins:dict", []),
        ("no_such_module_of_anyone:Env", []),
        ("gymnasium:make", []),
    ],
)
def test_a_store_names_nothing_that_is_called(league: League, name: str, trust: list[str]) -> None:
    digest = identify_env(name, CONFIG).digest
    match = replace(played(league, (Numbers, CONFIG)), env=name, env_digest=digest)
    with pytest.raises(InvalidInputError, match="pass env="):
        replay(league, match, trust=trust)


class Lazy(types.ModuleType):
    """A module that would import another one, or fail, when it is asked for a name."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{self.__name__} was asked for {name}")


class Touchy:
    """An object with a property that fails, and with a class that is not to be asked for."""

    @property
    def Env(self) -> Any:
        raise RuntimeError("a property was read")

    @property
    def __class__(self) -> Any:
        raise RuntimeError("the class was asked for")


def test_a_record_alone_runs_no_code_of_modules_and_objects(
    league: League, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lazy: Any = Lazy("lazy_games")
    lazy.touchy = Touchy()
    monkeypatch.setitem(sys.modules, "lazy_games", lazy)
    monkeypatch.setitem(sys.modules, "touchy_games", Touchy())  # type: ignore[arg-type]
    (tmp_path / "late_games.py").write_text("raise RuntimeError('loaded')")
    spec = importlib.util.spec_from_file_location("late_games", tmp_path / "late_games.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    late = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "late_games", late)
    spec.loader.exec_module(late)
    match = played(league, (Numbers, CONFIG))
    for name in (
        "lazy_games:Env", "lazy_games:touchy", "lazy_games:touchy.Env", "touchy_games:Env",
        "late_games:Env", "numpy:no_such_submodule",
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match="not imported in this process"):
            replay(league, replace(match, env=name))


def test_a_record_alone_imports_no_submodule() -> None:
    """numpy imports f2py when it is asked for it, as ray and scipy do with others."""
    program = """
import sys
import numpy
from policystore.errors import InvalidInputError
from policystore.format.records.matches import Match
from policystore.league.tournament.playing.env_lookup import recorded_env
assert "numpy.f2py" not in sys.modules
try:
    recorded_env(Match(players={"red": "heuristic:random"}, episodes=1, env="numpy:f2py"), None, ())
except InvalidInputError:
    print("refused", "numpy.f2py" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "refused False\n", done.stderr


class Odd(gym.Env[Any, Any]):
    """A class of an environment whose module is no text."""


@pytest.mark.parametrize(
    "name",
    [
        "Wind",  # a class, but of no environment
        "Wind.__str__",
        "Wind.__doc__",
        "Wind.__eq__",
        "CONFIG",
        "CONFIG.keys",
        "make_partial",  # what can be called, but is no function
        "Numbers.reset",  # a method of an object
        "Odd",
    ],
)
def test_trust_covers_classes_of_environments_and_functions_alone(
    league: League, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Odd, "__module__", 3)
    match = replace(played(league, (Numbers, CONFIG)), env=f"{__name__}:{name}")
    with pytest.raises(InvalidInputError, match="pass env=.*neither a class of an environment nor"):
        replay(league, match, trust=["tests."])
    with pytest.raises(InvalidInputError, match="pass env="):
        replay(league, match, trust=[Wind(1.0).__str__])  # it has no __module__


def test_functions_of_a_class_are_covered_as_other_functions_are(league: League) -> None:
    for number, make in enumerate((Maker.by_class, Maker.alone)):
        match = played(league, (make, CONFIG), seed=50 + number)
        with pytest.raises(InvalidInputError, match="pass env="):
            replay(league, match)
        assert replay(league, match, trust=["tests."]).returns == match.episode_returns


def test_trust_may_be_an_iterator(league: League, monkeypatch: pytest.MonkeyPatch) -> None:
    match = played(league, (make_numbers, CONFIG))
    trusted = []

    def read(*given: Any) -> Any:
        trusted.append(given[-1])
        return read_contender(*given)

    monkeypatch.setattr("policystore.league.tournament.replay.read_contender", read)
    replay(league, match, trust=iter(["tests."]))
    assert [list(each) for each in trusted] == [["tests."]] * 2


def test_a_name_that_ray_cannot_write_is_not_found(
    league: League, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_internal_kv_initialized", lambda: True)  # as if connected
    monkeypatch.setattr(registry._global_registry, "_prefix", "job")
    with pytest.raises(NotFoundError, match="neither gymnasium nor RLlib's registry"):
        play(league, ["new", "random"], env="fußball", episodes=1)
    with pytest.raises(UnicodeEncodeError):
        registry._global_registry.contains(registry.ENV_CREATOR, "fußball")


def make_another(env_id: str) -> Any:
    raise AssertionError("an environment that makes another one was called")


def shimmy_makers() -> Iterator[Any]:
    """Yield what a package may register: the import path, functions and classes of shimmy."""
    yield "shimmy.old:GymV21"
    function = types.FunctionType(make_another.__code__, globals())
    function.__module__ = "shimmy.registration"
    yield function
    yield functools.partial(functools.partial(function), env_id="os:Env")
    maker = type("Maker", (Numbers,), {"__module__": "shimmy.old"})
    yield maker
    yield type("Mine", (maker,), {"__module__": __name__})


@pytest.mark.parametrize("entry_point", list(shimmy_makers()))
def test_environments_that_make_others_need_env(
    league: League, monkeypatch: pytest.MonkeyPatch, entry_point: Any
) -> None:
    spec = gym.envs.registration.EnvSpec("Old-v0", entry_point=entry_point)
    monkeypatch.setitem(gym.registry, "Old-v0", spec)
    config = '{"env_id":"os:Env"}'
    match = played(league, (Numbers, CONFIG))
    digest = identify_env("Old-v0", {"env_id": "os:Env"}).digest
    hostile = replace(match, env="Old-v0", env_digest=digest, env_config=config)
    with pytest.raises(InvalidInputError, match="pass env="):
        replay(league, hostile)


def test_a_config_that_does_not_fit_the_digest_is_refused(league: League) -> None:
    match = played(league, (Numbers, CONFIG))
    with pytest.raises(InvalidInputError, match="with the digest"):
        replay(league, replace(match, env_config='{"steps":99}'))
    with pytest.raises(FormatError, match="env_config"):
        replay(league, replace(match, env_config="[1, 2]"))


@dataclass(frozen=True)
class Wind:
    speed: float


def test_what_a_match_cannot_hold_is_named(league: League) -> None:
    env = (Numbers, {"steps": 3, "wind": [Wind(0.5)], "score": make_numbers})
    match = played(league, env)
    with pytest.raises(InvalidInputError, match=r"pass env=\(env, config\)") as caught:
        replay(league, match)
    assert f"config['wind'][0], an object of the class {__name__}:Wind" in str(caught.value)
    assert f"config['score'], the function {__name__}:make_numbers" in str(caught.value)
    assert replay(league, match, env=env).returns == match.episode_returns


def test_lambdas_and_partials_are_asked_for(league: League) -> None:
    nameless = lambda config: Numbers(config)  # noqa: E731
    match = played(league, (nameless, CONFIG))
    with pytest.raises(
        InvalidInputError, match="pass env=.*only the program that played the match"
    ):
        replay(league, match)
    assert replay(league, match, env=nameless).returns == match.episode_returns
    partial = functools.partial(make_numbers, CONFIG)
    match = played(league, partial)
    with pytest.raises(InvalidInputError, match="give env= as it was for play.*the partial"):
        replay(league, match, trust=["tests."])
    assert replay(league, match, env=partial).returns == match.episode_returns


def test_outcomes_that_a_match_does_not_record(league: League) -> None:
    def first_wins(returns: Any, infos: Any) -> Any:
        return {role: number for number, role in enumerate(sorted(returns))}

    for number, outcome in enumerate((None, first_wins)):
        match = played(league, Numbers, seed=20 + number, outcome=outcome)
        assert replay(league, match).returns == match.episode_returns
        assert replay(league, match, outcome=outcome).returns == match.episode_returns
        with pytest.raises(MatchError, match="the outcomes differ"):
            replay(league, match, outcome="returns")
    usual = played(league, Numbers, seed=22)
    wrong = replace(usual, outcomes=played(league, Numbers, seed=23, outcome=first_wins).outcomes)
    assert replay(league, wrong).returns == usual.episode_returns
    with pytest.raises(MatchError, match="the outcomes differ"):
        replay(league, wrong, outcome="returns")


@pytest.mark.long
def test_a_fresh_process_needs_no_argument_or_says_which(league: League) -> None:
    """The process has imported no environment; with ``trust`` it imports the one of the match."""
    played(league, (Numbers, CONFIG), seed=31)
    program = f"""
import sys
from policystore import InvalidInputError
from policystore.league import League
league = League({league.store.url!r}, "replay")
match = next(league.matches(limit=1))
try:
    league.replay(match)
except InvalidInputError as error:
    print(error)
assert {PLACE!r} not in sys.modules
assert league.replay(match, trust=[{PLACE!r}]).returns == match.episode_returns
assert league.replay(match).returns == match.episode_returns  # imported now
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert f"pass env=, or trust=['{PLACE}.']" in done.stdout


def test_a_trusted_module_that_is_not_installed_is_named(league: League) -> None:
    match = replace(played(league, (Numbers, CONFIG)), env="no_such_module:Env")
    with pytest.raises(NotFoundError, match="no_such_module:Env"):
        replay(league, match, trust=["no_such_module"])
