# The versions of Terraform and of the provider, and the location of the state.

terraform {
  # 1.11: tests can override resources during a plan.
  required_version = "~> 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7" # 8.7 or a later 8; version 9 may rename arguments
    }
  }

  # The state has names and addresses but no secrets, and its loss is expensive. So it has a versioned bucket of its
  # own, created manually (README.md, step 1) and named at `terraform init -backend-config=bucket=…`.
  backend "gcs" {
    prefix = "pulse-pipeline"
  }
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = local.labels
}
