# Places for secrets. Their values are added with gcloud (README.md, step 4), so that the state never holds them.

resource "google_secret_manager_secret" "pulse" {
  for_each = toset(flatten(values(local.workloads)))

  secret_id = each.key

  replication {
    user_managed {
      replicas {
        location = var.region # with the events
      }
    }
  }

  # A version that is disabled by mistake can be had back for a day.
  version_destroy_ttl = "86400s"

  depends_on = [google_project_service.needed]
}
