"""stable-baselines3: agents, whose spaces and schedules are pickled into JSON."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from twins import poison_agent, poison_members, poison_pickle, poisoned_archive

import safemodel


def agent(folder):
    made = PPO(
        "MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, device="cpu",
        policy_kwargs={"net_arch": [8]}, seed=8,
    )  # fmt: skip
    made.learn(32)
    made.save(folder / "agent.zip")
    return made, folder / "agent.zip"


def own_parts(made) -> dict[str, object]:
    """Return what stable-baselines3 lets its user give instead of unpickling it."""
    env = gymnasium.make("CartPole-v1")
    return {
        "policy_class": ActorCriticPolicy,
        "rollout_buffer_class": RolloutBuffer,
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "lr_schedule": lambda _: made.learning_rate,
        "clip_range": lambda _: 0.2,
    }


def compare(made, again) -> None:
    for name, value in made.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name]), name
    seen = np.linspace(-0.2, 0.2, 40, dtype=np.float32).reshape(10, 4)
    left, _ = made.predict(seen, deterministic=True)
    right, _ = again.predict(seen, deterministic=True)
    assert np.array_equal(left, right)
    moments = again.policy.optimizer.state_dict()["state"]
    for key, values in made.policy.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, moments[key][name])
    assert np.array_equal(made._last_obs, again._last_obs)
    assert made.num_timesteps == again.num_timesteps


@pytest.mark.case("stable-baselines3", "`PPO.save`, `PPO.load(custom_objects=)`")
def test_agent(case, tmp_path):
    """Its user gives the code, as `custom_objects`; the file gives the data."""
    made, file = agent(tmp_path)

    def load():
        return PPO.load(file, device="cpu", custom_objects=own_parts(made))

    again = case.loads(load, files=5)
    compare(made, again)
    poison_agent(file, "_last_obs")
    case.refuses(load, runs=True)
    case.note = (
        "recipe below: spaces, classes and schedules are given as `custom_objects`, the"
        " rest is the file's"
    )


@pytest.mark.case("stable-baselines3", "the same without `custom_objects`")
def test_agent_with_classes_in_the_file(case, tmp_path):
    _, file = agent(tmp_path)
    with safemodel.patched():
        with pytest.raises(safemodel.ForbiddenGlobalError) as refused:
            PPO.load(file, device="cpu")
    assert refused.value.name == "ActorCriticPolicy"
    case.loaded = "refused: the file names classes and functions"
    poison_agent(file, "policy_class")
    case.refuses(lambda: PPO.load(file, device="cpu"), runs=True)
    case.note = "what the file names is code; the line above is the way"


@pytest.mark.case("stable-baselines3", "weights within the archive (`policy.pth`)")
def test_hostile_weights(case, tmp_path):
    """These it opens with `torch.load`, from a member of the archive."""
    made, file = agent(tmp_path)

    def load():
        return PPO.load(file, device="cpu", custom_objects=own_parts(made))

    compare(made, case.loads(load, files=5))
    poison_members(file, lambda name: name == "policy.pth", poisoned_archive)
    case.refuses(load, runs=False)


@pytest.mark.case("stable-baselines3", "`VecNormalize.load`")
def test_statistics(case, tmp_path):
    """They are a pickle of a class, and refused; as data they can be taken over."""
    env = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])
    made = VecNormalize(env)
    made.reset()
    for _ in range(8):
        made.step(np.zeros(1, dtype=np.int64))
    file = tmp_path / "statistics.pkl"
    made.save(str(file))

    with safemodel.patched():
        with pytest.raises(safemodel.ForbiddenGlobalError) as refused:
            VecNormalize.load(str(file), env)
    assert refused.value.name == "VecNormalize"
    found = safemodel.safe_load(file, weights_only=False)
    assert np.array_equal(found["obs_rms"]["mean"], made.obs_rms.mean)
    case.loaded = "refused: the file is an object of a class"
    poison_pickle(file)
    case.refuses(lambda: VecNormalize.load(str(file), env), runs=True)
    case.note = "`safe_load(file, weights_only=False)` has the statistics, as data"
