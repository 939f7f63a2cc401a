# The events for analysts: a table with the fields of the documents in MongoDB.

resource "google_bigquery_dataset" "pulse" {
  #checkov:skip=CKV_GCP_81:Google's own keys encrypt it. Add a key where a rule asks for one.
  dataset_id                 = "pulse"
  location                   = var.region
  description                = "Events of the Pulse Pipeline."
  delete_contents_on_destroy = false
  max_time_travel_hours      = 168 # a bad load can be undone for a week

  depends_on = [google_project_service.needed]
}

resource "google_bigquery_table" "events" {
  #checkov:skip=CKV_GCP_80:As the dataset.
  dataset_id  = google_bigquery_dataset.pulse.dataset_id
  table_id    = "events"
  description = "One row an event, as stored in MongoDB."

  # Written by `make docs` from the event's schemas in common/events.py.
  schema = file("${path.module}/events.schema.json")

  # Almost every question names a span of time, so a day is what is read, and paid for. Rows are kept, as in MongoDB.
  time_partitioning {
    type  = "DAY"
    field = "timestamp"
  }
  require_partition_filter = true # or one careless SELECT reads, and costs, everything

  # Then a customer's journey, then one kind of event.
  clustering = ["customer_id", "event_type"]

  deletion_protection = var.deletion_protection
}
