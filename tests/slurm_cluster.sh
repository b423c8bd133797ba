#!/usr/bin/env bash
# A Slurm cluster of one node, for tests, without systemd and without accounting: tests/slurm_cluster.sh start|stop FOLDER
#
# Needs Debian's slurmctld, slurmd, slurm-client and munge (`install` installs them), and root, as slurmd does. All files are
# written to FOLDER. After `start`, `export SLURM_CONF=FOLDER/slurm.conf` selects this cluster for Slurm's commands.
set -euo pipefail

install() {
  for program in slurmctld slurmd sbatch munged; do
    if ! command -v "$program" >/dev/null; then
      apt-get -qq update
      DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
        slurmctld slurmd slurm-client munge >/dev/null
      return
    fi
  done
}

free_ports() { # two unused ports
  python3 -c '
import socket
a, b = socket.socket(), socket.socket()
for each in (a, b):
    each.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])'
}

start() {
  mkdir -p "$folder/state" "$folder/spool"
  chmod 755 "$folder"
  local node cpus ctld_port d_port
  node=$(hostname -s)
  cpus=$(nproc)
  read -r ctld_port d_port < <(free_ports)
  export SLURM_CONF=$folder/slurm.conf
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmdPort=$d_port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
# These need neither cgroups nor systemd, so the cluster runs in a container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
KillWait=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  head -c 1024 /dev/urandom >"$folder/munge.key"
  chmod 600 "$folder/munge.key"
  # --force: munged refuses folders that other users can write to, such as /tmp.
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>"$folder/munged.err"
  slurmctld
  slurmd
  for _ in $(seq 120); do
    if [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]]; then
      sinfo
      return
    fi
    sleep 0.5
  done
  echo "the node did not become idle in a minute; see $folder/*.log" >&2
  exit 1
}

stop() {
  export SLURM_CONF=$folder/slurm.conf
  scancel --me --full 2>/dev/null || true
  for name in slurmd slurmctld munged; do
    if [[ -s $folder/$name.pid ]]; then
      kill "$(<"$folder/$name.pid")" 2>/dev/null || true
    fi
  done
}

case ${1-} in
  install) install ;;
  start | stop)
    folder=$(realpath -m "${2:?usage: $0 $1 FOLDER}")
    "$1"
    ;;
  *)
    echo "usage: $0 install | start FOLDER | stop FOLDER" >&2
    exit 2
    ;;
esac
