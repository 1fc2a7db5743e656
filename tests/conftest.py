"""Four simulated devices, shape checks on, and one small trained state a system for all generic tests."""

import os

# Before JAX starts: the simulated devices of the sharding tests.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
# Tiny models: compiling them well takes longer than running them badly.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Simulated devices wait for each other on threads of one pool: more of them than cores makes it rarer that they wait for ever, and does
# not end it. XLA then aborts the process after this time, and `make test` tries the test again.
os.environ.setdefault("NPROC", "32")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_collective_call_terminate_timeout_seconds=60".strip()
)

from jaxtyping import install_import_hook

# Not mmrep.config: what a wrong field is told there is tested, and the hook would speak first.
PARTS = ("data", "evals", "interop", "losses", "masking", "modality", "nn", "model", "report", "systems", "training")
install_import_hook([f"mmrep.{part}" for part in PARTS], "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A first call may import or compile; the clock of a shared machine proves nothing.
hypothesis.settings.register_profile("mmrep", deadline=None, max_examples=50)
hypothesis.settings.load_profile("mmrep")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A system's generic tests side by side: workers take runs of neighbours, and what the tests share is then made once."""
    slug = lambda item: getattr(item, "callspec", None) and item.callspec.params.get("slug", "")  # noqa: E731
    place = {path: i for i, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (place[item.path], slug(item) or ""))


@pytest.fixture(scope="session", autouse=True)
def _compile_cache() -> None:
    from experiments import _cli

    _cli.enable_compile_cache()


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs of finished files would add up to gigabytes."""
    yield
    import jax

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
