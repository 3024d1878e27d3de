import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = """
import os, signal, sys, time
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
from brainreg._utils.console import sigterm_as_interrupt
try:
    with sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("inherited", ["taken", "ignored"])
def test_sigterm_interrupts_what_ignores_ctrl_c_too(inherited):
    """A shell's script starts what runs in the background with SIGINT ignored."""
    script = [sys.executable, "-c", SCRIPT, inherited]
    run = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert run.stdout == "interrupted\n", run.stderr
