"""Readers of Apple's mixed-bit palettization JSON, MixDQ's YAML and SDNQ's config.json, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.core.errors import RecipeError
from engine.core.files import parse_json
from engine.core.graph import Structure
from engine.core.option import FP16, parse_option
from engine.core.sizes import RTN_ASYMMETRIC_UP_TO, rtn_group_count
from engine.export.imported import Imported, Reader, Wish, imported, nearest_bits
from engine.export.plan import modules
from engine.export.sdnq_layout import PER_TENSOR

MIXDQ_PREFIX = "model."
MAX_BITS = 32


def from_apple(structure: Structure, data: bytes, name: str = "") -> Imported:
    """The JSON of mixed_bit_compression_pre_analysis.py: one of its `recipes`, or a bare object module -> bits.

    A recipe's tensors have one k-means table each, hence `kmeans_a`; its single bits become two.

    Raises:
        RecipeError: no recipe of that name, or none at all.
    """
    content = parse_json(data, "The Apple recipe", RecipeError)
    recipes = content.get("recipes") if isinstance(content, dict) else None
    if isinstance(recipes, dict):
        if not name and len(recipes) == 1:
            name = next(iter(recipes))
        if name not in recipes:
            raise RecipeError(f"The Apple file holds {len(recipes)} recipes; name one of "
                              f"{', '.join(map(str, recipes))[:300]}.")
        content = recipes[name]
    bits = _bits(content, "Apple")
    return imported(structure, {m: nearest_bits(b, "kmeans_a") for m, b in bits.items()}, "Apple",
                    ("Tensors of up to 100,000 weights are not in such files; they stay untouched.",))


def from_mixdq(structure: Structure, data: bytes, name: str = "") -> Imported:
    """MixDQ's YAML: `model.<module>: bits` of weights (activation files look the same).

    Its weights are uniform per output channel, hence `uaq`, whose clip ratio is searched here.

    Raises:
        RecipeError: it is no such YAML.
    """
    import yaml

    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as failure:
        raise RecipeError(f"The MixDQ file is not valid YAML ({' '.join(str(failure).split())[:120]}).") from None
    bits = {m.removeprefix(MIXDQ_PREFIX): b for m, b in _bits(content, "MixDQ").items()}
    return imported(structure, {m: nearest_bits(b, "uaq") for m, b in bits.items()}, "MixDQ",
                    ("Clip ratios are searched here, MixDQ takes the full range; a file of activation bits looks the "
                     "same and would be taken for one of weights.",))


def from_sdnq(structure: Structure, data: bytes, name: str = "") -> Imported:
    """SDNQ's config: a denoiser's config.json, its `quantization_config`, or a quantization_config.json.

    Raises:
        RecipeError: it is none of these.
    """
    content = parse_json(data, "The SDNQ config", RecipeError)
    config = content.get("quantization_config", content) if isinstance(content, dict) else None
    if not isinstance(config, dict) or config.get("quant_method") not in ("sdnq", "sdnq_training"):
        raise RecipeError('The file is no SDNQ configuration: expected an object with quant_method "sdnq", as in the '
                          'config.json of a model that SDNQ saved.')
    try:
        wishes = {path: _sdnq_wish(config, path, sum(x.shape[1] for x in layers), layers[0].kind,
                                   sum(x.weights for x in layers)) for path, layers in modules(structure).items()}
    except (ValueError, TypeError) as failure:
        raise RecipeError(f"The SDNQ configuration cannot be read ({str(failure)[:120]}).") from None
    notes = []
    named = [n for names in _mapping(config, "modules_dtype_dict").values() for n in _names(names)]
    strangers = [n for n in named if n.endswith(".weight") and n.removesuffix(".weight") not in modules(structure)]
    if strangers:
        notes.append(f"{len(strangers)} names in it are no layers of this model (first: {strangers[0][:80]}).")
    extras = [key for key in ("use_svd", "use_hadamard", "scale_dtype") if config.get(key) not in (None, False, "none")]
    if extras:
        notes.append(f"It uses {', '.join(extras)}, which have no counterpart here.")
    return imported(structure, wishes, "SDNQ", tuple(notes))


def _bits(content: Any, source: str) -> dict[str, int]:
    """module -> bits, checked."""
    if not isinstance(content, dict) or not content:
        raise RecipeError(f"The {source} file is no table of modules and bits.")
    for key, value in content.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(key, str) or not whole or not 1 <= value <= MAX_BITS:
            raise RecipeError(f"The {source} file must map module names to bits from 1 to {MAX_BITS}; found "
                              f"{str(key)[:60]!r}: {_short(value)}.")
    return content


def _short(value: Any) -> str:
    """A value in a sentence; what nests is not written out, aliases make a few bytes of YAML gigabytes of text."""
    return repr(value)[:40] if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"


def _sdnq_wish(config: Mapping[str, Any], path: str, channels: int, kind: str, weights: int) -> Wish:
    """What the configuration says of a module, by SDNQ's own rules (sdnq/utils.py, version 0.2.8)."""
    name = f"{path}.weight"
    if _listed(name, _names(config.get("modules_to_not_convert"))) or (
            kind != "linear" and not config.get("quant_conv")):
        return Wish(FP16)
    if channels < int(config.get("minimum_allowed_channel_size") or 0) or \
            weights < int(config.get("minimum_allowed_numel") or 0):
        return Wish(FP16)
    special = _mapping(config, "modules_quant_config")
    own = next((special[key] for key in special if _listed(name, [key]) and isinstance(special[key], dict)), {})
    merged = {**config, **own}
    dtype = str(merged.get("weights_dtype"))
    for key, names in _mapping(config, "modules_dtype_dict").items():
        if _listed(name, _names(names)):
            dtype = str(key)
            break
    match = re.fullmatch(r"(u?int|float)(\d+)(_\w+)?", dtype)
    if not match:
        return Wish(FP16, f"its type {dtype[:40]} has no counterpart")
    family, bits = match[1], int(match[2])
    size = int(merged.get("group_size") or 0)
    if merged.get("use_codebook"):
        return nearest_bits(bits, "kmeans_a" if size == PER_TENSOR else "kmeans_c")
    if dtype == "int8" and size < 0 and kind == "linear":
        return Wish(parse_option("int8"))
    wish = nearest_bits(bits, "uaq" if size < 0 and family == "uint" else "rtn_g64")
    return _with_caveat(wish, family, bits, size, channels)


def _with_caveat(wish: Wish, family: str, bits: int, size: int, channels: int) -> Wish:
    if wish.option.is_untouched or wish.caveat:
        return wish
    if family == "float":
        return Wish(wish.option, f"its type is a {bits}-bit float")
    if wish.option.method == "uaq":
        return Wish(wish.option, "the clip ratio is searched here, SDNQ takes the full range")
    if (family == "uint") != (bits <= RTN_ASYMMETRIC_UP_TO):
        return Wish(wish.option, f"SDNQ stores {family}{bits}, here the zero point is the other way")
    groups = rtn_group_count(channels)
    if _groups(channels, size) != groups:
        return Wish(wish.option, f"its groups are of {size or 'automatic size'}, here of {channels // groups}")
    return wish


def _groups(channels: int, size: int) -> int:
    """How many groups SDNQ makes; 0 where the size is automatic."""
    if size == 0:
        return 0
    groups = 1 if size < 0 or size >= channels else channels // size
    while groups > 1 and groups * size != channels:
        groups -= 1
        size = channels // groups
    return groups


def _listed(name: str, keys: Iterable[str]) -> bool:
    """SDNQ's check_param_name_in."""
    parts = name.split(".")
    for key in keys:
        if key.startswith("."):
            if name.startswith(key[1:]):
                return True
        elif name == key or key in parts or ("*" in key and _wild(key, name)):
            return True
    return False


def _wild(key: str, name: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in key.split("*"))
    return re.match(pattern, name) is not None


def _names(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


IMPORTERS: dict[str, Reader] = {"apple": from_apple, "mixdq": from_mixdq, "sdnq": from_sdnq}
