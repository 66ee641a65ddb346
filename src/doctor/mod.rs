//! The doctor: checks, before a worker consumes, what could keep it from its promise.
//!
//! Each file has the checks of one subject, as a table. To add a check, add a row to such a table.
//! Checks look at a scene, which `gather` collects. They create, consume and store
//! nothing.

mod broker;
mod check;
mod gather;
mod handlers;
mod in_force;
mod limits;
mod memory;
mod permissions;
mod policies;
mod queues;
mod scene;
mod schedules;
mod secrets;
mod shell;
#[cfg(test)]
mod tests;
mod time;
mod tls;

use serde::Serialize;

pub use check::{Finding, Grade};
pub use scene::{Surroundings, Variable};

use crate::settings::Settings;
use check::{Check, Needs};
use scene::Scene;

/// All checks, in the order of the report.
fn checks() -> impl Iterator<Item = &'static Check> {
    const SUBJECTS: &[&[Check]] = &[
        broker::CHECKS,
        tls::CHECKS,
        permissions::CHECKS,
        queues::CHECKS,
        limits::CHECKS,
        policies::CHECKS,
        time::CHECKS,
        memory::CHECKS,
        handlers::CHECKS,
        secrets::CHECKS,
    ];
    SUBJECTS.iter().copied().flatten()
}

/// What the doctor found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst grade.
    pub worst: Grade,
    /// The results of all checks, in the order of the checks.
    pub findings: Vec<Finding>,
    /// The checks that need a connection to the broker, if there was none.
    pub not_made: Vec<&'static str>,
}

/// Makes all checks.
pub async fn examine(settings: &Settings, around: &Surroundings) -> Report {
    let scene = gather::gather(settings, around).await;
    report(&scene)
}

fn report(scene: &Scene<'_>) -> Report {
    let is_connected = scene
        .places
        .iter()
        .flatten()
        .any(|place| place.connected.is_ok());
    let can = |check: &&Check| is_connected || check.needs != Needs::Connection;
    let findings: Vec<_> = checks()
        .filter(can)
        .flat_map(|check| check.run(scene))
        .collect();
    let not_made = checks().filter(|check| !can(check));
    Report {
        worst: findings
            .iter()
            .map(|finding| finding.grade)
            .max()
            .unwrap_or(Grade::Ok),
        findings,
        not_made: not_made.map(|check| check.name).collect(),
    }
}

/// What is to be mended, as far as settings and machine show it at once: for the start of a worker.
#[must_use]
pub fn at_start(settings: &Settings, around: &Surroundings) -> Vec<Finding> {
    let scene = Scene::at_start(settings, around);
    let checks = checks().filter(|check| check.needs == Needs::Settings);
    let findings = checks.flat_map(|check| check.run(&scene));
    findings
        .filter(|finding| finding.grade > Grade::Ok)
        .collect()
}
