#!/usr/bin/env bash
# Fetch the checkpoints and example data that RePaint published into data/. See usage() and data/README.md.
set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
record=$root/data/checksums.txt
openai_url=${PENUMBRA_OPENAI_URL:-https://openaipublic.blob.core.windows.net/diffusion/jul-2021}
drive_url=${PENUMBRA_DRIVE_URL:-}
again=75
failed=

usage() {
  cat <<'END'
usage: bash download.sh [faces] [places2] [imagenet] [data]      (nothing named: all four)
  faces     data/pretrained/celeba256_250000.pt    (Google Drive, about 2 GB)
  places2   data/pretrained/places256_300000.pt    (Google Drive, about 2 GB)
  imagenet  data/pretrained/256x256_diffusion.pt and 256x256_classifier.pt   (OpenAI, about 2.5 GB)
  data      data/datasets/gts/ and gt_keep_masks/  (Google Drive: RePaint's faces and masks)
Run it again after an interruption; it resumes. data/checksums.txt records the SHA-256 of each file at its first
download; later runs compare with it. Exit: 0 = all there, 1 = some failed (each is named), 2 = wrong argument.
Mirrors: PENUMBRA_OPENAI_URL=URL (files as URL/NAME), PENUMBRA_DRIVE_URL=URL (files as URL/DRIVE_ID, without gdown).
PENUMBRA_MIN_BYTES=N replaces the smallest size that a file may have.
END
}

have() { command -v "$1" >/dev/null 2>&1; }

complain() { # FILE REASON
  echo "download.sh: $1: $2" >&2
}

python() {
  if [ -x "$root/.venv/bin/python" ]; then "$root/.venv/bin/python" "$@"; else python3 "$@"; fi
}

gdown_tool() {
  if [ -x "$root/.venv/bin/gdown" ]; then
    "$root/.venv/bin/gdown" "$@"
  elif have gdown; then
    gdown "$@"
  elif python -c 'import gdown' 2>/dev/null; then
    python -m gdown "$@"
  else
    echo "download.sh: gdown is missing; run 'python3 -m pip install gdown'" >&2
    return 1
  fi
}

sha256() { # FILE -> 64 hexadecimal digits
  if have sha256sum; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -c 1-64
}

recorded() { # NAME -> the recorded digits, or nothing
  [ ! -f "$record" ] || awk -v name="$1" '$2 == name { print $1; exit }' "$record"
}

kind() { # FILE -> zip, pickle or other, from the first two bytes
  case $(od -An -tx1 -N2 "$1" | tr -d ' \n') in
    504b) echo zip ;;
    80??) echo pickle ;;
    *) echo other ;;
  esac
}

fault() { # FILE MIN_BYTES -> what is wrong with a complete download, or nothing
  local size found
  size=$(($(wc -c <"$1")))
  found=$(kind "$1")
  if [ "$found" = other ] && head -c 1024 "$1" | grep -aicE '<html|<!doctype' >/dev/null; then
    echo "is a web page (a quota or login page?), not the file"
  elif [ "$found" = other ]; then
    echo "is neither a checkpoint nor an archive"
  elif [ "$size" -lt "${PENUMBRA_MIN_BYTES:-$2}" ]; then
    echo "is suspiciously small: $size bytes, at least ${PENUMBRA_MIN_BYTES:-$2} expected"
  elif [ "$found" = zip ] && ! tail -c 65557 "$1" | grep -ac $'PK\005\006' >/dev/null; then
    echo "is cut short: the end of its zip directory is missing"
  else
    case ${1##*/} in
      *.zip | *.zip.unchecked) intact_zip "$1" || echo "is not an intact zip archive" ;;
    esac
  fi
}

intact_zip() { # FILE: read every member and compare its CRC
  [ "$(kind "$1")" = zip ] &&
    python -c 'import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)' "$1" 2>/dev/null
}

fetch_http() { # URL NAME.unchecked: resume NAME.part; rename it to NAME.unchecked when the transfer is complete
  local part=${2%.unchecked}.part status
  for _ in 1 2 3 4; do
    # A saved error page must not be continued with bytes of the file.
    if [ -s "$part" ] && [ "$(kind "$part")" = other ]; then rm -f "$part"; fi
    status=0
    if have curl; then curl_part "$1" "$part" || status=$?; else wget_part "$1" "$part" || status=$?; fi
    case $status in
      0)
        mv "$part" "$2"
        return
        ;;
      "$again") ;;
      *) return 1 ;;
    esac
  done
  return 1
}

curl_part() { # URL PART -> 0, $again if another try may help, or 1
  local meter=--silent status=0 code
  if [ -t 2 ]; then meter=--progress-bar; fi
  code=$(curl "$meter" --show-error --fail --location --connect-timeout 30 --speed-limit 1 --speed-time 60 \
    --continue-at - --output "$2" --write-out '%{http_code}' "$1") || status=$?
  # 33: the server cannot resume. 416: the partial file is longer than the server's file, so it is another file.
  if [ "$status" = 33 ] || [ "$code" = 416 ]; then
    rm -f "$2"
    return "$again"
  fi
  case $status in
    0) ;;
    18 | 28 | 56 | 92) return "$again" ;; # cut, stalled, reset, HTTP/2 stream broken
    *) return 1 ;;
  esac
}

wget_part() { # URL PART -> the same as curl_part
  local meter=-nv status=0
  if [ -t 2 ]; then meter=; fi
  # shellcheck disable=SC2086
  wget $meter -c -t 1 -T 60 -O "$2" "$1" || status=$?
  [ -s "$2" ] || rm -f "$2"
  case $status in
    0) ;;
    4) return "$again" ;; # network failure
    *) return 1 ;;
  esac
}

fetch_gdown() { # ID_OR_URL NAME.unchecked: gdown keeps its own partial file, NAME.unchecked*.part
  local options="--continue"
  if [ ! -t 2 ]; then options="$options --quiet"; fi
  # Older releases have no --retries.
  if gdown_tool --help 2>/dev/null | grep -c -e --retries >/dev/null; then options="$options --retries 3"; fi
  # shellcheck disable=SC2086
  gdown_tool $options -O "$2" "$1"
}

address() { # SOURCE -> address for a browser
  case $1 in
    *://*) echo "$1" ;;
    *) echo "https://drive.google.com/uc?id=$1" ;;
  esac
}

fetch() { # SOURCE TARGET: a Google Drive id, or a URL
  local url=$1
  case $url in
    *://*) ;;
    *) url=${drive_url:+$drive_url/$1} ;;
  esac
  if [ -n "$url" ] && { have curl || have wget; }; then
    fetch_http "$url" "$2"
  else
    fetch_gdown "${url:-$1}" "$2"
  fi
}

agrees() { # NAME SUM REMEDY: compare with the recorded checksum, or record it
  local known
  known=$(recorded "$1")
  if [ -z "$known" ]; then
    printf '%s  %s\n' "$2" "$1" >>"$record"
  elif [ "$known" != "$2" ]; then
    complain "data/$1" "SHA-256 is $2, but data/checksums.txt recorded $known; $3"
    return 1
  fi
}

verify() { # NAME MIN_BYTES: check a file that is already there
  local file=$root/data/$1 reason sum
  reason=$(fault "$file" "$2")
  if [ -n "$reason" ]; then
    complain "data/$1" "$reason; delete it and run again"
    return 1
  fi
  sum=$(sha256 "$file")
  agrees "$1" "$sum" "delete the file and run again, or delete its line there if you changed it on purpose" || return 1
  echo "data/$1: already there (SHA-256 $sum)"
}

obtain() { # NAME MIN_BYTES SOURCE: download and check; NAME is relative to data/
  local file=$root/data/$1 fresh=$root/data/$1.unchecked reason sum
  mkdir -p "${file%/*}"
  if [ -e "$file" ]; then
    verify "$1" "$2"
    return
  fi
  echo "data/$1: downloading"
  # A run that was killed between transfer and check leaves a complete file that is not checked yet.
  if [ ! -e "$fresh" ] && ! fetch "$3" "$fresh"; then
    complain "data/$1" "the download failed; run again to resume, or delete data/$1.* to start over"
    return 1
  fi
  reason=$(fault "$fresh" "$2")
  if [ -n "$reason" ]; then
    rm -f "$fresh"
    complain "data/$1" "what arrived $reason; try later, or save $(address "$3") under that name with a browser"
    return 1
  fi
  sum=$(sha256 "$fresh")
  if ! agrees "$1" "$sum" "the download was deleted; delete that line if the publisher changed the file"; then
    rm -f "$fresh"
    return 1
  fi
  mv "$fresh" "$file" || return 1
  echo "data/$1: done (SHA-256 $sum)"
}

unpack() { # ZIP: move its folders gts/ and gt_keep_masks/ to data/datasets/; keep the files that exist
  local target=$root/data/datasets work=$root/data/datasets/.unpack folder top file
  rm -rf "$work"
  python -m zipfile -e "$1" "$work" || return 1
  for folder in gts gt_keep_masks; do
    top=$(find "$work" -name __MACOSX -prune -o -type d -name "$folder" -print -quit)
    if [ -z "$top" ]; then
      complain "data/datasets/data.zip" "has no folder $folder; delete it and run again"
      return 1
    fi
    (cd "$top" && find . -type f) | while IFS= read -r file; do
      if [ ! -e "$target/$folder/$file" ]; then
        mkdir -p "$target/$folder/${file%/*}" && mv "$top/$file" "$target/$folder/$file" || exit 1
      fi
    done || return 1
  done
  rm -rf "$work"
}

item() { # NAME MIN_BYTES SOURCE: obtain, and record a failure
  if ! obtain "$@"; then
    failed="$failed data/$1"
    return 1
  fi
}

group() { # WORD: one of the four; the smallest sizes are far below those of the published files
  case $1 in
    faces) item pretrained/celeba256_250000.pt 1000000000 1norNWWGYP3EZ_o05DmoW1ryKuKMmhlCX ;;
    places2) item pretrained/places256_300000.pt 1000000000 1QEl-btGbzQz6IwkXiFGd49uQNTUtTHsk ;;
    imagenet)
      item pretrained/256x256_diffusion.pt 1000000000 "$openai_url/256x256_diffusion.pt" || true
      item pretrained/256x256_classifier.pt 100000000 "$openai_url/256x256_classifier.pt"
      ;;
    data)
      item datasets/data.zip 100000 1Q_dxuyI41AAmSv9ti3780BwaJQqwvwMv || return 0
      unpack "$root/data/datasets/data.zip" || failed="$failed data/datasets"
      ;;
  esac
}

for word in "$@"; do
  case $word in
    faces | places2 | imagenet | data) ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      echo "download.sh: unknown argument '$word'" >&2
      usage >&2
      exit 2
      ;;
  esac
done
have sha256sum || have shasum || { complain sha256sum "not found, nor shasum; install coreutils" && exit 1; }
python -c '' 2>/dev/null || { complain python3 "not found; install Python 3.10 or newer" && exit 1; }
trap 'exit 130' INT TERM
if [ $# = 0 ]; then set -- faces places2 imagenet data; fi
for word in "$@"; do group "$word" || true; done
if [ -n "$failed" ]; then
  echo "download.sh: failed:$failed" >&2
  exit 1
fi
