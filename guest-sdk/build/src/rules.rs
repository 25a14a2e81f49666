//! The kind of each method that a guest declares. It refuses at build time what a node would refuse
//! at load, by the rules of the contract, and says where in the `.proto` the method stands.

use std::collections::BTreeMap;

use lockstep_contract::rules;
use prost_reflect::DescriptorPool;

pub use lockstep_contract::Kind;

use crate::{Error, report};

/// Returns the kind of every method that the guest's `own` files declare, by its full name
/// `package.Service/Method`.
///
/// # Errors
/// The first method that cannot be served.
pub fn method_kinds(pool: &DescriptorPool, own: &[String]) -> Result<BTreeMap<String, Kind>, Error> {
    let mut kinds = BTreeMap::new();
    for service in pool.services().filter(|service| own.iter().any(|name| name == service.parent_file().name())) {
        for method in service.methods() {
            let name = format!("{}/{}", service.full_name(), method.name());
            let (kind, _) = rules::of(pool, &method).map_err(|refusal| Error::Method {
                place: report::place(&method.parent_file(), method.path()),
                method: name.clone(),
                problem: refusal.to_string(),
            })?;
            kinds.insert(name, kind);
        }
    }
    Ok(kinds)
}
