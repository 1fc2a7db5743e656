"""Runs a system's proof: every arm on every seed, a table, and results/SLUG.json with the verdict by the stated rule.

python -m experiments.prove clip                     one proof
python -m experiments.prove --all --budget 5m        every proof in turn, each stopped after five minutes; the same command goes on there
"""

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import _cli, _results, _verdict
from mmrep import catalogue
from mmrep.errors import ConfigError, near

SUMMARY = __doc__.splitlines()[0]
Numbers = Mapping[str, Mapping[int, Mapping[str, float]]]  # {arm: {seed: {metric: value}}}


@dataclasses.dataclass(frozen=True)
class Options:
    slug: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SLUG")]
    """a system; the command `list` shows all"""
    seeds: str = ""
    """e.g. 100,101 to try it out: without all the proof's own seeds, nothing is written to results/"""
    arms: str = ""
    """e.g. method,baseline: only these, printed and not written"""
    judge: bool = False
    """run nothing: judge the stored numbers again, after a sentence of the proof has changed"""
    out: Annotated[Path, _cli.FOLDER] = _results.FOLDER
    """folder of SLUG.json and full/SLUG.json"""
    cache: Annotated[Path, _cli.FOLDER] = Path("runs") / "proofs"
    """finished arms, so that an interrupted proof goes on"""


@dataclasses.dataclass(frozen=True)
class Every:
    all: bool = False
    """every proof"""
    budget: str = ""
    """the most time of one proof, such as 90s or 5m (default: no limit); one that runs over is named, and goes on in the next run"""
    fresh: bool = False
    """run also those whose results are of the present arms"""
    out: Annotated[Path, _cli.FOLDER] = _results.FOLDER
    """folder of SLUG.json and full/SLUG.json"""
    cache: Annotated[Path, _cli.FOLDER] = Path("runs") / "proofs"
    """finished arms, so that an interrupted proof goes on"""


def run_all() -> None:
    """Each proof in a process of its own, then one table: verdict and minutes. Proofs with results of their present arms are not run again."""
    o = tyro.cli(Every, description=SUMMARY)
    seconds, rows = limit(o.budget), []
    for entry in catalogue.entries():
        module = catalogue.module(entry.slug)
        if not hasattr(module, "get_proof"):
            continue
        clock, state = time.perf_counter(), "stored"
        if o.fresh or not is_stored(entry.slug, module.get_proof(), o.out):
            command = [
                sys.executable,
                "-m",
                "experiments.prove",
                entry.slug,
                "--out",
                str(o.out),
                "--cache",
                str(o.cache),
            ]
            try:
                done = subprocess.run(command, timeout=seconds, capture_output=True, text=True)
                state = (
                    "ran" if done.returncode == 0 else f"failed: {(done.stderr.strip() or '?').splitlines()[-1][:80]}"
                )
            except subprocess.TimeoutExpired:
                state = f"stopped after {o.budget}"
        verdict = _results.read(entry.slug, folder=o.out).get("reproduced", _results.NOT_RUN)
        rows.append(f"{entry.slug:20} {verdict:8} {(time.perf_counter() - clock) / 60:6.1f} min  {state}")
        print(rows[-1], flush=True)


def limit(text: str) -> float | None:
    """Seconds of "90s" or "5m"; None of "". Raises ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([sm])", text)
    if text and not found:
        raise ConfigError(f"--budget is {text!r}: write 90s or 5m")
    return float(found[1]) * (60 if found[2] == "m" else 1) if found else None


def is_stored(slug: str, proof: Any, out: Path) -> bool:
    """Whether results/ has this proof's arms, as they are now, on all its seeds."""
    from mmrep.config import fingerprint

    arms = {a.name: fingerprint(a.experiment) if a.experiment else "" for a in proof.arms}
    metrics = _results.read(slug, "full", out).get("metrics", {})
    ran = all({str(s) for s in proof.seeds} <= {*metrics.get(name, {})} for name in arms)
    return ran and _results.read(slug, folder=out).get("arms") == arms


def run() -> None:
    if "--all" in sys.argv[1:]:
        return run_all()
    options = _cli.parse_options(Options, SUMMARY)
    module = catalogue.module(options.slug)
    if not hasattr(module, "get_proof"):
        raise ConfigError(f"{options.slug} states no proof: its config has no get_proof")
    proof = module.get_proof()
    if options.judge:
        print(f"written: {judge_again(options.slug, proof, options.out)}")
        return
    seeds = proof.seeds
    if options.seeds:
        try:
            seeds = tuple(int(s) for s in options.seeds.split(","))
        except ValueError:
            raise ConfigError(f"--seeds {options.seeds!r} is not a list of whole numbers like 0,1,2") from None
    arms = list(proof.arms)
    if options.arms:
        known = {a.name: a for a in proof.arms}
        arms = [known[name] for name in names_of(options.arms, known)]
    _cli.enable_compile_cache()
    from mmrep.config import fingerprint
    from mmrep.training.loop import versions

    results: dict[str, dict[int, dict[str, float]]] = {a.name: {} for a in arms}
    seconds = 0.0
    for seed in seeds:
        for arm in arms:
            found, took = run_arm(options.slug, arm, seed, options.cache)
            results[arm.name][seed] = found
            seconds += took
            value = found.get(proof.metric)
            print(
                f"{arm.name:24} seed {seed}: {proof.metric} {value if value is None else format(value, '.4f')}  ({took:.0f} s)",
                flush=True,
            )
    table(proof, results)
    if not options.arms and (options.out != _results.FOLDER or {*proof.seeds} <= {*seeds}):
        made = {"seconds": round(seconds), "versions": versions(), "commit": _results.commit()}
        made = {"arms": {a.name: fingerprint(a.experiment) if a.experiment else "" for a in arms}} | made
        print(f"written: {write(options.slug, proof, results, made, options.out)}")


def names_of(text: str, known: Collection[str]) -> list[str]:
    """The arms listed in `text`, separated by commas; a name may hold commas itself. Raises ConfigError for an unknown one."""
    parts, found = text.split(","), []
    while parts:
        size = next((n for n in range(len(parts), 0, -1) if ",".join(parts[:n]).strip() in known), 0)
        if not size:
            raise ConfigError(f"no arm {parts[0].strip()!r}{near(parts[0].strip(), known)}")
        found.append(",".join(parts[:size]).strip())
        parts = parts[size:]
    return found


def run_arm(slug: str, arm: Any, seed: int, cache: Path) -> tuple[dict[str, float], float]:
    """({metric: value}, seconds) of one arm and seed; the stored result of an earlier run with the same config is used."""
    from mmrep.config import fingerprint
    from mmrep.evals.suite import evaluate
    from mmrep.training.loop import train

    if arm.experiment is None:
        clock = time.perf_counter()
        return {k: float(v) for k, v in arm.run(seed).items()}, time.perf_counter() - clock
    config = seeded(arm.experiment, seed)
    path = cache / slug / f"{fingerprint(config)}.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["metrics"], stored["seconds"]
    clock = time.perf_counter()
    metrics = train(config, progress=False, evaluate=evaluate).metrics
    took = time.perf_counter() - clock
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"arm": arm.name, "seed": seed, "metrics": metrics, "seconds": took}, ensure_ascii=False),
        encoding="utf-8",
    )
    return metrics, took


def seeded(experiment: Any, seed: int) -> Any:
    """The experiment with this seed, in its pretrained parts as well where they follow it."""
    phases = tuple(
        dataclasses.replace(
            phase,
            start=tuple(
                dataclasses.replace(p, experiment=seeded(p.experiment, seed)) if p.follow_seed else p
                for p in phase.start
            ),
        )
        for phase in experiment.phases
    )
    return dataclasses.replace(experiment, phases=phases, train=dataclasses.replace(experiment.train, seed=seed))


def table(proof: Any, results: Numbers) -> None:
    """Prints the proof's metric for each arm (mean and seeds), then each expectation with its verdict."""
    print(f"\n{proof.claim}\n\n{proof.metric}")
    for name, by_seed in results.items():
        values = [m[proof.metric] for m in by_seed.values() if proof.metric in m]
        if values:
            print(f"  {name:24} {sum(values) / len(values):.4f}   [{', '.join(f'{v:.4f}' for v in values)}]")
    try:
        overall, rows = _verdict.judge(proof, results)
    except ConfigError as error:
        print(f"  no verdict: {error}")
        return
    for row in rows:
        print(f"  {row['verdict']:8} {row['statement']} (mean difference {row['mean']:+.4f}, margin {row['margin']:g})")
    print(f"reproduced at this scale: {overall}")


def write(slug: str, proof: Any, results: Numbers, made: Mapping[str, Any], out: Path) -> Path:
    """results/SLUG.json and results/full/SLUG.json. `made`: fingerprints of the arms, seconds, versions, commit."""
    overall, rows = _verdict.judge(proof, results)
    short = {
        "slug": slug, "claim": proof.claim, "reproduced": overall, "data": proof.data, "metric": proof.metric,
        "expectations": _results.summary(rows), **made,
    }  # fmt: skip
    metrics = {a: {str(s): {k: round(v, 6) for k, v in m.items()} for s, m in by.items()} for a, by in results.items()}
    full = {"slug": slug, "rule": _verdict.RULE, "notes": proof.notes, "metrics": metrics}
    return _results.write_proof(short, full, out)


def judge_again(slug: str, proof: Any, out: Path) -> Path:
    """Rewrites results/SLUG.json from the stored numbers with the proof's present sentences.

    Raises ConfigError where no numbers are stored, or where an expectation compares other arms or has another margin than before.
    """
    short, full = _results.read(slug, folder=out), _results.read(slug, "full", out)
    if not full:
        raise ConfigError(f"{out / 'full' / slug}.json does not exist: run the proof first")
    terms = lambda e: (e["better"], e["worse"], e["margin"], e.get("slack", 0.0), e["headline"])  # noqa: E731
    before = [terms(e) for e in short["expectations"]]
    if before != [terms(dataclasses.asdict(e)) for e in proof.expects]:
        raise ConfigError(f"the expectations of {slug} have changed in more than their sentences: run the proof")
    results = {a: {int(s): m for s, m in by.items()} for a, by in full["metrics"].items()}
    return write(slug, proof, results, {k: short[k] for k in ("arms", "seconds", "versions", "commit")}, out)


if __name__ == "__main__":
    _cli.main(run)
