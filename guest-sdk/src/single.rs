//! What holds one thing: a value, or a number that counts.

use std::marker::PhantomData;

use crate::collections::{Place, handle};
use crate::dispatch::Collection;
use crate::host;
use crate::rows::decode_value;
use crate::status::{Reply, Status};
use crate::value::{EncodeValue, Stored, encode};

/// One value, or none.
pub struct Value<V> {
    place: Place,
    types: PhantomData<fn() -> V>,
}

handle!(Value<V: Stored>);

impl<V: Stored> Value<V> {
    /// The value; none when never set.
    pub fn get(&self) -> Option<V> {
        let key = self.place.tag_bytes();
        host::get(&key).map(|value| decode_value(&key, &value))
    }

    /// Sets the value.
    pub fn set<W: EncodeValue<V> + ?Sized>(&mut self, value: &W) {
        host::put(&self.place.tag_bytes(), &encode(value));
    }

    /// Changes the value in place; one that was never set starts as the default. Returns it.
    pub fn update(&mut self, change: impl FnOnce(&mut V)) -> V
    where
        V: Default,
    {
        let mut value = self.get().unwrap_or_default();
        change(&mut value);
        self.set(&value);
        value
    }

    /// Forgets the value and returns it. Costs a read; [`delete`](Self::delete) does not.
    pub fn remove(&mut self) -> Option<V> {
        let value = self.get();
        if value.is_some() {
            self.delete();
        }
        value
    }

    /// Forgets the value. Reads nothing.
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
    fn at(tag: u16) -> Self {
        Self { value: Value::at(tag) }
    }
}

impl Counter {
    /// The number.
    pub fn get(&self) -> u64 {
        self.value.get().unwrap_or(0)
    }

    /// Adds and returns the sum.
    ///
    /// # Panics
    /// Past `u64::MAX`, so that a count never starts over unseen; the command is undone.
    pub fn add(&mut self, amount: u64) -> u64 {
        let sum = self.get().checked_add(amount).expect("a counter stays within u64");
        self.value.set(&sum);
        sum
    }

    /// Adds and returns the sum.
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

    /// Subtracts and returns the rest.
    ///
    /// # Panics
    /// Below 0, as [`add`](Self::add) does past the top; the command is undone.
    pub fn subtract(&mut self, amount: u64) -> u64 {
        let rest = self.get().checked_sub(amount).expect("a counter stays at 0 or above");
        self.value.set(&rest);
        rest
    }

    /// Subtracts and returns the rest, at least 0.
    pub fn saturating_subtract(&mut self, amount: u64) -> u64 {
        let rest = self.get().saturating_sub(amount);
        self.value.set(&rest);
        rest
    }

    /// Subtracts and returns the rest.
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

    /// Counts from 0 again.
    pub fn reset(&mut self) {
        self.value.delete();
    }
}
