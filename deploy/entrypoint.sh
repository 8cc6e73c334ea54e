#!/bin/sh
# What the container runs: `qwen3vl-ros COMMAND ...`, where COMMAND is node unless one is given. For the node,
# environment variables become parameters and topics: docs/deploy.md. What is given as --ros-args wins.
set -eu

quoted() { # as YAML, in which a model called 2e3 would be a number
  printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"
}

command=${1:-node}
[ $# -eq 0 ] || shift
[ "$command" = node ] || exec qwen3vl-ros "$command" "$@"

engine=${QWEN3VL_ENGINE:-auto}
case $engine in auto) of_model=llama ;; *) of_model=$engine ;; esac
case $engine in maix_http) address="maix_http.base_url:=$(quoted "${QWEN3VL_BASE_URL:-}")" ;;
                *) address="openai.base_urls:=[$(quoted "${QWEN3VL_BASE_URL:-}")]" ;; esac
set -- -- "$@"
[ -z "${QWEN3VL_DEPTH:-}" ] || set -- -r "depth:=$QWEN3VL_DEPTH" "$@"
[ -z "${QWEN3VL_IMAGE:-}" ] || set -- -r "image:=$QWEN3VL_IMAGE" "$@"
[ -z "${QWEN3VL_BASE_URL:-}" ] || set -- -p "$address" "$@"
[ -z "${QWEN3VL_MODEL:-}" ] || set -- -p "$of_model.model:=$(quoted "$QWEN3VL_MODEL")" "$@"
[ -z "${QWEN3VL_ENGINE:-}" ] || set -- -p "engine:=$(quoted "$engine")" "$@"
[ -z "${QWEN3VL_PARAMS_FILE:-}" ] || set -- --params-file "$QWEN3VL_PARAMS_FILE" "$@"
exec qwen3vl-ros node --ros-args "$@"
