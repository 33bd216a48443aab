"""What steps tell of photos is handed on in order, and from a GPU only when it is there."""

import numpy as np
import pytest
import torch

import tiny
from recon import late
from recon.late import BEHIND, Late
from recon.poses import MOTION, Poses

Heard = list[tuple[int, list[float], float]]


class OnItsWay:
    """Stands for a tensor of a GPU and its copy."""

    def __init__(self, value: float) -> None:
        self.device, self._value = torch.device("cuda"), value

    def detach(self) -> "OnItsWay":
        return self

    def read(self) -> np.ndarray:
        return np.array([self._value])


def told(heard: Heard) -> Late:
    return Late(lambda photo, values, progress: heard.append((photo, values.tolist(), progress)))


def test_on_a_cpu_at_once() -> None:
    heard: Heard = []
    told(heard).tell(3, torch.tensor([1.0, 2.0]), 0.5)
    assert heard == [(3, [1.0, 2.0], 0.5)]


def test_on_a_gpu_some_steps_later_in_order_and_all_of_it_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "_Arriving", lambda tensor: tensor)
    heard: Heard = []
    through = told(heard)
    for step in range(5):
        through.tell(step, OnItsWay(step), step / 5)  # type: ignore[arg-type]
        assert len(heard) == max(0, step + 1 - BEHIND)
    through.settle()
    assert heard == [(step, [step], step / 5) for step in range(5)]
    through.settle()
    assert len(heard) == 5


@pytest.mark.gpu
def test_poses_learned_from_a_gpu_are_those_of_a_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        poses = Poses.of(tiny.scene())
        for step in range(8):
            gradient = torch.linspace(-1, 1, MOTION, dtype=torch.float64) * (step + 1)
            poses.learn(step % 3, gradient.to(device), 0.5)
        found.append(poses.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
