"""A flag that holds a secret reaches the program and nobody else."""

import re
import subprocess
from pathlib import Path

import pytest

from cascade_router.errors import ServerError
from cascade_router.supervision.hidden_flags import start_hidden

SECRET = "not-for-everyone-0123456789"  # a test's


def test_the_program_gets_it_and_the_process_list_does_not(tmp_path):
    """It prints its arguments as it got them; the kernel shows a placeholder."""
    out, go_on = tmp_path / "out", tmp_path / "go_on"
    script = f'printf "%s\\n" "$@"; while [ ! -e {go_on} ]; do sleep 0.05; done'
    hidden = [f"--a=x,y:key={SECRET}1", f"--b=z:key={SECRET}2"]
    with out.open("wb") as file:
        command = ["/bin/sh", "-c", script, "name", "--shown=1"]
        process = start_hidden(command, hidden, env={"PATH": "/bin:/usr/bin"}, out=file)
    try:
        while len(out.read_text().splitlines()) < 3:
            assert process.poll() is None
        line = Path(f"/proc/{process.pid}/cmdline").read_text()
        ps = ["ps", "-o", "args=", "-ww", "-p", str(process.pid)]
        listed = subprocess.run(ps, capture_output=True, text=True, check=True).stdout
    finally:
        go_on.touch()
        assert process.wait(10) == 0

    assert out.read_text().splitlines() == ["--shown=1", *hidden]
    for text in (line, listed):
        assert SECRET not in text
        assert "--a=x,y:key=" in text
        assert "--shown=1" in text


def test_every_argument_arrives(tmp_path):
    """All of them, in their order, the hidden ones last."""
    out = tmp_path / "out"
    hidden = [f"--flag{i}=k:v={SECRET}{i}" for i in range(5)]
    with out.open("wb") as file:
        process = start_hidden(["/usr/bin/printf", "%s\\n", "a"], hidden, env={}, out=file)
        process.wait(10)

    assert out.read_text().splitlines() == ["a", *hidden]


def test_placeholders_are_new_each_time(tmp_path):
    """Should one ever be taken for the key, nobody can know it beforehand."""
    seen = set()
    for _ in range(2):
        with (tmp_path / "out").open("wb") as file:
            command = ["/bin/sh", "-c", "sleep 2; :", "x"]
            process = start_hidden(command, [f"--a=b:key={SECRET}"], env={}, out=file)
            seen |= set(
                re.findall(r"key=([\w-]{40,})", Path(f"/proc/{process.pid}/cmdline").read_text())
            )
            process.kill()
            process.wait()

    assert len(seen) == 2


def test_a_script_is_refused(tmp_path):
    """What it starts would have the key on its own command line."""
    script = tmp_path / "tritonserver"
    script.write_text("#!/bin/sh\nexec true\n")
    script.chmod(0o755)

    with (
        (tmp_path / "out").open("wb") as file,
        pytest.raises(ServerError, match="is no binary"),
    ):
        start_hidden([str(script)], ["--a=b:c=d"], env={}, out=file)
