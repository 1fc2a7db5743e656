"""Runs a system's proof: every arm on every seed, a table, and results/SLUG.json with the verdict the stated rule gives."""

import dataclasses
import json
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments import _cli


def run() -> None:
    p = _cli.parser("prove", __doc__, size=False)
    p.add_argument("--seeds", help="e.g. 0,1,2 (default: the proof's)")
    p.add_argument("--arms", help="e.g. method,baseline: only these, printed and not written")
    p.add_argument("--out", type=Path, default=_cli.ROOT / "results", help="folder of SLUG.json")
    p.add_argument(
        "--cache", type=Path, default=Path("runs") / "proofs", help="finished arms, so that a cut proof goes on"
    )
    options = p.parse_args()
    module = _cli.module(options.slug)
    if not hasattr(module, "get_proof"):
        raise _cli.ConfigError(f"{options.slug} states no proof (its config has no get_proof)")
    proof = module.get_proof()
    seeds = proof.seeds
    if options.seeds:
        try:
            seeds = tuple(int(s) for s in options.seeds.split(","))
        except ValueError:
            raise _cli.ConfigError(f"--seeds {options.seeds!r} is not a list of whole numbers like 0,1,2") from None
    arms = list(proof.arms)
    if options.arms:
        known = {a.name: a for a in proof.arms}
        arms = [known[name] for name in names_of(options.arms, known)]
    _cli.enable_compile_cache()
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
    if not options.arms:
        print(f"written: {write(options.slug, proof, results, seconds, options.out)}")


def names_of(said: str, known: Collection[str]) -> list[str]:
    """The names that `said` lists, commas between them; a name may hold commas itself. Raises ConfigError for an unknown one."""
    parts, found = said.split(","), []
    while parts:
        size = next((n for n in range(len(parts), 0, -1) if ",".join(parts[:n]).strip() in known), 0)
        if not size:
            raise _cli.ConfigError(f"no arm {parts[0].strip()!r}{_cli.near(parts[0].strip(), known)}")
        found.append(",".join(parts[:size]).strip())
        parts = parts[size:]
    return found


def run_arm(slug: str, arm: Any, seed: int, cache: Path) -> tuple[dict[str, float], float]:
    """({metric: value}, seconds) of one arm and seed; an experiment that ran before with this very config is read back."""
    from mmrep.config import fingerprint
    from mmrep.train.loop import train

    if arm.experiment is None:
        clock = time.perf_counter()
        return {k: float(v) for k, v in arm.run(seed).items()}, time.perf_counter() - clock
    config = seeded(arm.experiment, seed)
    path = cache / slug / f"{fingerprint(config)}.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["metrics"], stored["seconds"]
    clock = time.perf_counter()
    metrics = train(config, progress=False).metrics
    took = time.perf_counter() - clock
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"arm": arm.name, "seed": seed, "metrics": metrics, "seconds": took}, ensure_ascii=False),
        encoding="utf-8",
    )
    return metrics, took


def seeded(experiment: Any, seed: int) -> Any:
    """The experiment with this seed, and so what it starts from, where that is to follow."""
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


def table(proof: Any, results: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    """Prints mean and seeds of the proof's metric, then what was expected and what came."""
    from mmrep.evals import verdict

    print(f"\n{proof.claim}\n\n{proof.metric}")
    for name, by_seed in results.items():
        values = [m[proof.metric] for m in by_seed.values() if proof.metric in m]
        if values:
            print(f"  {name:24} {sum(values) / len(values):.4f}   [{', '.join(f'{v:.4f}' for v in values)}]")
    try:
        overall, rows = verdict.judge(proof, results)
    except _cli.ConfigError as error:
        print(f"  no verdict: {error}")
        return
    for row in rows:
        print(f"  {row['verdict']:14} {row['says']} (mean difference {row['mean']:+.4f}, margin {row['margin']:g})")
    print(f"verdict: {overall}")


def write(
    slug: str, proof: Any, results: Mapping[str, Mapping[int, Mapping[str, float]]], seconds: float, out: Path
) -> Path:
    """results/SLUG.json."""
    from mmrep.evals import verdict
    from mmrep.train.loop import versions

    overall, rows = verdict.judge(proof, results)
    stored = {
        "slug": slug, "claim": proof.claim, "metric": proof.metric, "data": proof.data, "verdict": overall, "rule": verdict.RULE,
        "arms": {a: {str(s): m.get(proof.metric) for s, m in by.items()} for a, by in results.items()},
        "expectations": rows, "notes": proof.notes, "seconds": round(seconds),
        "metrics": {a: {str(s): {k: round(v, 6) for k, v in m.items()} for s, m in by.items()} for a, by in results.items()},
        "versions": versions(), "commit": commit(),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{slug}.json"
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def commit() -> str:
    """The commit of the working tree, "+" added where it has changes; empty outside a checkout."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, cwd=_cli.ROOT, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, cwd=_cli.ROOT, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


if __name__ == "__main__":
    _cli.main(run)
