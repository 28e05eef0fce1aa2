#!/usr/bin/env bash
# The development cluster: a real SLURM on one Debian machine, for tests. It needs root but no
# systemd, and listens on 127.0.0.1 only.
#
#   cluster.sh up             install missing packages, start the daemons, wait until every node
#                             accepts jobs
#   cluster.sh down           cancel the jobs and stop the daemons; accounting is kept
#   cluster.sh wipe           down, then delete the state folder
#   cluster.sh status         show daemons, nodes and queue; exit code 0 if all are up
#   cluster.sh env            print the variables of a shell:  eval "$(slurm/cluster.sh env)"
#   cluster.sh kill-node N    kill all processes of node nN, jobs included; SLURM notices within
#                             half a minute, or at once after
#                             scontrol update nodename=nN state=down reason=test
#   cluster.sh start-node N   start it again
#
# Environment variables that `up` reads; their values hold until `down`:
#   MOLEFLOW_SLURM_DIR          /tmp/moleflow-slurm   state folder
#   MOLEFLOW_SLURM_NODES        2       nodes n1, n2, ...
#   MOLEFLOW_SLURM_GPUS         2       GPUs of each node: device files without a device
#   MOLEFLOW_SLURM_ARRAY        25      MaxArraySize
#   MOLEFLOW_SLURM_ACCOUNTING   1       1: slurmdbd and MariaDB, so that sacct answers; 0: none
#   MOLEFLOW_SLURM_PORT         16817   first of 2 + NODES ports; a second cluster needs
#                                       another PORT and DIR
#
# Every node has its own host name, in a UTS namespace. So programs see different hosts, as on real
# nodes, and all processes of a node can be found and killed, even orphans of a job. SLURM listens
# on the address of its host name. The names are spellings of 127.0.0.1 (127.0.0.01, 127.0.0.001,
# ...), which resolve without an entry in /etc/hosts.
set -euo pipefail
umask 022
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

dir=${MOLEFLOW_SLURM_DIR:-/tmp/moleflow-slurm}
nodes=${MOLEFLOW_SLURM_NODES:-2} gpus=${MOLEFLOW_SLURM_GPUS:-2} array=${MOLEFLOW_SLURM_ARRAY:-25} accounting=${MOLEFLOW_SLURM_ACCOUNTING:-1}
port=${MOLEFLOW_SLURM_PORT:-16817}
shape=$dir/shape  # exists from `up` to `down`
[ ! -f "$shape" ] || . "$shape"
export SLURM_CONF=$dir/slurm.conf

die() { echo "cluster.sh: $*" >&2; exit 1; }
ours() { grep -qsx ClusterName=moleflow "$SLURM_CONF"; }

# --- hosts (ctl, n1, n2, ...) and their processes
on() {  # on HOST COMMAND ...: start a daemon on a host, without the caller's environment
  local name=127.0.0.1
  [ "$1" = ctl ] || name=$(printf '127.0.0.%0*d' $((${1#n} + 1)) 1)
  env -i PATH="$PATH" LC_ALL=C HOME=/root SLURM_CONF="$SLURM_CONF" MYSQL_UNIX_PORT="$dir/run/mysql.sock" unshare --uts \
    sh -c 'hostname "$0" && domainname "$1" && shift && exec "$@"' "$name" "moleflow-$port-$1" "${@:2}" </dev/null
}
host_of() { nsenter --uts --target "$1" domainname 2>/dev/null; }
running() {  # running DAEMON HOST: its process id; a stale pid file does not count
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [ "$(host_of "$pid")" = "moleflow-$port-$2" ] && echo "$pid"
}
start() { running "$2" "$1" >/dev/null || on "$1" "${@:3}"; }  # start HOST DAEMON COMMAND ...
stop() {  # stop DAEMON of the controller with SIGTERM, or after ten seconds with SIGKILL
  local pid
  pid=$(running "$1" ctl) || return 0
  kill "$pid" || true
  for _ in {1..100}; do running "$1" ctl >/dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" || true
}
processes() {  # processes HOST: the ids of all processes of a host
  local space pid
  lsns -rnt uts -o NS,PID | while read -r space pid; do
    [ "$(host_of "$pid")" != "moleflow-$port-$1" ] || lsns -rn -o PID "$space"
  done
}
kill_host() {
  local pids
  for _ in {1..50}; do
    pids=$(processes "$1")
    [ -n "$pids" ] || return 0
    kill -9 $pids 2>/dev/null || true
    sleep 0.1
  done
  die "$1: cannot be killed:" $pids
}
wait_for() {  # wait_for WHAT COMMAND ...
  local deadline=$((SECONDS + 30))
  until "${@:2}" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || die "$1 did not come up; see $dir/log"
    sleep 0.1
  done
}

# --- configuration and packages
configure() {
  local i storage=none proctrack=linuxproc task=none gres=
  mkdir -p "$dir"/{log,run,state,dev}
  for i in $(seq "$nodes"); do mkdir -p "$dir/spool/n$i"; done
  [ -s "$dir/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
  [ "$accounting" != 1 ] || storage=slurmdbd
  : >"$dir/gres.conf"
  if [ "$gpus" -gt 0 ]; then
    gres="Gres=gpu:$gpus"
    echo "NodeName=n[1-$nodes] Name=gpu File=$dir/dev/gpu[0-$((gpus - 1))]" >"$dir/gres.conf"
    for i in $(seq 0 $((gpus - 1))); do  # SLURM requires device files; these are copies of /dev/null.
      [ -c "$dir/dev/gpu$i" ] || mknod "$dir/dev/gpu$i" c 1 3 || die "mknod is not allowed here; set MOLEFLOW_SLURM_GPUS=0"
    done
  fi
  if [ -w /sys/fs/cgroup/freezer/cgroup.procs ] && [ -w /sys/fs/cgroup/memory/cgroup.procs ]; then
    # As on most sites: memory is limited, SLURM reports OUT_OF_MEMORY, and no process outlives
    # its job. The names of the groups contain node and job only, so FirstJobId keeps two
    # clusters apart.
    proctrack=cgroup task=cgroup
    printf '%s\n' CgroupPlugin=cgroup/v1 ConstrainRAMSpace=yes >"$dir/cgroup.conf"
  fi
  cat >"$SLURM_CONF" <<END
ClusterName=moleflow
SlurmctldHost=127.0.0.1
SlurmctldPort=$port
SlurmUser=root
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
ProctrackType=proctrack/$proctrack
TaskPlugin=task/$task
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/$storage
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$dir/run/munge.sock
# Jobs share nodes, go to the emptiest one and start at once.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory,CR_LLN
DefMemPerCPU=100
SchedulerParameters=sched_min_interval=100000,sched_interval=2,bf_interval=2,batch_sched_delay=0
MaxArraySize=$array
FirstJobId=${port}001
# Short, for tests that wait for failures. (A requeued job waits until its credential has expired, which is set above.)
SlurmdTimeout=10
KillWait=5
UnkillableStepTimeout=15
ReturnToService=2
# A job in partition high preempts one in low, which gets a signal and then GraceTime seconds.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# The nodes are declared larger than the machine.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-$nodes] NodeAddr=127.0.0.1 Port=[$((port + 2))-$((port + 1 + nodes))] CPUs=8 RealMemory=64000 $gres
PartitionName=low Nodes=ALL Default=YES DefaultTime=10 PriorityTier=1 GraceTime=15
PartitionName=high Nodes=ALL DefaultTime=10 PriorityTier=2 PreemptMode=OFF
END
  (umask 077 && cat >"$dir/slurmdbd.conf") <<END
AuthInfo=socket=$dir/run/munge.sock
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=root
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
END
}
install_packages() {
  local missing=() pair policy= ok=1 wanted="munged:munge sbatch:slurm-client slurmctld:slurmctld slurmd:slurmd"
  [ "$accounting" != 1 ] || wanted+=" slurmdbd:slurmdbd mariadbd:mariadb-server-core my_print_defaults:mariadb-client-core"
  for pair in $wanted; do command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "apt-get is not installed; install these packages by hand: ${missing[*]}"
  echo "cluster.sh: installing ${missing[*]}"
  if [ ! -e /usr/sbin/policy-rc.d ]; then  # Debian would start the daemons with its own settings.
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
  fi
  apt-get update >"$dir/log/apt.log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    "${missing[@]}" </dev/null >>"$dir/log/apt.log" 2>&1 || ok=0
  rm -f $policy
  [ $ok = 1 ] || die "apt-get could not install ${missing[*]}; see $dir/log/apt.log"
}

# --- the commands
ready() { [ "$(sinfo -hNp low -o %t | grep -cxE 'idle|mix|alloc|comp')" = "$nodes" ]; }
revive() {  # resume nodes that a test left down or drained
  ready && return
  sinfo -hNp low -t down,drain -o %N | xargs -rI@ scontrol update nodename=@ state=resume
  return 1
}
start_node() { start "$1" "$1" slurmd -N "$1"; }
up() {
  [[ $dir =~ ^/[A-Za-z0-9/._-]+$ ]] || die "MOLEFLOW_SLURM_DIR: given '$dir', allowed: an absolute path of letters, digits and . _ -"
  [[ $nodes$gpus$array$accounting$port =~ ^[0-9]+$ ]] || die "every MOLEFLOW_SLURM_* variable except DIR must be a whole number"
  unshare --uts true 2>/dev/null || die "UTS namespaces (unshare --uts) are not allowed here; run the container with SYS_ADMIN"
  ours || [ -z "$(ls -A "$dir" 2>/dev/null)" ] || die "$dir: is not empty and is no folder of a cluster; set MOLEFLOW_SLURM_DIR"
  configure
  install_packages
  printf '%s=%s\n' nodes "$nodes" gpus "$gpus" array "$array" accounting "$accounting" port "$port" >"$shape"
  start ctl munged munged --force --socket="$dir/run/munge.sock" --key-file="$dir/munge.key" \
    --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/run/munged.seed"
  if [ "$accounting" = 1 ]; then
    [ -d "$dir/mysql/mysql" ] || on ctl mariadb-install-db --no-defaults --user=root --datadir="$dir/mysql" --skip-test-db \
      >"$dir/log/mysql.log" 2>&1 || die "the database could not be created; see $dir/log/mysql.log"
    start ctl mysqld setsid --fork mariadbd --no-defaults --user=root --datadir="$dir/mysql" --skip-networking \
      --socket="$dir/run/mysql.sock" --pid-file="$dir/run/mysqld.pid" >>"$dir/log/mysql.log" 2>&1
    wait_for mariadbd test -S "$dir/run/mysql.sock"
    start ctl slurmdbd slurmdbd
    wait_for slurmdbd sacctmgr -n show cluster
  fi
  start ctl slurmctld slurmctld
  wait_for slurmctld scontrol show config
  for i in $(seq "$nodes"); do start_node "n$i"; done
  wait_for "a node" revive
  echo "cluster.sh: up, $nodes nodes of $gpus GPUs; eval \"\$($0 env)\""
}
down() {
  [ -f "$shape" ] || return 0
  if running slurmctld ctl >/dev/null; then
    squeue -ho %A | sort -u | xargs -r scancel || true
    for _ in {1..100}; do [ -n "$(squeue -ho %A)" ] || break; sleep 0.1; done
  fi
  for i in $(seq "$nodes"); do
    kill_host "n$i"
    find /sys/fs/cgroup/{freezer,memory}/"slurm_n$i" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
  for i in slurmctld slurmdbd mysqld munged; do stop $i; done
  kill_host ctl
  rm "$shape"
}
status() {
  local code=0 daemon host daemons=(munged slurmctld)
  [ -f "$shape" ] || { echo "down; $0 up"; return 1; }
  [ "$accounting" != 1 ] || daemons+=(mysqld slurmdbd)
  for daemon in "${daemons[@]}" $(seq -f n%g "$nodes"); do
    [[ $daemon = n* ]] && host=$daemon || host=ctl
    if running "$daemon" $host >/dev/null; then echo "$daemon up"; else echo "$daemon DOWN"; code=1; fi
  done
  sinfo -N && squeue && ready || code=1
  return $code
}

case ${1:-} in
  env) printf 'export SLURM_CONF=%q MOLEFLOW_SLURM_DIR=%q\n' "$SLURM_CONF" "$dir"; exit ;;
  up | down | wipe | status | kill-node | start-node) [ "$(id -u)" = 0 ] || die "$1: needs root, and this is $(id -un)" ;;
  *) sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//; p}' "$0"; exit 2 ;;
esac
if [ "$1" != status ] && [ -z "${MOLEFLOW_SLURM_LOCKED:-}" ]; then  # One command at a time; no daemon inherits the lock.
  MOLEFLOW_SLURM_LOCKED=1 exec flock --close "$0" "$0" "$@"
fi
if [[ $1 = *-node ]]; then
  name=${2-} node=n${name#n}
  [[ $node =~ ^n[1-9][0-9]*$ ]] && [ "${node#n}" -le "$nodes" ] || die "$1: given '$name', allowed: n1 to n$nodes"
fi
case $1 in
  up | down | status) $1 ;;
  wipe) down; if ours; then rm -rf -- "$dir"; fi ;;
  kill-node) kill_host "$node" ;;
  start-node) start_node "$node"; wait_for "$node" revive ;;
esac
