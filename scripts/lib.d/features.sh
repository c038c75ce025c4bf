# Sourced by scripts that build for tests. One set of features for all of them, or each would build the libraries again.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the one who sources it uses it

# The features that this machine can build: libzetta wants the headers of libzfs, which scripts/setup installs.
features=()
if [ -e /usr/include/libzfs/libzfs_core.h ] || pkg-config --exists libzfs_core 2>/dev/null; then features=(--all-features); fi
