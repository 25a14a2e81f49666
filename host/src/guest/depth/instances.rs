//! Counts the instances of metered modules that a component makes, because they share the stack. It
//! follows the sections that define, import, alias and instantiate modules and components. It knows
//! no function's code.
//!
//! - The count follows from the component's bytes alone, and is replicated semantics.
//! - What comes from outside, as an import or from another instance, counts as the most that it can
//!   be: a module as a metered one, a component as [`INSTANCES_MAX`].
//! - The engine makes no more instances for one component, so no count is higher.

use std::ops::Range;

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, Instance,
    Parser, Payload, Result,
};

use super::cost::Functions;
use crate::guest::features::PARSED_FEATURES;

/// Most core instances of a component, as many as the engine makes.
pub(in crate::guest) const INSTANCES_MAX: u32 = 40;

/// Returns how many instances of modules with metered functions a valid component makes. A module
/// that is no part of a component makes none.
pub(super) fn metered(encoded: &[u8], functions: &Functions) -> Result<u32> {
    let mut parser = Parser::new(0);
    parser.set_features(PARSED_FEATURES);
    // The components around the place that is read, the innermost last.
    let mut around = vec![Scope::default()];
    // The modules around it: none, or one.
    let mut in_module = false;
    for payload in parser.parse_all(encoded) {
        match payload? {
            Payload::ModuleSection { unchecked_range, .. } => {
                let is_metered = has_metered(functions, unchecked_range);
                innermost(&mut around).modules.push(is_metered);
                in_module = true;
            }
            Payload::ComponentSection { .. } => around.push(Scope::default()),
            Payload::End(_) if in_module => in_module = false,
            Payload::End(_) if around.len() > 1 => {
                let instances = around.pop().map_or(0, |ended| ended.instances);
                innermost(&mut around).components.push(instances);
            }
            other => follow(&mut around, other)?,
        }
    }
    Ok(around.first().map_or(0, |component| component.instances).min(INSTANCES_MAX))
}

/// What is known of a component, as far as it was read.
#[derive(Default)]
struct Scope {
    /// Its modules, by their index: whether they have metered functions.
    modules: Vec<bool>,
    /// Its components, by their index: how many such instances an instance of one makes.
    components: Vec<u32>,
    /// How many such instances it makes.
    instances: u32,
}

impl Scope {
    fn module(&self, index: u32) -> bool {
        self.modules.get(index as usize).copied().unwrap_or(true)
    }

    fn component(&self, index: u32) -> u32 {
        self.components.get(index as usize).copied().unwrap_or(INSTANCES_MAX)
    }
}

fn innermost(around: &mut [Scope]) -> &mut Scope {
    around.last_mut().expect("the outermost component is never left")
}

fn has_metered(functions: &Functions, module: Range<usize>) -> bool {
    functions.range(module).any(|(_, function)| function.is_metered)
}

/// Follows a section of a component. Sections of modules are not among these.
fn follow(around: &mut [Scope], payload: Payload<'_>) -> Result<()> {
    match payload {
        Payload::InstanceSection(section) => {
            for instance in section {
                if let Instance::Instantiate { module_index, .. } = instance? {
                    let scope = innermost(around);
                    scope.instances = scope.instances.saturating_add(scope.module(module_index).into());
                }
            }
        }
        Payload::ComponentInstanceSection(section) => {
            for instance in section {
                if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                    let scope = innermost(around);
                    scope.instances = scope.instances.saturating_add(scope.component(component_index));
                }
            }
        }
        Payload::ComponentImportSection(section) => {
            for import in section {
                match import?.ty {
                    ComponentTypeRef::Module(_) => innermost(around).modules.push(true),
                    ComponentTypeRef::Component(_) => innermost(around).components.push(INSTANCES_MAX),
                    _ => {}
                }
            }
        }
        // What is exported has a second index from there on.
        Payload::ComponentExportSection(section) => {
            for export in section {
                let (export, scope) = (export?, innermost(around));
                match export.kind {
                    ComponentExternalKind::Module => scope.modules.push(scope.module(export.index)),
                    ComponentExternalKind::Component => scope.components.push(scope.component(export.index)),
                    _ => {}
                }
            }
        }
        Payload::ComponentAliasSection(section) => {
            for alias in section {
                follow_alias(around, &alias?);
            }
        }
        _ => {}
    }
    Ok(())
}

fn follow_alias(around: &mut [Scope], alias: &ComponentAlias<'_>) {
    match *alias {
        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
            innermost(around).modules.push(true);
        }
        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
            innermost(around).components.push(INSTANCES_MAX);
        }
        ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
            let is_metered = outer(around, count).is_none_or(|scope| scope.module(index));
            innermost(around).modules.push(is_metered);
        }
        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
            let instances = outer(around, count).map_or(INSTANCES_MAX, |scope| scope.component(index));
            innermost(around).components.push(instances);
        }
        _ => {}
    }
}

/// Returns the component that lies so far outwards; 0 is the innermost one.
fn outer(around: &[Scope], count: u32) -> Option<&Scope> {
    around.len().checked_sub(1)?.checked_sub(count as usize).and_then(|place| around.get(place))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::cost;
    use super::*;

    /// A module with a metered function, and one without.
    const MODULES: &str = "(core module $m (func $f (call $f))) (core module $leaf (func))";

    fn counted(parts: &str) -> u32 {
        let component = wat::parse_str(format!("(component {MODULES} {parts})")).unwrap();
        metered(&component, &cost::functions(&component).unwrap()).unwrap()
    }

    #[test]
    fn instances_of_metered_modules_are_counted() {
        let rows = [
            ("", 0),
            ("(core instance (instantiate $leaf))", 0),
            (
                "(core instance (instantiate $m)) (core instance (instantiate $leaf)) (core instance (instantiate $m))",
                2,
            ),
            // A component that is instantiated twice, with a module of the outer one in it.
            (
                "(component $c (alias outer 1 $m (core module $mine)) (core instance (instantiate $mine)))
                (instance (instantiate $c)) (instance (instantiate $c))",
                2,
            ),
            // It counts as often as it is instantiated, not where it is defined.
            ("(component $c (core module $own (func $f (call $f))) (core instance (instantiate $own)))", 0),
            // What is exported has a further index.
            (
                "(component $c (core module $own (func $f (call $f))) (core instance (instantiate $own)))
                (export $again \"again\" (component $c)) (instance (instantiate $again))",
                1,
            ),
        ];
        for (parts, wanted) in rows {
            assert_eq!(counted(parts), wanted, "{parts}");
        }
    }

    #[test]
    fn what_comes_from_outside_counts_as_the_most_that_it_can_be() {
        let rows = [
            ("(import \"m\" (core module $given)) (core instance (instantiate $given))", 1),
            ("(import \"c\" (component $given)) (instance (instantiate $given))", INSTANCES_MAX),
        ];
        for (parts, wanted) in rows {
            assert_eq!(counted(parts), wanted, "{parts}");
        }
    }

    #[test]
    fn no_count_is_higher_than_what_the_engine_makes() {
        let mut parts =
            "(component $c0 (alias outer 1 $m (core module $mine)) (core instance (instantiate $mine)))".to_owned();
        for level in 1..=40 {
            let before = level - 1;
            parts += &format!(
                "(component $c{level} (alias outer 1 $c{before} (component $inner))
                (instance (instantiate $inner)) (instance (instantiate $inner)))\n"
            );
        }
        assert_eq!(counted(&format!("{parts} (instance (instantiate $c5))")), 32);
        assert_eq!(counted(&format!("{parts} (instance (instantiate $c40))")), INSTANCES_MAX);
    }

    #[test]
    fn a_module_alone_makes_none() {
        let module = wat::parse_str("(module (func $f (call $f)))").unwrap();
        assert_eq!(metered(&module, &cost::functions(&module).unwrap()).unwrap(), 0);
    }
}
