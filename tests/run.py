"""Runs the tests in two processes side by side: those on simulated devices in one worker, all others in the rest of the cores.

    python tests/run.py              what a change calls for (selection.py)
    python tests/run.py --all        everything
    python tests/run.py --part 3/8   a part of everything; commit/8 chooses it by the commit

Simulated devices wait for each other: two such programs at once, on fewer cores than devices, may wait for ever.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEVICES = "step or mesh"
NO_TESTS = 5


def on_devices() -> list[str]:
    """The files with such tests: to collect all the others would import all that they import."""
    marks = [f"pytest.mark.{name}" for name in DEVICES.split(" or ")]
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if any(m in f.read_text(encoding="utf-8") for m in marks)]


def main(args: list[str]) -> int:
    scope = ["--changed"] if not args else [] if args == ["--all"] else args
    base = [sys.executable, "-m", "pytest", "-q", "--costs", "20", "--durations", "20", *scope]
    workers = max(1, min(8, os.cpu_count() or 1))
    # Threads of OpenMP and BLAS would spin while they wait.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as log:
        one = subprocess.Popen(
            [*base, "-p", "no:xdist", "-m", DEVICES], cwd=ROOT, stdout=log, stderr=log, env=environment
        )
        many = subprocess.run(
            [*base, "-n", str(workers), "--dist", "worksteal", "-m", f"not ({DEVICES})"],
            cwd=ROOT, env=environment | {"JAX_NUM_CPU_DEVICES": "1"},
        )  # fmt: skip
        code = one.wait()
        log.seek(0)
        print(log.read(), flush=True)
    return next((c for c in (many.returncode, code) if c not in (0, NO_TESTS)), 0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
