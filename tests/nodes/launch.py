#!/usr/bin/env python3
"""Decides whether the files of examples/launch can be believed: the Slurm script runs a fleet with
stand-ins for `srun`, `scancel` and `scontrol`, and on a cluster where it is told that it may;
systemd and a YAML parser look at theirs where they are there.

    launch.py PROGRAM
    SLURM_SHARED=DIR launch.py PROGRAM    # DIR: seen by all nodes
"""
from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import fleet
import model
from cases import SETTINGS

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "examples" / "launch"

# Runs the tasks here, and has them killed for SIGTERM as srun does. The first receiver is killed as
# soon as it runs: without its coming back the trainer would wait for ever.
SRUN = r'''#!/usr/bin/env bash
tasks=1
while [[ $1 == --* ]]; do
  [[ $1 == --ntasks=* ]] && tasks=${1#*=}
  shift
done
tasks_running=()
trap 'touch "$KILLED.hard"; kill -9 $(cat "$KILLED.tasks") "${tasks_running[@]}"' TERM
for ((i = 0; i < tasks; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
  tasks_running+=($!)
  echo $! >>"$KILLED.tasks"
done
if ((tasks > 1)); then
  first=${tasks_running[0]}
  one=""
  until [[ -n $one ]]; do
    sleep 0.01
    read -r one _ <"/proc/$first/task/$first/children" || true
  done
  kill -9 "$one" && touch "$KILLED"
fi
status=0
for task in "${tasks_running[@]}"; do
  while true; do
    code=0
    wait "$task" || code=$?
    kill -0 "$task" 2>/dev/null || break
  done
  ((code > status)) && status=$code
done
exit "$status"
'''
# Signals all processes of the job's steps, and not the script's own.
SCANCEL = r'''#!/usr/bin/env bash
[[ "$*" == "--signal=TERM $SLURM_JOB_ID" ]] || exit 1
for task in $(cat "$KILLED.tasks"); do
  read -r children <"/proc/$task/task/$task/children" || true
  kill -TERM "$task" $children
done 2>/dev/null
exit 0
'''
SCONTROL = "#!/bin/sh\nprintf 'localhost\\nlocalhost\\n'\n"


def slurm(program, scratch):
    """The job ends with 0, its audit passes, the key is gone, one receiver was killed meanwhile.

    Weights stay where they were wanted; below TMPDIR nothing stays.
    """
    stand_ins = scratch / "bin"
    stand_ins.mkdir()
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (stand_ins / name).write_text(text, encoding="utf-8")
        (stand_ins / name).chmod(0o755)
    versions = model.synthetic(scratch / "model", 1, versions=30, mebibytes=0.1)
    env = {"PATH": f"{stand_ins}:{os.environ['PATH']}", "LOCKSTEP": program,
           "BASE": versions.base, "STREAM": versions.stream,
           "SHARED": scratch / "shared", "RECEIVERS_PER_NODE": 2,
           "SLURM_JOB_ID": 1, "SLURM_JOB_NUM_NODES": 2, "SLURM_JOB_NODELIST": "both"}
    again = function_of_slurm("again")
    ends = """ends() { read -r code rest <codes; echo "$rest" >codes; return "$code"; }"""
    paces = waits(f"cd {scratch}; echo 3 4 5 0 >codes; {ends}\n{again}\nagain ends", {}, scratch)
    fleet.require(paces == ["1", "20", "1"], paces)
    puts_back_whose_first_node_failed(scratch)
    (scratch / "tmp").mkdir()
    run_slurm({**env, "OUT": scratch / "out", "KILLED": scratch / "killed"}, scratch)
    for i in range(2):
        held = model.digest(scratch / "out" / f"receiver-{i}" / "model.safetensors")
        fleet.require(held == versions.digests[-1], f"receiver {i} holds {held}")
    run_slurm({**env, "TMPDIR": scratch / "tmp", "KILLED": scratch / "tmp-killed"}, scratch)
    left = [p.name for p in (scratch / "tmp").iterdir()]
    fleet.require(not left, f"left below TMPDIR: {left}")


# Says of the job what $SAID has, and notes what it is to be told.
SCONTROL_OF_A_JOB = r'''#!/bin/bash
case "$*" in
  "--oneliner show job 7") echo "$SAID" ;;
  "show hostnames "*) tr , '\n' <<<"$3" ;;
  *) echo "$*" >>told ;;
esac
'''


def puts_back_whose_first_node_failed(scratch):
    """And no other, nor one that was put back meanwhile, perhaps onto other nodes."""
    place = scratch / "beware"
    place.mkdir()
    (place / "scontrol").write_text(SCONTROL_OF_A_JOB, encoding="utf-8")
    (place / "scontrol").chmod(0o755)
    for state, restarts, nodes, wanted in (("RUNNING", 1, "b,c", "requeue 7"), ("RUNNING", 1, "a,b", ""),
                                           ("RUNNING", 2, "b,c", ""), ("PENDING", 1, "(null)", "")):
        said = (f"JobId=7 JobState={state} Requeue=1 Restarts={restarts} BatchFlag=1 "
                f"ReqNodeList=(null) NodeList={nodes} BatchHost=a")
        (place / "told").write_text("", encoding="utf-8")
        subprocess.run(["bash", "-c", f"{function_of_slurm('beware')}\nsleep 0.5 | beware 0.1"],
                       cwd=place, timeout=10, env={
                           "PATH": f"{place}:{os.environ['PATH']}", "SAID": said, "trainer": "a",
                           "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})
        told = set((place / "told").read_text(encoding="utf-8").splitlines())
        fleet.require(told == ({wanted} if wanted else set()), f"{said}: {told}")


def function_of_slurm(name):
    text = (LAUNCH / "slurm.sh").read_text(encoding="utf-8")
    return re.search(rf"^{name}\(\) \{{$.*?^\}}$", text, re.MULTILINE | re.DOTALL).group(0)


def run_slurm(env, scratch):
    env = {**env, "PORT": fleet.free_port()}
    job = fleet.Process("slurm.sh", ["env", *(f"{k}={v}" for k, v in env.items()), "bash",
                                     LAUNCH / "slurm.sh"], SETTINGS)
    try:
        code = job.wait(60)
        said = [*list(job.garbage)[-10:], *list(job.errors)[-10:]]
        fleet.require(code == 0, f"the job ended with {code}: {said}")
        fleet.require(not fleet.group_is_there(job.pid), "it left processes behind")
    finally:
        job.close()
    fleet.require(env["KILLED"].exists(), "no receiver was killed")
    fleet.require(not pathlib.Path(f"{env['KILLED']}.hard").exists(), "the receivers could not leave")
    fleet.require(not list((scratch / "shared").iterdir()), "the key is still there")


# One receiver is killed before it is a member, once: it has to come back for the play to begin.
KILLED_ONCE = r'''#!/bin/bash
if [[ $1 == receiver ]] && mkdir "${0%/*}/killed" 2>/dev/null; then
  export LOCKSTEP_DRILL_KILL_AT=receiver.compute_digest:after
fi
exec "${0%/*}/program" "$@"
'''


def slurm_itself(program, _):
    """The same with nothing in Slurm's place, given hardly any of our environment."""
    shared = os.environ.get("SLURM_SHARED")
    if not shared:
        return "skipped: SLURM_SHARED names no directory that the nodes of a cluster see"
    with tempfile.TemporaryDirectory(prefix="lockstep-launch-", dir=shared) as place:
        place = pathlib.Path(place)
        versions = model.synthetic(place / "model", 1, versions=30, mebibytes=0.1)
        shutil.copy(program, place / "program")
        (place / "lockstep").write_text(KILLED_ONCE, encoding="utf-8")
        (place / "lockstep").chmod(0o755)
        given = {"LOCKSTEP": place / "lockstep", "BASE": versions.base, "STREAM": versions.stream,
                 "SHARED": place / "shared", "OUT": place / "out", "RECEIVERS_PER_NODE": 2}
        job = ["sbatch", "--wait", "--nodes=2", "--ntasks-per-node=2", "--time=2",
               f"--job-name={place.name}", f"--output={place}/said", f"--chdir={place}",
               "--export=" + ",".join(f"{k}={v}" for k, v in given.items()), LAUNCH / "slurm.sh"]
        try:
            code = subprocess.run(job, timeout=100, stdout=subprocess.DEVNULL).returncode
        finally:
            subprocess.run(["scancel", f"--name={place.name}"], timeout=20)
        said = (place / "said").read_text(encoding="utf-8").splitlines()
        fleet.require(code == 0 and "audit: pass" in said, f"the job ended with {code}: {said[-20:]}")
        fleet.require((place / "killed").exists() and any("Killed" in line for line in said), said)
        fleet.require(not list((place / "shared").iterdir()), "the key is still there")
        for i in range(2):
            held = model.digest(place / "out" / f"receiver-{i}" / "model.safetensors")
            fleet.require(held == versions.digests[-1], f"receiver {i} holds {held}")
    return None


def systemd(program, scratch):
    """`systemd-analyze verify` has nothing to say of the units, with the program's path in them."""
    if not shutil.which("systemd-analyze"):
        return "skipped: no systemd-analyze"
    for unit in (LAUNCH / "systemd").iterdir():
        text = unit.read_text(encoding="utf-8")
        fleet.require("NoNewPrivileges=yes" in text and "Restart=always" in text, unit.name)
        text = text.replace("/usr/local/bin/lockstep", os.path.abspath(program))
        paced(text, unit.name, scratch)
        copy = scratch / unit.name.replace("@", "@3")
        copy.write_text(text, encoding="utf-8")
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        lines = [line for line in done.stdout.decode().splitlines() if unit.stem.strip("@") in line]
        fleet.require(done.returncode == 0 and not lines, f"{unit.name}: {lines}")
    return None


def paced(unit, name, scratch):
    """After 4, which a broken disk may end in for ever, the unit waits before it tries again."""
    after = re.search(r"^ExecStopPost=/bin/sh -c '(.*)'$", unit, re.MULTILINE)
    fleet.require(after, f"{name}: nothing paces it")
    script = after.group(1).replace("$$", "$")
    fleet.require([waits(script, {"EXIT_STATUS": s}, scratch) for s in ("0", "3", "KILL", "4")] ==
                  [[], [], [], ["20"]], name)


def waits(script, env, scratch):
    """What a script of the shell calls `sleep` with; it does not sleep."""
    stand_ins = scratch / "no-sleep"
    stand_ins.mkdir(exist_ok=True)
    (stand_ins / "sleep").write_text('#!/bin/sh\necho "$1"\n', encoding="utf-8")
    (stand_ins / "sleep").chmod(0o755)
    done = subprocess.run(["bash", "-c", script], timeout=10, check=True, stdout=subprocess.PIPE,
                          env={"PATH": f"{stand_ins}:{os.environ['PATH']}", **env}, text=True)
    return done.stdout.split()


def kubernetes(program, scratch):
    """It is YAML, volumes that are mounted are declared, and labels select what they should."""
    try:
        import yaml
    except ImportError:
        return "skipped: no YAML parser"
    with open(LAUNCH / "kubernetes.yaml", encoding="utf-8") as f:
        documents = [d for d in yaml.safe_load_all(f) if d]
    sets = [d for d in documents if d["kind"] == "StatefulSet"]
    fleet.require(len(sets) == 2, "a trainer and receivers")
    for d in sets:
        spec = d["spec"]["template"]["spec"]
        there = {v["name"] for v in spec["volumes"]}
        there |= {v["metadata"]["name"] for v in d["spec"].get("volumeClaimTemplates", [])}
        for container in spec["containers"]:
            mounted = {m["name"] for m in container["volumeMounts"]}
            fleet.require(mounted == there, f"{d['metadata']['name']}: {mounted ^ there}")
            script = container["command"][2]
            subprocess.run(["sh", "-n", "-c", script], check=True, timeout=10)
            subprocess.run(["sh", "-n", "-c", container["readinessProbe"]["exec"]["command"][2]],
                           check=True, timeout=10)
        labels = d["spec"]["template"]["metadata"]["labels"]
        fleet.require(d["spec"]["selector"]["matchLabels"] == labels, "the selector")
        fleet.require(any(s["kind"] == "Service" and s["spec"]["selector"] == labels and
                          s["metadata"]["name"] == d["spec"]["serviceName"] for s in documents),
                      "its Service")
    receivers = next(d for d in sets if d["spec"]["replicas"] != 1)
    said = re.search(r"--receivers (\d+)", str(sets)).group(1)
    fleet.require(int(said) == receivers["spec"]["replicas"], "receivers and replicas are one number")
    return None


def main():
    program = os.path.abspath(sys.argv[1])
    failed = 0
    for check in (slurm, slurm_itself, systemd, kubernetes):
        with tempfile.TemporaryDirectory(prefix="lockstep-launch-") as scratch:
            try:
                print(f"{check.__name__}: {check(program, pathlib.Path(scratch)) or 'ok'}")
            except (fleet.Failed, subprocess.SubprocessError) as problem:
                failed = 1
                print(f"{check.__name__}: FAILED: {problem}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
