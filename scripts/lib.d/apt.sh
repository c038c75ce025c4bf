# Sourced by scripts that install Debian packages. Nothing here names a mirror: it is read from this machine's own sources.
# shellcheck shell=bash

# What a log line of a script begins with.
say() { echo "${0##*/}: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# apt_locked CMD…: runs CMD while no other script of ours uses apt. apt waits for dpkg's lock, but not for that of its lists.
apt_locked() {
  (
    flock 8
    DEBIAN_FRONTEND=noninteractive "$@"
  ) 8>/var/lock/zmigrate-apt.lock
}

# apt_get ARGS…: apt-get, quiet, and patient if another package manager is at work.
apt_get() { apt_locked apt-get -qq -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@"; }

# apt_mirror: the first Debian mirror among this machine's sources, in the form of deb822 or of one line.
apt_mirror() {
  local m
  # shellcheck disable=SC2016 # apt's own variables
  m=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Origin: Debian" "Codename: bookworm" 2>/dev/null | awk 'NR==1')
  [ -n "$m" ] || m=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/*.sources 2>/dev/null)
  [ -n "$m" ] || m=$(awk '$1=="deb"{for (i=2; i<=NF; i++) if ($i ~ /^https?:/) {print $i; exit}}' /etc/apt/sources.list 2>/dev/null)
  [ -n "$m" ] || die "no Debian mirror in this machine's apt sources"
  echo "${m%/}"
}

# apt_suite SUITE COMPONENT: makes a component of a suite known to apt, if it is not, in a file of our own.
apt_suite() {
  compgen -G '/var/lib/apt/lists/*_InRelease' >/dev/null || apt_get update
  # shellcheck disable=SC2016 # apt's own variables
  if apt-get indextargets --format '$(CODENAME) $(COMPONENT)' "Created-By: Packages" 2>/dev/null | grep -x "$1 $2" >/dev/null; then return 0; fi
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(apt_mirror) $1 $2" >>/etc/apt/sources.list.d/zmigrate.list
  apt_get update
}

# apt_missing PKG…: those of the packages that are not installed.
apt_missing() {
  local p
  for p in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
  done
}

# apt_need [-t SUITE] PKG…: installs what is missing; fetches the lists first if apt does not know a package or an archive is gone.
apt_need() {
  local suite=() missing
  if [ "$1" = -t ]; then
    suite=(-t "$2")
    shift 2
  fi
  mapfile -t missing < <(apt_missing "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "needs root to install: ${missing[*]}"
  say "installing ${missing[*]}"
  if apt_get install --no-install-recommends "${suite[@]}" "${missing[@]}" >/dev/null 2>&1; then return 0; fi
  apt_get update
  apt_get install --no-install-recommends "${suite[@]}" "${missing[@]}" >/dev/null
}
