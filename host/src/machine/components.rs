//! The components that this node has compiled: the one in use, those that are ready to take over,
//! and which one the machine waits for. It compiles none, and does not decide when one takes over.
//!
//! - Readers take the component in use and a view of the state together ([`Components::with`]). A
//!   switch changes both while it holds the same lock, so no reader sees one without the other.
//! - A component is ready for one profile: its bytes and its limits.
//! - Once a profile is in force, a component that does not fit it is not put into use, except by
//!   [`Components::set`], whose caller has to check that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::watch;

use super::profile::profile_of;
use super::{Machine, fitness};
use crate::codec::{Change, Genesis};
use crate::guest::Component;

/// Most components that are ready beside the one in use. Each holds compiled code in memory.
const READY_MAX: usize = 3;
/// How often somebody who waits for a component looks whether to go on.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// The components of one machine.
pub(crate) struct Components {
    slot: Mutex<Slot>,
    /// Signalled when a component was added or the machine stops.
    changed: Condvar,
    /// Counts how often the component in use changed.
    version: AtomicU64,
    /// Told the version.
    set: watch::Sender<u64>,
    wanted: watch::Sender<Option<Genesis>>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Slot {
    current: Option<Component>,
    /// Oldest first.
    ready: VecDeque<Component>,
    /// The profile in force; `None` before the genesis entry.
    in_force: Option<Genesis>,
    /// What somebody waits for.
    awaited: Vec<Awaited>,
    next_number: u64,
}

/// A profile that somebody waits for.
struct Awaited {
    number: u64,
    profile: Genesis,
    /// Whether apply stands still until then.
    holds_apply: bool,
}

impl Slot {
    fn find(&self, profile: &Genesis) -> Option<&Component> {
        self.current.iter().chain(&self.ready).find(|component| fits(component, profile))
    }

    fn is_current_fit(&self, profile: &Genesis) -> bool {
        self.current.as_ref().is_some_and(|component| fits(component, profile))
    }

    /// Keeps a component ready. The oldest one makes room.
    fn keep(&mut self, component: Component) {
        self.ready.retain(|other| !is_same(other, &component));
        self.ready.push_back(component);
        if self.ready.len() > READY_MAX {
            self.ready.pop_front();
        }
    }

    fn replace(&mut self, component: Option<Component>) {
        if let Some(component) = &component {
            self.ready.retain(|other| !is_same(other, component));
        }
        if let Some(before) = std::mem::replace(&mut self.current, component) {
            let is_same = self.current.as_ref().is_some_and(|current| is_same(current, &before));
            if !is_same {
                self.keep(before);
            }
        }
    }

    /// Returns the newest profile that somebody waits for in vain, or else the profile in force if
    /// its component is not in use.
    fn wanted(&self) -> Option<Genesis> {
        let mut newest_first = self.awaited.iter().rev().map(|awaited| &awaited.profile);
        let awaited = newest_first.find(|profile| self.find(profile).is_none()).cloned();
        awaited.or_else(|| self.in_force.clone().filter(|profile| !self.is_current_fit(profile)))
    }

    /// Returns whether this node cannot go on without the component of a profile.
    fn needs(&self, profile: &Genesis) -> bool {
        let is_in_force = self.in_force.as_ref() == Some(profile) && !self.is_current_fit(profile);
        is_in_force || self.lets_apply_wait(profile)
    }

    /// Returns whether an entry waits for the component of a profile.
    fn lets_apply_wait(&self, profile: &Genesis) -> bool {
        let holds_apply = |awaited: &Awaited| awaited.holds_apply && awaited.profile == *profile;
        self.awaited.iter().any(holds_apply) && self.find(profile).is_none()
    }
}

fn fits(component: &Component, profile: &Genesis) -> bool {
    fitness::check(profile, Some(component)).is_ok()
}

fn is_same(one: &Component, other: &Component) -> bool {
    one.hash() == other.hash() && one.engine().limits() == other.engine().limits()
}

impl Components {
    /// Makes an empty set. `in_force` is the profile of the state.
    pub(crate) fn new(in_force: Option<Genesis>) -> Components {
        let slot = Slot { in_force, ..Slot::default() };
        let wanted = watch::channel(slot.wanted()).0;
        Components {
            slot: Mutex::new(slot),
            changed: Condvar::new(),
            version: AtomicU64::new(0),
            set: watch::channel(0).0,
            wanted,
            stopping: AtomicBool::new(false),
        }
    }

    pub(crate) fn current(&self) -> Option<Component> {
        self.slot.lock().current.clone()
    }

    /// Calls `read` with the component in use. No switch happens meanwhile.
    pub(crate) fn with<T>(&self, read: impl FnOnce(Option<&Component>) -> T) -> T {
        read(self.slot.lock().current.as_ref())
    }

    /// Returns a number that rises whenever the component in use changes; 0 before the first.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Follows [`Components::version`].
    pub(crate) fn watch_version(&self) -> watch::Receiver<u64> {
        self.set.subscribe()
    }

    /// Follows which profile is waited for.
    pub(crate) fn watch_wanted(&self) -> watch::Receiver<Option<Genesis>> {
        self.wanted.subscribe()
    }

    /// Puts a component into use.
    pub(crate) fn set(&self, component: Component) {
        let mut slot = self.slot.lock();
        self.put(&mut slot, Some(component));
    }

    /// Keeps a component ready. It is put into use if that in use does not fit the profile in force
    /// and this one does.
    pub(crate) fn offer(&self, component: Component) {
        let mut slot = self.slot.lock();
        let mends =
            slot.in_force.as_ref().is_some_and(|profile| !slot.is_current_fit(profile) && fits(&component, profile));
        match mends {
            true => self.put(&mut slot, Some(component)),
            false => {
                slot.keep(component);
                self.changed.notify_all();
                self.tell(&slot);
            }
        }
    }

    /// Notes the profile in force, after an entry or an install that put no other component into
    /// use.
    pub(crate) fn note_in_force(&self, profile: Option<&Genesis>) {
        let mut slot = self.slot.lock();
        if slot.in_force.as_ref() != profile {
            slot.in_force = profile.cloned();
            self.tell(&slot);
        }
    }

    /// Returns a component for a profile, if there is one.
    pub(crate) fn find(&self, profile: &Genesis) -> Option<Component> {
        self.slot.lock().find(profile).cloned()
    }

    /// Returns a component of that hash, under whatever limits. The one in use comes first.
    pub(crate) fn find_by_hash(&self, hash: &[u8]) -> Option<Component> {
        let slot = self.slot.lock();
        slot.current.iter().chain(&slot.ready).find(|component| component.hash() == hash).cloned()
    }

    /// Returns a component for a profile. Waits for one, and lets others know. Gives up when
    /// `goes_on` returns false, which it asks about twice a second, or when the machine stops.
    pub(crate) fn wait_for(&self, profile: &Genesis, goes_on: impl FnMut() -> bool) -> Option<Component> {
        self.wait(profile, false, goes_on)
    }

    /// Returns a component for a profile, without which apply does not go on. Waits for one, and
    /// lets others know. Gives up when the machine stops.
    pub(crate) fn wait_for_candidate(&self, profile: &Genesis) -> Option<Component> {
        self.wait(profile, true, || true)
    }

    fn wait(&self, profile: &Genesis, holds_apply: bool, mut goes_on: impl FnMut() -> bool) -> Option<Component> {
        let mut slot = self.slot.lock();
        let number = slot.next_number;
        slot.next_number += 1;
        slot.awaited.push(Awaited { number, profile: profile.clone(), holds_apply });
        let found = loop {
            if let Some(found) = slot.find(profile) {
                break Some(found.clone());
            }
            if self.stopping.load(Ordering::Acquire) || !goes_on() {
                break None;
            }
            self.tell(&slot);
            self.changed.wait_for(&mut slot, LOOK_PAUSE);
        };
        slot.awaited.retain(|awaited| awaited.number != number);
        self.tell(&slot);
        found
    }

    /// Returns the component in use once it fits `profile`; `None` when the machine stops. A ready
    /// one that fits is put into use. `unfit` gets the reason each time that there is none.
    pub(crate) fn wait_for_current(&self, profile: &Genesis, mut unfit: impl FnMut(String)) -> Option<Component> {
        let mut slot = self.slot.lock();
        loop {
            if self.stopping.load(Ordering::Acquire) {
                return None;
            }
            let Err(why) = fitness::check(profile, slot.current.as_ref()) else { return slot.current.clone() };
            if let Some(ready) = slot.find(profile).cloned() {
                self.put(&mut slot, Some(ready));
                continue;
            }
            unfit(why);
            slot.in_force = Some(profile.clone());
            self.tell(&slot);
            self.changed.wait(&mut slot);
        }
    }

    /// Puts a state and a component into use together: `put` puts the state, whose profile is
    /// `profile`. Without a component, takes one that fits, if it is here by now. Changes nothing
    /// if `put` fails.
    pub(crate) fn switch<E>(
        &self,
        profile: &Genesis,
        component: Option<Component>,
        put: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut slot = self.slot.lock();
        put()?;
        let component = component.or_else(|| slot.find(profile).cloned());
        slot.in_force = Some(profile.clone());
        self.put(&mut slot, component);
        Ok(())
    }

    /// Calls `tell` if this node cannot go on without the component of a profile. That does not
    /// end meanwhile.
    pub(crate) fn if_needed(&self, profile: &Genesis, tell: impl FnOnce()) {
        let slot = self.slot.lock();
        if slot.needs(profile) {
            tell();
        }
    }

    /// Calls `tell` if an entry waits for the component of a profile. That does not end meanwhile.
    pub(crate) fn if_apply_waits(&self, profile: &Genesis, tell: impl FnOnce()) {
        let slot = self.slot.lock();
        if slot.lets_apply_wait(profile) {
            tell();
        }
    }

    /// Wakes whoever waits for a component.
    pub(crate) fn stop(&self) {
        let _slot = self.slot.lock();
        self.stopping.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    fn put(&self, slot: &mut MutexGuard<'_, Slot>, component: Option<Component>) {
        slot.replace(component);
        let before = self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_all();
        self.tell(slot);
        self.set.send_replace(before + 1);
    }

    /// Publishes what is wanted.
    fn tell(&self, slot: &Slot) {
        let wanted = slot.wanted();
        self.wanted.send_if_modified(|before| {
            let changes = *before != wanted;
            if changes {
                *before = wanted;
            }
            changes
        });
    }
}

impl Machine {
    /// Sets the component to run from now on. Apply waits for a component when an entry needs one.
    pub fn set_component(&self, component: Component) {
        self.shared.components.set(component);
    }

    /// Returns the component in use.
    pub fn component(&self) -> Option<Component> {
        self.shared.component()
    }

    /// Returns a number that rises whenever the component in use changes; 0 before the first.
    pub fn component_version(&self) -> u64 {
        self.shared.components.version()
    }

    /// Returns a receiver that follows [`Machine::component_version`].
    pub fn watch_component(&self) -> watch::Receiver<u64> {
        self.shared.components.watch_version()
    }

    /// Keeps a component ready for a change. It is not run before that, unless the machine lacks
    /// the component in force and this is it.
    pub fn offer_component(&self, component: Component) {
        self.shared.components.offer(component);
        if self.check_fitness().is_ok() {
            self.shared.end_unfit();
        }
    }

    /// Returns a component that is in use or ready for a profile.
    pub fn component_for(&self, profile: &Genesis) -> Option<Component> {
        self.shared.components.find(profile)
    }

    /// Returns the component that was offered for a change.
    pub(crate) fn offered(&self, change: &Change) -> Option<Component> {
        self.component_for(&profile_of(change, &[]))
    }

    /// Returns a receiver that tells which profile the machine waits for: nobody has offered its
    /// component. `None` while it waits for none.
    pub fn watch_wanted(&self) -> watch::Receiver<Option<Genesis>> {
        self.shared.components.watch_wanted()
    }

    /// Tells that this node cannot run the component of a profile. That makes the node unfit if it
    /// cannot go on without, until the component is offered all the same. A trial that waits for it
    /// changes nothing.
    pub fn cannot_run_wanted(&self, profile: &Genesis, why: String) {
        self.shared.components.if_needed(profile, || self.shared.set_unfit(why));
    }

    /// Tells that nobody who was asked has the component of a profile. If an entry waits for it,
    /// that makes a node unfit that catches up, until the component is offered: it would seem to
    /// hang otherwise, and a restart does not help it.
    pub fn lacks_wanted(&self, profile: &Genesis, why: String) {
        self.shared.components.if_apply_waits(profile, || self.shared.set_waiting(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_needed(components: &Components, profile: &Genesis) -> bool {
        let mut is_needed = false;
        components.if_needed(profile, || is_needed = true);
        is_needed
    }

    #[test]
    fn only_what_holds_apply_or_is_in_force_is_needed() {
        let profile = |byte: u8| Genesis { component_hash: vec![byte; 32].into(), ..Genesis::default() };
        let components = Components::new(Some(profile(1)));
        let awaited = |number, byte, holds_apply| Awaited { number, profile: profile(byte), holds_apply };
        components.slot.lock().awaited = vec![awaited(0, 2, false), awaited(1, 3, true)];
        assert_eq!([1, 2, 3, 4].map(|byte| is_needed(&components, &profile(byte))), [true, false, true, false]);
    }
}
