from pathlib import Path

from brainreg._utils import commands


def test_a_line_is_understood_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(commands.sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    told = commands.brainreg_command("resume", f"{tmp_path}/results/a b")
    assert told == "bin/python -m brainreg resume 'results/a b'"

    program = folder / "brainreg"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert commands.brainreg_command("resume", "s3://bucket/s") == "brainreg resume s3://bucket/s"

    monkeypatch.setattr(commands.sys, "executable", str(Path("/elsewhere/python")))  # another environment's
    assert commands.brainreg_command("resume", "/s") == "/elsewhere/python -m brainreg resume /s"
