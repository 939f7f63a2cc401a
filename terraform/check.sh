#!/usr/bin/env bash
# check.sh [FOLDER]: format, then `terraform validate` and `terraform test`, of this folder or of a copy of it. No account is
# needed. Where the registry of providers cannot be reached, TERRAFORM_CHECK may name a program that is called with a folder
# and a terraform command, and knows the provider's schema from elsewhere.
set -euo pipefail
folder=$(cd "${1:-$(dirname "$0")}" && pwd)
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1
command -v terraform >/dev/null || { echo "terraform is not installed." >&2; exit 2; }

terraform fmt -check -diff -recursive "$folder"

# A copy, so that no .terraform is left behind; alerts.yml is a link to another folder.
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
