"""`sbatch`, `srun` and `scontrol` without a cluster: every node is this machine.

A job runs in the foreground. It gets its signal ahead of the time limit when the file named by FAKE_LIMIT appears, and runs
once more if it was requeued.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol")


def install(folder: Path) -> str:
    """Write the commands into ``folder``; return PATH with the folder first."""
    for name in COMMANDS:
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"


def options() -> argparse.ArgumentParser:
    """Parser of the options of sbatch and srun that the documentation uses; others are an error."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--job-name", "--time", "--signal", "--output", "--open-mode"):
        parser.add_argument(name)
    for name in ("--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"):
        parser.add_argument(name, type=int)
    for name in ("--requeue", "--kill-on-bad-exit"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def batch_options(script: Path, words: list[str]) -> argparse.Namespace:
    """Options of a job: those of the script's ``#SBATCH`` lines before its first command, then those of the command line."""
    found = []
    for line in script.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            found += line.removeprefix("#SBATCH ").split()
    return options().parse_args([*found, *words])


def sbatch(words: list[str]) -> int:
    """Run a batch script, and once more if it was requeued; return its exit code."""
    script = Path(options().parse_args(words).command[0])
    asked = batch_options(script, words)
    job = os.environ["FAKE_JOB_ID"]
    marker, limit = Path(os.environ["FAKE_REQUEUED"]), Path(os.environ.get("FAKE_LIMIT", "/nowhere"))
    print(f"Submitted batch job {job}", flush=True)
    variables = {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NAME": asked.job_name,
        "SLURM_NNODES": str(asked.nodes),
        "SLURM_NTASKS_PER_NODE": str(asked.ntasks_per_node),
        "SLURM_NTASKS": str(asked.nodes * asked.ntasks_per_node),
        "SLURM_CPUS_PER_TASK": str(asked.cpus_per_task),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": nodes_named(asked.nodes),
    }
    for restart in range(2):
        environment = {**os.environ, **variables, **({"SLURM_RESTART_COUNT": "1"} if restart else {})}
        alive, held = os.pipe()  # the job's processes hold one end of it
        command = ["bash", str(script), *asked.command[1:]]
        shell = subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=(held,))
        os.close(held)
        signalled = restart > 0
        while shell.poll() is None and not marker.exists():
            if limit.exists() and not signalled:
                target, _, name = asked.signal.partition("@")[0].partition(":")
                assert target == "B"  # the shell alone
                shell.send_signal(signal.Signals[f"SIG{name}"])
                signalled = True
            time.sleep(0.05)
        if not marker.exists():
            os.close(alive)
            return shell.wait()
        assert asked.requeue and marker.read_text(encoding="utf-8") == job
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait()
        os.read(alive, 1)  # returns at the end of the last process, so that no port is in use when the job starts again
        os.close(alive)
        marker.unlink()
    return 1


def nodes_named(count: int) -> str:
    """List of ``count`` nodes, as Slurm writes it."""
    return "localhost" if count == 1 else f"node[1-{count}]"


def srun(words: list[str]) -> int:
    """Run the tasks of a step and return the largest exit code; SIGTERM is for the tasks, which are waited for."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # a handler, because children would inherit that a signal is ignored
    asked = options().parse_args(words)
    nodes = asked.nodes or int(os.environ["SLURM_NNODES"])
    each = asked.ntasks_per_node or int(os.environ["SLURM_NTASKS_PER_NODE"])
    variables = {
        "SLURM_JOB_ID": os.environ.get("SLURM_JOB_ID") or os.environ["FAKE_JOB_ID"],
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": str(nodes * each),
        "SLURM_STEP_NUM_TASKS": str(nodes * each),
        "SLURM_NODELIST": nodes_named(nodes),
        "SLURM_STEP_NODELIST": nodes_named(nodes),
    }
    tasks = [
        subprocess.Popen(
            asked.command,
            env={**os.environ, **variables, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each)},
        )
        for rank in range(nodes * each)
    ]
    while any(task.poll() is None for task in tasks):
        if asked.kill_on_bad_exit and any(task.returncode for task in tasks):
            for task in tasks:
                task.kill()
        time.sleep(0.05)
    return max(task.returncode % 256 for task in tasks)


def scontrol(words: list[str]) -> int:
    """Expand a list of nodes, or note that a job is to be requeued."""
    if words[:2] == ["show", "hostnames"] and words[2].startswith("node["):
        print("127.0.0.1\nelsewhere")
        return 0
    if words[0] == "requeue":
        Path(os.environ["FAKE_REQUEUED"]).write_text(words[1], encoding="utf-8")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
