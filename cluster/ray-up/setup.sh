#!/usr/bin/env bash
# Install augft and the pinned Ray into ~/venv on a node of a `ray up` cluster: Ubuntu or Debian, any user with sudo.
#
#   setup.sh [PACKAGE]...      packages that only the head needs: what its autoscaler talks to the cloud with
#
# uv brings the Python that the container images have, whatever the machine image comes with, and picks the build of
# PyTorch by the driver that it finds: CUDA's on a GPU node, the small one elsewhere.
set -euo pipefail

python=3.11
uv=0.13.9

project=$HOME/augft
chmod 600 "$HOME/.ray/augft-token"

if [ ! -x "$HOME/tools/bin/uv" ]; then
    sudo apt-get update --quiet
    sudo apt-get install --quiet --yes python3-venv
    python3 -m venv "$HOME/tools"
    "$HOME/tools/bin/pip" install --quiet "uv==$uv"
fi
if [ ! -x "$HOME/venv/bin/python" ]; then
    "$HOME/tools/bin/uv" venv --python "$python" "$HOME/venv"
fi
"$HOME/tools/bin/uv" pip install --python "$HOME/venv/bin/python" --torch-backend=auto \
    --constraint "$project/cluster/constraints.txt" "$project" "$@"

if ! grep -qs ray-up/node.env "$HOME/.bashrc"; then
    echo '. ~/augft/cluster/ray-up/node.env' >>"$HOME/.bashrc"
fi
