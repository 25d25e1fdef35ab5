"""The import table, the vendor rules, lean imports, and that no class or model name steers anything."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for top in ("engine", "explorer") for p in (ROOT / top).rglob("*.py"))

MAY_IMPORT: dict[str, set[str]] = {
    "engine.core": set(),
    "engine.quant": {"engine.core"},
    "engine.models": {"engine.core"},
    "engine.metrics": {"engine.core"},
    "engine.live": {"engine.core", "engine.quant", "engine.models"},
    "engine.allocate": {"engine.core"},
    "engine.analysis": {"engine.core"},
    "engine.providers": {"engine.core", "engine.quant", "engine.models", "engine.live", "engine.metrics"},
    "engine.calibrate": {"engine.core", "engine.quant", "engine.models", "engine.live", "engine.metrics",
                         "engine.providers"},
    "engine.export": {"engine.core", "engine.quant", "engine.models", "engine.live", "engine.metrics"},
    "engine.study": {"engine", "engine.core", "engine.quant", "engine.models", "engine.live", "engine.metrics",
                     "engine.providers"},
    "engine.advisor": {"engine.core", "engine.analysis", "engine.allocate"},
    "engine.evidence": {"engine.*"},
    "engine.bench": {"engine.*"},
    "engine.cli": {"engine.*"},
    "explorer": {"engine.*"},
}
VENDORS: dict[str, set[str]] = {
    "gradio": {"explorer"},
    "fastapi": {"explorer"},
    "plotly": {"explorer", "engine.evidence"},
    "diffusers": {"engine.models", "engine.export"},
    "bitsandbytes": {"engine.quant", "engine.export"},
    "sdnq": {"engine.export"},
    "torchao": {"engine.export"},
    "transformers": {"engine.models", "engine.metrics"},
    "torchmetrics": {"engine.metrics"},
    "numba": {"engine.quant"},
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _package(module: str) -> str:
    parts = module.split(".")
    return "explorer" if parts[0] == "explorer" else ".".join(parts[:2])


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def violations(sources: list[Path]) -> list[str]:
    """Every import that the table or the vendor rules forbid."""
    found = []
    for path in sources:
        here = _package(_module(path))
        if here in ("engine", "engine.__main__"):
            continue
        allowed = MAY_IMPORT[here] | {here}
        for name in _imports(path):
            top, target = name.split(".")[0], _package(name)
            if top in ("engine", "explorer") and target not in allowed:
                if not (top == "engine" and "engine.*" in allowed):
                    found.append(f"{_module(path)} imports {name}")
            if top in VENDORS and here not in VENDORS[top] and "engine.bench" != here:
                found.append(f"{_module(path)} imports {name}")
    return found


def test_imports_point_one_way() -> None:
    assert violations(SOURCES) == []


def test_the_table_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "engine" / "core" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("import engine.live.model\nimport diffusers\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert len(violations([bad])) == 2


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(p) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


def test_files_and_functions_stay_small() -> None:
    large = [f"{p}: {n}" for p in SOURCES if (n := len(p.read_text().splitlines())) > MAX_FILE_LINES]
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = ast.get_docstring(node, clean=False) or ""
                lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring.splitlines())
                if lines > MAX_FUNCTION_LINES:
                    large.append(f"{path}:{node.name}: {lines}")
    assert large == []


def _names_that_must_not_steer() -> set[str]:
    from engine.models.catalog import MODELS

    return set(MODELS) | {row.denoiser_class for row in MODELS.values()}


def _condition_strings(tree: ast.AST) -> Iterator[str]:
    """String constants inside conditions: if, while, conditional expressions, comparisons, match cases."""
    for node in ast.walk(tree):
        tests: list[ast.AST] = []
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            tests = [node.test]
        elif isinstance(node, ast.Compare):
            tests = [node]
        elif isinstance(node, ast.match_case):
            tests = [node.pattern]
        for test in tests:
            for part in ast.walk(test):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
                elif isinstance(part, ast.Name):
                    yield part.id
                elif isinstance(part, ast.Attribute):
                    yield part.attr


def _steered_by_name(source: str, names: set[str]) -> list[str]:
    families = ("UNet2D", "PixArt", "Transformer2DModel", "StableDiffusion", "Flux", "Hunyuan", "Sana")
    return [
        text for text in _condition_strings(ast.parse(source))
        if text in names or any(f in text for f in families)
    ]


def test_no_class_or_model_name_stands_in_a_condition() -> None:
    names = _names_that_must_not_steer()
    catalogue = ROOT / "engine" / "models" / "catalog.py"
    offenders = {
        str(p): hits for p in [*SOURCES, ROOT / "app.py"] if p.exists() and p != catalogue
        if (hits := _steered_by_name(p.read_text(), names))
    }
    assert offenders == {}
    assert _steered_by_name("if kind == 'UNet2DConditionModel': pass", names)


def test_importing_the_packages_is_lean() -> None:
    code = (
        "import sys, engine, engine.core.recipe, engine.cli.main, explorer;"
        "heavy = {'torch', 'diffusers', 'transformers', 'gradio', 'numba', 'bitsandbytes'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
