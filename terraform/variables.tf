# What differs between two installations. Only the first three have no default.

variable "project_id" {
  description = "The Google Cloud project to build in. It has to exist and to have billing."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "A project id has 6 to 30 lowercase letters, digits and hyphens, and begins with a letter."
  }
}

variable "alert_email" {
  description = "Who is told when an alert fires. A group's address outlives a person's."
  type        = string

  validation {
    condition     = can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", var.alert_email))
    error_message = "Give an e-mail address such as oncall@example.com."
  }
}

variable "api_host" {
  description = "The API's name on the internet, in a domain whose DNS records you can set. It gets a certificate."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", var.api_host)) && length(var.api_host) <= 253
    error_message = "Give a host name alone, in lowercase, such as events.example.com."
  }
}

variable "region" {
  description = "Where everything is: cluster, images, events. Near the clients; events are stored nowhere else."
  type        = string
  default     = "europe-west1" # among the cheapest in Europe, and low in carbon

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Give a region such as europe-west1, not a zone such as europe-west1-b."
  }
}

variable "environment" {
  description = "A label on everything, for the bill and for whoever finds it."
  type        = string
  default     = "production"

  validation {
    condition     = contains(["production", "staging", "development"], var.environment)
    error_message = "One of production, staging, development."
  }
}

variable "machine_type" {
  description = "The nodes' machine. Two API pods and one consumer need 0.7 CPU; GKE's own pods about as much a node."
  type        = string
  default     = "e2-standard-2"

  validation {
    condition     = can(regex("^(e2|n2|n2d|c3|c3d|c4|n4|t2d)-[a-z]+-[0-9]+$", var.machine_type))
    error_message = "A machine type with its own CPUs and x86, such as e2-standard-2: the images are built for amd64."
  }
}

variable "node_count" {
  description = "The fewest and the most nodes, in the whole region and not a zone. The API's two pods ask for two."
  type        = object({ min = number, max = number })
  default     = { min = 1, max = 3 }

  validation {
    condition     = var.node_count.min >= 1 && var.node_count.max >= 2 && var.node_count.min <= var.node_count.max
    error_message = "At least 1 node, room for 2 (the API's pods never share one), and min not above max."
  }
}

variable "cidr" {
  description = "The address ranges of nodes, pods and services. Change them if they meet a network that you peer with."
  type        = object({ nodes = string, pods = string, services = string })
  default = {
    nodes    = "10.10.0.0/22"
    pods     = "10.20.0.0/16" # a node takes a /24 of it
    services = "10.30.0.0/20"
  }

  validation {
    condition     = alltrue([for range in values(var.cidr) : can(cidrhost(range, 0))])
    error_message = "Each has to be a range such as 10.10.0.0/22."
  }
}

variable "export_members" {
  description = "Who may act as pulse-export, which fills the bucket and BigQuery, such as group:data@example.com."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.export_members : can(regex("^(user|group|serviceAccount):[^@\\s]+@[^\\s]+$", member))])
    error_message = "Each as IAM writes it: user:…, group:… or serviceAccount:…."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the cluster and the events table. Set to false, and apply, before a destroy."
  type        = bool
  default     = true
}
