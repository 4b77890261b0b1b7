"""The player for JavaScript takes the same actions as the player for Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore.play import load_player
from tests.play.test_exported import FILES, assert_equal, episodes_of
from tests.support import ROOT
from tests.support.onnx_files import counter, echo, linear, with_metadata

pytestmark = [pytest.mark.long, pytest.mark.node]

SOURCE = ROOT / "scripts" / "examples" / "js"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example, with the packages that it needs from npm."""
    folder = tmp_path_factory.mktemp("node") / "js"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=180)
    return folder


def plain(value: Any) -> Any:
    """Return an observation as JSON has it."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    return np.asarray(value).tolist()


def node(folder: Path, file: Path, episodes: Any) -> subprocess.CompletedProcess[str]:
    command = ["node", str(folder / "play.mjs"), str(file)]
    text = json.dumps(plain(episodes))
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_whole_episodes_are_the_same_in_javascript(example: Path, path: Path) -> None:
    player = load_player(path)
    episodes = episodes_of(path, player)
    done = node(example, path, [observations for observations, _ in episodes])
    assert done.returncode == 0, done.stderr
    for played, (_, expected) in zip(json.loads(done.stdout), episodes, strict=True):
        for action, parts in zip(played, expected, strict=True):
            assert_equal(action, parts, player)


def test_a_file_of_others_and_a_wrong_observation_are_refused(
    example: Path, tmp_path: Path
) -> None:
    path = tmp_path / "main.onnx"
    model = linear()[0]
    path.write_bytes(model.SerializeToString())
    done = node(example, path, [[[1, 2, 3]]])
    assert done.returncode == 1
    assert done.stderr == "error: obs: expected 4 numbers, found 3: [1,2,3]\n"
    newer = model.metadata_props[0].value.replace('"format":1', '"format":9')
    for text, message in [
        (None, "found no metadata of policystore"),
        (newer, "expected a player of format 1, found player of format 9"),
    ]:
        path.write_bytes(with_metadata(model, text).SerializeToString())
        done = node(example, path, [])
        assert done.returncode == 1
        assert message in done.stderr


WRONG_INPUT = {
    "": "the input is no JSON",
    "3": "the input is a list of episodes",
    "[[[1, null, 3, 4]]]": "obs: expected a number of type float32, found null",
}


@pytest.mark.parametrize("text", WRONG_INPUT)
def test_wrong_input_of_the_example_is_one_line(example: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "main.onnx"
    path.write_bytes(linear()[0].SerializeToString())
    command = ["node", str(example / "play.mjs"), str(path)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {WRONG_INPUT[text]}")
    assert done.stderr.count("\n") == 1


def evaluated(folder: Path, model: Any, program: str) -> Any:
    """Return what a program of JavaScript prints as JSON; ``player`` is a player of a model."""
    (folder / "main.onnx").write_bytes(model.SerializeToString())
    start = (
        'import { readFile } from "node:fs/promises"; import { loadPlayer } from "./player.mjs";\n'
        'const player = await loadPlayer(await readFile("main.onnx"));\n'
    )
    command = ["node", "--input-type=module", "-e", start + program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


MIXED = gym.spaces.Dict(
    {
        "box": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
        "bytes": gym.spaces.Box(0, 255, (2,), np.uint8),
        "many": gym.spaces.MultiDiscrete([3, 5], start=[1, 0]),
        "none": gym.spaces.MultiBinary(2),
        "one": gym.spaces.Discrete(4, start=2),
    }
)
RIGHT = {"box": [0.5, 2], "bytes": [0, 255], "many": [1, 4], "none": [0, 1], "one": 5}
# What stands in the place of a right part of an observation, as JavaScript, and the message.
WRONG_PARTS = [
    ('{box: ["a", 0]}', 'obs/box: expected a number of type float32, found "a"'),
    ("{box: [NaN, 0]}", "obs/box: expected a number of type float32, found NaN"),
    ("{box: undefined}", "obs/box: expected 2 numbers, found 1: [undefined]"),
    ("{bytes: [0, 256]}", "obs/bytes: expected a number of type uint8, found 256"),
    ("{bytes: [0, 0.5]}", "obs/bytes: expected a number of type uint8, found 0.5"),
    ("{many: [0, 0]}", "obs/many: expected a number of type int64 from 1 to 3, found 0"),
    ("{many: [1, 5]}", "obs/many: expected a number of type int64 from 0 to 4, found 5"),
    ("{none: [0, 2]}", "obs/none: expected a number of type int8 from 0 to 1, found 2"),
    ("{one: 2.5}", "obs/one: expected a number of type int64 from 2 to 5, found 2.5"),
    ("{one: 6}", "obs/one: expected a number of type int64 from 2 to 5, found 6"),
]


def test_javascript_refuses_what_python_refuses(example: Path) -> None:
    program = f"""
const found = [await player.act({json.dumps(RIGHT)})];
found.push(await player.act({{...{json.dumps(RIGHT)}, box: new Float32Array([0.5, 2])}}));
for (const part of [{", ".join(part for part, _ in WRONG_PARTS)}])
  found.push(await player.act({{...{json.dumps(RIGHT)}, ...part}}).catch((error) => error.message));
console.log(JSON.stringify(found));
"""
    found = evaluated(example, echo(MIXED), program)
    assert found == [RIGHT, RIGHT, *(message for _, message in WRONG_PARTS)]


def test_calls_that_are_made_at_once_run_one_after_the_other(example: Path) -> None:
    program = """
const calls = [player.act([1, 10]), player.act([2, 20])];
calls.push(player.act([1]).catch((error) => "refused"), player.act([3, 30]));
player.reset();
calls.push(player.act([5, 50]));
console.log(JSON.stringify([player.digest, ...await Promise.all(calls)]));
"""
    digest, *actions = evaluated(example, counter(), program)
    player = load_player(counter().SerializeToString())
    expected = [plain(player.act(obs)) for obs in ([1, 10], [2, 20], [3, 30])]
    player.reset()
    assert actions == [*expected[:2], "refused", expected[2], plain(player.act([5, 50]))]
    assert digest == str(player.digest)


def test_nan_that_the_policy_computes_is_an_error_and_changes_nothing(example: Path) -> None:
    program = """
const calls = [player.act([Infinity, 1]), player.act([-Infinity, 1]).catch((error) => error.message)];
calls.push(player.act([1, 1]));
console.log(JSON.stringify((await Promise.all(calls)).slice(1)));
"""
    message, action = evaluated(example, counter(), program)
    assert message.startswith("the policy computes NaN")
    assert action[0] == [None, 2]  # JSON has no Infinity
