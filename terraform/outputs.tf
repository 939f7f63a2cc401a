# For the next steps: the values of the gke overlay, and commands.

output "project_env" {
  description = "The contents of kubernetes/overlays/gke/project.env: terraform output -raw project_env > …"
  value       = <<-EOT
    # The project's values for the manifests, written by `terraform output -raw project_env`.
    PROJECT_ID=${var.project_id}
    SERVICE_ACCOUNT_DOMAIN=${var.project_id}.iam.gserviceaccount.com
    API_HOST=${var.api_host}
    EXPORT_URL=${google_storage_bucket.export.url}
    EXPORT_BIGQUERY_TABLE=${var.project_id}.${google_bigquery_table.events.dataset_id}.${google_bigquery_table.events.table_id}
  EOT
}

output "registry" {
  description = "The prefix of image names."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}

output "api_url" {
  description = "The API's URL, valid after its DNS name and its certificate exist."
  value       = "https://${var.api_host}"
}

output "dns_records" {
  description = "The records for the domain's zone: the API's address, and the proof that Google requires for the certificate."
  value = concat(
    ["${var.api_host}. A ${google_compute_global_address.api.address}"],
    [for record in google_certificate_manager_dns_authorization.api.dns_resource_record : "${record.name} ${record.type} ${record.data}"],
  )
}

output "nat_address" {
  description = "The source address of the cluster's connections: allow it at Kafka and MongoDB."
  value       = google_compute_address.nat.address
}

output "get_credentials" {
  description = "The command that configures kubectl for the cluster."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.pulse.name} --project ${var.project_id} --region ${var.region} --dns-endpoint"
}

output "secrets" {
  description = "The secrets that need a value before the pods can start."
  value       = sort(keys(google_secret_manager_secret.pulse))
}

output "service_accounts" {
  description = "The Google service account of each workload."
  value       = { for workload, account in google_service_account.workload : workload => account.email }
}

output "export" {
  description = "The destination of exports, and the account to act as."
  value = {
    bucket          = google_storage_bucket.export.url
    table           = "${var.project_id}:${google_bigquery_table.events.dataset_id}.${google_bigquery_table.events.table_id}"
    service_account = google_service_account.workload["export"].email
  }
}
