//! What a run has shown, and the figures that follow from it. It measures nothing and prints
//! nothing.

use serde::Serialize;

use super::group::Filled;
use super::newcomer::Newcomer;
use super::restart::{End, Restart};
use super::stops::Watched;
use crate::bench::calibrate::Calibration;
use crate::bench::conditions::Conditions;
use crate::bench::figures::{Report, Servers, Spread};

/// A cluster of the comparison of puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Size {
    Few,
    Many,
}

/// Puts among few or many keys.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Block {
    pub(super) round: u64,
    pub(super) size: Size,
    /// What the machine did just before.
    pub(super) calibration: Calibration,
    pub(super) report: Report,
    pub(super) servers: Servers,
    /// The servers' processor time from the begin of the load until they were quiet, for each call
    /// that was answered: with the compactions that the load leaves.
    pub(super) cpu_us_until_quiet: f64,
}

/// A new node, and a copy of a file of the same length just before.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Join {
    pub(super) copy_seconds: f64,
    pub(super) newcomer: Newcomer,
}

/// Everything that a run has shown.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) conditions: Conditions,
    /// Bytes of keys and values of the state that was watched, restarted and sent.
    pub(super) state_bytes: u64,
    /// The clusters with few keys, with many, and with that state.
    pub(super) few: Filled,
    pub(super) many: Filled,
    pub(super) state: Filled,
    pub(super) blocks: Vec<Block>,
    pub(super) watched: Vec<Watched>,
    pub(super) restarts: Vec<Restart>,
    pub(super) joins: Vec<Join>,
}

impl Results {
    fn blocks_of(&self, size: Size) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.size == size)
    }

    /// Returns a figure of the blocks among so many keys.
    pub(super) fn spread(&self, size: Size, figure: fn(&Block) -> f64) -> Option<Spread> {
        Spread::of(self.blocks_of(size).map(figure))
    }

    /// Returns that figure among many keys divided by that among few, of blocks of one round.
    pub(super) fn ratio(&self, figure: fn(&Block) -> f64) -> Option<Spread> {
        let ratio = |many: &Block| {
            let few = self.blocks_of(Size::Few).find(|few| few.round == many.round)?;
            Some(figure(many) / figure(few))
        };
        Spread::of(self.blocks_of(Size::Many).filter_map(ratio))
    }

    /// Returns how long restarts took, in seconds.
    pub(super) fn restart_seconds(&self, end: End) -> Option<Spread> {
        Spread::of(self.restarts.iter().filter(|restart| restart.end == end).map(|restart| restart.seconds))
    }

    /// Returns how long copies took, in seconds.
    pub(super) fn copy_seconds(&self) -> Option<Spread> {
        Spread::of(self.joins.iter().map(|join| join.copy_seconds))
    }

    /// Returns a time of new nodes, in seconds, and divided by that of the copy before.
    pub(super) fn joined(&self, time: fn(&Newcomer) -> f64) -> (Option<Spread>, Option<Spread>) {
        let seconds = self.joins.iter().map(|join| time(&join.newcomer));
        let ratios = self.joins.iter().map(|join| time(&join.newcomer) / join.copy_seconds);
        (Spread::of(seconds), Spread::of(ratios))
    }

    /// Returns how many calls failed in blocks and watched runs.
    pub(super) fn errors(&self) -> u64 {
        let reports = self.blocks.iter().map(|block| &block.report);
        let all = reports.chain(self.watched.iter().map(|watched| &watched.report));
        all.flat_map(|report| report.errors.values()).sum()
    }
}

#[cfg(test)]
#[path = "results_tests.rs"]
pub(super) mod tests;
