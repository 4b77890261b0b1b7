"""The names of Tune's trials, and the values that Tune has chosen, as plain values."""

from __future__ import annotations

import json

from policystore.format.records.fields import encode_plain
from policystore.rllib_schema.trials import choices_in, name_part, params_in_name, plain_params

PICKLED = {"_type": "CLOUDPICKLE_FALLBACK", "value": "80059510"}


def test_trials_keep_their_own_names() -> None:
    long = "PPO_Duo_79fa0_00000_0_" + "lr=0.0001," * 12
    made = [name_part(long + end) for end in ("a", "b")]
    assert len(set(made)) == 2
    assert all(len(name) <= 60 and name.startswith("PPO_Duo_79fa0_00000_0_lr_") for name in made)
    assert name_part("PPO_Duo_79fa0_00000") == "PPO_Duo_79fa0_00000"


def test_nothing_chosen_is_nothing_said() -> None:
    assert plain_params({}) == {}


def test_what_is_not_plain_is_left_out_with_a_note() -> None:
    chosen = {"lr": 0.5, "callbacks_class": PICKLED, "other": {"inner": PICKLED, 3: {"x"}}}
    found = plain_params(chosen)
    assert found["params"] == {"lr": 0.5}
    assert found["params_omitted"]["callbacks_class"] == "not a plain value"
    assert "set" in found["params_omitted"]["other"]


def test_the_largest_are_left_out_where_there_is_no_room() -> None:
    chosen = {f"layer{n}": list(range(n * 100)) for n in range(30)} | {"one": "x" * 20_000}
    found = plain_params(chosen)
    assert list(found["params"]) == [f"layer{n}" for n in range(len(found["params"]))]
    assert len(found["params"]) > 3
    assert len(found["params_omitted"]) == 11
    assert found["params_omitted"]["..."].startswith("and ")
    assert encode_plain({"run": "r" * 600, **found}, "source")  # fits into a record


def test_a_choice_that_is_a_pickle_is_not_read() -> None:
    trials = [{"logdir": "/a/b", "evaluated_params": PICKLED},
              {"logdir": "/a/c", "evaluated_params": {"lr": 0.5}}]  # fmt: skip
    text = json.dumps({"checkpoints": [json.dumps(each) for each in trials]})  # as Ray before 2.4
    assert dict(choices_in(text)) == {"c": {"lr": 0.5}}
    assert dict(choices_in(text, "b")) == {}


def test_the_values_in_the_name_of_a_folder() -> None:
    config = {"lr": 1e-3, "model": {"lr": 2e-3, "net": "a/b"}, "gamma": 0.9, "n": 1}
    name = "PPO_Duo_79fa0_00000_0_lr=0.0020,n=1,net=a_b_2026-11-29_10-54-37"
    assert params_in_name(name, config) == {"model/lr": 2e-3, "model/net": "a/b", "n": 1}
    assert params_in_name("PPO_lr_0.001", config) == {}
    assert params_in_name("PPO_n=11_2026", config) == {}
