#!/usr/bin/env bash
# Slurm: a trainer on the job's first node, receivers on all the others.
#
#   sbatch --nodes=9 --export=ALL,BASE=…,STREAM=… examples/launch/slurm.sh
#
# Edit, or set in the environment:
#   LOCKSTEP            the program; on every node at the same path
#   BASE, STREAM        checkpoint to begin with, and the versions, on a file system that all see
#   RECEIVERS_PER_NODE  receivers on each node but the first (1); give sbatch --ntasks-per-node of
#                       as many
#   PORT                where the trainer listens (from the job's number, 20000 to 29999)
#   SHARED              a directory that all nodes see and others cannot read: for the key, and the
#                       number of the trainer's run
#   OUT                 where each receiver keeps its weights, local to its node (below TMPDIR, and
#                       removed with the receiver)
#
# The cluster's own network is open to whoever has a job on it, so the fleet has a key of its own,
# made for this job and removed with it. A process that dies is started again; the fleet heals. A
# node that fails is done without; if it is the first one, the job is put into the queue again.
#SBATCH --job-name=lockstep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --time=01:00:00
set -euo pipefail

: "${LOCKSTEP:=lockstep}" "${RECEIVERS_PER_NODE:=1}" "${SHARED:=$HOME/.lockstep}"
: "${BASE:?is the checkpoint to begin with}" "${STREAM:?is the directory of versions}"
: "${PORT:=$((20000 + SLURM_JOB_ID % 10000))}" "${OUT:=}"
((SLURM_JOB_NUM_NODES > 1)) || { echo "needs two nodes or more" >&2; exit 2; }

umask 077
mkdir -p "$SHARED"
# Each start of the job has its own: what is left of an earlier one is none of this fleet.
rm -f "$SHARED"/{key,run}-"$SLURM_JOB_ID"-*
key=$SHARED/key-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:=0}
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$key"
# The trainer's next run is a later one whatever the node's clock says. Gone with the job, as its
# receivers are.
runs=$SHARED/run-$SLURM_JOB_ID-$SLURM_RESTART_COUNT
trap 'rm -f "$key" "$runs" "$runs".*' EXIT
export LOCKSTEP_TRANSPORT_SHARED_KEY_FILE=$key LOCKSTEP_TRAINER_RUN_FILE=$runs

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
trainer=${nodes[0]}
others=$(IFS=,; echo "${nodes[*]:1}")
receivers=$(((SLURM_JOB_NUM_NODES - 1) * RECEIVERS_PER_NODE))

# Runs a command again until it ends by itself: what ended well, failed its audit (1), was given bad
# input (2) or is not there stays ended; what was killed, reached nobody (3), had no room or a disk
# that fails (4) or was refused (5) comes back: after (4) not at once, until the job's time is over.
# shellcheck disable=SC2317  # called by the tasks
again() {
  local child="" status told=0
  trap 'told=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM
  while ((!told)); do
    "$@" &
    child=$!
    ((!told)) || kill -TERM "$child" 2>/dev/null
    # `wait` returns at a signal too, before the child has ended.
    while true; do
      status=0
      wait "$child" || status=$?
      kill -0 "$child" 2>/dev/null || break
    done
    child=""
    case $status in 0 | 1 | 2 | 126 | 127) return "$status" ;; esac
    sleep "$((status == 4 ? 20 : 1))"
  done
}

# Puts the job into the queue again if the first node has failed: script and trainer went with it,
# and Slurm has the rest go on. Looks every $1 seconds, and ends with its standard input.
# shellcheck disable=SC2317
beware() {
  local job
  while read -r -t "$1"; (($? > 128)); do
    job=$(scontrol --oneliner show job "$SLURM_JOB_ID") || continue
    [[ $job == *" JobState=RUNNING "*" Restarts=$SLURM_RESTART_COUNT "* ]] || continue
    [[ $job =~ \ NodeList=([^ ]+) ]] || continue
    scontrol show hostnames "${BASH_REMATCH[1]}" | grep -qxF "$trainer" ||
      scontrol requeue "$SLURM_JOB_ID"
  done
}

# One receiver, and what it leaves. SLURM_PROCID counts them from 0.
# shellcheck disable=SC2317,SC2034
receive() {
  [[ $SLURM_LOCALID != 0 ]] || exec {end}> >(beware 60)
  out=${OUT:+$OUT/receiver-$SLURM_PROCID}
  if [[ -z $out ]]; then
    out=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-$SLURM_JOB_ID.XXXXXX") || return
    trap 'rm -rf "$out"' EXIT
  fi
  again "$LOCKSTEP" receiver --connect "$trainer:$PORT" --id "$SLURM_PROCID" --checkpoint "$BASE" \
    --out "$out"
}
export -f again beware receive
export PATH LOCKSTEP BASE STREAM OUT PORT SLURM_RESTART_COUNT trainer

# A step that outlives a node that fails and tasks that end, and has the script's environment however
# little sbatch was told to hand on.
step=(srun --no-kill --kill-on-bad-exit=0 --wait=0 --mpi=none --export=ALL)

"${step[@]}" --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$receivers" \
  --ntasks-per-node="$RECEIVERS_PER_NODE" --nodelist="$others" \
  ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} bash -c receive &
receivers_step=$!

# Plays all versions, audits every receiver, and ends; its status is the job's.
# shellcheck disable=SC2016  # the task expands them
play='again "$LOCKSTEP" trainer --base "$BASE" --stream "$STREAM" --listen "0.0.0.0:$PORT"'
status=0
"${step[@]}" --nodes=1 --ntasks=1 --ntasks-per-node=1 --nodelist="$trainer" \
  bash -c "$play --receivers $receivers" || status=$?

# To the tasks that are left: the receivers leave the fleet and end. Again for those that are only
# starting; srun itself would have them killed, and does after a minute.
for ((i = 0; i < 30; i++)); do
  kill -0 "$receivers_step" 2>/dev/null || break
  scancel --signal=TERM "$SLURM_JOB_ID" || true
  sleep 2
done
kill -TERM "$receivers_step" 2>/dev/null || true
wait "$receivers_step" || true
exit "$status"
