#!/usr/bin/env bash
# check.sh [FOLDER]: checks the format, then runs `terraform validate` and `terraform test`, in this folder or in a copy
# of it, without an account. If the registry of providers is not reachable, TERRAFORM_CHECK can name a program that has
# the provider's schema; its arguments are a folder and a terraform command.
set -euo pipefail
folder=$(cd "${1:-$(dirname "$0")}" && pwd)
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1
command -v terraform >/dev/null || { echo "terraform is not installed." >&2; exit 2; }

terraform fmt -check -diff -recursive "$folder"

# In a copy, so that no .terraform remains here; alerts.yml is a link to another folder.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -RL "$folder/." "$copy"

if terraform -chdir="$copy" init -backend=false -input=false -no-color >"$copy/init.log" 2>&1; then
  terraform -chdir="$copy" validate -no-color
  terraform -chdir="$copy" test -no-color
elif [[ -n ${TERRAFORM_CHECK:-} ]]; then
  echo "terraform init found no registry of providers: $TERRAFORM_CHECK checks instead." >&2
  "$TERRAFORM_CHECK" "$copy" validate
  "$TERRAFORM_CHECK" "$copy" test
else
  cat "$copy/init.log" >&2
  exit 2
fi
