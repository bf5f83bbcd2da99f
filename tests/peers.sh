#!/bin/sh
# Installs the programs that tests compare against: Orthanc (archive), DCMTK, dicom3tools (dciodvfy), BART,
# g++, which compiles the CUDA kernels for a CPU, and Chromium, in which the console page is tested.
# Does nothing where they are present; says so and succeeds where they cannot be installed, unless
# ISOCENTER_REQUIRE_PEERS=1.
set -eu

missing() {
    for pair in Orthanc:orthanc dcmdump:dcmtk dciodvfy:dicom3tools bart:bart unshare:util-linux ip:iproute2 g++:g++ \
        chromium:chromium; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s ' "${pair##*:}"
    done
}

packages=$(missing)
[ -z "$packages" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "peers: installing $packages"
    # Orthanc must not start its own service on all addresses: the tests run it in a network of its own.
    policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; }
    apt-get update -qq || true
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null || true
fi

packages=$(missing)
[ -z "$packages" ] && exit 0
echo "peers: not available: $packages(needs root on Debian); tests that need them will be skipped" >&2
[ "${ISOCENTER_REQUIRE_PEERS:-0}" = 1 ] && exit 1
exit 0
