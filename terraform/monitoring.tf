# Alerting: the uptime check from outside, and the same alerts as those of Prometheus in the Compose stack.

locals {
  # One list of alerts for both (ops/prometheus/alerts.yml): same names, expressions and thresholds.
  alerts = { for rule in flatten([
    for group in yamldecode(file("${path.module}/alerts.yml")).groups : [
      for rule in group.rules : {
        name     = rule.alert
        group    = group.name
        query    = trimspace(rule.expr)
        duration = try(rule.for, "0s")
        severity = rule.labels.severity
        # Cloud Monitoring does not replace Prometheus's placeholders.
        summary = replace(rule.annotations.summary, "/\\{\\{.*?\\}\\}/", "…")
        runbook = rule.annotations.runbook_url
      }
    ]
  ]) : rule.name => rule }
}

resource "google_monitoring_notification_channel" "email" {
  display_name = "Pulse: e-mail"
  type         = "email"
  labels       = { email_address = var.alert_email }
  force_delete = false

  depends_on = [google_project_service.needed]
}

# ── From outside: DNS name, certificate, load balancer and API ──

resource "google_monitoring_uptime_check_config" "api" {
  display_name = "${local.name}-api-health"
  period       = "60s"
  timeout      = "10s"
  checker_type = "STATIC_IP_CHECKERS"
  # Google requires at least three regions. These three use different routes.
  selected_regions = ["EUROPE", "USA_VIRGINIA", "ASIA_PACIFIC"]

  monitored_resource {
    type = "uptime_url"
    labels = {
      project_id = var.project_id
      host       = var.api_host
    }
  }

  # 200 also during an outage of Kafka, while events can be kept; 503 if the API can accept none.
  http_check {
    path         = "/health"
    port         = 443
    use_ssl      = true
    validate_ssl = true

    accepted_response_status_codes {
      status_class = "STATUS_CLASS_2XX"
    }
  }
}

resource "google_monitoring_alert_policy" "unreachable" {
  display_name          = "Pulse: APIUnreachable"
  severity              = "CRITICAL"
  combiner              = "OR"
  notification_channels = [google_monitoring_notification_channel.email.id]
  user_labels           = local.labels

  conditions {
    display_name = "GET /health fails from two places or more"
    condition_threshold {
      filter          = "resource.type = \"uptime_url\" AND metric.type = \"monitoring.googleapis.com/uptime_check/check_passed\" AND metric.labels.check_id = \"${google_monitoring_uptime_check_config.api.uptime_check_id}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 1 # a single region may have a problem of its own
      duration        = "60s"

      aggregations {
        alignment_period     = "120s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_COUNT_FALSE"
        group_by_fields      = ["resource.label.host"]
      }

      trigger {
        count = 1
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The API does not answer from outside, its certificate is not valid, or it reports that it can accept no events. Runbook: docs/operations.md#api-down."
  }

  alert_strategy {
    auto_close = "1800s"
  }
}

# ── From inside: metrics of the API and the consumer ──

resource "google_monitoring_alert_policy" "rule" {
  for_each = local.alerts

  display_name          = "Pulse: ${each.key}"
  severity              = upper(each.value.severity)
  combiner              = "OR"
  notification_channels = [google_monitoring_notification_channel.email.id]
  user_labels           = local.labels

  conditions {
    display_name = each.key
    condition_prometheus_query_language {
      query               = each.value.query
      duration            = endswith(each.value.duration, "m") ? "${60 * tonumber(trimsuffix(each.value.duration, "m"))}s" : each.value.duration
      evaluation_interval = "30s" # the interval of the PodMonitorings
      rule_group          = each.value.group
      alert_rule          = each.key
      # Policies exist before the first pod exports metrics.
      disable_metric_validation = true
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.summary} Runbook: ${each.value.runbook}."
  }

  alert_strategy {
    auto_close = "1800s"
  }
}
