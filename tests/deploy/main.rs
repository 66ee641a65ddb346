//! The files for deployment: the Helm chart, rendered by a real helm, the compose file, the
//! Dockerfile.
//!
//! The first test runs `scripts/deploy-tools`, which fetches helm and the schemas.

mod chart;
mod compose;
mod config;
mod image;
mod manifests;
mod refused;
mod support;
mod switches;
