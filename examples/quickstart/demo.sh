#!/bin/sh
# `make demo`: what happens to a bundle when somebody breaks it. Every command is shown before it runs, its exit code after.
# Nothing outlasts it: the database is a temporary SQLite file.
set -eu
cd "$(dirname "$0")"
AIRFLOW_PYTHON=${AIRFLOW_PYTHON:-../../.venvs/airflow-3.3/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
export DAGBUNDLE_DATABASE_URL="sqlite:///$folder/demo.db"
export AIRFLOW_HOME="$folder/airflow"

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi

say() {
    printf '\n'
    for line in "$@"; do printf '%s# %s%s\n' "$bold" "$line" "$plain"; done
}

# expect CODE COMMAND…: run a command that must end with CODE.
expect() {
    wanted=$1
    shift
    printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
    code=0
    "$@" || code=$?
    if [ "$code" -ne 0 ]; then printf '(exit code %s)\n' "$code"; fi
    if [ "$code" -ne "$wanted" ]; then
        echo "demo: this should have ended with exit code $wanted" >&2
        exit 1
    fi
}

apply() {
    resource=$1 version=$2
    shift 2
    expect "$code_wanted" dagbundle apply --local -f "$resource" --folder "$version" --grants grants.yaml \
        --python "$AIRFLOW_PYTHON" "$@"
}

say 'Team sales publishes the first version of its bundle: two subdirectories, DAGs in Python and in YAML.'
code_wanted=0 apply bundle.yaml v1
expect 0 dagbundle get dags

say 'In the second version somebody renamed a constant that two files share. What would happen?' \
    'Two DAGs change, one file cannot be imported any more, and one DAG is gone.'
code_wanted=3 apply bundle.yaml v2 --dry-run

say 'A stricter bundle allows no DAG to be removed. The guard blocks, and everything stays as it was.'
code_wanted=4 apply bundle-strict.yaml v2

say 'With the usual guard it is published. The broken file keeps its DAG as it was, and the error is there to read.'
code_wanted=3 apply bundle.yaml v2
expect 0 dagbundle get errors
expect 0 dagbundle get dags

say 'Back to the first version: what was stored is published again, and nothing is parsed.'
expect 0 dagbundle rollback team-sales/sales
expect 0 dagbundle get dags

say 'The version that was rolled back is on hold: applying it again publishes nothing, until somebody resumes.'
code_wanted=4 apply bundle.yaml v2
expect 0 dagbundle resume team-sales/sales
expect 0 dagbundle history team-sales/sales
