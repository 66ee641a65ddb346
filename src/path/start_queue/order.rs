//! The order in which deliveries start.

use std::{collections::VecDeque, mem};

/// Deliveries that wait for their first attempt, in the order of their arrival.
///
/// The start queue uses only these methods, so another order can replace this type alone. An order
/// by key would count in [`startable`](Self::startable) the keys that have no message in flight.
#[derive(Debug)]
pub(super) struct Fifo<R>(VecDeque<R>);

impl<R> Default for Fifo<R> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<R> Fifo<R> {
    /// Adds deliveries that have arrived.
    pub(super) fn add(&mut self, arrived: &mut Vec<R>) {
        self.0.extend(arrived.drain(..));
    }

    /// The number of deliveries that wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The number of deliveries that could start now with enough slots.
    pub(super) fn startable(&self) -> usize {
        self.0.len()
    }

    /// Takes the delivery that starts next.
    pub(super) fn pop(&mut self) -> Option<R> {
        self.0.pop_front()
    }

    /// Takes the deliveries for which `wanted` is true, in the order of their arrival.
    pub(super) fn take_if(&mut self, wanted: impl Fn(&R) -> bool) -> Vec<R> {
        let (taken, kept) = self.take_all().into_iter().partition(wanted);
        self.0 = kept;
        Vec::from(taken)
    }

    /// Takes all deliveries, in the order of their arrival.
    pub(super) fn take_all(&mut self) -> VecDeque<R> {
        mem::take(&mut self.0)
    }
}
