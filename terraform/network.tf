# The network: nodes without public addresses, one way out with a fixed address, and nothing in but what is let in.

resource "google_compute_network" "pulse" {
  name                    = local.name
  auto_create_subnetworks = false # it would make one in every region
  routing_mode            = "REGIONAL"

  depends_on = [google_project_service.needed]
}

resource "google_compute_subnetwork" "nodes" {
  name                     = "${local.name}-nodes"
  network                  = google_compute_network.pulse.id
  region                   = var.region
  ip_cidr_range            = var.cidr.nodes
  private_ip_google_access = true # images, logs and metrics reach Google without the NAT, and without its price

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = var.cidr.pods
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = var.cidr.services
  }

  # Enough to see who talked to whom, at a tenth of the price of all of it.
  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# ── Out: Kafka and MongoDB see one address, which they can be told to let in ──

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
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"] # pods have addresses of the secondary range
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY" # ports used up
  }
}

# ── In: the API's address is in tls.tf. GKE lets the load balancer's proxies and health checks in to the pods itself ──

resource "google_compute_firewall" "internal" {
  name        = "${local.name}-internal"
  network     = google_compute_network.pulse.id
  description = "Nodes, pods and the control plane among themselves (its webhooks call KEDA). NetworkPolicies say more."
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
  description = "What a network does by itself, but written down and logged."
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
