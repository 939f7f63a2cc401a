# Permissions: one account for the nodes, one for each workload. No account has a key.

# ── Nodes: pull images, write logs and metrics ──

resource "google_service_account" "nodes" {
  account_id   = "${local.name}-nodes"
  display_name = "Pulse: the cluster's nodes"

  depends_on = [google_project_service.needed]
}

resource "google_project_iam_member" "nodes" {
  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount" # logs, metrics, autoscaling figures
  member  = google_service_account.nodes.member
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes.member
}

# ── Workloads: each may read only its own secrets; the export may also write to its bucket and table ──

resource "google_service_account" "workload" {
  for_each = local.workloads

  account_id   = "${local.name}-${each.key}"
  display_name = "Pulse: ${each.key}"

  depends_on = [google_project_service.needed]
}

# The Kubernetes service account of the same name acts as it.
resource "google_service_account_iam_member" "workload_identity" {
  for_each = local.workloads

  service_account_id = google_service_account.workload[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project_id}.svc.id.goog[${local.namespace}/${local.name}-${each.key}]"

  depends_on = [google_container_cluster.pulse] # which creates the project's identity pool
}

resource "google_secret_manager_secret_iam_member" "workload" {
  for_each = merge([for workload, secrets in local.workloads : { for secret in secrets : secret => workload }]...)

  secret_id = google_secret_manager_secret.pulse[each.key].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.workload[each.value].member
}

# ── Exports: the CronJob writes stored events to the bucket, and loads them into the one table ──

moved {
  from = google_service_account.export
  to   = google_service_account.workload["export"]
}

# Operators who export manually act as it.
resource "google_service_account_iam_member" "export" {
  for_each = var.export_members

  service_account_id = google_service_account.workload["export"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.key
}

resource "google_storage_bucket_iam_member" "export" {
  bucket = google_storage_bucket.export.name
  role   = "roles/storage.objectUser"
  member = google_service_account.workload["export"].member
}

resource "google_bigquery_table_iam_member" "export" {
  dataset_id = google_bigquery_table.events.dataset_id
  table_id   = google_bigquery_table.events.table_id
  role       = "roles/bigquery.dataEditor"
  member     = google_service_account.workload["export"].member
}

resource "google_project_iam_member" "export_jobs" {
  project = var.project_id
  role    = "roles/bigquery.jobUser" # a load is a job of the project; this role gives no access to data
  member  = google_service_account.workload["export"].member
}
