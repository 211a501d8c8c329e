#!/bin/sh
# install.sh TARGET: makes /opt/stageline, a virtual environment with what compose/locks pin for TARGET (control or
# stage) on this processor and Python. install.sh self: adds Stageline, from the source in /src.
# Wheels come from /wheels alone if any are there, so that nothing else is reached, else from pip's index.
# TORCH=base: the base image brings torch.
set -eu
tag=$(python3 -c 'import platform, sys; print("%d.%d-%s" % (*sys.version_info[:2], platform.machine()))')
venv=/opt/stageline
tools=/tmp/tools
locks=/src/compose/locks
source=
ls /wheels/*.whl >/dev/null 2>&1 && source="--no-index --find-links /wheels"

lock() {
  test -e "$locks/$1-$tag.txt" || { echo "nothing is pinned for $1 on $tag: run compose/lock.py with it, or choose another BASE" >&2; exit 1; }
  echo "$locks/$1-$tag.txt"
}

install() { # PYTHON REQUIREMENTS PIP...
  python=$1 file=$2; shift 2
  "$@" --python "$python" install --quiet --disable-pip-version-check --no-cache-dir --root-user-action ignore \
    --only-binary :all: --no-deps --require-hashes $source -r "$file"
}

if [ ! -x $tools/bin/python ]; then
  if [ -n "$source" ]; then pip="python3 $(ls /wheels/pip-*.whl)/pip"; else pip="python3 -m pip"; fi
  python3 -m venv --without-pip $tools
  install $tools/bin/python "$(lock build)" $pip
fi
pip="$tools/bin/python -m pip"
if [ "$1" = self ]; then
  cd /src && $tools/bin/python -m hatchling build -t wheel -d /tmp/dist >/dev/null
  $pip --python $venv/bin/python install --quiet --no-cache-dir --root-user-action ignore --no-index --no-deps /tmp/dist/*.whl
  [ "${TORCH:-}" = base ] || $pip --python $venv/bin/python check
  exit
fi
python3 -m venv --without-pip $([ "${TORCH:-}" != base ] || echo --system-site-packages) $venv
install $venv/bin/python "$(lock "$1")" $pip
if [ "$1" = stage ] && [ "${TORCH:-}" != base ]; then
  [ -n "$source" ] || source="--extra-index-url $TORCH_INDEX"
  install $venv/bin/python "$(lock torch)" $pip
fi
