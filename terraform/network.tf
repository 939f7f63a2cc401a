# The network: nodes without public addresses, egress from one fixed address, and ingress only by rules.

resource "google_compute_network" "pulse" {
  name                    = local.name
  auto_create_subnetworks = false # it would create a subnet in each region
  routing_mode            = "REGIONAL"

  depends_on = [google_project_service.needed]
}

resource "google_compute_subnetwork" "nodes" {
  name                     = "${local.name}-nodes"
  network                  = google_compute_network.pulse.id
  region                   = var.region
  ip_cidr_range            = var.cidr.nodes
  private_ip_google_access = true # images, logs and metrics reach Google without the NAT and its cost

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = var.cidr.pods
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = var.cidr.services
  }

  # A sample is sufficient to see the connections, and costs a tenth of the full log.
  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# ── Egress: from one address, which Kafka and MongoDB can allow ──

resource "google_compute_address" "nat" {
  name         = "${local.name}-nat"
  region       = var.region
  address_type = "EXTERNAL"

  depends_on = [google_project_service.needed]
}

resource "google_compute_router" "nat" {
  name    = "${local.name}-nat"
  network = google_compute_network.pulse.id
  region  = var.region
}

resource "google_compute_router_nat" "nat" {
  name                               = "${local.name}-nat"
  router                             = google_compute_router.nat.name
  region                             = var.region
  nat_ip_allocate_option             = "MANUAL_ONLY"
  nat_ips                            = [google_compute_address.nat.self_link]
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"] # pods use the secondary range
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY" # exhausted ports
  }
}

# ── Ingress: the API's address is in tls.tf. GKE itself allows the load balancer's proxies and health checks ──

resource "google_compute_firewall" "internal" {
  name        = "${local.name}-internal"
  network     = google_compute_network.pulse.id
  description = "Traffic between nodes, pods and the control plane, which calls KEDA's webhooks. NetworkPolicies restrict it further."
  direction   = "INGRESS"
  priority    = 1000

  source_ranges           = [var.cidr.nodes, var.cidr.pods]
  target_service_accounts = [google_service_account.nodes.email]

  allow {
    protocol = "tcp"
  }

  allow {
    protocol = "udp"
  }

  allow {
    protocol = "icmp"
  }
}

resource "google_compute_firewall" "deny" {
  name        = "${local.name}-deny-ingress"
  network     = google_compute_network.pulse.id
  description = "The network's implicit rule, made explicit and logged."
  direction   = "INGRESS"
  priority    = 65534

  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }

  log_config {
    metadata = "INCLUDE_ALL_METADATA"
  }
}
