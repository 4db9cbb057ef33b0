#!/usr/bin/env bash
# Bring up a docker daemon of one's own, in one folder, without systemd: it shares nothing with one that
# may run here already, and changes neither firewall nor network. Run as root. Doing it twice does no harm.
#
#   start-docker.sh FOLDER [IMAGE...]   with these images of podman's in it
#   eval "$(start-docker.sh FOLDER)"    its only output is  export DOCKER_HOST=...
#   start-docker.sh FOLDER install      install the packages, and start nothing
#   start-docker.sh FOLDER stop         end it, and remove everything of this FOLDER
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive
folder=${1:?usage: start-docker.sh FOLDER [install | stop | IMAGE...]}
shift
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
say() { echo "start-docker: $*" >&2; }
[ "$(id -u)" = 0 ] || { say "must be root"; exit 2; }

if ! command -v docker >/dev/null || ! command -v dockerd >/dev/null; then
    say "installing docker.io"
    # The package's own daemon must not start.
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made_policy=1; fi
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends docker.io; } >"$folder/apt.log" 2>&1 ||
        { tail -20 "$folder/apt.log" >&2; exit 1; }
    [ -z "$made_policy" ] || rm -f $policy
fi
[ "${1:-}" != install ] || exit 0

export DOCKER_HOST=unix://$folder/docker.sock
if [ "${1:-}" = stop ]; then
    # It ends its containers, and the daemon that it has started.
    if pid=$(cat "$folder/pid" 2>/dev/null) && kill "$pid" 2>/dev/null; then
        for _ in $(seq 300); do [ -e "/proc/$pid" ] || break; sleep 0.1; done
    fi
    umount "$folder"/exec/netns/* 2>/dev/null || true
    rm -rf "${folder:?}"
    exit 0
fi

if ! docker info >/dev/null 2>&1; then
    setsid dockerd --data-root "$folder/root" --exec-root "$folder/exec" --host "$DOCKER_HOST" --pidfile "$folder/pid" \
        --iptables=false --ip-forward=false --bridge=none >"$folder/log" 2>&1 </dev/null &
    disown
    for _ in $(seq 300); do ! docker info >/dev/null 2>&1 || break; sleep 0.1; done
    docker info >/dev/null 2>&1 || { say "dockerd did not come up"; tail -15 "$folder/log" >&2; exit 1; }
fi
for image in "$@"; do
    docker image inspect "$image" >/dev/null 2>&1 || podman save -q "$image" | docker load -q >&2
done
echo "export DOCKER_HOST=$DOCKER_HOST"
