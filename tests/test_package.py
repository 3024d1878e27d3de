"""The package as others see it: its public names, its command, its wheel."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT

import brainreg
from brainreg.commands.main import COMMANDS, main


class TestPublicNames:
    @pytest.mark.parametrize("name", brainreg.__all__)
    def test_each_is_there_and_documented(self, name):
        value = getattr(brainreg, name)
        assert name == "__version__" or (value.__doc__ and value.__name__ == name)
        assert name in dir(brainreg)

    def test_others_are_not(self):
        with pytest.raises(AttributeError, match="robust_acuracy"):
            brainreg.robust_acuracy  # noqa: B018

    def test_no_module_has_the_name_of_a_function_of_the_package(self):
        """Its import would take the function's place."""
        modules = {path.stem for path in (ROOT / "brainreg").iterdir()}
        assert {"evaluate", "robust_accuracy"} <= {*brainreg.__all__} and not modules & {*brainreg.__all__}

    def test_ray_is_not_imported_for_any_of_them(self):
        code = "import sys; from brainreg import *; print('ray' in sys.modules, 'optuna' in sys.modules)"
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert ended.stdout.split() == ["False", "False"]


class TestCommand:
    def test_without_arguments_it_lists_the_commands_on_one_screen(self, capsys):
        assert main([]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) < 25 and {line.split()[0] for line in lines if line.startswith("  ")} >= {*COMMANDS}

    def test_no_help_needs_pytorch_ray_or_pandas(self):
        """They take seconds, most of all PyTorch: that is why a help is there at once."""
        code = (
            "import contextlib, sys\n"
            "from brainreg.commands.main import COMMANDS, main\n"
            "main(['--help'])\n"
            "for name in COMMANDS:\n"
            "    with contextlib.suppress(SystemExit):\n"
            "        main([name, '--help'])\n"
            "    print(name, sorted({*sys.modules} & {*slow}))\n"
        )
        code = f"slow = {('torch', 'ray', 'optuna', 'pandas', 'scipy', 'sklearn', 'pyautoattack')}\n" + code
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert {f"{name} []" for name in COMMANDS} <= {*ended.stdout.splitlines()}

    def test_what_exists_is_listed_without_pytorch_too(self):
        code = "import sys; from brainreg.commands.main import main; main(['spaces']); print('torch' in sys.modules)"
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "digits_double" in ended.stdout and ended.stdout.splitlines()[-1] == "False"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_has_a_help(self, name, capsys):
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        said = capsys.readouterr().out
        assert ended.value.code == 0 and f"brainreg {name}" in said
        assert ("--reg_alpha" in said) is (name in ("train", "tune")), "flags that it has"

    def test_that_of_resume_shows_what_may_change(self, capsys):
        for asked in ("--help", "--help-all"):
            with pytest.raises(SystemExit):
                main(["resume", asked])
            said = capsys.readouterr().out
            assert "--num_samples" in said and "--storage_path" in said and "--dry-run" in said
            assert not {"--name", "--id", "--prior", "--sampler", "--eps"} & {*said.split()}
        assert "CPU cores that a trial takes (default: as the search had it)" in said

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (["tuen"], "tuen: no such command; did you mean tune"),
            (["resume"], "NAME: missing"),
            (["status", "--storage_path=results"], "NAME: missing"),
            (["resume", "of-no-search"], "NAME=of-no-search: no such search in "),
            (["status", "of-no-search"], "NAME=of-no-search: no such search in "),
            (["tune", "--resume=of-no-search"], "error: --resume=of-no-search: no such search in "),
            (["tune", "--status=of-no-search"], "error: --status=of-no-search: no such search in "),
            (["confirm", "of-no-search"], "EXPERIMENT="),
            (["spaces", "--epoch_num=2"], "--epoch_num: no such flag"),
        ],
    )
    def test_bad_input_is_one_line(self, line, said):
        ended = subprocess.run([sys.executable, "-m", "brainreg", *line], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and said in ended.stderr

    def test_a_shell_completes_commands_and_flags(self, tmp_path):
        line = [sys.executable, "-m", "brainreg", "completion"]
        written = subprocess.run([*line, "bash"], cwd=ROOT, capture_output=True, text=True, check=True)
        (tmp_path / "brainreg").write_text(written.stdout)
        ask = (
            'source {0}; COMP_WORDS=({1}); COMP_CWORD={2}; COMP_LINE="{1}"; COMP_POINT=${{#COMP_LINE}};'
            " $(complete -p brainreg | sed 's/.*-F \\([^ ]*\\).*/\\1/') brainreg; echo ${{COMPREPLY[@]}}"
        )
        for typed, place, completed in (("brainreg con", 1, "confirm"), ("brainreg tune --reg_al", 2, "--reg_alpha")):
            script = ask.format(tmp_path / "brainreg", typed, place)
            ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
            assert ended.stdout.split() == [completed], ended
        refused = subprocess.run([*line, "fish"], cwd=ROOT, capture_output=True, text=True)
        assert refused.returncode == 2 and refused.stderr.startswith("error: SHELL=fish: no such shell; known: bash")

    def test_what_is_not_installed_is_named_with_its_extra(self, tmp_path):
        (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('none', name='ray')\n")
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        line = [sys.executable, "-m", "brainreg", "tune", "--space=digits_double"]
        ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and "brainreg[search]" in ended.stderr


@pytest.mark.slow
def test_a_wheel_searches_outside_of_the_checkout(tmp_path):
    """In an environment of its own, which borrows the packages that this project needs and nothing of the project."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={tmp_path}", str(ROOT)]
    subprocess.run(wheel, check=True)
    (built,) = tmp_path.glob("brainreg-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, built], env=environment, check=True)
    # A line of a .pth file is a folder to look in, whose own .pth files, the editable project's too, are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = [python, "-c", "import brainreg; print(brainreg.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(site)
    assert Path(found.strip()).with_name("py.typed").is_file()
    command = [tmp_path / "env/bin/brainreg", "tune", "--space=digits_double", "--num-samples=1", "--epoch_num=1"]
    command += ["--base_channels=2", "--attack_image_num=5", "--final_attack_seconds=0", "--name=one"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "results/one/best/checkpoint.pt").is_file()
    from brainreg._utils import package

    own = [python, "-c", "from brainreg._utils.package import NOTEBOOKS; print(*NOTEBOOKS.glob('*.ipynb'))"]
    notebooks = subprocess.run(own, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert len(notebooks.split()) == len([*package.NOTEBOOKS.glob("*.ipynb")]) > 0
