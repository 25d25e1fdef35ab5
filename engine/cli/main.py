"""Parse the verb, run it, print its result; bad input is one sentence on stderr and exit code 2."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence

from engine.core.errors import Cancelled, EngineError

# verb -> (module, one-line help); a module is imported only when its verb is used, so `--help` needs no torch.
RESUMED = ("quantize", "calibrate", "study", "evidence")  # verbs that keep what they finished; of benches some do
VERBS: dict[str, tuple[str, str]] = {
    "models": ("engine.cli.models", "list catalogue and demo models, and whether their weights are present"),
    "inspect": ("engine.cli.inspect", "layers, blocks, graph, weights and bytes of a model; works without weights"),
    "fuse": ("engine.cli.fuse", "adapters (LoRA) added to a model's weights, as a directory that opens anywhere"),
    "quantize": ("engine.cli.quantize", "build or resume the store of quantized layers"),
    "sensitivity": ("engine.cli.sensitivity", "scores per layer and option"),
    "study": ("engine.cli.study", "measure random recipes into one file; merge, show or export studies"),
    "fit": ("engine.cli.fit", "learn sensitivity from a study; held-out figures beside controls"),
    "allocate": ("engine.cli.allocate", "the best recipe for a budget, with a bound on any other"),
    "calibrate": ("engine.cli.calibrate", "activation ranges, learned scaling and rounding (DMQ) for an allocation"),
    "generate": ("engine.cli.generate", "pictures, side by side when a recipe is given"),
    "evaluate": ("engine.cli.evaluate", "metrics of a recipe against full precision and the reference set"),
    "export": ("engine.cli.export", "write a recipe in a format others load; reloaded and compared before it is done"),
    "import": ("engine.cli.importing", "another tool's mixed-precision file as a recipe"),
    "evidence": ("engine.cli.evidence", "prove: fit, compare on unseen images, and write it all up; resumable"),
    "report": ("engine.cli.report", "a study, its predictor and what was proved as one standalone HTML page"),
    "bench": ("engine.cli.bench", "side-by-side ratios, measured in one run"),
}


def build_parser(verbs: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the verbs named get their full arguments (importing their module)."""
    parser = argparse.ArgumentParser(
        prog="python -m engine", description="See, edit, prove and ship the bit-widths of a diffusion model."
    )
    sub = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (module, summary) in VERBS.items():
        child = sub.add_parser(verb, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if verb in verbs:
            child.add_argument("--json", action="store_true", help="print one JSON object for machines")
            importlib.import_module(module).arguments(child)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser([w for w in words if w in VERBS][:1]).parse_args(words)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        result, text = importlib.import_module(VERBS[args.verb][0]).run(args)
        print(json.dumps(result, ensure_ascii=False, allow_nan=False) if args.json else text, flush=True)
    except Cancelled as stop:
        return _fail(str(stop), 130)
    except EngineError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        kept = "; what was finished is kept, and the same command goes on from there" if args.verb in RESUMED else ""
        return _fail(f"Interrupted{kept}.", 130)
    except BrokenPipeError:  # whoever read has seen enough (`| head`); what is left must not be flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code
