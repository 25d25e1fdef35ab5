"""What stands beside pictures."""

from __future__ import annotations

from types import SimpleNamespace

from explorer.pictures import labels


def test_a_cut_prompt_is_said_beside_its_picture() -> None:
    made = SimpleNamespace(pictures=[SimpleNamespace(prompt="a fish", seed=3, cut_tokens=0),
                                     SimpleNamespace(prompt="", seed=4, cut_tokens=0),
                                     SimpleNamespace(prompt="long", seed=5, cut_tokens=12)])
    assert labels(made) == [  # type: ignore[arg-type]
        "a fish · seed 3", "no prompt · seed 4",
        "long · seed 5 · the last 12 tokens of the prompt are beyond what the model reads"]
