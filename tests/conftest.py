"""Simulated devices, shape checks, which tests a run takes (selection.py), and what they cost."""

import gc
import os
from importlib.metadata import version

# Before JAX starts: the simulated devices of the mesh tests.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
# Tiny models: compiling them well takes longer than running them badly.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Simulated devices wait for each other on threads of one pool, which must not be smaller than their number.
os.environ.setdefault("NPROC", "32")
FLAGS = ["--xla_cpu_collective_call_terminate_timeout_seconds=300"]
if version("jaxlib").startswith("0.10."):  # XLA aborts at a flag that it does not have
    # One LLVM module a program, and plain loops: half the time to compile.
    FLAGS += ["--xla_cpu_parallel_codegen_split_count=1", "--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()

from jaxtyping import install_import_hook  # noqa: E402

# Not mmrep.config: tests compare its own message for a wrong field, and the hook would raise first.
PARTS = ("data", "evals", "interop", "losses", "masking", "modality", "nn", "model", "report", "systems", "training")
install_import_hook([f"mmrep.{part}" for part in PARTS], "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["selection", "cost"]
# No deadline: the first example may import or compile.
hypothesis.settings.register_profile("all", deadline=None, max_examples=50)
hypothesis.settings.register_profile("changed", deadline=None, max_examples=10)


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("changed" if config.getoption("--changed") else "all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A system's step and mesh tests stand side by side, in whichever file, so that their shared step is compiled once."""

    def place(item: pytest.Item) -> tuple[int, str]:
        slug = item.callspec.params.get("slug", "") if hasattr(item, "callspec") else ""
        shared = slug and (item.get_closest_marker("step") or item.get_closest_marker("mesh"))
        return first["shared" if shared else item.path], slug if shared else ""

    first: dict[object, int] = {}
    for i, item in enumerate(items):
        first.setdefault(item.path, i)
    first["shared"] = len(items)
    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _session() -> None:
    from experiments import _cli

    _cli.enable_compile_cache()
    # Millions of objects of the imported libraries live as long as the process: the collector need not walk them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs(request):
    """Compiled programs of finished files would add up to gigabytes. The generic tests forget those of each finished system."""
    yield
    import jax

    if "generic" not in request.path.parts:
        jax.clear_caches()


@pytest.fixture
def run_command(monkeypatch, capsys):
    """run_command("train", "align", "--size", "tiny") -> (exit code, stdout, stderr), in this process."""
    import importlib
    import sys

    from experiments import _cli

    def run(command: str, *args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [command, *args])
        module = importlib.import_module(f"experiments.{command}")
        try:
            _cli.main(module.run)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
