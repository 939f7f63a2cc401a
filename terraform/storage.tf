# Where exports from MongoDB are put before BigQuery loads them.

resource "google_storage_bucket" "export" {
  #checkov:skip=CKV_GCP_62:Its own access log would go to another bucket; Cloud Audit Logs have who read what.
  name     = "${var.project_id}-pulse-export" # bucket names are the world's, so the project's comes first
  location = var.region

  storage_class               = "STANDARD" # read once, soon
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true # an export that is written over can be had back
  }

  # An export can be made again from MongoDB.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = 90
    }
  }

  # With versions, the first rule only hides an object; this one ends it.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 7
      with_state                 = "ARCHIVED"
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }

  soft_delete_policy {
    retention_duration_seconds = 0 # versions do that already, once is enough to pay
  }

  depends_on = [google_project_service.needed]
}
