# The uptime check and the alert policies: intervals, thresholds, recipients.

mock_provider "google" {
  mock_resource "google_compute_global_address" {
    defaults = { address = "203.0.113.7" }
  }

  mock_resource "google_certificate_manager_dns_authorization" {
    defaults = {
      dns_resource_record = [{ name = "_acme-challenge.events.example.com.", type = "CNAME", data = "1.authorize.certificatemanager.goog." }]
    }
  }
}

variables {
  project_id  = "pulse-test-1"
  alert_email = "oncall@example.com"
  api_host    = "events.example.com"
}

run "uptime" {
  # Applied to mocks, since the id of the check is known only after an apply.
  command = apply

  assert {
    condition     = google_monitoring_uptime_check_config.api.period == "60s" && google_monitoring_uptime_check_config.api.http_check[0].path == "/health"
    error_message = "The check must request GET /health every 60 s."
  }

  assert {
    condition     = google_monitoring_uptime_check_config.api.monitored_resource[0].labels.host == "events.example.com" && google_monitoring_uptime_check_config.api.http_check[0].port == 443
    error_message = "The check must use the API's host name and port 443."
  }

  assert {
    condition     = google_monitoring_uptime_check_config.api.http_check[0].use_ssl && google_monitoring_uptime_check_config.api.http_check[0].validate_ssl
    error_message = "The check must use TLS and verify the certificate."
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.unreachable.conditions[0].condition_threshold[0].filter, google_monitoring_uptime_check_config.api.uptime_check_id)
    error_message = "The alert must use this check."
  }

  assert {
    condition     = google_monitoring_alert_policy.unreachable.notification_channels == tolist([google_monitoring_notification_channel.email.id])
    error_message = "The alert must have a recipient."
  }
}

run "dns_records" {
  # Also applied to mocks, since Google sets the contents of the records.
  command = apply

  assert {
    condition     = output.dns_records == ["events.example.com. A 203.0.113.7", "_acme-challenge.events.example.com. CNAME 1.authorize.certificatemanager.goog."]
    error_message = "The output must have the two records for the domain's zone."
  }
}

run "rules" {
  command = plan

  assert {
    condition     = length(setsubtract(["APIDown", "APIErrors", "LagHigh", "ConsumerStuck", "JournalFilling", "DeadLettersArrive"], keys(google_monitoring_alert_policy.rule))) == 0
    error_message = "All alerts of the specification must exist."
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.rule["APIErrors"].conditions[0].condition_prometheus_query_language[0].query, "> 0.05")
    error_message = "The error alert must fire above 5 % of the requests."
  }

  assert {
    condition     = length(regexall("sum\\(rate\\(pulse_api_requests_total\\{", google_monitoring_alert_policy.rule["APIErrors"].conditions[0].condition_prometheus_query_language[0].query)) == 2
    error_message = "The error alert must use the ratio of errors to requests."
  }

  assert {
    condition     = endswith(google_monitoring_alert_policy.rule["LagHigh"].conditions[0].condition_prometheus_query_language[0].query, "> 10000")
    error_message = "The lag alert must fire above 10,000 records."
  }

  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.rule : can(regex("^[0-9]+s$", policy.conditions[0].condition_prometheus_query_language[0].duration))])
    error_message = "Durations must be in seconds, the only unit of Cloud Monitoring."
  }

  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.rule : !strcontains(policy.documentation[0].content, "{{")])
    error_message = "Texts must have no placeholders of Prometheus, which Cloud Monitoring does not replace."
  }
}
