//! Collections that hold one thing: a value, or a counter.

use std::marker::PhantomData;

use crate::collections::{Place, handle};
use crate::dispatch::Collection;
use crate::host;
use crate::rows::decode_value;
use crate::shape::Shape;
use crate::status::{Reply, Status};
use crate::value::{EncodeValue, Stored, encode};

/// One value, or none.
pub struct Value<V> {
    place: Place,
    types: PhantomData<fn() -> V>,
}

handle!(Value<V: Stored>);

impl<V: Stored> Value<V> {
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Returns the value, or `None` if it was never set.
    pub fn get(&self) -> Option<V> {
        let key = self.place.tag_bytes();
        host::get(&key).map(|value| decode_value(&key, &value))
    }

    /// Sets the value.
    pub fn set<W: EncodeValue<V> + ?Sized>(&mut self, value: &W) {
        host::put(&self.place.tag_bytes(), &encode(value));
    }

    /// Changes the value in place and returns it. A value that was never set starts as the default.
    pub fn update(&mut self, change: impl FnOnce(&mut V)) -> V
    where
        V: Default,
    {
        let mut value = self.get().unwrap_or_default();
        change(&mut value);
        self.set(&value);
        value
    }

    /// Removes the value and returns it. Costs a read; [`delete`](Self::delete) costs none.
    pub fn remove(&mut self) -> Option<V> {
        let value = self.get();
        if value.is_some() {
            self.delete();
        }
        value
    }

    /// Removes the value. Reads nothing.
    pub fn delete(&mut self) {
        host::remove(&self.place.tag_bytes());
    }
}

/// A number that counts up from 0.
#[derive(Debug)]
pub struct Counter {
    value: Value<u64>,
}

impl Collection for Counter {
    const ROWS: Shape = Value::<u64>::ROWS;

    fn at(tag: u16) -> Self {
        Self { value: Value::at(tag) }
    }
}

impl Counter {
    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.value.get().unwrap_or(0)
    }

    /// Adds `amount` and returns the sum.
    ///
    /// # Panics
    /// Past `u64::MAX`, so that the count never silently starts over. The host then undoes the
    /// command.
    pub fn add(&mut self, amount: u64) -> u64 {
        let sum = self.get().checked_add(amount).expect("a counter stays within u64");
        self.value.set(&sum);
        sum
    }

    /// Adds `amount` and returns the sum.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` past `u64::MAX`.
    pub fn try_add(&mut self, amount: u64) -> Reply<u64> {
        let now = self.get();
        let sum = now
            .checked_add(amount)
            .ok_or_else(|| Status::out_of_range(format!("{now} and {amount} are more than {}", u64::MAX)))?;
        self.value.set(&sum);
        Ok(sum)
    }

    /// Subtracts `amount` and returns the rest.
    ///
    /// # Panics
    /// Below 0. The host then undoes the command.
    pub fn subtract(&mut self, amount: u64) -> u64 {
        let rest = self.get().checked_sub(amount).expect("a counter stays at 0 or above");
        self.value.set(&rest);
        rest
    }

    /// Subtracts `amount` and returns the rest, at least 0.
    pub fn saturating_subtract(&mut self, amount: u64) -> u64 {
        let rest = self.get().saturating_sub(amount);
        self.value.set(&rest);
        rest
    }

    /// Subtracts `amount` and returns the rest.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` below 0.
    pub fn try_subtract(&mut self, amount: u64) -> Reply<u64> {
        let now = self.get();
        let rest = now
            .checked_sub(amount)
            .ok_or_else(|| Status::out_of_range(format!("{amount} cannot be taken from {now}")))?;
        self.value.set(&rest);
        Ok(rest)
    }

    /// Sets the count back to 0.
    pub fn reset(&mut self) {
        self.value.delete();
    }
}
