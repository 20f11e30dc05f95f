# Sourced by the scripts in this folder: where the tree is, progress lines, errors.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=tools/$(basename "$0")
SECONDS=0

# Says what happens now, with the time since the script began.
say() { printf '[%3d:%02d] %s: %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$program" "$*" >&2; }

die() {
  printf '%s: %s\n' "$program" "$*" >&2
  exit 1
}

# Prints the calling script's opening comment.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }
