//! Letters grouped by cause.

use std::{collections::HashMap, time::SystemTime};

use serde::Serialize;

use super::Summary;
use crate::text::{as_rfc3339_or_null, ends};

/// What a group keeps of a long error, in bytes: of its beginning, and of its end. A queue may hold very many
/// different errors.
const ERROR_ROOM: (usize, usize) = (200, 100);

/// Letters with the same cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// The fingerprint of the cause.
    pub group: String,
    /// Why the letters were dead-lettered.
    pub reason: String,
    /// The class of the error.
    pub kind: String,
    /// The error of the sample, cut.
    pub error: String,
    /// The number of letters.
    pub count: u64,
    /// The part of all letters seen, 0 to 1.
    pub share: f64,
    /// When the first one was dead-lettered.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    pub first: Option<SystemTime>,
    /// When the last one was dead-lettered.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    pub last: Option<SystemTime>,
    /// The id of one of the letters.
    pub sample: String,
    /// The queue from which the sample was dead-lettered.
    pub source_queue: Option<String>,
}

/// Counts letters by cause. Its size depends on the number of causes, not on that of the letters.
#[derive(Debug, Default)]
pub struct Groups {
    groups: HashMap<(String, String), Group>,
    total: u64,
}

impl Groups {
    /// Counts a letter.
    pub fn add(&mut self, letter: &Summary) {
        self.total += 1;
        let key = (letter.group.clone(), letter.reason.clone());
        let group = self.groups.entry(key).or_insert_with(|| Group {
            group: letter.group.clone(),
            reason: letter.reason.clone(),
            kind: letter.kind.clone(),
            error: ends(&letter.error, ERROR_ROOM.0, ERROR_ROOM.1).into_owned(),
            count: 0,
            share: 0.0,
            first: letter.failed_at,
            last: letter.failed_at,
            sample: letter.id.clone(),
            source_queue: letter.source_queue.clone(),
        });
        group.count += 1;
        group.first = group.first.into_iter().chain(letter.failed_at).min();
        group.last = group.last.max(letter.failed_at);
    }

    /// The groups, largest first.
    #[must_use]
    pub fn sorted(self) -> Vec<Group> {
        let total = self.total.max(1) as f64;
        let mut groups: Vec<_> = self.groups.into_values().collect();
        for group in &mut groups {
            group.share = group.count as f64 / total;
        }
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.group.cmp(&b.group)));
        groups
    }
}
