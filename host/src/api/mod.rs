//! Clients and operators: the guest's own service, the admin service, health, reflection.

pub mod forward;
