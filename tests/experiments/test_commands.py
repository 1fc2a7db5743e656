import dataclasses
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import toy

from experiments import _cli, _results, pages, prove, train
from mmrep import catalogue
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Pretrained, Proof, flatten
from mmrep.errors import ConfigError, DataError
from mmrep.training import loop


def fails(run_command, *args):
    code, out, err = run_command(*args)
    assert code == 2 and not out.strip(), (code, out)
    assert err.startswith("error: ") and "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    return err


def test_train_evaluate_and_resume_as_a_user_would(run_command, tmp_path, monkeypatch):
    run = str(tmp_path / "run")
    code, out, _ = run_command("train", "align", "--size", "tiny", "--workdir", run, "--quiet")
    assert code == 0 and "image->text R@1" in out and "report:" in out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Retrieval" in page and "http://" not in page.replace("http://www.w3.org", "")
    first = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    code, out, err = run_command("train", "align", "--size", "tiny", "--workdir", run, "--quiet", "--no-report")
    assert code == 0 and "nothing left to do" in err
    code, out, _ = run_command("evaluate", "align", "--size", "tiny", "--workdir", run, "--json")
    assert code == 0 and json.loads(out) == pytest.approx(first, abs=1e-6)
    monkeypatch.setattr(_results.write_row, "__defaults__", (tmp_path / "results",))
    code, _, err = run_command("evaluate", "align", "--size", "tiny", "--workdir", run, "--record")
    (row,) = _results.read("align", "trained", tmp_path / "results")["rows"]
    assert code == 0 and "written: " in err and (row["size"], row["steps"], row["commit"] != "") == ("tiny", 4, True)
    assert row["metrics"] == pytest.approx(first, abs=1e-4)
    monkeypatch.setattr(_results, "read", lambda *_: {"rows": [row]})
    assert any("Trained once, `align` tiny: seed 0, 4 steps" in x for x in pages.runs_section(catalogue.find("align")))
    assert "--record stores the metrics of an unchanged config" in fails(
        run_command, "evaluate", "align", "--size", "tiny", "--workdir", run, "--record", "--split", "val"
    )
    assert "holds a run of another config (optim.lr" in fails(
        run_command, "train", "align", "--size", "tiny", "--workdir", run, "--optim.lr", "0.5"
    )
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == pytest.approx(first, abs=1e-6)


def test_training_starts_from_a_file_or_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / "cache"))
    tiny = toy.experiment(phases=(Phase(steps=1),), optim=Optim(lr=0.0, warmup=0))
    other = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, seed=7))
    run = loop.train(other, tmp_path / "run", progress=False)
    file = run.save(tmp_path / "other.safetensors")
    for start in (file, tmp_path / "run"):
        found = loop.train(train.started_from(tiny, start), progress=False)
        assert all((v == flatten(run.params)[k]).all() for k, v in flatten(found.params).items())
    with pytest.raises(DataError, match="--init-from: no file or folder"):
        train.started_from(tiny, tmp_path / "absent")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["aling"], "no system 'aling' (did you mean 'align'?)"),
        (["align", "--size", "smal"], "align has no size 'smal' (did you mean 'small'?)"),
        (["align", "--variant", "probe"], "align has no variants: leave out 'probe'"),
        (["align", "--workdri", "x"], "--workdri is no field of this config (did you mean 'workdir'?)"),
        (["align", "--watchdog", "soon"], "--watchdog is 'soon': it takes a number"),
        (["align", "--optim.lr"], "--optim.lr has no value: it takes a number"),
        (
            ["align", "--phases.0.data", "x"],
            "--phases.0.data cannot be given on the command line: set it in the config file",
        ),
        (["align", "--optim.lrr", "1"], "--optim.lrr is no field of this config (did you mean 'optim.lr'?)"),
        (["align", "--zzz", "1"], "--zzz is no field of this config; --fields lists them"),
        (["align", "--optim.lr", "fast"], "error: --optim.lr is 'fast': it takes a number"),
        (["align", "--system.image.transformer.heads", "5"], "heads"),
        (["align", "--system.image.patch", "7"], "patch"),
        (["align", "--data.source.n-val", "0", "--data.source.n-test", "0"], "empty"),
        (["align", "--system.smoothing", "2"], "system.smoothing is 2.0: it must be in [0, 1)"),
        (["align", "--data.batch-size", "0"], "data.batch_size is 0"),
        (["align", "--mesh.data", "64"], "asks for 64 devices"),
        (["align", "--optim.name", "adam"], "--optim.name is 'adam' (did you mean 'adamw'?)"),
        (["croma", "--system.positions", "learned"], "--system.positions is 'learned'; choose from alibi, sincos2d"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(run_command, tmp_path, monkeypatch, args, sentence):
    monkeypatch.chdir(tmp_path)
    if "--size" not in args:
        args = [args[0], "--size", "tiny", *args[1:]]
    assert sentence in fails(run_command, "train", *args, "--quiet")
    assert not list(tmp_path.glob("**/checkpoints/*"))


def test_a_stray_argument_is_an_error(run_command):
    assert "unexpected argument 'small'" in fails(run_command, "train", "align", "small")


def test_evaluate_without_a_run_is_an_error(run_command, tmp_path):
    assert "holds no run" in fails(run_command, "evaluate", "align", "--workdir", str(tmp_path / "none"))


def test_prove_refuses_what_it_cannot_run(run_command):
    assert "--seeds 'a' is not a list" in fails(run_command, "prove", "align", "--seeds", "a")
    assert "no arm 'cleen-1k' (did you mean 'clean-1k'?)" in fails(run_command, "prove", "align", "--arms", "cleen-1k")


def test_arms_may_have_commas_in_their_names():
    assert prove.names_of("all, fresh,all", {"all", "all, fresh", "seven"}) == ["all, fresh", "all"]
    assert prove.names_of("seven, all", {"all", "all, fresh", "seven"}) == ["seven", "all"]


def test_a_proofs_seed_reaches_pretrained_parts_that_follow_it():
    donor = Experiment(None, Data(None, ()), (Phase(),))
    phase = Phase(start=(Pretrained(donor, follow_seed=True), Pretrained(donor)))
    found = prove.seeded(Experiment(None, Data(None, ()), (phase, Phase())), 7)
    assert found.train.seed == 7
    assert [p.experiment.train.seed for p in found.phases[0].start] == [7, 0]


@pytest.mark.slow
def test_bench_prints_one_json_line(run_command):
    code, out, _ = run_command("bench", "align", "--size", "tiny", "--steps", "3", "--mesh.data", "1")
    row = json.loads(out)
    assert code == 0 and row["batch_size"] == 8
    assert row["examples_per_second"] == pytest.approx(8 / row["step_ms"] * 1e3)
    assert 0 < row["mfu"] < 1 and row["parameters"] > 1e4
    assert 0 < row["data_wait"] < 1 and row["bytes_process"] > row["bytes_temporary"] > 0


def test_fields_lists_every_override(run_command):
    code, out, _ = run_command("train", "align", "--fields")
    assert code == 0 and "--optim.lr  0.001" in out and "--system.image.transformer.width  64" in out


@pytest.mark.parametrize("args", [["-m", "experiments.list"], ["-m", "experiments.train", "--help"]])
def test_help_and_list_answer_at_once(args):
    clock = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *args], capture_output=True, text=True, cwd=catalogue.ROOT, check=True
    )
    # The imports decide the time; the clock itself is at the mercy of the machine.
    assert not any(f" {name}\n" in done.stderr for name in ("jax", "flax", "numpy", "tensorflow_datasets"))
    assert time.perf_counter() - clock < 10 and done.stdout.strip()


def test_list_shows_every_system_with_its_verdict(run_command):
    code, out, _ = run_command("list", "--json")
    rows = {r["slug"]: r for r in json.loads(out)}
    assert code == 0 and set(rows) == {e.slug for e in catalogue.entries()}
    assert rows["align"]["family"] == "contrastive" and rows["align"]["sizes"] == ["tiny", "small", "paper"]
    assert (rows["align"]["kind"], rows["emoji"]["kind"], rows["vqvae"]["kind"]) == ("paper", "recipe", "tokenizer")
    assert all(r["reproduced"] in ("yes", "no", "unclear", "not run") and r["title"] for r in rows.values())


def test_the_list_fits_a_terminal_and_groups_by_family(run_command):
    lines = run_command("list")[1].splitlines()
    assert max(map(len, lines)) <= 100
    assert (
        lines.index("papers: contrastive")
        < lines.index("papers: fusion")
        < lines.index("recipes")
        < lines.index("tokenizers")
    )


def test_a_reader_that_leaves_early_ends_the_command_quietly():
    command = [sys.executable, "-m", "experiments.list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=catalogue.ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 141


def test_missing_and_wrong_options_are_one_sentence(run_command, tmp_path):
    assert "SLUG is missing: python -m experiments.train --help" in fails(run_command, "train")
    assert "--targets is missing" in fails(run_command, "generate", "fourm")
    assert "--scheme is 'raor' (did you mean 'roar'?)" in fails(
        run_command, "generate", "fourm", "--targets", "rgb", "--scheme", "raor"
    )
    assert "--query is missing" in fails(run_command, "search", str(tmp_path))
    assert "--jsno is no option of this command (did you mean 'json'?)" in fails(run_command, "list", "--jsno")


def test_the_console_command_runs_the_same_code_from_any_folder(tmp_path):
    def mmrep(*args):
        environment = os.environ | {"PYTHONPATH": str(catalogue.ROOT)}
        command = [sys.executable, "-m", "mmrep", *args]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    assert "train" in mmrep("--help").stdout
    assert json.loads(mmrep("list", "--json").stdout)[0]["slug"]
    assert mmrep("trian").stderr == "error: no command 'trian' (did you mean 'train'?)\n"
    done = mmrep("train", "aling")
    assert done.returncode == 2 and done.stderr == "error: no system 'aling' (did you mean 'align'?)\n"
    for name in ("configs", "experiments"):  # a user's own packages of these names
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        done = mmrep("train", "align", "--size", "tiny")
        assert done.returncode == 2 and done.stderr.startswith(
            f"error: {tmp_path / name} hides mmrep's own package {name!r}"
        )
        (tmp_path / name / "__init__.py").unlink()
        (tmp_path / name).rmdir()


def test_configs_may_be_packages(tmp_path):
    folder = tmp_path / "masked" / "big"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""Big: a package (A, B 2020)."""\nVARIANTS = ("probe",)\n')
    (folder / "sizes.py").write_text('SIZES = ("tiny", "huge")\n')
    (tmp_path / "masked" / "_helper.py").touch()
    (tmp_path / "masked" / "one.py").write_text('"""One: a file (A, B 2020)"""\n')
    big, one = catalogue.entries(tmp_path)
    assert (big.slug, big.family, big.sizes, big.variants) == ("big", "masked", ("tiny", "huge"), ("probe",))
    assert (one.slug, one.sizes, one.variants) == ("one", catalogue.SIZES, ())


def test_stored_numbers_are_judged_again_with_new_sentences(tmp_path):
    arms = (Arm("a", run=lambda seed: {"x": 1.0}), Arm("b", run=lambda seed: {"x": 0.5 + seed / 10}))
    proof = Proof("A beats B.", "x", arms, (Expect("a", "b", 0.2, "before"),), notes="tried nothing else")
    results = {arm.name: {seed: arm.run(seed) for seed in (0, 1, 2)} for arm in arms}
    made = {"arms": {"a": "", "b": ""}, "seconds": 1, "versions": {}, "commit": "c"}
    path = prove.write("toy", proof, results, made, tmp_path)
    before = json.loads(path.read_text())
    (row,) = before["expectations"]
    assert (row["mean"], row["sd"], row["n"], row["verdict"]) == (0.4, 0.1, 3, "yes") and before["reproduced"] == "yes"
    prove.judge_again("toy", dataclasses.replace(proof, expects=(Expect("a", "b", 0.2, "after"),)), tmp_path)
    after = json.loads(path.read_text())
    assert after["expectations"] == [row | {"statement": "after"}] and after["commit"] == "c"
    with pytest.raises(ConfigError, match="run the proof"):
        prove.judge_again("toy", dataclasses.replace(proof, expects=(Expect("a", "b", 0.1, "after"),)), tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has the setting")
def test_a_command_uses_huge_pages_once_and_keeps_a_setting_of_the_user(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, args: started.append(args))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.list", "--json"])
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    main = lambda name: SimpleNamespace(__spec__=name and SimpleNamespace(name=name))  # noqa: E731
    for name in (None, "pytest.__main__"):  # a notebook, another program
        monkeypatch.setitem(sys.modules, "__main__", main(name))
        _cli._use_huge_pages()
    assert not started
    monkeypatch.setitem(sys.modules, "__main__", main("experiments.list"))
    _cli._use_huge_pages()
    assert started == [[sys.executable, "-m", "experiments.list", "--json"]]
    _cli._use_huge_pages()  # the process that it started
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    _cli._use_huge_pages()
    assert len(started) == 1


def test_all_proofs_run_in_turn_within_their_budget(tmp_path, monkeypatch, capsys):
    entries = [e for e in prove.catalogue.entries() if e.slug in ("align", "clip", "symile")]
    monkeypatch.setattr(prove.catalogue, "entries", lambda: entries)
    monkeypatch.setattr(prove, "is_stored", lambda slug, proof, out: slug == "align")

    def run(command, timeout, **_):
        if "symile" in command:
            raise prove.subprocess.TimeoutExpired(command, timeout)
        return prove.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(prove.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["prove", "--all", "--budget", "5m", "--out", str(tmp_path)])
    prove.run()
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "stored" in lines["align"] and "ran" in lines["clip"] and "stopped after 5m" in lines["symile"]
    assert prove.limit("90s") == 90 and prove.limit("1.5m") == 90 and prove.limit("") is None
    with pytest.raises(ConfigError, match="write 90s or 5m"):
        prove.limit("5 minutes")
