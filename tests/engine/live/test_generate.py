"""Generation: seeded, the same twice and in any batch, cancellable at every step, for pipelines of every kind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from engine.core.errors import Cancelled, InputError, ModelError
from engine.core.recipe import uniform
from engine.live.apply import applied
from engine.live.generate import Picture, Step, cut_tokens, default_batch, generate, pictures
from engine.live.model import Model
from engine.live.request import Request, checked
from engine.live.watched import fresh_scheduler

REQUEST = Request(prompts=("a cat", "dog", "the fox"), labels=(1, 2, 3), seeds=(1, 2, 3), steps=3)
KINDS = ["sd1", "dit", "ddpm", "pixart-alpha"]


def exact(made: list[Picture]) -> np.ndarray:
    return np.stack([p.exact for p in made if p.exact is not None])


@pytest.mark.parametrize("name", KINDS)
def test_twice_is_the_same_bytes(tiny_model: Callable[[str], Model], name: str) -> None:
    model = tiny_model(name)
    first, second = (pictures(model, REQUEST, record_latents=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.pixels.tobytes() == b.pixels.tobytes()
        assert a.latents is not None and b.latents is not None and torch.equal(a.latents, b.latents)
    assert len({p.pixels.tobytes() for p in first}) == 3


@pytest.mark.parametrize("name", KINDS)
def test_an_image_does_not_depend_on_its_batch(tiny_model: Callable[[str], Model], name: str) -> None:
    model = tiny_model(name)
    together = exact(pictures(model, REQUEST, exact=True))
    for batch in (1, 2):
        assert np.abs(exact(pictures(model, REQUEST, exact=True, batch=batch)) - together).max() < 1e-4
    last = Request(prompts=("the fox",), labels=(3,), seeds=(3,), steps=3)
    assert np.abs(exact(pictures(model, last, exact=True))[0] - together[2]).max() < 1e-4


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_pipelines_own_image(tiny_model: Callable[[str], Model], name: str) -> None:
    """The plain call of the pipeline with a generator of the same seed."""
    model = tiny_model(name)
    single = Request(prompts=("a cat",), labels=(1,), seeds=(7,), steps=2, guidance=3.0)
    from engine.models.calls import call_arguments

    arguments = {**call_arguments(model.pipeline, checked(single, model.limits)), "output_type": "np"}
    plain = model.pipeline(**arguments, generator=torch.Generator().manual_seed(7)).images[0]
    (ours,) = pictures(model, single, exact=True)
    assert ours.exact is not None and np.array_equal(plain, ours.exact)


@pytest.mark.parametrize("name", KINDS)
def test_progress_counts_every_step_over_all_batches(tiny_model: Callable[[str], Model], name: str) -> None:
    events = list(generate(tiny_model(name), REQUEST, batch=2))
    steps = [e for e in events if isinstance(e, Step)]
    assert [(s.index, s.of) for s in steps] == [(i + 1, 6) for i in range(6)]
    assert steps[-1].seconds_left == 0 and all(s.seconds_left is not None and s.seconds_left >= 0 for s in steps)
    kinds = "".join("s" if isinstance(e, Step) else "p" for e in events)
    assert kinds == "sssppsssp"
    assert [(p.index, p.seed) for p in events if isinstance(p, Picture)] == [(0, 1), (1, 2), (2, 3)]


class After:
    """Asks to stop at the n-th question; there are two per step."""

    def __init__(self, n: int) -> None:
        self.left = n

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("name", KINDS)
def test_cancelling_between_steps_leaves_the_model_usable(tiny_model: Callable[[str], Model], name: str) -> None:
    model = tiny_model(name)
    before = pictures(model, REQUEST)
    scheduler = model.pipeline.scheduler
    seen = []
    with pytest.raises(Cancelled):
        for event in generate(model, REQUEST, cancel=After(2)):
            seen.append(event)
    assert [(e.index, e.of) for e in seen if isinstance(e, Step)] == [(1, 3)] and len(seen) == 1
    assert model.pipeline.scheduler is scheduler and not model.denoiser._forward_pre_hooks
    after = pictures(model, REQUEST)
    assert [p.pixels.tobytes() for p in after] == [p.pixels.tobytes() for p in before]


def test_an_event_set_from_outside_stops_it(tiny_model: Callable[[str], Model]) -> None:
    cancel = threading.Event()
    seen = []
    with pytest.raises(Cancelled):
        for event in generate(tiny_model("ddpm"), Request(steps=500), cancel=cancel):
            seen.append(event)
            cancel.set()
    assert len(seen) < 400


def test_cancelled_before_the_first_step_costs_no_step(unet: Model) -> None:
    cancel = threading.Event()
    cancel.set()
    calls = []
    hook = unet.denoiser.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(Cancelled):
        list(generate(unet, REQUEST, cancel=cancel))
    hook.remove()
    assert calls == []


def test_an_abandoned_iterator_stops_its_thread(unet: Model) -> None:
    running = generate(unet, Request(steps=50))
    next(running)
    assert any(t.name == "generate" for t in threading.enumerate())
    running.close()
    assert not any(t.name == "generate" for t in threading.enumerate())


def test_latents_are_the_samples_after_each_step(unet: Model) -> None:
    (made,) = pictures(unet, Request(prompts=("a cat",), seeds=(1,), steps=3), record_latents=True, exact=True)
    assert made.latents is not None and made.latents.shape == (3, 4, 8, 8)
    vae = unet.pipeline.vae
    with torch.no_grad():
        image = vae.decode(made.latents[-1:] / vae.config.scaling_factor).sample
    assert made.exact is not None
    assert np.abs((image[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1) - made.exact).max() < 1e-5


def test_a_stochastic_sampler_draws_from_the_images_own_seed(tiny_model: Callable[[str], Model]) -> None:
    """DiT hands no generator to its scheduler and steps a doubled batch; ancestral noise must still be per image."""
    model = tiny_model("dit")
    name = next(n for n in model.limits.schedulers if n.endswith("DDPMScheduler"))
    request = Request(labels=(1, 2), seeds=(1, 2), steps=3, scheduler=name)
    first = exact(pictures(model, request, exact=True))
    torch.manual_seed(123)
    assert np.array_equal(exact(pictures(model, request, exact=True)), first)
    assert np.abs(exact(pictures(model, request, exact=True, batch=1)) - first).max() < 1e-4


def test_other_schedulers_are_used_and_put_back(unet: Model) -> None:
    own = unet.pipeline.scheduler
    plain = pictures(unet, REQUEST)
    other = next(n for n in unet.limits.schedulers if n != type(own).__name__)
    changed = pictures(unet, Request(prompts=("a cat",), seeds=(1,), steps=3, scheduler=other))
    assert changed[0].settings["scheduler"] == other and unet.pipeline.scheduler is own
    assert changed[0].pixels.tobytes() != plain[0].pixels.tobytes()
    with pytest.raises(InputError, match="no scheduler called"):
        fresh_scheduler(own, "Nothing")


def test_a_recipe_changes_the_picture_and_only_while_applied(unet: Model) -> None:
    before = pictures(unet, REQUEST)[0].pixels.tobytes()
    with applied(unet, uniform(unet.structure, "uaq-2")):
        assert pictures(unet, REQUEST)[0].pixels.tobytes() != before
    assert pictures(unet, REQUEST)[0].pixels.tobytes() == before


def test_prompts_matter_and_long_ones_are_cut_with_a_count(unet: Model) -> None:
    one, other, empty = pictures(unet, Request(prompts=("red", "green", ""), seeds=(1, 1, 1), steps=2))
    assert len({p.pixels.tobytes() for p in (one, other, empty)}) == 3
    (long,) = pictures(unet, Request(prompts=("ab " * 100,), steps=1))
    assert long.cut_tokens == 200 + 2 - 77 and one.cut_tokens == 0
    assert cut_tokens(unet.pipeline, "", {}) == 0
    strange = pictures(unet, Request(prompts=("🦊 ثعلب",), steps=1))
    assert strange[0].pixels.shape == (16, 16, 3)


def test_nan_images_are_an_error_not_a_picture(unet: Model) -> None:
    weight = unet.denoiser.conv_in.weight
    with torch.no_grad():
        kept = weight.clone()
        weight.fill_(float("nan"))
    try:
        with pytest.raises(ModelError, match="NaN"):
            pictures(unet, REQUEST)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@pytest.mark.parametrize(("error", "seen", "words"), [
    (torch.OutOfMemoryError(), ModelError, "ran out while 3 pictures"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), ModelError, "Memory on cpu ran out"),
    (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
])
def test_what_goes_wrong_in_the_pipeline_reaches_the_caller(
        unet: Model, monkeypatch: pytest.MonkeyPatch, error: Exception, seen: type[Exception], words: str) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(type(unet.pipeline.vae), "decode", broken)
    with pytest.raises(seen, match=words):
        pictures(unet, REQUEST)


def test_arithmetic_switches_are_put_back(unet: Model) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    inside = []
    hook = unet.denoiser.register_forward_hook(lambda *_: inside.append((cudnn.allow_tf32, cudnn.deterministic)))
    pictures(unet, Request(steps=1))
    hook.remove()
    assert inside[0] == (False, True) and (cudnn.allow_tf32, cudnn.deterministic) == before


def test_bad_requests_are_refused_before_anything_runs(unet: Model) -> None:
    with pytest.raises(InputError, match="seed must be"):
        generate(unet, Request(seeds=(-1,)))


def test_the_default_batch_follows_the_size() -> None:
    assert default_batch(Request(height=64, width=64)) == 64
    assert default_batch(Request(height=256, width=256)) == 4
    assert default_batch(Request(height=1024, width=1024)) == 1


def test_settings_say_how_a_picture_was_made(unet: Model) -> None:
    (made,) = pictures(unet, Request(prompts=("a cat",), negative="dog", seeds=(5,), steps=2, guidance=4.0))
    assert made.settings["steps"] == 2 and made.settings["guidance"] == 4.0 and made.settings["negative"] == "dog"
    assert made.settings["identity"] == unet.structure.identity and made.settings["device"] == "cpu"


def test_settings_a_pipeline_cannot_run_are_one_sentence(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("pixart-alpha")
    with pytest.raises(ModelError, match="1 steps"):
        pictures(model, Request(prompts=("a",), steps=1))
    assert pictures(model, Request(prompts=("a",), steps=2))
