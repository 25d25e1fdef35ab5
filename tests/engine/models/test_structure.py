"""Structures of every family: complete, consistent, equal from memory and from files, cached without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.core.errors import ModelError
from engine.core.graph import Structure
from engine.core.layer import Role
from engine.models import keeping
from engine.models.compact import from_compact, to_compact
from engine.models.structure import read_structure, ship_structure, structure_of, why_no_weights
from engine.models.tiny import TINY

FAMILIES = sorted(TINY)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=FAMILIES)
def structure(request: pytest.FixtureRequest, saved) -> Structure:
    return read_structure(saved(request.param))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_from_memory_and_from_files(name: str, tiny, saved) -> None:
    directory = saved(name)
    stored = read_structure(directory)
    pipeline = tiny(name)
    assert structure_of(pipeline, str(directory)) == stored
    from engine.models.loading import load_pipeline

    assert structure_of(load_pipeline(directory), str(directory)) == stored


def test_every_layer_is_in_exactly_one_block(structure: Structure) -> None:
    names = [layer.name for layer in structure.layers]
    assert len(set(names)) == len(names)
    inside = [name for block in structure.level("block") for name in block.layers]
    assert sorted(inside) == sorted(names)
    by_id = {block.id: block for block in structure.blocks}
    assert len(by_id) == len(structure.blocks)
    for layer in structure.layers:
        assert layer.name in by_id[layer.block].layers
        assert by_id[layer.block].level == "block"


def test_blocks_nest_and_are_ordered(structure: Structure) -> None:
    by_id = {block.id: block for block in structure.blocks}
    rank = {layer.name: i for i, layer in enumerate(structure.layers)}
    for block in structure.blocks:
        assert block.label
        assert block.layers
        assert list(block.layers) == sorted(block.layers, key=rank.__getitem__)
        above = by_id.get(block.parent)
        assert (above is None) == (block.level == "stage")
        if above:
            assert set(block.layers) <= set(above.layers)
            assert (above.level, block.level) in {("stage", "block"), ("block", "unit"), ("unit", "unit")}
    for level in ("stage", "block", "unit"):
        firsts = [rank[block.layers[0]] for block in structure.level(level)]
        assert firsts == sorted(firsts)
        assert [block.order for block in structure.level(level)] == list(range(len(firsts)))


def test_the_operation_graph_is_acyclic_and_connected(structure: Structure) -> None:
    assert structure.edges
    assert all(source < target for source, target in structure.edges)
    assert len(set(structure.edges)) == len(structure.edges)
    joined = list(range(len(structure.nodes)))

    def root(i: int) -> int:
        while joined[i] != i:
            i = joined[i]
        return i

    for source, target in structure.edges:
        joined[root(source)] = root(target)
    assert len({root(i) for i in range(len(joined))}) == 1
    fed = {target for _, target in structure.edges} | {source for source, _ in structure.edges}
    assert fed == set(range(len(structure.nodes)))


def test_nodes_and_layers_agree(structure: Structure) -> None:
    weights = [node for node in structure.nodes if node.kind == "weight"]
    executed = [node.layer for node in weights]
    assert [layer.name for layer in structure.layers if layer.name in set(executed)] == executed
    blocks = {layer.name: layer.block for layer in structure.layers}
    assert all(node.id == node.layer and node.block == blocks[node.layer] for node in weights)
    assert all(not node.layer for node in structure.nodes if node.kind != "weight")
    ids = {block.id for block in structure.level("block")}
    assert all(node.block in ids for node in structure.nodes)
    assert len({node.id for node in structure.nodes}) == len(structure.nodes)


def test_the_block_graph_is_acyclic_connected_and_reduced(structure: Structure) -> None:
    order = {block.id: block.order for block in structure.level("block")}
    seen = {end for edge in structure.block_edges for end in (edge.source, edge.target)}
    assert seen == set(order) or len(order) == 1
    assert all(order[e.source] < order[e.target] for e in structure.block_edges)
    plain = {(e.source, e.target) for e in structure.block_edges if not e.skip and not e.condition}
    reach: dict[str, set[str]] = {block: set() for block in order}
    for source, target in sorted(plain, key=lambda pair: -order[pair[0]]):
        reach[source] |= {target} | reach[target]
    for source, target in plain:
        assert not any(target in reach[other] for first, other in plain if first == source and other != target)


def test_one_way_in_and_one_way_out(structure: Structure) -> None:
    roles = [layer.role for layer in structure.layers]
    assert roles.count(Role.INPUT) == 1
    assert roles.count(Role.OUTPUT) == 1
    assert Role.TIME in roles
    assert roles.count(Role.OTHER) <= len(roles) // 10


def test_text_families_name_what_reads_the_text(saved) -> None:
    for name in ("pixart-alpha", "sd3", "flux", "hunyuan", "sana", "sdxl"):
        assert Role.CONDITION in {layer.role for layer in read_structure(saved(name)).layers}


def test_stored_values_are_all_accounted_for(structure: Structure, tiny, saved) -> None:
    from engine.models.checkpoint import read_component
    from engine.models.loading import denoiser_entry

    directory = saved(structure.model.rpartition("/")[2])
    stored = read_component(directory / denoiser_entry(directory)[0]).weights
    assert sum(layer.weights for layer in structure.layers) + structure.other_weights == stored


def test_compact_text_is_the_structure(structure: Structure) -> None:
    assert from_compact(to_compact(structure)) == structure


def test_u_nets_are_us_and_transformers_are_lines(saved) -> None:
    layouts = {name: read_structure(saved(name)).layout for name in FAMILIES}
    assert {name for name, layout in layouts.items() if layout == "u"} == {"sd1", "sd2", "sdxl", "ddpm"}


def _cold(name: str, cache: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, time; from engine.models.structure import read_structure; begun = time.perf_counter();"
        f"s = read_structure({name!r}); spent = time.perf_counter() - begun;"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules);"
        "print(len(s.layers), spent, *sorted(heavy))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "QUANTSCAPE_CACHE": str(cache)})


def test_a_cached_answer_needs_no_torch_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    read_structure("sdxl")
    done = _cold("sdxl", tmp_path)
    assert done.returncode == 0, done.stderr
    layers, spent, *heavy = done.stdout.split()
    assert layers == "803"
    assert heavy == []
    assert float(spent) < 1
    assert done.stderr == ""


def test_a_corrupt_cache_is_made_again(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    good = read_structure(saved("dit"))
    (file,) = (tmp_path / "structures").iterdir()
    whole = file.read_text()
    for damage in ("", "{", '{"version": 1}', "[]", "\0", whole[:-40], whole.replace("[0", "[9", 1), whole[10:]):
        file.write_text(damage)
        assert read_structure(saved("dit")) == good


def test_a_shipped_structure_is_believed_while_the_files_are_the_same(
    saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    shutil.copytree(saved("dit"), copy)
    made = read_structure(copy)
    file = ship_structure(copy)
    shutil.rmtree(tmp_path / "cache")
    done = _cold(str(copy), tmp_path / "cache")
    assert done.stdout.split()[2:] == [], "a shipped structure needs no torch"
    assert read_structure(copy) == made
    file.write_text(file.read_text().replace(made.identity, "0" * len(made.identity)))
    shutil.rmtree(tmp_path / "cache")
    assert read_structure(copy).identity == "0" * len(made.identity), "it was read from there"
    config = copy / "transformer" / "config.json"
    config.write_text(config.read_text() + " ")
    assert read_structure(copy).identity == made.identity, "made again, since a file has changed"


def test_structures_shipped_with_the_demo_models_are_current() -> None:
    from engine.models.catalog import MODELS, local_directory

    directories = [d for row in MODELS.values() if (d := local_directory(row)) and (d / keeping.SHIPPED).is_file()]
    stale = [d for d in directories if keeping.read_shipped(d) is None]
    assert stale == [], "run engine.models.structure.ship_structure on them again"
    names = [kept.model for d in directories if (kept := keeping.read_shipped(d))]
    assert names and not any(Path(name).is_absolute() for name in names), "ship them from the root of the repository"


def test_a_change_of_the_code_outdates_what_was_kept(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    read_structure(saved("dit"))
    monkeypatch.setattr(keeping, "_code", lambda: "changed")
    read_structure(saved("dit"))
    assert len(list((tmp_path / "structures").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(blocked))
    assert read_structure(saved("dit")).layers


def test_changed_files_get_a_new_answer(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    shutil.copytree(saved("dit"), copy)
    before = read_structure(copy)
    from safetensors.torch import load_file, save_file

    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out_2.weight"] = tensors["proj_out_2.weight"] + 1
    time.sleep(0.01)
    save_file(tensors, file)
    after = read_structure(copy)
    assert after.identity != before.identity
    assert replace(after, identity="") == replace(before, identity="")


def test_the_answer_carries_the_name_it_was_asked_by(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = saved("dit")
    monkeypatch.chdir(directory.parent)
    assert read_structure(directory.name).model == directory.name
    assert read_structure(directory).model == str(directory)


def test_half_precision_files_count_as_sixteen_bits(tiny, tmp_path: Path) -> None:
    import torch

    from engine.models.loading import load_pipeline
    from engine.models.quiet import quiet
    from engine.models.tiny import TINY

    pipeline = TINY["sd1"]()
    with quiet():
        pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    stored = read_structure(tmp_path / "half")
    assert stored.precision_bits == 16
    assert structure_of(load_pipeline(tmp_path / "half"), str(tmp_path / "half")) == stored
    assert {c.name: c.bytes for c in stored.components} == {c.name: 2 * c.weights for c in stored.components}


def test_a_changed_pipeline_is_described_as_it_is(saved) -> None:
    """Other weights: another identity. Shared tensors: one layer. Other modules: refused."""
    import torch

    from engine.models.loading import load_pipeline

    directory = saved("pixart-alpha")
    pipeline = load_pipeline(directory)
    blocks = pipeline.transformer.transformer_blocks
    with torch.no_grad():
        blocks[0].attn1.to_q.weight.add_(1)
    changed = structure_of(pipeline, "changed")
    assert changed.identity != read_structure(directory).identity
    blocks[1].attn1.to_q.weight = blocks[0].attn1.to_q.weight
    shared = structure_of(pipeline, "shared")
    assert len(shared.layers) == len(changed.layers) - 1
    merged = shared.layer("transformer_blocks.0.attn1.to_q")
    assert merged.modules == ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn1.to_q")
    blocks[0].attn1.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"changed after loading .*fuse"):
        structure_of(pipeline, "more")


def test_without_weights_the_catalogue_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.models.catalog import MODELS

    read = read_structure("dit-xl-2-512")
    assert read.identity == ""
    assert [c.name for c in read.components] == ["vae"]
    assert "not on this machine" in why_no_weights("dit-xl-2-512")
    by_hub_id = read_structure(MODELS["dit-xl-2-512"].source)
    assert replace(by_hub_id, model="") == replace(read, model="")


def test_weights_that_are_here_need_no_excuse(saved) -> None:
    assert why_no_weights(saved("dit")) == ""


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTSCAPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert keeping.cache_directory() == tmp_path / "xdg" / "quantscape"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keeping.cache_directory() == tmp_path / ".cache" / "quantscape"
