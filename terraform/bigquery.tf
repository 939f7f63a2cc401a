# The events table for analysts, with the fields of the documents in MongoDB.

resource "google_bigquery_dataset" "pulse" {
  #checkov:skip=CKV_GCP_81:Google's own keys encrypt it. Add a key if a policy requires one.
  dataset_id                 = "pulse"
  location                   = var.region
  description                = "Events of the Pulse Pipeline."
  delete_contents_on_destroy = false
  max_time_travel_hours      = 168 # a wrong load can be undone for a week

  depends_on = [google_project_service.needed]
}

resource "google_bigquery_table" "events" {
  #checkov:skip=CKV_GCP_80:The same as for the dataset.
  dataset_id  = google_bigquery_dataset.pulse.dataset_id
  table_id    = "events"
  description = "One row per event, as stored in MongoDB."

  # `make docs` writes it from the event's schemas in common/events.py.
  schema = file("${path.module}/events.schema.json")

  # Almost all queries have a time range, so a query reads, and is billed for, single days. Rows are kept, as in
  # MongoDB.
  time_partitioning {
    type  = "DAY"
    field = "timestamp"
  }
  require_partition_filter = true # otherwise a careless SELECT reads, and is billed for, the whole table

  # For queries of one customer, then of one event type.
  clustering = ["customer_id", "event_type"]

  deletion_protection = var.deletion_protection
}
