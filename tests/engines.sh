#!/bin/bash
# Runs the examples of engines on this machine, each with a worker killed half-way:
#
#     tests/engines.sh [slurm] [ray] [kubernetes] [parallel]     (all, if none is named)
#
# ICD is the program (default target/release/icd), JOBS the number of jobs (200), PYTHON a Python
# with ray or yaml. What is not installed is skipped. SLURM needs root and Debian's packages
# slurmctld, slurmd and munge; its daemons run for this script alone, in a folder of its own.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
icd=$(realpath "${ICD:-$root/target/release/icd}") || exit 2
count=${JOBS:-200} python=${PYTHON:-python3}
engines=$root/examples/engines
home=$(mktemp -d)
daemons=()
failed=0
export PATH=$(dirname "$icd"):$PATH ICD_CONFIG=none ICD_DEVICE=cpu ICD_THREADS=1
export model=$root/tests/data/shapes

ended() {
    [ ${#daemons[@]} -eq 0 ] || kill "${daemons[@]}" 2>/dev/null
    wait 2>/dev/null
    rm -rf "$home"
}
trap ended EXIT

skip() { echo "skipped: $*"; }
fail() { echo "FAILED: $*"; failed=1; }
has() { command -v "$1" >/dev/null; }

# Twenty inversions with ten target prompts each, or the first of them.
manifest() {
    local colours=(red yellow green orange purple) shapes=(star heart circle square)
    local n=0 source target
    for source in {0..19}; do
        for target in {0..9}; do
            [ "$n" -lt "$count" ] || return
            printf '{"image": "scene.png", "seed": %d, "src_prompt": "%s", "tgt_prompt": "%s", "output": "%d.png"}\n' \
                "$source" "on the left a large blue star" \
                "on the left a large ${colours[target % 5]} ${shapes[(target + source) % 4]}" "$n"
            n=$((n + 1))
        done
    done
}

results() { find "$1" -name '*.png' 2>/dev/null | wc -l; }

# half_way OUT: waits until a fifth of the results is there.
half_way() {
    for _ in $(seq 6000); do
        [ "$(results "$1")" -lt $((count / 5 + 1)) ] || return 0
        sleep 0.02
    done
    return 1
}

# strike ENGINE PROCESS OUT: kills a process half-way. Where none is left to kill, only the results
# are judged.
strike() {
    if [ -n "$2" ] && kill -9 "$2" 2>/dev/null; then
        echo "$1: process $2 is killed at $(results "$3") results"
    else
        echo "$1: no worker is left to kill at $(results "$3") results: JOBS=$count are too few"
        return 1
    fi
}

# workers OUT: the processes of icd that write into a folder, and their parents.
workers() {
    local process
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/exe" 2>/dev/null)" = "$icd" ] || continue
        tr '\0' '\n' <"$process/cmdline" | grep -qxF -- "$1" || continue
        echo "${process#/proc/} $(awk '/^PPid/ {print $2}' "$process/status")"
    done
}

# whole ENGINE OUT: every result is there, and as a single process makes it.
whole() {
    icd batch jobs.jsonl --output-dir "$2" --model "$model" --status >status 2>&1 ||
        fail "$1: $(tail -n 1 status)"
    local n bad=0
    for n in $(seq 0 $((count - 1))); do
        cmp -s "$2/$n.png" "expected/$n.png" || bad=$((bad + 1))
    done
    [ "$bad" -eq 0 ] && echo "passed: $1: $count results, each that of a single process" ||
        fail "$1: $bad of $count results are missing or differ"
}

slurm() {
    for program in slurmctld slurmd munged mungekey sbatch; do
        has "$program" || { skip "slurm: $program is not installed"; return; }
    done
    [ "$(id -u)" -eq 0 ] || { skip "slurm: its daemons need root"; return; }
    slurm_starts || { fail "slurm: no node is up"; tail -n 5 slurm/*.log; return; }
    local job victim
    job=$(sbatch --parsable --array=1-4 --output=slurm/%A_%a.out "$engines/slurm.sh" \
        jobs.jsonl slurm-out --model "$model")
    half_way slurm-out || fail "slurm: nothing is done"
    victim=$(workers slurm-out | head -n 1 | cut -d ' ' -f 1)
    strike "slurm: job $job" "$victim" slurm-out || victim=
    for _ in $(seq 600); do
        [ -n "$(squeue --noheader --job "$job" 2>/dev/null)" ] || break
        # A queued-again task waits two minutes for its node to recover; this one is well.
        squeue --noheader --job "$job" --states PENDING --format '%i' |
            xargs -r -I '{}' scontrol update JobId='{}' StartTime=now 2>/dev/null
        sleep 0.5
    done
    [ -z "$victim" ] || grep -h 'queued again' slurm/*.out ||
        fail "slurm: the killed task was not queued again"
    whole slurm slurm-out
}

# Starts SLURM's daemons for this machine alone.
slurm_starts() {
    local host port=$((20000 + RANDOM % 10000))
    host=$(hostname -s)
    mkdir -p slurm/state slurm/spool
    chmod 700 slurm
    mungekey --create --keyfile="$home/slurm/munge.key" || return 1
    munged --foreground --force --key-file="$home/slurm/munge.key" --socket="$home/slurm/munge" \
        --pid-file="$home/slurm/munged.pid" --log-file="$home/slurm/munged.log" \
        --seed-file="$home/slurm/munged.seed" 2>slurm/munged.err &
    daemons+=($!)
    cat >slurm/slurm.conf <<EOF
ClusterName=icd
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$home/slurm/munge
CredType=cred/munge
StateSaveLocation=$home/slurm/state
SlurmdSpoolDir=$home/slurm/spool
SlurmctldPidFile=$home/slurm/slurmctld.pid
SlurmdPidFile=$home/slurm/slurmd.pid
SlurmctldPort=$port
SlurmdPort=$((port + 1))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
SlurmdParameters=config_overrides
EOF
    export SLURM_CONF=$home/slurm/slurm.conf
    sleep 1
    slurmctld -D >slurm/slurmctld.log 2>&1 &
    daemons+=($!)
    slurmd -D -N "$host" >slurm/slurmd.log 2>&1 &
    daemons+=($!)
    for _ in $(seq 60); do
        sinfo --noheader --format '%t' 2>/dev/null | grep -q idle && return 0
        sleep 0.5
    done
    return 1
}

with_ray() {
    "$python" -c 'import ray' 2>/dev/null || { skip "ray: $python has none"; return; }
    "$python" "$engines/ray_batch.py" jobs.jsonl ray-out --actors 2 -- --model "$model" \
        >ray.log 2>&1 &
    local run=$! victim parent
    half_way ray-out || fail "ray: nothing is done"
    read -r victim parent < <(workers ray-out | head -n 1)
    strike "ray: an actor" "$parent" ray-out && sleep 5
    read -r victim parent < <(workers ray-out | head -n 1)
    strike "ray: its icd" "$victim" ray-out
    wait "$run" || { fail "ray: it ends with $?"; tail -n 20 ray.log; }
    tail -n 1 ray.log
    whole ray ray-out
}

# The job is not run, there being no cluster: it is read, and its command run for each index.
kubernetes() {
    "$python" -c 'import yaml' 2>/dev/null || { skip "kubernetes: $python has no yaml"; return; }
    "$python" - "$engines/kubernetes.yaml" >kubernetes.commands <<'EOF' || { fail kubernetes; return; }
import shlex, sys, yaml
spec = yaml.safe_load(open(sys.argv[1]))["spec"]
pod = spec["template"]["spec"]
command = pod["containers"][0]["command"]
assert spec["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
assert command[command.index("--shard") + 1] == f"auto/{spec['completions']}"
actions = {}
for rule in spec["podFailurePolicy"]["rules"]:
    for code in rule.get("onExitCodes", {}).get("values", []):
        actions[code] = rule["action"]
assert actions == {1: "FailIndex", 2: "FailJob", 75: "Ignore"}, actions
command[command.index("--output-dir") + 1] = "kubernetes-out"
for index in range(spec["completions"]):
    print(f"JOB_COMPLETION_INDEX={index} {shlex.join(command)} --model \"$model\"")
EOF
    while read -r command; do
        sh -c "$command" >kubernetes.log 2>&1 || fail "kubernetes: $command: $(tail -n 1 kubernetes.log)"
    done <kubernetes.commands
    whole kubernetes kubernetes-out
}

with_parallel() {
    has parallel || { skip "parallel: it is not installed"; return; }
    local again=(parallel -j 2 --joblog shards.log --resume-failed icd batch jobs.jsonl
        --output-dir parallel-out --model "$model" --shard '{}/4' ::: 1 2 3 4)
    "${again[@]}" >parallel.log 2>&1 &
    local run=$! victim
    half_way parallel-out || fail "parallel: nothing is done"
    victim=$(workers parallel-out | head -n 1 | cut -d ' ' -f 1)
    if strike parallel "$victim" parallel-out; then
        wait "$run" && fail "parallel: it did not notice"
    else
        wait "$run"
    fi
    "${again[@]}" >parallel.log 2>&1 || fail "parallel: $(tail -n 1 parallel.log)"
    whole parallel parallel-out
}

icd batch --help >/dev/null 2>&1 || { skip "all: $icd has no batch"; exit 0; }
cd "$home" && cp "$root/examples/scene.png" . && manifest >jobs.jsonl
icd batch jobs.jsonl --output-dir expected --model "$model" >/dev/null || exit 1
[ $# -gt 0 ] || set -- slurm ray kubernetes parallel
for engine; do
    case $engine in
    slurm) slurm ;;
    ray) with_ray ;;
    kubernetes) kubernetes ;;
    parallel) with_parallel ;;
    *) echo "unknown engine: $engine" >&2; exit 2 ;;
    esac
done
exit "$failed"
