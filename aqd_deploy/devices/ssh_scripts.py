"""What runs on a board: POSIX shell, with head, tail, tar, sha256sum, mktemp, find and df (or busybox).

The board keeps files under the SHA-256 of their content in `~/.cache/aqd-deploy`, and nothing else: a script
works in a folder `.run-NODE-PID-*` there, which it removes however it ends. A script that was killed cannot;
the next one to run on the board removes the folder of a process that has ended.
"""

_ENTER = """
set -e
umask 077
PATH="$PATH:/usr/bin:/bin:/usr/sbin:/sbin"
LC_ALL=C
export LC_ALL
cache="${XDG_CACHE_HOME:-$HOME/.cache}/aqd-deploy"
mkdir -p "$cache"
cd "$cache"
"""

# A shell may say no more than "I/O error" of a full disk.
_TEMPORARY = """
run=$(mktemp -d ".run-$(uname -n)-$$-XXXXXX")
full() {
  [ $? = 0 ] && return
  set -- $(df -P . 2>/dev/null | tail -n 1)
  [ "${4:-1}" != 0 ] || echo "$cache: No space left on device" >&2
}
trap 'full; cd "$cache" && rm -rf "$run"' EXIT
trap 'exit 1' HUP INT TERM PIPE
size=$1
shift
head -c "$size" | tar xf - -C "$run"
"""

# Prints the machine, then the name of every file in the cache. Files that no run has used for a month go.
LIST = (
    _ENTER
    + """
for old in .run-"$(uname -n)"-*; do
  [ -d "$old" ] || continue
  pid=${old#.run-"$(uname -n)"-}
  kill -0 "${pid%%-*}" 2>/dev/null || rm -rf "$old"
done
find . -maxdepth 1 -type f -mtime +30 -exec rm -f {} + 2>/dev/null || :
echo AQD-DEPLOY
uname -m
ls
"""
)

# $1: bytes of a tar archive on stdin, whose members are named by their SHA-256.
COPY = (
    _ENTER
    + _TEMPORARY
    + """
for file in "$run"/*; do
  sum=$(sha256sum "$file")
  if [ "${sum%% *}" != "${file##*/}" ]; then
    echo "a file arrived damaged" >&2
    exit 1
  fi
  chmod 700 "$file"
  mv "$file" "${file##*/}"
done
echo AQD-DEPLOY
"""
)

# $1: bytes of a tar archive on stdin: `links` (a line "SHA-256 path" for each file of the bundle) and the
# inputs. The rest: arguments of the runner. Answers with a tar archive of `status`, `result.json`,
# `error.txt` and `out`. stdin ends when the connection does: then the runner is stopped.
RUN = (
    _ENTER
    + _TEMPORARY
    + """
cd "$run"
while read -r sum path; do
  case "$path" in */*) mkdir -p "bundle/${path%/*}" ;; *) mkdir -p bundle ;; esac
  touch "../$sum"
  ln "../$sum" "bundle/$path" 2>/dev/null || cp "../$sum" "bundle/$path"
done < links
mkdir out
exec 3<&0
bundle/aqd-run "$@" > result.json 2> error.txt < /dev/null 3<&- &
runner=$!
( read -r _ <&3 || : ; kill "$runner" ) > /dev/null 2>&1 &
watch=$!
exec 3<&-
status=0
wait "$runner" || status=$?
kill "$watch" 2>/dev/null || :
echo "$status" > status
echo AQD-DEPLOY
tar cf - status result.json error.txt out
"""
)
