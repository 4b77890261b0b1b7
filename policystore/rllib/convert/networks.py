"""Find the layers of RLlib's default networks by the names of their tensors."""

from __future__ import annotations

from collections.abc import Collection

from policystore.rllib.convert.kinds import Kind
from policystore.rllib.convert.layers import Network, layers_under

__all__ = ["is_convolutional", "new_network", "old_network", "with_heads_in_encoders"]

_NOT_READ = "no computation of the policy reads it"
_SAC_LEARNS_ANEW = (
    "the Q networks of the old stack take observation and action together, those of the new stack "
    "encode each by itself; training on the new stack starts this part anew"
)


def is_convolutional(names: Collection[str]) -> bool:
    """Return whether an old-stack policy has convolutions."""
    return any(name.startswith(("_convs.", "action_model._convs.")) for name in names)


def old_network(names: Collection[str], kind: Kind, *, has_lstm: bool) -> Network:
    """Return the network of an old-stack policy with one of RLlib's default models.

    The names are those of ``models/torch/fcnet.py``, ``models/torch/visionnet.py``,
    ``models/torch/recurrent_net.py``, ``algorithms/dqn/dqn_torch_model.py`` and
    ``algorithms/sac/sac_torch_model.py``.

    Args:
        names: the names of all tensors.
        kind: the policy's kind.
        has_lstm: whether the network has an LSTM after its encoder.
    """
    base = "action_model." if kind.algorithm == "SAC" else ""

    def under(place: str) -> list[str]:
        return layers_under(names, base + place)

    layers = {"encoder": under("_convs.") or under("_hidden_layers.")}
    separate, value = under("_value_branch_separate."), under("_value_branch.")
    value_networks = {f"{base}_value_branch{end}": _NOT_READ for end in (".", "_separate.")}
    if kind.algorithm == "SAC":
        idle = value_networks | dict.fromkeys(
            ("q_net.", "twin_q_net.", "log_alpha", "target_entropy"), _SAC_LEARNS_ANEW
        )
        return Network({**layers, "pi": under("_logits.")}, idle=idle)
    if kind.algorithm == "DQN":
        streams = {
            role: sorted(under(f"{module}."), key=lambda layer: ".dueling_" not in layer)
            for role, module in (("af", "advantage_module"), ("vf", "value_module"))
        }
        streams["af"] = streams["af"] or under("_logits.")
        return Network(layers | {role: all_ for role, all_ in streams.items() if all_},
                       idle=value_networks)  # fmt: skip
    if has_lstm:
        layers |= {"lstm": ["lstm"], "pi": under("_logits_branch."), "vf": value}
        return Network(layers, idle={"_value_branch_separate.": _NOT_READ})
    if separate and is_convolutional(names):
        layers |= {"critic_encoder": separate[:-1], "vf": separate[-1:]}
    else:
        layers |= {"critic_encoder": separate, "vf": value}
    log_std = "_append_free_log_std.log_std"
    return Network({**layers, "pi": under("_logits.")}, log_std if log_std in names else None)


def new_network(names: Collection[str], kind: Kind) -> Network:
    """Return the network of a new-stack module of one of RLlib's default classes.

    The names are those of ``core/models/torch/encoder.py`` and of the modules of each algorithm.

    Args:
        names: the names of all tensors.
        kind: the module's kind.
    """

    def under(place: str) -> list[str]:
        return layers_under(names, place)

    idle = {
        "_target_": "copies of the networks",
        "_old_": "copies of the networks",
        **{f"{head}.log_std_clip_param_const": "a number of the config" for head in _HEADS},
    }
    if kind.algorithm == "SAC":
        return Network({"encoder": under("pi_encoder."), "pi": under("pi.net.")}, idle=idle)
    if kind.algorithm == "DQN":
        layers = {"encoder": under("encoder."), "af": under("af.net."), "vf": under("vf.net.")}
        return Network({role: found for role, found in layers.items() if found}, idle=idle)
    log_std = "pi.log_std" if "pi.log_std" in names else None
    heads = {"pi": under("pi.net."), "vf": under("vf.net.")}
    lstm = "encoder.encoder.lstm"
    if any(name.startswith(f"{lstm}.") for name in names):
        encoder = under("encoder.encoder.tokenizer.")
        return Network({"encoder": encoder, "lstm": [lstm], **heads}, log_std, idle)
    encoder = under("encoder.encoder.") or under("encoder.actor_encoder.")
    critic = under("encoder.critic_encoder.")
    return Network({"encoder": encoder, "critic_encoder": critic, **heads}, log_std, idle)


_HEADS = ("pi", "vf", "af")


def with_heads_in_encoders(network: Network) -> Network:
    """Return a network of separate encoders with the hidden layers of its heads in the encoders."""
    layers = dict(network.layers)
    for encoder, head in (("encoder", "pi"), ("critic_encoder", "vf")):
        if layers.get(encoder):
            layers[encoder] = layers[encoder] + layers[head][:-1]
            layers[head] = layers[head][-1:]
    return Network(layers, network.log_std, network.idle)
