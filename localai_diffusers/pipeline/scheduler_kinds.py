# SPDX-License-Identifier: MIT
"""Whether a scheduler can drive a model: both are tried on one picture whose perfect answer is known.

Schedulers differ in what they assume of the network: how much picture and how much noise it sees at which timestep
(variance preserving, flow matching, EDM and others), which way the time goes, and what the network predicts. Names and
base classes don't tell. So a perfect network is made of what the model's own scheduler assumes (it always answers for
one and the same picture), and the scheduler in question samples it: one that assumes the same shows it the right
mixture at every timestep and arrives at that picture, any other does not. Small tensors; no weights are needed.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_PICTURE = 0.4  # every value of the picture; within what clips or thresholds
_STEPS = 20
MOST_STEPS_TRIED = 6
# What is right within: of the noise that the network finds in a mixture its mean, and its deviation from 1 (samplers
# begin with pure noise where a schedule's first mixture has a little of the picture in it); and the picture at the end.
_MEAN, _DEVIATION, _NEAR = 0.09, 0.13, 0.3
# Of a mixture with less noise than this part nothing is asked: solvers stop at slightly different low levels.
_LITTLE, _LEAST = 0.2, 0.1


@dataclass(frozen=True)
class Network:
    """A perfect network: what it sees at a timestep (parts of picture and of noise), and what it answers.

    ``answer`` gets the noise that it found in what it saw (1, 4, 32, 32), and both parts.
    """

    mixture: Callable[[float], tuple[float, float]]
    answer: Callable[[Any, float, float], Any]


def drives(scheduler: Any, own: Any) -> bool:
    """Whether ``scheduler`` (configured) can drive the model whose own scheduler is ``own``.

    A model of a kind that only its own scheduler's class knows (consistency, Würstchen, aMUSEd, IPNDM) takes no other.
    """
    if type(scheduler) is type(own):
        return True
    if kind_of(own) is None or kind_of(own) != kind_of(scheduler):
        return False
    key = _configured(scheduler), _configured(own)
    if key not in _found:
        is_zero = keeps_zero_snr(scheduler)
        of_one_schedule = _are_of_one_schedule(scheduler, own, is_zero) and arrives(own, network_of(own))
        _found[key] = of_one_schedule and arrives(scheduler, network_of(own, is_zero))
    return _found[key]


def _configured(scheduler: Any) -> tuple[type, str]:
    return type(scheduler), repr(sorted(scheduler.config.items(), key=str))


# What was found of each pair of configured classes, and of each one: it stays so.
_found: dict[tuple[tuple[type, str], tuple[type, str]], bool] = {}
_least: dict[tuple[type, str], int] = {}


def _are_of_one_schedule(scheduler: Any, own: Any, zero_snr: bool) -> bool:
    """Whether a variance-preserving scheduler has the model's mixtures (CogVideoX moves those of its betas)."""
    import numpy as np

    if kind_of(own) != PRESERVING:
        return True
    pair = [np.asarray(one.alphas_cumprod, dtype=float) for one in (scheduler, _with_its_betas(own, zero_snr))]
    return pair[0].shape == pair[1].shape and bool(np.allclose(pair[0], pair[1], atol=1e-3))


def least_steps(scheduler: Any) -> int:
    """The fewest steps that it can lay out and take (PNDM takes its first ones together); 1 where that is not told."""
    if not hasattr(scheduler, "from_config"):
        return 1
    key = _configured(scheduler)
    if key not in _least:
        _least[key] = _fewest(scheduler)
    return _least[key]


def _fewest(scheduler: Any) -> int:
    network = network_of(scheduler)
    if network is None:
        return 1
    for steps in range(1, MOST_STEPS_TRIED):
        with _by_itself():
            ended = _sampled(type(scheduler).from_config(scheduler.config), network, steps, exactly=False)
            if ended is not None and bool(ended[0].isfinite().all()):
                return steps
    return 1


def most_steps(scheduler: Any) -> int | None:
    """How many steps it has: LCM and TCD choose theirs among those of the distillation. None for any number."""
    method, most = getattr(scheduler, "set_timesteps", None), None
    if callable(method) and "original_inference_steps" in inspect.signature(method).parameters:
        most = getattr(scheduler, "config", {}).get("original_inference_steps")
    return most or None


def arrives(scheduler: Any, network: Network | None, steps: int = _STEPS, exactly: bool = True) -> bool:
    """Whether sampling ``network`` by a copy of the scheduler ends right; False too where it fails.

    ``exactly``: on the right way too, which a few steps aren't where a schedule begins below pure noise.
    """
    if network is None:
        return False
    with _by_itself():
        ended = _sampled(type(scheduler).from_config(scheduler.config), network, steps, exactly)
        return ended is not None and float((ended[0] - _PICTURE).abs().mean()) < _NEAR + ended[1]  # False of NaN
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers says of each entry of another class's config (what is lost is told by a note of ours), and
    of what it changes in one."""
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Without a trace of the trial: whatever a class's code raises, warns of, or draws by chance."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet():
        torch.manual_seed(0)
        with contextlib.suppress(Exception):
            yield


def _sampled(scheduler: Any, network: Network, steps: int, exactly: bool) -> tuple[Any, float] | None:
    """What sampling ends with, and the part of noise in the last mixture, which some schedulers leave; None where the
    network was shown something else than what it learned."""
    import torch

    shifted = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(steps, **shifted)
    sample = torch.randn(1, 4, 32, 32) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(sample, timestep) if hasattr(scheduler, "scale_model_input") else sample
        picture, noise = network.mixture(float(timestep))
        size = (picture**2 + noise**2) ** 0.5
        found = (seen - picture * _PICTURE) / max(noise, _LEAST * size)
        is_exact = abs(float(found.mean())) < _MEAN and abs(float(found.std()) - 1) < _DEVIATION
        if exactly and noise > _LITTLE * size and not is_exact:
            return None
        answer = network.answer(found, picture, noise)
        sample = scheduler.step(answer, timestep, sample, return_dict=False)[0]
    return sample, noise / size


# --- perfect networks ----------------------------------------------------------------------------------------------


FLOW, EDM, PRESERVING = "a flow-matching one", "an EDM one", "not a flow-matching one"


def kind_of(scheduler: Any) -> str | None:
    """What the scheduler assumes of its network, in words; None where that is known to its class alone."""
    config, flow = scheduler.config, "FlowMatchEulerDiscreteScheduler"
    says_so = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if says_so or hasattr(scheduler, "scale_noise") or flow in getattr(type(scheduler), "_compatibles", ()):
        return FLOW
    if hasattr(scheduler, "precondition_outputs"):
        return EDM
    return PRESERVING if hasattr(scheduler, "alphas_cumprod") else None


def network_of(own: Any, zero_snr: bool = True) -> Network | None:
    """A perfect network for what the scheduler ``own`` assumes, None for one of a kind that isn't known here.

    ``zero_snr``: with the schedule that ends in pure noise, if the config says so; else with the plain betas' one.
    """
    kind = kind_of(own)
    if kind == FLOW:
        most = float(own.config.get("num_train_timesteps") or 0)
        return (
            Network(lambda time: (1 - time / most, time / most), lambda noise, *_: noise - _PICTURE) if most else None
        )
    if kind == EDM:
        return _edm_network(own)
    if kind == PRESERVING:
        alphas = _with_its_betas(own, zero_snr).alphas_cumprod
        return _preserving_network(alphas, str(own.config.get("prediction_type") or "epsilon"))
    return None


def _with_its_betas(own: Any, zero_snr: bool) -> Any:
    """The scheduler, or one of its plain betas where it has a schedule that ends in pure noise and that is not kept."""
    is_plain = zero_snr or not own.config.get("rescale_betas_zero_snr")
    return own if is_plain else type(own).from_config(own.config, rescale_betas_zero_snr=False)


def _preserving_network(alphas: Any, prediction: str) -> Network:
    """Between two timesteps the logarithm of noise to picture is interpolated, as k-diffusion's solvers do."""
    import numpy as np

    cumulated = np.clip(np.asarray(alphas, dtype=float), 1e-9, 1 - 1e-9)
    logarithms = np.log(1 / cumulated - 1)

    def mixture(timestep: float) -> tuple[float, float]:
        share = 1 / (1 + float(np.exp(np.interp(timestep, np.arange(len(logarithms)), logarithms))))
        return share**0.5, (1 - share) ** 0.5

    answers: dict[str, Callable[[Any, float, float], Any]] = {
        "sample": lambda noise, *_: noise * 0 + _PICTURE,
        "v_prediction": lambda found, picture, noise: picture * found - noise * _PICTURE,
    }
    return Network(mixture, answers.get(prediction, lambda noise, *_: noise))


def _edm_network(own: Any) -> Network:
    """It is told of the noise by ``precondition_noise``; what it sees and says is scaled by the scheduler."""
    import numpy as np
    import torch

    exponents = np.linspace(-4, 4, 20001)
    told = np.asarray(own.precondition_noise(torch.tensor(10.0**exponents)), dtype=float)

    def mixture(timestep: float) -> tuple[float, float]:
        sigma = float(10.0 ** np.interp(timestep, told, exponents))
        scale = float(own.precondition_inputs(torch.ones(()), torch.tensor(sigma)))
        return scale, scale * sigma

    def answer(found: Any, picture: float, noise: float) -> Any:
        sigma, nothing = torch.tensor(noise / picture), torch.zeros_like(found)
        sample = _PICTURE + sigma * found
        skipped = own.precondition_outputs(sample, nothing, sigma)
        return (_PICTURE - skipped) / (own.precondition_outputs(sample, nothing + 1, sigma) - skipped)

    return Network(mixture, answer)


def keeps_zero_snr(scheduler: Any) -> bool:
    """Whether its class has a schedule that ends in pure noise (zero terminal SNR)."""
    return "rescale_betas_zero_snr" in scheduler._get_init_keys(type(scheduler))
