"""Fuzz one target guided by coverage, with Atheris (libFuzzer): `make fuzz TARGET=manifest RUNS=1000000`.

    python tests/fuzz/guided.py TARGET [--runs N] [--seed S] [--corpus DIR] [--seconds T] [--record FILE]

The last line says how many inputs were run, how many edges of our code they reached and how many of those the seeds had
reached, and what was found. An input that crashes, takes more than 10 s or more than 2 GiB is left in build/fuzz, with
the traceback above; `--input FILE` runs it again. `planted` is no decoder: it has a defect to be found.
`all` runs every target, one after the other, and takes about an hour for a million inputs each. With `--record` the
figures of earlier sittings are in a file, only what lacks of `--runs` is run, from the corpus kept, under another seed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from hashlib import sha1
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

FOUND = Path("build/fuzz")
LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-len_control=0")
OURS = ["stageline", "stageline_gateway", "stageline_coordinator", "stageline_stage", "planted", "yaml"]
PLANTED, ALL = "planted", "all"


def target_of(name: str) -> Any:
    """The target, with our code instrumented so that libFuzzer sees its branches and comparisons."""
    import atheris

    with atheris.instrument_imports(include=OURS, enable_loader_override=False):
        targets = import_module("targets")
        planted = import_module("planted")
    if name == PLANTED:
        like = targets.TARGETS["data-plane"]
        return targets.Target(planted.read, like.seeds, like.form)
    return targets.TARGETS[name]


def fuzz(name: str, libfuzzer: list[str], corpus: Path) -> None:
    """Does not return: libFuzzer ends the process, and does not always write what it ended by, so that is done here."""
    import atheris

    target = target_of(name)
    for i, data in enumerate(target.seeds()):
        (corpus / f"seed-{i}").write_bytes(data)

    def neighbour(data: bytes, max_size: int, seed: int) -> bytes:
        forms = sys.modules["forms"]
        return forms.mutated(target.form, data, Random(seed), lambda old: atheris.Mutate(old, max_size))[:max_size]

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except Exception:
            (FOUND / f"{name}-crash-{sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], *libfuzzer, f"-max_len={target.max_len}", str(corpus)], run, custom_mutator=neighbour)
    atheris.Fuzz()


def supervised(options: argparse.Namespace) -> int:
    """Run libFuzzer in a child, pass on what it says, and sum it up."""
    FOUND.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stageline-corpus-") as scratch:
        corpus = options.corpus or Path(scratch)
        corpus.mkdir(parents=True, exist_ok=True)
        flags = [f"-runs={options.runs}", f"-seed={options.seed}", f"-artifact_prefix={FOUND}/{options.target}-"]
        flags += [f"-max_total_time={options.seconds}"] if options.seconds else []
        command = [sys.executable, __file__, options.target, "--corpus", str(corpus), "--libfuzzer", *flags, *LIMITS]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        lines: list[str] = []
        for line in child.stdout or ():
            lines.append(line)
            if not re.match(r"#\d+\s+(NEW|REDUCE|RELOAD)", line):
                sys.stdout.write(line)
        code = child.wait()
    found = summary(options.target, lines, code)
    sys.stdout.write(json.dumps(found) + "\n")
    if options.record:
        record(options.record, found)
    return min(1, abs(code))


def record(path: Path, found: dict[str, Any]) -> None:
    """Add a sitting's figures to those of its target: inputs are summed up, edges of the last sitting hold."""
    book = json.loads(path.read_text()) if path.exists() else {}
    before = book.get(found["target"], {"sittings": 0, "inputs": 0, "edges": 0, "peak_mib": 0, "found": []})
    book[found["target"]] = {
        "sittings": before["sittings"] + 1,
        "inputs": before["inputs"] + found["inputs"],
        "edges": max(before["edges"], found["edges"]),
        "edges_of_seeds": before.get("edges_of_seeds", found["edges_of_seeds"]),
        "peak_mib": max(before["peak_mib"], found["peak_mib"]),
        "found": before["found"] + ([found["found"]] if found["found"] else []),
    }
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(book, indent=1) + "\n")
    scratch.replace(path)


def sitting(options: argparse.Namespace, name: str) -> int:
    """One target, for what lacks of its inputs."""
    mine = argparse.Namespace(**{**vars(options), "target": name})
    if options.record:
        book = json.loads(options.record.read_text()) if options.record.exists() else {}
        done = book.get(name, {"inputs": 0, "sittings": 0})
        mine.runs, mine.seed = options.runs - done["inputs"], options.seed + done["sittings"]
        mine.corpus = options.corpus or FOUND / "corpus" / name
    return supervised(mine) if mine.runs > 0 else 0


def summary(target: str, lines: list[str], code: int) -> dict[str, Any]:
    """Figures from libFuzzer's output."""
    text = "".join(lines)
    edges = [int(found) for found in re.findall(r"^#\d+\s+\w+\s+cov: (\d+)", text, re.MULTILINE)]
    begun = re.search(r"^#\d+\s+INITED\s+cov: (\d+)", text, re.MULTILINE)
    figures = dict(re.findall(r"^stat::(\w+):\s+(\d+)", text, re.MULTILINE))
    raised = re.search(r"Uncaught Python exception: ===\n(.*)", text)
    return {
        "target": target,
        "inputs": int(figures.get("number_of_executed_units", 0)),
        "edges": max(edges, default=0),
        "edges_of_seeds": int(begun[1]) if begun else 0,
        "peak_mib": int(figures.get("peak_rss_mb", 0)),
        "found": (raised[1] if raised else "a crash, a hang or too much memory") if code else "",
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help=f"one of tests/fuzz/targets.py, {ALL} one after the other, or {PLANTED}")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer and so of everything")
    parser.add_argument("--corpus", type=Path, help="keep what reached new edges here, and go on from it")
    parser.add_argument("--seconds", type=int, default=0, help="end a target after so long; 0: when all inputs are run")
    parser.add_argument("--record", type=Path, help="add the figures to this file's; run what lacks of RUNS by it")
    parser.add_argument("--input", type=Path, help="run this one input")
    parser.add_argument("--libfuzzer", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.input:
        target_of(options.target).run(options.input.read_bytes())
        return 0
    if options.libfuzzer:
        fuzz(options.target, options.libfuzzer, options.corpus)
    names = import_module("targets").TARGETS if options.target == ALL else [options.target]
    return max(sitting(options, name) for name in names)


if __name__ == "__main__":
    sys.exit(main())
