# The registry of the images.

resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:Google's own keys encrypt it; the images are of public code.
  repository_id = local.name
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the API and the consumer, tagged with their commit."

  # A tag is a commit and never moves: the tested image runs, and a rollback gets the image that it names.
  docker_config {
    immutable_tags = true
  }

  vulnerability_scanning_config {
    enablement_config = "INHERITED"
  }

  cleanup_policy_dry_run = false

  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "7776000s" # 90 days
    }
  }

  cleanup_policies {
    id     = "keep-for-rollbacks" # keep has precedence over delete
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }

  depends_on = [google_project_service.needed]
}
