"""The diff in patches/ applies to the OpenCLIP that is installed, and what it gives trains where stock does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIXES = Path(__file__).parent.parent / "patches" / "open_clip_train-3.3.0-fixes.diff"

PROGRAM = """
import sys
import open_clip
import open_clip_train.main
sys.argv = [word for word in sys.argv if word != "--"]
open_clip.add_model_config(sys.argv[1])
assert open_clip_train.__file__.startswith(sys.argv[2])  # the patched copy, not the installed one
open_clip_train.main.main(sys.argv[3:])
"""


@pytest.mark.slow
def test_the_fixes_apply_and_two_ranks_train_on_tars(trainer, tmp_path):
    import open_clip_train

    fork = tmp_path / "fork"
    shutil.copytree(Path(open_clip_train.__file__).parent, fork / "open_clip_train")
    subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "-q"], cwd=fork, check=True)
    subprocess.run(["git", "apply", FIXES], cwd=fork, check=True)
    (fork / "train.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", "--"]
    argv = [trainer.config, fork, *trainer.common, *trainer.tars, "--batch-size", "8", "--name", "fork"]
    done = subprocess.run([*command, *map(str, argv)], cwd=fork, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in (trainer.run("fork") / "checkpoints").iterdir()] == ["epoch_1.pt"]
