//! What this port serves of the machine's component: its contract, and a table of its unary methods
//! that is made once for a component, so that a call looks its method up and no more. Serves no
//! call.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_contract::{Contract, ContractError, Kind, Method};

use super::http::metrics::Found;
use super::{Shared, contract_of, rights};
use crate::trust::Right;

/// The routes of one component.
pub(super) struct Routes {
    /// The version of the component in the machine.
    version: u64,
    /// `None` while the machine has no component.
    contract: Option<Arc<Contract>>,
    /// The commands and queries, by their names.
    unary: HashMap<Arc<str>, Arc<Unary>>,
}

/// A command or a query, with what every call of it needs.
pub(super) struct Unary {
    pub(super) method: Arc<Method>,
    /// The contract that has the method.
    pub(super) contract: Arc<Contract>,
    /// The right that a call needs.
    pub(super) right: Right,
    /// What counts its calls.
    pub(super) found: Found,
}

impl Routes {
    /// Makes the routes of a component.
    pub(super) fn new(version: u64, contract: Option<Arc<Contract>>) -> Routes {
        let methods = contract.as_deref().map(Contract::methods).unwrap_or_default();
        let names = methods.iter().filter(|method| method.kind != Kind::Watch).map(|method| &method.name);
        let shared = names.filter_map(|name| contract.as_deref()?.method(name));
        let unary = shared.filter_map(|method| {
            let (method, contract) = (method.clone(), contract.clone()?);
            let right = rights::of(&method.name, Some(&contract)).right;
            Some((method.name.clone(), Arc::new(Unary { method, contract, right, found: Found::default() })))
        });
        let unary = unary.collect();
        Routes { version, contract, unary }
    }

    fn unary(&self, path: &str) -> Option<Arc<Unary>> {
        self.unary.get(path.strip_prefix('/')?).cloned()
    }
}

impl Shared {
    /// Returns the contract of the machine's component; `None` while it has none.
    pub(super) fn routes(&self) -> Option<Arc<Contract>> {
        let version = self.parts.machine.component_version();
        let known = self.routes.load();
        if known.version == version {
            return known.contract.clone();
        }
        self.renew_routes(version).contract.clone()
    }

    /// Returns the command or query with that path; `None` if the machine's component has none.
    pub(super) fn unary(&self, path: &str) -> Option<Arc<Unary>> {
        let version = self.parts.machine.component_version();
        let known = self.routes.load();
        if known.version == version {
            return known.unary(path);
        }
        self.renew_routes(version).unary(path)
    }

    fn renew_routes(&self, version: u64) -> Arc<Routes> {
        let contract = self.parts.machine.component().and_then(|component| {
            // Admission has checked it.
            let refused = |error: &ContractError| tracing::error!(%error, "the component's services cannot be served");
            contract_of(&component).inspect_err(refused).ok().map(Arc::new)
        });
        let routes = Arc::new(Routes::new(version, contract));
        self.routes.store(routes.clone());
        routes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::example_contract;

    #[test]
    fn the_table_has_all_but_the_watches_and_only_their_exact_paths() {
        let contract = Arc::new(example_contract());
        let routes = Routes::new(1, Some(contract.clone()));
        let (watches, unary): (Vec<_>, Vec<_>) =
            contract.methods().into_iter().partition(|method| method.kind == Kind::Watch);
        assert!(!watches.is_empty() && !unary.is_empty());
        for method in watches {
            assert!(routes.unary(&format!("/{}", method.name)).is_none(), "{}", method.name);
        }
        for method in unary {
            let found = routes.unary(&format!("/{}", method.name)).unwrap();
            assert_eq!(found.method.name, method.name);
            assert!(Arc::ptr_eq(&found.contract, &contract), "the one that its right is of");
            assert_eq!(found.right, rights::of(&method.name, Some(&contract)).right);
            for other in ["", "//", "/x/"] {
                assert!(routes.unary(&format!("{other}{}", method.name)).is_none(), "{other}");
            }
        }
        assert!(Routes::new(0, None).unary("/Example/Add").is_none());
    }
}
