# The bucket of exports from MongoDB, from which BigQuery loads them.

resource "google_storage_bucket" "export" {
  #checkov:skip=CKV_GCP_62:A bucket's access log needs another bucket; Cloud Audit Logs record each access.
  name     = "${var.project_id}-pulse-export" # bucket names are global, so it begins with the project's id
  location = var.region

  storage_class               = "STANDARD" # each object is read once, soon after its creation
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true # an overwritten export can be restored
  }

  # An export can be repeated from MongoDB.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = 90
    }
  }

  # With versions, the first rule only makes an object noncurrent; this rule deletes it.
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
    retention_duration_seconds = 0 # versions already protect objects; soft delete would cost extra
  }

  depends_on = [google_project_service.needed]
}
