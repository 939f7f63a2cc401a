# The exact permissions. The names are those of the Kubernetes manifests.

mock_provider "google" {}

variables {
  project_id  = "pulse-test-1"
  alert_email = "oncall@example.com"
  api_host    = "events.example.com"
}

run "workload_identity" {
  command = plan

  assert {
    condition = { for name, binding in google_service_account_iam_member.workload_identity : name => binding.member } == {
      api      = "serviceAccount:pulse-test-1.svc.id.goog[pulse-pipeline/pulse-api]"
      consumer = "serviceAccount:pulse-test-1.svc.id.goog[pulse-pipeline/pulse-consumer]"
      export   = "serviceAccount:pulse-test-1.svc.id.goog[pulse-pipeline/pulse-export]"
    }
    error_message = "Each Kubernetes service account must act only as the Google account of its name."
  }

  assert {
    condition     = alltrue([for binding in google_service_account_iam_member.workload_identity : binding.role == "roles/iam.workloadIdentityUser"])
    error_message = "A workload must have only one role on its account, the role to act as it."
  }

  assert {
    condition     = toset([for account in google_service_account.workload : account.account_id]) == toset(["pulse-api", "pulse-consumer", "pulse-export"])
    error_message = "The accounts must have the names of the annotations in the gke overlay."
  }
}

run "secrets" {
  command = plan

  # The account that reads each secret: each secret has one reader.
  assert {
    condition     = local.workloads.api == ["pulse-kafka-username", "pulse-kafka-password", "pulse-api-keys"] && local.workloads.consumer == ["pulse-mongo-uri"]
    error_message = "The API's account must read Kafka's user and the write keys, the consumer's account MongoDB's URI."
  }

  assert {
    condition     = toset(keys(google_secret_manager_secret_iam_member.workload)) == toset(keys(google_secret_manager_secret.pulse))
    error_message = "Each secret must have a reader, otherwise it cannot reach the cluster."
  }

  assert {
    condition     = alltrue([for grant in google_secret_manager_secret_iam_member.workload : grant.role == "roles/secretmanager.secretAccessor"])
    error_message = "Accounts may only read secrets."
  }
}

run "project_roles" {
  command = plan

  assert {
    condition     = google_project_iam_member.nodes.role == "roles/container.defaultNodeServiceAccount" && google_project_iam_member.export_jobs.role == "roles/bigquery.jobUser"
    error_message = "Accounts may have only these two roles on the whole project."
  }

  assert {
    condition     = length(google_service_account_iam_member.export) == 0
    error_message = "By default, no member may act as pulse-export."
  }
}

run "export_roles" {
  command = plan

  assert {
    condition     = google_storage_bucket_iam_member.export.role == "roles/storage.objectUser" && google_bigquery_table_iam_member.export.role == "roles/bigquery.dataEditor"
    error_message = "pulse-export may write only objects of one bucket and rows of one table."
  }
}

run "exporters" {
  command = plan

  variables {
    export_members = ["group:data@example.com"]
  }

  assert {
    condition     = google_service_account_iam_member.export["group:data@example.com"].role == "roles/iam.serviceAccountTokenCreator"
    error_message = "The given members may act as pulse-export."
  }
}
