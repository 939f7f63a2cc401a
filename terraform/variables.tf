# The variables of an installation. Only the first three have no default.

variable "project_id" {
  description = "The Google Cloud project. It must exist, with billing enabled."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "A project id has 6 to 30 lowercase letters, digits and hyphens, and begins with a letter."
  }
}

variable "alert_email" {
  description = "The e-mail address for alerts, preferably a group's."
  type        = string

  validation {
    condition     = can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", var.alert_email))
    error_message = "Give an e-mail address such as oncall@example.com."
  }
}

variable "api_host" {
  description = "The API's host name on the internet, in a domain whose DNS records you can set. Google issues a certificate for it."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", var.api_host)) && length(var.api_host) <= 253
    error_message = "Give only a host name, in lowercase, such as events.example.com."
  }
}

variable "region" {
  description = "The region of the cluster, the images and the events. Choose one near the clients; events are stored nowhere else."
  type        = string
  default     = "europe-west1" # one of the cheapest in Europe, with low carbon emissions

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Give a region such as europe-west1, not a zone such as europe-west1-b."
  }
}

variable "environment" {
  description = "A label on all resources, for the bill and for their identification."
  type        = string
  default     = "production"

  validation {
    condition     = contains(["production", "staging", "development"], var.environment)
    error_message = "Give one of production, staging, development."
  }
}

variable "machine_type" {
  description = "The nodes' machine type. Two API pods and one consumer need 0.7 CPU; GKE's own pods need about the same per node."
  type        = string
  default     = "e2-standard-2"

  validation {
    condition     = can(regex("^(e2|n2|n2d|c3|c3d|c4|n4|t2d)-[a-z]+-[0-9]+$", var.machine_type))
    error_message = "Give a machine type without shared CPUs and with x86, such as e2-standard-2: the images are built for amd64."
  }
}

variable "node_count" {
  description = "The minimum and maximum number of nodes in the whole region, not per zone. The API's two pods need two nodes."
  type        = object({ min = number, max = number })
  default     = { min = 1, max = 3 }

  validation {
    condition     = var.node_count.min >= 1 && var.node_count.max >= 2 && var.node_count.min <= var.node_count.max
    error_message = "Give min of at least 1, max of at least 2 (the API's pods never share a node), and min not above max."
  }
}

variable "cidr" {
  description = "The address ranges of nodes, pods and services. Change them if they overlap with a peered network."
  type        = object({ nodes = string, pods = string, services = string })
  default = {
    nodes    = "10.10.0.0/22"
    pods     = "10.20.0.0/16" # each node uses a /24 of it
    services = "10.30.0.0/20"
  }

  validation {
    condition     = alltrue([for range in values(var.cidr) : can(cidrhost(range, 0))])
    error_message = "Give each as a range such as 10.10.0.0/22."
  }
}

variable "export_members" {
  description = "Members that may act as pulse-export, which writes to the bucket and BigQuery, such as group:data@example.com."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.export_members : can(regex("^(user|group|serviceAccount):[^@\\s]+@[^\\s]+$", member))])
    error_message = "Give each in IAM's notation: user:…, group:… or serviceAccount:…."
  }
}

variable "deletion_protection" {
  description = "Whether to refuse the deletion of the cluster and the events table. Set it to false, and apply, before a destroy."
  type        = bool
  default     = true
}
