#!/usr/bin/env bash
# Make a container image with nothing but a shell, coreutils and python3, offline but for Debian's
# packages (no registry of images can be reached), and see that podman runs it. Run as root; doing it
# twice does no harm. Nothing is left running.
#
#   start-image.sh FOLDER [IMAGE [PACKAGE...]]     e.g. start-image.sh /tmp/image localhost/civis-test:latest
#   eval "$(start-image.sh FOLDER)"                its only output: export CIVIS_TEST_IMAGE=...
#
# IMAGE_REMOVE=1 removes the image and everything of this FOLDER again.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive
folder=${1:?usage: start-image.sh FOLDER [IMAGE [PACKAGE...]]}
image=${2:-localhost/civis-test:latest}
shift $(($# > 2 ? 2 : $#))
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
say() { echo "start-image: $*" >&2; }
[ "$(id -u)" = 0 ] || { say "must be root"; exit 2; }

if [ -n "${IMAGE_REMOVE:-}" ]; then
    podman rmi -f "$image" >/dev/null 2>&1 || true
    rm -rf "${folder:?}"
    exit 0
fi

# runc and not crun: crun 1.8 refuses where cgroup v1 and v2 are both mounted.
missing=()
for package in podman runc; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$folder/apt.log" 2>&1 ||
        { tail -20 "$folder/apt.log" >&2; exit 1; }
fi

if ! podman image exists "$image"; then
    # Not debootstrap, which runs every package's scripts (minutes): the packages are only unpacked.
    rm -rf "$folder/debs" "$folder/root"
    mkdir -p "$folder/debs/partial" "$folder/root"
    : >"$folder/status"
    [ -n "$(ls /var/lib/apt/lists/*Packages* 2>/dev/null)" ] || apt-get update -qq
    apt-get -qq -y -o Dir::State::status="$folder/status" -o Dir::Cache::archives="$folder/debs" \
        -o APT::Install-Recommends=0 -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
        install --download-only python3 dash coreutils grep sed base-files ca-certificates- "$@" \
        >"$folder/download.log" 2>&1 || { tail -20 "$folder/download.log" >&2; exit 1; }
    for package in "$folder"/debs/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
    (
        cd "$folder/root"
        rm -rf usr/share/doc usr/share/man usr/share/locale
        [ -e bin/sh ] || ln -s dash bin/sh
        mkdir -p tmp root proc sys dev run etc
        chmod 1777 tmp
        echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
        echo 'root:x:0:' >etc/group
    )
    tar -C "$folder/root" -c . |
        podman import -q --change 'CMD ["/bin/sh"]' \
            --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$image" >/dev/null
    rm -rf "$folder/root" "$folder/debs"
fi

# podman asks for more files and processes than root in a container may set; the platform does not.
run="podman --runtime runc run --network=none --ulimit=nofile=1024:1024 --ulimit=nproc=1024:1024"
said=$($run --rm "$image" python3 -c 'import ssl, http.client; print("here")' 2>&1) || true
[ "$said" = here ] || { say "the container said: $said"; exit 1; }
say "$image runs ($(podman image inspect --format '{{.Size}}' "$image" | awk '{printf "%d MB", $1 / 1e6}'))"
echo "export CIVIS_TEST_IMAGE=$image"
