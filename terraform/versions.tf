# Which Terraform, which provider, and where the state is kept.

terraform {
  # 1.11: the tests override resources during a plan.
  required_version = "~> 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7" # any 8 from 8.7 on; a 9 may rename arguments
    }
  }

  # The state holds names and addresses, no secrets, but losing it is costly: a versioned bucket of its own, made once by
  # hand (README.md, step 1), and named at `terraform init -backend-config=bucket=…`.
  backend "gcs" {
    prefix = "pulse-pipeline"
  }
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = local.labels
}
