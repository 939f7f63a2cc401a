# The API's address on the internet, and the certificate for its name. The Gateway of the gke overlay refers to address,
# certificate map and TLS policy by the name pulse-api, and creates the load balancer itself.

resource "google_compute_global_address" "api" {
  name         = "${local.name}-api"
  address_type = "EXTERNAL"
  ip_version   = "IPV4"

  depends_on = [google_project_service.needed]
}

# Clients may still use the regional address of version 0.1: removed from the state, not deleted (docs/deployment.md,
# "TLS").
removed {
  from = google_compute_address.api

  lifecycle {
    destroy = false
  }
}

# A CNAME record proves to Google that the name is yours. So Google issues the certificate before the name points here,
# and renews it independent of the name's address.
resource "google_certificate_manager_dns_authorization" "api" {
  name        = "${local.name}-api"
  description = "Allows Google to issue and renew the certificate of ${var.api_host}."
  domain      = var.api_host
  labels      = local.labels

  depends_on = [google_project_service.needed]
}

resource "google_certificate_manager_certificate" "api" {
  name        = "${local.name}-api"
  description = "The certificate of ${var.api_host}, renewed by Google."
  labels      = local.labels

  managed {
    domains            = [var.api_host]
    dns_authorizations = [google_certificate_manager_dns_authorization.api.id]
  }
}

resource "google_certificate_manager_certificate_map" "api" {
  name        = "${local.name}-api"
  description = "Maps host names to certificates of the load balancer."
  labels      = local.labels

  depends_on = [google_project_service.needed]
}

resource "google_certificate_manager_certificate_map_entry" "api" {
  name         = "${local.name}-api"
  map          = google_certificate_manager_certificate_map.api.name
  hostname     = var.api_host
  certificates = [google_certificate_manager_certificate.api.id]
  labels       = local.labels
}

resource "google_compute_ssl_policy" "api" {
  name            = "${local.name}-api"
  profile         = "MODERN"
  min_tls_version = "TLS_1_2" # Google's default also accepts 1.0

  depends_on = [google_project_service.needed]
}
