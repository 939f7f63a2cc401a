# The API's address on the internet, and the certificate for its name. The Gateway of the gke overlay asks for the address, the
# map and the TLS policy by the name pulse-api, and makes the load balancer itself.

resource "google_compute_global_address" "api" {
  name         = "${local.name}-api"
  address_type = "EXTERNAL"
  ip_version   = "IPV4"

  depends_on = [google_project_service.needed]
}

# The regional address of version 0.1 has clients that still use it: forgotten, not deleted (docs/deployment.md, "TLS").
removed {
  from = google_compute_address.api

  lifecycle {
    destroy = false
  }
}

# A CNAME record shows Google that the name is yours: so the certificate is there before the name points here, and is
# renewed whatever it points to.
resource "google_certificate_manager_dns_authorization" "api" {
  name        = "${local.name}-api"
  description = "Lets Google issue and renew the certificate of ${var.api_host}."
  domain      = var.api_host
  labels      = local.labels

  depends_on = [google_project_service.needed]
}

resource "google_certificate_manager_certificate" "api" {
  name        = "${local.name}-api"
  description = "The certificate of ${var.api_host}; Google renews it."
  labels      = local.labels

  managed {
    domains            = [var.api_host]
    dns_authorizations = [google_certificate_manager_dns_authorization.api.id]
  }
}

resource "google_certificate_manager_certificate_map" "api" {
  name        = "${local.name}-api"
  description = "Which certificate the load balancer shows for which name."
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
  min_tls_version = "TLS_1_2" # Google's default still takes 1.0

  depends_on = [google_project_service.needed]
}
