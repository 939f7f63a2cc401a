# Where the images are.

resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:Google's own keys encrypt it; a key of ours would protect images of public code.
  repository_id = local.name
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the API and the consumer, tagged with the commit they were built from."

  # A tag is a commit: what was tested is what runs, and a rollback finds what it names.
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
    id     = "keep-for-rollbacks" # a keep outranks a delete
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }

  depends_on = [google_project_service.needed]
}
