//! Instances of a guest that record the fuel of each command, for tools and rehearsals. This module
//! computes no entry.

use std::cell::RefCell;
use std::rc::Rc;

use super::entry::{Instance, Instances};
use crate::guest::{ApplyInstance, Call, Component, HostFault, Rows, Verdict};

/// How long an instance is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Used while all goes well, as on a node: from command to command of an entry, and from query
    /// to query.
    Shared,
    /// Used for one call. No other call sees what the call leaves in memory.
    Never,
}

/// Makes instances that record the fuel of each command, by its place in the entry. Clones share
/// the record.
#[derive(Clone)]
pub(crate) struct Metered {
    component: Component,
    reuse: Reuse,
    fuel: Rc<RefCell<Vec<u64>>>,
}

impl Metered {
    /// Makes the instances for one entry of `commands` commands.
    pub(crate) fn new(component: &Component, reuse: Reuse, commands: usize) -> Metered {
        Metered { component: component.clone(), reuse, fuel: Rc::new(RefCell::new(vec![0; commands])) }
    }

    /// Returns the fuel that each command used, including a first run that was undone and repeated.
    pub(crate) fn fuel(&self) -> Vec<u64> {
        self.fuel.borrow().clone()
    }
}

impl Instances for Metered {
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault> {
        Ok(Box::new(MeteredInstance {
            instance: ApplyInstance::new(&self.component)?,
            component: self.component.clone(),
            reuse: self.reuse,
            fuel: self.fuel.clone(),
        }))
    }
}

struct MeteredInstance {
    instance: ApplyInstance,
    component: Component,
    reuse: Reuse,
    fuel: Rc<RefCell<Vec<u64>>>,
}

impl Instance for MeteredInstance {
    fn served(&self) -> u32 {
        match self.reuse {
            Reuse::Shared => self.instance.served(),
            Reuse::Never => 0,
        }
    }

    fn apply(&mut self, call: Call<'_>, store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        if self.reuse == Reuse::Never && self.instance.served() > 0 {
            match ApplyInstance::new(&self.component) {
                Ok(instance) => self.instance = instance,
                Err(fault) => return (Err(fault), store),
            }
        }
        let (verdict, store) = self.instance.apply(call, store);
        self.fuel.borrow_mut()[call.context.position as usize] += self.instance.fuel_used();
        (verdict, store)
    }

    fn fuel_used(&self) -> u64 {
        self.instance.fuel_used()
    }

    fn fuel_of_start(&self) -> u64 {
        self.instance.fuel_of_start()
    }
}
