# Empty secrets. Add their values with gcloud (README.md, step 4), so that the state never contains them.

resource "google_secret_manager_secret" "pulse" {
  for_each = toset(flatten(values(local.workloads)))

  secret_id = each.key

  replication {
    user_managed {
      replicas {
        location = var.region # the region of the events
      }
    }
  }

  # A destroyed version can be restored for a day.
  version_destroy_ttl = "86400s"

  depends_on = [google_project_service.needed]
}
