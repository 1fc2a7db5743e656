"""The console command: `mmrep train clip` is `python -m experiments.train clip`, from any folder."""

import ast
import importlib
import sys

from mmrep import catalogue
from mmrep.errors import ConfigError, near

COMMANDS = catalogue.ROOT / "experiments"


def commands() -> dict[str, str]:
    """{command: first sentence of its docstring}, read from the files."""
    found = {}
    for path in sorted(COMMANDS.glob("[!_]*.py")):
        lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
        if any(line.startswith("def run(") for line in path.read_text(encoding="utf-8").splitlines()):
            found[path.stem] = lines[0] if lines else ""
    return found


def main() -> None:
    """Runs `mmrep COMMAND ...`. An unknown command is one sentence and exit code 2."""
    known, name = commands(), (sys.argv[1:] or ["--help"])[0]
    if name in ("-h", "--help"):
        print("usage: mmrep COMMAND [options]; mmrep COMMAND --help shows them\n")
        print("\n".join(f"  {command:10} {sentence}" for command, sentence in known.items()))
        return
    try:
        if name not in known:
            raise ConfigError(f"no command {name!r}{near(name, known)}")
        catalogue.check_import("experiments")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    sys.argv = [f"mmrep {name}", *sys.argv[2:]]
    importlib.import_module("experiments._cli").main(importlib.import_module(f"experiments.{name}").run)


if __name__ == "__main__":
    main()
